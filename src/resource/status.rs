//! What ham4db saw and did: written by the leader, never by people. Everything is optional when read, so that a status of another
//! version is no obstacle.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are descriptions in the schema, which is no Markdown"
)]
#![expect(
    unreachable_pub,
    reason = "the derive of the schema makes copies of the types in function bodies"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Entries that each list of a status may have.
pub(super) const MAX_ENTRIES: usize = 256;
/// Problems listed of one instance.
pub(super) const MAX_PROBLEMS: usize = 8;
/// Length of a text that names something.
pub(super) const MAX_NAME: usize = 128;
/// Length of a sentence.
pub(super) const MAX_TEXT: usize = 512;
/// Length of a GTID set; longer ones are cut, with an ellipsis.
pub(super) const MAX_GTID: usize = 2048;

/// What ham4db saw of the cluster and did about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MySQLClusterStatus {
    /// Generation of the document that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Who wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<Observer>,
    /// One line for a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Primary>,
    /// The instances of the topology.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into(), "port".into()]))]
    #[schemars(length(max = MAX_ENTRIES))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// Downtimes of the instances, by whomever they were asked for.
    #[schemars(length(max = MAX_ENTRIES))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downtime: Vec<DowntimeState>,
    /// The recovery that runs, or is or would be held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RunningRecovery>,
    /// The recovery that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_recovery: Option<LastRecovery>,
    /// The takeover that is asked for, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<TakeoverState>,
    /// What became of the annotation ham4db.io/force-promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<ForceState>,
    /// Conditions; Ready sums them up.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Who wrote a status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Observer {
    /// The group of members.
    #[serde(rename = "clusterUUID")]
    #[schemars(length(max = 64))]
    pub cluster_uuid: String,
    /// The member that led the group.
    #[schemars(length(max = MAX_NAME))]
    pub member: String,
    /// Its term.
    pub term: i64,
    /// When it last said that it is still there; at least once a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<Time>,
}

/// One line for a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Summary {
    /// The primary's address.
    #[schemars(length(max = MAX_TEXT))]
    pub primary: String,
    /// Answering of known instances.
    #[schemars(length(max = MAX_NAME))]
    pub instances: String,
    /// Lag of the replica that lags most.
    #[schemars(length(max = MAX_NAME))]
    pub lag: String,
    /// The most important problem.
    #[schemars(length(max = MAX_TEXT))]
    pub problem: String,
}

/// The primary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Primary {
    /// Host name or IP address.
    #[schemars(length(max = 253))]
    pub host: String,
    /// TCP port.
    pub port: i32,
    /// Raised by every recovery: of two sources that name a primary, the one with the higher epoch is right.
    pub epoch: i64,
    /// Since when it is the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Host name or IP address.
    #[schemars(length(max = 253))]
    pub host: String,
    /// TCP port.
    pub port: i32,
    /// Primary, Replica; Quarantined: a failed primary that is kept read-only; Detached: replicates from nobody and is not the primary;
    /// Unknown.
    #[serde(default)]
    pub role: Role,
    /// How far a replica is behind, seconds; absent when it is unknown.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Whether it refuses writes; absent when it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Transactions that the primary lacks.
    #[schemars(length(max = MAX_GTID))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_errant: Option<String>,
    /// How willingly it is promoted.
    #[schemars(length(max = 16))]
    #[serde(default)]
    pub promotion_rule: String,
    /// Whether it could be promoted if the primary died now; absent for the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotable: Option<Promotable>,
    /// When its downtime ends, or "indefinite".
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_until: Option<String>,
    /// What is wrong with it.
    #[schemars(length(max = MAX_PROBLEMS), inner(length(max = MAX_TEXT)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether a server could be promoted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Promotable {
    /// It could; another one may be preferred at the moment.
    pub ok: bool,
    /// Why it could not.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a server is in its topology.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum Role {
    Primary,
    Replica,
    Quarantined,
    Detached,
    #[default]
    Unknown,
}

/// What became of a downtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DowntimeState {
    /// Host name or IP address.
    #[schemars(length(max = 253))]
    pub host: String,
    /// TCP port.
    pub port: i32,
    /// Active; Expired: its time has passed; NotFound: no instance of the cluster has this address; Pending: not recorded yet.
    #[serde(default)]
    pub state: DowntimePhase,
    /// Asked for by this document (Spec), through the API, or by a recovery.
    #[serde(default)]
    pub source: DowntimeSource,
    /// Who asked.
    #[schemars(length(max = MAX_NAME))]
    #[serde(default)]
    pub owner: String,
    /// When it ends; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What became of a downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum DowntimePhase {
    Active,
    Expired,
    NotFound,
    #[default]
    Pending,
}

/// Who asked for a downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum DowntimeSource {
    #[default]
    Spec,
    API,
    Recovery,
}

/// The recovery that runs, that is called for and held back, or that would be held back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningRecovery {
    /// Its id; while it is held back, that of the failure.
    #[schemars(length(max = MAX_NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// WouldBlock: nothing failed, and a recovery would be held back; Blocked: called for and held back; Claimed: nothing is promoted yet; Opened: the successor may be writable.
    pub phase: RecoveryPhase,
    /// The analysis code.
    #[schemars(length(max = MAX_NAME))]
    pub failure: String,
    /// The failed instance.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(rename = "victim")]
    pub old_primary: String,
    /// The instance that is promoted.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// Why it is held back.
    #[schemars(length(max = 16), inner(length(max = MAX_TEXT)))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum RecoveryPhase {
    WouldBlock,
    #[default]
    Blocked,
    Claimed,
    Opened,
}

/// A recovery that ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LastRecovery {
    /// Its id.
    #[schemars(length(max = MAX_NAME))]
    pub id: String,
    /// The analysis code.
    #[schemars(length(max = MAX_NAME))]
    pub failure: String,
    /// The failed instance.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(rename = "victim")]
    pub old_primary: String,
    /// The new primary, if one was opened.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Whether it did what it was for.
    pub successful: bool,
    /// Transactions known to be lost: at least these.
    #[serde(rename = "lostGTIDSet", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_GTID))]
    pub lost_gtid_set: Option<String>,
    /// Which proof allowed the opening.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing: Option<String>,
    /// What allowed any loss.
    #[schemars(length(max = MAX_NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_via: Option<String>,
    /// Somebody has looked at it.
    pub acknowledged: bool,
}

/// A takeover that the document asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TakeoverState {
    /// Its name.
    #[serde(rename = "requestID")]
    #[schemars(length(max = 64))]
    pub request_id: String,
    /// How far it is.
    pub phase: TakeoverPhase,
    /// Why.
    #[schemars(length(max = MAX_TEXT))]
    pub message: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// What became of an annotation that asks for a promotion whatever is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ForceState {
    /// Its value.
    #[schemars(length(max = MAX_TEXT))]
    pub value: String,
    /// How far it is.
    #[schemars(length(max = 16))]
    pub phase: String,
    /// Why.
    #[schemars(length(max = MAX_TEXT))]
    pub message: String,
}

/// How far a takeover is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum TakeoverPhase {
    #[default]
    Pending,
    Refused,
    Draining,
    CatchingUp,
    Promoting,
    Succeeded,
    Failed,
    Expired,
    Cancelled,
}
