//! `Instance`: all attributes that orchestrator shows of a server.

use serde::Serialize;

use crate::domain::cluster_view::ClusterView;
use crate::domain::group_replication::{GroupMember, GroupRole, GroupState};
use crate::domain::instance::{Identity, Instance, InstanceFacts, Positioning, ThreadState};
use crate::domain::intent::{IntentDetails, PromotionRule};

use super::{Coordinates, ENDLESS, Key, NullBool, NullInt, key_or_empty, signed, time_text};
use crate::adapter::http::api_view::ApiView;

/// A server as orchestrator's clients parse it. Field order, names (two of them misspelt) and duplicates are part of the contract.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "the fields are the contract")]
pub(crate) struct InstanceShape {
    pub(crate) key: Key,
    instance_alias: String,
    uptime: u64,
    #[serde(rename = "ServerID")]
    server_id: u32,
    #[serde(rename = "ServerUUID")]
    server_uuid: String,
    pub(crate) version: String,
    version_comment: String,
    flavor_name: String,
    pub(crate) read_only: bool,
    #[serde(rename = "Binlog_format")]
    pub(crate) binlog_format: String,
    binlog_row_image: String,
    pub(crate) log_bin_enabled: bool,
    log_slave_updates_enabled: bool,
    pub(crate) log_replication_updates_enabled: bool,
    self_binlog_coordinates: Coordinates,
    pub(crate) master_key: Key,
    #[serde(rename = "MasterUUID")]
    master_uuid: String,
    #[serde(rename = "AncestryUUID")]
    ancestry_uuid: String,
    is_detached_master: bool,
    #[serde(rename = "Slave_SQL_Running")]
    slave_sql_running: bool,
    #[serde(rename = "ReplicationSQLThreadRuning")]
    pub(crate) replication_sql_thread_runing: bool,
    #[serde(rename = "Slave_IO_Running")]
    slave_io_running: bool,
    #[serde(rename = "ReplicationIOThreadRuning")]
    pub(crate) replication_io_thread_runing: bool,
    #[serde(rename = "ReplicationSQLThreadState")]
    replication_sql_thread_state: i8,
    #[serde(rename = "ReplicationIOThreadState")]
    replication_io_thread_state: i8,
    has_replication_filters: bool,
    #[serde(rename = "GTIDMode")]
    gtid_mode: String,
    #[serde(rename = "SupportsOracleGTID")]
    pub(crate) supports_oracle_gtid: bool,
    #[serde(rename = "UsingOracleGTID")]
    pub(crate) using_oracle_gtid: bool,
    #[serde(rename = "UsingMariaDBGTID")]
    pub(crate) using_mariadb_gtid: bool,
    #[serde(rename = "UsingPseudoGTID")]
    using_pseudo_gtid: bool,
    read_binlog_coordinates: Coordinates,
    exec_binlog_coordinates: Coordinates,
    is_detached: bool,
    relaylog_coordinates: Coordinates,
    #[serde(rename = "LastSQLError")]
    last_sql_error: String,
    #[serde(rename = "LastIOError")]
    last_io_error: String,
    seconds_behind_master: NullInt,
    #[serde(rename = "SQLDelay")]
    sql_delay: u64,
    executed_gtid_set: String,
    gtid_purged: String,
    pub(crate) gtid_errant: String,
    slave_lag_seconds: NullInt,
    replication_lag_seconds: NullInt,
    slave_hosts: Vec<Key>,
    replicas: Vec<Key>,
    cluster_name: String,
    suggested_cluster_alias: String,
    data_center: String,
    region: String,
    physical_environment: String,
    replication_depth: u32,
    is_co_master: bool,
    has_replication_credentials: bool,
    replication_credentials_available: bool,
    semi_sync_available: bool,
    semi_sync_priority: u32,
    semi_sync_master_plugin_new_version: bool,
    semi_sync_replica_plugin_new_version: bool,
    semi_sync_master_enabled: bool,
    semi_sync_replica_enabled: bool,
    semi_sync_master_timeout: u64,
    semi_sync_master_wait_for_replica_count: u32,
    pub(crate) semi_sync_master_status: bool,
    semi_sync_master_clients: u32,
    pub(crate) semi_sync_replica_status: bool,
    last_seen_timestamp: String,
    pub(crate) is_last_check_valid: bool,
    is_up_to_date: bool,
    pub(crate) is_recently_checked: bool,
    seconds_since_last_seen: NullInt,
    #[serde(rename = "CountMySQLSnapshots")]
    count_mysql_snapshots: u32,
    is_candidate: bool,
    promotion_rule: &'static str,
    pub(crate) is_downtimed: bool,
    downtime_reason: String,
    downtime_owner: String,
    downtime_end_timestamp: String,
    elapsed_downtime: i64,
    unresolved_hostname: String,
    #[serde(rename = "AllowTLS")]
    allow_tls: bool,
    #[serde(rename = "ReplicationSSLCAFile")]
    replication_ssl_ca_file: String,
    #[serde(rename = "ReplicationSSLCAPath")]
    replication_ssl_ca_path: String,
    #[serde(rename = "ReplicationSSLCert")]
    replication_ssl_cert: String,
    #[serde(rename = "ReplicationSSLCipher")]
    replication_ssl_cipher: String,
    #[serde(rename = "ReplicationSSLCRLFile")]
    replication_ssl_crl_file: String,
    #[serde(rename = "ReplicationSSLCRLPath")]
    replication_ssl_crl_path: String,
    #[serde(rename = "ReplicationSSLKey")]
    replication_ssl_key: String,
    #[serde(rename = "ReplicationSSLVerifyServerCert")]
    replication_ssl_verify_server_cert: NullBool,
    #[serde(rename = "ReplicationTLSVersion")]
    replication_tls_version: String,
    #[serde(rename = "ReplicationTLSCiphersuites")]
    replication_tls_ciphersuites: String,
    replication_source_public_key_path: String,
    replication_get_source_public_key: NullBool,
    pub(crate) problems: Vec<&'static str>,
    last_discovery_latency: i64,
    replication_group_name: String,
    replication_group_is_single_primary: bool,
    replication_group_member_state: String,
    replication_group_member_role: String,
    replication_group_members: Vec<Key>,
    replication_group_primary_instance_key: Key,
    #[serde(rename = "QSP")]
    qsp: Empty,
    /// The member that probed the instance, when it is another one; not in orchestrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_by: Option<String>,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Empty {}

impl InstanceShape {
    /// An instance of a cluster at the moment of the view. Facts that were never seen are empty, zero or false, as in orchestrator,
    /// and those of before the start of this process are shown with their age;
    /// `IsLastCheckValid` and `LastSeenTimestamp` show that.
    pub(crate) fn of(api_view: &ApiView<'_>, view: &ClusterView, instance: &Instance) -> Self {
        let instance = &*api_view.with_remembered_facts(instance);
        let mut shape = Self {
            key: (&instance.key).into(),
            cluster_name: view.cluster.name.clone(),
            replication_depth: view.topology.depth_of(instance),
            is_co_master: view.topology.is_co_primary(instance),
            // An instance without replication threads: orchestrator shows -1.
            replication_sql_thread_state: -1,
            replication_io_thread_state: -1,
            relaylog_coordinates: Coordinates::relay_log(None),
            is_last_check_valid: instance.is_valid(),
            last_discovery_latency: signed(instance.latency_micros.saturating_mul(1000)),
            promotion_rule: PromotionRule::Neutral.as_str(),
            observed_by: instance.observed_by.clone(),
            ..Self::default()
        };
        if let Some(facts) = &instance.facts {
            shape.fill_facts(facts);
            shape.fill_replication(view, instance, facts);
            shape.gtid_errant = api_view
                .errant(&view.topology.cluster, &instance.key)
                .map(ToString::to_string)
                .unwrap_or_default();
        }
        shape.fill_freshness(api_view, instance);
        shape.fill_intents(api_view, view, instance);
        shape.problems = shape.find_problems(view.policy.reasonable_lag_seconds);
        shape
    }

