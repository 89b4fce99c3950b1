//! The records of the replicated state: clusters, documents, recoveries, quarantines, members.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::finding::{Finding, Opinion};
use crate::domain::gtid::GtidSet;
use crate::domain::hooks::HookLedger;
use crate::domain::instance::Identity;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, HeldBack, LossPolicy, Mode, OldPrimary, OnDrain, StalledPrimary};
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::plan::{Plan, PlanReport, Refusal};
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

/// A member id: one log for ever, never reused (design §4.10).
pub type MemberId = u64;

/// The fencing counter of a cluster: raised by every claim and every resume.
pub type Epoch = u64;

/// A group of members and the history of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Minted at the bootstrap.
    pub uuid: String,
    /// New at a forced recovery of the quorum.
    pub history: String,
}

/// A seed: an address to begin discovery at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// Address.
    pub instance: InstanceKey,
    /// Who asked: also says which credentials open it.
    pub origin: Origin,
}

/// The primary of a cluster as last opened or first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedPrimary {
    /// Address.
    pub instance: InstanceKey,
    /// Who it is.
    pub identity: Identity,
    /// Since when.
    pub since: WallTime,
    /// Epoch of the cluster when it became primary.
    pub epoch: Epoch,
    /// Id of the recovery by which ham4db made it writable last; `None` for one that it found writable.
    #[serde(default)]
    pub opened_by: Option<String>,
    /// When the server's process began that was last seen to take writes, by [`InstanceFacts::started`]; `None` while none was seen
    /// since it was opened.
    ///
    /// [`InstanceFacts::started`]: crate::domain::instance::InstanceFacts::started
    #[serde(default)]
    pub process: Option<i64>,
}

/// A cluster, minted once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Stable id.
    pub id: ClusterId,
    /// When it was minted; of two that merge the older survives.
    pub minted: WallTime,
    /// `host:port` of the primary: orchestrator's cluster name. A label.
    pub name: String,
    /// Alias; the name when none was given.
    #[serde(default)]
    pub alias: String,
    /// Raised by every claim and resume.
    #[serde(default)]
    pub epoch: Epoch,
    /// Addresses of its instances.
    #[serde(default)]
    pub instances: BTreeSet<InstanceKey>,
    /// Its primary.
    #[serde(default)]
    pub primary: Option<RecordedPrimary>,
    /// The document that owns it (the older of two), or `None`: then API and configuration decide.
    #[serde(default)]
    pub document: Option<Origin>,
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
    /// Where discovery starts.
    pub seeds: BTreeSet<InstanceKey>,
    /// Name of the Secret with the account.
    #[serde(default)]
    pub credentials_secret: String,
    /// `spec.paused`.
    #[serde(default)]
    pub paused: bool,
    /// `spec.recovery.mode`.
    #[serde(default)]
    pub mode: Mode,
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
    /// `spec.recovery.stalledPrimary`; `None`: the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<StalledPrimary>,
    /// `spec.recovery.onDrain`.
    #[serde(default)]
    pub on_drain: OnDrain,
    /// `spec.durability`; without it the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<crate::domain::policy::Durability>,
    /// `spec.primaryService`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<crate::domain::declared::DeclaredServices>,
}

/// How far a recovery got. Claimed and Opened are committed before their effects (design §4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// The instances are locked for this recovery; nothing is promoted yet. Everything can be put back.
    Claimed,
    /// The successor may be, or is, writable: from here only forward.
    #[serde(rename_all = "camelCase")]
    Opened {
        /// Who.
        successor: InstanceKey,
        /// With at least this.
        position: GtidSet,
        /// When the entry was made.
        at: WallTime,
    },
    /// Over.
    #[serde(rename_all = "camelCase")]
    Ended {
        /// When.
        at: WallTime,
        /// The new primary, if one was opened.
        successor: Option<InstanceKey>,
        /// Whether it did what it was for.
        successful: bool,
    },
}

/// A person's word that a recovery was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// When.
    pub at: WallTime,
    /// By whom.
    pub by: String,
    /// With which comment.
    pub comment: String,
}

/// One line of the record of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Number within the whole state, growing.
    #[serde(default)]
    pub id: u64,
    /// When.
    pub at: WallTime,
    /// What.
    pub message: String,
}

/// A recovery: running, or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Number, growing.
    pub id: u64,
    /// The name that everything uses.
    pub uid: String,
    /// Cluster name when it began.
    pub cluster_name: String,
    /// Cluster alias when it began.
    pub cluster_alias: String,
    /// The finding that called for it.
    pub finding: Finding,
    /// What the members said.
    pub opinions: Vec<Opinion>,
    /// What is, or was, done. A resumed recovery may carry a newer one.
    pub plan: Plan,
    /// What was considered.
    pub report: PlanReport,
    /// Who acts.
    pub holder: MemberId,
    /// The holder's name.
    pub holder_name: String,
    /// The claim's epoch; a resume raises it.
    pub epoch: Epoch,
    /// How far it got.
    pub phase: Phase,
    /// When it was claimed.
    pub started: WallTime,
    /// Replicas left behind.
    #[serde(default)]
    pub lost_replicas: Vec<Refusal>,
    /// What was lost: at least this. Filled when the old primary's set is known.
    #[serde(default)]
    pub lost: Option<GtidSet>,
    /// What went wrong.
    #[serde(default)]
    pub errors: Vec<String>,
    /// The record, at most [`crate::domain::state::MAX_STEPS`] lines.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// Which proof allowed the opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "receipt")]
    pub fencing_proof: Option<FencingProof>,
    /// A person's word.
    #[serde(default)]
    pub acknowledged: Option<Acknowledgement>,
    /// Lists of hooks that are still to be run for it, and that were.
    #[serde(default)]
    pub hooks: HookLedger,
    /// Replicas that a recovery which gave way to this one may have left stopped: at its end they go on where they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub owed: BTreeSet<InstanceKey>,
}

