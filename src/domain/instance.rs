//! What is known of one server: its facts from the last successful probe, and the result of the last attempt.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::commit_stall::CommitStall;
use super::discovery::NotFollowed;
use super::group_replication::{GroupMember, GroupState};
use super::gtid::{GtidSet, TransactionOrigin};
use super::intent::Origin;
use super::key::InstanceKey;
use super::settings::ServerSettings;
use super::time::WallTime;
use super::version::ServerVersion;

/// The identity of a server, whatever address it has.
///
/// MySQL has a `server_uuid`. MariaDB has none, so its `server_id` is used, which is unique only within one replication
/// topology (MariaDB Knowledge Base, "Global Transaction ID": two servers of one topology must not share a
/// `server_id`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Identity {
    /// `@@server_uuid`, lower case.
    ServerUuid(String),
    /// `@@server_id` of a MariaDB server.
    ServerId(u32),
}

impl Identity {
    /// The origin of this server's own transactions in GTID sets.
    pub fn origin(&self) -> TransactionOrigin {
        match self {
            Self::ServerUuid(uuid) => TransactionOrigin::ServerUuid(uuid.clone()),
            Self::ServerId(id) => TransactionOrigin::ServerId(*id),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerUuid(uuid) => f.write_str(uuid),
            Self::ServerId(id) => write!(f, "server_id {id}"),
        }
    }
}

/// A position in a binary or relay log.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BinlogCoordinates {
    /// File name without directory; empty when there is none.
    pub file: String,
    /// Byte position in the file.
    pub position: u64,
}

impl fmt::Display for BinlogCoordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// State of a replication thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadState {
    /// `No`: stopped by an operator, by ham4db, or by an error.
    #[default]
    Stopped,
    /// `Yes`.
    Running,
    /// `Connecting` or `Preparing`: the thread runs, and the source does not answer.
    Connecting,
}

impl ThreadState {
    /// The number that orchestrator shows and stores: 0 stopped, 1 running, 2 anything else. (A server without replication has -1.)
    pub fn number(self) -> i8 {
        match self {
            Self::Stopped => 0,
            Self::Running => 1,
            Self::Connecting => 2,
        }
    }
}

/// The last error of a replication thread; number 0 is no error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThreadError {
    /// Server or client error number (2003: cannot connect, 2013: lost connection, 1236: the source has purged required
    /// logs).
    pub number: u32,
    /// Error text of the server.
    pub message: String,
}

/// How a channel finds its position after a reconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Positioning {
    /// By file and position.
    #[default]
    FilePosition,
    /// MySQL `SOURCE_AUTO_POSITION=1`.
    AutoPosition,
    /// MariaDB `MASTER_USE_GTID=slave_pos`.
    SlavePos,
    /// MariaDB `MASTER_USE_GTID=current_pos`.
    CurrentPos,
}

impl Positioning {
    /// Whether the channel uses GTIDs of either flavour.
    pub fn is_gtid(self) -> bool {
        match self {
            Self::FilePosition => false,
            Self::AutoPosition | Self::SlavePos | Self::CurrentPos => true,
        }
    }
}