    /// The instances of all clusters for which `wanted` holds.
    pub(crate) fn all_where(
        api_view: &ApiView<'_>,
        wanted: impl Fn(&ClusterView, &Instance, &Self) -> bool,
    ) -> Vec<Self> {
        let shapes = api_view.instances().filter_map(|(view, instance)| {
            let shape = Self::of(api_view, view, instance);
            wanted(view, instance, &shape).then_some(shape)
        });
        shapes.collect()
    }

    /// Whether it replicates from a source.
    pub(crate) fn is_replica(&self) -> bool {
        self.master_key.port != 0
    }

    /// Whether receiver and applier thread run.
    pub(crate) fn is_replicating(&self) -> bool {
        self.replication_io_thread_runing && self.replication_sql_thread_runing
    }

    /// Lag in seconds as the server reports it; `None` while it reports none.
    pub(crate) fn lag(&self) -> Option<u64> {
        self.replication_lag_seconds
            .valid
            .then(|| u64::try_from(self.replication_lag_seconds.int64).unwrap_or_default())
    }

    /// Whether it lags by more than `seconds` beyond its configured delay.
    pub(crate) fn lags_more_than(&self, seconds: u64) -> bool {
        self.is_replica()
            && self
                .lag()
                .is_some_and(|lag| lag.saturating_sub(self.sql_delay) > seconds)
    }

