//! The managed MySQL and MariaDB servers: accounts, probes, and sessions that change a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::commit_stall::WaitingSession;
use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::errant::DecodedTransactions;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Identity, InstanceFacts, Observation};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::relay_log_match::LogEvent;
use crate::domain::scheduled_events::{EventsEnabled, ScheduledEvent};
use crate::domain::settings::ServerSettings;

/// An account on managed servers. `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct Account {
    /// User name.
    pub user: String,
    /// Password.
    pub password: SecretString,
}

/// The accounts for the servers of one origin.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The account for probes and steps.
    pub topology: Account,
    /// The account for replication channels that are created anew; `None`: a replica keeps the account of its channel.
    pub replication: Option<Account>,
    /// Whether connections use TLS.
    pub tls: TlsMode,
    /// The certificate authority of the servers as PEM, with [`TlsMode::Verify`].
    pub ca_pem: Option<String>,
}

/// TLS to managed servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    #[default]
    Off,
    /// When the server offers it, unverified.
    Preferred,
    /// Always, unverified.
    Required,
    /// Always, certificate and host name verified.
    Verify,
}

/// The last known credentials by origin; an origin with unreadable credentials is absent. [`Origin::Api`] has those of the configuration.
pub type CredentialsByOrigin = Arc<BTreeMap<Origin, Credentials>>;

/// A server and the account that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub instance: InstanceKey,
    /// The origin of the credentials.
    pub origin: Origin,
}

/// The connection that a probe uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeConnection {
    /// The connection that is kept open to the server.
    Kept,
    /// A new connection, which proves that the server accepts one now. It replaces the kept connection.
    Fresh,
}

/// The answer to a pulse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The server answered, after so many microseconds.
    Alive(u64),
    /// There was no open connection, the connection broke, or no answer came in time. A new connection is to be tried immediately.
    Doubt(String),
}

/// Probes managed servers. Methods with a deadline end within it, whatever the server does.
#[async_trait]
pub trait Prober: Send + Sync {
    /// One full probe. Never fails: a failure is part of the observation.
    async fn probe(&self, target: &Target, approach: ProbeConnection, deadline: Duration) -> Observation;

    /// One cheap round trip on a separate kept connection.
    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse;

    /// Waits until the server or its host closes the kept connection of the pulses, as at the death of the process. Never ends while
    /// there is no such connection, or when packets are dropped silently. The caller cancels it before the next pulse.
    async fn disconnected(&self, instance: &InstanceKey);

    /// Closes the kept connections to a server that is no longer polled.
    async fn release(&self, instance: &InstanceKey);
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The server could not be reached, or it refused the account. Nothing was done.
    #[error("{instance}: cannot connect: {why}")]
    NotConnected {
        /// The server.
        instance: InstanceKey,
        /// The reason.
        why: String,
    },
    /// The address belongs to another server than the intended one.
    #[error("{instance} is {found}, not {wanted}")]
    OtherIdentity {
        /// The server.
        instance: InstanceKey,
        /// The intended identity.
        wanted: Identity,
        /// The identity at the address.
        found: Identity,
    },
    /// Another actor holds the step lock, and its session could not be ended.
    #[error("{0}: another actor holds the step lock and its session did not end")]
    LockHeld(InstanceKey),
    /// The server answered with an error. The statement had no effect.
    #[error("{instance}: {what}: error {number}: {message}")]
    Refused {
        /// The server.
        instance: InstanceKey,
        /// The operation, without secrets.
        what: String,
        /// The error number of the server.
        number: u16,
        /// The error text of the server.
        message: String,
    },
    /// The connection broke or the deadline passed during a statement. The statement may or may not have had its effect.
    #[error("{instance}: {what}: outcome unknown: {why}")]
    OutcomeUnknown {
        /// The server.
        instance: InstanceKey,
        /// The operation.
        what: String,
        /// The reason.
        why: String,
    },
    /// The awaited condition was not reached in time.
    #[error("{instance}: {what}: not within {millis} ms")]
    TooSlow {
        /// The server.
        instance: InstanceKey,
        /// The condition.
        what: String,
        /// The deadline, milliseconds.
        millis: u64,
    },
}