impl Recovery {
    /// Not over yet: its instances are locked.
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

    /// Whether it ended well.
    pub fn is_successful(&self) -> bool {
        matches!(self.phase, Phase::Ended { successful: true, .. })
    }
}

/// The right of one member to run one recovery; useless once a higher epoch exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToken {
    /// Which recovery.
    pub uid: String,
    /// In which cluster.
    pub cluster: ClusterId,
    /// Who may act.
    pub holder: MemberId,
    /// With which epoch.
    pub epoch: Epoch,
}

/// Where a quarantined server stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum QuarantineState {
    /// Not seen since it failed.
    Absent,
    /// Back, read-only, and holds nothing that the new primary lacks.
    Contained,
    /// Back, read-only, with transactions of its own.
    #[serde(rename_all = "camelCase")]
    Errant {
        /// These.
        set: GtidSet,
    },
    /// Back, and what it holds could not be compared yet.
    #[serde(rename_all = "camelCase")]
    Unknown {
        /// Why.
        why: String,
    },
}

/// A failed or demoted primary, by identity: kept read-only until it is a replica again or a person lets it go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Who.
    pub identity: Identity,
    /// Where it was, or is.
    pub instance: InstanceKey,
    /// In which cluster.
    pub cluster: ClusterId,
    /// By which recovery.
    pub recovery: String,
    /// With which epoch.
    pub epoch: Epoch,
    /// Since when.
    pub since: WallTime,
    /// Where it stands.
    pub standing: QuarantineState,
}

/// A member of the group as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRecord {
    /// Id.
    pub id: MemberId,
    /// Name: what `RaftNodes` or the StatefulSet calls it.
    pub name: String,
    /// Highest command version that it understands.
    pub understands: u32,
    /// Data centre that it is in; empty: not known, as of members before this was told.
    #[serde(default)]
    pub data_center: String,
}

/// A detection: the first sight of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detection {
    /// Number, growing.
    pub id: u64,
    /// The finding.
    pub finding: Finding,
    /// Cluster name at that moment.
    pub cluster_name: String,
    /// Cluster alias at that moment.
    pub cluster_alias: String,
    /// When.
    pub at: WallTime,
    /// By which member.
    pub member_name: String,
    /// What held a recovery back, if something did.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
    /// The recovery that followed.
    #[serde(default)]
    pub recovery: Option<String>,
    /// Who is the primary instead, where that is what was detected: a replication group has chosen another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<InstanceKey>,
    /// Lists of hooks that are still to be run for it, and that were; those of a claim stand in its recovery.
    #[serde(default)]
    pub hooks: HookLedger,
}

/// A refused recovery, the latest for its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// The failed instance.
    pub instance: InstanceKey,
    /// Cluster name.
    pub cluster_name: String,
    /// Code.
    pub analysis: String,
    /// Last time.
    pub at: WallTime,
    /// Number of the recovery that blocks it.
    pub blocking_recovery: u64,
}

/// An entry of the audit: what was done, when, and to which server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Number, growing, of the audit alone.
    pub id: u64,
    /// When.
    pub at: WallTime,
    /// What, in orchestrator's words where it has them: `begin-downtime`, `recover-dead-master`.
    pub kind: String,
    /// To which server; `None` when it is about all of them.
    #[serde(default)]
    pub instance: Option<InstanceKey>,
    /// Name of its cluster at that moment; empty when it was in none.
    #[serde(default)]
    pub cluster_name: String,
    /// The rest, for people.
    #[serde(default)]
    pub message: String,
}

/// Everything a decision needs, replicated, the same on every member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The group; `None` before the bootstrap entry.
    pub group: Option<Group>,
    /// The state's clock: the maximum of all times that commands carried.
    pub clock: WallTime,
    /// The highest version of the commands that made it: who takes it over must understand that. 0 in states from before this was kept.
    pub version: u32,
    /// Source of numbers: recoveries, detections, steps, member ids.
    pub last_number: u64,
    /// Addresses where discovery starts, as asked through API and configuration (documents carry their own).
    pub seeds: BTreeSet<Seed>,
    /// Forgotten addresses and until when they are not discovered again.
    pub forgotten: BTreeMap<InstanceKey, WallTime>,
    /// Clusters.
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// Intents; serialised as a list since its key is no string.
    #[serde(with = "super::intents_as_list")]
    pub intents: BTreeMap<crate::domain::intent::IntentId, crate::domain::intent::Intent>,
    /// Documents by origin.
    pub documents: BTreeMap<Origin, Document>,
    /// What documents ask for once, by [`super::Request::key`], handled ones too.
    pub requests: BTreeMap<String, super::request::Request>,
    /// Recoveries are switched off everywhere.
    pub recoveries_disabled: bool,
    /// When the group was made to go on without its majority; `None` once recoveries were enabled again. Until then what other members
    /// had begun is left where it is, and nothing that documents ask for once is begun: it may have been done.
    pub quorum_forced: Option<WallTime>,
    /// Recoveries by uid.
    pub recoveries: BTreeMap<String, Recovery>,
    /// Quarantined servers, by the text of their identity and cluster.
    pub quarantines: BTreeMap<String, Quarantine>,
    /// Detections by number.
    pub detections: BTreeMap<u64, Detection>,
    /// Refused recoveries by instance.
    pub blocked: BTreeMap<InstanceKey, Blocked>,
    /// Members by id.
    pub members: BTreeMap<MemberId, MemberRecord>,
    /// The audit by number, at most [`crate::domain::state::MAX_AUDIT`] entries. No decision rests on it.
    pub audit: BTreeMap<u64, AuditEntry>,
}
