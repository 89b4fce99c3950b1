//! The port [`Executor`]: opens step sessions, for one actor at a time on each server.

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

use super::connection::{SqlFailure, credentials_of, with_deadline};
use super::queries;
use super::server_connection::{ProbeSettings, ServerConnection};
use super::session::MySqlSession;
use super::text_row::TextRow;

/// The name of the user lock (`GET_LOCK`) that ensures that one actor at a time runs steps on a server.
pub(super) const STEP_LOCK: &str = "ham4db.step";

/// Both values are in seconds. `wait_timeout`: an actor that is cut off from the server keeps the lock for at most this time,
/// unless another actor kills its session before. `lock_wait_timeout`: a statement that this member abandoned ends soon, so that
/// an abandoned session does not switch `super_read_only` on later.
const SESSION_SETTINGS: &str = "SET SESSION wait_timeout = 120, lock_wait_timeout = 1";

/// Opens step sessions on MySQL and MariaDB servers.
pub struct MySqlExecutor {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
}

impl MySqlExecutor {
    /// Creates an executor that takes the accounts from `credentials` whenever it opens a session. `settings` are those of the
    /// prober: they apply to the facts that sessions read.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>, settings: ProbeSettings) -> Self {
        Self {
            credentials,
            settings: Arc::new(settings),
        }
    }
}

/// What is done about another session that holds the step lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LockHolder {
    /// It is killed.
    Ends,
    /// It stays, and no session is opened.
    Stays,
    /// It is the same actor: the new session takes no lock.
    IsSelf,
}

