//! The keys of orchestrator (and of Percona's fork) that are accepted and not used yet: an old file loads, and keys without effect are
//! listed in one line.

use serde_json::Value;

/// A key that is accepted and has no effect yet.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Its name, as orchestrator spells it.
    pub name: &'static str,
    /// Its type and default.
    pub default: Usual,
    /// What it is for.
    pub about: &'static str,
    /// Why a value other than the default is refused: ignoring it would be dangerous.
    pub refusal: Option<&'static str>,
}

/// The type of an accepted key with orchestrator's default.
#[derive(Clone, Copy, Debug)]
pub enum Usual {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(&'static str),
    /// A secret text; empty by default.
    Secret,
    /// A list of texts.
    List(&'static [&'static str]),
}

impl Usual {
    /// The type in words, as an error says what was expected.
    pub fn expectation(self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) | Self::Secret => "a string",
            Self::List(_) => "a list of strings",
        }
    }

    /// The default as JSON.
    pub fn as_json(self) -> Value {
        match self {
            Self::Bool(value) => value.into(),
            Self::Number(value) => value.into(),
            Self::Text(value) => value.into(),
            Self::Secret => "".into(),
            Self::List(values) => values.to_vec().into(),
        }
    }

    /// Whether a value has the type.
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Self::Bool(_) => value.is_boolean(),
            Self::Number(_) => value.is_number(),
            Self::Text(_) | Self::Secret => value.is_string(),
            Self::List(_) => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        }
    }

    /// Whether a value is the default, numbers compared by value.
    pub fn is(self, value: &Value) -> bool {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "defaults are small numbers")]
            Self::Number(usual) => value.as_f64() == Some(usual as f64),
            Self::Bool(_) | Self::Text(_) | Self::Secret | Self::List(_) => *value == self.as_json(),
        }
    }
}

/// Finds a key whatever its case.
pub fn find(name: &str) -> Option<&'static Accepted> {
    ACCEPTED.iter().find(|key| key.name.eq_ignore_ascii_case(name))
}

/// Keys that orchestrator itself dropped long ago and that are still found in files.
pub const OBSOLETE: [&str; 18] = [
    "DatabaselessMode__experimental",
    "BufferBinlogEvents",
    "BinlogFileHistoryDays",
    "MaintenanceOwner",
    "ReadLongRunningQueries",
    "DiscoveryPollSeconds",
    "ActiveNodeExpireSeconds",
    "AuditPageSize",
    "SlaveStartPostWaitMilliseconds",
    "MySQLTopologyMaxPoolConnections",
    "MaintenancePurgeDays",
    "MaintenanceExpireMinutes",
    "HttpTimeoutSeconds",
    "AgentAutoDiscover",
    "PseudoGTIDCoordinatesHistoryHeuristicMinutes",
    "PseudoGTIDPreferIndependentMultiMatch",
    "MaxOutdatedKeysToShow",
    "StatusSimpleHealth",
];

