//! The records of the replicated state: clusters, documents, recoveries, quarantines, members.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::finding::{Finding, Opinion};
use crate::domain::gtid::GtidSet;
use crate::domain::hooks::HookProgress;
use crate::domain::instance::Identity;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{
    BootReadOnly, EventsPolicy, HeldBack, LossPolicy, OldPrimary, OnDrain, RecoveryMode, StalledPrimary,
};
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::loss_evidence::describe_loss;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::refusal::Refusal;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

/// A member id: it belongs to one log for ever and is never reused.
pub type MemberId = u64;

/// The fencing counter of a cluster, which every claim and every resume raises.
pub type Epoch = u64;

/// A group of members and the history of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Assigned at the bootstrap.
    pub uuid: String,
    /// Assigned again at a forced recovery of the quorum.
    pub history: String,
}

/// A seed: an address at which discovery begins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// Address.
    pub instance: InstanceKey,
    /// The origin, which also determines the credentials.
    pub origin: Origin,
}

/// The primary of a cluster, as last opened or first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedPrimary {
    /// Address.
    pub instance: InstanceKey,
    /// Its identity.
    pub identity: Identity,
    /// Since when it is the primary.
    pub since: WallTime,
    /// Epoch of the cluster when it became primary.
    pub epoch: Epoch,
    /// Id of the recovery in which ham4db made it writable last; `None` when it was found writable.
    #[serde(default)]
    pub opened_by: Option<String>,
    /// Start time of the server process that was last seen writable, as [`InstanceFacts::started`]; `None` while none
    /// was seen since it was opened.
    ///
    /// [`InstanceFacts::started`]: crate::domain::instance::InstanceFacts::started
    #[serde(default)]
    pub process: Option<i64>,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Stable id.
    pub id: ClusterId,
    /// When its record was created; of two merged clusters the older remains.
    #[serde(rename = "minted")]
    pub created_at: WallTime,
    /// `host:port` of the primary: orchestrator's cluster name, a label.
    pub name: String,
    /// Alias; the name when it has none.
    #[serde(default)]
    pub alias: String,
    /// Raised by every claim and every resume.
    #[serde(default)]
    pub epoch: Epoch,
    /// Addresses of its instances.
    #[serde(default)]
    pub instances: BTreeSet<InstanceKey>,
    /// Its primary.
    #[serde(default)]
    pub primary: Option<RecordedPrimary>,
    /// The document that owns it (the older of two); `None` when API and configuration decide.
    #[serde(default)]
    pub document: Option<Origin>,
    /// The cluster of which it was a part before a split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_from: Option<ClusterId>,
}

/// The policy part of a `MySQLCluster` document, as last read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `cr:namespace/name`.
    pub origin: Origin,
    /// Uid of the resource: a new uid is a new document.
    #[serde(default)]
    pub uid: String,
    /// When the resource was created; the older of two documents on one cluster wins.
    pub created: WallTime,
    /// `metadata.generation`.
    #[serde(default)]
    pub generation: i64,
    /// Addresses at which discovery begins.
    pub seeds: BTreeSet<InstanceKey>,
    /// Name of the Secret with the account.
    #[serde(default)]
    pub credentials_secret: String,
    /// `spec.paused`.
    #[serde(default)]
    pub paused: bool,
    /// `spec.recovery.mode`.
    #[serde(default)]
    pub mode: RecoveryMode,
    /// `spec.recovery.blockFor`, milliseconds.
    pub block_millis: u64,
    /// `spec.recovery.lossPolicy`.
    #[serde(default)]
    pub loss: LossPolicy,
    /// `spec.recovery.lossTimeout`, milliseconds.
    #[serde(default)]
    pub loss_timeout_millis: u64,
    /// `spec.recovery.oldPrimary`.
    #[serde(default)]
    pub old_primary: OldPrimary,
    /// `spec.recovery.bootReadOnly`.
    #[serde(default)]
    pub boot_read_only: BootReadOnly,
    /// `spec.recovery.stalledPrimary`; `None` when the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<StalledPrimary>,
    /// `spec.recovery.events`; `None` when the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventsPolicy>,
    /// `spec.recovery.onDrain`.
    #[serde(default)]
    pub on_drain: OnDrain,
    /// `spec.durability`; `None` when the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<crate::domain::policy::Durability>,
    /// `spec.primaryService`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<crate::domain::declared::DeclaredServices>,
}

