//! The status of a document, independent of its format.

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::state::Epoch;
use crate::domain::time::WallTime;

use super::reason::Reason;

/// The author of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// Name of the member.
    pub member: String,
    /// Raft term in which the member leads.
    pub term: u64,
    /// Time of the last renewal.
    pub renewed: WallTime,
}

/// The content of a document's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusModel {
    /// The generation that the status is about; `None` for a document that cannot be parsed.
    pub observed_generation: Option<i64>,
    /// The primary.
    pub primary: Option<PrimaryStatus>,
    /// The instances by address.
    pub instances: Vec<InstanceStatus>,
    /// Downtimes.
    pub downtime: Vec<DowntimeStatus>,
    /// The recovery that is running or held back.
    pub recovery: Option<RecoveryStatus>,
    /// The recovery that ended last.
    pub last_recovery: Option<LastRecovery>,
    /// The takeover that the document requests, or the last one that it requested.
    pub takeover: Option<TakeoverStatus>,
    /// The forced promotion that the document requests, or the last one.
    pub force: Option<ForceStatus>,
    /// All of [`ConditionKind::ALL`], in that order.
    pub conditions: Vec<Condition>,
    /// The most important problem in a sentence; empty when there is none.
    pub problem: String,
}

/// The primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// Address of the primary.
    pub instance: InstanceKey,
    /// Epoch of the cluster when it became primary.
    pub epoch: Epoch,
    /// Since when it is the primary.
    pub since: WallTime,
}

/// The role of a server in its topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The recorded primary.
    Primary,
    /// It replicates.
    Replica,
    /// A failed primary that is kept read-only.
    Quarantined,
    /// It has no source and is not the primary.
    Detached,
    /// It never answered.
    Unknown,
}

/// Status of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Address of the server.
    pub instance: InstanceKey,
    /// Its role.
    pub role: Role,
    /// Whether its last probe succeeded.
    pub answers: bool,
    /// Lag, seconds; `None` when it is unknown.
    pub lag_seconds: Option<u64>,
    /// Whether it is read-only; `None` when it is unknown.
    pub read_only: Option<bool>,
    /// Transactions that the primary lacks.
    pub errant: Option<GtidSet>,
    /// Its promotion rule.
    pub promotion_rule: PromotionRule,
    /// Whether it could be promoted; `None` for the primary.
    pub promotable: Option<Promotable>,
    /// End of its downtime; `None` when it is in none.
    pub downtime: Option<DowntimeEnd>,
    /// Its problems, worst first.
    pub problems: Vec<String>,
}

/// Whether a server could be promoted if the primary failed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotable {
    /// It could be promoted; another server may be preferred at the moment.
    pub ok: bool,
    /// Why it could not; empty when it could. Which server is preferred changes with every transaction and is not
    /// shown.
    pub why: String,
}

/// The end of a downtime; the longest downtime is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DowntimeEnd {
    /// It ends at this time.
    At(WallTime),
    /// It lasts until it is ended.
    Indefinite,
}

/// The phase of a downtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowntimePhase {
    /// In effect.
    Active,
    /// Expired.
    Expired,
    /// No instance of the cluster has this address.
    NotFound,
    /// Not recorded yet.
    Pending,
}

/// The origin of a downtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowntimeOrigin {
    /// The document.
    Document,
    /// The API.
    Api,
    /// A recovery.
    Recovery,
}

/// A downtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DowntimeStatus {
    /// The instance as the request spells it.
    pub instance: InstanceKey,
    /// Its phase.
    pub phase: DowntimePhase,
    /// Its origin.
    pub origin: DowntimeOrigin,
    /// Its owner.
    pub owner: String,
    /// Its end.
    pub until: Option<WallTime>,
}

/// The phase of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryPhase {
    /// Nothing failed; a recovery would be held back now.
    WouldBlock,
    /// A recovery is needed and held back.
    Blocked,
    /// Claimed; no successor is opened yet.
    Claimed,
    /// The successor may be writable.
    Opened,
}

/// A recovery that is running, is held back, or would be held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryStatus {
    /// Id of the recovery; of a recovery that is held back the id of the failure ([`super::incident_id`]).
    pub uid: Option<String>,
    /// Its phase.
    pub phase: RecoveryPhase,
    /// The analysis code of the failure.
    pub failure: Code,
    /// The failed primary.
    pub old_primary: InstanceKey,
    /// The server that is promoted.
    pub successor: Option<InstanceKey>,
    /// Why it is held back.
    pub blocked_by: Vec<String>,
}

