//! What is known of one server: its facts as it told them, and how the last attempt to ask it ended.

use core::net::IpAddr;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::commit_stall::CommitStall;
use super::group_replication::{GroupMember, GroupState};
use super::gtid::{GtidSet, Origin};
use super::key::InstanceKey;
use super::settings::ServerSettings;
use super::time::WallTime;
use super::version::ServerVersion;

/// Who a server is, whatever address it has.
///
/// MySQL tells a `server_uuid`. MariaDB has none, so its `server_id` stands in, which is unique only within one replication
/// topology (MariaDB Knowledge Base, "Global Transaction ID": two servers of one topology must not share a `server_id`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Identity {
    /// `@@server_uuid`, lower case.
    ServerUuid(String),
    /// `@@server_id` of a MariaDB server.
    ServerId(u32),
}

impl Identity {
    /// The origin that this server's own transactions carry in GTID sets.
    pub fn origin(&self) -> Origin {
        match self {
            Self::ServerUuid(uuid) => Origin::ServerUuid(uuid.clone()),
            Self::ServerId(id) => Origin::ServerId(*id),
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

/// A place in a binary or relay log.
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
    /// `No`: stopped, by a person, by us or by an error.
    #[default]
    Stopped,
    /// `Yes`.
    Running,
    /// `Connecting` or `Preparing`: the thread runs, the source does not answer it.
    Connecting,
}

/// The last error of a replication thread; number 0 is no error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThreadError {
    /// Server or client error number (2003: cannot connect, 2013: lost connection, 1236: source has purged what is needed).
    pub number: u32,
    /// The server's text.
    pub message: String,
}

/// How a channel finds its place after a reconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Positioning {
    /// File and position.
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
        !matches!(self, Self::FilePosition)
    }
}

/// One replication channel (MariaDB: connection) of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// Channel name; empty for the default channel, which is the one that is managed.
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
    /// The receiving thread.
    #[serde(default)]
    pub io: ThreadState,
    /// The applying thread (coordinator).
    #[serde(default)]
    pub sql: ThreadState,
    /// Last error of the receiving thread.
    #[serde(default)]
    pub io_error: ThreadError,
    /// Last error of the applying thread.
    #[serde(default)]
    pub sql_error: ThreadError,
    /// Source's binary log up to which was received.
    #[serde(default)]
    pub read: BinlogCoordinates,
    /// Source's binary log up to which was applied.
    #[serde(default)]
    pub exec: BinlogCoordinates,
    /// Own relay log up to which was applied.
    #[serde(default)]
    pub relay: BinlogCoordinates,
    /// What was received: MySQL `Retrieved_Gtid_Set` (empty after a restart with `relay_log_recovery`), MariaDB `Gtid_IO_Pos`.
    #[serde(default)]
    pub retrieved: Option<GtidSet>,
    /// Heartbeats received since the thread's start, where the server counts them beside its status (MariaDB).
    #[serde(default)]
    pub heartbeats: Option<u64>,
    /// How the channel finds its place.
    #[serde(default)]
    pub positioning: Positioning,
    /// `Seconds_Behind_Source`; `None` while the server says NULL.
    #[serde(default)]
    pub lag_seconds: Option<u64>,
    /// Configured delay, seconds.
    #[serde(default)]
    pub delay_seconds: u64,
    /// Whether any replicate-* filter is set.
    #[serde(default)]
    pub filtered: bool,
    /// Whether the channel asks for TLS.
    #[serde(default)]
    pub tls: bool,
    /// MySQL `Get_Source_public_key`.
    #[serde(default)]
    pub get_source_public_key: bool,
}

impl Channel {
    /// Whether the replica gets changes right now: received, not necessarily applied (trap 3 of the compatibility reference: a
    /// stopped SQL thread says nothing about the source).
    pub fn is_receiving(&self) -> bool {
        self.io == ThreadState::Running
    }

    /// Whether the receiving thread tries to reach the source and cannot.
    pub fn is_failing_to_connect(&self) -> bool {
        self.io == ThreadState::Connecting
            || (self.io == ThreadState::Stopped && matches!(self.io_error.number, 2003 | 2005 | 2013 | 2026))
    }
}

/// Semi-synchronous replication as the server has it set and sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the server's own switches, one field each")]
pub struct SemiSync {
    /// Both plugins are there (MariaDB: built in).
    pub available: bool,
    /// Enabled as source.
    pub source_enabled: bool,
    /// Enabled as replica.
    pub replica_enabled: bool,
    /// Source falls back to asynchronous after so many milliseconds without acknowledgement.
    pub timeout_millis: u64,
    /// Acknowledgements that a commit waits for.
    pub wait_for_count: u32,
    /// `wait_no_replica`: waits also while fewer replicas than that are connected.
    pub wait_no_replica: bool,
    /// `AFTER_SYNC` (true) or `AFTER_COMMIT`.
    pub after_sync: bool,
    /// The source is waiting for acknowledgements now (not fallen back).
    pub source_active: bool,
    /// Semi-sync replicas connected.
    pub clients: u32,
    /// Commits that wait for acknowledgements now.
    pub wait_sessions: u32,
    /// This replica acknowledges now.
    pub replica_active: bool,
    /// What `DetectSemiSyncEnforcedQuery` says: higher is asked first, 0 never; `None` without the query.
    pub priority: Option<u32>,
}

