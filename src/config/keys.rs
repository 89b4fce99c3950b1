//! Every key that this version uses, with its type, default and meaning: the one list from which reading and the reference page come.

use std::collections::BTreeMap;

use serde::de::MapAccess;

use super::secret::Secret;

/// One key as the reference page shows it.
#[derive(Clone, Debug)]
pub struct KeyDoc {
    /// Name.
    pub name: &'static str,
    /// Rust type, to be told in words.
    pub kind: &'static str,
    /// Default as JSON.
    pub default: String,
    /// Meaning.
    pub about: String,
}

/// Declares a group of keys: a struct whose fields are named as the keys are, their defaults, and how they are read whatever the case
/// in which a file writes them (Go's decoder, which orchestrator's files were written for, does not look at case).
macro_rules! keys {
    ($(#[$meta:meta])* $name:ident { $( $(#[doc = $doc:literal])+ $key:ident: $kind:ty = $default:expr; )* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[expect(non_snake_case, reason = "fields are named as the keys of the file are")]
        pub struct $name { $( $(#[doc = $doc])+ pub $key: $kind, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl $name {
            /// Reads the value of `key` when it is one of this group; `null` leaves the present value, as in orchestrator.
            pub(super) fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
                $( if key.eq_ignore_ascii_case(stringify!($key)) {
                    if let Some(value) = map.next_value::<Option<$kind>>()? {
                        self.$key = value;
                    }
                    return Ok(true);
                } )*
                Ok(false)
            }

            /// The keys of this group in the order of their declaration.
            pub(super) fn describe() -> Vec<KeyDoc> {
                let usual = Self::default();
                vec![ $( KeyDoc {
                    name: stringify!($key),
                    kind: stringify!($kind),
                    default: DefaultText::text(&usual.$key),
                    about: [$($doc),+].map(str::trim).join(" "),
                }, )* ]
            }
        }
    };
}

/// How a default is printed on the reference page.
trait DefaultText {
    fn text(&self) -> String;
}

impl<T: serde::Serialize> DefaultText for T {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("defaults are plain values")
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "[REDACTED]" })
    }
}

keys! {
    /// The API's listener and what it shows.
    ListenerKeys {
        /// Log at debug level.
        Debug: bool = false;
        /// Where the API listens, `host:port`; `:3000` means all interfaces.
        ListenAddress: String = ":3000".to_owned();
        /// Base URI of this member's API as other members and clients reach it, `http://host:port` without a path. Default: the host of `RaftAdvertise` with the port of `ListenAddress`.
        HTTPAdvertise: String = String::new();
        /// Path under which everything is served, `/x`; empty: at the root.
        URLPrefix: String = String::new();
        /// Path of the status check. Another one than the default is served as it stands, without `URLPrefix`.
        StatusEndpoint: String = "/api/status".to_owned();
        /// Refuse every call that changes something, with 403.
        ReadOnly: bool = false;
        /// (own key) File with tokens, one a line. Who changes something through the API sends one of them, as `Authorization: Bearer TOKEN` or as the password of basic authentication with any user; reading stays open. The file is read again when it changes. Empty: whoever reaches the API may change something.
        APIWriteTokenFile: String = String::new();
        /// (own key) Where health, leadership, status and `/metrics` are served once more, `host:port`, by a listener that nothing else keeps busy. Empty: at `ListenAddress` only, which serves them in any case.
        HealthListenAddress: String = String::new();
        /// Regular expressions on `host:port`: instances that `problems` leaves out.
        ProblemIgnoreHostnameFilters: Vec<String> = Vec::new();
    }
}