/// A transaction that changes something, open on a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenTransaction {
    /// The connection that it runs on.
    pub session: u64,
    /// The server's id of the transaction. Another transaction on the same connection has another id.
    pub id: String,
}

/// A client session that holds, or may hold, a lock for which a statement waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolderSession {
    /// Its connection id.
    pub id: u64,
    /// `user@host`.
    pub account: String,
    /// For how long its present statement, or the pause after its last one, has lasted, seconds.
    pub seconds: u64,
    /// Whether the server shows that it holds the lock. Otherwise it is one of those that may.
    pub is_certain: bool,
}

impl std::fmt::Display for LockHolderSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session {} of {}, {} s", self.id, self.account, self.seconds)
    }
}

/// How a former primary replicates from its new source.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// The replication account; `None`: the account that the server already has, if any.
    pub account: Option<&'a Account>,
    /// Whether a newly created channel uses TLS.
    pub tls: bool,
    /// Whether replication is started.
    pub start: bool,
}

/// Opens step sessions on managed servers.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Opens a connection that holds `GET_LOCK('ham4db.step')`. The session of another actor that holds the lock is killed first.
    ///
    /// # Errors
    /// When the server cannot be reached, has another identity than `identity`, or the lock is not obtained within the deadline.
    async fn begin(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError>;

    /// The same while no other session holds the lock: no session is killed, so no proof of a claim is needed before.
    ///
    /// # Errors
    /// Those of [`Executor::begin`]; [`StepError::LockHeld`] at once when another session holds the lock.
    async fn begin_if_free(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError>;

    /// A second session for the actor that holds the lock: it takes none, and ends what the first one waits for.
    ///
    /// # Errors
    /// When the server cannot be reached or has another identity than `identity`.
    async fn begin_beside(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError>;
}

/// One connection on which one actor runs all its steps on one server. It never reconnects: once it is broken, every call fails.
#[async_trait]
pub trait StepSession: LogSource {
    /// The address of the server.
    fn instance(&self) -> &InstanceKey;

    /// Sets the name of the channel that all steps of this session are about. Other channels are neither read nor
    /// changed. Without this call it is the default channel, otherwise the only one.
    fn manage_channel(&mut self, name: &str);

    /// Reads the full facts on this connection.
    async fn facts(&mut self, deadline: Duration) -> Result<InstanceFacts, StepError>;

    /// Makes the server read-only, with `super_read_only` where the server has it. Only the OK of the statement counts as success, not the
    /// value of the variable. The server itself ends a statement that waits for locks (error 1205), a second before the deadline and after one
    /// second at the earliest: a statement that was given up has no effect later.
    async fn set_read_only(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Makes the server writable.
    async fn set_writable(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Kills all client sessions except ham4db's own, those of replication and those of the system. Returns how many it killed.
    async fn kill_clients(&mut self, deadline: Duration) -> Result<u32, StepError>;

    /// Kills the same sessions without waiting until they have ended. Returns whether every client session that was there is one of them:
    /// its connection is closed, so that no client learns how a commit ends that still waits there (MySQL manual, "KILL Statement").
    /// Sessions that begin meanwhile do not count: clients connect again and again. They cannot commit while another session waits to make
    /// the server read-only, which is the caller's business.
    async fn disconnect_clients(&mut self, deadline: Duration) -> Result<bool, StepError>;

    /// Stops the receiver thread of the managed channel. The applier thread continues.
    async fn stop_receiver(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Starts the receiver thread of the managed channel.
    async fn start_receiver(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Starts the applier thread when it is stopped without an error, in the way that keeps the relay log. On MariaDB with both threads
    /// stopped that needs the form that connects by position: `START SLAVE` by GTID purges the relay log.
    async fn start_applier(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// The same, without the configured delay of the applier thread. The delay is removed, and the channel does not use GTID until
    /// [`delay_by`](Self::delay_by).
    async fn apply_without_delay(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Sets the delay of the applier thread in seconds and returns the channel to GTID, after everything received is applied. The state of
    /// the receiver thread does not change.
    async fn delay_by(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError>;

    /// Waits until all transactions of `set` are applied.
    async fn wait_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Removes the configuration of the managed channel. Call it only after everything received is applied.
    ///
    /// # Errors
    /// [`StepError::Refused`] with 1095 once where the account may not end a transaction that was received in part: it ends when the channel
    /// follows another server, or after a minute.
    async fn reset_replication(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Enables or disables semi-sync on the source side. Does nothing where the plugin is missing or the server did not use semi-sync.
    async fn set_semi_sync_source(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Makes commits wait for the acknowledgements of so many replicas, with the longest possible timeout; 0: for none.
    ///
    /// # Errors
    /// [`StepError::Refused`], also where the plugin is missing.
    async fn wait_for_replicas(&mut self, count: u32, deadline: Duration) -> Result<(), StepError>;

    /// Makes the replica acknowledge transactions or stop doing so, and restarts its receiver thread so that the change takes effect.
    ///
    /// # Errors
    /// [`StepError::Refused`], also where the plugin is missing.
    async fn acknowledge(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Connects the managed channel, which uses GTID and acknowledges, by position once, after everything received is applied, and returns
    /// it to GTID. The source then treats everything before that position as acknowledged.
    async fn acknowledge_received(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Points the managed channel at a new source by GTID, keeps its account and TLS options, and starts it. `account` replaces the account
    /// of the channel; a channel that never had an account needs it.
    async fn follow(
        &mut self,
        source: &InstanceKey,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// Waits until everything received is applied, judged by positions instead of GTIDs.
    async fn wait_all_applied(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Translates positions in the binary log of this server's source into positions in its own binary log: for each position, the place
    /// from which a replica continues that has applied the source's log up to there, or the reason why none is found. Call it only after
    /// everything received is applied, and before the channel is removed.
    async fn locate(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<Result<BinlogCoordinates, String>>, StepError>;

    /// As [`follow`](Self::follow), but from a position in the source's binary log.
    async fn follow_at(
        &mut self,
        source: &InstanceKey,
        place: &BinlogCoordinates,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// Commits an empty transaction for each of these GTIDs that the server lacks. Only on a writable MySQL server.
    async fn inject_empty(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Removes all binary logs and GTIDs, and sets `keep` as the executed set. A running channel is stopped before and started after. Only on
    /// a MySQL server.
    async fn reset_gtids(&mut self, keep: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Points a former primary at a source by GTID, from the end of its executed set.
    async fn attach(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// The open transactions of clients that have changed or locked rows.
    async fn transactions(&mut self, deadline: Duration) -> Result<Vec<OpenTransaction>, StepError>;

    /// Kills these sessions and waits until they have ended. A session that has already ended is no error.
    async fn kill_sessions(&mut self, sessions: &BTreeSet<u64>, deadline: Duration) -> Result<(), StepError>;

    /// The sessions for which a change to read-only has waited for so long, at most a few. Where the server does not show them, those that
    /// may be: their statement, or their pause, has lasted for that time at least.
    async fn sessions_that_block_read_only(
        &mut self,
        waited: Duration,
        deadline: Duration,
    ) -> Result<Vec<LockHolderSession>, StepError>;

    /// Ends the sessions of backups that keep the applier from being stopped. Returns how many.
    async fn end_backup_locks(&mut self, deadline: Duration) -> Result<u32, StepError>;

    /// Enables those of these events that are disabled as on a replica. They keep their definer. With `logged`, the change is replicated:
    /// replicas keep them disabled.
    async fn enable_events(
        &mut self,
        events: &BTreeSet<ScheduledEvent>,
        logged: bool,
        deadline: Duration,
    ) -> Result<EventsEnabled, StepError>;

    /// Disables the enabled events as on a replica, without a change to the binary log, and returns them. Does nothing where a read-only
    /// server runs no events (MySQL).
    async fn disable_events(&mut self, deadline: Duration) -> Result<BTreeSet<ScheduledEvent>, StepError>;

    /// Account and password of the managed channel where the server shows them (MySQL); otherwise `None`.
    async fn replication_account(&mut self, deadline: Duration) -> Result<Option<Account>, StepError>;

    /// Enables or disables semi-sync on the replica side where the plugin is installed. Takes effect at the next start of the receiver thread.
    async fn set_semi_sync_replica(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Writes the epoch of the cluster into the configured table, on a writable server.
    async fn write_epoch(&mut self, table: &EpochTable, row: &EpochRow, deadline: Duration) -> Result<(), StepError>;

    /// Makes the server start read-only from its next start on. The running server does not change.
    ///
    /// # Errors
    /// Also where the server cannot persist the setting.
    async fn set_boot_read_only(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// The settings of the server and the privileges of its accounts.
    async fn settings(&mut self, deadline: Duration) -> Result<ServerSettings, StepError>;

    /// Releases the step lock and closes the connection. Dropping the session closes it too.
    async fn end(self: Box<Self>);
}

/// The holder of the controller lock on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// The lock is free.
    None,
    /// A session of a member of this group holds it.
    ThisGroup,
    /// Another session holds it: `user@host` where that is visible.
    Another(String),
}

/// The lock on each primary that shows which group controls its cluster.
#[async_trait]
pub trait ControllerLockClient: Send + Sync {
    /// Reads the holder of the lock on a server. With `take`, acquires the lock when it is free; without it, releases the lock when this
    /// member holds it.
    ///
    /// # Errors
    /// Why the holder could not be read within the deadline, which applies to the connection and to the query separately.
    async fn holder(&self, target: &Target, group: &str, take: bool, deadline: Duration) -> Result<LockHolder, String>;

    /// Closes the kept connection to a server, which frees a lock that this member held.
    async fn release(&self, instance: &InstanceKey);
}

/// Tests whether a primary commits.
#[async_trait]
pub trait CommitProbe: Send + Sync {
    /// The sessions in a state in which commits wait.
    ///
    /// # Errors
    /// Why they could not be read within the deadline.
    async fn waiting(&self, target: &Target, deadline: Duration) -> Result<Vec<WaitingSession>, String>;

    /// Writes a row on a new connection, if the server has this identity and is writable. Only the connection attempt has a deadline: the
    /// duration of the statement is what is measured. Dropping the future closes the connection.
    ///
    /// # Errors
    /// Why the row was not written, or may not have been written.
    async fn canary(&self, target: &Target, identity: &Identity, statement: &str) -> Result<(), String>;

    /// Closes the kept connection to a server.
    async fn release(&self, instance: &InstanceKey);
}

/// Writes Pseudo-GTID entries.
#[async_trait]
pub trait EntryWriter: Send + Sync {
    /// Runs a statement on the server, if the server has this identity and is writable.
    ///
    /// # Errors
    /// Why the entry was not written, or may not have been written.
    async fn write_entry(
        &self,
        target: &Target,
        identity: &Identity,
        statement: &str,
        deadline: Duration,
    ) -> Result<(), String>;
}

/// Reads transactions from the binary logs of a server.
#[async_trait]
pub trait BinlogReader: Send + Sync {
    /// The content of the `wanted` transactions. Ends approximately at the deadline and returns what was found until then.
    ///
    /// # Errors
    /// When the server cannot be queried at all.
    async fn decode(
        &self,
        target: &Target,
        wanted: &GtidSet,
        deadline: Duration,
    ) -> Result<DecodedTransactions, String>;
}

/// A kind of log of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// The binary log.
    Binary,
    /// The relay log of the managed channel.
    Relay,
}

impl std::fmt::Display for LogKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "its binary log",
            Self::Relay => "its relay log",
        })
    }
}

/// A range of events in one log file.
#[derive(Clone, Copy, Debug)]
pub struct LogRange<'a> {
    /// The kind of log.
    pub log: LogKind,
    /// The log file.
    pub file: &'a str,
    /// The position of the first event, bytes; `None`: the first event of the file.
    pub from: Option<u64>,
    /// How many events to skip from there.
    pub skip: usize,
    /// The most events to read.
    pub limit: usize,
}

/// A connection that can read logs.
#[async_trait]
pub trait LogSource: Send {
    /// The files of a log, oldest first.
    async fn log_files(&mut self, log: LogKind, deadline: Duration) -> Result<Vec<String>, StepError>;

    /// The events of a range, in their order.
    async fn log_events(&mut self, piece: &LogRange<'_>, deadline: Duration) -> Result<Vec<LogEvent>, StepError>;
}

/// Opens connections that only read logs.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// Opens a connection without the step lock, which only a session that changes a server needs.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the account.
    async fn open(&self, target: &Target, deadline: Duration) -> Result<Box<dyn LogSource>, StepError>;
}
