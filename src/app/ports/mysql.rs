//! The managed MySQL and MariaDB servers: accounts, probes, and sessions that change a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::commit_stall::WaitingSession;
use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::errant::Decoded;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Identity, InstanceFacts, Observation};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::settings::ServerSettings;

use super::LogSource;

/// An account on managed servers. `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct Account {
    /// User.
    pub user: String,
    /// Password.
    pub password: SecretString,
}

/// The accounts for the servers of one origin.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// For probes and steps.
    pub topology: Account,
    /// For replication channels that are set up anew; `None`: what the replica has is kept.
    pub replication: Option<Account>,
    /// Whether connections ask for TLS.
    pub tls: TlsMode,
    /// PEM of the authority that signs the servers' certificates, with [`TlsMode::Verify`].
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

/// Last good credentials by origin; who cannot be read is not in it. [`Origin::Api`] holds the configuration's.
pub type CredentialsByOrigin = Arc<BTreeMap<Origin, Credentials>>;

/// A server to be asked: where, and with whose account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address.
    pub instance: InstanceKey,
    /// Whose credentials open it.
    pub origin: Origin,
}

/// How a probe may go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// On the connection that is kept open to the server.
    Kept,
    /// On a connection made for this probe: proof that the server accepts one now. The kept connection is replaced by it.
    Fresh,
}

/// The answer to a pulse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Answered, in so many microseconds.
    Alive(u64),
    /// There was no open connection, or it broke, or no answer came in time: worth a fresh attempt at once.
    Doubt(String),
}

/// Asks managed servers. All methods end within their deadline whatever the server does.
#[async_trait]
pub trait Prober: Send + Sync {
    /// One full probe. Never fails: the failure is part of the observation.
    async fn probe(&self, target: &Target, approach: Approach, deadline: Duration) -> Observation;

    /// One cheap round trip on a kept connection of its own.
    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse;

    /// Closes what is kept open to a server that is no longer watched.
    async fn release(&self, instance: &InstanceKey);
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The server could not be reached, or the account was refused: nothing was done.
    #[error("{instance}: cannot connect: {why}")]
    NotConnected {
        /// Which.
        instance: InstanceKey,
        /// Why.
        why: String,
    },
    /// The server is another one than was meant.
    #[error("{instance} is {found}, not {wanted}")]
    OtherIdentity {
        /// Which.
        instance: InstanceKey,
        /// Meant.
        wanted: Identity,
        /// Found.
        found: Identity,
    },
    /// Another actor holds the step lock and could not be ended.
    #[error("{0}: another actor holds the step lock and is still there")]
    LockHeld(InstanceKey),
    /// The server answered with an error: the statement had no effect.
    #[error("{instance}: {what}: error {number}: {message}")]
    Refused {
        /// Which.
        instance: InstanceKey,
        /// What was tried, without secrets.
        what: String,
        /// Error number.
        number: u16,
        /// Its text.
        message: String,
    },
    /// The connection broke, or the deadline passed, while a statement was under way: it may or may not have had its effect.
    #[error("{instance}: {what}: outcome unknown: {why}")]
    OutcomeUnknown {
        /// Which.
        instance: InstanceKey,
        /// What was tried.
        what: String,
        /// Why.
        why: String,
    },
    /// What was waited for did not happen in time.
    #[error("{instance}: {what}: not within {millis} ms")]
    TooSlow {
        /// Which.
        instance: InstanceKey,
        /// What.
        what: String,
        /// The deadline.
        millis: u64,
    },
}

/// A transaction that changes something, open on a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenTransaction {
    /// The connection that it runs on.
    pub session: u64,
    /// The server's name for it: another one on the same connection has another name.
    pub id: String,
}

/// How a server that was a primary reaches its source.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Replication account; `None`: what the server has, if it has any.
    pub account: Option<&'a Account>,
    /// Whether a channel that is made for it asks for TLS.
    pub tls: bool,
    /// Whether it starts replicating.
    pub start: bool,
}

