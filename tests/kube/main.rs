//! Documents from an API server to commands and back: the loop against a fake source, and everything against a real kube-apiserver.
//!
//! Needs kube-apiserver, etcd and kubectl in the cache folder (`make test` builds them). No node and no root.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod credentials;
mod definition;
mod documents;
mod group;
mod leader;
mod outage;
mod pace;
mod server;
