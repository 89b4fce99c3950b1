//! `TopologyRecovery`, its steps, and blocked recoveries.

use serde::Serialize;

use crate::domain::finding::Code;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::record::{Blocked, Detection, StepRecord};
use crate::domain::state::{Recovery, State};

use super::analysis::AnalysisShape;
use super::cluster::ClusterInfo;
use super::opinion::OpinionShape;
use super::{Coordinates, Key, time_text};

/// A recovery, or a detection in the same format. ham4db adds `LostTransactions`, `Loss`, `Fencing`, `Epoch` and `Opinions`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RecoveryShape {
    id: u64,
    #[serde(rename = "UID")]
    uid: String,
    analysis_entry: AnalysisShape,
    successor_key: Option<Key>,
    successor_alias: String,
    successor_binlog_coordinates: Option<Coordinates>,
    is_active: bool,
    is_successful: bool,
    lost_replicas: Vec<Key>,
    participating_instance_keys: Vec<Key>,
    all_errors: Option<Vec<String>>,
    recovery_start_timestamp: String,
    recovery_end_timestamp: String,
    processing_node_hostname: String,
    processing_node_token: String,
    acknowledged: bool,
    acknowledged_at: String,
    acknowledged_by: String,
    acknowledged_comment: String,
    last_detection_id: u64,
    related_recovery_id: u64,
    r#type: &'static str,
    recovery_type: &'static str,
    lost_transactions: String,
    loss: String,
    fencing: String,
    epoch: u64,
    opinions: Vec<OpinionShape>,
}

impl RecoveryShape {
    /// A recorded recovery.
    pub(crate) fn of(state: &State, recovery: &Recovery) -> Self {
        let detection = state
            .detections
            .values()
            .find(|detection| detection.recovery.as_deref() == Some(&recovery.uid));
        let acknowledged = recovery.acknowledged.as_ref();
        let cluster = ClusterInfo::labelled(&recovery.cluster_name, &recovery.cluster_alias);
        let (kind, recovery_type) = match recovery.plan.kind {
            // In orchestrator a takeover is a forced recovery of the primary and has its type.
            RecoveryKind::DeadPrimary | RecoveryKind::Takeover => ("MasterRecovery", "MasterRecoveryGTID"),
            RecoveryKind::CoPrimary => ("CoMasterRecovery", "MasterRecoveryGTID"),
            RecoveryKind::IntermediatePrimary => ("IntermediateMasterRecovery", "NotMasterRecovery"),
            RecoveryKind::GroupMember => ("ReplicationGroupMemberRecovery", "NotMasterRecovery"),
            RecoveryKind::DeadPrimaryByPosition
                if RecoveryKind::for_code(recovery.plan.code) == Some(RecoveryKind::CoPrimary) =>
            {
                ("CoMasterRecovery", "MasterRecoveryPosition")
            }
            RecoveryKind::DeadPrimaryByPosition => ("MasterRecovery", "MasterRecoveryPosition"),
            RecoveryKind::SemiSync => ("SemiSyncMasterRecovery", "NotMasterRecovery"),
            RecoveryKind::NonWritablePrimary => ("NonWriteableMasterRecovery", "NotMasterRecovery"),
            RecoveryKind::Rejoin => ("Rejoin", "NotMasterRecovery"),
            RecoveryKind::ResolveErrant => ("ResolveErrant", "NotMasterRecovery"),
            RecoveryKind::MatchBelow => ("MatchBelow", "NotMasterRecovery"),
            RecoveryKind::BootReadOnly => ("BootReadOnly", "NotMasterRecovery"),
            RecoveryKind::Durability => ("Durability", "NotMasterRecovery"),
            RecoveryKind::ReopenPrimary => ("ReopenPrimary", "NotMasterRecovery"),
        };
        Self {
            id: recovery.id,
            uid: recovery.uid.clone(),
            analysis_entry: AnalysisShape::recorded(&recovery.finding, cluster)
                .with_command_hint(recovery.plan.manual_request.as_ref()),
            successor_key: recovery.successor().map(Key::from),
            successor_alias: String::new(),
            successor_binlog_coordinates: None,
            is_active: recovery.is_active(),
            is_successful: recovery.is_successful(),
            lost_replicas: recovery
                .lost_replicas
                .iter()
                .map(|lost| Key::from(&lost.instance))
                .collect(),
            participating_instance_keys: recovery.plan.instances.iter().map(Key::from).collect(),
            all_errors: Some(recovery.errors.clone()),
            recovery_start_timestamp: time_text(recovery.started),
            recovery_end_timestamp: recovery.ended().map(time_text).unwrap_or_default(),
            processing_node_hostname: recovery.holder_name.clone(),
            processing_node_token: recovery.holder.to_string(),
            acknowledged: acknowledged.is_some(),
            acknowledged_at: acknowledged
                .map(|acknowledgement| time_text(acknowledgement.at))
                .unwrap_or_default(),
            acknowledged_by: acknowledged
                .map(|acknowledgement| acknowledgement.by.clone())
                .unwrap_or_default(),
            acknowledged_comment: acknowledged
                .map(|acknowledgement| acknowledgement.comment.clone())
                .unwrap_or_default(),
            last_detection_id: detection.map_or(0, |detection| detection.id),
            related_recovery_id: continued_recovery(state, recovery).map_or(0, |first| first.id),
            r#type: kind,
            recovery_type,
            lost_transactions: recovery.lost.as_ref().map(ToString::to_string).unwrap_or_default(),
            loss: recovery.loss().unwrap_or_default(),
            fencing: recovery
                .fencing_proof
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            epoch: recovery.epoch,
            opinions: recovery.opinions.iter().map(OpinionShape::from).collect(),
        }
    }

