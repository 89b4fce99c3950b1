//! A replication topology and a group of members in memory, for tests of the use cases: real loops, simulated servers, paused
//! time.
//!
//! - [`world`]: the servers: whether they run and can be reached, their transactions and sources, and every statement that they received.
//! - [`session`], [`prober`]: the ports `Executor`, `StepSession` and `Prober` on these servers, with faults at a chosen statement.
//! - [`logs`]: the binary and relay logs of the servers.
//! - [`group`]: the port `Consensus` on one state that all members share, with members that can be isolated.
//! - [`scripts`]: the port `Hooks`, with commands that the test defines, and a list of the calls.
//! - [`rig`]: members that run the real poller, coordinator, quarantine enforcer and leader on all this.

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
mod channel_tests;
mod clock_tests;
mod drain_tests;
mod event_tests;
mod failover_tests;
mod fencer_tests;
mod forced_quorum_tests;
mod guard_tests;
mod handover_sweep_tests;
mod handover_tests;
mod hook_tests;
mod loss_tests;
mod ownership_tests;
mod panic_tests;
mod position_tests;
mod quorum_tests;
mod request_tests;
mod sharing_tests;
mod silence_tests;
mod split_tests;
mod sweep_tests;
mod takeover_tests;
mod undo_tests;
mod unseen_tests;

pub(crate) use clock::PausedClock;
pub(crate) use fault::Fault;
pub(crate) use group::{CommitFault, CommitFaultKind};
pub(crate) use prober::SimProber;
pub(crate) use rig::{Rig, state_of};
pub(crate) use scripts::Script;
pub(crate) use world::{Reach, Server, World};
