//! The configuration as the program uses it: typed, checked, one struct for each subsystem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::app::api::write_tokens::WriteTokens;
use crate::app::filter::{ClusterFilters, HostnameFilters};
use crate::app::leader::commit_stalls::CommitSettings;
use crate::app::ports::{Account, Credentials, TlsMode};
use crate::domain::discovery::AllowedHosts;
use crate::domain::epoch_row::EpochTable;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{
    BootReadOnly, Durability, EventsPolicy, LossPolicy, RecoveryQuorum, StalledPrimary, UnappliedPolicy,
};
use crate::domain::probe_assignment::ProbeSharing;
use crate::domain::published_primary::KeyPrefix;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;

pub use super::keys::{Kubernetes as KubernetesSettings, StatefulSet as StatefulSetSettings};

/// All settings. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Log at debug level.
    pub debug: bool,
    /// Settings of the API.
    pub http: HttpSettings,
    /// Settings of the raft group; `None` without one.
    pub raft: Option<RaftSettings>,
    /// Settings of the backend.
    pub backend: BackendSettings,
    /// Connections to managed servers.
    pub topology: TopologySettings,
    /// Discovery and classification.
    pub discovery: DiscoverySettings,
    /// Recoveries.
    pub recovery: RecoverySettings,
    /// Pseudo-GTID.
    pub pseudo_gtid: PseudoGtidSettings,
    /// Hooks: commands of the operator.
    pub hooks: HookSettings,
    /// Where primaries are published.
    pub publishers: PublisherSettings,
    /// Documents from the Kubernetes API.
    pub kubernetes: KubernetesSettings,
    /// Directory with documents as files.
    pub manifests: Option<PathBuf>,
    /// Warnings to log once at startup, one line each: unknown keys, keys without effect.
    pub warnings: Vec<String>,
    /// Listeners that accept unauthenticated requests from the network only because the file was written for orchestrator; logged at
    /// startup and every day.
    pub open_listeners: Vec<String>,
}

/// The listener of the API, and what the API shows.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Address to listen on, `host:port`; without a host: all interfaces.
    pub listen: String,
    /// Address, `host:port`, of a listener for health and metrics only.
    pub health_listen: Option<String>,
    /// Tokens that allow changes; [`None`]: every client may change something.
    pub write_tokens: Option<WriteTokenFile>,
    /// `http://host:port` at which other members and clients reach this member.
    pub advertise: String,
    /// Empty, or `/x`.
    pub url_prefix: String,
    /// Path of the status check; [`None`] when it is the default below the prefix.
    pub status_endpoint: Option<String>,
    /// Refuse every change.
    pub read_only: bool,
    /// Instances that `problems` leaves out.
    pub problem_ignore: HostnameFilters,
}

/// The file with the tokens that allow changes.
#[derive(Clone, Debug)]
pub struct WriteTokenFile {
    /// The file.
    pub path: PathBuf,
    /// Its tokens at startup.
    pub tokens: WriteTokens,
}

/// The group of members.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// `host:port` of the peer listener.
    pub bind: String,
    /// `host:port` that is given to the peers.
    pub advertise: String,
    /// Directory of log and identity.
    pub data_dir: PathBuf,
    /// Port of a peer when an address has none.
    pub default_port: u16,
    /// All members as `host:port`, sorted, each once; empty with `stateful_set`.
    pub nodes: Vec<String>,
    /// Secret that all members share.
    pub group_key: Option<SecretString>,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// By how much the clock of a member may differ from the majority's before it is reported.
    pub clock_skew_limit: Duration,
    /// Members are the pods of a StatefulSet.
    pub stateful_set: Option<StatefulSetSettings>,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub enum BackendDatabase {
    /// A SQLite file, or `:memory:`.
    Sqlite(PathBuf),
    /// A database of a MySQL or MariaDB server.
    MySql(Box<MySqlSettings>),
}

impl BackendDatabase {
    /// The backend, without secrets.
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite(file) => format!("sqlite {}", file.display()),
            Self::MySql(settings) => format!("mysql {}:{}/{}", settings.host, settings.port, settings.database),
        }
    }
}

/// A MySQL backend.
#[derive(Clone, Debug)]
pub struct MySqlSettings {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database (schema).
    pub database: String,
    /// Account.
    pub account: Account,
    /// Most connections.
    pub max_connections: u32,
    /// Deadline for a connection and for a statement.
    pub deadline: Duration,
    /// TLS of the connections.
    pub tls: TlsMode,
    /// PEM of the authorities; without it those of the system.
    pub ca_pem: Option<String>,
    /// PEM of the client's certificate and of its key.
    pub identity: Option<(String, String)>,
}

/// Where primaries are published: key-value stores and ProxySQL.
#[derive(Clone, Debug)]
pub struct PublisherSettings {
    /// Prefix of all keys.
    pub prefix: KeyPrefix,
    /// Pairs are removed when the replacement of a primary begins.
    pub removes_before_failover: bool,
    /// A recovery counts as failed when the new primary is not published.
    pub fails_recovery: bool,
    /// Consul; `None` without it.
    pub consul: Option<ConsulSettings>,
    /// etcd; `None` without it.
    pub etcd: Option<EtcdSettings>,
    /// ZooKeeper; `None` without it.
    pub zookeeper: Option<ZooKeeperSettings>,
    /// ProxySQL; `None` without it.
    pub proxysql: Option<ProxySqlSettings>,
}

