//! The port [`CommitProbe`]: which sessions wait in the middle of a commit, and whether a row gets in.
//!
//! Both on connections of their own: what a probe asks for waits behind the same locks as the commits do (the end of the binary log, on
//! a full disk), and the list of sessions does not.

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

/// How long the canary may take to connect and to be let in.
const CONNECT: Duration = Duration::from_secs(2);

/// A row that somebody holds, or a table that somebody locks, is no stall: the server says so after a second.
const CANARY_SESSION: &str = "SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1";

/// Looks over sqlx.
pub struct MySqlCommitProbe {
    connections: ConnectionCache,
}

impl MySqlCommitProbe {
    /// Takes the accounts from `credentials` whenever a connection is opened.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            connections: ConnectionCache::new(credentials, None),
        }
    }
}

#[async_trait]
impl CommitProbe for MySqlCommitProbe {
    async fn waiting(&self, target: &Target, deadline: Duration) -> Result<Vec<WaitingSession>, String> {
        let place = self.connections.place_of(&target.instance);
        let mut kept = place.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connections.open(target, deadline).await?,
        };
        let statement = connection.dialect().select_waiting_commits();
        let statement = queries::processes(statement, connection.server_info().has_performance_schema());
        let told = |failure: SqlFailure| failure.into_probe_failure().to_string();
        let rows = tokio::time::timeout(deadline, connection.rows(&statement))
            .await
            .map_err(|_| format!("no answer within {} ms", deadline.as_millis()))?;
        let rows = match rows {
            Err(broken @ SqlFailure::Broken(_)) => return Err(told(broken)),
            answered => {
                *kept = Some(connection);
                answered.map_err(told)?
            }
        };
        rows.iter()
            .map(session)
            .collect::<Result<_, SqlFailure>>()
            .map_err(told)
    }

    async fn canary(&self, target: &Target, identity: &Identity, statement: &str) -> Result<(), String> {
        let mut connection = self.connections.open(target, CONNECT).await?;
        let told = |failure: SqlFailure| match failure {
            SqlFailure::Answered { number, message } => format!("error {number}: {message}"),
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
                return Err(format!("it is {found}, not {identity}"));
            }
            connection.rows(CANARY_SESSION).await.map_err(told)?;
            // An account that read_only does not bind must not write behind a fence.
            let read_only = connection.rows("SELECT @@GLOBAL.read_only").await.map_err(told)?;
            let is_writable = read_only
                .first()
                .and_then(TextRow::first)
                .is_some_and(|value| value == "0");
            if is_writable {
                Ok(())
            } else {
                Err("it is read-only".to_owned())
            }
        };
        tokio::time::timeout(CONNECT, prepare)
            .await
            .map_err(|_| format!("no answer within {} ms", CONNECT.as_millis()))??;
        connection.rows(statement).await.map_err(told)?;
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
        // MariaDB's clock may be a little negative.
        seconds: row.text_or_empty(&["TIME", "Time"]).parse().unwrap_or_default(),
        state: row.text_or_empty(&["STATE", "State"]),
    })
}
