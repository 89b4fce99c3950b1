//! A step session: the port [`StepSession`] on one connection that is never replaced.
//!
//! When an answer does not come in time, the connection is dropped and every later call fails. A new session has to find out
//! whether the statement had its effect.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout_at};

use crate::app::ports::{Account, Attachment, LockHolderSession, OpenTransaction, StepError, StepSession, TlsMode};
use crate::domain::dialect::Dialect;
use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Channel, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::managed_channel::ManagedChannel;
use crate::domain::scheduled_events::{EventsEnabled, ScheduledEvent};
use crate::domain::settings::ServerSettings;

use super::channel;
use super::connection::SqlFailure;
use super::executor::STEP_LOCK;
use super::queries;
use super::server_connection::ServerConnection;
use super::text_row::TextRow;

/// Pause between two reads while a condition on the server is waited for. It is short compared with every deadline of a recovery,
/// and limits the load to 200 cheap statements a second.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Extra time after the deadline for a read that began before it. Cancelling the read would drop the connection, although only
/// the wait failed.
pub(super) const READ_GRACE: Duration = Duration::from_secs(1);

/// Deadline for releasing the lock at the end. The connection is closed afterwards in any case.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// The step session of one actor on one server.
pub(super) struct MySqlSession {
    instance: InstanceKey,
    connection: Option<ServerConnection>,
    dialect: Dialect,
    /// Whether new channels use TLS.
    pub(super) tls: TlsMode,
    /// GTID was switched off for the managed channel to keep its relay log. The relay log is applied when this set is executed.
    pub(super) rescued: Option<GtidSet>,
    /// The channel that the steps are about.
    pub(super) managed: ManagedChannel,
    /// Behind this applied position the relay log of the managed channel holds only a part of a transaction.
    pub(super) open_transaction_after: Option<BinlogCoordinates>,
    /// The account was not yet refused to kill applier threads.
    pub(super) may_kill_appliers: bool,
}

impl MySqlSession {
    /// Creates a session on a connection that holds the step lock. `tls`: whether new channels use TLS.
    pub(super) fn new(instance: InstanceKey, connection: ServerConnection, tls: TlsMode) -> Self {
        Self {
            instance,
            dialect: connection.dialect().clone(),
            connection: Some(connection),
            tls,
            rescued: None,
            managed: ManagedChannel::Usual,
            open_transaction_after: None,
            may_kill_appliers: true,
        }
    }

    /// The statements in the syntax of the server's version.
    pub(super) fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// Runs an operation on the connection. The connection is kept only when the server answered.
    async fn on_connection<T>(
        &mut self,
        what: &str,
        end: Instant,
        run: impl AsyncFnOnce(&mut ServerConnection) -> Result<T, SqlFailure>,
    ) -> Result<T, StepError> {
        let mut connection = self.connection.take().ok_or_else(|| StepError::NotConnected {
            instance: self.instance.clone(),
            why: "the connection of this session failed before".to_owned(),
        })?;
        match timeout_at(end, run(&mut connection)).await {
            Ok(Ok(value)) => {
                self.connection = Some(connection);
                Ok(value)
            }
            Ok(Err(SqlFailure::ServerError { number, message })) => {
                self.connection = Some(connection);
                Err(self.refused(what, number, message))
            }
            Ok(Err(SqlFailure::Broken(failure))) => Err(self.unknown(what, failure.to_string())),
            Err(_) => Err(self.unknown(what, "no answer in time".to_owned())),
        }
    }

    /// Sends a statement without secrets. Errors quote it.
    pub(super) async fn send(&mut self, statement: &str, end: Instant) -> Result<Vec<TextRow>, StepError> {
        self.send_as(statement, statement, end).await
    }

    /// Sends a statement. Errors call it `what`.
    pub(super) async fn send_as(
        &mut self,
        what: &str,
        statement: &str,
        end: Instant,
    ) -> Result<Vec<TextRow>, StepError> {
        self.on_connection(what, end, async |connection| connection.rows(statement).await)
            .await
    }