    fn fill_facts(&mut self, facts: &InstanceFacts) {
        self.uptime = facts.uptime_seconds;
        self.server_id = facts.server_id;
        if let Identity::ServerUuid(uuid) = &facts.identity {
            self.server_uuid.clone_from(uuid);
        }
        self.version.clone_from(&facts.version.text);
        self.version_comment.clone_from(&facts.version_comment);
        self.flavor_name = facts.version.flavour.to_string();
        self.read_only = facts.read_only;
        self.binlog_format.clone_from(&facts.binlog_format);
        self.binlog_row_image.clone_from(&facts.binlog_row_image);
        self.log_bin_enabled = facts.log_bin;
        self.log_slave_updates_enabled = facts.log_replica_updates;
        self.log_replication_updates_enabled = facts.log_replica_updates;
        self.self_binlog_coordinates = Coordinates::binlog(facts.binlog.as_ref());
        self.gtid_mode.clone_from(&facts.gtid_mode);
        self.supports_oracle_gtid = facts.gtid_mode.eq_ignore_ascii_case("ON");
        self.executed_gtid_set = facts.executed.to_string();
        self.gtid_purged = facts.purged.to_string();
        self.slave_hosts = facts.replicas.iter().map(|seen| Key::from(&seen.key)).collect();
        self.replicas.clone_from(&self.slave_hosts);
        self.data_center.clone_from(&facts.data_center);
        self.region.clone_from(&facts.region);
        self.physical_environment.clone_from(&facts.environment);
        self.replication_credentials_available = facts.replication_credentials_available;
        self.using_pseudo_gtid = facts.uses_pseudo_gtid;
        self.replication_group_name.clone_from(&facts.group_name);
        if let Some(group) = &facts.group {
            self.fill_group(group);
        }
        let semi_sync = &facts.semi_sync;
        self.semi_sync_available = semi_sync.available;
        self.semi_sync_master_enabled = semi_sync.source_enabled;
        self.semi_sync_replica_enabled = semi_sync.replica_enabled;
        self.semi_sync_master_timeout = semi_sync.timeout_millis;
        self.semi_sync_master_wait_for_replica_count = semi_sync.wait_for_count;
        self.semi_sync_master_status = semi_sync.source_active;
        self.semi_sync_master_clients = semi_sync.clients;
        self.semi_sync_replica_status = semi_sync.replica_active;
    }

