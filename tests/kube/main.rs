//! Documents from an API server to commands and back, against a real kube-apiserver; and the whole way from a document to a failover of
//! real servers, decided by real members.
//!
//! Needs kube-apiserver, etcd, kubectl and MySQL in the cache folder (`make test` sets them up). No node; root or sudo for one test of
//! Services only, whose servers need addresses other than loopback. They run one at a time: `cargo test --test kube -- --test-threads=1`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the scenarios, the demo and the bench, which use other parts of it"
)]
mod kit;

mod credentials;
mod definition;
mod documents;
mod drain;
mod failover;
mod group;
mod leader;
mod older;
mod outage;
mod outcomes;
mod pace;
mod pods;
mod release;
mod requests;
mod rights;
mod server;
mod services;