/// The phase of a recovery. Claimed and Opened are committed before their effects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// The instances are locked for this recovery. No successor is opened, and everything can be rolled back.
    Claimed,
    /// The successor is or may be writable: the recovery only goes forward.
    #[serde(rename_all = "camelCase")]
    Opened {
        /// The successor.
        successor: InstanceKey,
        /// The GTID set that it has at least.
        position: GtidSet,
        /// When the entry was committed.
        at: WallTime,
    },
    /// Ended.
    #[serde(rename_all = "camelCase")]
    Ended {
        /// When it ended.
        at: WallTime,
        /// The new primary, if one was opened.
        successor: Option<InstanceKey>,
        /// Whether it succeeded.
        successful: bool,
    },
}

/// The acknowledgement of a recovery by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// When it was given.
    pub at: WallTime,
    /// The operator.
    pub by: String,
    /// Comment.
    pub comment: String,
}

/// One line of the record of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Number within the whole state, growing.
    #[serde(default)]
    pub id: u64,
    /// When it was recorded.
    pub at: WallTime,
    /// The text.
    pub message: String,
}

/// A recovery, running or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Growing number.
    pub id: u64,
    /// The id of the recovery.
    pub uid: String,
    /// Cluster name when it began.
    pub cluster_name: String,
    /// Cluster alias when it began.
    pub cluster_alias: String,
    /// The finding that called for it.
    pub finding: Finding,
    /// The opinions of the members.
    pub opinions: Vec<Opinion>,
    /// The plan. A resumed recovery may have a newer one.
    pub plan: Plan,
    /// The report of the plan.
    pub report: PlanReport,
    /// The member that acts.
    pub holder: MemberId,
    /// Name of that member.
    pub holder_name: String,
    /// Epoch of the claim; a resume raises it.
    pub epoch: Epoch,
    /// Phase of the recovery.
    pub phase: Phase,
    /// When it was claimed.
    pub started: WallTime,
    /// Replicas left behind.
    #[serde(default)]
    pub lost_replicas: Vec<Refusal>,
    /// Transactions that are known to be lost; whether these are all, the evidence in the plan tells
    /// ([`Recovery::loss`]).
    #[serde(default)]
    pub lost: Option<GtidSet>,
    /// Errors.
    #[serde(default)]
    pub errors: Vec<String>,
    /// The record, at most [`crate::domain::state::MAX_STEPS`] lines.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// The proof that permitted the opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "receipt")]
    pub fencing_proof: Option<FencingProof>,
    /// The acknowledgement of an operator.
    #[serde(default)]
    pub acknowledged: Option<Acknowledgement>,
    /// Pending and finished lists of hooks.
    #[serde(default)]
    pub hooks: HookProgress,
    /// How many attempts of the same repair failed in a row before this one; 0 in records of earlier versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_before: u32,
    /// Replicas that may have been stopped by a recovery that ended in favour of this one: at the end they are started
    /// again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub owed: BTreeSet<InstanceKey>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Recovery {
    /// Whether it is running: its instances are locked.
    pub fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. })
    }

    /// When it ended.
    pub fn ended(&self) -> Option<WallTime> {
        match self.phase {
            Phase::Ended { at, .. } => Some(at),
            Phase::Claimed | Phase::Opened { .. } => None,
        }
    }

    /// The new primary, once one was opened.
    pub fn successor(&self) -> Option<&InstanceKey> {
        match &self.phase {
            Phase::Claimed => None,
            Phase::Opened { successor, .. } => Some(successor),
            Phase::Ended { successor, .. } => successor.as_ref(),
        }
    }

    /// What was lost and what proves it, in one line: `none` only with a proof. `None` where no other server was opened.
    pub fn loss(&self) -> Option<String> {
        let is_replaced = self.plan.kind.replaces_primary() && self.successor().is_some();
        let lost = self.lost.as_ref().or(self.plan.lost.as_ref());
        is_replaced.then(|| describe_loss(lost, self.plan.loss_evidence.as_ref()))
    }

    /// Whether it succeeded.
    pub fn is_successful(&self) -> bool {
        matches!(self.phase, Phase::Ended { successful: true, .. })
    }
}

/// The right of one member to run one recovery. It is void once a higher epoch exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToken {
    /// The recovery.
    pub uid: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The member that may act.
    pub holder: MemberId,
    /// The epoch of the claim.
    pub epoch: Epoch,
}

/// The standing of a quarantined server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum QuarantineState {
    /// It has not answered since it failed.
    Absent,
    /// It answers, is read-only, and has no transaction that the new primary lacks.
    Contained,
    /// It answers, is read-only, and has errant transactions.
    #[serde(rename_all = "camelCase")]
    Errant {
        /// The errant transactions.
        set: GtidSet,
    },
    /// It answers, and its transactions could not be compared yet.
    #[serde(rename_all = "camelCase")]
    Unknown {
        /// The reason.
        why: String,
    },
}

