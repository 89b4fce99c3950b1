//! What ham4db knows and decides. This module has no async, no clock (`now` is an argument), no randomness, no
//! unordered maps, no I/O, and imports nothing of this crate from outside itself. Every decision is a function of
//! values that can be printed and replayed.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod analysis;
pub mod case;
pub mod clock_skew;
pub mod cluster_split;
pub mod cluster_view;
pub mod commit_stall;
pub mod declared;
pub mod dialect;
pub mod discovery;
pub mod epoch_row;
pub mod errant;
pub mod explain;
pub mod finding;
#[cfg(test)]
pub(crate) mod fixture;
pub mod group_replication;
pub mod grouping;
pub mod gtid;
pub mod hooks;
pub mod instance;
pub mod intent;
pub mod key;
pub mod managed_channel;
pub mod ownership;
pub mod policy;
pub mod probe_assignment;
pub mod published_primary;
pub mod quote;
pub mod recovery;
pub mod scheduled_events;
pub mod settings;
pub mod simulate;
pub mod state;
pub mod time;
pub mod topology;
pub mod unseen;
pub mod version;