impl MySqlExecutor {
    async fn begin_session(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
        holder: LockHolder,
    ) -> Result<Box<dyn StepSession>, StepError> {
        let end = Instant::now() + deadline;
        let instance = &target.instance;
        let not_connected = |why: String| StepError::NotConnected {
            instance: instance.clone(),
            why,
        };
        let credentials =
            credentials_of(&self.credentials, target).map_err(|failure| not_connected(failure.to_string()))?;
        let opening = ServerConnection::open_or_use_admin_endpoint(instance, &credentials, &self.settings);
        let opened = with_deadline(instance, deadline, opening).await;
        let mut connection = opened.map_err(|failure| not_connected(failure.to_string()))?;
        match timeout_at(end, prepare(&mut connection, instance, identity, end, holder)).await {
            Ok(Ok(())) => Ok(Box::new(MySqlSession::new(
                instance.clone(),
                connection,
                credentials.tls,
            ))),
            Ok(Err(error)) => Err(error),
            // At most the lock was taken. It is released when the connection is dropped.
            Err(_) => Err(StepError::LockHeld(instance.clone())),
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
        self.begin_session(target, identity, deadline, LockHolder::Ends).await
    }

    async fn begin_if_free(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        self.begin_session(target, identity, deadline, LockHolder::Stays).await
    }

    async fn begin_beside(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        self.begin_session(target, identity, deadline, LockHolder::IsSelf).await
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
        let opened = with_deadline(
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
    /// Uses a connection of its own, and does not disturb the holder of the step lock.
    async fn write_entry(
        &self,
        target: &Target,
        identity: &Identity,
        statement: &str,
        deadline: Duration,
    ) -> Result<(), String> {
        let instance = &target.instance;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let describe = |failure: SqlFailure| match failure {
            SqlFailure::ServerError { number, message } => format!("error {number}: {message}"),
            SqlFailure::Broken(failure) => failure.to_string(),
        };
        let write = async {
            let opened = with_deadline(
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
                return Err(format!("the server is {found}, not {identity}"));
            }
            connection.rows(SESSION_SETTINGS).await.map_err(describe)?;
            // An account that `read_only` does not restrict must not write on a fenced server.
            if read_number(&mut connection, "SELECT @@GLOBAL.read_only")
                .await
                .map_err(describe)?
                != Some(0)
            {
                return Err("the server is read-only".to_owned());
            }
            connection.rows(statement).await.map_err(describe)?;
            connection.close().await;
            Ok(())
        };
        let end = Instant::now() + deadline;
        timeout_at(end, write)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// Checks the identity of the server and takes the lock, unless the actor has it.
async fn prepare(
    connection: &mut ServerConnection,
    instance: &InstanceKey,
    identity: Option<&Identity>,
    end: Instant,
    on_holder: LockHolder,
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
    connection.rows(SESSION_SETTINGS).await.map_err(failed)?;
    if on_holder == LockHolder::IsSelf {
        return Ok(());
    }
    let dialect = connection.dialect().clone();
    let mut is_taken = read_number(connection, &dialect.get_lock(STEP_LOCK, 0))
        .await
        .map_err(failed)?
        == Some(1);
    while !is_taken {
        if Instant::now() >= end || on_holder == LockHolder::Stays {
            return Err(StepError::LockHeld(instance.clone()));
        }
        let holder = read_number(connection, &dialect.is_used_lock(STEP_LOCK))
            .await
            .map_err(failed)?;
        if let Some(holder) = holder {
            tracing::info!(%instance, holder, "killing the session of another actor that holds the step lock");
            match connection.rows(&dialect.kill(holder)).await {
                // 1094: the session has ended already.
                Ok(_) | Err(SqlFailure::ServerError { number: 1094, .. }) => {}
                // The account may not kill it. The session may still end by itself.
                Err(SqlFailure::ServerError { number, message }) => {
                    tracing::warn!(%instance, holder, number, message, "failed to kill the holder of the step lock");
                }
                Err(broken @ SqlFailure::Broken(_)) => return Err(failed(broken)),
            }
        }
        // A session releases the lock when its last statement has ended. So holding the lock proves that the other actor's
        // session is gone.
        is_taken = read_number(connection, &dialect.get_lock(STEP_LOCK, 1))
            .await
            .map_err(failed)?
            == Some(1);
        if !is_taken && let Some(holder) = holder {
            let killed = kill_stopping_threads(connection, instance, holder).await;
            if let Err(broken @ SqlFailure::Broken(_)) = killed {
                return Err(failed(broken));
            }
        }
    }
    Ok(())
}

/// Kills the replication threads for which a killed session still waits in `STOP REPLICA`: the session ends with them. A server with
/// several channels, as a member of Group Replication, is left alone: its threads cannot be told apart.
async fn kill_stopping_threads(
    connection: &mut ServerConnection,
    instance: &InstanceKey,
    holder: u64,
) -> Result<(), SqlFailure> {
    let dialect = connection.dialect().clone();
    let Some(statement) = dialect.select_stopping_threads(holder) else {
        return Ok(());
    };
    if connection.rows(dialect.show_replica_status()).await?.len() != 1 {
        return Ok(());
    }
    let statement = queries::processlist_statement(statement, connection.server_info().has_performance_schema());
    let threads = connection.rows(&statement).await?;
    for thread in threads.iter().filter_map(|row| row.number::<u64>(&["ID"]).ok()) {
        tracing::info!(%instance, holder, thread, "killing a replication thread for which STOP REPLICA of another actor waits");
        match connection.rows(&dialect.kill(thread)).await {
            Ok(_) | Err(SqlFailure::ServerError { number: 1094, .. }) => {}
            Err(SqlFailure::ServerError { number, message }) => {
                tracing::warn!(%instance, thread, number, message, "failed to kill a replication thread");
            }
            Err(broken @ SqlFailure::Broken(_)) => return Err(broken),
        }
    }
    Ok(())
}

/// Reads one number; `None` for NULL.
async fn read_number(connection: &mut ServerConnection, statement: &str) -> Result<Option<u64>, SqlFailure> {
    let rows = connection.rows(statement).await?;
    Ok(rows.first().and_then(TextRow::first).and_then(|text| text.parse().ok()))
}
