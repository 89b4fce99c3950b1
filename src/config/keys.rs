//! Every key that this version uses, with its type, default and meaning. The parser and the reference page are made from this list.

use std::collections::BTreeMap;

use serde::de::MapAccess;

use super::secret::Secret;

/// One key as the reference page shows it.
#[derive(Clone, Debug)]
pub struct KeyDoc {
    /// Name.
    pub name: &'static str,
    /// Rust type; the page shows it in words.
    pub kind: &'static str,
    /// Default as JSON.
    pub default: String,
    /// Meaning.
    pub about: String,
}

/// Declares a group of keys: a struct with one field per key, their defaults, and a reader that ignores case
/// (as the Go decoder does for which orchestrator's files were written).
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
    /// The listener of the API, and what the API shows.
    ListenerKeys {
        /// Log at debug level.
        Debug: bool = false;
        /// Address on which the API listens, `host:port`; `:3000` means all interfaces.
        ListenAddress: String = ":3000".to_owned();
        /// Base URI of this member's API as other members and clients reach it, `http://host:port` without a path. Default: the host of `RaftAdvertise` with the port of `ListenAddress`.
        HTTPAdvertise: String = String::new();
        /// Path below which everything is served, for example `/x`; empty: the root.
        URLPrefix: String = String::new();
        /// Path of the status check. A path other than the default is served as written, without `URLPrefix`.
        StatusEndpoint: String = "/api/status".to_owned();
        /// Refuse every API call that changes something, with status 403.
        ReadOnly: bool = false;
        /// (own key) File with tokens, one per line. A client that changes something through the API sends one of them, as `Authorization: Bearer TOKEN` or as the password of basic authentication with any user name. Reads need no token. The file is read again when it changes. Required when `ListenAddress` is no loopback address, unless `APIOpen` or `ReadOnly` is set.
        APIWriteTokenFile: String = String::new();
        /// (own key) Address, `host:port`, of a second listener that serves health, leadership, status and `/metrics` only, so that other requests cannot delay them. Empty: they are served at `ListenAddress` only, which serves them in any case.
        HealthListenAddress: String = String::new();
        /// Regular expressions on `host:port`: instances that `problems` leaves out.
        ProblemIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// (own key) The API accepts changes without authentication at an address that other machines reach. Without this key, and without `APIWriteTokenFile` and `ReadOnly`, such an API does not start.
        APIOpen: bool = false;
    }
}

keys! {
    /// Connections to managed servers.
    TopologyKeys {
        /// Account on all managed servers for which no document brings credentials.
        MySQLTopologyUser: String = String::new();
        /// Password of `MySQLTopologyUser`; `${NAME}` takes it from the environment.
        MySQLTopologyPassword: Secret = Secret::default();
        /// my.cnf style file with `user` and `password` under `[client]`; it overrides the two keys above.
        MySQLTopologyCredentialsConfigFile: String = String::new();
        /// (own key) Account for replication channels that ham4db sets up; empty: a replica keeps its account.
        MySQLReplicationUser: String = String::new();
        /// (own key) Password of `MySQLReplicationUser`; `${NAME}` takes it from the environment.
        MySQLReplicationPassword: Secret = Secret::default();
        /// PEM file of the certificate authority of the servers: connections use TLS, and certificate and host name are verified.
        MySQLTopologySSLCAFile: String = String::new();
        /// Connections use TLS, and nothing is verified.
        MySQLTopologySSLSkipVerify: bool = false;
        /// (own key) Connections use TLS where the server offers it, and nothing is verified. With `false`, connections use TLS only with one of the two keys above.
        MySQLTopologyUseTLS: bool = true;
        /// Deadline for a connection to a managed server, in seconds.
        MySQLConnectTimeoutSeconds: u32 = 2;
        /// Deadline for the answers of one probe, in seconds.
        MySQLDiscoveryReadTimeoutSeconds: u32 = 10;
        /// Port of an instance when an address has none.
        DefaultInstancePort: u16 = 3306;
    }
}

