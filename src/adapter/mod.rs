//! Implementations of the ports with real libraries. Adapters do not import each other; those that listen share `connections`.

pub mod clock;
pub mod connections;
pub mod credentials_cache;
pub mod data_files;
pub mod hooks;
pub mod http;
pub mod kube;
pub mod manifests;
pub mod mysql;
pub mod publishers;
pub mod raft;
pub mod shared;
pub mod single;
pub mod store;