    /// Whether `performance_schema` is on; false on a session that broke.
    pub(super) fn has_performance_schema(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.server_info().has_performance_schema())
    }

    /// Reads the channels of the server.
    pub(super) async fn channels(&mut self, end: Instant) -> Result<Vec<Channel>, StepError> {
        let statement = self.dialect.show_replica_status();
        let flavour = self.dialect.version().flavour;
        self.on_connection(statement, end, async |connection| {
            let rows = connection.rows(statement).await?;
            Ok(channel::channels(flavour, &rows)?)
        })
        .await
    }

    /// Reads the managed channel.
    pub(super) async fn managed_channel(&mut self, end: Instant) -> Result<Option<Channel>, StepError> {
        let channels = self.channels(end).await?;
        Ok(self.managed.separate(channels).0)
    }

    /// The name that a new managed channel gets.
    pub(super) fn name_of_new_channel(&self) -> String {
        match &self.managed {
            ManagedChannel::Named(name) => name.clone(),
            ManagedChannel::Usual | ManagedChannel::Nothing => String::new(),
        }
    }

    /// Reads the facts, with the managed channel as the only one.
    pub(super) async fn read_facts(&mut self, end: Instant) -> Result<InstanceFacts, StepError> {
        let read = self
            .on_connection("reading the state", end, ServerConnection::facts)
            .await;
        read.map(|mut facts| {
            self.managed.apply(&mut facts);
            facts
        })
    }

    /// The error for a refusal by the server, or by ham4db itself when `number` is 0.
    pub(super) fn refused(&self, what: &str, number: u16, message: String) -> StepError {
        StepError::Refused {
            instance: self.instance.clone(),
            what: what.to_owned(),
            number,
            message,
        }
    }

    /// The error for a condition that did not become true in time. The connection is intact.
    pub(super) fn timed_out(&self, what: &str, deadline: Duration) -> StepError {
        StepError::TooSlow {
            instance: self.instance.clone(),
            what: what.to_owned(),
            millis: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The error for a statement with an unknown outcome.
    fn unknown(&self, what: &str, why: String) -> StepError {
        StepError::OutcomeUnknown {
            instance: self.instance.clone(),
            what: what.to_owned(),
            why,
        }
    }

    /// Kills the client sessions.
    async fn kill_client_sessions(&mut self, end: Instant) -> Result<KilledSessions, StepError> {
        let clients = self.client_sessions(end).await?;
        let mut sessions = KilledSessions::default();
        for id in clients {
            let statement = self.dialect.kill(id);
            match self.send(&statement, end).await {
                Ok(_) => sessions.killed.push(id),
                // The session has ended already.
                Err(StepError::Refused { number: 1094, .. }) => {}
                Err(error @ StepError::Refused { .. }) => {
                    sessions.spared.push(id);
                    sessions.refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sessions)
    }

    /// Reads the ids of the client sessions.
    async fn client_sessions(&mut self, end: Instant) -> Result<Vec<u64>, StepError> {
        let statement = self.dialect.select_client_connections();
        self.on_connection("listing the client sessions", end, async |connection| {
            let statement =
                queries::processlist_statement(statement, connection.server_info().has_performance_schema());
            let rows = connection.rows(&statement).await?;
            Ok(rows
                .iter()
                .map(|row| row.number(&["ID", "Id"]))
                .collect::<Result<Vec<u64>, _>>()?)
        })
        .await
    }
}

/// The client sessions of a server, after they were to be killed.
#[derive(Debug, Default)]
struct KilledSessions {
    killed: Vec<u64>,
    /// Those that the account may not kill.
    spared: Vec<u64>,
    /// The first refusal (1095).
    refused: Option<StepError>,
}

#[async_trait]
impl StepSession for MySqlSession {
    fn instance(&self) -> &InstanceKey {
        &self.instance
    }

    fn manage_channel(&mut self, name: &str) {
        self.managed = ManagedChannel::Named(name.to_owned());
    }

    async fn facts(&mut self, deadline: Duration) -> Result<InstanceFacts, StepError> {
        self.read_facts(Instant::now() + deadline).await
    }

    async fn set_read_only(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.change_read_only(true, deadline).await
    }

    async fn set_writable(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.change_read_only(false, deadline).await
    }

    /// Kills the client sessions and waits until they have ended: a session that is killed in the middle of a commit may still
    /// complete it. Sessions that begin meanwhile are not waited for.
    async fn kill_clients(&mut self, deadline: Duration) -> Result<u32, StepError> {
        let end = Instant::now() + deadline;
        let KilledSessions { killed, refused, .. } = self.kill_client_sessions(end).await?;
        while !killed.is_empty() {
            let left = self.client_sessions(end + READ_GRACE).await?;
            if !killed.iter().any(|id| left.contains(id)) {
                break;
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.timed_out("waiting until killed client sessions have ended", deadline));
            }
            sleep(POLL_INTERVAL).await;
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(u32::try_from(killed.len()).unwrap_or(u32::MAX)),
        }
    }

    async fn disconnect_clients(&mut self, deadline: Duration) -> Result<bool, StepError> {
        let end = Instant::now() + deadline;
        let sessions = self.kill_client_sessions(end).await?;
        let left = self.client_sessions(end).await?;
        // A session that began since then is in no commit: new ones wait for the statement that makes the server read-only.
        Ok(!left.iter().any(|id| sessions.spared.contains(id)))
    }

    async fn stop_receiver(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        let statement = self.dialect.stop_io_thread(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    async fn start_receiver(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.start_stopped_receiver(deadline).await
    }

    async fn start_applier(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.start_stopped_applier(Instant::now() + deadline).await
    }

    async fn apply_without_delay(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.start_applier_without_delay(Instant::now() + deadline).await
    }

    async fn delay_by(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError> {
        self.set_delay(seconds, deadline).await
    }

    async fn wait_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        self.wait_until_applied(set, deadline).await
    }

    /// Stops both threads and removes the channel with its relay log, whether it is applied or not.
    async fn reset_replication(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        self.stop_channel_or_report(&channel.name, end).await?;
        let statement = self.dialect.reset_replica_all(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    async fn set_semi_sync_source(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let semi_sync = self.read_facts(end).await?.semi_sync;
        let names = self
            .on_connection("semi-sync", end, async |connection| {
                Ok(connection.server_info().semi_sync.source)
            })
            .await?;
        let Some(names) = names else { return Ok(()) };
        let was_member = semi_sync.source_enabled || semi_sync.replica_enabled;
        if !was_member || semi_sync.source_enabled == on {
            return Ok(());
        }
        let statement = self.dialect.set_semi_sync_source(names, on);
        self.send(&statement, end).await.map(drop)
    }

    async fn wait_for_replicas(&mut self, count: u32, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let names = self
            .on_connection("semi-sync", end, async |connection| {
                Ok(connection.server_info().semi_sync.source)
            })
            .await?;
        let Some(names) = names else {
            let message = "the semi-sync plugin is not installed".to_owned();
            return Err(self.refused("switching semi-sync", 0, message));
        };
        let statements = match u16::try_from(count).unwrap_or(u16::MAX) {
            0 => vec![self.dialect.set_semi_sync_source(names, false)],
            count => self.dialect.wait_for_acknowledgements(names, count),
        };
        for statement in statements {
            self.send(&statement, end).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let names = self
            .on_connection("semi-sync", end, async |connection| {
                Ok(connection.server_info().semi_sync.replica)
            })
            .await?;
        let Some(names) = names else {
            let message = "the semi-sync plugin is not installed".to_owned();
            return Err(self.refused("switching semi-sync", 0, message));
        };
        let statement = self.dialect.set_semi_sync_replica(names, on);
        self.send(&statement, end).await?;
        // The setting takes effect at the next connection to the source.
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        let statement = self.dialect.stop_io_thread(&channel.name);
        self.send(&statement, end).await?;
        self.start_stopped_receiver(end.saturating_duration_since(Instant::now()))
            .await
    }

    async fn acknowledge_received(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.reconnect_by_position(deadline).await
    }

    async fn follow(
        &mut self,
        source: &InstanceKey,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        self.replicate_from(source, account, deadline).await
    }

    async fn wait_all_applied(&mut self, deadline: Duration) -> Result<(), StepError> {
        self.apply_everything(deadline).await
    }

    async fn locate(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<Result<BinlogCoordinates, String>>, StepError> {
        self.positions_after(after, deadline).await
    }

    async fn follow_at(
        &mut self,
        source: &InstanceKey,
        start: &BinlogCoordinates,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        self.replicate_from_position(source, start, account, deadline).await
    }

    async fn inject_empty(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        self.commit_empty_transactions(set, Instant::now() + deadline).await
    }

    async fn reset_gtids(&mut self, keep: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        self.reset_executed_gtids(keep, Instant::now() + deadline).await
    }

    async fn attach(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        self.attach_channel(source, attachment, deadline).await
    }

    async fn transactions(&mut self, deadline: Duration) -> Result<Vec<OpenTransaction>, StepError> {
        self.open_transactions(Instant::now() + deadline).await
    }

    async fn kill_sessions(&mut self, sessions: &BTreeSet<u64>, deadline: Duration) -> Result<(), StepError> {
        self.kill_and_wait(sessions, deadline).await
    }

    async fn sessions_that_block_read_only(
        &mut self,
        waited: Duration,
        deadline: Duration,
    ) -> Result<Vec<LockHolderSession>, StepError> {
        self.read_only_blockers(waited, Instant::now() + deadline).await
    }

    async fn end_backup_locks(&mut self, deadline: Duration) -> Result<u32, StepError> {
        self.kill_backup_locks(Instant::now() + deadline).await
    }

    async fn enable_events(
        &mut self,
        events: &BTreeSet<ScheduledEvent>,
        logged: bool,
        deadline: Duration,
    ) -> Result<EventsEnabled, StepError> {
        self.enable_replicated_events(events, logged, Instant::now() + deadline)
            .await
    }

    async fn disable_events(&mut self, deadline: Duration) -> Result<BTreeSet<ScheduledEvent>, StepError> {
        self.disable_enabled_events(Instant::now() + deadline).await
    }

    async fn replication_account(&mut self, deadline: Duration) -> Result<Option<Account>, StepError> {
        self.channel_account(Instant::now() + deadline).await
    }

    async fn set_semi_sync_replica(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let enabled = self.read_facts(end).await?.semi_sync.replica_enabled;
        let names = self
            .on_connection("semi-sync", end, async |connection| {
                Ok(connection.server_info().semi_sync.replica)
            })
            .await?;
        let Some(names) = names.filter(|_| enabled != on) else {
            return Ok(());
        };
        let statement = self.dialect.set_semi_sync_replica(names, on);
        self.send(&statement, end).await.map(drop)
    }

    async fn write_epoch(&mut self, table: &EpochTable, row: &EpochRow, deadline: Duration) -> Result<(), StepError> {
        let statement = self.dialect.write_epoch(table, row);
        let what = format!("writing the epoch into {table}");
        self.send_as(&what, &statement, Instant::now() + deadline)
            .await
            .map(drop)
    }

    async fn set_boot_read_only(&mut self, deadline: Duration) -> Result<(), StepError> {
        match self.dialect.set_boot_read_only(true) {
            Some(statement) => self.send(statement, Instant::now() + deadline).await.map(drop),
            None => Err(self.refused("boot read-only", 0, "the server cannot persist variables".to_owned())),
        }
    }

    async fn settings(&mut self, deadline: Duration) -> Result<ServerSettings, StepError> {
        let end = Instant::now() + deadline;
        self.on_connection("reading the settings", end, ServerConnection::server_settings)
            .await
    }

    async fn end(mut self: Box<Self>) {
        let end = Instant::now() + CLOSE_DEADLINE;
        let statement = self.dialect.release_lock(STEP_LOCK);
        if let Err(error) = self.send(&statement, end).await {
            // The server releases the lock when the connection closes.
            tracing::debug!(%error, "failed to release the step lock");
        }
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
