//! What the tests on real servers, the demo and the bench share: real MySQL and MariaDB servers and ham4db members as processes,
//! writers that remember every acknowledged row, and a sampler that tries to write everywhere all the time.
//!
//! Used by `#[path = "../kit/mod.rs"] mod kit;`. Nothing here knows how ham4db decides: servers are asked in their own SQL and members
//! over HTTP, so what the kit measures is independent of the program that it measures.
//!
//! Every process is unprivileged and dies with the test, whatever ends it. Everything lies in one folder under the cache, a [`Run`].
//! Every wait has a deadline ([`until`]), and no wait is a plain sleep.
//!
//! [`Run`]: run::Run
//! [`until`]: wait::until

pub(crate) mod asker;
pub(crate) mod backends;
pub(crate) mod channels;
pub(crate) mod etcd;
pub(crate) mod failover;
pub(crate) mod group;
pub(crate) mod haproxy;
pub(crate) mod http;
pub(crate) mod manifests;
pub(crate) mod member;
pub(crate) mod members;
pub(crate) mod netns;
pub(crate) mod pages;
pub(crate) mod pool;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod replication;
pub(crate) mod run;
pub(crate) mod sampler;
pub(crate) mod schedule;
pub(crate) mod server;
pub(crate) mod sql;
pub(crate) mod timeline;
pub(crate) mod tiny_disk;
pub(crate) mod tools;
pub(crate) mod topology;
pub(crate) mod wait;
pub(crate) mod writers;