keys! {
    /// How managed servers are reached.
    TopologyKeys {
        /// Account on all managed servers that no document brings credentials for.
        MySQLTopologyUser: String = String::new();
        /// Its password; `${NAME}` takes it from the environment.
        MySQLTopologyPassword: Secret = Secret::default();
        /// my.cnf style file with `user` and `password` under `[client]`; it wins over the two keys above.
        MySQLTopologyCredentialsConfigFile: String = String::new();
        /// (own key) Account for replication channels that are set up anew; empty: a replica keeps the one it has.
        MySQLReplicationUser: String = String::new();
        /// (own key) Its password; `${NAME}` takes it from the environment.
        MySQLReplicationPassword: Secret = Secret::default();
        /// PEM file of the authority that signs the servers' certificates: connections use TLS and verify certificate and host name.
        MySQLTopologySSLCAFile: String = String::new();
        /// Connections use TLS and verify nothing.
        MySQLTopologySSLSkipVerify: bool = false;
        /// Deadline for a connection to a managed server, seconds.
        MySQLConnectTimeoutSeconds: u32 = 2;
        /// Deadline for the answers of one probe, seconds.
        MySQLDiscoveryReadTimeoutSeconds: u32 = 10;
        /// Port of an instance when an address names none.
        DefaultInstancePort: u16 = 3306;
    }
}

keys! {
    /// Where the replicated state is kept, and the group.
    GroupKeys {
        /// `sqlite` (the default here) or `sqlite3`; orchestrator's default `mysql` is not supported yet and refused when written out.
        BackendDB: String = "sqlite".to_owned();
        /// File of the SQLite backend. With `RaftEnabled` the default is `ham4db.db` in `RaftDataDir`; without, the key is required.
        SQLite3DataFile: String = String::new();
        /// Days that entries of the audit are shown by the API and kept in the table `audit`. There are never more than the last 1000.
        AuditPurgeDays: u32 = 7;
        /// Hours that changes of the analysis are kept (`replication-analysis-changelog`). Instances that were not seen for so long are not forgotten yet.
        UnseenInstanceForgetHours: u32 = 240;
        /// Several members agree through raft.
        RaftEnabled: bool = false;
        /// Address of the peer listener, `host` or `host:port`.
        RaftBind: String = "127.0.0.1:10008".to_owned();
        /// Address told to the peers. Default: the pod's name in its Service with `RaftStatefulSet`, `RaftBind` otherwise.
        RaftAdvertise: String = String::new();
        /// Folder of the raft log, the member's identity and the last good credentials. Required with `RaftEnabled`.
        RaftDataDir: String = String::new();
        /// Port of peers when an address names none.
        DefaultRaftPort: u16 = 10_008;
        /// All members, this one included. Names are resolved at every dial.
        RaftNodes: Vec<String> = Vec::new();
        /// (own key) File with a secret that all members share; peers without it are refused.
        RaftGroupKeyFile: String = String::new();
        /// (own key) Interval of the leader's heartbeats, milliseconds.
        RaftHeartbeatMilliseconds: u32 = 100;
        /// (own key) Shortest election timeout, milliseconds; at least three heartbeats.
        RaftElectionMinMilliseconds: u32 = 400;
        /// (own key) Longest election timeout, milliseconds.
        RaftElectionMaxMilliseconds: u32 = 700;
        /// (own key) Members are the pods of a StatefulSet: `{"Name", "ServiceName", "Namespace", "Replicas", "ClusterDomain"}`. Instead of `RaftNodes`.
        RaftStatefulSet: Option<StatefulSet> = None;
        /// (own key) Documents from the Kubernetes API: `{"Enabled", "Namespace", "WatchNamespaces", "Drain", "PodRoleLabels"}`.
        Kubernetes: Kubernetes = Kubernetes::default();
        /// (own key) Folder with the same documents as files.
        ManifestsDir: String = String::new();
    }
}

