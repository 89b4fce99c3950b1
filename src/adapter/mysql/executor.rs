//! The port [`Executor`]: step sessions, one actor at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::ports::EntryWriter;
use crate::app::ports::{CredentialsByOrigin, Executor, StepError, StepSession, Target};
use crate::app::ports::{LogReader, LogSource};
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;

use super::connection::{SqlFailure, credentials_of, within};
use super::server_connection::{ProbeSettings, ServerConnection};
use super::session::MySqlSession;
use super::text_row::TextRow;

/// The lock that makes all steps on a server those of one actor.
pub(super) const STEP_LOCK: &str = "ham4db.step";

/// `wait_timeout`: an actor that is cut off from the server keeps the lock at most so long, if no other actor ends it before.
/// `lock_wait_timeout`: a statement that this side has given up on ends soon after, so that `super_read_only` is not switched on by
/// a session that nobody listens to any more. Both in seconds.
const OWN_SESSION: &str = "SET SESSION wait_timeout = 120, lock_wait_timeout = 1";

/// Opens step sessions over sqlx.
pub struct MySqlExecutor {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
}

impl MySqlExecutor {
    /// An executor that takes the accounts from `credentials` whenever it opens a session; `settings` are the prober's, for the facts
    /// that sessions read.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>, settings: ProbeSettings) -> Self {
        Self {
            credentials,
            settings: Arc::new(settings),
        }
    }
}

#[async_trait]
impl Executor for MySqlExecutor {
    async fn begin(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        let end = Instant::now() + deadline;
        let instance = &target.instance;
        let not_connected = |why: String| StepError::NotConnected {
            instance: instance.clone(),
            why,
        };
        let credentials =
            credentials_of(&self.credentials, target).map_err(|failure| not_connected(failure.to_string()))?;
        let opening = ServerConnection::open_by_any_admin_endpoint(instance, &credentials, &self.settings);
        let opened = within(instance, deadline, opening).await;
        let mut connection = opened.map_err(|failure| not_connected(failure.to_string()))?;
        match timeout_at(end, prepare(&mut connection, instance, identity, end)).await {
            Ok(Ok(())) => Ok(Box::new(MySqlSession::new(
                instance.clone(),
                connection,
                credentials.tls,
            ))),
            Ok(Err(error)) => Err(error),
            // Only the lock can have been taken, and it goes with the connection.
            Err(_) => Err(StepError::LockHeld(instance.clone())),
        }
    }
}

#[async_trait]
impl LogReader for MySqlExecutor {
    async fn open(&self, target: &Target, deadline: Duration) -> Result<Box<dyn LogSource>, StepError> {
        let instance = &target.instance;
        let failed = |why: String| StepError::NotConnected {
            instance: instance.clone(),
            why,
        };
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failed(failure.to_string()))?;
        let opened = within(
            instance,
            deadline,
            ServerConnection::open(instance, &credentials, &self.settings),
        )
        .await;
        let connection = opened.map_err(|failure| failed(failure.to_string()))?;
        Ok(Box::new(MySqlSession::new(
            instance.clone(),
            connection,
            credentials.tls,
        )))
    }
}

#[async_trait]
impl EntryWriter for MySqlExecutor {
    /// On a connection of its own: whoever holds the step lock is left alone.
    async fn write_entry(
        &self,
        target: &Target,
        identity: &Identity,
        statement: &str,
        deadline: Duration,
    ) -> Result<(), String> {
        let instance = &target.instance;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let told = |failure: SqlFailure| match failure {
            SqlFailure::Answered { number, message } => format!("error {number}: {message}"),
            SqlFailure::Broken(failure) => failure.to_string(),
        };
        let write = async {
            let opened = within(
                instance,
                deadline,
                ServerConnection::open(instance, &credentials, &self.settings),
            )
            .await;
            let mut connection = opened.map_err(|failure| failure.to_string())?;
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
            connection.rows(OWN_SESSION).await.map_err(told)?;
            // An account that read_only does not bind must not write behind a fence.
            if number(&mut connection, "SELECT @@GLOBAL.read_only")
                .await
                .map_err(told)?
                != Some(0)
            {
                return Err("it is read-only".to_owned());
            }
            connection.rows(statement).await.map_err(told)?;
            connection.close().await;
            Ok(())
        };
        let end = Instant::now() + deadline;
        timeout_at(end, write)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// Checks who the server is, and takes the lock.
async fn prepare(
    connection: &mut ServerConnection,
    instance: &InstanceKey,
    identity: Option<&Identity>,
    end: Instant,
) -> Result<(), StepError> {
    let failed = |failure: SqlFailure| StepError::NotConnected {
        instance: instance.clone(),
        why: failure.into_probe_failure().to_string(),
    };
    let found = connection.server_info().identity(
        connection
            .server_info()
            .variable("server_id")
            .parse()
            .unwrap_or_default(),
    );
    if let Some(wanted) = identity.filter(|wanted| **wanted != found) {
        return Err(StepError::OtherIdentity {
            instance: instance.clone(),
            wanted: wanted.clone(),
            found,
        });
    }
    connection.rows(OWN_SESSION).await.map_err(failed)?;
    let dialect = connection.dialect().clone();
    let mut is_taken = number(connection, &dialect.get_lock(STEP_LOCK, 0))
        .await
        .map_err(failed)?
        == Some(1);
    while !is_taken {
        if Instant::now() >= end {
            return Err(StepError::LockHeld(instance.clone()));
        }
        if let Some(holder) = number(connection, &dialect.is_used_lock(STEP_LOCK))
            .await
            .map_err(failed)?
        {
            tracing::info!(%instance, holder, "ending the session of another actor that holds the step lock");
            match connection.rows(&dialect.kill(holder)).await {
                // 1094: it is gone already.
                Ok(_) | Err(SqlFailure::Answered { number: 1094, .. }) => {}
                // Not allowed to: it may still end by itself.
                Err(SqlFailure::Answered { number, message }) => {
                    tracing::warn!(%instance, holder, number, message, "the holder of the step lock cannot be killed");
                }
                Err(broken @ SqlFailure::Broken(_)) => return Err(failed(broken)),
            }
        }
        // A session gives the lock back when its last statement has ended, so having the lock means that the other actor is gone.
        is_taken = number(connection, &dialect.get_lock(STEP_LOCK, 1))
            .await
            .map_err(failed)?
            == Some(1);
    }
    Ok(())
}

/// The number that a statement gives, `None` for NULL.
async fn number(connection: &mut ServerConnection, statement: &str) -> Result<Option<u64>, SqlFailure> {
    let rows = connection.rows(statement).await?;
    Ok(rows.first().and_then(TextRow::first).and_then(|text| text.parse().ok()))
}
