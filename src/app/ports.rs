//! What the use cases need from outside, as traits; adapters implement them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::finding::Opinion;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Identity, InstanceFacts, Observation};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::settings::ServerSettings;
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, MemberId, State};
use crate::domain::time::{Mono, Wall};
use crate::domain::topology::ClusterId;

use super::log_source::LogSource;

/// The clocks of this machine.
pub trait Clock: Send + Sync {
    /// Wall time, for records and expiry.
    fn wall(&self) -> Wall;
    /// Monotonic time of this process, for freshness.
    fn mono(&self) -> Mono;
}

// === credentials ===

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

// === managed servers ===

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

// === hooks ===

/// A command of the configuration, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// For the shell.
    pub text: String,
    /// Variables beside the process's own.
    pub environment: BTreeMap<&'static str, String>,
    /// What stands on its standard input.
    pub input: String,
    /// How long it may take; then it ends with everything that it began.
    pub deadline: Duration,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookExit {
    /// By itself, with this code; 0 is success.
    Code(i32),
    /// By a signal that somebody else sent.
    Signal(i32),
    /// It was ended at its deadline.
    TooSlow,
    /// It could not be started, or not be followed.
    NotRun(String),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEnd {
    /// How it ended.
    pub exit: HookExit,
    /// The end of what it wrote to both its outputs, bounded.
    pub output: String,
    /// How many milliseconds it took.
    pub millis: u64,
}

/// Runs commands of the configuration on this machine.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs one command to its end, at the latest to its deadline. Never fails: the failure is part of the answer.
    async fn run(&self, call: HookCall) -> HookEnd;
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

// === consensus ===

/// Who leads, as this member knows it. For display, proxying and waking loops; never a licence to act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Term.
    pub term: u64,
    /// This member believes that it leads.
    pub is_leader: bool,
    /// The leader.
    pub leader: Option<Peer>,
}

/// A member of the committed membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Id.
    pub id: MemberId,
    /// Name.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API, as `http://host:port`.
    pub http_uri: String,
    /// Voter, or learner.
    pub voter: bool,
}

/// Health of this member in its group, as `/api/raft-health` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A voter that has caught up and has fresh proof of a live quorum.
    Healthy,
    /// Not so, with the reason.
    Unhealthy(String),
}

/// Why a command was not, or not certainly, applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead; nothing was proposed.
    #[error("not the leader{}", .0.as_ref().map(|peer| format!("; {} leads", peer.name)).unwrap_or_default())]
    NotLeader(Option<Peer>),
    /// No quorum: nothing was committed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The deadline passed: the command may or may not be committed.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The member is broken and must be restarted.
    #[error("consensus stopped: {0}")]
    Stopped(String),
    /// Members run an older program that would not understand the command; nothing was proposed. Who refuses says it in the log, now and
    /// then: callers that ask again and again need not.
    #[error("{0}")]
    NotUnderstood(String),
}

/// Why the right to act could not be proved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// No quorum answered in time.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// A higher epoch exists, the recovery is over, or another member holds it.
    #[error("the claim is not current: {0}")]
    Stale(String),
}

/// Agreement among members.
#[async_trait]
pub trait Consensus: Send + Sync {
    /// This member.
    fn me(&self) -> Peer;

    /// Whether a group is running (raft), or this member is alone.
    fn is_raft(&self) -> bool;

    /// Changes the replicated state; returns after this member has applied it.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;

    /// Proves, with a quorum's help, that the claim is current now. Before every effect.
    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed>;

    /// Proves, with a quorum's help, that this member leads now and has applied all that was committed before the call.
    async fn barrier(&self) -> Result<(), Unconfirmed>;

    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// The applied state of this member.
    fn state(&self) -> watch::Receiver<Arc<State>>;

    /// Health of this member.
    fn health(&self) -> Health;

    /// The committed membership, ordered by name.
    fn peers(&self) -> Vec<Peer>;

    /// Asks the other voters for their opinion of a suspect. One entry per other voter: those who did not answer in time say Missing.
    async fn ask_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion>;

    /// Hands leadership to another member, if this one leads.
    async fn hand_over(&self, deadline: Duration);
}

/// A question to the members: what do you see of this suspect and its replicas?
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// In which cluster.
    pub cluster: ClusterId,
    /// The suspect.
    pub suspect: InstanceKey,
    /// Its replicas as the asker knows them.
    pub replicas: BTreeSet<InstanceKey>,
    /// How long the answer may take, milliseconds.
    pub millis: u64,
}

/// Answers questions of other members; `app` implements it, the consensus adapter calls it.
#[async_trait]
pub trait OpinionSource: Send + Sync {
    /// This member's opinion, from probes begun now.
    async fn opinion(&self, question: Question) -> Opinion;
}

/// A record outside of the members that a group was founded; it outlives the loss of the founder's disk.
#[async_trait]
pub trait BootstrapMarker: Send + Sync {
    /// Creates the record with this content if there is none; returns the content that is there now.
    ///
    /// # Errors
    /// When it can neither be created nor read: never taken as "there is none", the bootstrap waits.
    async fn create_or_read(&self, content: &str) -> std::io::Result<String>;
}

// === the backend ===

/// How far the stored state has come, written in the same transaction as the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppliedMark {
    /// Uuid of the group; empty before the bootstrap.
    pub group_uuid: String,
    /// History id of the group.
    pub history: String,
    /// The member that the backend belongs to; 0 before the bootstrap.
    pub member: MemberId,
    /// The consensus adapter's own position (raft: last applied log id and membership, as JSON).
    pub position: String,
}

/// The backend cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend {backend}: {what}: {why}")]
pub struct StoreError {
    /// Which backend, without secrets.
    pub backend: String,
    /// What was tried.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// The replicated state in the backend's tables.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Reads everything.
    async fn load(&self) -> Result<(State, AppliedMark), StoreError>;

    /// Writes the changed records and the mark in one transaction.
    async fn write(
        &self,
        state: &State,
        changes: &BTreeSet<crate::domain::state::Change>,
        mark: &AppliedMark,
    ) -> Result<(), StoreError>;

    /// Replaces everything, in one transaction: a snapshot was received, or the backend belonged to another history.
    async fn replace(&self, state: &State, mark: &AppliedMark) -> Result<(), StoreError>;
}
