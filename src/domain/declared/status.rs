//! The status of a document, before it is written in anybody's format.

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::state::Epoch;
use crate::domain::time::WallTime;

use super::reason::Reason;

/// Who writes a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// Name of the member.
    pub member: String,
    /// Term in which it leads.
    pub term: u64,
    /// Its sign of life.
    pub renewed: WallTime,
}

/// What a document's status says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusModel {
    /// Generation that it is about; `None` for a document that cannot be read.
    pub observed_generation: Option<i64>,
    /// The primary.
    pub primary: Option<PrimaryStatus>,
    /// The instances by address.
    pub instances: Vec<InstanceStatus>,
    /// Downtimes.
    pub downtime: Vec<DowntimeStatus>,
    /// The recovery that runs or is held back.
    pub recovery: Option<RecoveryStatus>,
    /// The recovery that ended last.
    pub last_recovery: Option<LastRecovery>,
    /// The takeover that the document asks for, or the last one that it asked for.
    pub takeover: Option<TakeoverStatus>,
    /// The same of a promotion whatever is lost.
    pub force: Option<ForceStatus>,
    /// All of [`ConditionKind::ALL`], in that order.
    pub conditions: Vec<Condition>,
    /// The most important problem in a sentence; empty when there is none.
    pub problem: String,
}

/// The primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// Address.
    pub instance: InstanceKey,
    /// Epoch of the cluster when it became primary.
    pub epoch: Epoch,
    /// Since when.
    pub since: WallTime,
}

/// What a server is in its topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The recorded primary.
    Primary,
    /// Replicates.
    Replica,
    /// A failed primary that is kept read-only.
    Quarantined,
    /// Replicates from nobody and is not the primary.
    Detached,
    /// Never seen.
    Unknown,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Address.
    pub instance: InstanceKey,
    /// What it is.
    pub role: Role,
    /// Its last probe succeeded.
    pub answers: bool,
    /// Seconds behind; `None` when it is unknown.
    pub lag_seconds: Option<u64>,
    /// Refuses writes; `None` when it is unknown.
    pub read_only: Option<bool>,
    /// Transactions that the primary lacks.
    pub errant: Option<GtidSet>,
    /// How willingly it is promoted.
    pub promotion_rule: PromotionRule,
    /// Whether it could be promoted; `None` for the primary.
    pub promotable: Option<Promotable>,
    /// In downtime, and how long.
    pub downtime: Option<DowntimeEnd>,
    /// What is wrong with it, worst first.
    pub problems: Vec<String>,
}

/// Whether a server could be promoted if the primary died now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotable {
    /// It could; another one may be preferred at the moment.
    pub ok: bool,
    /// Why it could not; empty when it could: who is preferred changes with every transaction.
    pub why: String,
}

/// How long a downtime lasts; the longest is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DowntimeEnd {
    /// Until then.
    At(WallTime),
    /// Until it is ended.
    Indefinite,
}

/// What became of a downtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowntimePhase {
    /// Counts.
    Active,
    /// Its time has passed.
    Expired,
    /// No instance of the cluster has this address.
    NotFound,
    /// Not recorded yet.
    Pending,
}

/// Who asked for a downtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowntimeAsker {
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
    /// Which instance, as it was spelled.
    pub instance: InstanceKey,
    /// What became of it.
    pub phase: DowntimePhase,
    /// Who asked.
    pub asker: DowntimeAsker,
    /// On whose behalf.
    pub owner: String,
    /// Until when.
    pub until: Option<WallTime>,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryPhase {
    /// Nothing failed; a recovery would be held back.
    WouldBlock,
    /// Called for and held back.
    Blocked,
    /// Nothing is promoted yet.
    Claimed,
    /// The successor may be writable.
    Opened,
}

/// The recovery that runs or is held back, or that would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryStatus {
    /// Its id; while it is held back, that of the failure that lasts ([`super::incident`]).
    pub uid: Option<String>,
    /// How far it is.
    pub phase: RecoveryPhase,
    /// What failed.
    pub failure: Code,
    /// Who failed.
    pub old_primary: InstanceKey,
    /// Who is promoted.
    pub successor: Option<InstanceKey>,
    /// Why it is held back.
    pub blocked_by: Vec<String>,
}

/// A recovery that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRecovery {
    /// Its id.
    pub uid: String,
    /// What failed.
    pub failure: Code,
    /// Who failed.
    pub old_primary: InstanceKey,
    /// The new primary.
    pub successor: Option<InstanceKey>,
    /// When it began.
    pub started: WallTime,
    /// When it ended.
    pub ended: WallTime,
    /// Whether it did what it was for.
    pub successful: bool,
    /// What is known to be lost.
    pub lost: Option<GtidSet>,
    /// Which proof allowed the opening, in words.
    pub fencing: Option<String>,
    /// Whose word allowed it whatever was lost.
    pub accepted_via: Option<String>,
    /// A person has looked at it.
    pub acknowledged: bool,
}

