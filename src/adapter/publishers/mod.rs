//! Where primaries are published: key-value stores and ProxySQL. One file for each system; `fenced` has what the stores share.

mod consul;
mod etcd;
mod fenced;
mod http;
mod proxysql;
mod proxysql_servers;
mod tls;
mod zookeeper;

pub use consul::{ConsulOptions, ConsulPublisher};
pub use etcd::{EtcdOptions, EtcdPublisher};
pub use proxysql::{Hostgroups, PreFailoverAction, ProxySqlOptions, ProxySqlPublisher};
pub use tls::{TlsFiles, TlsFilesError};
pub use zookeeper::{ZooKeeperOptions, ZooKeeperPublisher};

use crate::domain::published_primary::KeyPrefix;

/// How pairs are written to a key-value store.
#[derive(Clone, Debug, Default)]
pub struct PairOptions {
    /// The prefix of all keys.
    pub prefix: KeyPrefix,
    /// Whether the pairs of a cluster are removed while its primary is replaced.
    pub removes_before_failover: bool,
}
