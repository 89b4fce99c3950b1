//! The configuration as the program uses it: typed, checked, one struct for each subsystem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::app::api::write_tokens::WriteTokens;
use crate::app::filter::{ClusterFilters, HostnameFilters};
use crate::app::leader::commit_stalls::CommitSettings;
use crate::app::ports::{Account, Credentials, TlsMode};
use crate::domain::epoch_row::EpochTable;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, Durability, LossPolicy, RecoveryQuorum, StalledPrimary, Unapplied};
use crate::domain::recovery::pseudo_gtid::Marks;

pub use super::keys::{Kubernetes as KubernetesSettings, StatefulSet as StatefulSetSettings};

/// Everything that the configuration decides. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Log at debug level.
    pub debug: bool,
    /// The API.
    pub http: HttpSettings,
    /// The group, when there is one.
    pub raft: Option<RaftSettings>,
    /// The backend.
    pub backend: BackendSettings,
    /// How managed servers are reached.
    pub topology: TopologySettings,
    /// Discovery and classification.
    pub discovery: DiscoverySettings,
    /// Recoveries.
    pub recovery: RecoverySettings,
    /// Pseudo-GTID.
    pub pseudo_gtid: PseudoGtidSettings,
    /// The user's commands.
    pub hooks: HookSettings,
    /// Documents from the Kubernetes API.
    pub kubernetes: KubernetesSettings,
    /// Folder with documents as files.
    pub manifests: Option<PathBuf>,
    /// What should be said once at the start, a line each: unknown keys, keys without effect.
    pub warnings: Vec<String>,
}

/// The API's listener and what it shows.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// `host:port` to listen at; without a host: all interfaces.
    pub listen: String,
    /// `host:port` of a listener for health and metrics alone.
    pub health_listen: Option<String>,
    /// Who may change something; [`None`]: everybody.
    pub write_tokens: Option<WriteTokenFile>,
    /// `http://host:port` as others reach this member.
    pub advertise: String,
    /// Empty, or `/x`.
    pub url_prefix: String,
    /// Path of the status check; [`None`] when it is the usual one below the prefix.
    pub status_endpoint: Option<String>,
    /// Refuse what changes something.
    pub read_only: bool,
    /// Instances that `problems` leaves out.
    pub problem_ignore: HostnameFilters,
}

/// The tokens of which one is needed to change something, as they were at the start.
#[derive(Clone, Debug)]
pub struct WriteTokenFile {
    /// The file.
    pub path: PathBuf,
    /// What it held.
    pub tokens: WriteTokens,
}

/// The group of members.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// `host:port` of the peer listener.
    pub bind: String,
    /// `host:port` told to the peers.
    pub advertise: String,
    /// Folder of log and identity.
    pub data_dir: PathBuf,
    /// Port of peers when none is named.
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
    /// Members are the pods of a StatefulSet.
    pub stateful_set: Option<StatefulSetSettings>,
}

/// Where the replicated state is kept.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// File of the SQLite database, or `:memory:`.
    pub sqlite_file: PathBuf,
    /// How long entries of the audit are shown, and kept in its table.
    pub audit_for: Duration,
    /// How long changes of the analysis are kept.
    pub changes_for: Duration,
}

/// How managed servers are reached.
#[derive(Clone, Debug)]
pub struct TopologySettings {
    /// Account on them, when one is configured.
    pub account: Option<Account>,
    /// Account for replication channels that are set up anew.
    pub replication: Option<Account>,
    /// TLS to them.
    pub tls: TlsMode,
    /// PEM of the authority, with [`TlsMode::Verify`].
    pub ca_pem: Option<String>,
    /// Deadline for a connection.
    pub connect_timeout: Duration,
    /// Deadline for the answers of a probe.
    pub read_timeout: Duration,
    /// Port when an address names none.
    pub default_port: u16,
}

impl TopologySettings {
    /// The credentials for servers that no document brings credentials for, when an account is configured.
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
    /// Between full probes of an instance.
    pub poll: Duration,
    /// Between pulses.
    pub pulse: Duration,
    /// Where discovery starts.
    pub seeds: Vec<InstanceKey>,
    /// Replicas that crawling does not follow.
    pub ignore_replicas: HostnameFilters,
    /// Sources that crawling does not follow.
    pub ignore_sources: HostnameFilters,
    /// Instances that crawling does not follow.
    pub ignore: HostnameFilters,
    /// Query for the lag.
    pub lag_query: Option<String>,
    /// Lag above which a replica counts as lagging.
    pub reasonable_lag: Duration,
    /// Lag above which the topology shows `lag`.
    pub maintenance_lag: Duration,
    /// Alias by pattern on the cluster's name, in the order of the patterns.
    pub cluster_aliases: Vec<(regex::Regex, String)>,
    /// Data centre.
    pub data_center: Classification,
    /// Region.
    pub region: Classification,
    /// Environment.
    pub environment: Classification,
    /// Query for the semi-sync priority of a replica.
    pub semi_sync_query: Option<String>,
    /// How long a promotion rule of `register-candidate` counts; `None`: until it is replaced.
    pub candidate_expiry: Option<Duration>,
}

