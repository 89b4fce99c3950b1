//! The members of a group agree on the replicated state through a raft log.
//!
//! [`RaftMember`] is the port [`Consensus`](crate::app::ports::Consensus). `raft.db` ([`log_store`]) and `identity.json` ([`identity`]) lie
//! in `RaftDataDir` whatever the backend is; the state lies in the backend ([`state_machine`]). `bootstrap` founds a group once,
//! `membership` changes it afterwards. Nothing in here knows what a command means.

mod bootstrap;
mod consensus;
mod force;
mod health;
pub mod identity;
mod incarnation;
mod listener;
pub mod log_store;
mod member;
mod membership;
mod names;
mod network;
mod reach;
mod self_join;
mod server;
mod settings;
mod snapshot;
pub mod state_machine;
mod throttle;
pub mod types;
pub mod wire;

pub use bootstrap::LOST_GROUP_HELP;
pub use force::{ForceAnswer, ForceRequest};
pub use member::{RaftMember, StartError};
pub use names::{Resolve, SystemResolver};
pub use settings::{
    AllLinks, BootstrapObserver, BootstrapStep, LinkFilter, MemberDependencies, NoopBootstrapObserver, RaftSettings,
    Timings, Wanted,
};