/// Files for TLS to one system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFileSettings {
    /// Certificate authority.
    pub ca: Option<PathBuf>,
    /// Client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Consul.
#[derive(Clone, Debug)]
pub struct ConsulSettings {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// ACL token.
    pub token: Option<SecretString>,
    /// Pairs are written to all data centres.
    pub all_data_centers: bool,
    /// Operations of one transaction.
    pub operations: usize,
    /// For `https`.
    pub tls: TlsFileSettings,
}

/// etcd.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// `http://host:port` or `https://host:port` of its members.
    pub endpoints: Vec<String>,
    /// User and password.
    pub account: Option<(String, SecretString)>,
    /// For `https`.
    pub tls: TlsFileSettings,
}

/// ZooKeeper.
#[derive(Clone, Debug)]
pub struct ZooKeeperSettings {
    /// `host:port` of its servers.
    pub servers: Vec<String>,
    /// Path below which all keys are.
    pub root: String,
    /// `user:password`.
    pub digest: Option<SecretString>,
    /// `None`: no TLS.
    pub tls: Option<TlsFileSettings>,
}

/// ProxySQL.
#[derive(Clone, Debug)]
pub struct ProxySqlSettings {
    /// Admin interfaces.
    pub admins: Vec<InstanceKey>,
    /// Admin user.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// `None`: no TLS; otherwise the certificate authority, where one is configured.
    pub tls: Option<Option<PathBuf>>,
    /// Writer and reader hostgroup by alias.
    pub clusters: BTreeMap<String, (u32, Option<u32>)>,
    /// The same for all other clusters.
    pub others: Option<(u32, Option<u32>)>,
    /// What happens at the start of a replacement.
    pub action: ProxySqlAction,
}

/// What happens to a primary in ProxySQL when its replacement begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxySqlAction {
    /// `offline_soft`.
    OfflineSoft,
    /// `weight_zero`.
    WeightZero,
    /// `none`.
    Nothing,
}

/// The backend of the replicated state.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Where it is.
    pub database: BackendDatabase,
    /// How long a member waits for a backend that takes no writes before it exits; `None`: for ever.
    pub exit_after: Option<Duration>,
    /// The tables are not made or changed at the start.
    pub skip_update: bool,
    /// Tables of another version end the start.
    pub refuse_different: bool,
    /// For how long entries of the audit are shown and kept in its table.
    pub audit_for: Duration,
    /// For how long changes of the analysis are kept.
    pub changes_for: Duration,
    /// The pause between two writes of observations.
    pub instances_every: Duration,
    /// The most instances that one transaction writes.
    pub instances_per_write: usize,
}

/// Connections to managed servers.
#[derive(Clone, Debug)]
pub struct TopologySettings {
    /// Account on the servers, when one is configured.
    pub account: Option<Account>,
    /// Account for replication channels that ham4db sets up.
    pub replication: Option<Account>,
    /// TLS of the connections.
    pub tls: TlsMode,
    /// PEM of the authority, with [`TlsMode::Verify`].
    pub ca_pem: Option<String>,
    /// Deadline for a connection.
    pub connect_timeout: Duration,
    /// Deadline for the answers of a probe.
    pub read_timeout: Duration,
    /// Port when an address has none.
    pub default_port: u16,
}

impl TopologySettings {
    /// The credentials for servers for which no document brings credentials, when an account is configured.
    pub fn credentials(&self) -> Option<Credentials> {
        self.account.as_ref().map(|account| Credentials {
            topology: account.clone(),
            replication: self.replication.clone(),
            tls: self.tls,
            ca_pem: self.ca_pem.clone(),
        })
    }
}

/// Discovery, classification and thresholds.
#[derive(Clone, Debug)]
pub struct DiscoverySettings {
    /// Interval of full probes of an instance.
    pub poll: Duration,
    /// Interval of pulses.
    pub pulse: Duration,
    /// How members share the probes.
    pub probe_sharing: ProbeSharing,
    /// Addresses at which discovery starts.
    pub seeds: Vec<InstanceKey>,
    /// Replicas that discovery does not follow.
    pub ignore_replicas: HostnameFilters,
    /// Sources that discovery does not follow.
    pub ignore_sources: HostnameFilters,
    /// Instances that discovery does not follow.
    pub ignore: HostnameFilters,
    /// The addresses that crawling may dial beside those that share domain or network with a named server.
    pub allowed: AllowedHosts,
    /// The most watched addresses: crawling adds none beyond it.
    pub max_instances: usize,
    /// Query for the lag of a replica, in seconds.
    pub lag_query: Option<String>,
    /// Lag above which a replica counts as lagging.
    pub reasonable_lag: Duration,
    /// Lag above which the topology shows `lag`.
    pub maintenance_lag: Duration,
    /// Alias by pattern on the cluster's name, in the order of the patterns.
    pub cluster_aliases: Vec<(regex::Regex, String)>,
    /// How the data centre is determined.
    pub data_center: Classification,
    /// How the region is determined.
    pub region: Classification,
    /// How the environment is determined.
    pub environment: Classification,
    /// Query for the semi-sync priority of a replica.
    pub semi_sync_query: Option<String>,
    /// For how long a promotion rule of `register-candidate` is valid; `None`: until it is replaced.
    pub candidate_expiry: Option<Duration>,
}

