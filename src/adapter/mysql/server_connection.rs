//! An open connection to one server, with what was learned about the server on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Either};
use tokio::time::Instant;

use crate::app::ports::Credentials;
use crate::domain::dialect::Dialect;
use crate::domain::instance::{Identity, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::acknowledging::PRIORITY_PART;
use crate::domain::recovery::pseudo_gtid;
use crate::domain::settings::ServerSettings;
use crate::domain::version::ServerVersion;

use super::admin_endpoint::AdminEndpoints;
use super::connection::{self, SqlFailure};
use super::facts;
use super::queries::{self, Part, SemiSyncNames, SlowPart};
use super::settings;
use super::text_row::TextRow;

/// After so long what rarely changes is read again: plugins may have been installed, and places are configured queries.
const LEARN_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Rows of one answer that are read; a processlist is the longest. More are an error, not silently cut.
const MOST_ROWS: usize = 100_000;

/// What the configuration says about probing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Query whose first value is the data centre.
    pub data_center_query: Option<String>,
    /// Query whose first value is the region.
    pub region_query: Option<String>,
    /// Query whose first value is the environment.
    pub environment_query: Option<String>,
    /// Query whose first value is the semi-sync priority: 0 never acknowledges, higher is asked first.
    pub semi_sync_query: Option<String>,
    /// Query whose first value is the replication lag in seconds, instead of `Seconds_Behind_Source`.
    pub lag_query: Option<String>,
    /// Query whose first value is 1 on servers under Pseudo-GTID.
    pub pseudo_gtid_query: Option<String>,
    /// Servers without GTIDs are under Pseudo-GTID.
    pub writes_pseudo_gtid: bool,
    /// Connection attempts of this process at one moment, over all servers. A dead data centre makes each attempt last its whole
    /// deadline: with fewer than there are servers, the living ones would wait for their turn.
    pub most_attempts: usize,
    /// Where servers that are full let administrators in.
    pub admin_endpoints: AdminEndpoints,
}

impl Default for ProbeSettings {
    /// No queries, 512 attempts: half of the file descriptors that a process usually has.
    fn default() -> Self {
        Self {
            data_center_query: None,
            region_query: None,
            environment_query: None,
            semi_sync_query: None,
            lag_query: None,
            pseudo_gtid_query: None,
            writes_pseudo_gtid: false,
            most_attempts: 512,
            admin_endpoints: AdminEndpoints::default(),
        }
    }
}

/// What rarely changes on a server.
pub(super) struct ServerInfo {
    /// Flavour and version.
    pub(super) version: ServerVersion,
    /// Its statements.
    pub(super) dialect: Dialect,
    /// Variables by name.
    pub(super) variables: BTreeMap<String, String>,
    /// Which semi-sync variables there are.
    pub(super) semi_sync: SemiSyncNames,
    /// `Uptime`, seconds, at `at`.
    pub(super) uptime: u64,
    /// The server's clock then, seconds since 1970.
    pub(super) clock: Option<i64>,
    /// When this was read.
    pub(super) at: Instant,
    /// Data centre; empty when unknown.
    pub(super) data_center: String,
    /// Region; empty when unknown.
    pub(super) region: String,
    /// Environment; empty when unknown.
    pub(super) environment: String,
    /// What the query for the semi-sync priority says.
    pub(super) semi_sync_priority: Option<u32>,
    /// Whether the replication account can be read.
    pub(super) shows_replication_credentials: bool,
    /// Whether the configured query says that it is under Pseudo-GTID.
    pub(super) uses_pseudo_gtid: bool,
    /// Configured queries that failed.
    pub(super) problems: Vec<String>,
    parts: Vec<Part>,
    statements: Vec<String>,
    together: Arc<str>,
}

impl ServerInfo {
    /// A variable's value, empty when there is no such variable.
    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether connections can be listed by `performance_schema`.
    pub(super) fn has_performance_schema(&self) -> bool {
        self.variable("performance_schema").eq_ignore_ascii_case("ON")
    }

    /// Who the server is.
    pub(super) fn identity(&self, server_id: u32) -> Identity {
        match self.variable("server_uuid") {
            "" => Identity::ServerId(server_id),
            uuid => Identity::ServerUuid(uuid.to_ascii_lowercase()),
        }
    }
}

/// The rows of one statement, or the server's error.
pub(super) type StatementResult = Result<Vec<TextRow>, (u16, String)>;