/// A failed or demoted primary, by identity. It is kept read-only until it is a replica again or an operator releases
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Its identity.
    pub identity: Identity,
    /// Its address.
    pub instance: InstanceKey,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The recovery that quarantined it.
    pub recovery: String,
    /// The epoch of that recovery.
    pub epoch: Epoch,
    /// Since when it is in quarantine.
    pub since: WallTime,
    /// Its standing.
    pub standing: QuarantineState,
}

/// A member of the group in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRecord {
    /// Id.
    pub id: MemberId,
    /// Its name in `RaftNodes` or of the StatefulSet's pod.
    pub name: String,
    /// The highest command version that it understands.
    pub understands: u32,
    /// Its data center; empty when unknown, as for members of versions that did not announce it.
    #[serde(default)]
    pub data_center: String,
}

/// A detection: the first observation of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detection {
    /// Growing number.
    pub id: u64,
    /// The finding.
    pub finding: Finding,
    /// Cluster name at that moment.
    pub cluster_name: String,
    /// Cluster alias at that moment.
    pub cluster_alias: String,
    /// When it was recorded.
    pub at: WallTime,
    /// The member that observed it.
    pub member_name: String,
    /// The reason that held a recovery back, if there was one.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
    /// The recovery that followed.
    #[serde(default)]
    pub recovery: Option<String>,
    /// The new primary, when the detection is that a replication group has chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<InstanceKey>,
    /// Pending and finished lists of hooks; those of a claim are in its recovery.
    #[serde(default)]
    pub hooks: HookProgress,
}

/// A recovery that was held back by an earlier one, or the replacement of a primary that was refused; the latest for its
/// instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// The failed instance.
    pub instance: InstanceKey,
    /// Cluster name.
    pub cluster_name: String,
    /// Analysis code.
    pub analysis: String,
    /// When it was last held back.
    pub at: WallTime,
    /// Number of the recovery that blocks it; 0 when none does.
    pub blocking_recovery: u64,
    /// Why; empty in records of versions that did not keep it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// An entry of the audit: an action, its time, and its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Growing number of the audit.
    pub id: u64,
    /// When it was recorded.
    pub at: WallTime,
    /// The action, with orchestrator's name where it has one: `begin-downtime`, `recover-dead-master`.
    pub kind: String,
    /// The server; `None` when the action is about all servers.
    #[serde(default)]
    pub instance: Option<InstanceKey>,
    /// Name of its cluster at that moment; empty when it had none.
    #[serde(default)]
    pub cluster_name: String,
    /// Details for the operator.
    #[serde(default)]
    pub message: String,
}

/// The replicated state, the same on every member: everything that decisions need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The group; `None` before the bootstrap entry.
    pub group: Option<Group>,
    /// The clock of the state: the maximum of all times in commands since it was corrected last.
    pub clock: WallTime,
    /// The highest version of the commands that made it: a member must understand that version to load the state. 0 in
    /// states from before this was recorded.
    pub version: u32,
    /// Source of numbers: recoveries, detections, steps, member ids.
    pub last_number: u64,
    /// Addresses at which discovery begins, from API and configuration; documents have their own.
    pub seeds: BTreeSet<Seed>,
    /// Forgotten addresses, each with the time before which it is not discovered again.
    pub forgotten: BTreeMap<InstanceKey, WallTime>,
    /// Instances that are not seen, each with the time from which that counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unseen: BTreeMap<InstanceKey, WallTime>,
    /// Clusters.
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// Intents; serialised as a list because their key is not a string.
    #[serde(with = "super::intents_as_list")]
    pub intents: BTreeMap<crate::domain::intent::IntentId, crate::domain::intent::Intent>,
    /// Documents by origin.
    pub documents: BTreeMap<Origin, Document>,
    /// Requests of documents by [`super::Request::key`], including handled ones.
    pub requests: BTreeMap<String, super::request::Request>,
    /// Whether recoveries are disabled for all clusters.
    pub recoveries_disabled: bool,
    /// When an operator forced the group to continue without its majority; `None` once recoveries were enabled again.
    /// Until then, recoveries of other members are not resumed, and requests of documents are not started, because they
    /// may have been done already.
    pub quorum_forced: Option<WallTime>,
    /// Recoveries by uid.
    pub recoveries: BTreeMap<String, Recovery>,
    /// Quarantined servers by the text of their identity and cluster.
    pub quarantines: BTreeMap<String, Quarantine>,
    /// Detections by number.
    pub detections: BTreeMap<u64, Detection>,
    /// Blocked recoveries by instance.
    pub blocked: BTreeMap<InstanceKey, Blocked>,
    /// Members by id.
    pub members: BTreeMap<MemberId, MemberRecord>,
    /// The audit by number, at most [`crate::domain::state::MAX_AUDIT`] entries. No decision depends on it.
    pub audit: BTreeMap<u64, AuditEntry>,
}
