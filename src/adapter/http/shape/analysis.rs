//! `ReplicationAnalysis`: a finding as orchestrator's clients read it.

use serde::Serialize;

use crate::app::ports::AnalysisChange;
use crate::app::ports::Peer;
use crate::domain::cluster_view::{ClusterView, JudgedFinding};
use crate::domain::finding::{Code, Finding, Opinion};
use crate::domain::instance::{Instance, InstanceFacts, Positioning};
use crate::domain::intent::IntentDetails;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::manual_request::ManualRequest;

use super::cluster::ClusterInfo;
use super::opinion::OpinionShape;
use super::{Coordinates, ENDLESS, Key, key_or_empty, time_text};
use crate::adapter::http::api_view::ApiView;

/// A finding. ham4db adds `HeldBack` (why no recovery runs; empty when one would) and `Opinions` (what the members reported).
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "the fields are the contract")]
pub(crate) struct AnalysisShape {
    analyzed_instance_key: Key,
    analyzed_instance_master_key: Key,
    cluster_details: ClusterInfo,
    analyzed_instance_data_center: String,
    analyzed_instance_region: String,
    analyzed_instance_physical_environment: String,
    analyzed_instance_binlog_coordinates: Coordinates,
    is_master: bool,
    is_replication_group_member: bool,
    is_co_master: bool,
    last_check_valid: bool,
    last_check_partial_success: bool,
    count_replicas: usize,
    count_valid_replicas: u32,
    count_valid_replicating_replicas: u32,
    count_replicas_failing_to_connect_to_master: u32,
    count_downtimed_replicas: u32,
    replication_depth: u32,
    replicas: Vec<Key>,
    slave_hosts: Vec<Key>,
    is_failing_to_connect_to_master: bool,
    analysis: &'static str,
    description: String,
    structure_analysis: Option<Vec<String>>,
    is_downtimed: bool,
    is_replicas_downtimed: bool,
    downtime_end_timestamp: String,
    downtime_remaining_seconds: u64,
    is_binlog_server: bool,
    #[serde(rename = "PseudoGTIDImmediateTopology")]
    pseudo_gtid_immediate_topology: bool,
    #[serde(rename = "OracleGTIDImmediateTopology")]
    oracle_gtid_immediate_topology: bool,
    #[serde(rename = "MariaDBGTIDImmediateTopology")]
    mariadb_gtid_immediate_topology: bool,
    binlog_server_immediate_topology: bool,
    semi_sync_master_enabled: bool,
    semi_sync_master_status: bool,
    semi_sync_master_wait_for_replica_count: u32,
    semi_sync_master_clients: u32,
    count_semi_sync_replicas_enabled: u32,
    count_logging_replicas: u32,
    count_statement_based_logging_replicas: u32,
    count_mixed_based_logging_replicas: u32,
    count_row_based_logging_replicas: u32,
    count_distinct_major_versions_logging_replicas: usize,
    count_delayed_replicas: u32,
    count_lagging_replicas: u32,
    is_actionable_recovery: bool,
    processing_node_hostname: String,
    processing_node_token: String,
    count_additional_agreeing_nodes: u32,
    start_active_period: String,
    skippable_due_to_downtime: bool,
    #[serde(rename = "GTIDMode")]
    gtid_mode: String,
    #[serde(rename = "MinReplicaGTIDMode")]
    min_replica_gtid_mode: String,
    #[serde(rename = "MaxReplicaGTIDMode")]
    max_replica_gtid_mode: String,
    #[serde(rename = "MaxReplicaGTIDErrant")]
    max_replica_gtid_errant: String,
    command_hint: String,
    is_read_only: bool,
    held_back: String,
    opinions: Vec<OpinionWithAge>,
}

/// The last opinion of a member, and its age.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OpinionWithAge {
    #[serde(flatten)]
    opinion: OpinionShape,
    age_milliseconds: u64,
}

impl OpinionWithAge {
    fn of(opinion: &Opinion, api_view: &ApiView<'_>) -> Self {
        Self {
            opinion: opinion.into(),
            age_milliseconds: api_view.now.millis_since(opinion.at),
        }
    }
}

impl AnalysisShape {
    /// A current finding.
    pub(crate) fn of(api_view: &ApiView<'_>, view: &ClusterView, judged: &JudgedFinding, me: &Peer) -> Self {
        let finding = &judged.finding;
        let mut shape = Self::recorded(finding, ClusterInfo::of(view));
        shape.processing_node_hostname.clone_from(&me.name);
        shape.processing_node_token = me.id.to_string();
        shape.held_back = judged.held_back.as_ref().map(ToString::to_string).unwrap_or_default();
        shape.opinions = judged
            .opinions
            .iter()
            .map(|opinion| OpinionWithAge::of(opinion, api_view))
            .collect();
        if let Some(IntentDetails::Downtime { until, .. }) = api_view.downtime_of(&view.topology, &finding.instance) {
            shape.downtime_end_timestamp = until.map_or_else(|| ENDLESS.to_owned(), time_text);
            shape.downtime_remaining_seconds =
                until.map_or(u64::from(u32::MAX), |until| until.millis_since(api_view.now) / 1000);
        }
        if let Some(instance) = view.topology.get(&finding.instance) {
            shape.fill_instance(view, instance);
        }
        shape.fill_replicas(api_view, view, finding);
        shape
    }