keys! {
    /// Discovery, classification and thresholds.
    DiscoveryKeys {
        /// Seconds between full probes of an instance; other times derive from it.
        InstancePollSeconds: u32 = 5;
        /// (own key) Milliseconds between pulses to instances that have replicas, are suspected or quarantined.
        PulseMilliseconds: u32 = 100;
        /// Addresses where discovery starts.
        DiscoverySeeds: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: replicas that crawling does not follow.
        DiscoveryIgnoreReplicaHostnameFilters: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: sources that crawling does not follow.
        DiscoveryIgnoreMasterHostnameFilters: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: instances that crawling does not follow.
        DiscoveryIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// Query on a replica whose first value is its lag in seconds, instead of what the server says of itself.
        ReplicationLagQuery: String = String::new();
        /// Old name of `ReplicationLagQuery`.
        SlaveLagQuery: String = String::new();
        /// Lag in seconds above which a replica counts as lagging.
        ReasonableReplicationLagSeconds: u32 = 10;
        /// Lag in seconds above which the topology shows a replica as `lag`, and above which it may not take over; a takeover waits so long for it.
        ReasonableMaintenanceReplicationLagSeconds: u32 = 20;
        /// Alias of clusters, by regular expression on the cluster's name.
        ClusterNameToAlias: BTreeMap<String, String> = BTreeMap::new();
        /// Regular expression on the host name; its first group is the data centre.
        DataCenterPattern: String = String::new();
        /// The same for the region.
        RegionPattern: String = String::new();
        /// The same for the environment.
        PhysicalEnvironmentPattern: String = String::new();
        /// Query on an instance that returns its data centre; wins over the pattern.
        DetectDataCenterQuery: String = String::new();
        /// The same for the region.
        DetectRegionQuery: String = String::new();
        /// The same for the environment.
        DetectPhysicalEnvironmentQuery: String = String::new();
        /// Query on a replica that returns its semi-sync priority: higher is asked first to acknowledge, 0 never is. Without it every replica that can is asked alike.
        DetectSemiSyncEnforcedQuery: String = String::new();
        /// Minutes after which a promotion rule of `register-candidate` ends; 0 (the default here, 60 in orchestrator): never.
        CandidateInstanceExpireMinutes: u32 = 0;
    }
}