keys! {
    /// The backend. The keys with `Ham4db` in their names also have orchestrator's names, with `Orchestrator` in its place.
    BackendKeys {
        /// `sqlite` (or `sqlite3`) or `mysql` (also for MariaDB; with `RaftEnabled`, a database for each member; without it, all members on one database act together, see [deployment-shared-backend.md](deployment-shared-backend.md)). Empty: `mysql` when `MySQLHam4dbHost` is set, otherwise `sqlite`.
        BackendDB: String = String::new();
        /// File of the SQLite backend. With `RaftEnabled` the default is `ham4db.db` in `RaftDataDir`; without it the key is required.
        SQLite3DataFile: String = String::new();
        /// Host of the MySQL backend.
        MySQLHam4dbHost: String = String::new();
        /// Port of the MySQL backend.
        MySQLHam4dbPort: u16 = 3306;
        /// Database (schema) of the MySQL backend. It has to exist, and the account needs all privileges on it.
        MySQLHam4dbDatabase: String = String::new();
        /// Account on the MySQL backend.
        MySQLHam4dbUser: String = String::new();
        /// Password of that account, or `${VARIABLE}`.
        MySQLHam4dbPassword: Secret = Secret::default();
        /// File in the style of `my.cnf` with `user` and `password` of that account, in the group `[client]`.
        MySQLHam4dbCredentialsConfigFile: String = String::new();
        /// Most connections to the MySQL backend.
        MySQLHam4dbMaxPoolConnections: u32 = 128;
        /// Deadline for a connection to the MySQL backend and for a statement on it, in seconds.
        MySQLHam4dbReadTimeoutSeconds: u32 = 30;
        /// Has no effect: a connection on which a transaction failed is always replaced, so that a proxy can lead to another server.
        MySQLHam4dbRejectReadOnly: bool = false;
        /// TLS with a verified server to the MySQL backend, and with a client certificate when `MySQLHam4dbSSLCertFile` is set.
        MySQLHam4dbUseMutualTLS: bool = false;
        /// PEM file with the authorities of the MySQL backend. Default: those of the system.
        MySQLHam4dbSSLCAFile: String = String::new();
        /// PEM file with the client certificate.
        MySQLHam4dbSSLCertFile: String = String::new();
        /// PEM file with the key of the client certificate.
        MySQLHam4dbSSLPrivateKeyFile: String = String::new();
        /// TLS to the MySQL backend without verification of the server.
        MySQLHam4dbSSLSkipVerify: bool = false;
        /// (own key) Seconds for which a member waits for a backend that takes no writes before it exits; 0: it waits for ever.
        BackendExitSeconds: u32 = 60;
        /// Observations are written in larger batches: the next two keys count. Otherwise what changed is written once a second.
        BufferInstanceWrites: bool = false;
        /// The most instances that one transaction writes.
        InstanceWriteBufferSize: u32 = 100;
        /// Pause between two writes of observations, milliseconds, with `BufferInstanceWrites`; at least 100.
        InstanceFlushIntervalMilliseconds: u32 = 100;
        /// The tables are not made or changed at the start.
        SkipHam4dbDatabaseUpdate: bool = false;
        /// A backend with the tables of another version ends the start. An empty database is filled.
        PanicIfDifferentDatabaseDeploy: bool = false;
    }
}

