//! The adapters of the port `Consensus`: the storage of raft, whole groups in one process over loopback, and a single member.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first surprise"
)]
#![expect(unreachable_pub, reason = "modules of one test program share a harness")]

mod agreement;
mod bootstrap;
mod claims;
mod clocks;
mod force;
mod former_files;
mod harness;
mod histogram;
mod introductions;
mod membership;
mod observations;
mod peer_access;
mod single;
mod storage;
mod store;
mod suite;
mod versions;