/// How an attribute of an instance is determined.
#[derive(Clone, Debug, Default)]
pub struct Classification {
    /// Pattern on the host name; its first group is the value.
    pub pattern: Option<regex::Regex>,
    /// Query on the instance; overrides the pattern.
    pub query: Option<String>,
}

/// Recoveries.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, one key each")]
pub struct RecoverySettings {
    /// For how long an unacknowledged recovery blocks the next one of its cluster.
    pub block: Duration,
    /// Instances with findings that are ignored.
    pub ignore: HostnameFilters,
    /// The text of `RecoveryIgnoreHostnameFilters`.
    pub ignore_texts: Vec<String>,
    /// Clusters without a document in which a failed primary is replaced.
    pub primaries: ClusterFilters,
    /// Clusters without a document in which failed intermediate sources are replaced.
    pub intermediates: ClusterFilters,
    /// Which instances may be promoted.
    pub promotion: PromotionSettings,
    /// A locked semi-sync primary gets more acknowledging replicas.
    pub recover_locked_semi_sync: bool,
    /// A read-only primary is a failure.
    pub recover_non_writable_primary: bool,
    /// Of two co-primaries only the other one may be promoted.
    pub must_promote_other_co_primary: bool,
    /// More semi-sync replicas than the primary waits for are a failure.
    pub enforce_exact_semi_sync: bool,
    /// How long the binary log of a primary that waits for semi-sync replicas stands still before it counts as locked.
    pub locked_semi_sync: Duration,
    /// Table for the epoch on each new primary.
    pub epoch_table: Option<EpochTable>,
    /// Number of clusters that are repaired at the same time.
    pub concurrency: usize,
    /// What to do about servers that boot writable.
    pub boot_read_only: BootReadOnly,
    /// Which transactions survive the loss of a primary.
    pub durability: Durability,
    /// Which members must agree before a failover.
    pub quorum: RecoveryQuorum,
    /// What to do about a stalled primary.
    pub stalled: StalledPrimary,
    /// Time without an answer before the failover of a stalled primary.
    pub stalled_timeout: Duration,
    /// How stalled commits are detected.
    pub commits: CommitSettings,
    /// Data centre of this member; empty: unknown.
    pub member_data_center: String,
    /// For how long a takeover waits for running transactions.
    pub transaction_wait: Duration,
    /// Whether transactions that take longer are ended; otherwise the takeover is.
    pub ends_transactions: bool,
    /// For how long the change to read-only waits for locks in a takeover.
    pub lock_wait: Duration,
    /// What to do about events on a new primary in clusters without a document.
    pub events: EventsPolicy,
}

/// Pseudo-GTID.
#[derive(Clone, Debug)]
pub struct PseudoGtidSettings {
    /// Entries are written on primaries without GTIDs.
    pub injects: bool,
    /// The pattern of entries; `None`: there are none.
    pub marks: Option<PseudoGtidPatterns>,
    /// Query that returns whether an instance uses Pseudo-GTID, where another program writes the entries.
    pub query: Option<String>,
}

/// Commands of the operator before and after recoveries.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// The shell of the commands.
    pub shell: String,
    /// Variables of this process that are withheld from them: the configuration takes passwords from these.
    pub hidden: BTreeSet<String>,
    /// The commands and their deadlines.
    pub run: crate::app::recovery::hooks::HookSettings,
}

/// Which instances may be promoted, and which loss is accepted.
#[derive(Clone, Debug)]
pub struct PromotionSettings {
    /// Instances that are never promoted.
    pub ignore: HostnameFilters,
    /// Never promote across data centres.
    pub prevent_cross_data_center: bool,
    /// Never promote across regions.
    pub prevent_cross_region: bool,
    /// Lag from which a replica is not promoted; zero: no limit.
    pub max_lag: Duration,
    /// What to do with a successor that has not applied all that it received.
    pub unapplied: UnappliedPolicy,
    /// What to do about loss in clusters without a document.
    pub loss: LossPolicy,
    /// For how long [`LossPolicy::AllowAfterTimeout`] waits.
    pub loss_timeout: Duration,
}

/// The environment of the process, as far as the configuration may refer to it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables by name.
    pub variables: BTreeMap<String, String>,
    /// Name of this host; in a pod, the name of the pod.
    pub hostname: String,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let hostname = variables
            .get("HOSTNAME")
            .filter(|name| !name.is_empty())
            .cloned()
            .or_else(|| from_kernel().ok())
            .unwrap_or_default();
        Self { variables, hostname }
    }
}