/// All of them, by name.
#[rustfmt::skip]
pub const ACCEPTED: &[Accepted] = &[
    Accepted { name: "AccessTokenExpiryMinutes", default: Usual::Number(1440), about: "and is valid for", refusal: None },
    Accepted { name: "AccessTokenUseExpirySeconds", default: Usual::Number(60), about: "a token must be claimed within", refusal: None },
    Accepted { name: "AgentPollMinutes", default: Usual::Number(60), about: "how often agents are asked", refusal: None },
    Accepted { name: "AgentSSLCAFile", default: Usual::Text(""), about: "authority", refusal: None },
    Accepted { name: "AgentSSLCertFile", default: Usual::Text(""), about: "certificate", refusal: None },
    Accepted { name: "AgentSSLPrivateKeyFile", default: Usual::Text(""), about: "key", refusal: None },
    Accepted { name: "AgentSSLSkipVerify", default: Usual::Bool(false), about: "do not verify agents", refusal: None },
    Accepted { name: "AgentSSLValidOUs", default: Usual::List(&[]), about: "organisational units of agents", refusal: None },
    Accepted { name: "AgentsServerPort", default: Usual::Text(":3001"), about: "where", refusal: None },
    Accepted { name: "AgentsUseMutualTLS", default: Usual::Bool(false), about: "with client certificates", refusal: None },
    Accepted { name: "AgentsUseSSL", default: Usual::Bool(false), about: "with TLS", refusal: None },
    Accepted { name: "ApplyMySQLPromotionAfterMasterFailover", default: Usual::Bool(true), about: "open the successor; always done", refusal: None },
    Accepted { name: "AuditLogFile", default: Usual::Text(""), about: "file of the audit", refusal: None },
    Accepted { name: "AuditToBackendDB", default: Usual::Bool(false), about: "audit to a table; always done", refusal: None },
    Accepted { name: "AuditToSyslog", default: Usual::Bool(false), about: "audit to syslog", refusal: None },
    Accepted { name: "AuthUserHeader", default: Usual::Text("X-Forwarded-User"), about: "header that names the user behind a proxy", refusal: None },
    Accepted { name: "AuthenticationMethod", default: Usual::Text(""), about: "empty, basic, multi, proxy, token or oauth", refusal: Some("the API knows no users, and to ignore the key would open it; `APIWriteTokenFile` protects what changes something") },
    Accepted { name: "CustomOrcIdentity", default: Usual::Text(""), about: "that name (Percona)", refusal: None },
    Accepted { name: "DeadInstanceDiscoveryLogsEnabled", default: Usual::Bool(false), about: "log those probes (Percona)", refusal: None },
    Accepted { name: "DeadInstanceDiscoveryMaxConcurrency", default: Usual::Number(0), about: "probes of dead instances at a time (Percona)", refusal: None },
    Accepted { name: "DeadInstancePollSecondsMax", default: Usual::Number(300), about: "longest back-off, seconds (Percona)", refusal: None },
    Accepted { name: "DeadInstancePollSecondsMultiplyFactor", default: Usual::Number(1), about: "back-off of probes to dead instances (Percona)", refusal: None },
    Accepted { name: "DetachLostReplicasAfterMasterFailover", default: Usual::Bool(false), about: "detach lost replicas", refusal: None },
    Accepted { name: "DetachLostSlavesAfterMasterFailover", default: Usual::Bool(true), about: "old name of DetachLostReplicasAfterMasterFailover", refusal: None },
    Accepted { name: "DetectClusterAliasQuery", default: Usual::Text(""), about: "query on the primary for the alias", refusal: None },
    Accepted { name: "DetectClusterDomainQuery", default: Usual::Text(""), about: "query on the primary for the domain", refusal: None },
    Accepted { name: "DetectInstanceAliasQuery", default: Usual::Text(""), about: "query for the alias of an instance", refusal: None },
    Accepted { name: "DetectPromotionRuleQuery", default: Usual::Text(""), about: "query for the promotion rule", refusal: None },
    Accepted { name: "DiscoverByShowSlaveHosts", default: Usual::Bool(false), about: "prefer SHOW SLAVE HOSTS to the process list", refusal: None },
    Accepted { name: "DiscoveryCollectionRetentionSeconds", default: Usual::Number(120), about: "how long discovery metrics are kept", refusal: None },
    Accepted { name: "DiscoveryIgnoreReplicationUsernameFilters", default: Usual::List(&[]), about: "replication accounts that are no replicas (Percona)", refusal: None },
    Accepted { name: "DiscoveryMaxConcurrency", default: Usual::Number(300), about: "probes at a time", refusal: None },
    Accepted { name: "DiscoveryQueueCapacity", default: Usual::Number(100_000), about: "length of the discovery queue", refusal: None },
    Accepted { name: "DiscoveryQueueMaxStatisticsSize", default: Usual::Number(120), about: "samples kept of the queue", refusal: None },
    Accepted { name: "EnableDiscoveryFiltersLogs", default: Usual::Bool(true), about: "log what discovery filters drop (Percona)", refusal: None },
    Accepted { name: "EnableSyslog", default: Usual::Bool(false), about: "log to syslog too", refusal: None },
    Accepted { name: "ExpectFailureAnalysisConcensus", default: Usual::Bool(true), about: "had no effect in orchestrator; see RecoveryQuorum", refusal: None },
    Accepted { name: "ExpiryHostnameResolvesMinutes", default: Usual::Number(60), about: "how long a resolved name is kept", refusal: None },
    Accepted { name: "GraphiteAddr", default: Usual::Text(""), about: "address of Graphite", refusal: None },
    Accepted { name: "GraphiteConvertHostnameDotsToUnderscores", default: Usual::Bool(true), about: "dots of the host name in that prefix", refusal: None },
    Accepted { name: "GraphitePath", default: Usual::Text(""), about: "prefix of metrics in Graphite", refusal: None },
    Accepted { name: "GraphitePollSeconds", default: Usual::Number(60), about: "interval, 0: never", refusal: None },
    Accepted { name: "HTTPAuthPassword", default: Usual::Secret, about: "password of basic and multi", refusal: None },
    Accepted { name: "HTTPAuthUser", default: Usual::Text(""), about: "user of basic and multi", refusal: None },
    Accepted { name: "HostnameResolveMethod", default: Usual::Text("default"), about: "none, default, cname or ip", refusal: None },
    Accepted { name: "InstanceBulkOperationsWaitTimeoutSeconds", default: Usual::Number(10), about: "wait per instance in bulk operations", refusal: None },
    Accepted { name: "InstancePoolExpiryMinutes", default: Usual::Number(60), about: "how long pool membership counts", refusal: None },
    Accepted { name: "ListenSocket", default: Usual::Text(""), about: "unix socket instead of TCP", refusal: Some("the listener is TCP only so far") },
    Accepted { name: "LowerReplicaVersionAllowed", default: Usual::Bool(false), about: "a replica may be older than its source (Percona)", refusal: None },
    Accepted { name: "MasterFailoverDetachReplicaMasterHost", default: Usual::Bool(false), about: "detach the promoted one from the old primary", refusal: None },
    Accepted { name: "MasterFailoverDetachSlaveMasterHost", default: Usual::Bool(false), about: "old name of MasterFailoverDetachReplicaMasterHost", refusal: None },
    Accepted { name: "MasterFailoverLostInstancesDowntimeMinutes", default: Usual::Number(0), about: "had no effect in orchestrator", refusal: None },
    Accepted { name: "MaxConcurrentReplicaOperations", default: Usual::Number(5), about: "replicas moved at a time", refusal: None },
    Accepted { name: "MySQLConnectionLifetimeSeconds", default: Usual::Number(0), about: "age at which a connection is replaced, 0: never", refusal: None },
    Accepted { name: "MySQLHostnameResolveMethod", default: Usual::Text("@@hostname"), about: "empty, `@@hostname` or `@@report_host`", refusal: None },
    Accepted { name: "MySQLOrchestratorMaxAllowedPacket", default: Usual::Number(-1), about: "largest packet to the backend (Percona)", refusal: None },
    Accepted { name: "MySQLTopologyMaxAllowedPacket", default: Usual::Number(-1), about: "largest packet to managed servers (Percona)", refusal: None },
    Accepted { name: "MySQLTopologyReadTimeoutSeconds", default: Usual::Number(600), about: "read timeout of operations that are no probe", refusal: None },
    Accepted { name: "MySQLTopologySSLCertFile", default: Usual::Text(""), about: "PEM file with the client certificate", refusal: Some("client certificates are not supported yet") },
    Accepted { name: "MySQLTopologySSLPrivateKeyFile", default: Usual::Text(""), about: "PEM file with the key of the client certificate", refusal: Some("client certificates are not supported yet") },
    Accepted { name: "MySQLTopologyUseMixedTLS", default: Usual::Bool(true), about: "try without TLS, remember servers that require it", refusal: None },
    Accepted { name: "MySQLTopologyUseMutualTLS", default: Usual::Bool(false), about: "always TLS, with a client certificate", refusal: Some("client certificates are not supported yet") },
    Accepted { name: "OAuthClientId", default: Usual::Text(""), about: "had no effect in orchestrator", refusal: None },
    Accepted { name: "OAuthClientSecret", default: Usual::Secret, about: "had no effect in orchestrator", refusal: None },
    Accepted { name: "OAuthScopes", default: Usual::List(&[]), about: "had no effect in orchestrator", refusal: None },
    Accepted { name: "OSCIgnoreHostnameFilters", default: Usual::List(&[]), about: "hosts that schema changes do not look at", refusal: None },
    Accepted { name: "PostTakeMasterProcesses", default: Usual::List(&[]), about: "hooks after take-master", refusal: None },
    Accepted { name: "PostponeReplicaRecoveryOnLagMinutes", default: Usual::Number(0), about: "repoint such delayed replicas last", refusal: None },
    Accepted { name: "PostponeSlaveRecoveryOnLagMinutes", default: Usual::Number(0), about: "old name of PostponeReplicaRecoveryOnLagMinutes", refusal: None },
    Accepted { name: "PowerAuthGroups", default: Usual::List(&[]), about: "unix groups that may change something behind a proxy", refusal: None },
    Accepted { name: "PowerAuthUsers", default: Usual::List(&["*"]), about: "users that may change something behind a proxy", refusal: None },
    Accepted { name: "PrependMessagesWithOrcIdentity", default: Usual::Text(""), about: "name the member in messages (Percona)", refusal: None },
    Accepted { name: "ReasonableInstanceCheckSeconds", default: Usual::Number(1), about: "slack before an unanswered probe makes an instance invalid", refusal: None },
    Accepted { name: "ReduceReplicationAnalysisCount", default: Usual::Bool(true), about: "analyse only what may be interesting", refusal: None },
    Accepted { name: "RejectHostnameResolvePattern", default: Usual::Text(""), about: "refuse resolved names that match", refusal: None },
    Accepted { name: "RemoveTextFromHostnameDisplay", default: Usual::Text(""), about: "text cut from host names in the web interface", refusal: None },
    Accepted { name: "ReplicationCredentialsQuery", default: Usual::Text(""), about: "query that returns the replication account", refusal: None },
    Accepted { name: "SSLCAFile", default: Usual::Text(""), about: "PEM file with the authority", refusal: None },
    Accepted { name: "SSLCertFile", default: Usual::Text(""), about: "PEM file with the certificate", refusal: None },
    Accepted { name: "SSLPrivateKeyFile", default: Usual::Text(""), about: "PEM file with the key", refusal: None },
    Accepted { name: "SSLSkipVerify", default: Usual::Bool(false), about: "do not verify certificates of other members", refusal: None },
    Accepted { name: "SSLValidOUs", default: Usual::List(&[]), about: "organisational units of clients that are let in", refusal: None },
    Accepted { name: "SeedAcceptableBytesDiff", default: Usual::Number(8192), about: "had no effect in orchestrator", refusal: None },
    Accepted { name: "SeedWaitSecondsBeforeSend", default: Usual::Number(2), about: "wait before a seed is sent", refusal: None },
    Accepted { name: "ServeAgentsHttp", default: Usual::Bool(false), about: "listen for agents", refusal: None },
    Accepted { name: "SkipBinlogServerUnresolveCheck", default: Usual::Bool(true), about: "no resolve round trip for binlog servers", refusal: None },
    Accepted { name: "SkipMaxScaleCheck", default: Usual::Bool(true), about: "do not look for MaxScale", refusal: None },
    Accepted { name: "SnapshotTopologiesIntervalHours", default: Usual::Number(0), about: "write topologies to the history table, 0: never", refusal: None },
    Accepted { name: "StaleSeedFailMinutes", default: Usual::Number(60), about: "when a seed operation has failed", refusal: None },
    Accepted { name: "StatusOUVerify", default: Usual::Bool(false), about: "verify the client certificate's organisational unit on the status route", refusal: Some("TLS of the API is not there yet") },
    Accepted { name: "SupportFuzzyPoolHostnames", default: Usual::Bool(true), about: "parts of names in submit-pool-instances", refusal: None },
    Accepted { name: "TLSCacheTTLFactor", default: Usual::Number(100), about: "how long that is remembered, in poll intervals", refusal: None },
    Accepted { name: "UnseenAgentForgetHours", default: Usual::Number(6), about: "when an agent is forgotten", refusal: None },
    Accepted { name: "UseMutualTLS", default: Usual::Bool(false), about: "demand client certificates", refusal: Some("the API speaks plain HTTP so far") },
    Accepted { name: "UseSSL", default: Usual::Bool(false), about: "HTTPS", refusal: Some("the API speaks plain HTTP so far") },
    Accepted { name: "UseSuperReadOnly", default: Usual::Bool(false), about: "super_read_only is always set where the server has it", refusal: None },
    Accepted { name: "VerifyReplicationFilters", default: Usual::Bool(false), about: "compare replication filters before a move", refusal: None },
    Accepted { name: "WebMessage", default: Usual::Text(""), about: "banner on web pages", refusal: None },
];