/// How an attribute of an instance is found out.
#[derive(Clone, Debug, Default)]
pub struct Classification {
    /// Pattern on the host name; its first group is the value.
    pub pattern: Option<regex::Regex>,
    /// Query on the instance; wins.
    pub query: Option<String>,
}

/// Recoveries.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, one key each")]
pub struct RecoverySettings {
    /// How long an unacknowledged recovery blocks the next one of its cluster.
    pub block: Duration,
    /// Instances whose findings are left out.
    pub ignore: HostnameFilters,
    /// `RecoveryIgnoreHostnameFilters` as it stands.
    pub ignore_texts: Vec<String>,
    /// Clusters without a document whose primary is replaced.
    pub primaries: ClusterFilters,
    /// Clusters without a document whose intermediate sources are replaced.
    pub intermediates: ClusterFilters,
    /// Who may be promoted.
    pub promotion: PromotionSettings,
    /// A locked semi-sync primary gets more acknowledging replicas.
    pub recover_locked_semi_sync: bool,
    /// A read-only primary is a failure.
    pub recover_non_writable_primary: bool,
    /// Of two co-primaries the other one is promoted, or nobody is.
    pub must_promote_other_co_primary: bool,
    /// More semi-sync replicas than the primary waits for are a failure.
    pub enforce_exact_semi_sync: bool,
    /// How long the binary log of a primary that waits for semi-sync replicas stands still before it counts as locked.
    pub locked_semi_sync: Duration,
    /// Where the epoch is written on each new primary.
    pub epoch_table: Option<EpochTable>,
    /// How many clusters are repaired at once.
    pub concurrency: usize,
    /// What is done about servers that start writable.
    pub boot_read_only: BootReadOnly,
    /// Which transactions survive the loss of a primary.
    pub durability: Durability,
    /// Who must agree.
    pub quorum: RecoveryQuorum,
    /// What to do about a stalled primary.
    pub stalled: StalledPrimary,
    /// After how long without an answer.
    pub stalled_timeout: Duration,
    /// Whether primaries commit anything.
    pub commits: CommitSettings,
    /// Where this member is; empty: not told.
    pub member_data_center: String,
    /// How long transactions may take to end when a takeover begins.
    pub transaction_wait: Duration,
    /// Those that take longer are ended; otherwise the takeover is.
    pub ends_transactions: bool,
}

/// Pseudo-GTID.
#[derive(Clone, Debug)]
pub struct PseudoGtidSettings {
    /// Entries are written on primaries without GTIDs.
    pub injects: bool,
    /// What entries look like; `None`: there are none.
    pub marks: Option<Marks>,
    /// Query that says whether an instance is under Pseudo-GTID, where others write the entries.
    pub query: Option<String>,
}

/// The user's commands before and after.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// Their shell.
    pub shell: String,
    /// Variables of this process that they do not get: the configuration takes passwords from these.
    pub hidden: BTreeSet<String>,
    /// The commands, and how long they may take.
    pub run: crate::app::recovery::hooks::HookSettings,
}

/// Who may be promoted, and what may be lost by it.
#[derive(Clone, Debug)]
pub struct PromotionSettings {
    /// Instances that are never promoted.
    pub ignore: HostnameFilters,
    /// Never promote across data centres.
    pub prevent_cross_data_center: bool,
    /// Never promote across regions.
    pub prevent_cross_region: bool,
    /// Lag from which on a replica is not promoted; zero: whatever its lag.
    pub max_lag: Duration,
    /// What to do with a successor that has not applied all.
    pub unapplied: Unapplied,
    /// What to do about loss in clusters without a document.
    pub loss: LossPolicy,
    /// How long [`LossPolicy::AllowAfterTimeout`] waits.
    pub loss_timeout: Duration,
}

/// The environment of the process, as far as the configuration may refer to it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables by name.
    pub variables: BTreeMap<String, String>,
    /// Name of this host; of a pod: its name.
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