/// A recovery that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRecovery {
    /// Id of the recovery.
    pub uid: String,
    /// The analysis code of the failure.
    pub failure: Code,
    /// The failed primary.
    pub old_primary: InstanceKey,
    /// The new primary.
    pub successor: Option<InstanceKey>,
    /// When it started.
    pub started: WallTime,
    /// When it ended.
    pub ended: WallTime,
    /// Whether it succeeded.
    pub successful: bool,
    /// Transactions that are known to be lost.
    pub lost: Option<GtidSet>,
    /// What was lost and what proves it, in words.
    pub loss: Option<String>,
    /// The fencing proof that allowed the opening, in words.
    pub fencing: Option<String>,
    /// How the possible loss of transactions was accepted.
    pub accepted_via: Option<String>,
    /// Whether it is acknowledged.
    pub acknowledged: bool,
}

/// The phase of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverPhase {
    /// Not started.
    Pending,
    /// Refused; nothing was changed.
    Refused,
    /// The old primary still takes writes, or completes its transactions.
    Draining,
    /// The old primary is read-only, and the target applies what it lacks.
    CatchingUp,
    /// The target may be writable.
    Promoting,
    /// Succeeded.
    Succeeded,
    /// Started and failed.
    Failed,
    /// Not started before its deadline.
    Expired,
    /// Cancelled.
    Cancelled,
}

/// A requested takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeoverStatus {
    /// Id of the request.
    pub id: String,
    /// Its phase.
    pub phase: TakeoverPhase,
    /// Details for the operator.
    pub message: String,
    /// When it started.
    pub started: Option<WallTime>,
    /// When it ended.
    pub finished: Option<WallTime>,
}

/// The phase of a forced promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcePhase {
    /// Not started.
    Pending,
    /// A recovery is running for it.
    Running,
    /// Succeeded.
    Succeeded,
    /// Started and failed.
    Failed,
    /// Refused; nothing was changed.
    Refused,
    /// Not started in time.
    Expired,
    /// Cancelled before it was started.
    Cancelled,
}

/// A forced promotion that is requested by the annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceStatus {
    /// Value of the annotation.
    pub value: String,
    /// Its phase.
    pub phase: ForcePhase,
    /// Details for the operator.
    pub message: String,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It is unknown whether the condition holds.
    Unknown,
}

/// The types of conditions, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// A writable primary is known and is the recorded one, and the document is in effect.
    Ready,
    /// The seeds belong to one topology, which this document owns.
    Discovered,
    /// The primary answers and is writable.
    PrimaryWritable,
    /// All replicas that are not in downtime answer and replicate.
    ReplicationHealthy,
    /// A recovery is running.
    RecoveryActive,
    /// A recovery is needed and held back.
    RecoveryBlocked,
    /// A replica has transactions that the primary lacks.
    ErrantGtids,
    /// An instance is in downtime.
    Downtimed,
    /// The document disables repairs.
    Paused,
    /// The account of the document is not available.
    CredentialsMissing,
    /// The group has a quorum.
    RaftHealthy,
    /// Servers of the cluster name addresses that are not dialled.
    UndiscoveredServers,
    /// The Service of the document has the primary as endpoint.
    PrimaryServicePublished,
    /// The documents are served by the definition of this version or a newer one.
    DefinitionCurrent,
    /// Something is in progress towards what the document asks for (a convention of kstatus).
    Reconciling,
    /// Nothing improves without an operator (a convention of kstatus).
    Stalled,
}

impl ConditionKind {
    /// All types.
    pub const ALL: [Self; 16] = [
        Self::Ready,
        Self::Discovered,
        Self::PrimaryWritable,
        Self::ReplicationHealthy,
        Self::RecoveryActive,
        Self::RecoveryBlocked,
        Self::ErrantGtids,
        Self::Downtimed,
        Self::Paused,
        Self::CredentialsMissing,
        Self::RaftHealthy,
        Self::UndiscoveredServers,
        Self::PrimaryServicePublished,
        Self::DefinitionCurrent,
        Self::Reconciling,
        Self::Stalled,
    ];

