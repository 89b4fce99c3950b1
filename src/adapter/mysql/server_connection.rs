//! An open connection to one server, with the [`ServerInfo`] that was read on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::app::observation::dial_slots::ALL_DIALS;
use crate::app::ports::Credentials;
use crate::domain::dialect::Dialect;
use crate::domain::instance::{Identity, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::pseudo_gtid;
use crate::domain::recovery::semi_sync::PRIORITY_PART;
use crate::domain::settings::ServerSettings;
use crate::domain::version::ServerVersion;

use super::admin_endpoint::AdminEndpoints;
use super::connection::{self, SqlFailure};
use super::facts;
use super::protocol::{Connection, Transport};
use super::queries::{self, ProbeQuery, SemiSyncNames, SettingsQuery};
use super::server_info::ServerInfo;
use super::server_settings;
use super::statements::{self, StatementResult};
use super::text_row::TextRow;

/// The age at which [`ServerInfo`] and the settings are read again: plugins may have been installed, and the results of
/// configured queries may have changed.
const REFRESH_AFTER: Duration = Duration::from_mins(1);

/// For so long after a server was first seen writable, its settings are read again at the age below: a promotion goes on to change
/// settings and events after it has made the server writable.
const RECENTLY_WRITABLE: Duration = Duration::from_secs(15);
const REFRESH_AFTER_WHEN_RECENTLY_WRITABLE: Duration = Duration::from_secs(1);

/// Settings of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Query that returns the data centre.
    pub data_center_query: Option<String>,
    /// Query that returns the region.
    pub region_query: Option<String>,
    /// Query that returns the environment.
    pub environment_query: Option<String>,
    /// Query that returns the semi-sync priority: with 0 a server never acknowledges; higher values are enabled first.
    pub semi_sync_query: Option<String>,
    /// Query that returns the replication lag in seconds; it replaces `Seconds_Behind_Source`.
    pub lag_query: Option<String>,
    /// Query that returns 1 on servers that use Pseudo-GTID.
    pub pseudo_gtid_query: Option<String>,
    /// Whether ham4db writes Pseudo-GTID entries on servers without GTIDs.
    pub writes_pseudo_gtid: bool,
    /// Limit for concurrent connection attempts of this process, over all servers. When a data centre is down, each attempt there
    /// lasts its whole deadline, so the poller uses a part of them only for servers that do not answer.
    pub max_attempts: usize,
    /// The known admin endpoints, for servers that reached `max_connections`.
    pub admin_endpoints: AdminEndpoints,
}

impl Default for ProbeSettings {
    /// No queries, and 512 attempts: half of the usual limit for file descriptors.
    fn default() -> Self {
        Self {
            data_center_query: None,
            region_query: None,
            environment_query: None,
            semi_sync_query: None,
            lag_query: None,
            pseudo_gtid_query: None,
            writes_pseudo_gtid: false,
            max_attempts: ALL_DIALS,
            admin_endpoints: AdminEndpoints::default(),
        }
    }
}

/// An open connection. After [`SqlFailure::Broken`], and when a call was cancelled, it must be dropped.
pub(super) struct ServerConnection {
    connection: Connection,
    instance: InstanceKey,
    /// The address of the peer.
    peer: IpAddr,
    settings: Arc<ProbeSettings>,
    server_info: ServerInfo,
    /// The connection uses the admin endpoint, because the server has too many connections.
    is_on_admin_endpoint: bool,
    /// Facts were read on this connection before.
    has_read_facts: bool,
    /// The settings of the server, and when they were read.
    cached_settings: Option<(Instant, ServerSettings)>,
    /// When the server was first seen writable on this connection, without being read-only since.
    writable_since: Option<Instant>,
}

impl ServerConnection {
    /// Opens a connection, and reads the [`ServerInfo`].
    ///
    /// # Errors
    /// When the connection fails, or the server's answers are unreadable.
    pub(super) async fn open(
        instance: &InstanceKey,
        credentials: &Credentials,
        settings: &Arc<ProbeSettings>,
    ) -> Result<Self, ProbeFailure> {
        let connection = Self::open_at(instance, instance, credentials, settings).await?;
        settings.admin_endpoints.record(instance, &connection.server_info);
        Ok(connection)
    }

