//! The port [`CommitProbe`]: lists the sessions that wait in a commit, and tests whether a row can be written.
//!
//! Both use connections of their own. The statements of a probe can wait for the same locks as the commits (the end of the binary
//! log, on a full disk); the list of sessions needs no such lock.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::app::ports::CommitProbe;
use crate::app::ports::{CredentialsByOrigin, Target};
use crate::domain::commit_stall::WaitingSession;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;

use super::connection::SqlFailure;
use super::connection_cache::ConnectionCache;
use super::queries;
use super::text_row::TextRow;

/// Deadline for connecting and logging in for the canary statement, and for its preparation.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A locked row or table is not a stall: with these values the server reports it after a second.
const CANARY_SESSION_SETTINGS: &str = "SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1";

/// Probes commits of MySQL and MariaDB servers.
pub struct MySqlCommitProbe {
    connections: ConnectionCache,
}

impl MySqlCommitProbe {
    /// Creates a probe that takes the accounts from `credentials` whenever it opens a connection.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            connections: ConnectionCache::new(credentials, None),
        }
    }
}

#[async_trait]
impl CommitProbe for MySqlCommitProbe {
    async fn waiting(&self, target: &Target, deadline: Duration) -> Result<Vec<WaitingSession>, String> {
        let slot = self.connections.slot_of(&target.instance);
        let mut kept = slot.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connections.open(target, deadline).await?,
        };
        let statement = connection.dialect().select_waiting_commits();
        let statement = queries::processlist_statement(statement, connection.server_info().has_performance_schema());
        let describe = |failure: SqlFailure| failure.into_probe_failure().to_string();
        let rows = tokio::time::timeout(deadline, connection.rows(&statement))
            .await
            .map_err(|_| format!("no answer within {} ms", deadline.as_millis()))?;
        let rows = match rows {
            Err(broken @ SqlFailure::Broken(_)) => return Err(describe(broken)),
            result => {
                *kept = Some(connection);
                result.map_err(describe)?
            }
        };
        rows.iter()
            .map(session)
            .collect::<Result<_, SqlFailure>>()
            .map_err(describe)
    }

    async fn canary(&self, target: &Target, identity: &Identity, statement: &str) -> Result<(), String> {
        let mut connection = self.connections.open(target, CONNECT_DEADLINE).await?;
        let describe = |failure: SqlFailure| match failure {
            SqlFailure::ServerError { number, message } => format!("error {number}: {message}"),
            SqlFailure::Broken(failure) => failure.to_string(),
        };
        let prepare = async {
            let found = connection.server_info().identity(
                connection
                    .server_info()
                    .variable("server_id")
                    .parse()
                    .unwrap_or_default(),
            );
            if found != *identity {
                return Err(format!("the server is {found}, not {identity}"));
            }
            connection.rows(CANARY_SESSION_SETTINGS).await.map_err(describe)?;
            // An account that `read_only` does not restrict must not write on a fenced server.
            let read_only = connection.rows("SELECT @@GLOBAL.read_only").await.map_err(describe)?;
            let is_writable = read_only
                .first()
                .and_then(TextRow::first)
                .is_some_and(|value| value == "0");
            if is_writable {
                Ok(())
            } else {
                Err("the server is read-only".to_owned())
            }
        };
        tokio::time::timeout(CONNECT_DEADLINE, prepare)
            .await
            .map_err(|_| format!("no answer within {} ms", CONNECT_DEADLINE.as_millis()))??;
        connection.rows(statement).await.map_err(describe)?;
        connection.close().await;
        Ok(())
    }

    async fn release(&self, instance: &InstanceKey) {
        self.connections.release(instance).await;
    }
}

fn session(row: &TextRow) -> Result<WaitingSession, SqlFailure> {
    Ok(WaitingSession {
        id: row.number(&["ID", "Id"])?,
        // MariaDB may report a slightly negative time, which counts as 0.
        seconds: row.text_or_empty(&["TIME", "Time"]).parse().unwrap_or_default(),
        state: row.text_or_empty(&["STATE", "State"]),
    })
}