keys! {
    /// The group.
    GroupKeys {
        /// Days for which the API shows entries of the audit and the table `audit` keeps them. At most the last 1000 are kept.
        AuditPurgeDays: u32 = 7;
        /// Hours after which an instance that is not seen is forgotten, and its quarantine ends. Changes of the analysis are kept for the same time (`replication-analysis-changelog`).
        UnseenInstanceForgetHours: u32 = 240;
        /// Several members form a raft group.
        RaftEnabled: bool = false;
        /// Address of the peer listener, `host` or `host:port`.
        RaftBind: String = "127.0.0.1:10008".to_owned();
        /// Address that is given to the peers. Default: with `RaftStatefulSet` the pod's name in its Service, otherwise `RaftBind`.
        RaftAdvertise: String = String::new();
        /// Directory of the raft log, the member's identity and the last known credentials. Required with `RaftEnabled`.
        RaftDataDir: String = String::new();
        /// Port of a peer when an address has none.
        DefaultRaftPort: u16 = 10_008;
        /// All members, including this one. Names are resolved at every connection attempt.
        RaftNodes: Vec<String> = Vec::new();
        /// (own key) File with a secret that all members share; peers without it are refused. Required when `RaftBind` is no loopback address, unless `RaftInsecure` is set.
        RaftGroupKeyFile: String = String::new();
        /// (own key) Interval of the leader's heartbeats, in milliseconds.
        RaftHeartbeatMilliseconds: u32 = 100;
        /// (own key) Shortest election timeout, in milliseconds; at least three heartbeats.
        RaftElectionMinMilliseconds: u32 = 400;
        /// (own key) Longest election timeout, in milliseconds.
        RaftElectionMaxMilliseconds: u32 = 700;
        /// (own key) The members are the pods of a StatefulSet: `{"Name", "ServiceName", "Namespace", "Replicas", "ClusterDomain"}`. Replaces `RaftNodes`.
        RaftStatefulSet: Option<StatefulSet> = None;
        /// (own key) Documents from the Kubernetes API: `{"Enabled", "Namespace", "WatchNamespaces", "Drain", "PodRoleLabels"}`.
        Kubernetes: Kubernetes = Kubernetes::default();
        /// (own key) Directory with the same documents as files.
        ManifestsDir: String = String::new();
        /// (own key) Seconds by which the clock of a member may differ from the time of the majority before it is reported as `ClockSkew`. Members always use the majority's time.
        ClockSkewLimitSeconds: u32 = 5;
        /// (own key) The peer listener accepts members without authentication at an address that other machines reach. Without this key and without `RaftGroupKeyFile`, such a member does not start.
        RaftInsecure: bool = false;
    }
}

keys! {
    /// Discovery, classification and thresholds.
    DiscoveryKeys {
        /// Seconds between full probes of an instance; other intervals derive from it.
        InstancePollSeconds: u32 = 5;
        /// (own key) Milliseconds between pulses to instances that have replicas, are suspected, or are in quarantine.
        PulseMilliseconds: u32 = 100;
        /// (own key) How the members of a group share the probes: `off` (every member probes every instance), `round-robin` (the leader assigns every instance to one member) or `data-center` (to a member in the same data centre, see `MemberDataCenter`). The same on all members. Needs `RaftEnabled`. See [probe-sharing.md](probe-sharing.md).
        ProbeSharing: String = "off".to_owned();
        /// Addresses at which discovery starts.
        DiscoverySeeds: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: replicas that discovery does not follow.
        DiscoveryIgnoreReplicaHostnameFilters: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: sources that discovery does not follow.
        DiscoveryIgnoreMasterHostnameFilters: Vec<String> = Vec::new();
        /// Regular expressions on `host:port`: instances that discovery does not follow.
        DiscoveryIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// (own key) Hosts that discovery may dial although only another server names them: host names in which `*` stands for any characters, addresses, and networks (`10.1.0.0/16`). In addition to those that share the domain or the private network of a named server of the cluster.
        DiscoveryAllowedHosts: Vec<String> = Vec::new();
        /// (own key) Of the hosts that only another server names, discovery dials those in `DiscoveryAllowedHosts` and no others.
        DiscoveryAllowedHostsOnly: bool = false;
        /// (own key) Number of watched instances beyond which discovery follows no further ones. Seeds, and members of recorded clusters, are always watched.
        DiscoveryMaxInstances: u32 = 20_000;
        /// Query on a replica that returns its lag in seconds as the first value. It replaces the lag that the server reports.
        ReplicationLagQuery: String = String::new();
        /// Old name of `ReplicationLagQuery`.
        SlaveLagQuery: String = String::new();
        /// Lag in seconds above which a replica counts as lagging.
        ReasonableReplicationLagSeconds: u32 = 10;
        /// Lag in seconds above which the topology shows a replica as `lag` and a takeover refuses it as the target. A takeover waits for the target for the same time.
        ReasonableMaintenanceReplicationLagSeconds: u32 = 20;
        /// Alias of clusters, by regular expression on the name of the cluster.
        ClusterNameToAlias: BTreeMap<String, String> = BTreeMap::new();
        /// Regular expression on the host name; its first group is the data centre.
        DataCenterPattern: String = String::new();
        /// Regular expression on the host name; its first group is the region.
        RegionPattern: String = String::new();
        /// Regular expression on the host name; its first group is the environment.
        PhysicalEnvironmentPattern: String = String::new();
        /// Query on an instance that returns its data centre; it overrides the pattern.
        DetectDataCenterQuery: String = String::new();
        /// Query on an instance that returns its region; it overrides the pattern.
        DetectRegionQuery: String = String::new();
        /// Query on an instance that returns its environment; it overrides the pattern.
        DetectPhysicalEnvironmentQuery: String = String::new();
        /// Query on a replica that returns its semi-sync priority: replicas with a higher value are switched on first, and those with 0 never are. Without it all capable replicas have the same priority.
        DetectSemiSyncEnforcedQuery: String = String::new();
        /// Minutes after which a promotion rule of `register-candidate` expires; 0 (the default here, 60 in orchestrator): never.
        CandidateInstanceExpireMinutes: u32 = 0;
    }
}