    /// Like [`open`](Self::open), and uses the admin endpoint of a server that has too many connections. Close such a connection
    /// soon: there may be only one.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) at the normal port, also when the admin endpoint fails.
    pub(super) async fn open_or_use_admin_endpoint(
        instance: &InstanceKey,
        credentials: &Credentials,
        settings: &Arc<ProbeSettings>,
    ) -> Result<Self, ProbeFailure> {
        let opened = Self::open(instance, credentials, settings).await;
        let admin_endpoint = settings
            .admin_endpoints
            .of(instance)
            .filter(|_| matches!(opened, Err(ProbeFailure::Saturated)));
        let Some(admin_endpoint) = admin_endpoint else {
            return opened;
        };
        // When the admin endpoint fails, the error of the normal port is returned.
        match Self::open_at(instance, &admin_endpoint.address, credentials, settings).await {
            Ok(connection) if connection.identity() == admin_endpoint.identity => Ok(Self {
                is_on_admin_endpoint: true,
                ..connection
            }),
            Ok(connection) => {
                tracing::debug!(
                    %instance,
                    "the server at admin endpoint {} of {instance} is {}, not {}",
                    admin_endpoint.address,
                    connection.identity(),
                    admin_endpoint.identity
                );
                connection.close().await;
                opened
            }
            Err(failure) => {
                tracing::debug!(
                    %instance,
                    "{instance} has too many connections, and its admin endpoint {} failed: {failure}",
                    admin_endpoint.address
                );
                opened
            }
        }
    }

    async fn open_at(
        instance: &InstanceKey,
        address: &InstanceKey,
        credentials: &Credentials,
        settings: &Arc<ProbeSettings>,
    ) -> Result<Self, ProbeFailure> {
        let (connection, peer) = connection::open(address, credentials).await?;
        Self::on(connection, peer, instance, settings).await
    }

    /// Reads the [`ServerInfo`] on a new connection.
    ///
    /// # Errors
    /// When the connection fails, or the server's answers are unreadable.
    pub(super) async fn on(
        mut connection: Connection,
        peer: IpAddr,
        instance: &InstanceKey,
        settings: &Arc<ProbeSettings>,
    ) -> Result<Self, ProbeFailure> {
        let server_info = read_server_info(&mut connection, settings).await?;
        Ok(Self {
            connection,
            instance: instance.clone(),
            peer,
            settings: Arc::clone(settings),
            server_info,
            is_on_admin_endpoint: false,
            has_read_facts: false,
            cached_settings: None,
            writable_since: None,
        })
    }

    /// Whether the connection uses the admin endpoint.
    pub(super) fn is_on_admin_endpoint(&self) -> bool {
        self.is_on_admin_endpoint
    }

    /// The identity of the server.
    fn identity(&self) -> Identity {
        self.server_info
            .identity(self.server_info.variable("server_id").parse().unwrap_or_default())
    }

    /// What is known about the server.
    pub(super) fn server_info(&self) -> &ServerInfo {
        &self.server_info
    }

    /// The statements in the syntax of the server's version.
    pub(super) fn dialect(&self) -> &Dialect {
        &self.server_info.dialect
    }

