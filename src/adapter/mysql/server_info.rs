//! What a connection knows about its server apart from the facts of a probe.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::domain::dialect::Dialect;
use crate::domain::instance::Identity;
use crate::domain::version::ServerVersion;

use super::queries::{ProbeQuery, SemiSyncNames};

/// What a connection knows about its server apart from the facts of a probe. It is read when the connection is opened, and again
/// once a minute.
pub(super) struct ServerInfo {
    /// Flavour and version.
    pub(super) version: ServerVersion,
    /// The statements in the syntax of this version.
    pub(super) dialect: Dialect,
    /// The global variables that were read, by name.
    pub(super) variables: BTreeMap<String, String>,
    /// The semi-sync variables that exist.
    pub(super) semi_sync: SemiSyncNames,
    /// The status `Uptime` at `read_at`, in seconds.
    pub(super) uptime_seconds: u64,
    /// The server's clock at `read_at`, in seconds since 1970.
    pub(super) clock: Option<i64>,
    /// When this was read.
    pub(super) read_at: Instant,
    /// Data centre; empty when unknown.
    pub(super) data_center: String,
    /// Region; empty when unknown.
    pub(super) region: String,
    /// Environment; empty when unknown.
    pub(super) environment: String,
    /// The result of the query for the semi-sync priority.
    pub(super) semi_sync_priority: Option<u32>,
    /// Whether the replication account can be read.
    pub(super) shows_replication_credentials: bool,
    /// Whether the configured query returned 1: the server uses Pseudo-GTID.
    pub(super) uses_pseudo_gtid: bool,
    /// The configured queries that failed, with the reason.
    pub(super) problems: Vec<String>,
    /// The queries of a probe of this server, in the order in which they are sent.
    pub(super) probe_queries: Vec<ProbeQuery>,
    /// The statements of `probe_queries`.
    pub(super) probe_statements: Vec<String>,
    /// `probe_statements` as one text.
    pub(super) probe_batch: String,
}

impl ServerInfo {
    /// The value of a variable; empty when it does not exist.
    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether `performance_schema` is on, so that connections can be listed from it.
    pub(super) fn has_performance_schema(&self) -> bool {
        self.variable("performance_schema").eq_ignore_ascii_case("ON")
    }

    /// The identity of the server: its `server_uuid`, or `server_id` where it has no UUID (MariaDB).
    pub(super) fn identity(&self, server_id: u32) -> Identity {
        match self.variable("server_uuid") {
            "" => Identity::ServerId(server_id),
            uuid => Identity::ServerUuid(uuid.to_ascii_lowercase()),
        }
    }
}
