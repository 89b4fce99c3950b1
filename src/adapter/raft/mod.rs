//! The members of a group agree on the replicated state through a raft log.
//!
//! [`RaftMember`] implements the port [`Consensus`](crate::app::ports::Consensus). `raft.db` ([`log_store`]) and `identity.json`
//! ([`identity`]) are in `RaftDataDir`, whatever the backend is. The state is in the backend ([`state_machine`]). `bootstrap` founds a
//! group once, `membership` changes it afterwards. This module does not interpret commands.

mod address_refresh;
mod backend_check;
mod bootstrap;
mod clock_comparison;
mod consensus;
mod context;
mod force;
mod force_request;
mod health;
pub mod identity;
mod incarnation;
mod leadership_transfer;
mod liveness;
pub mod log_store;
mod log_throttle;
mod member;
mod membership;
mod network;
mod peer_requests;
mod proposals;
mod reachability;
mod refusal;
mod resolver;
mod self_join;
mod server;
mod settings;
mod snapshot;
pub mod state_machine;
pub mod types;
pub mod wire;

pub use bootstrap::LOST_GROUP_HELP;
pub use force_request::{ForceAnswer, ForceRequest};
pub use member::{RaftMember, StartError};
pub use resolver::{Resolve, SystemResolver};
pub use settings::{
    AllLinks, BootstrapObserver, BootstrapStep, LinkFilter, MemberDependencies, NoopBootstrapObserver, RaftSettings,
    Timings, WantedMember,
};