    /// Reads the facts: one round trip, and one more for each statement that the server refuses.
    ///
    /// The settings are read from the second call on, and then once a minute, more often on a server that has just become writable:
    /// the first call on a connection, which checks a suspect or prepares a step, has to be fast.
    ///
    /// # Errors
    /// When the connection fails, or variables or replication status are missing.
    pub(super) async fn facts(&mut self) -> Result<InstanceFacts, SqlFailure> {
        if self.server_info.read_at.elapsed() > REFRESH_AFTER {
            self.server_info = read_server_info(&mut self.connection, &self.settings)
                .await
                .map_err(SqlFailure::Broken)?;
        }
        let ServerInfo {
            probe_statements,
            probe_batch,
            ..
        } = &self.server_info;
        let results = statements::run_all(&mut self.connection, probe_statements, probe_batch).await?;
        let results = self.server_info.probe_queries.iter().copied().zip(results);
        let assembled = facts::assemble(&self.instance, &self.server_info, results)?;
        let mut facts = assembled.facts;
        facts.uses_pseudo_gtid |= self.settings.writes_pseudo_gtid && pseudo_gtid::needs_entries(&facts);
        if assembled.has_unreported_replicas {
            self.add_connected_replicas(&mut facts).await?;
        }
        self.writable_since = (!facts.read_only).then(|| self.writable_since.unwrap_or_else(Instant::now));
        let is_recent = |since: Instant| since.elapsed() < RECENTLY_WRITABLE;
        let refresh_after = if self.writable_since.is_some_and(is_recent) {
            REFRESH_AFTER_WHEN_RECENTLY_WRITABLE
        } else {
            REFRESH_AFTER
        };
        let is_due = self
            .cached_settings
            .as_ref()
            .is_none_or(|(read, _)| read.elapsed() > refresh_after);
        if self.has_read_facts && is_due {
            self.cached_settings = Some((Instant::now(), self.server_settings().await?));
        }
        self.has_read_facts = true;
        facts.by_admin_endpoint = self.is_on_admin_endpoint;
        // The admin endpoint may have an address of its own, which is not that of the server.
        facts.peer = (!self.is_on_admin_endpoint).then_some(self.peer);
        facts.is_unverified = self.connection.transport() != Transport::Verified;
        facts.settings = self.cached_settings.as_ref().map(|(_, settings)| settings.clone());
        Ok(facts)
    }

    /// Reads the settings of the server and the privileges of the account.
    pub(super) async fn server_settings(&mut self) -> Result<ServerSettings, SqlFailure> {
        let (queries, statements): (Vec<SettingsQuery>, Vec<String>) =
            queries::settings_queries(&self.server_info.dialect, self.server_info.has_performance_schema())
                .into_iter()
                .unzip();
        let batch = statements.join("; ");
        let results = statements::run_all(&mut self.connection, &statements, &batch).await?;
        Ok(server_settings::assemble(
            &self.server_info,
            queries.into_iter().zip(results),
        ))
    }

    /// Adds the replicas that report no address: only their connections are known.
    async fn add_connected_replicas(&mut self, facts: &mut InstanceFacts) -> Result<(), SqlFailure> {
        let statement = self.server_info.dialect.select_binlog_dump_connections();
        match self
            .rows(&queries::processlist_statement(
                statement,
                self.server_info.has_performance_schema(),
            ))
            .await
        {
            Ok(rows) => {
                facts::add_connected_replicas(facts, self.instance.port, &rows);
                Ok(())
            }
            Err(SqlFailure::ServerError { number, message }) => {
                facts
                    .problems
                    .push(format!("connected replicas: error {number}: {message}"));
                Ok(())
            }
            Err(broken @ SqlFailure::Broken(_)) => Err(broken),
        }
    }

    /// Sends one statement and returns its rows.
    pub(super) async fn rows(&mut self, statement: &str) -> Result<Vec<TextRow>, SqlFailure> {
        statements::run_one(&mut self.connection, statement).await
    }

    /// Closes the connection cleanly.
    pub(super) async fn close(self) {
        connection::close(self.connection).await;
    }
}

