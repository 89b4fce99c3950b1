//! Converts the values of the files into [`Settings`]: types, derived values, and all errors together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use secrecy::SecretString;

use crate::app::filter::{ClusterFilters, HostnameFilters};
use crate::app::ports::{Account, TlsMode};
use crate::domain::discovery::AllowedHosts;
use crate::domain::epoch_row::EpochTable;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, EventsPolicy, RecoveryQuorum, StalledPrimary};
use crate::domain::probe_assignment::ProbeSharing;

use super::accepted::ACCEPTED;
use super::file::File;
use super::my_cnf;
use super::secret::Secret;
use super::settings::{
    Classification, DiscoverySettings, Environment, HttpSettings, RaftSettings, RecoverySettings, Settings,
    StatefulSetSettings, TopologySettings,
};

mod access;
mod backend;
mod commits;
mod durability;
mod hooks;
mod promotion;
mod pseudo_gtid;
mod publishers;

/// All errors of the values, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct Invalid(pub Vec<String>);

/// The path of the status check that needs no extra route.
const USUAL_STATUS: &str = "/api/status";

/// Turns values into settings.
///
/// # Errors
/// All errors together, each with its key.
pub fn settle(file: &File, environment: &Environment) -> Result<Settings, Invalid> {
    let mut check = Check {
        environment,
        errors: Vec::new(),
    };
    check.accepted(file);
    let warnings = warnings(file);
    let open_listeners = check.open_listeners(file);
    let raft = file.group.RaftEnabled.then(|| check.raft(file));
    let recovery = check.recovery(file);
    let settings = Settings {
        debug: file.listener.Debug,
        http: check.http(file, raft.as_ref()),
        backend: check.backend(file),
        topology: check.topology(file),
        discovery: check.discovery(file),
        hooks: check.hooks(file, &recovery),
        pseudo_gtid: check.pseudo_gtid(file),
        publishers: check.publishers(file),
        recovery,
        kubernetes: file.group.Kubernetes.clone(),
        manifests: Some(file.group.ManifestsDir.as_str())
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        raft,
        warnings,
        open_listeners,
    };
    if check.errors.is_empty() {
        Ok(settings)
    } else {
        Err(Invalid(check.errors))
    }
}

fn warnings(file: &File) -> Vec<String> {
    let list = |keys: &mut dyn Iterator<Item = &str>| keys.collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    for key in &file.unknown {
        lines.push(format!("configuration: unknown key ignored: {key}"));
    }
    if !file.obsolete.is_empty() {
        lines.push(format!(
            "configuration: obsolete, orchestrator ignored them too: {}",
            list(&mut file.obsolete.iter().map(String::as_str))
        ));
    }
    if !file.accepted.is_empty() {
        lines.push(format!(
            "configuration: accepted, not used yet: {}",
            list(&mut file.accepted.keys().copied())
        ));
    }
    if backend::is_shared(file) {
        lines.push(
            "configuration: BackendDB mysql without RaftEnabled: this member acts together with all members on the same database; when that \
             database is replaced by a replica that lacks its last transactions, two members can act against each other (docs/high-availability.md)"
                .to_owned(),
        );
    }
    lines.extend(access::permitted(file));
    lines
}

/// The name in a value of the exact form `${NAME}`.
fn variable(text: &str) -> Option<&str> {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
}

struct Check<'a> {
    environment: &'a Environment,
    errors: Vec<String>,
}