/// One replication channel (MariaDB: connection) of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// Channel name; empty for the default channel, which is the one that ham4db manages.
    #[serde(default)]
    pub name: String,
    /// Address of the source as the replica knows it.
    pub source: InstanceKey,
    /// The source's `server_uuid` as the replica last saw it (MySQL), lower case.
    #[serde(default)]
    pub source_uuid: Option<String>,
    /// The source's `server_id` as the replica last saw it, 0 before the first connection.
    #[serde(default)]
    pub source_server_id: u32,
    /// Replication account; empty when none is set.
    #[serde(default)]
    pub user: String,
    /// State of the receiver thread.
    #[serde(default)]
    pub io: ThreadState,
    /// State of the applier thread (coordinator).
    #[serde(default)]
    pub sql: ThreadState,
    /// Last error of the receiver thread.
    #[serde(default)]
    pub io_error: ThreadError,
    /// Last error of the applier thread.
    #[serde(default)]
    pub sql_error: ThreadError,
    /// Position in the source's binary log up to which the replica received.
    #[serde(default)]
    pub read: BinlogCoordinates,
    /// Position in the source's binary log up to which the replica applied.
    #[serde(default)]
    pub exec: BinlogCoordinates,
    /// Position in the own relay log up to which the replica applied.
    #[serde(default)]
    pub relay: BinlogCoordinates,
    /// The received set: MySQL `Retrieved_Gtid_Set` (empty after a restart with `relay_log_recovery`), MariaDB
    /// `Gtid_IO_Pos`.
    #[serde(default)]
    pub retrieved: Option<GtidSet>,
    /// Heartbeats received since the start of the thread, where the server counts them in a status variable (MariaDB).
    #[serde(default)]
    pub heartbeats: Option<u64>,
    /// How the channel finds its position.
    #[serde(default)]
    pub positioning: Positioning,
    /// `Seconds_Behind_Source`; `None` while the server reports NULL.
    #[serde(default)]
    pub lag_seconds: Option<u64>,
    /// Configured delay (`SOURCE_DELAY`), seconds.
    #[serde(default)]
    pub delay_seconds: u64,
    /// Whether any `replicate-*` filter is set.
    #[serde(default)]
    pub filtered: bool,
    /// Whether the channel uses TLS.
    #[serde(default)]
    pub tls: bool,
    /// MySQL `Get_Source_public_key`.
    #[serde(default)]
    pub get_source_public_key: bool,
}

impl Channel {
    /// Whether the replica receives from its source now. Received is not applied: a stopped applier thread proves
    /// nothing about the source.
    pub fn is_receiving(&self) -> bool {
        self.io == ThreadState::Running
    }

    /// Whether the receiver thread tries to connect to the source and fails.
    pub fn is_failing_to_connect(&self) -> bool {
        self.io == ThreadState::Connecting
            || (self.io == ThreadState::Stopped && matches!(self.io_error.number, 2003 | 2005 | 2013 | 2026))
    }
}

/// Settings and status of semi-synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the server's own switches, one field each")]
pub struct SemiSync {
    /// Both plugins are installed (MariaDB: built in).
    pub available: bool,
    /// Semi-sync is enabled for the role of source.
    pub source_enabled: bool,
    /// Semi-sync is enabled for the role of replica.
    pub replica_enabled: bool,
    /// Milliseconds without acknowledgement after which a source falls back to asynchronous replication.
    pub timeout_millis: u64,
    /// Number of acknowledgements that a commit waits for.
    pub wait_for_count: u32,
    /// `wait_no_replica`: commits also wait while too few replicas are connected.
    pub wait_no_replica: bool,
    /// `AFTER_SYNC` (true) or `AFTER_COMMIT`.
    pub after_sync: bool,
    /// The source waits for acknowledgements now and has not fallen back.
    pub source_active: bool,
    /// Number of connected semi-sync replicas.
    pub clients: u32,
    /// Number of commits that wait for acknowledgements now.
    pub wait_sessions: u32,
    /// The replica acknowledges now.
    pub replica_active: bool,
    /// Result of `DetectSemiSyncEnforcedQuery`: a higher number is preferred, 0 is never; `None` without the query.
    pub priority: Option<u32>,
}

/// A replica as its source sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectedReplica {
    /// Address: `report_host`:`report_port` where the replica reports it, otherwise the connection's host and the source's port.
    pub key: InstanceKey,
    /// Whether the replica reported the address itself.
    pub reported: bool,
}

