//! Talking to a server in its own SQL, with a deadline on everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Row as _};

/// How long an administrator's statement may take.
const STATEMENT: Duration = Duration::from_secs(20);

/// A TCP address of a server or member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// A host and a port.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An account.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// A row by column name. Values as text, `None` for NULL.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// A connection.
pub(crate) struct Session {
    connection: MySqlConnection,
    server: String,
}

impl Session {
    /// As an account, over TCP.
    pub(crate) async fn connect(address: &Address, account: &Credentials, limit: Duration) -> Result<Self> {
        // No TLS: its handshakes would be most of what the writers measure.
        let options = MySqlConnectOptions::new()
            .host(&address.host)
            .port(address.port)
            .ssl_mode(MySqlSslMode::Disabled);
        Self::open(
            options.username(&account.user).password(&account.password),
            &address.to_string(),
            limit,
        )
        .await
    }

    /// As root, over the server's socket.
    pub(crate) async fn root(socket: &Path, server: &str, limit: Duration) -> Result<Self> {
        Self::open(
            MySqlConnectOptions::new().socket(socket).username("root"),
            server,
            limit,
        )
        .await
    }

    async fn open(options: MySqlConnectOptions, server: &str, limit: Duration) -> Result<Self> {
        // Every statement that sqlx would send by itself after connecting is switched off.
        let options = options
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .set_names(false);
        let options = options.disable_statement_logging();
        let connection = tokio::time::timeout(limit, options.connect()).await;
        let connection =
            connection.map_err(|_| anyhow!("{server} did not let us in within {} ms", limit.as_millis()))?;
        let connection = connection.with_context(|| format!("connect to {server}"))?;
        Ok(Self {
            connection,
            server: server.to_owned(),
        })
    }

    /// Runs one or several statements.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<()> {
        self.run_within(sql, STATEMENT).await
    }

    /// Runs one or several statements under a deadline. After it passed, the outcome is unknown and the session is of no more use.
    pub(crate) async fn run_within(&mut self, sql: &str, limit: Duration) -> Result<()> {
        let running = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
        let done = tokio::time::timeout(limit, running)
            .await
            .map_err(|_| anyhow::Error::new(TimedOut))?;
        done.with_context(|| format!("on {}: {}", self.server, without_secrets(sql)))?;
        Ok(())
    }

    /// The rows of a query.
    pub(crate) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>> {
        let running = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connection);
        let rows = tokio::time::timeout(STATEMENT, running)
            .await
            .map_err(|_| anyhow::Error::new(TimedOut))?;
        let rows = rows.with_context(|| format!("on {}: {sql}", self.server))?;
        let read = |row: &sqlx::mysql::MySqlRow| {
            // The text protocol gives every value as text, so the column's type does not matter.
            let value = |column: &sqlx::mysql::MySqlColumn| {
                let bytes = row
                    .try_get_unchecked::<Option<Vec<u8>>, _>(column.ordinal())
                    .ok()
                    .flatten();
                (
                    column.name().to_owned(),
                    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
                )
            };
            row.columns().iter().map(value).collect()
        };
        Ok(rows.iter().map(read).collect())
    }

    /// The only value of a query's first row: empty for NULL or no row.
    pub(crate) async fn value(&mut self, sql: &str) -> Result<String> {
        let rows = self.rows(sql).await?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_values().next())
            .flatten()
            .unwrap_or_default())
    }

    /// Says goodbye, so that the server does not log a broken connection.
    pub(crate) async fn close(self) {
        tokio::time::timeout(Duration::from_millis(500), self.connection.close())
            .await
            .ok();
    }
}

/// A statement did not end in time: nobody knows whether it took effect.
#[derive(Debug, thiserror::Error)]
#[error("the statement did not end in time")]
pub(crate) struct TimedOut;

/// The server's error number, when the server refused a statement.
pub(crate) fn refusal(error: &anyhow::Error) -> Option<u16> {
    let sqlx::Error::Database(error) = error.downcast_ref::<sqlx::Error>()? else {
        return None;
    };
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map(MySqlDatabaseError::number)
}

/// The statement up to the first password.
fn without_secrets(sql: &str) -> &str {
    let upper = sql.to_ascii_uppercase();
    let end = [upper.find("IDENTIFIED BY"), upper.find("PASSWORD")]
        .into_iter()
        .flatten()
        .min();
    end.and_then(|end| sql.get(..end)).unwrap_or(sql)
}