impl Check<'_> {
    fn wrong(&mut self, key: &str, what: impl std::fmt::Display) {
        self.errors.push(format!("{key}: {what}"));
    }

    /// Keys without effect that must not be ignored, and contradictions among them.
    fn accepted(&mut self, file: &File) {
        for key in ACCEPTED.iter().filter(|key| file.is_set(key.name)) {
            if let Some(why) = key.refusal {
                self.wrong(key.name, format!("not supported yet: {why}; remove the key"));
            }
        }
        let (new, old) = (
            "PostponeReplicaRecoveryOnLagMinutes",
            "PostponeSlaveRecoveryOnLagMinutes",
        );
        if let (Some(left), Some(right)) = (file.accepted.get(new), file.accepted.get(old))
            && left != right
        {
            self.wrong(new, format!("differs from {old}, its old name; set one of them"));
        }
    }

    /// The value, which must be at least 1.
    fn positive(&mut self, key: &str, value: u32) -> u64 {
        if value == 0 {
            self.wrong(key, "must be at least 1");
        }
        u64::from(value.max(1))
    }

    fn hostnames(&mut self, key: &str, texts: &[String]) -> HostnameFilters {
        HostnameFilters::parse(texts).unwrap_or_else(|error| {
            self.wrong(key, error);
            HostnameFilters::default()
        })
    }

    fn clusters(&mut self, key: &str, texts: &[String]) -> ClusterFilters {
        ClusterFilters::parse(texts).unwrap_or_else(|error| {
            self.wrong(key, error);
            ClusterFilters::default()
        })
    }

    fn pattern(&mut self, key: &str, text: &str) -> Option<Regex> {
        if text.is_empty() {
            return None;
        }
        Regex::new(text)
            .inspect_err(|error| {
                let text = error.to_string();
                self.wrong(
                    key,
                    format!(
                        "is not a regular expression: {}",
                        text.lines().last().unwrap_or_default().trim()
                    ),
                );
            })
            .ok()
    }

    // === listener ===

    fn http(&mut self, file: &File, raft: Option<&RaftSettings>) -> HttpSettings {
        let keys = &file.listener;
        let port = access::port(&keys.ListenAddress);
        if port.is_none() {
            self.wrong(
                "ListenAddress",
                format!("`{}` has no port; use host:port or :port", keys.ListenAddress),
            );
        }
        let prefix = keys.URLPrefix.trim_matches('/');
        let url_prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("/{prefix}")
        };
        if url_prefix.contains(['{', '}', '?', '#', ' ']) {
            self.wrong("URLPrefix", format!("`{}` is not a path", keys.URLPrefix));
        }
        let status = keys.StatusEndpoint.as_str();
        if !status.starts_with('/') || status.contains(['{', '}', '?', '#', ' ']) {
            self.wrong("StatusEndpoint", format!("`{status}` is not an absolute path"));
        }
        HttpSettings {
            listen: keys.ListenAddress.clone(),
            health_listen: self.health_listen(file),
            write_tokens: self.write_tokens(file),
            advertise: self.http_advertise(file, raft, port.unwrap_or(3000)),
            url_prefix,
            status_endpoint: (status != USUAL_STATUS).then(|| status.to_owned()),
            read_only: keys.ReadOnly,
            problem_ignore: self.hostnames("ProblemIgnoreHostnameFilters", &keys.ProblemIgnoreHostnameFilters),
        }
    }

    fn http_advertise(&mut self, file: &File, raft: Option<&RaftSettings>, port: u16) -> String {
        let given = file.listener.HTTPAdvertise.as_str();
        if given.is_empty() {
            let of_raft = raft.and_then(|raft| Some(raft.advertise.rsplit_once(':')?.0));
            // It is also the name of a member on a shared backend, and where the others forward requests to.
            let of_host =
                Some(self.environment.hostname.as_str()).filter(|name| backend::is_shared(file) && !name.is_empty());
            let host = of_raft.or(of_host).unwrap_or("127.0.0.1");
            return format!("http://{host}:{port}");
        }
        let parsed = reqwest::Url::parse(given).ok();
        let complete = parsed.as_ref().is_some_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host_str().is_some_and(|host| !host.is_empty())
                // The parser drops a port that is the scheme's own.
                && (url.port().is_some() || given.ends_with(":80") || given.ends_with(":443"))
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.username().is_empty()
        });
        if !complete {
            self.wrong(
                "HTTPAdvertise",
                format!("`{given}` must be scheme, host and port without a path, as http://db-admin-1:3000"),
            );
        }
        if parsed.is_some_and(|url| url.scheme() == "https") {
            self.wrong("HTTPAdvertise", "https is not supported yet");
        }
        given.trim_end_matches('/').to_owned()
    }

    // === group and backend ===

    fn raft(&mut self, file: &File) -> RaftSettings {
        let keys = &file.group;
        if keys.RaftDataDir.is_empty() {
            self.wrong("RaftDataDir", "required with RaftEnabled");
        }
        let stateful_set = keys.RaftStatefulSet.clone();
        let bind = self.peer("RaftBind", &keys.RaftBind, keys.DefaultRaftPort);
        let mut nodes: BTreeSet<String> = BTreeSet::new();
        for node in keys.RaftNodes.iter().filter(|node| !node.is_empty()) {
            nodes.insert(self.peer("RaftNodes", node, keys.DefaultRaftPort));
        }
        let advertise = match (&stateful_set, keys.RaftAdvertise.as_str()) {
            (Some(set), "") => self.pod_address(
                set,
                bind.rsplit_once(':')
                    .and_then(|(_, port)| port.parse().ok())
                    .unwrap_or(keys.DefaultRaftPort),
            ),
            (None, "") => bind.clone(),
            (_, given) => self.peer("RaftAdvertise", given, keys.DefaultRaftPort),
        };
        match &stateful_set {
            Some(set) => {
                if !nodes.is_empty() {
                    self.wrong("RaftStatefulSet", "contradicts RaftNodes; set one of them");
                }
                for (part, text) in [
                    ("Name", &set.name),
                    ("ServiceName", &set.service_name),
                    ("Namespace", &set.namespace),
                ] {
                    if text.is_empty() {
                        self.wrong(&format!("RaftStatefulSet.{part}"), "must not be empty");
                    }
                }
                if set.replicas == 0 {
                    self.wrong("RaftStatefulSet.Replicas", "must be at least 1");
                }
            }
            None if nodes.is_empty() => {
                // A group of one, as orchestrator has it without RaftNodes.
                nodes.insert(advertise.clone());
            }
            None if !nodes.contains(&advertise) => {
                let listed = nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                self.wrong("RaftNodes", format!("this member, {advertise}, is not in the list ({listed}); set RaftAdvertise to its name in the list"));
            }
            None => {}
        }
        let heartbeat = self.positive("RaftHeartbeatMilliseconds", keys.RaftHeartbeatMilliseconds);
        let shortest = u64::from(keys.RaftElectionMinMilliseconds);
        let longest = u64::from(keys.RaftElectionMaxMilliseconds);
        if shortest < heartbeat.saturating_mul(3) {
            self.wrong(
                "RaftElectionMinMilliseconds",
                format!("{shortest} is less than three heartbeats of {heartbeat} ms"),
            );
        }
        if longest <= shortest {
            self.wrong(
                "RaftElectionMaxMilliseconds",
                format!("{longest} must be more than RaftElectionMinMilliseconds, {shortest}"),
            );
        }
        RaftSettings {
            bind,
            advertise,
            data_dir: PathBuf::from(&keys.RaftDataDir),
            default_port: keys.DefaultRaftPort,
            nodes: nodes.into_iter().collect(),
            group_key: self.group_key(&keys.RaftGroupKeyFile),
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(shortest),
            election_max: Duration::from_millis(longest),
            clock_skew_limit: Duration::from_secs(self.positive("ClockSkewLimitSeconds", keys.ClockSkewLimitSeconds)),
            stateful_set,
        }
    }

    /// `host` or `host:port` with the port filled in; brackets around IPv6 stay.
    fn peer(&mut self, key: &str, text: &str, default_port: u16) -> String {
        match InstanceKey::parse(text, default_port) {
            Ok(address) => address.to_string(),
            Err(error) => {
                self.wrong(key, error);
                String::new()
            }
        }
    }

    fn pod_address(&mut self, set: &StatefulSetSettings, port: u16) -> String {
        let pod = self.environment.hostname.as_str();
        let ordinal = pod.strip_prefix(&set.name).and_then(|rest| rest.strip_prefix('-'));
        if ordinal.is_none_or(|ordinal| ordinal.parse::<u32>().is_err()) {
            self.wrong(
                "RaftStatefulSet",
                format!(
                    "the name of this host, `{pod}`, is not a pod of StatefulSet {}; set RaftAdvertise",
                    set.name
                ),
            );
        }
        let domain = set.cluster_domain.trim_matches('.');
        let tail = if domain.is_empty() {
            String::new()
        } else {
            format!(".{domain}")
        };
        format!("{pod}.{}.{}.svc{tail}:{port}", set.service_name, set.namespace)
    }

    fn group_key(&mut self, file: &str) -> Option<SecretString> {
        if file.is_empty() {
            return None;
        }
        match std::fs::read_to_string(file) {
            Ok(text) if text.trim().is_empty() => {
                self.wrong("RaftGroupKeyFile", format!("{file} is empty"));
                None
            }
            Ok(text) => Some(SecretString::from(text.trim().to_owned())),
            Err(error) => {
                self.wrong("RaftGroupKeyFile", format!("cannot read {file}: {error}"));
                None
            }
        }
    }

    // === managed servers ===

    /// A value of the exact form `${NAME}` is taken from the environment.
    fn expand(&mut self, key: &str, text: &str) -> String {
        let Some(name) = variable(text) else {
            return text.to_owned();
        };
        self.environment.variables.get(name).cloned().unwrap_or_else(|| {
            self.wrong(key, format!("environment variable {name} is not set"));
            String::new()
        })
    }

    fn account(&mut self, user_key: &str, user: &str, password_key: &str, password: &Secret) -> Option<Account> {
        let user = self.expand(user_key, user);
        let password = self.expand(password_key, password.expose());
        if user.is_empty() && !password.is_empty() {
            self.wrong(user_key, format!("required with {password_key}"));
        }
        (!user.is_empty()).then(|| Account {
            user,
            password: SecretString::from(password),
        })
    }

    fn topology(&mut self, file: &File) -> TopologySettings {
        let keys = &file.topology;
        let (mut user, mut password) = (keys.MySQLTopologyUser.clone(), keys.MySQLTopologyPassword.clone());
        if !keys.MySQLTopologyCredentialsConfigFile.is_empty() {
            match my_cnf::read(Path::new(&keys.MySQLTopologyCredentialsConfigFile)) {
                Ok(client) => {
                    user = client.user.unwrap_or(user);
                    password = client.password.unwrap_or(password);
                }
                Err(why) => self.wrong("MySQLTopologyCredentialsConfigFile", why),
            }
        }
        let ca_file = keys.MySQLTopologySSLCAFile.as_str();
        let tls = match (keys.MySQLTopologySSLSkipVerify, ca_file.is_empty()) {
            (true, _) => TlsMode::Required,
            (false, false) => TlsMode::Verify,
            (false, true) if keys.MySQLTopologyUseTLS => TlsMode::Preferred,
            (false, true) => TlsMode::Off,
        };
        let ca_pem = if tls == TlsMode::Verify {
            std::fs::read_to_string(ca_file)
                .inspect_err(|error| self.wrong("MySQLTopologySSLCAFile", format!("cannot read {ca_file}: {error}")))
                .ok()
        } else {
            None
        };
        TopologySettings {
            account: self.account("MySQLTopologyUser", &user, "MySQLTopologyPassword", &password),
            replication: self.account(
                "MySQLReplicationUser",
                &keys.MySQLReplicationUser,
                "MySQLReplicationPassword",
                &keys.MySQLReplicationPassword,
            ),
            tls,
            ca_pem,
            connect_timeout: Duration::from_secs(
                self.positive("MySQLConnectTimeoutSeconds", keys.MySQLConnectTimeoutSeconds),
            ),
            read_timeout: Duration::from_secs(self.positive(
                "MySQLDiscoveryReadTimeoutSeconds",
                keys.MySQLDiscoveryReadTimeoutSeconds,
            )),
            default_port: keys.DefaultInstancePort,
        }
    }

    // === discovery and recovery ===

    fn discovery(&mut self, file: &File) -> DiscoverySettings {
        let keys = &file.discovery;
        let mut seeds = Vec::new();
        for seed in &keys.DiscoverySeeds {
            match InstanceKey::parse(seed, file.topology.DefaultInstancePort) {
                Ok(key) => seeds.push(key),
                Err(error) => self.wrong("DiscoverySeeds", error),
            }
        }
        let mut cluster_aliases = Vec::new();
        for (pattern, alias) in &keys.ClusterNameToAlias {
            if let Some(pattern) = self.pattern("ClusterNameToAlias", pattern) {
                cluster_aliases.push((pattern, alias.clone()));
            }
        }
        DiscoverySettings {
            poll: Duration::from_secs(self.positive("InstancePollSeconds", keys.InstancePollSeconds)),
            pulse: Duration::from_millis(self.positive("PulseMilliseconds", keys.PulseMilliseconds)),
            probe_sharing: self.probe_sharing(file),
            seeds,
            ignore_replicas: self.hostnames(
                "DiscoveryIgnoreReplicaHostnameFilters",
                &keys.DiscoveryIgnoreReplicaHostnameFilters,
            ),
            ignore_sources: self.hostnames(
                "DiscoveryIgnoreMasterHostnameFilters",
                &keys.DiscoveryIgnoreMasterHostnameFilters,
            ),
            ignore: self.hostnames("DiscoveryIgnoreHostnameFilters", &keys.DiscoveryIgnoreHostnameFilters),
            allowed: AllowedHosts::parse(&keys.DiscoveryAllowedHosts, keys.DiscoveryAllowedHostsOnly).unwrap_or_else(
                |error| {
                    self.wrong("DiscoveryAllowedHosts", error);
                    AllowedHosts::default()
                },
            ),
            max_instances: usize::try_from(self.positive("DiscoveryMaxInstances", keys.DiscoveryMaxInstances))
                .unwrap_or(usize::MAX),
            lag_query: self.lag_query(file),
            reasonable_lag: Duration::from_secs(u64::from(keys.ReasonableReplicationLagSeconds)),
            maintenance_lag: Duration::from_secs(u64::from(keys.ReasonableMaintenanceReplicationLagSeconds)),
            cluster_aliases,
            data_center: self.classification(
                "DataCenterPattern",
                &keys.DataCenterPattern,
                &keys.DetectDataCenterQuery,
            ),
            region: self.classification("RegionPattern", &keys.RegionPattern, &keys.DetectRegionQuery),
            environment: self.classification(
                "PhysicalEnvironmentPattern",
                &keys.PhysicalEnvironmentPattern,
                &keys.DetectPhysicalEnvironmentQuery,
            ),
            semi_sync_query: Some(keys.DetectSemiSyncEnforcedQuery.clone()).filter(|query| !query.is_empty()),
            candidate_expiry: Some(keys.CandidateInstanceExpireMinutes)
                .filter(|minutes| *minutes > 0)
                .map(|minutes| Duration::from_secs(u64::from(minutes) * 60)),
        }
    }

    fn probe_sharing(&mut self, file: &File) -> ProbeSharing {
        let text = file.discovery.ProbeSharing.as_str();
        let Some(sharing) = ProbeSharing::parse(text) else {
            self.wrong(
                "ProbeSharing",
                format!("`{text}` is not one of off, round-robin, data-center"),
            );
            return ProbeSharing::Off;
        };
        if sharing.is_on() && !file.group.RaftEnabled {
            self.wrong(
                "ProbeSharing",
                "needs RaftEnabled: a single member has no others to share probes with; remove the key",
            );
        }
        sharing
    }

    fn classification(&mut self, key: &str, pattern: &str, query: &str) -> Classification {
        Classification {
            pattern: self.pattern(key, pattern),
            query: Some(query.to_owned()).filter(|query| !query.is_empty()),
        }
    }

    fn recovery(&mut self, file: &File) -> RecoverySettings {
        let keys = &file.recovery;
        let block = match (keys.RecoveryPeriodBlockSeconds, keys.RecoveryPeriodBlockMinutes) {
            (0, minutes) => u64::from(minutes) * 60,
            (seconds, _) => u64::from(seconds),
        };
        let quorum = match (keys.RecoveryQuorum.as_str(), file.group.RaftEnabled) {
            ("Leader", _) | ("", false) => RecoveryQuorum::Leader,
            ("Majority", _) | ("", true) => RecoveryQuorum::Majority,
            ("MajorityOfDataCenters", _) => RecoveryQuorum::MajorityOfDataCenters,
            (other, _) => {
                self.wrong(
                    "RecoveryQuorum",
                    format!("`{other}` is not one of Leader, Majority, MajorityOfDataCenters"),
                );
                RecoveryQuorum::Majority
            }
        };
        let stalled = match keys.StalledPrimary.as_str() {
            "Observe" => StalledPrimary::Observe,
            "Failover" => StalledPrimary::Failover,
            other => {
                self.wrong("StalledPrimary", format!("`{other}` is not one of Observe, Failover"));
                StalledPrimary::Observe
            }
        };
        let ends_transactions = match keys.TakeoverLongTransactions.as_str() {
            "Kill" => true,
            "Refuse" => false,
            other => {
                self.wrong(
                    "TakeoverLongTransactions",
                    format!("`{other}` is not one of Kill, Refuse"),
                );
                false
            }
        };
        let events = match keys.PromotedEvents.as_str() {
            "Enable" => EventsPolicy::Enable,
            "Leave" => EventsPolicy::Leave,
            other => {
                self.wrong("PromotedEvents", format!("`{other}` is not one of Enable, Leave"));
                EventsPolicy::Leave
            }
        };
        if !(2..=60).contains(&keys.TakeoverLockWaitSeconds) {
            self.wrong("TakeoverLockWaitSeconds", "must be 2 to 60");
        }
        let epoch_table = Some(keys.EpochTable.trim())
            .filter(|text| !text.is_empty())
            .and_then(|text| {
                EpochTable::parse(text)
                    .map_err(|why| self.wrong("EpochTable", why))
                    .ok()
            });
        let boot_read_only = match keys.BootReadOnly.as_str() {
            "Enforce" => BootReadOnly::Enforce,
            "Advise" => BootReadOnly::Advise,
            "Off" => BootReadOnly::Off,
            other => {
                self.wrong("BootReadOnly", format!("`{other}` is not one of Enforce, Advise, Off"));
                BootReadOnly::Advise
            }
        };
        RecoverySettings {
            commits: self.commits(file),
            durability: self.durability(file),
            stalled,
            stalled_timeout: Duration::from_secs(self.positive("StalledPrimarySeconds", keys.StalledPrimarySeconds)),
            block: Duration::from_secs(block),
            ignore: self.hostnames("RecoveryIgnoreHostnameFilters", &keys.RecoveryIgnoreHostnameFilters),
            ignore_texts: keys.RecoveryIgnoreHostnameFilters.clone(),
            primaries: self.clusters("RecoverMasterClusterFilters", &keys.RecoverMasterClusterFilters),
            intermediates: self.clusters(
                "RecoverIntermediateMasterClusterFilters",
                &keys.RecoverIntermediateMasterClusterFilters,
            ),
            recover_locked_semi_sync: keys.RecoverLockedSemiSyncMaster,
            promotion: self.promotion(file),
            recover_non_writable_primary: keys.RecoverNonWriteableMaster,
            must_promote_other_co_primary: keys.CoMasterRecoveryMustPromoteOtherCoMaster,
            enforce_exact_semi_sync: keys.EnforceExactSemiSyncReplicas,
            locked_semi_sync: Duration::from_secs(u64::from(match keys.ReasonableLockedSemiSyncMasterSeconds {
                0 => file.discovery.ReasonableReplicationLagSeconds,
                seconds => seconds,
            })),
            epoch_table,
            concurrency: usize::try_from(self.positive("MaxConcurrentRecoveries", keys.MaxConcurrentRecoveries))
                .unwrap_or(usize::MAX),
            boot_read_only,
            quorum,
            member_data_center: self.expand("MemberDataCenter", &keys.MemberDataCenter),
            transaction_wait: Duration::from_secs(u64::from(keys.TakeoverTransactionWaitSeconds)),
            ends_transactions,
            lock_wait: Duration::from_secs(u64::from(keys.TakeoverLockWaitSeconds)),
            events,
        }
    }
}
