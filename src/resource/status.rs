//! The status of a resource: written by the leader, never by users. All fields are optional when read, so that a status of
//! another version can be read.

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
/// Length of a message.
pub(super) const MAX_TEXT: usize = 512;
/// Length of a GTID set; longer ones are cut, with an ellipsis.
pub(super) const MAX_GTID: usize = 2048;

/// The observed state of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MySQLClusterStatus {
    /// Generation of the document that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The writer of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<Observer>,
    /// Summary for tables.
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
    /// Downtimes of the instances, from all sources.
    #[schemars(length(max = MAX_ENTRIES))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downtime: Vec<DowntimeState>,
    /// The recovery that runs, or is or would be blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RunningRecovery>,
    /// The latest recovery that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_recovery: Option<LastRecovery>,
    /// The current or latest takeover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<TakeoverState>,
    /// Result of the annotation ham4db.io/force-promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<ForceState>,
    /// Conditions; Ready summarises them.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The writer of a status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Observer {
    /// The group of members.
    #[serde(rename = "clusterUUID")]
    #[schemars(length(max = 64))]
    pub cluster_uuid: String,
    /// The leader.
    #[schemars(length(max = MAX_NAME))]
    pub member: String,
    /// Its term.
    pub term: i64,
    /// Last renewal; at least once a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<Time>,
}

/// Summary for tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Summary {
    /// The primary's address.
    #[schemars(length(max = MAX_TEXT))]
    pub primary: String,
    /// Instances that answer, of all known.
    #[schemars(length(max = MAX_NAME))]
    pub instances: String,
    /// Highest lag of a replica.
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
    /// Raised by every recovery: of two sources that name a primary, the one with the higher epoch is current.
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
    /// Primary, Replica; Quarantined: a failed primary that is kept read-only; Detached: has no source and is not the primary;
    /// Unknown.
    #[serde(default)]
    pub role: Role,
    /// Lag in seconds; absent when unknown.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Whether it is read-only; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Transactions that the primary lacks.
    #[schemars(length(max = MAX_GTID))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_errant: Option<String>,
    /// Its promotion rule.
    #[schemars(length(max = 16))]
    #[serde(default)]
    pub promotion_rule: String,
    /// Whether it could be promoted if the primary failed now; absent for the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotable: Option<Promotable>,
    /// When its downtime ends, or "indefinite".
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_until: Option<String>,
    /// Its problems.
    #[schemars(length(max = MAX_PROBLEMS), inner(length(max = MAX_TEXT)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether a server could be promoted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Promotable {
    /// It could be promoted; another one may be preferred.
    pub ok: bool,
    /// Why not.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The role of a server in its topology.
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

/// The state of a downtime.
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
    /// Set by this document (Spec), through the API, or by a recovery.
    #[serde(default)]
    pub source: DowntimeSource,
    /// Person or program that set it.
    #[schemars(length(max = MAX_NAME))]
    #[serde(default)]
    pub owner: String,
    /// When it ends; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// The state of a downtime.
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

/// Where a downtime was set.
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

/// The recovery that runs, is blocked, or would be blocked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningRecovery {
    /// Its id; while it is blocked, that of the failure.
    #[schemars(length(max = MAX_NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// WouldBlock: no failure, and a recovery would be blocked; Blocked: needed and blocked; Claimed: nothing is promoted yet; Opened: the successor may be writable.
    pub phase: RecoveryPhase,
    /// The analysis code.
    #[schemars(length(max = MAX_NAME))]
    pub failure: String,
    /// The failed instance.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(rename = "victim")]
    pub old_primary: String,
    /// The instance that it promotes.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// Why it is blocked.
    #[schemars(length(max = 16), inner(length(max = MAX_TEXT)))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
}

/// The phase of a recovery.
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
    /// Whether it succeeded.
    pub successful: bool,
    /// Transactions known to be lost, a lower bound.
    #[serde(rename = "lostGTIDSet", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_GTID))]
    pub lost_gtid_set: Option<String>,
    /// None with its proof, a number with its proof, or unknown with a lower bound.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Proof that the old primary was fenced.
    #[schemars(length(max = MAX_TEXT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing: Option<String>,
    /// What accepted a loss.
    #[schemars(length(max = MAX_NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_via: Option<String>,
    /// It was acknowledged.
    pub acknowledged: bool,
}

/// A takeover that the document requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TakeoverState {
    /// Its requestID.
    #[serde(rename = "requestID")]
    #[schemars(length(max = 64))]
    pub request_id: String,
    /// Its phase.
    pub phase: TakeoverPhase,
    /// Why.
    #[schemars(length(max = MAX_TEXT))]
    pub message: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// Result of an annotation that requests a promotion whatever is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ForceState {
    /// Its value.
    #[schemars(length(max = MAX_TEXT))]
    pub value: String,
    /// Its phase.
    #[schemars(length(max = 16))]
    pub phase: String,
    /// Why.
    #[schemars(length(max = MAX_TEXT))]
    pub message: String,
}

/// The phase of a takeover.
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
