//! Repairs: finding, agreement of the members, plan, claim, steps. A cluster has one recovery at a time.
//!
//! `coordinator` finds the repairs that could begin, and `admission` decides which of them begin now. `runner` runs
//! one claimed recovery, and `steps` changes the servers. `quarantine` keeps returned primaries read-only.

pub mod admission;
pub mod claim;
pub mod coordinator;
mod failpoint;
mod fence;
pub mod hooks;
mod in_flight;
pub mod log_search;
pub mod publication_gate;
pub mod quarantine;
pub mod reattach;
mod refresh;
mod runner;
pub mod service_gate;
pub mod steps;
