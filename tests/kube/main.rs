//! Documents from an API server to commands and back, against a real kube-apiserver; and the whole way from a document to a failover of
//! real servers, decided by real members.
//!
//! Needs MySQL in the cache folder, and kube-apiserver, etcd and kubectl there or in `PATH` (`make test` sets up what is missing). No node;
//! root or sudo for one test of Services only, whose servers need addresses other than loopback. Most tests share one API server. Those
//! that start one of their own run one at a time while others use the shared one, and `kit::schedule` limits how many have servers of
//! MySQL: `cargo test --test kube -- --test-threads=3`.

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
mod tools;
