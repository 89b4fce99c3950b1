//! Key-value stores and ProxySQL as publishers of primaries: real etcd and ZooKeeper, a server that keeps the HTTP contract of Consul,
//! and one that keeps that of ProxySQL's admin interface. What every store has to do is in `contract`.
//!
//! Needs etcd, ZooKeeper and openssl (`make test` sets up what is missing).

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

mod certificates;
mod consul;
mod consul_server;
mod contract;
mod etcd;
mod proxysql;
mod proxysql_admin;
mod zookeeper;