keys! {
    /// Recoveries.
    RecoveryKeys {
        /// Seconds after a recovery during which the same cluster is not recovered again, unless the first recovery is acknowledged.
        RecoveryPeriodBlockSeconds: u32 = 3600;
        /// The same period in minutes; used only when the key above is 0.
        RecoveryPeriodBlockMinutes: u32 = 60;
        /// Regular expressions on `host:port`: instances with findings that are ignored.
        RecoveryIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// Clusters without a document in which a failed primary is replaced: a name, an alias, `alias=x`, `alias~=x`, `*`, or a regular expression on the name.
        RecoverMasterClusterFilters: Vec<String> = Vec::new();
        /// Clusters without a document in which the replicas of failed intermediate primaries, and of failed members of replication groups, get another source. Same syntax as above.
        RecoverIntermediateMasterClusterFilters: Vec<String> = Vec::new();
        /// A primary that waits for more semi-sync replicas than acknowledge gets more acknowledging replicas.
        RecoverLockedSemiSyncMaster: bool = false;
        /// Regular expressions on `host:port`: instances that are never promoted.
        PromotionIgnoreHostnameFilters: Vec<String> = Vec::new();
        /// A read-only primary with replicating replicas is made writable, whatever made it read-only. A primary that ham4db had made writable and that is read-only since its last start is made writable in any case.
        RecoverNonWriteableMaster: bool = false;
        /// More semi-sync replicas than the primary waits for are a failure: surplus replicas are switched off.
        EnforceExactSemiSyncReplicas: bool = false;
        /// Seconds for which the binary log of a primary that waits for too many semi-sync replicas must stand still before the primary counts as locked; 0: `ReasonableReplicationLagSeconds`.
        ReasonableLockedSemiSyncMasterSeconds: u32 = 0;
        /// When the primary of two co-primaries fails, only the other co-primary may be promoted. `false`: a replica may be promoted too. A co-primary that already takes writes is always the one.
        CoMasterRecoveryMustPromoteOtherCoMaster: bool = true;
        /// Never promote across data centres.
        PreventCrossDataCenterMasterFailover: bool = false;
        /// Never promote across regions.
        PreventCrossRegionMasterFailover: bool = false;
        /// Never promote a replica that lags by this many minutes or more; 0: no limit. Needs `ReplicationLagQuery`.
        FailMasterPromotionOnLagMinutes: u32 = 0;
        /// Never promote a replica while it has not applied all that it received. No server is changed meanwhile, and the recovery is retried.
        FailMasterPromotionIfSQLThreadNotUpToDate: bool = false;
        /// Wait for the chosen replica to apply all that it received as long as it makes progress, for a day at most. Without it: wait 60 seconds, then choose the next replica.
        DelayMasterPromotionIfSQLThreadNotUpToDate: bool = false;
        /// (own key) Policy when transactions would be lost, for clusters without a document: `Refuse`, `AllowAfterTimeout` or `Allow`. Default: `Refuse` where the primary's semi-sync promises that nothing can be lost, otherwise `Allow`.
        LossPolicy: String = String::new();
        /// (own key) Seconds for which `AllowAfterTimeout` waits for the old primary.
        LossTimeoutSeconds: u32 = 60;
        /// (own key) `schema.table`, a table that you create on the servers. ham4db writes the epoch of a cluster into it on each new primary, so that applications can recognise a former primary. Columns: `cluster` (key), `epoch`, `primary_address`, `recovery`. The account needs INSERT, SELECT and UPDATE on it. Empty: nothing is written.
        EpochTable: String = String::new();
        /// (own key) Number of primaries that are replaced at the same time, at least 1; the most important first. Other repairs use at most half of it, and start only while fewer repairs than that run.
        MaxConcurrentRecoveries: u32 = 20;
        /// (own key) Seconds for which a takeover waits for running transactions on the old primary.
        TakeoverTransactionWaitSeconds: u32 = 5;
        /// (own key) Treatment of transactions that run longer: `Kill` ends them, `Refuse` ends the takeover.
        TakeoverLongTransactions: String = "Kill".to_owned();
        /// (own key) Seconds for which the change of the old primary to read-only may wait for locks (`LOCK TABLES`, a running write) in a takeover, 2 to 60. Writes wait meanwhile. Afterwards the takeover is undone, and the error names the session that holds the lock.
        TakeoverLockWaitSeconds: u32 = 5;
        /// (own key) Treatment of scheduled events on a new primary, for clusters without a document. They arrive disabled by replication. `Enable` enables those that were enabled on the old primary when it was last looked at, once a minute; `Leave` changes nothing. Needs privileges: [setup.md](setup.md#the-account-on-the-servers).
        PromotedEvents: String = "Enable".to_owned();
        /// (own key) Treatment of servers that boot writable, for clusters without a document: `Enforce` (their next start is read-only, and the primary is opened again after its start), `Advise` or `Off`. With the first two, a replica that was read-only and boots writable is made read-only again.
        BootReadOnly: String = "Advise".to_owned();
        /// (own key) Which transactions survive the loss of a primary, for clusters without a document: `None` (semi-sync settings are left alone), `SemiSync` (commits wait for replicas) or `CrossDataCenter` (commits wait for replicas outside the primary's data centre).
        Durability: String = "None".to_owned();
        /// (own key) With `Durability`: number of replicas for which a commit waits, 1 to 64. MariaDB waits for one.
        DurabilityCount: u32 = 1;
        /// (own key) With `Durability`: commits keep waiting when fewer replicas can acknowledge. Otherwise they wait for the replicas that exist, and for none when there is none.
        DurabilityStrict: bool = false;
        /// (own key) Which members must agree before a failover: `Leader`, `Majority` (of the voters) or `MajorityOfDataCenters` (such a majority, in more than half of the voters' data centres). Default: `Majority` with `RaftEnabled`, otherwise `Leader`.
        RecoveryQuorum: String = String::new();
        /// (own key) Treatment of a primary that accepts connections and answers none, and of one that answers and commits nothing: `Observe` or `Failover`. Of one that does not answer, `Failover` needs a majority, and no replica that still receives; such a primary cannot be fenced. Of one that commits nothing, it needs a proof that it takes no more writes.
        StalledPrimary: String = "Observe".to_owned();
        /// (own key) With `StalledPrimary: Failover`: seconds without an answer, or without a commit, before the failover.
        StalledPrimarySeconds: u32 = 30;
        /// (own key) A primary that answers counts as stalled when a commit has waited for this many seconds while its binary log stood still. Commits that wait for semi-sync replicas do not count. What follows is set by `StalledPrimary`.
        StalledCommitSeconds: u32 = 10;
        /// (own key) `schema.table`, a table that you create on the servers. ham4db writes a row into it on each primary every two seconds, so that a primary that commits nothing is found even when no client writes. Columns: `cluster` (key), `written_at` (BIGINT, milliseconds). The account needs INSERT, SELECT and UPDATE on it. Empty: nothing is written.
        StallCanary: String = String::new();
        /// (own key) Data centre of this member, for `RecoveryQuorum: MajorityOfDataCenters`; `${NAME}` is a variable of the environment. A member without one counts as one more data centre that does not agree.
        MemberDataCenter: String = String::new();
    }
}