    /// The type as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Discovered => "Discovered",
            Self::PrimaryWritable => "PrimaryWritable",
            Self::ReplicationHealthy => "ReplicationHealthy",
            Self::RecoveryActive => "RecoveryActive",
            Self::RecoveryBlocked => "RecoveryBlocked",
            Self::ErrantGtids => "ErrantGTIDs",
            Self::Downtimed => "Downtimed",
            Self::Paused => "Paused",
            Self::CredentialsMissing => "CredentialsMissing",
            Self::RaftHealthy => "RaftHealthy",
            Self::UndiscoveredServers => "UndiscoveredServers",
            Self::PrimaryServicePublished => "PrimaryServicePublished",
            Self::DefinitionCurrent => "DefinitionCurrent",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: ConditionKind,
    /// Its status.
    pub status: ConditionStatus,
    /// Its reason, for programs.
    pub reason: &'static str,
    /// Its message, for the operator. It contains no numbers that change all the time.
    pub message: String,
}

impl Condition {
    pub(super) fn new(
        kind: ConditionKind,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.as_str(),
            message: message.into(),
        }
    }
}

impl StatusModel {
    /// The status of a document that exists and cannot be parsed.
    pub fn unreadable(why: &str) -> Self {
        let conditions = ConditionKind::ALL
            .into_iter()
            .map(|kind| match kind {
                ConditionKind::Ready => Condition::new(kind, ConditionStatus::False, Reason::Unreadable, why),
                ConditionKind::Stalled => Condition::new(kind, ConditionStatus::True, Reason::Unreadable, why),
                ConditionKind::Reconciling => {
                    Condition::new(kind, ConditionStatus::False, Reason::Settled, "nothing is in progress")
                }
                ConditionKind::Discovered
                | ConditionKind::PrimaryWritable
                | ConditionKind::ReplicationHealthy
                | ConditionKind::RecoveryActive
                | ConditionKind::RecoveryBlocked
                | ConditionKind::ErrantGtids
                | ConditionKind::Downtimed
                | ConditionKind::Paused
                | ConditionKind::CredentialsMissing
                | ConditionKind::RaftHealthy
                | ConditionKind::UndiscoveredServers
                | ConditionKind::PrimaryServicePublished
                | ConditionKind::DefinitionCurrent => Condition::new(
                    kind,
                    ConditionStatus::Unknown,
                    Reason::Unreadable,
                    "the document cannot be read",
                ),
            })
            .collect();
        Self {
            conditions,
            problem: format!("unreadable: {why}"),
            ..Self::default()
        }
    }

    /// The condition of a type.
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Replaces the condition of the same type. Its message becomes the shown problem when there is no other and the
    /// condition is unhealthy.
    pub(super) fn set_condition(&mut self, condition: Condition) {
        let is_problem =
            condition.kind == ConditionKind::DefinitionCurrent && condition.status == ConditionStatus::False;
        if is_problem && self.problem.is_empty() {
            self.problem.clone_from(&condition.message);
        }
        if let Some(present) = self
            .conditions
            .iter_mut()
            .find(|present| present.kind == condition.kind)
        {
            *present = condition;
        }
    }

    /// Number of answering instances, and of all instances.
    pub fn answering(&self) -> (usize, usize) {
        (
            self.instances.iter().filter(|instance| instance.answers).count(),
            self.instances.len(),
        )
    }

    /// Lag of the replica that lags most, seconds; `None` when no replica reports its lag.
    pub fn worst_lag(&self) -> Option<u64> {
        self.instances
            .iter()
            .filter(|instance| instance.role == Role::Replica)
            .filter_map(|instance| instance.lag_seconds)
            .max()
    }

    /// Whether the difference to `other` must be written at once: roles, primary, recoveries, downtimes, conditions.
    /// Lag and texts can wait.
    pub fn differs_in_substance(&self, other: &Self) -> bool {
        let roles = |model: &Self| {
            let part = |instance: &InstanceStatus| {
                (
                    instance.instance.clone(),
                    instance.role,
                    instance.answers,
                    instance.read_only,
                    instance.downtime,
                    instance.promotable.as_ref().map(|promotable| promotable.ok),
                )
            };
            model.instances.iter().map(part).collect::<Vec<_>>()
        };
        let conditions = |model: &Self| -> Vec<(ConditionKind, ConditionStatus, &'static str)> {
            model
                .conditions
                .iter()
                .map(|condition| (condition.kind, condition.status, condition.reason))
                .collect()
        };
        let recovery = |model: &Self| {
            model.recovery.clone().map(|recovery| RecoveryStatus {
                blocked_by: Vec::new(),
                ..recovery
            })
        };
        self.observed_generation != other.observed_generation
            || self.primary != other.primary
            || recovery(self) != recovery(other)
            || self.last_recovery != other.last_recovery
            || self.takeover != other.takeover
            || self.force != other.force
            || self.downtime != other.downtime
            || roles(self) != roles(other)
            || conditions(self) != conditions(other)
    }
}
