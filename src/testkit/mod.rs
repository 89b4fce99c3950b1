//! A replication topology and a group of members in memory, for tests of the use cases: real loops, pretended servers, paused time.
//!
//! - [`world`]: the servers: up, down, cut off, stalled; what they hold; who replicates from whom; every statement that reached one.
//! - [`session`]: the ports `Prober`, `Executor` and `StepSession` over it, with faults at a chosen statement.
//! - [`logs`]: what stands in their logs.
//! - [`group`]: the port `Consensus` over one state that all members share, with members that can be cut off.
//! - [`scripts`]: the port `Hooks`, with commands that do what the test says, and a list of what was run.
//! - [`rig`]: members that run the real watcher, coordinator, guard and leader on all that.

mod clock;
mod fault;
mod group;
mod logs;
mod prober;
mod repair_tests;
mod rig;
mod scripts;
mod session;
mod world;

mod boot_read_only_tests;
mod boot_tests;
mod drain_tests;
mod failover_tests;
mod fencer_tests;
mod forced_quorum_tests;
mod guard_tests;
mod handover_sweep_tests;
mod handover_tests;
mod hook_tests;
mod position_tests;
mod quorum_tests;
mod request_tests;
mod silence_tests;
mod sweep_tests;
mod takeover_tests;

pub(crate) use clock::PausedClock;
pub(crate) use fault::Fault;
pub(crate) use group::{CommitFault, CommitFaultKind};
pub(crate) use prober::SimProber;
pub(crate) use rig::{Rig, state_of};
pub(crate) use scripts::Script;
pub(crate) use world::{Reach, World};