/// What a server reported of itself in one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the server's own switches, one field each")]
pub struct InstanceFacts {
    /// Identity of the server.
    pub identity: Identity,
    /// `@@hostname`.
    #[serde(default)]
    pub hostname: String,
    /// `@@report_host`:`@@report_port` when set.
    #[serde(default)]
    pub reported: Option<InstanceKey>,
    /// Flavour and version.
    pub version: ServerVersion,
    /// `@@version_comment`.
    #[serde(default)]
    pub version_comment: String,
    /// `@@server_id`.
    pub server_id: u32,
    /// Seconds since the server started, at least 1; 0 is unknown.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// Start time of the server process by the server's clock, seconds since 1970. Two probes of one process may differ
    /// by a second.
    #[serde(default)]
    pub started: Option<i64>,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@super_read_only`; `None` where the flavour has none (MariaDB).
    #[serde(default)]
    pub super_read_only: Option<bool>,
    /// Whether binary logging is on.
    pub log_bin: bool,
    /// `log_replica_updates`.
    #[serde(default)]
    pub log_replica_updates: bool,
    /// `binlog_format`: ROW, MIXED or STATEMENT.
    #[serde(default)]
    pub binlog_format: String,
    /// `binlog_row_image`.
    #[serde(default)]
    pub binlog_row_image: String,
    /// End of the server's own binary log.
    #[serde(default)]
    pub binlog: Option<BinlogCoordinates>,
    /// MySQL `gtid_mode` (`ON`, `OFF`, ...); empty on MariaDB.
    #[serde(default)]
    pub gtid_mode: String,
    /// MySQL `gtid_executed`; MariaDB `gtid_binlog_state` joined with `gtid_slave_pos`.
    pub executed: GtidSet,
    /// MySQL `gtid_purged`; empty on MariaDB.
    pub purged: GtidSet,
    /// The managed replication channel. Where nothing has separated it from [`other_channels`](Self::other_channels),
    /// all channels of the server, the default channel first.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Replication channels that ham4db does not manage ([`ManagedChannel`]): it changes none of them, and they link no
    /// clusters.
    ///
    /// [`ManagedChannel`]: super::managed_channel::ManagedChannel
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_channels: Vec<Channel>,
    /// Semi-synchronous replication.
    #[serde(default)]
    pub semi_sync: SemiSync,
    /// Connected replicas as the server sees them, ordered, without duplicates.
    #[serde(default)]
    pub replicas: Vec<ConnectedReplica>,
    /// Whether the replication account and its password can be read from the server (MySQL `mysql.slave_master_info`).
    #[serde(default)]
    pub replication_credentials_available: bool,
    /// Whether Pseudo-GTID entries pass through the server: by a configured query, or because ham4db writes them where
    /// there are no GTIDs.
    #[serde(default)]
    pub uses_pseudo_gtid: bool,
    /// Data center by query or pattern; empty when unknown.
    #[serde(default)]
    pub data_center: String,
    /// Region; empty when unknown.
    #[serde(default)]
    pub region: String,
    /// Environment; empty when unknown.
    #[serde(default)]
    pub environment: String,
    /// `@@datadir`.
    #[serde(default)]
    pub data_directory: String,
    /// Settings and privileges, read about once a minute; `None` before the first read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ServerSettings>,
    /// Name of its Group Replication group; empty outside a group.
    #[serde(default)]
    pub group_name: String,
    /// Its membership of the group; `None` outside a group, and where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupMember>,
    /// The peer address of the connection of this probe. `None` where applications cannot use that address, or where it
    /// is not known among several addresses of one name. Only of this member's own probes: another member may reach the
    /// server elsewhere.
    #[serde(skip)]
    pub peer: Option<IpAddr>,
    /// The connection of this probe had no TLS, or TLS that is not verified. Only of this member's own probes.
    #[serde(skip)]
    pub is_unverified: bool,
    /// Whether the server had no free connection and was probed through its admin endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[serde(rename = "byReservedDoor")]
    pub by_admin_endpoint: bool,
    /// Parts of the probe that failed, each as `what: why`. Everything that depends on them is unknown.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Whether two start times may belong to one server process: [`InstanceFacts::started`] is computed from two whole
/// numbers of seconds, and clocks are adjusted in small steps. An unknown start time is no evidence of a second
/// process.
pub fn is_same_process(one: Option<i64>, other: Option<i64>) -> bool {
    /// A server cannot start, take writes, stop and start again within so many seconds.
    const CLOSE_SECONDS: u64 = 2;
    match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) <= CLOSE_SECONDS,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl InstanceFacts {
    /// Whether transactions were committed since an earlier probe: the end of the binary log has moved. A MySQL
    /// semi-sync source writes to its binary log before it waits (`AFTER_SYNC`), so clients that give up and retry also
    /// move the end. There the executed set decides.
    pub fn committed_since(&self, before: &Self) -> bool {
        let tells_by_gtid = self.semi_sync.source_enabled && self.gtid_mode == "ON" && before.gtid_mode == "ON";
        if tells_by_gtid {
            self.executed != before.executed
        } else {
            self.binlog != before.binlog
        }
    }

    /// The managed channel: the default channel, or the only one.
    pub fn managed_channel(&self) -> Option<&Channel> {
        self.channels
            .iter()
            .find(|channel| channel.name.is_empty())
            .or(match self.channels.as_slice() {
                [only] => Some(only),
                _ => None,
            })
    }

    /// Whether a backup is known to hold its lock on the server.
    pub fn has_backup_lock(&self) -> bool {
        self.settings
            .as_ref()
            .is_some_and(|settings| settings.backup_lock == Some(true))
    }

    /// Whether an ordinary account can write.
    pub fn is_writable(&self) -> bool {
        !self.read_only
    }

    /// Whether the server is a member of a replication group. A server with an unreadable membership counts as a
    /// member, because ham4db does not change anything inside a group.
    pub fn is_group_member(&self) -> bool {
        !self.group_name.is_empty()
            && self
                .group
                .as_ref()
                .is_none_or(|group| group.state != GroupState::Offline)
    }

    /// Whether the server keeps the binary logs of its source and executes nothing: `MaxScale`'s binlog router, which
    /// names itself in its version.
    pub fn is_binlog_server(&self) -> bool {
        [&self.version.text, &self.version_comment]
            .iter()
            .any(|text| text.to_ascii_lowercase().contains("maxscale"))
    }

    /// The union of executed and received transactions, applied or not.
    pub fn received(&self) -> GtidSet {
        match self.managed_channel().and_then(|channel| channel.retrieved.as_ref()) {
            Some(retrieved) => self.executed.union(retrieved),
            None => self.executed.clone(),
        }
    }
}

/// Why a probe of a server failed, sorted by what the failure proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum ProbeFailure {
    /// The host refused the connection: nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// An open connection was lost, or the server closed it during the handshake.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer to the TCP connection attempt within the deadline: packets are dropped, or the host is down.
    #[error("no answer to the connection attempt")]
    NoAnswer,
    /// The host or network is unreachable.
    #[error("host unreachable: {0}")]
    Unreachable(String),
    /// The host name does not resolve.
    #[error("name does not resolve: {0}")]
    Name(String),
    /// The TCP connection was established, and no greeting or answer came within the deadline: the process is stopped
    /// or stalled.
    #[error("accepts connections and does not answer")]
    Stalled,
    /// Error 1040 or 1203: the server is alive and has no free connection.
    #[error("too many connections")]
    Saturated,
    /// The server refused the account (1045, 1044, ...).
    #[error("access denied: {0}")]
    Denied(String),
    /// ham4db has no credentials for the server.
    #[error("no credentials: {0}")]
    NoCredentials(String),
    /// The server answered with any other error.
    #[error("server error {number}: {message}")]
    Server {
        /// Error number.
        number: u16,
        /// Its text.
        message: String,
    },
    /// An answer that cannot be parsed.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

impl ProbeFailure {
    /// Whether the failure proves that the server process is alive. Such a failure is never evidence of a dead primary.
    pub fn proves_life(&self) -> bool {
        match self {
            Self::Stalled | Self::Saturated | Self::Denied(_) | Self::Server { .. } | Self::Unreadable(_) => true,
            Self::Refused
            | Self::Lost(_)
            | Self::NoAnswer
            | Self::Unreachable(_)
            | Self::Name(_)
            | Self::NoCredentials(_) => false,
        }
    }

    /// Whether the failure consists of an answer that did not come in time. A process that is late itself sees it too.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::NoAnswer | Self::Stalled)
    }

    /// Whether the failure proves anything about the server. Missing credentials and an unresolvable name do not.
    pub fn is_about_the_server(&self) -> bool {
        match self {
            Self::NoCredentials(_) | Self::Name(_) => false,
            Self::Refused
            | Self::Lost(_)
            | Self::NoAnswer
            | Self::Unreachable(_)
            | Self::Stalled
            | Self::Saturated
            | Self::Denied(_)
            | Self::Server { .. }
            | Self::Unreadable(_) => true,
        }
    }
}

/// A server in a topology: its last facts and the result of the last probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The address that is probed.
    pub key: InstanceKey,
    /// Facts of the last complete probe; `None` when no probe succeeded yet.
    #[serde(default)]
    pub facts: Option<InstanceFacts>,
    /// When those facts were read.
    #[serde(default)]
    pub last_seen: Option<WallTime>,
    /// When the last probe ended, successful or not.
    #[serde(default)]
    pub last_checked: Option<WallTime>,
    /// How the last probe failed; `None` after a success.
    #[serde(default)]
    pub failure: Option<ProbeFailure>,
    /// The last probe connected, got some answers and failed on others.
    #[serde(default)]
    pub partial: bool,
    /// Duration of the last complete probe, microseconds.
    #[serde(default)]
    pub latency_micros: u64,
    /// Since when this member has seen no commit ([`InstanceFacts::committed_since`]); `None` without a binary log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlog_unmoved_since: Option<WallTime>,
    /// Since when this member has seen, at every probe, commits that wait for acknowledgements, and none that was
    /// acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks_awaited_since: Option<WallTime>,
    /// The server takes writes since its process started, and it was read-only when this member last probed the
    /// previous process: a configuration file made it writable, not a statement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopened_by_start: bool,
    /// The holder of the owner lock on this server, when it has held the lock for some seconds and is not a member of
    /// this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub another_controller: Option<String>,
    /// Why the server commits nothing although it answers; `None` also where that is not checked (it is checked on
    /// primaries only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_stall: Option<CommitStall>,
    /// The origin of the account with which the last complete probe logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Origin>,
    /// Addresses that the server names and that this member does not dial; at most the first
    /// [`MAX_REPORTED`](super::discovery::MAX_REPORTED).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_followed: Vec<NotFollowed>,
    /// The name of the member that probed the instance last; `None`: a probe of this member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_by: Option<String>,
}

impl Instance {
    /// The instance with the facts of an earlier observation, and the time of that, when there are none since then.
    #[must_use]
    pub fn with_facts_of<'a>(&'a self, earlier: Option<&Self>) -> Cow<'a, Self> {
        match earlier {
            Some(earlier) if self.facts.is_none() => Cow::Owned(Self {
                facts: earlier.facts.clone(),
                last_seen: self.last_seen.or(earlier.last_seen),
                ..self.clone()
            }),
            Some(_) | None => Cow::Borrowed(self),
        }
    }

    /// An address that was never probed.
    pub fn unseen(key: InstanceKey) -> Self {
        Self {
            key,
            facts: None,
            last_seen: None,
            last_checked: None,
            failure: None,
            partial: false,
            latency_micros: 0,
            binlog_unmoved_since: None,
            acks_awaited_since: None,
            reopened_by_start: false,
            another_controller: None,
            commit_stall: None,
            account: None,
            not_followed: Vec::new(),
            observed_by: None,
        }
    }

    /// Whether the last probe succeeded, so that the facts are current.
    pub fn is_valid(&self) -> bool {
        self.failure.is_none() && self.facts.is_some()
    }

    /// Whether the last probe failed in a way that does not prove that the server is alive. A server that was not probed yet is
    /// not absent.
    pub fn is_absent(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| !failure.proves_life())
    }

    /// The facts, only when they are current.
    pub fn valid_facts(&self) -> Option<&InstanceFacts> {
        if self.is_valid() { self.facts.as_ref() } else { None }
    }

    /// The managed channel of the last facts, current or not.
    pub fn channel(&self) -> Option<&Channel> {
        self.facts.as_ref().and_then(InstanceFacts::managed_channel)
    }

    /// Start time of the server process by its last facts, up to two seconds late or one second early; `None` when it
    /// is unknown.
    pub fn started(&self) -> Option<WallTime> {
        let facts = self.facts.as_ref().filter(|facts| facts.uptime_seconds > 0)?;
        let millis = i64::try_from(facts.uptime_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Some(self.last_seen?.plus_millis(-millis))
    }

    /// The address of its source by its last facts.
    pub fn source(&self) -> Option<&InstanceKey> {
        self.channel().map(|channel| &channel.source)
    }
}

/// What one member saw of one instance at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// The probed address.
    pub key: InstanceKey,
    /// When the probe began.
    pub begun: WallTime,
    /// When it ended.
    pub ended: WallTime,
    /// Duration of the probe, microseconds.
    pub micros: u64,
    /// The facts, or why the probe failed.
    pub outcome: Result<Box<InstanceFacts>, ProbeFailure>,
}