keys! {
    /// Recoveries.
    RecoveryKeys {
        /// Seconds after a recovery during which the same cluster gets no other one unless the first is acknowledged.
        RecoveryPeriodBlockSeconds: u32 = 3600;
        /// The same in minutes; only when the key above is 0.
        RecoveryPeriodBlockMinutes: u32 = 60;
        /// Regular expressions on `host:port`: instances whose findings are left out.
        RecoveryIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// Clusters without a document whose primary is replaced when it fails: name, alias, `alias=x`, `alias~=x`, `*` or a regular expression on the name.
        RecoverMasterClusterFilters: Vec<String> = Vec::new();
        /// The same for the replicas of failed intermediate primaries and of failed members of replication groups: they get another source.
        RecoverIntermediateMasterClusterFilters: Vec<String> = Vec::new();
        /// A primary that waits for more semi-sync replicas than acknowledge gets more of them.
        RecoverLockedSemiSyncMaster: bool = false;
        /// Regular expressions on `host:port`: instances that are never promoted.
        PromotionIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// A read-only primary whose replicas replicate is made writable, whoever made it read-only. One that ham4db had made writable, and that is read-only since it started again, is made so in any case.
        RecoverNonWriteableMaster: bool = false;
        /// More semi-sync replicas than the primary waits for are a failure: surplus ones are switched off.
        EnforceExactSemiSyncReplicas: bool = false;
        /// Seconds that the binary log of a primary which waits for too many semi-sync replicas stands still before it counts as locked; 0: `ReasonableReplicationLagSeconds`.
        ReasonableLockedSemiSyncMasterSeconds: u32 = 0;
        /// When one of two servers that replicate from each other dies and was the primary, the other one is promoted, or nobody is. `false`: a replica may be. One that takes writes already is always the one.
        CoMasterRecoveryMustPromoteOtherCoMaster: bool = true;
        /// Never promote across data centres.
        PreventCrossDataCenterMasterFailover: bool = false;
        /// Never promote across regions.
        PreventCrossRegionMasterFailover: bool = false;
        /// Never promote a replica that lags so many minutes or more; 0: whatever its lag. Needs `ReplicationLagQuery`.
        FailMasterPromotionOnLagMinutes: u32 = 0;
        /// Never promote a replica while it has not applied all that it received. Nothing is touched meanwhile, and it is tried again.
        FailMasterPromotionIfSQLThreadNotUpToDate: bool = false;
        /// Wait for the chosen replica to apply all that it received as long as it makes progress, a day at most. Without: 60 seconds, then the next one is chosen.
        DelayMasterPromotionIfSQLThreadNotUpToDate: bool = false;
        /// (own key) What to do, in clusters without a document, when transactions would be lost: `Refuse`, `AllowAfterTimeout` or `Allow`. Default: `Refuse` where the primary's semi-sync promises that nothing can be lost, `Allow` otherwise.
        LossPolicy: String = String::new();
        /// (own key) How long `AllowAfterTimeout` waits for the old primary, seconds.
        LossTimeoutSeconds: u32 = 60;
        /// (own key) `schema.table`, a table that you made on the servers: the epoch of a cluster is written there on each new primary, so that applications can tell a former primary by it. Columns `cluster` (key), `epoch`, `primary_address`, `recovery`; the account needs INSERT, SELECT and UPDATE on it. Empty: nothing is written.
        EpochTable: String = String::new();
        /// (own key) How many clusters are repaired at once, at least 1; the most important first.
        MaxConcurrentRecoveries: u32 = 20;
        /// (own key) Seconds that transactions of the old primary may take to end by themselves when a takeover begins.
        TakeoverTransactionWaitSeconds: u32 = 5;
        /// (own key) What becomes of transactions that run longer: `Kill` ends them, `Refuse` ends the takeover.
        TakeoverLongTransactions: String = "Kill".to_owned();
        /// (own key) What is done about servers that are writable as soon as they start, without a document: `Enforce` (their next start is read-only, and the primary is opened again after one), `Advise` or `Off`. With the first two a replica that was read-only and starts writable is made read-only again.
        BootReadOnly: String = "Advise".to_owned();
        /// (own key) Which transactions survive the loss of a primary, without a document: `None` (semi-sync is left as it is), `SemiSync` (commits wait for replicas) or `CrossDataCenter` (for replicas in other data centres than the primary's).
        Durability: String = "None".to_owned();
        /// (own key) With `Durability`: for how many replicas commits wait, 1 to 64. MariaDB waits for one.
        DurabilityCount: u32 = 1;
        /// (own key) With `Durability`: commits go on waiting while fewer replicas than that can acknowledge. Otherwise they wait for as many as there are, and without any for none.
        DurabilityStrict: bool = false;
        /// (own key) Who must agree before a failover: `Leader`, `Majority` (of the voters) or `MajorityOfDataCenters` (such a majority, out of more than half of the voters' data centres). Default: `Majority` with `RaftEnabled`, `Leader` otherwise.
        RecoveryQuorum: String = String::new();
        /// (own key) What to do about a primary that accepts connections and answers none: `Observe` or `Failover`, which needs a majority and no replica that receives. It cannot be fenced then.
        StalledPrimary: String = "Observe".to_owned();
        /// (own key) With `StalledPrimary: Failover`: after so many seconds without an answer.
        StalledPrimarySeconds: u32 = 30;
        /// (own key) A primary that answers counts as stalled when a commit has waited for so many seconds while its binary log stood still; commits that wait for semi-sync replicas do not count. It is shown, and not replaced.
        StalledCommitSeconds: u32 = 10;
        /// (own key) `schema.table`, a table that you made on the servers: every two seconds a row is written there on each primary, so that one which commits nothing is found although no client writes. Columns `cluster` (key), `written_at` (BIGINT, milliseconds); the account needs INSERT, SELECT and UPDATE on it. Empty: nothing is written.
        StallCanary: String = String::new();
        /// (own key) Data centre of this member, for `RecoveryQuorum: MajorityOfDataCenters`; `${NAME}` is a variable of the environment. A member without one counts as one more data centre that does not agree.
        MemberDataCenter: String = String::new();
    }
}

keys! {
    /// Pseudo-GTID: places in the logs of servers without GTIDs.
    PseudoGtidKeys {
        /// Write a statement without effect on every primary without GTIDs, every 5 seconds, by which places in the logs of its replicas are found. The account needs DROP on `_pseudo_gtid_`.*. Overrides the next four.
        AutoPseudoGTID: bool = false;
        /// Regular expression that finds the entries which somebody else writes; empty: there are none.
        PseudoGTIDPattern: String = String::new();
        /// The pattern is a text that entries hold.
        PseudoGTIDPatternIsFixedSubstring: bool = false;
        /// The texts of entries that hold this grow with time, which spares reading binary logs; empty: none do.
        PseudoGTIDMonotonicHint: String = String::new();
        /// Query on an instance that returns 1 when it is under Pseudo-GTID. For display.
        DetectPseudoGTIDQuery: String = String::new();
        /// Events of a log that are asked for at once.
        BinlogEventsChunkSize: u32 = 10_000;
        /// Events that hold one of these texts do not count when logs are compared.
        SkipBinlogEventsContaining: Vec<String> = Vec::new();
    }
}