/// Sets the session variables and reads the [`ServerInfo`].
async fn read_server_info(connection: &mut Connection, settings: &ProbeSettings) -> Result<ServerInfo, ProbeFailure> {
    let mut results = statements::run_batch(connection, queries::SERVER_INFO_STATEMENTS).await?;
    if let Some(Err((number, message))) = results.last() {
        return Err(SqlFailure::ServerError {
            number: *number,
            message: message.clone(),
        }
        .into_probe_failure());
    }
    let clock = results
        .get(queries::SERVER_INFO_CLOCK)
        .and_then(|answer| answer.as_ref().ok()?.first()?.first()?.parse().ok());
    let status = take_pairs(&mut results, queries::SERVER_INFO_STATUS);
    let variables = take_pairs(&mut results, queries::SERVER_INFO_VARIABLES);
    let value = |name: &str| variables.get(name).map(String::as_str).unwrap_or_default();
    let version = ServerVersion::parse(value("version"), value("version_comment"))
        .map_err(|error| ProbeFailure::Unreadable(error.to_string()))?;
    let uptime_seconds = status.values().next().and_then(|text| text.parse().ok());
    let uptime_seconds =
        uptime_seconds.ok_or_else(|| ProbeFailure::Unreadable("the server reports no uptime".to_owned()))?;
    let dialect = Dialect::new(&version);
    let has_variable = |name: &str| variables.contains_key(name);
    let semi_sync = SemiSyncNames {
        source: dialect.semi_sync_source(has_variable),
        replica: dialect.semi_sync_replica(has_variable),
    };
    let in_group = !value("group_replication_group_name").is_empty();
    let waits = semi_sync
        .source
        .is_some_and(|names| value(names.enabled).eq_ignore_ascii_case("ON"));
    let probe = queries::probe_queries(
        &dialect,
        &semi_sync,
        has_variable,
        in_group,
        waits,
        settings.lag_query.as_deref(),
    );
    let (probe_queries, probe_statements): (Vec<ProbeQuery>, Vec<String>) = probe.into_iter().unzip();
    let probe_batch = probe_statements.join("; ");
    let mut server_info = ServerInfo {
        version,
        dialect,
        variables,
        semi_sync,
        uptime_seconds,
        clock,
        read_at: Instant::now(),
        data_center: String::new(),
        region: String::new(),
        environment: String::new(),
        semi_sync_priority: None,
        shows_replication_credentials: false,
        uses_pseudo_gtid: false,
        problems: Vec::new(),
        probe_queries,
        probe_statements,
        probe_batch,
    };
    let problems = &mut server_info.problems;
    server_info.data_center = configured_value(
        connection,
        "data center query",
        settings.data_center_query.as_deref(),
        problems,
    )
    .await?;
    server_info.region =
        configured_value(connection, "region query", settings.region_query.as_deref(), problems).await?;
    server_info.environment = configured_value(
        connection,
        "environment query",
        settings.environment_query.as_deref(),
        problems,
    )
    .await?;
    if let Some(query) = settings.semi_sync_query.as_deref() {
        let text = configured_value(connection, PRIORITY_PART, Some(query), problems).await?;
        match text.trim().parse() {
            Ok(priority) => server_info.semi_sync_priority = Some(priority),
            Err(_) => problems.push(format!("{PRIORITY_PART}: `{text}` is not a number")),
        }
    }
    let query = settings.pseudo_gtid_query.as_deref();
    let value = configured_value(connection, "Pseudo-GTID query", query, problems).await?;
    server_info.uses_pseudo_gtid = value == "1";
    if !server_info.version.flavour.is_mariadb() {
        server_info.shows_replication_credentials = shows_replication_credentials(connection).await?;
    }
    Ok(server_info)
}

/// The first value of a configured query. It is empty when the server refuses the query; then the error is added to `problems`.
async fn configured_value(
    connection: &mut Connection,
    what: &str,
    query: Option<&str>,
    problems: &mut Vec<String>,
) -> Result<String, ProbeFailure> {
    let Some(query) = query else { return Ok(String::new()) };
    match statements::run_one(connection, &queries::one_statement(query)).await {
        Ok(rows) => Ok(rows
            .first()
            .and_then(TextRow::first)
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default()),
        Err(SqlFailure::ServerError { number, message }) => {
            problems.push(format!("{what}: error {number}: {message}"));
            Ok(String::new())
        }
        Err(SqlFailure::Broken(failure)) => Err(failure),
    }
}

/// Whether the replication account can be read. `false` without the privilege.
async fn shows_replication_credentials(connection: &mut Connection) -> Result<bool, ProbeFailure> {
    match statements::run_one(connection, queries::REPLICATION_CREDENTIALS).await {
        Ok(rows) => Ok(rows.first().and_then(TextRow::first).is_some_and(|count| count != "0")),
        Err(SqlFailure::ServerError { .. }) => Ok(false),
        Err(SqlFailure::Broken(failure)) => Err(failure),
    }
}

/// The rows of `Variable_name` and `Value` in the result with this index.
fn take_pairs(results: &mut [StatementResult], index: usize) -> BTreeMap<String, String> {
    let rows = results.get_mut(index).and_then(|answer| answer.as_mut().ok());
    let pair = |row: &TextRow| (row.text_or_empty(&["Variable_name"]), row.text_or_empty(&["Value"]));
    rows.map(|rows| rows.iter().map(pair).collect()).unwrap_or_default()
}