/// A replica as its source sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenReplica {
    /// Address: `report_host`:`report_port` where the replica reports it, otherwise the connection's host and the source's port.
    pub key: InstanceKey,
    /// Whether the replica reported the address itself.
    pub reported: bool,
}

/// What a server said of itself in one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the server's own switches, one field each")]
pub struct InstanceFacts {
    /// Who it is.
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
    /// When its process began, by its own clock: seconds since 1970. Two looks at one process may differ by a second.
    #[serde(default)]
    pub started: Option<i64>,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@super_read_only`; `None` where the flavour has none (MariaDB).
    #[serde(default)]
    pub super_read_only: Option<bool>,
    /// Binary logging is on.
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
    /// Own binary log's end.
    #[serde(default)]
    pub binlog: Option<BinlogCoordinates>,
    /// MySQL `gtid_mode` (`ON`, `OFF`, ...); empty on MariaDB.
    #[serde(default)]
    pub gtid_mode: String,
    /// MySQL `gtid_executed`; MariaDB `gtid_binlog_state` joined with `gtid_slave_pos`.
    pub executed: GtidSet,
    /// MySQL `gtid_purged`; empty on MariaDB.
    pub purged: GtidSet,
    /// Replication channels, the managed (default) one first.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Semi-synchronous replication.
    #[serde(default)]
    pub semi_sync: SemiSync,
    /// Replicas seen by the server, ordered, without duplicates.
    #[serde(default)]
    pub replicas: Vec<SeenReplica>,
    /// Whether the replication account and password can be read from the server (MySQL `mysql.slave_master_info`).
    #[serde(default)]
    pub replication_credentials_available: bool,
    /// Pseudo-GTID entries come through it: by a configured query, or since ham4db writes them where there are no GTIDs.
    #[serde(default)]
    pub uses_pseudo_gtid: bool,
    /// Data centre by query or pattern; empty when unknown.
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
    /// Settings and rights, read about once a minute; `None` while they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ServerSettings>,
    /// Name of the Group Replication group; empty outside one.
    #[serde(default)]
    pub group_name: String,
    /// Its membership of that group; `None` outside one, and where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupMember>,
    /// The address that the connection went to on which this was told; `None` where that is no address for applications, or not known
    /// among several of one name. Of this member's own looks only: another one may reach the server elsewhere.
    #[serde(skip)]
    pub peer: Option<IpAddr>,
    /// It has no connection left, and was asked through the one that it keeps for administrators.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[serde(rename = "byReservedDoor")]
    pub by_admin_endpoint: bool,
    /// Parts of the probe that failed, each as `what: why`; what depends on them is unknown (design rule 13).
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Two moments at which a process is said to have begun lie so close together that it is one process: [`InstanceFacts::started`] is made
/// from two whole numbers of seconds, and clocks are put right by little steps. Unknown ones are no evidence of a second process.
pub fn is_same_process(one: Option<i64>, other: Option<i64>) -> bool {
    /// No server has started, taken writes, ended and started again within so many seconds.
    const CLOSE_SECONDS: u64 = 2;
    match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) <= CLOSE_SECONDS,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl InstanceFacts {
    /// Whether commits got through since an earlier look: the end of the binary log is elsewhere. A MySQL semi-sync source writes into
    /// it before it waits (`AFTER_SYNC`), so clients that give up and try again move it as well; its executed set tells what got through.
    pub fn went_on_since(&self, before: &Self) -> bool {
        let tells_by_gtid = self.semi_sync.source_enabled && self.gtid_mode == "ON" && before.gtid_mode == "ON";
        if tells_by_gtid {
            self.executed != before.executed
        } else {
            self.binlog != before.binlog
        }
    }

    /// The managed channel: the default one, or the only one.
    pub fn managed_channel(&self) -> Option<&Channel> {
        self.channels
            .iter()
            .find(|channel| channel.name.is_empty())
            .or(match self.channels.as_slice() {
                [only] => Some(only),
                _ => None,
            })
    }

    /// Writable by an ordinary account.
    pub fn is_writable(&self) -> bool {
        !self.read_only
    }

    /// A member of a replication group. One whose membership could not be read counts as one: what is inside a group is left alone.
    pub fn is_group_member(&self) -> bool {
        !self.group_name.is_empty()
            && self
                .group
                .as_ref()
                .is_none_or(|group| group.state != GroupState::Offline)
    }

    /// A server that keeps the binary logs of its source and executes nothing: `MaxScale`'s binlog router, which names itself in its
    /// version.
    pub fn is_binlog_server(&self) -> bool {
        [&self.version.text, &self.version_comment]
            .iter()
            .any(|text| text.to_ascii_lowercase().contains("maxscale"))
    }

    /// Executed and received transactions together, whatever was applied.
    pub fn received(&self) -> GtidSet {
        match self.managed_channel().and_then(|channel| channel.retrieved.as_ref()) {
            Some(retrieved) => self.executed.union(retrieved),
            None => self.executed.clone(),
        }
    }
}

/// Why an attempt to ask a server failed, sorted by what it proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum ProbeFailure {
    /// The host answered that nothing listens there.
    #[error("connection refused")]
    Refused,
    /// An open connection ended, or the server closed it while greeting.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer to the TCP connection attempt within the deadline: the packets are dropped, or the host is gone.
    #[error("no answer to the connection attempt")]
    NoAnswer,
    /// The host or network is unreachable.
    #[error("host unreachable: {0}")]
    Unreachable(String),
    /// The name does not resolve.
    #[error("name does not resolve: {0}")]
    Name(String),
    /// TCP connected, and no greeting or answer came within the deadline: the process is stopped, or stalled.
    #[error("accepts connections and does not answer")]
    Stalled,
    /// Error 1040 or 1203: alive, and full.
    #[error("too many connections")]
    Saturated,
    /// The server refused the account (1045, 1044, ...).
    #[error("access denied: {0}")]
    Denied(String),
    /// No credentials are known for the server.
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
    /// An answer that cannot be read.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

impl ProbeFailure {
    /// Whether the server process proved that it lives: never evidence of a dead primary.
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

    /// Whether the failure says anything at all about the server (missing credentials and unresolvable names are our own trouble).
    pub fn is_about_the_server(&self) -> bool {
        !matches!(self, Self::NoCredentials(_) | Self::Name(_))
    }
}

/// A server in a topology: its last facts and how the last attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The address it is probed at.
    pub key: InstanceKey,
    /// Facts of the last complete probe; `None` when there never was one.
    #[serde(default)]
    pub facts: Option<InstanceFacts>,
    /// When those facts were taken.
    #[serde(default)]
    pub last_seen: Option<WallTime>,
    /// When the last attempt ended, well or badly.
    #[serde(default)]
    pub last_checked: Option<WallTime>,
    /// How the last attempt failed; `None` after a success.
    #[serde(default)]
    pub failure: Option<ProbeFailure>,
    /// The last attempt connected and got some answers, and failed on others.
    #[serde(default)]
    pub partial: bool,
    /// Duration of the last complete probe, microseconds.
    #[serde(default)]
    pub latency_micros: u64,
    /// Since when this member has seen nothing get through ([`InstanceFacts::went_on_since`]); `None` without a binary log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlog_unmoved_since: Option<WallTime>,
    /// Since when this member has seen commits of it wait for acknowledgements at every look, and none get through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks_awaited_since: Option<WallTime>,
    /// It takes writes since its process began, and did not when this member last saw the process before: nobody's wish, a configuration
    /// file's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopened_by_start: bool,
    /// Who has held the owner's lock on it for some seconds and is no member of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub another_controller: Option<String>,
    /// Why it commits nothing although it is there; `None` also where nobody looks, which is everywhere but on primaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_stall: Option<CommitStall>,
}

impl Instance {
    /// An address of which nothing is known yet.
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
        }
    }

    /// The last attempt succeeded: the facts can be relied on.
    pub fn is_valid(&self) -> bool {
        self.failure.is_none() && self.facts.is_some()
    }

    /// The facts, only while they are valid.
    pub fn valid_facts(&self) -> Option<&InstanceFacts> {
        if self.is_valid() { self.facts.as_ref() } else { None }
    }

    /// The managed channel of the last facts, valid or not.
    pub fn channel(&self) -> Option<&Channel> {
        self.facts.as_ref().and_then(InstanceFacts::managed_channel)
    }

    /// When its process began, by its last facts, up to two seconds too late or one too early; `None` when that is unknown.
    pub fn started(&self) -> Option<WallTime> {
        let facts = self.facts.as_ref().filter(|facts| facts.uptime_seconds > 0)?;
        let millis = i64::try_from(facts.uptime_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Some(self.last_seen?.plus_millis(-millis))
    }

    /// The address that it replicates from by its last facts.
    pub fn source(&self) -> Option<&InstanceKey> {
        self.channel().map(|channel| &channel.source)
    }
}

/// What one member saw of one instance at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// The address that was asked.
    pub key: InstanceKey,
    /// When the attempt began.
    pub begun: WallTime,
    /// When it ended.
    pub ended: WallTime,
    /// How long it took, microseconds.
    pub micros: u64,
    /// The facts, or why there are none.
    pub outcome: Result<Box<InstanceFacts>, ProbeFailure>,
}