keys! {
    /// Pseudo-GTID: positions in the logs of servers without GTIDs.
    PseudoGtidKeys {
        /// Write a statement without effect on every primary without GTIDs, every 5 seconds, and use it to find positions in the logs of its replicas. The account needs DROP on `_pseudo_gtid_`.*. Overrides the next four keys.
        AutoPseudoGTID: bool = false;
        /// Regular expression that finds entries which another program writes; empty: there are none.
        PseudoGTIDPattern: String = String::new();
        /// The pattern is a fixed text that entries contain.
        PseudoGTIDPatternIsFixedSubstring: bool = false;
        /// Entries that contain this text increase with time, which saves reading binary logs; empty: none do.
        PseudoGTIDMonotonicHint: String = String::new();
        /// Query on an instance that returns 1 when it uses Pseudo-GTID. For display.
        DetectPseudoGTIDQuery: String = String::new();
        /// Number of log events that are read at once.
        BinlogEventsChunkSize: u32 = 10_000;
        /// Events that contain one of these texts are ignored when logs are compared.
        SkipBinlogEventsContaining: Vec<String> = Vec::new();
    }
}

keys! {
    /// Commands of the operator before and after recoveries.
    HookKeys {
        /// Shell of the commands: a POSIX shell. Where `bash` is missing, `sh` replaces the default.
        ProcessesShellCommand: String = "bash".to_owned();
        /// Minutes for which the same failure of an instance is reported to `OnFailureDetectionProcesses` only once.
        FailureDetectionPeriodBlockMinutes: u32 = 60;
        /// Commands for a new failure. They run beside the recovery: it neither waits for them nor depends on their result. A veto belongs in `PreFailoverProcesses`.
        OnFailureDetectionProcesses: Vec<String> = Vec::new();
        /// Commands before a graceful takeover. A command that fails or times out stops it.
        PreGracefulTakeoverProcesses: Vec<String> = Vec::new();
        /// Commands before a recovery changes any server. A command that fails or times out stops it.
        PreFailoverProcesses: Vec<String> = Vec::new();
        /// (own key) Commands that ensure that a failed primary takes no writes (power, network, storage). They run during a failover where neither the primary's own confirmation nor semi-sync proves it. All must exit with 0 before another server is opened; otherwise the failover is aborted. They may run again for the same failure.
        FencingProcesses: Vec<String> = Vec::new();
        /// Commands after a primary was replaced.
        PostMasterFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after an intermediate source was replaced.
        PostIntermediateMasterFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after any successful recovery.
        PostFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after a failed recovery; not after one that a command stopped.
        PostUnsuccessfulFailoverProcesses: Vec<String> = Vec::new();
        /// Commands after a graceful takeover.
        PostGracefulTakeoverProcesses: Vec<String> = Vec::new();
        /// (own key) Seconds that all commands of `OnFailureDetectionProcesses` together may take. After that the running command and all its child processes are ended, and it counts as failed.
        OnFailureDetectionProcessesTimeoutSeconds: u32 = 30;
        /// (own key) Seconds that all commands of `PreGracefulTakeoverProcesses` together may take, as above.
        PreGracefulTakeoverProcessesTimeoutSeconds: u32 = 30;
        /// (own key) Seconds that all commands of `PreFailoverProcesses` together may take, as above.
        PreFailoverProcessesTimeoutSeconds: u32 = 30;
        /// (own key) Seconds that all commands of `FencingProcesses` together may take, as above.
        FencingProcessesTimeoutSeconds: u32 = 30;
        /// (own key) Seconds that all commands of `PostMasterFailoverProcesses` together may take, as above.
        PostMasterFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that all commands of `PostIntermediateMasterFailoverProcesses` together may take, as above.
        PostIntermediateMasterFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that all commands of `PostFailoverProcesses` together may take, as above.
        PostFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that all commands of `PostUnsuccessfulFailoverProcesses` together may take, as above.
        PostUnsuccessfulFailoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that all commands of `PostGracefulTakeoverProcesses` together may take, as above.
        PostGracefulTakeoverProcessesTimeoutSeconds: u32 = 300;
        /// (own key) Seconds that a command which ends in `&` may take. ham4db does not wait for it.
        AsynchronousHookTimeoutSeconds: u32 = 3600;
    }
}