keys! {
    /// The user's commands before and after.
    HookKeys {
        /// Shell of the commands: a POSIX shell. Where there is no `bash`, `sh` stands in for the default.
        ProcessesShellCommand: String = "bash".to_owned();
        /// Minutes during which the same failure of an instance is told to `OnFailureDetectionProcesses` once.
        FailureDetectionPeriodBlockMinutes: u32 = 60;
        /// Commands when a failure is new. One that fails, or takes too long, stops the recovery that would follow.
        OnFailureDetectionProcesses: Vec<String> = Vec::new();
        /// Commands before a graceful takeover. One that fails, or takes too long, stops it.
        PreGracefulTakeoverProcesses: Vec<String> = Vec::new();
        /// Commands before any recovery touches anything. One that fails, or takes too long, stops it.
        PreFailoverProcesses: Vec<String> = Vec::new();
        /// (own key) Commands that make sure that a failed primary takes no writes (power, network, storage), called in the middle of a failover where neither its own word nor semi-sync proves it. All must end with 0 before another server is opened; otherwise nobody is. They may be called again for the same failure.
        FencingProcesses: Vec<String> = Vec::new();
        /// Commands after a primary was replaced.
        PostMasterFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after an intermediate source was replaced.
        PostIntermediateMasterFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after any recovery that succeeded.
        PostFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after a recovery that failed; not after one that a command stopped.
        PostUnsuccessfulFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after a graceful takeover.
        PostGracefulTakeoverProcesses: Vec<String> = Vec::new();
        /// (own key) Seconds that all commands of `OnFailureDetectionProcesses` together may take; then the running one is ended with everything that it began, and counts as failed.
        OnFailureDetectionProcessesTimeoutSeconds: u32 = 30;
        /// (own key) The same for `PreGracefulTakeoverProcesses`.
        PreGracefulTakeoverProcessesTimeoutSeconds: u32 = 30;
        /// (own key) The same for `PreFailoverProcesses`.
        PreFailoverProcessesTimeoutSeconds: u32 = 30;
        /// (own key) The same for `FencingProcesses`.
        FencingProcessesTimeoutSeconds: u32 = 30;
        /// (own key) The same for `PostMasterFailoverProcesses`.
        PostMasterFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) The same for `PostIntermediateMasterFailoverProcesses`.
        PostIntermediateMasterFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) The same for `PostFailoverProcesses`.
        PostFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) The same for `PostUnsuccessfulFailoverProcesses`.
        PostUnsuccessfulFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) The same for `PostGracefulTakeoverProcesses`.
        PostGracefulTakeoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that a command may take that ends in `&`: it is not waited for.
        AsynchronousHookTimeoutSeconds: u32 = 3600;
    }
}

/// The StatefulSet whose pods are the members.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatefulSet {
    /// Name of the StatefulSet.
    pub name: String,
    /// Name of its headless Service.
    pub service_name: String,
    /// Namespace of both.
    pub namespace: String,
    /// How many pods the first bootstrap waits for, at least 1.
    pub replicas: u32,
    /// Domain of the cluster; empty leaves it to the search list of the pod's resolver.
    #[serde(default)]
    pub cluster_domain: String,
}

/// Documents from the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Kubernetes {
    /// Read `MySQLCluster` documents and write their status.
    pub enabled: bool,
    /// Namespace of the pod; empty: as the service account says.
    pub namespace: String,
    /// Namespaces that are watched; empty: the own one; `*`: all.
    pub watch_namespaces: Vec<String>,
    /// Watch nodes, and pods of the watched namespaces: documents may have a primary replaced before its pod goes.
    pub drain: bool,
    /// Tell the roles of servers by labels of their pods.
    pub pod_role_labels: bool,
}