    /// A recorded finding: only what the record contains.
    pub(crate) fn recorded(finding: &Finding, cluster: ClusterInfo) -> Self {
        let evidence = &finding.evidence;
        let replicas: Vec<Key> = evidence.replicas.iter().map(Key::from).collect();
        Self {
            analyzed_instance_key: (&finding.instance).into(),
            cluster_details: cluster,
            is_master: evidence.is_primary,
            is_co_master: evidence.is_co_primary,
            is_replication_group_member: evidence.is_group_member,
            is_binlog_server: evidence.is_binlog_server,
            last_check_valid: evidence.last_check_valid,
            last_check_partial_success: evidence.last_check_partial,
            count_replicas: replicas.len(),
            count_valid_replicas: evidence.valid_replicas,
            count_valid_replicating_replicas: evidence.replicating_replicas,
            count_replicas_failing_to_connect_to_master: evidence.replicas_failing_to_connect,
            count_downtimed_replicas: evidence.downtimed_replicas,
            replication_depth: evidence.depth,
            slave_hosts: replicas.clone(),
            replicas,
            is_failing_to_connect_to_master: evidence.is_failing_to_connect,
            analysis: finding.code.as_str(),
            description: finding.description.clone(),
            structure_analysis: (!finding.structure.is_empty())
                .then(|| finding.structure.iter().map(|warning| format!("{warning:?}")).collect()),
            is_downtimed: finding.downtimed,
            is_replicas_downtimed: finding.replicas_downtimed,
            count_semi_sync_replicas_enabled: evidence.semi_sync_replicas,
            count_logging_replicas: evidence.logging_replicas,
            count_statement_based_logging_replicas: evidence.statement_logging_replicas,
            count_mixed_based_logging_replicas: evidence.mixed_logging_replicas,
            count_row_based_logging_replicas: evidence.row_logging_replicas,
            count_distinct_major_versions_logging_replicas: evidence.logging_versions.len(),
            min_replica_gtid_mode: evidence.replica_gtid_modes.first().cloned().unwrap_or_default(),
            max_replica_gtid_mode: evidence.replica_gtid_modes.last().cloned().unwrap_or_default(),
            count_delayed_replicas: evidence.delayed_replicas,
            count_lagging_replicas: evidence.lagging_replicas,
            is_actionable_recovery: finding.code.is_actionable(),
            skippable_due_to_downtime: finding.is_skippable(),
            ..Self::default()
        }
    }

    /// Adds the command of a manual recovery.
    pub(crate) fn with_command_hint(mut self, order: Option<&ManualRequest>) -> Self {
        self.command_hint = order.map(|order| order.command.clone()).unwrap_or_default();
        self
    }

    /// Adds the time of the detection.
    pub(crate) fn active_since(mut self, text: String) -> Self {
        self.start_active_period = text;
        self
    }

    fn fill_instance(&mut self, view: &ClusterView, instance: &Instance) {
        self.analyzed_instance_master_key = key_or_empty(view.topology.source_of(instance));
        let Some(facts) = &instance.facts else { return };
        self.analyzed_instance_data_center.clone_from(&facts.data_center);
        self.analyzed_instance_region.clone_from(&facts.region);
        self.analyzed_instance_physical_environment
            .clone_from(&facts.environment);
        self.analyzed_instance_binlog_coordinates = Coordinates::binlog(facts.binlog.as_ref());
        self.semi_sync_master_enabled = facts.semi_sync.source_enabled;
        self.semi_sync_master_status = facts.semi_sync.source_active;
        self.semi_sync_master_wait_for_replica_count = facts.semi_sync.wait_for_count;
        self.semi_sync_master_clients = facts.semi_sync.clients;
        self.gtid_mode.clone_from(&facts.gtid_mode);
        self.is_read_only = facts.read_only;
    }

    fn fill_replicas(&mut self, api_view: &ApiView<'_>, view: &ClusterView, finding: &Finding) {
        let replicas: Vec<&Instance> = view.topology.replicas_of(&finding.instance).collect();
        let all_valid = |wanted: &dyn Fn(&InstanceFacts) -> bool| {
            let mut valid = replicas.iter().filter_map(|replica| replica.valid_facts()).peekable();
            valid.peek().is_some() && valid.all(wanted)
        };
        let positioned = |wanted: &dyn Fn(Positioning) -> bool| {
            all_valid(&|facts| {
                facts
                    .managed_channel()
                    .is_some_and(|channel| wanted(channel.positioning))
            })
        };
        self.oracle_gtid_immediate_topology = positioned(&|positioning| positioning == Positioning::AutoPosition);
        self.mariadb_gtid_immediate_topology =
            positioned(&|positioning| matches!(positioning, Positioning::SlavePos | Positioning::CurrentPos));
        self.pseudo_gtid_immediate_topology = all_valid(&|facts| facts.uses_pseudo_gtid);
        self.binlog_server_immediate_topology = all_valid(&InstanceFacts::is_binlog_server);
        self.max_replica_gtid_errant = replicas
            .iter()
            .filter_map(|replica| api_view.errant(&view.topology.cluster, &replica.key))
            .map(ToString::to_string)
            .max()
            .unwrap_or_default();
    }
}

/// How the analysis of one instance changed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ChangesShape {
    analyzed_instance_key: Key,
    changelog: Vec<String>,
}

impl ChangesShape {
    pub(crate) fn of((instance, changes): &(InstanceKey, Vec<AnalysisChange>)) -> Self {
        Self {
            analyzed_instance_key: instance.into(),
            changelog: changes
                .iter()
                .map(|change| format!("{};{}", time_text(change.at), change.code))
                .collect(),
        }
    }
}

/// Whether the API shows a finding: all but `NoProblem` without structure warnings.
pub(crate) fn is_shown(finding: &Finding) -> bool {
    finding.code != Code::NoProblem || !finding.structure.is_empty()
}