/// An open connection. After [`SqlFailure::Broken`], and when a call was cancelled, it must be dropped.
pub(super) struct ServerConnection {
    connection: MySqlConnection,
    instance: InstanceKey,
    /// Where the connection went.
    peer: Option<IpAddr>,
    settings: Arc<ProbeSettings>,
    server_info: ServerInfo,
    /// The server is full, and this is the connection that it keeps for administrators.
    is_reserved: bool,
    /// Facts were read on it before.
    is_used: bool,
    /// What the server is set to, and when that was read.
    slow: Option<(Instant, ServerSettings)>,
}

impl ServerConnection {
    /// Connects and learns.
    pub(super) async fn open(
        instance: &InstanceKey,
        credentials: &Credentials,
        settings: &Arc<ProbeSettings>,
    ) -> Result<Self, ProbeFailure> {
        let connection = Self::open_at(instance, instance, credentials, settings).await?;
        settings.admin_endpoints.remember(instance, &connection.server_info);
        Ok(connection)
    }

    /// The same; a server that is full is entered by its reserved admin endpoint, where it has one. Not for connections that are kept: there may
    /// be a single one.
    pub(super) async fn open_by_any_admin_endpoint(
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
        // Whatever is wrong with the admin endpoint, the server is full.
        match Self::open_at(instance, &admin_endpoint.at, credentials, settings).await {
            Ok(connection) if connection.identity() == admin_endpoint.identity => Ok(Self {
                is_reserved: true,
                ..connection
            }),
            Ok(connection) => {
                tracing::debug!(%instance, "at {} is {}, and not {instance}", admin_endpoint.at, connection.identity());
                connection.close().await;
                opened
            }
            Err(failure) => {
                tracing::debug!(%instance, "{instance} is full, and its reserved admin endpoint {} does not help: {failure}", admin_endpoint.at);
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
        let (mut connection, peer) = connection::open(address, credentials).await?;
        let server_info = learn(&mut connection, settings).await?;
        Ok(Self {
            connection,
            instance: instance.clone(),
            peer,
            settings: Arc::clone(settings),
            server_info,
            is_reserved: false,
            is_used: false,
            slow: None,
        })
    }

    /// Whether the server is full, and this is its reserved connection.
    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    /// Who the server is.
    fn identity(&self) -> Identity {
        self.server_info
            .identity(self.server_info.variable("server_id").parse().unwrap_or_default())
    }

    /// What was learned.
    pub(super) fn server_info(&self) -> &ServerInfo {
        &self.server_info
    }

    /// The server's statements.
    pub(super) fn dialect(&self) -> &Dialect {
        &self.server_info.dialect
    }

    /// One full probe: one round trip, and one more for each statement that the server refuses.
    ///
    /// Settings are read from the second time on, and then once a minute: a connection that is opened to look at a suspect, or for a
    /// step, is in a hurry.
    pub(super) async fn facts(&mut self) -> Result<InstanceFacts, SqlFailure> {
        if self.server_info.at.elapsed() > LEARN_AGAIN_AFTER {
            self.server_info = learn(&mut self.connection, &self.settings)
                .await
                .map_err(SqlFailure::Broken)?;
        }
        let together = Arc::clone(&self.server_info.together);
        let answers = answers(&mut self.connection, &self.server_info.statements, together).await?;
        let answers = self.server_info.parts.iter().copied().zip(answers);
        let assembled = facts::assemble(&self.instance, &self.server_info, answers)?;
        let mut facts = assembled.facts;
        facts.uses_pseudo_gtid |= self.settings.writes_pseudo_gtid && pseudo_gtid::helps(&facts);
        if assembled.has_unreported_replicas {
            self.add_connected_replicas(&mut facts).await?;
        }
        let is_due = self
            .slow
            .as_ref()
            .is_none_or(|(read, _)| read.elapsed() > LEARN_AGAIN_AFTER);
        if self.is_used && is_due {
            self.slow = Some((Instant::now(), self.server_settings().await?));
        }
        self.is_used = true;
        facts.by_admin_endpoint = self.is_reserved;
        // Administrators' own admin endpoint may be an address of its own.
        facts.peer = self.peer.filter(|_| !self.is_reserved);
        facts.settings = self.slow.as_ref().map(|(_, settings)| settings.clone());
        Ok(facts)
    }

    /// What the server is set to now, and who may do what on it.
    pub(super) async fn server_settings(&mut self) -> Result<ServerSettings, SqlFailure> {
        let (parts, statements): (Vec<SlowPart>, Vec<String>) =
            queries::slow_parts(&self.server_info.dialect).into_iter().unzip();
        let together = statements.join("; ").into();
        let answers = answers(&mut self.connection, &statements, together).await?;
        Ok(settings::assemble(&self.server_info, parts.into_iter().zip(answers)))
    }

    /// Replicas that tell no address of their own are known by their connections only.
    async fn add_connected_replicas(&mut self, facts: &mut InstanceFacts) -> Result<(), SqlFailure> {
        let statement = self.server_info.dialect.select_binlog_dump_connections();
        match self
            .rows(&queries::processes(
                statement,
                self.server_info.has_performance_schema(),
            ))
            .await
        {
            Ok(rows) => {
                facts::add_connected_replicas(facts, self.instance.port, &rows);
                Ok(())
            }
            Err(SqlFailure::Answered { number, message }) => {
                facts
                    .problems
                    .push(format!("connected replicas: error {number}: {message}"));
                Ok(())
            }
            Err(broken @ SqlFailure::Broken(_)) => Err(broken),
        }
    }

    /// The rows of one statement.
    pub(super) async fn rows(&mut self, statement: &str) -> Result<Vec<TextRow>, SqlFailure> {
        rows(&mut self.connection, statement).await
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        connection::close(self.connection).await;
    }
}

async fn learn(connection: &mut MySqlConnection, settings: &ProbeSettings) -> Result<ServerInfo, ProbeFailure> {
    let mut results = many(connection, AssertSqlSafe(queries::FIRST_CONTACT)).await?;
    if let Some(Err((number, message))) = results.last() {
        return Err(SqlFailure::Answered {
            number: *number,
            message: message.clone(),
        }
        .into_probe_failure());
    }
    let clock = results
        .get(queries::FIRST_CONTACT_CLOCK)
        .and_then(|answer| answer.as_ref().ok()?.first()?.first()?.parse().ok());
    let status = take_pairs(&mut results, queries::FIRST_CONTACT_STATUS);
    let variables = take_pairs(&mut results, queries::FIRST_CONTACT_VARIABLES);
    let value = |name: &str| variables.get(name).map(String::as_str).unwrap_or_default();
    let version = ServerVersion::parse(value("version"), value("version_comment"))
        .map_err(|error| ProbeFailure::Unreadable(error.to_string()))?;
    let uptime = status.values().next().and_then(|text| text.parse().ok());
    let uptime = uptime.ok_or_else(|| ProbeFailure::Unreadable("the server tells no uptime".to_owned()))?;
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
    let parts = queries::probe_parts(
        &dialect,
        &semi_sync,
        has_variable,
        in_group,
        waits,
        settings.lag_query.as_deref(),
    );
    let (parts, statements): (Vec<Part>, Vec<String>) = parts.into_iter().unzip();
    let together = statements.join("; ").into();
    let mut server_info = ServerInfo {
        version,
        dialect,
        variables,
        semi_sync,
        uptime,
        clock,
        at: Instant::now(),
        data_center: String::new(),
        region: String::new(),
        environment: String::new(),
        semi_sync_priority: None,
        shows_replication_credentials: false,
        uses_pseudo_gtid: false,
        problems: Vec::new(),
        parts,
        statements,
        together,
    };
    let problems = &mut server_info.problems;
    server_info.data_center = place(
        connection,
        "data center query",
        settings.data_center_query.as_deref(),
        problems,
    )
    .await?;
    server_info.region = place(connection, "region query", settings.region_query.as_deref(), problems).await?;
    server_info.environment = place(
        connection,
        "environment query",
        settings.environment_query.as_deref(),
        problems,
    )
    .await?;
    if let Some(query) = settings.semi_sync_query.as_deref() {
        let text = place(connection, PRIORITY_PART, Some(query), problems).await?;
        match text.trim().parse() {
            Ok(priority) => server_info.semi_sync_priority = Some(priority),
            Err(_) => problems.push(format!("{PRIORITY_PART}: `{text}` is no number")),
        }
    }
    let query = settings.pseudo_gtid_query.as_deref();
    let told = place(connection, "Pseudo-GTID query", query, problems).await?;
    server_info.uses_pseudo_gtid = told == "1";
    if !server_info.version.flavour.is_mariadb() {
        server_info.shows_replication_credentials = shows_replication_credentials(connection).await?;
    }
    Ok(server_info)
}

/// The first value of a configured query; empty, with a problem noted, when the server refuses it.
async fn place(
    connection: &mut MySqlConnection,
    what: &str,
    query: Option<&str>,
    problems: &mut Vec<String>,
) -> Result<String, ProbeFailure> {
    let Some(query) = query else { return Ok(String::new()) };
    match rows(connection, &queries::one_statement(query)).await {
        Ok(rows) => Ok(rows
            .first()
            .and_then(TextRow::first)
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default()),
        Err(SqlFailure::Answered { number, message }) => {
            problems.push(format!("{what}: error {number}: {message}"));
            Ok(String::new())
        }
        Err(SqlFailure::Broken(failure)) => Err(failure),
    }
}

/// Without the privilege the answer is no.
async fn shows_replication_credentials(connection: &mut MySqlConnection) -> Result<bool, ProbeFailure> {
    match rows(connection, queries::REPLICATION_CREDENTIALS).await {
        Ok(rows) => Ok(rows.first().and_then(TextRow::first).is_some_and(|count| count != "0")),
        Err(SqlFailure::Answered { .. }) => Ok(false),
        Err(SqlFailure::Broken(failure)) => Err(failure),
    }
}

/// The rows of `Variable_name`, `Value` that the statement with this number gave.
fn take_pairs(results: &mut [StatementResult], number: usize) -> BTreeMap<String, String> {
    let rows = results.get_mut(number).and_then(|answer| answer.as_mut().ok());
    let pair = |row: &TextRow| (row.text_or_empty(&["Variable_name"]), row.text_or_empty(&["Value"]));
    rows.map(|rows| rows.iter().map(pair).collect()).unwrap_or_default()
}

async fn rows(connection: &mut MySqlConnection, statement: &str) -> Result<Vec<TextRow>, SqlFailure> {
    let mut answers = many(connection, AssertSqlSafe(statement.to_owned()))
        .await
        .map_err(SqlFailure::Broken)?;
    match answers.pop() {
        Some(Ok(rows)) => Ok(rows),
        Some(Err((number, message))) => Err(SqlFailure::Answered { number, message }),
        None => Err(SqlFailure::Broken(ProbeFailure::Unreadable(
            "no answer to a statement".to_owned(),
        ))),
    }
}

/// An answer to each statement. They are sent together; the server stops at the first that fails, so the ones behind it are sent
/// again without it.
async fn answers(
    connection: &mut MySqlConnection,
    statements: &[String],
    together: Arc<str>,
) -> Result<Vec<StatementResult>, SqlFailure> {
    let mut answers = many(connection, AssertSqlSafe(together))
        .await
        .map_err(SqlFailure::Broken)?;
    while let Some(left) = statements.get(answers.len()..).filter(|left| !left.is_empty()) {
        let more = many(connection, AssertSqlSafe(left.join("; ")))
            .await
            .map_err(SqlFailure::Broken)?;
        if more.is_empty() {
            return Err(SqlFailure::Broken(ProbeFailure::Unreadable(
                "fewer answers than statements".to_owned(),
            )));
        }
        answers.extend(more);
    }
    Ok(answers)
}

/// The answers to a text of one or more statements, up to and including the first error.
async fn many(
    connection: &mut MySqlConnection,
    statements: impl sqlx::SqlSafeStr,
) -> Result<Vec<StatementResult>, ProbeFailure> {
    let mut stream = sqlx::raw_sql(statements).fetch_many(connection);
    let (mut answers, mut rows) = (Vec::new(), Vec::new());
    loop {
        match stream.try_next().await {
            Ok(Some(Either::Right(row))) => {
                if rows.len() == MOST_ROWS {
                    return Err(ProbeFailure::Unreadable(format!(
                        "an answer of more than {MOST_ROWS} rows"
                    )));
                }
                rows.push(TextRow::from(row));
            }
            Ok(Some(Either::Left(_))) => answers.push(Ok(std::mem::take(&mut rows))),
            Ok(None) => return Ok(answers),
            Err(error) => match SqlFailure::from(error) {
                SqlFailure::Answered { number, message } => {
                    answers.push(Err((number, message)));
                    return Ok(answers);
                }
                SqlFailure::Broken(failure) => return Err(failure),
            },
        }
    }
}