    /// A recorded detection.
    pub(crate) fn of_detection(state: &State, detection: &Detection) -> Self {
        let recovery = detection.recovery.as_ref().and_then(|uid| state.recoveries.get(uid));
        let cluster = ClusterInfo::labelled(&detection.cluster_name, &detection.cluster_alias);
        let at = time_text(detection.at);
        Self {
            id: detection.id,
            uid: String::new(),
            analysis_entry: AnalysisShape::recorded(&detection.finding, cluster).active_since(at.clone()),
            successor_key: detection.successor.as_ref().map(Key::from),
            successor_alias: String::new(),
            successor_binlog_coordinates: None,
            is_active: false,
            is_successful: detection.successor.is_some(),
            lost_replicas: Vec::new(),
            participating_instance_keys: Vec::new(),
            all_errors: None,
            recovery_start_timestamp: at,
            recovery_end_timestamp: String::new(),
            processing_node_hostname: detection.member_name.clone(),
            processing_node_token: String::new(),
            acknowledged: false,
            acknowledged_at: String::new(),
            acknowledged_by: String::new(),
            acknowledged_comment: String::new(),
            last_detection_id: 0,
            related_recovery_id: recovery.map_or(0, |recovery| recovery.id),
            r#type: "",
            recovery_type: "",
            lost_transactions: String::new(),
            loss: String::new(),
            fencing: String::new(),
            epoch: 0,
            opinions: Vec::new(),
        }
    }
}

/// The earlier recovery that this one continues, because the successor of the earlier one was lost.
fn continued_recovery<'a>(state: &'a State, recovery: &Recovery) -> Option<&'a Recovery> {
    let is_it = |earlier: &&Recovery| {
        earlier.id < recovery.id
            && earlier.plan.cluster == recovery.plan.cluster
            && earlier.successor() == Some(&recovery.plan.old_primary)
    };
    (recovery.finding.code == Code::SuccessorLost)
        .then(|| state.recoveries.values().filter(is_it).max_by_key(|earlier| earlier.id))
        .flatten()
}

/// One line of the record of a recovery. ham4db adds `AtMilliseconds` (since 1970): a failover takes less than a second.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StepShape {
    id: u64,
    #[serde(rename = "RecoveryUID")]
    recovery_uid: String,
    audit_at: String,
    at_milliseconds: i64,
    message: String,
}

impl StepShape {
    /// A recorded line of the recovery with this uid.
    pub(crate) fn of(uid: &str, step: &StepRecord) -> Self {
        Self {
            id: step.id,
            recovery_uid: uid.to_owned(),
            audit_at: time_text(step.at),
            at_milliseconds: step.at.0,
            message: step.message.clone(),
        }
    }
}

/// A refused recovery.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BlockedShape {
    failed_instance_key: Key,
    cluster_name: String,
    analysis: String,
    last_blocked_timestamp: String,
    blocking_recovery_id: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl From<&Blocked> for BlockedShape {
    fn from(blocked: &Blocked) -> Self {
        Self {
            failed_instance_key: (&blocked.instance).into(),
            cluster_name: blocked.cluster_name.clone(),
            analysis: blocked.analysis.clone(),
            last_blocked_timestamp: time_text(blocked.at),
            blocking_recovery_id: blocked.blocking_recovery,
            reason: blocked.reason.clone(),
        }
    }
}
