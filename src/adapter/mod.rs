//! Implementations of the ports with real libraries. Adapters do not import each other.

pub mod clock;
pub mod credentials_cache;
pub mod hooks;
pub mod http;
pub mod kube;
pub mod manifests;
pub mod mysql;
pub mod raft;
pub mod single;
pub mod store;