    fn fill_replication(&mut self, view: &ClusterView, instance: &Instance, facts: &InstanceFacts) {
        self.ancestry_uuid = view.topology.ancestry_of(instance);
        let Some(channel) = facts.managed_channel() else { return };
        self.master_key = key_or_empty(Some(view.topology.resolve(&channel.source)));
        self.master_uuid = channel.source_uuid.clone().unwrap_or_default();
        self.slave_sql_running = channel.sql == ThreadState::Running;
        self.replication_sql_thread_runing = self.slave_sql_running;
        self.slave_io_running = channel.io == ThreadState::Running;
        self.replication_io_thread_runing = self.slave_io_running;
        self.replication_sql_thread_state = channel.sql.number();
        self.replication_io_thread_state = channel.io.number();
        self.has_replication_filters = channel.filtered;
        self.using_oracle_gtid = channel.positioning == Positioning::AutoPosition;
        self.using_mariadb_gtid = matches!(channel.positioning, Positioning::SlavePos | Positioning::CurrentPos);
        self.read_binlog_coordinates = Coordinates::binlog(Some(&channel.read));
        self.exec_binlog_coordinates = Coordinates::binlog(Some(&channel.exec));
        self.relaylog_coordinates = Coordinates::relay_log(Some(&channel.relay));
        self.last_sql_error.clone_from(&channel.sql_error.message);
        self.last_io_error.clone_from(&channel.io_error.message);
        self.seconds_behind_master = channel.lag_seconds.into();
        self.slave_lag_seconds = channel.lag_seconds.into();
        self.replication_lag_seconds = channel.lag_seconds.into();
        self.sql_delay = channel.delay_seconds;
        self.has_replication_credentials = !channel.user.is_empty();
        self.allow_tls = channel.tls;
        self.replication_get_source_public_key = NullBool {
            bool: channel.get_source_public_key,
            valid: !facts.version.flavour.is_mariadb(),
        };
    }

    fn fill_freshness(&mut self, api_view: &ApiView<'_>, instance: &Instance) {
        let poll = u64::try_from(api_view.options.poll.as_millis()).unwrap_or(u64::MAX);
        if let Some(seen) = instance.last_seen {
            let age = api_view.now.millis_since(seen);
            self.last_seen_timestamp = time_text(seen);
            self.seconds_since_last_seen = Some(age / 1000).into();
            // A probe begins one poll interval after the last one and then takes time: one more interval is not late yet.
            self.is_up_to_date = age <= poll.saturating_mul(2);
        }
        if let Some(checked) = instance.last_checked {
            self.is_recently_checked = api_view.now.millis_since(checked) <= poll.saturating_mul(5);
        }
    }

    fn fill_intents(&mut self, api_view: &ApiView<'_>, view: &ClusterView, instance: &Instance) {
        if let Some(rule) = view.policy.promotion_rules.get(&instance.key) {
            self.promotion_rule = rule.as_str();
            self.is_candidate = matches!(rule, PromotionRule::Must | PromotionRule::Prefer);
        }
        if let Some(IntentDetails::Downtime {
            owner,
            reason,
            since,
            until,
        }) = api_view.downtime_of(&view.topology, &instance.key)
        {
            self.is_downtimed = true;
            self.downtime_owner.clone_from(owner);
            self.downtime_reason.clone_from(reason);
            self.downtime_end_timestamp = until.map_or_else(|| ENDLESS.to_owned(), time_text);
            // Go's time.Duration: nanoseconds.
            self.elapsed_downtime = signed(api_view.now.millis_since(*since).saturating_mul(1_000_000));
        }
    }

    fn fill_group(&mut self, group: &GroupMember) {
        self.replication_group_is_single_primary = group.single_primary;
        group
            .state
            .as_str()
            .clone_into(&mut self.replication_group_member_state);
        group.role.as_str().clone_into(&mut self.replication_group_member_role);
        let taking_part = || group.members.iter().filter(|peer| peer.state != GroupState::Offline);
        self.replication_group_members = taking_part().map(|peer| Key::from(&peer.key)).collect();
        let mut primaries = taking_part().filter(|peer| peer.role == GroupRole::Primary);
        if let (Some(only), None) = (primaries.next(), primaries.next()) {
            self.replication_group_primary_instance_key = Key::from(&only.key);
        }
    }

    fn find_problems(&self, reasonable_lag: u64) -> Vec<&'static str> {
        let mut problems = Vec::new();
        if !self.is_last_check_valid {
            problems.push("last_check_invalid");
        } else if !self.is_recently_checked {
            problems.push("not_recently_checked");
        } else if self.is_replica() && !self.is_replicating() {
            problems.push("not_replicating");
        } else if self.lags_more_than(reasonable_lag) {
            problems.push("replication_lag");
        }
        if !self.gtid_errant.is_empty() {
            problems.push("errant_gtid");
        }
        let in_group = !self.replication_group_member_state.is_empty()
            && self.replication_group_member_state != GroupState::Offline.as_str();
        if in_group && self.replication_group_member_state != GroupState::Online.as_str() {
            problems.push("group_replication_member_not_online");
        }
        problems
    }
}
