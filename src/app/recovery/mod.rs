//! Repairs: from a finding to a quorum, a plan, a claim and its steps, one recovery per cluster at a time.
//!
//! `coordinator` decides what begins and `admission` in which order; `runner` runs one claimed recovery, and `steps` has
//! its effects. `quarantine` keeps returned primaries read-only.

pub mod admission;
pub mod claim;
pub mod coordinator;
mod failpoint;
pub mod hooks;
mod in_flight;
pub mod log_search;
pub mod quarantine;
pub mod reattach;
mod refresh;
mod runner;
pub mod service_gate;
pub mod steps;