keys! {
    /// Where primaries are published: key-value stores and ProxySQL.
    PublisherKeys {
        /// Prefix of all keys in key-value stores and in the table `kv_store`.
        KVClusterMasterPrefix: String = "mysql/master".to_owned();
        /// (own key) Remove the pairs of a cluster from Consul, etcd and ZooKeeper when the replacement of its primary begins. They return with the new primary.
        KVRemoveBeforeFailover: bool = false;
        /// (own key) A failover or takeover counts as failed when the new primary is not published everywhere within 10 seconds: its record has the error, and `PostUnsuccessfulFailoverProcesses` run in place of the hooks after a success. The primary is replaced all the same.
        FailRecoveryOnFailedPublication: bool = false;
        /// Address of a Consul agent, `host:8500`; empty: nothing is published there.
        ConsulAddress: String = String::new();
        /// `http` or `https`. With `https` the certificate is verified (orchestrator verifies nothing).
        ConsulScheme: String = "http".to_owned();
        /// ACL token for Consul; `${NAME}` takes it from the environment. It needs `key:write` below the prefix.
        ConsulAclToken: Secret = Secret::default();
        /// Write the pairs to all data centres that Consul knows.
        ConsulCrossDataCenterDistribution: bool = false;
        /// `consul` or `consul-txn`. Pairs are written in transactions with both.
        ConsulKVStoreProvider: String = "consul".to_owned();
        /// Number of operations in one transaction, 5 to 64 (the default here; 5 in orchestrator). With 7 or more the pairs of a cluster are written at once.
        ConsulMaxKVsPerTransaction: u32 = 64;
        /// (own key) PEM file of the certificate authority of Consul. Empty: the authorities of the machine.
        ConsulSSLCAFile: String = String::new();
        /// (own key) PEM file of a client certificate for Consul.
        ConsulSSLCertFile: String = String::new();
        /// (own key) PEM file of the key of `ConsulSSLCertFile`.
        ConsulSSLPrivateKeyFile: String = String::new();
        /// (own key) Members of etcd, `http://host:2379` or `https://host:2379`; the first one that answers is used. Empty: nothing is published there.
        EtcdEndpoints: Vec<String> = Vec::new();
        /// (own key) User of etcd. It needs `readwrite` below the prefix.
        EtcdUser: String = String::new();
        /// (own key) Password of `EtcdUser`; `${NAME}` takes it from the environment.
        EtcdPassword: Secret = Secret::default();
        /// (own key) PEM file of the certificate authority of etcd. Empty: the authorities of the machine.
        EtcdSSLCAFile: String = String::new();
        /// (own key) PEM file of a client certificate for etcd.
        EtcdSSLCertFile: String = String::new();
        /// (own key) PEM file of the key of `EtcdSSLCertFile`.
        EtcdSSLPrivateKeyFile: String = String::new();
        /// ZooKeeper servers, `host:2181,host:2181`, with an optional path below which all keys are (`host:2181/path`); empty: nothing is published there.
        ZkAddress: String = String::new();
        /// (own key) `user:password` for ZooKeeper's scheme `digest`; `${NAME}` takes it from the environment. Nodes that are created may then be changed by this user only, and read by everyone.
        ZkDigest: Secret = Secret::default();
        /// (own key) TLS to ZooKeeper; the certificate is verified.
        ZkUseTLS: bool = false;
        /// (own key) PEM file of the certificate authority of ZooKeeper. Empty: the authorities of the machine.
        ZkSSLCAFile: String = String::new();
        /// (own key) PEM file of a client certificate for ZooKeeper.
        ZkSSLCertFile: String = String::new();
        /// (own key) PEM file of the key of `ZkSSLCertFile`.
        ZkSSLPrivateKeyFile: String = String::new();
        /// (ProxySQL) Admin interfaces of ProxySQL, `host` or `host:port`, several with commas; empty: nothing is published there.
        ProxySQLAdminAddress: String = String::new();
        /// (ProxySQL) Port of an admin interface when an address has none.
        ProxySQLAdminPort: u16 = 6032;
        /// (ProxySQL) Admin user of ProxySQL. From another machine it cannot be `admin`.
        ProxySQLAdminUser: String = "admin".to_owned();
        /// (ProxySQL) Password of `ProxySQLAdminUser`; `${NAME}` takes it from the environment.
        ProxySQLAdminPassword: Secret = Secret::default();
        /// (own key) File with the password of `ProxySQLAdminUser`; it overrides the key above.
        ProxySQLAdminPasswordFile: String = String::new();
        /// (ProxySQL) TLS to the admin interfaces; the certificate is verified.
        ProxySQLAdminUseTLS: bool = false;
        /// (own key) PEM file of the certificate authority of ProxySQL. Empty: the authorities of the machine.
        ProxySQLAdminSSLCAFile: String = String::new();
        /// (ProxySQL) Hostgroup of the primary of every cluster that `ProxySQLClusterHostgroups` does not name; 0: such clusters are not published at ProxySQL.
        ProxySQLWriterHostgroup: u32 = 0;
        /// (ProxySQL) Hostgroup of the replicas of these clusters; 0: there is none.
        ProxySQLReaderHostgroup: u32 = 0;
        /// (own key) Hostgroups by the alias of a cluster: `{"shop": {"Writer": 10, "Reader": 20}}`; `Reader` may be left out.
        ProxySQLClusterHostgroups: BTreeMap<String, ClusterHostgroups> = BTreeMap::new();
        /// (ProxySQL) What happens to a primary in ProxySQL when its replacement begins: `offline_soft` (no new connections; the present ones end with their transactions), `weight_zero` (no new connections) or `none`. A takeover waits for it, 2 seconds at most.
        ProxySQLPreFailoverAction: String = "offline_soft".to_owned();
    }
}

/// The hostgroups of one cluster in ProxySQL.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ClusterHostgroups {
    /// Hostgroup of the primary.
    pub writer: u32,
    /// Hostgroup of the replicas; 0: there is none.
    pub reader: u32,
}

/// The StatefulSet with the members as its pods.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatefulSet {
    /// Name of the StatefulSet.
    pub name: String,
    /// Name of its headless Service.
    pub service_name: String,
    /// Namespace of both.
    pub namespace: String,
    /// Number of pods for which the first bootstrap waits, at least 1.
    pub replicas: u32,
    /// DNS domain of the Kubernetes cluster; empty: the search list of the pod's resolver supplies it.
    #[serde(default)]
    pub cluster_domain: String,
}

/// Documents from the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Kubernetes {
    /// Read `MySQLCluster` documents and write their status.
    pub enabled: bool,
    /// Namespace of the pod; empty: that of the service account.
    pub namespace: String,
    /// Namespaces that are watched; empty: the namespace of the pod; `*`: all.
    pub watch_namespaces: Vec<String>,
    /// Watch nodes, and pods of the watched namespaces, so that a document can request a takeover before the pod of the primary is evicted.
    pub drain: bool,
    /// Label the pods of servers with their roles.
    pub pod_role_labels: bool,
}