/// Opens step sessions on managed servers.
#[async_trait]
pub trait Executor: Send + Sync {
    /// A connection to a server that holds `GET_LOCK('ham4db.step')`; a present holder of another actor is killed and waited for.
    ///
    /// # Errors
    /// When the server cannot be reached, is another one than `identity`, or the lock cannot be had within the deadline.
    async fn begin(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError>;
}

/// All steps of one actor on one server run on one connection. It never reconnects: once broken, every call fails.
#[async_trait]
pub trait StepSession: LogSource {
    /// Which server.
    fn instance(&self) -> &InstanceKey;

    /// Full facts, read on this connection.
    async fn facts(&mut self, deadline: Duration) -> Result<InstanceFacts, StepError>;

    /// Makes the server read-only (super too, where it has it); only the statement's OK is success, never the variable.
    async fn set_read_only(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Makes the server writable.
    async fn set_writable(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Ends all client sessions but our own, replication and the system's. Returns how many.
    async fn kill_clients(&mut self, deadline: Duration) -> Result<u32, StepError>;

    /// Stops the receiving thread of the managed channel; the applying thread goes on.
    async fn stop_receiving(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Starts the receiving thread again.
    async fn start_receiving(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Starts the applying thread when it is stopped without an error, in the way that keeps the relay log (MariaDB: see
    /// reference on relay logs: with both threads stopped the rescue form is needed).
    async fn start_applying(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// The same, without the delay that the thread was told to keep: that is gone from then on, and the channel off GTID until
    /// [`delay_by`](Self::delay_by).
    async fn apply_at_once(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Lets the applying thread wait so many seconds from now on, by GTID, after it has applied all that was received. The receiving
    /// thread runs or not as before.
    async fn delay_by(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError>;

    /// Waits until everything in `set` is applied.
    async fn wait_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Forgets the managed channel's configuration. Only after everything received is applied.
    async fn reset_replication(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Switches semi-sync's source side on or off, where the plugin is there and the server was a semi-sync member; else does nothing.
    async fn set_semi_sync_source(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Makes commits wait for so many replicas, whoever is connected and as good as for ever; 0: for none.
    ///
    /// # Errors
    /// [`StepError::Refused`] also where the plugin is missing.
    async fn wait_for_replicas(&mut self, count: u32, deadline: Duration) -> Result<(), StepError>;

    /// Makes the replica acknowledge, or not, and reconnects its receiving thread, which makes it count.
    ///
    /// # Errors
    /// [`StepError::Refused`] also where the plugin is missing.
    async fn acknowledge(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Lets the managed channel, which is by GTID and acknowledges, connect by position once, after all that was received is applied,
    /// and go back to GTID. The source takes what lies before that position for acknowledged.
    async fn acknowledge_received(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Points the managed channel at a new source by GTID, keeping account and TLS options, and starts it.
    /// `account` replaces the channel's account (needed where it never had one).
    async fn follow(
        &mut self,
        source: &InstanceKey,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// Waits until everything that was received is applied, told without GTIDs.
    async fn wait_all_applied(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// Where those go on in this server's binary log who have applied its source's log up to these places, each told or with the
    /// reason why it cannot be. Only after everything received is applied, and before the channel is forgotten.
    async fn locate(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<Result<BinlogCoordinates, String>>, StepError>;

    /// [`follow`](Self::follow), from a place in the source's binary log.
    async fn follow_at(
        &mut self,
        source: &InstanceKey,
        place: &BinlogCoordinates,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// Commits an empty transaction under each of these GTIDs, as far as the server lacks them. Only on a writable MySQL server.
    async fn inject_empty(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Removes all binary logs and GTIDs, and sets `keep` as what was executed. A channel that ran is stopped before and started after.
    /// Only on a MySQL server.
    async fn reset_gtids(&mut self, keep: &GtidSet, deadline: Duration) -> Result<(), StepError>;

    /// Points a server that was a primary at a source by GTID, from the end of all that it has.
    async fn attach(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError>;

    /// The transactions of clients that have changed or locked something and are open now.
    async fn transactions(&mut self, deadline: Duration) -> Result<Vec<OpenTransaction>, StepError>;

    /// Ends these sessions, and waits until they are gone. One that is gone already is no error.
    async fn kill_sessions(&mut self, sessions: &BTreeSet<u64>, deadline: Duration) -> Result<(), StepError>;

    /// Account and password of the managed channel where the server shows them (MySQL), otherwise `None`.
    async fn replication_account(&mut self, deadline: Duration) -> Result<Option<Account>, StepError>;

    /// Switches semi-sync's replica side on or off, where the plugin is there; counts from the next start of the receiving thread.
    async fn set_semi_sync_replica(&mut self, on: bool, deadline: Duration) -> Result<(), StepError>;

    /// Writes the epoch of the cluster into a table of the user, on a server that takes writes.
    async fn write_epoch(&mut self, table: &EpochTable, row: &EpochRow, deadline: Duration) -> Result<(), StepError>;

    /// Lets the next start of the server be read-only; the running one stays as it is. An error where it cannot be persisted.
    async fn set_boot_read_only(&mut self, deadline: Duration) -> Result<(), StepError>;

    /// What the server is set to now, and who may do what on it.
    async fn settings(&mut self, deadline: Duration) -> Result<ServerSettings, StepError>;

    /// Releases the lock and closes. Dropping without it closes too.
    async fn end(self: Box<Self>);
}

/// Who holds the owner's lock on a server (design §4.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// A session of a member of this group.
    ThisGroup,
    /// Anybody else, as `user@host` where that can be seen.
    Another(String),
}

/// The lock on each primary that says which group acts on its cluster.
#[async_trait]
pub trait OwnerLocks: Send + Sync {
    /// Looks who holds the lock of a server; with `take` takes it when it is free, without gives back what this member holds.
    ///
    /// # Errors
    /// Why it could not be seen within the deadline (one for connecting, one for looking).
    async fn look(&self, target: &Target, group: &str, take: bool, deadline: Duration) -> Result<Owner, String>;

    /// Closes what is kept open to a server; a lock that was held is free then.
    async fn release(&self, instance: &InstanceKey);
}

/// Looks at the commits of a server.
#[async_trait]
pub trait CommitProbe: Send + Sync {
    /// The sessions that are in a state in which commits wait.
    ///
    /// # Errors
    /// Why it could not be seen within the deadline.
    async fn waiting(&self, target: &Target, deadline: Duration) -> Result<Vec<WaitingSession>, String>;

    /// Writes a row on a connection of its own, on this server, if it is that one and takes writes. To connect has a deadline; the
    /// statement has none, since how long it takes is what is asked. One that is dropped closes the connection.
    ///
    /// # Errors
    /// Why it was not written, or perhaps not.
    async fn canary(&self, target: &Target, identity: &Identity, statement: &str) -> Result<(), String>;

    /// Closes what is kept open to a server.
    async fn release(&self, instance: &InstanceKey);
}

/// Writes entries.
#[async_trait]
pub trait EntryWriter: Send + Sync {
    /// Runs a statement on this server, if it is that one and takes writes.
    ///
    /// # Errors
    /// Why it was not written, or perhaps not.
    async fn write_entry(
        &self,
        target: &Target,
        identity: &Identity,
        statement: &str,
        deadline: Duration,
    ) -> Result<(), String>;
}

/// Reads transactions from a server's binary logs.
#[async_trait]
pub trait BinlogReader: Send + Sync {
    /// What is in these transactions. Ends about with the deadline; what was found until then is told.
    ///
    /// # Errors
    /// When the server cannot be asked at all.
    async fn decode(&self, target: &Target, wanted: &GtidSet, deadline: Duration) -> Result<Decoded, String>;
}