/// How far a takeover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverPhase {
    /// Not begun.
    Pending,
    /// Something spoke against it; nothing was touched.
    Refused,
    /// The old primary still takes writes, or ends its transactions.
    Draining,
    /// The old primary is read-only, and the target applies what it lacks.
    CatchingUp,
    /// The target may be writable.
    Promoting,
    /// Done.
    Succeeded,
    /// Begun, and not done.
    Failed,
    /// Not begun before its deadline.
    Expired,
    /// Taken back.
    Cancelled,
}

/// A takeover that a document asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeoverStatus {
    /// Its name.
    pub id: String,
    /// How far it is.
    pub phase: TakeoverPhase,
    /// Why, for people.
    pub message: String,
    /// When it was begun.
    pub started: Option<WallTime>,
    /// When it was handled.
    pub finished: Option<WallTime>,
}

/// How far a promotion whatever is lost is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcePhase {
    /// Not begun.
    Pending,
    /// A recovery does it.
    Running,
    /// Done.
    Succeeded,
    /// Begun, and not done.
    Failed,
    /// Something spoke against it; nothing was touched.
    Refused,
    /// Not begun in time.
    Expired,
    /// Taken back before it was begun.
    Cancelled,
}

/// A promotion whatever is lost that a person asked for by the annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceStatus {
    /// The annotation's value.
    pub asked: String,
    /// How far it is.
    pub phase: ForcePhase,
    /// Why, for people.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be said.
    Unknown,
}

/// The conditions, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// A writable primary is there, is the one that is recorded, and the document counts.
    Ready,
    /// The seeds led to one topology that is this document's.
    Discovered,
    /// The primary answers and takes writes.
    PrimaryWritable,
    /// All replicas that are not in downtime answer and replicate.
    ReplicationHealthy,
    /// A recovery runs.
    RecoveryActive,
    /// A recovery is called for and held back.
    RecoveryBlocked,
    /// A replica has transactions that the primary lacks.
    ErrantGtids,
    /// An instance is in downtime.
    Downtimed,
    /// The document asks for no repair.
    Paused,
    /// The account of the document cannot be had.
    CredentialsMissing,
    /// The group has a quorum.
    RaftHealthy,
    /// The Service that the document asks for leads to the primary.
    PrimaryServicePublished,
    /// Documents are served by the definition of this version, or a newer one.
    DefinitionCurrent,
    /// Something is on its way to what the document asks for (a convention of kstatus).
    Reconciling,
    /// Nothing gets better by waiting (a convention of kstatus).
    Stalled,
}

impl ConditionKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
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
        Self::PrimaryServicePublished,
        Self::DefinitionCurrent,
        Self::Reconciling,
        Self::Stalled,
    ];

    /// The condition's type as it is written.
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
    /// Which.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub truth: Truth,
    /// Why, as a word that programs may compare.
    pub reason: &'static str,
    /// Why, as a sentence. Without numbers that change all the time.
    pub message: String,
}

impl Condition {
    pub(super) fn new(kind: ConditionKind, truth: Truth, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            truth,
            reason: reason.as_str(),
            message: message.into(),
        }
    }
}

impl StatusModel {
    /// The status of a document that is there and cannot be read.
    pub fn unreadable(why: &str) -> Self {
        let conditions = ConditionKind::ALL
            .into_iter()
            .map(|kind| match kind {
                ConditionKind::Ready => Condition::new(kind, Truth::False, Reason::Unreadable, why),
                ConditionKind::Stalled => Condition::new(kind, Truth::True, Reason::Unreadable, why),
                ConditionKind::Reconciling => {
                    Condition::new(kind, Truth::False, Reason::Settled, "nothing is on its way")
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
                | ConditionKind::PrimaryServicePublished
                | ConditionKind::DefinitionCurrent => {
                    Condition::new(kind, Truth::Unknown, Reason::Unreadable, "the document cannot be read")
                }
            })
            .collect();
        Self {
            conditions,
            problem: format!("unreadable: {why}"),
            ..Self::default()
        }
    }

    /// The condition of a kind.
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Puts a condition in the place of the one of its kind. It is the problem to show where there is no other and it is not healthy.
    pub(super) fn say(&mut self, condition: Condition) {
        let is_problem = condition.kind == ConditionKind::DefinitionCurrent && condition.truth == Truth::False;
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

    /// How many instances answer, of how many.
    pub fn answering(&self) -> (usize, usize) {
        (
            self.instances.iter().filter(|instance| instance.answers).count(),
            self.instances.len(),
        )
    }

    /// Lag of the replica that lags most, seconds; `None` when no replica tells one.
    pub fn worst_lag(&self) -> Option<u64> {
        self.instances
            .iter()
            .filter(|instance| instance.role == Role::Replica)
            .filter_map(|instance| instance.lag_seconds)
            .max()
    }

    /// Whether the difference to `other` is worth writing at once: roles, primary, recoveries, downtimes, conditions. Lag and words
    /// are not.
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
        let conditions = |model: &Self| -> Vec<(ConditionKind, Truth, &'static str)> {
            model
                .conditions
                .iter()
                .map(|condition| (condition.kind, condition.truth, condition.reason))
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
