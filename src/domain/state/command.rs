//! The value that changes replicated state, and the only way to change it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::finding::{Finding, Opinion};
use crate::domain::gtid::GtidSet;
use crate::domain::hooks::{HookList, HookRun, HookSubject};
use crate::domain::instance::Identity;
use crate::domain::intent::{Intent, IntentId, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, OnDrain};
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::refusal::Refusal;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

use super::record::{
    Acknowledgement, ClaimToken, Document, Epoch, Group, MemberId, MemberRecord, QuarantineState, Seed, StepRecord,
};
use super::request::{Request, RequestOutcome};

/// The highest command version that this program understands ([`Command::since`]). A member that meets a higher version
/// exits with an explanatory error.
pub const COMMAND_VERSION: u32 = 4;

/// The version of commands since which a merge of clusters in which a recovery runs is refused. A state that has applied
/// such a command also keeps a recovery in the cluster that a merge gave it.
pub(super) const NO_MERGE_DURING_RECOVERY: u32 = 4;

/// The version of commands since which a full list of recoveries keeps replacements of primaries before failed repairs, and
/// recoveries record how many attempts failed before them. Earlier versions drop the oldest: as long as a member of an earlier
/// version may apply the same commands, every member does.
pub const KEEP_RECENT_REPLACEMENTS: u32 = 4;

/// The command version of members that can share probes ([`crate::domain::probe_assignment`]). Nothing of it is in the log.
pub const SHARES_PROBES: u32 = 4;

/// A command with its version and the clock of the proposer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// [`Command::since`]: a member must understand this version to apply the command.
    pub version: u32,
    /// When it was proposed.
    pub at: WallTime,
    /// The command.
    pub command: Command,
}

impl Proposal {
    /// Proposes a command at this time.
    pub fn new(at: WallTime, command: Command) -> Self {
        Self {
            version: command.since(),
            at,
            command,
        }
    }
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.command.name())
    }
}

/// The report that a replication group has chosen another primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupChoice {
    /// The finding about the previous primary.
    pub finding: Finding,
    /// The member that observed it.
    pub member_name: String,
    /// Lists of hooks to run for it.
    #[serde(default)]
    pub hooks: Vec<HookList>,
}

/// Every change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum Command {
    /// Names the group. Applied once; another name is refused.
    #[serde(rename = "found")]
    FoundGroup {
        /// The group.
        group: Group,
    },
    /// Allocates a member id above all earlier ids.
    #[serde(rename_all = "camelCase")]
    AllocateMember {
        /// Name of the member.
        name: String,
        /// Ids that the bootstrap assigned; the counter starts above them.
        above: MemberId,
    },
    /// Announces a member and the command version that it understands.
    #[serde(rename = "hello")]
    AnnounceMember {
        /// The member.
        member: MemberRecord,
    },
    /// Adds a seed.
    Discover {
        /// The seed.
        seed: Seed,
    },
    /// Forgets an instance.
    Forget {
        /// The instance.
        instance: InstanceKey,
        /// It is not discovered again before this time.
        until: WallTime,
    },
    /// Forgets an instance that is gone for good, and ends its quarantine.
    ForgetGone {
        /// The instance.
        instance: InstanceKey,
        /// It is not discovered again before this time.
        until: WallTime,
        /// The reason, for the operator.
        reason: String,
    },
    /// Records which instances are not seen, from the time of this command, and which are seen again.
    RecordUnseen {
        /// The instances that are not seen.
        unseen: BTreeSet<InstanceKey>,
        /// The instances that are seen again.
        seen: BTreeSet<InstanceKey>,
    },
    /// Records a cluster, or changes of its members or primary. Also merges clusters: those in `absorbs` end in this
    /// one.
    #[serde(rename_all = "camelCase")]
    DescribeCluster {
        /// Its id: new for a new cluster.
        id: ClusterId,
        /// Its instances.
        instances: BTreeSet<InstanceKey>,
        /// Its primary, only when exactly one writable top was observed and no recovery is running.
        primary: Option<(InstanceKey, Identity)>,
        /// Start time of the process of this primary as the server reports it; `None` when it does not.
        #[serde(default)]
        process: Option<i64>,
        /// Alias; empty leaves the present one.
        alias: String,
        /// Clusters that are merged into this one.
        absorbs: Vec<ClusterId>,
        /// The document that owns it.
        document: Option<Origin>,
        /// Present when the primary changed because its replication group chose another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chosen: Option<Box<GroupChoice>>,
    },
    /// Makes a cluster of some instances of another one. What is recorded of recoveries and quarantines stays with the
    /// other one.
    #[serde(rename_all = "camelCase")]
    SplitCluster {
        /// The cluster that has the instances.
        from: ClusterId,
        /// Id of the new cluster.
        id: ClusterId,
        /// The instance that heads the new cluster.
        head: InstanceKey,
        /// Its identity, when it is writable: it is the primary.
        primary: Option<Identity>,
        /// Start time of the process of this primary as the server reports it; `None` when it does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<i64>,
        /// The instances of the new cluster, with the head.
        instances: BTreeSet<InstanceKey>,
        /// Alias of the new cluster; may be empty.
        #[serde(default)]
        alias: String,
        /// The document that owns the new cluster.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        document: Option<Origin>,
        /// The reason, for the audit.
        reason: String,
    },
    /// Merges two clusters on request.
    #[serde(rename_all = "camelCase")]
    MergeClusters {
        /// The cluster that remains.
        into: ClusterId,
        /// The cluster that ends in it.
        from: ClusterId,
        /// The primary of the merged cluster, when the requester saw one that is writable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary: Option<(InstanceKey, Identity)>,
        /// The reason, for the audit.
        reason: String,
    },
    /// Sets an intent.
    SetIntent {
        /// The intent.
        intent: Intent,
    },
    /// Ends an intent of one origin.
    EndIntent {
        /// The intent.
        id: IntentId,
    },
    /// Records a document as last read.
    PutDocument {
        /// The document.
        document: Box<Document>,
    },
    /// Withdraws a deleted document and all intents of its origin. `MySQL` is not changed.
    WithdrawDocument {
        /// The document.
        origin: Origin,
    },
    /// Enables or disables recoveries for all clusters.
    SetGlobalRecoveries {
        /// Whether they are enabled.
        enabled: bool,
    },
    /// Lets the group continue with one member because an operator declared the majority lost. Entries that the others
    /// had committed may be missing, so nothing is repaired until recoveries are enabled again.
    #[serde(rename_all = "camelCase")]
    ForceQuorum {
        /// The remaining member.
        survivor: MemberId,
        /// Its name.
        survivor_name: String,
        /// The lost members.
        lost: Vec<String>,
    },
    /// Records the first observation of a finding.
    #[serde(rename = "detect", rename_all = "camelCase")]
    RecordDetection {
        /// The finding.
        finding: Box<Finding>,
        /// The member that observed it.
        member_name: String,
        /// The reason that held a recovery back.
        held_back: Option<HeldBack>,
        /// Lists of hooks to run for it.
        #[serde(default)]
        hooks: Vec<HookList>,
    },
    /// Claims the right to run one recovery.
    Claim {
        /// The claim.
        claim: Box<Claim>,
    },
    /// Resumes an unfinished recovery with a new actor: same uid, higher epoch.
    #[serde(rename_all = "camelCase")]
    Resume {
        /// The recovery.
        uid: String,
        /// The new actor.
        holder: MemberId,
        /// Name of the new actor.
        holder_name: String,
        /// The epoch must become higher than this one, which was found on the servers.
        above: Epoch,
    },
    /// Permits that the successor becomes writable; committed before it does.
    Open {
        /// The claim.
        token: ClaimToken,
        /// The successor.
        successor: InstanceKey,
        /// The GTID set that it has at least.
        position: GtidSet,
        /// The plan of the second choice, after the receivers are stopped.
        plan: Box<Plan>,
        /// The proof that permits it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[serde(rename = "receipt")]
        fencing_proof: Option<FencingProof>,
    },
    /// Adds lines to the record of a recovery.
    Record {
        /// The claim.
        token: ClaimToken,
        /// The lines; numbers are assigned when the command is applied.
        lines: Vec<StepRecord>,
    },
    /// Ends a recovery.
    End {
        /// The claim.
        token: ClaimToken,
        /// The result.
        ending: Box<Ending>,
    },
    /// Records a change of what is known of a quarantined server.
    #[serde(rename = "judge", rename_all = "camelCase")]
    SetQuarantineStanding {
        /// Its key in [`super::State::quarantines`].
        quarantine: String,
        /// The address at which it answers.
        instance: InstanceKey,
        /// Its standing.
        standing: QuarantineState,
    },
    /// Ends the quarantine of a server: it is a replica again, or an operator released it.
    Release {
        /// Its key in [`super::State::quarantines`].
        quarantine: String,
        /// The reason.
        reason: String,
    },
    /// Acknowledges recoveries.
    Acknowledge {
        /// The recoveries, by uid.
        uids: Vec<String>,
        /// The acknowledgement.
        acknowledgement: Acknowledgement,
    },
    /// Records that a list of hooks is about to run. The answer is the number of the attempt; refused when the list is
    /// not pending.
    #[serde(rename_all = "camelCase")]
    HooksBegin {
        /// The recovery or detection.
        subject: HookSubject,
        /// The list.
        list: HookList,
    },
    /// Records that a list of hooks ran to its end, successful or not. No effect when the list is no longer pending.
    #[serde(rename_all = "camelCase")]
    HooksRan {
        /// The recovery or detection.
        subject: HookSubject,
        /// The run.
        run: HookRun,
        /// Lines for the record of a recovery.
        lines: Vec<StepRecord>,
    },
    /// Records a request of a document. No effect when it was recorded before.
    Request {
        /// The request.
        request: Box<Request>,
    },
    /// Cancels a request.
    #[serde(rename_all = "camelCase")]
    CancelRequest {
        /// Its key in [`super::State::requests`].
        key: String,
        /// The reason, for the operator.
        why: String,
    },
    /// Settles a pending request that will not be started.
    #[serde(rename_all = "camelCase")]
    SettleRequest {
        /// Its key in [`super::State::requests`].
        key: String,
        /// Its outcome.
        outcome: RequestOutcome,
        /// The reason, for the operator.
        why: String,
    },
    /// Sets the clock of the state to the time of this proposal, also when that is earlier: a leader's clock was ahead.
    #[serde(rename_all = "camelCase")]
    CorrectClock {
        /// How far the clock of the state was ahead, milliseconds.
        ahead_millis: u64,
    },
    /// Records that a recovery was held back because of a recent one.
    Block {
        /// The record.
        blocked: super::record::Blocked,
    },
}

impl Command {
    /// The first version with members that apply this command correctly. Older members do not know the command, or not a
    /// value in it, or ignore a field, so their state would differ from that of the other members.
    ///
    /// A new command, and a new field or value that changes the state, belongs to a version above the last released
    /// one.
    pub fn since(&self) -> u32 {
        match self {
            Self::FoundGroup { .. }
            | Self::AllocateMember { .. }
            | Self::Discover { .. }
            | Self::Forget { .. }
            | Self::SetIntent { .. }
            | Self::EndIntent { .. }
            | Self::WithdrawDocument { .. }
            | Self::SetGlobalRecoveries { .. }
            | Self::Resume { .. }
            | Self::Record { .. }
            | Self::SetQuarantineStanding { .. }
            | Self::Release { .. }
            | Self::Acknowledge { .. }
            | Self::Block { .. } => 1,
            // Since the data center of a member is known.
            Self::AnnounceMember { member } => 1 + u32::from(!member.data_center.is_empty()),
            // Since clusters in which a recovery runs are not merged.
            Self::DescribeCluster { absorbs, .. } if !absorbs.is_empty() => NO_MERGE_DURING_RECOVERY,
            // Since the start time of the primary's process is known, and the reason for another primary of a
            // replication group.
            Self::DescribeCluster { process, chosen, .. } => 1 + u32::from(process.is_some() || chosen.is_some()),
            // Since a takeover before a drain exists. Services are no reason for a newer version: a member that does
            // not know them keeps the rest of the policy, which must not wait for an upgrade, and the next leader
            // records them again.
            Self::PutDocument { document } => 2 + u32::from(document.on_drain != OnDrain::default()),
            Self::Request { request } => 2 + u32::from(request.what.is_drain()),
            // Since a primary that answers and commits nothing is replaced: an earlier member would undo that when it answers.
            Self::Claim { claim } => 2 + 2 * u32::from(claim.plan.commits_nothing),
            // Plans of more kinds with more steps, more findings and verdicts, more policies of documents, lists of
            // hooks.
            Self::RecordDetection { .. }
            | Self::Open { .. }
            | Self::End { .. }
            | Self::HooksBegin { .. }
            | Self::HooksRan { .. }
            | Self::CancelRequest { .. }
            | Self::SettleRequest { .. } => 2,
            Self::ForceQuorum { .. } => 3,
            Self::CorrectClock { .. }
            | Self::ForgetGone { .. }
            | Self::RecordUnseen { .. }
            | Self::SplitCluster { .. }
            | Self::MergeClusters { .. } => 4,
        }
    }

    /// Short name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FoundGroup { .. } => "found",
            Self::AllocateMember { .. } => "allocate-member",
            Self::AnnounceMember { .. } => "hello",
            Self::Discover { .. } => "discover",
            Self::Forget { .. } => "forget",
            Self::ForgetGone { .. } => "forget-gone",
            Self::RecordUnseen { .. } => "record-unseen",
            Self::DescribeCluster { .. } => "describe-cluster",
            Self::SplitCluster { .. } => "split-cluster",
            Self::MergeClusters { .. } => "merge-clusters",
            Self::SetIntent { .. } => "set-intent",
            Self::EndIntent { .. } => "end-intent",
            Self::PutDocument { .. } => "put-document",
            Self::WithdrawDocument { .. } => "withdraw-document",
            Self::SetGlobalRecoveries { .. } => "set-global-recoveries",
            Self::ForceQuorum { .. } => "force-quorum",
            Self::RecordDetection { .. } => "detect",
            Self::Claim { .. } => "claim",
            Self::Resume { .. } => "resume",
            Self::Open { .. } => "open",
            Self::Record { .. } => "record",
            Self::End { .. } => "end",
            Self::SetQuarantineStanding { .. } => "judge",
            Self::Release { .. } => "release",
            Self::Acknowledge { .. } => "acknowledge",
            Self::HooksBegin { .. } => "hooks-begin",
            Self::HooksRan { .. } => "hooks-ran",
            Self::Request { .. } => "request",
            Self::CancelRequest { .. } => "cancel-request",
            Self::SettleRequest { .. } => "settle-request",
            Self::CorrectClock { .. } => "correct-clock",
            Self::Block { .. } => "block",
        }
    }
}

/// The content of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Id of the recovery, assigned by the claimant.
    pub uid: String,
    /// The member that acts.
    pub holder: MemberId,
    /// Name of that member.
    pub holder_name: String,
    /// The finding.
    pub finding: Finding,
    /// The opinions of the members.
    pub opinions: Vec<Opinion>,
    /// The plan.
    pub plan: Plan,
    /// The report of the plan.
    pub report: PlanReport,
    /// The epoch must become higher than this one, which was found on the servers.
    pub above: Epoch,
    /// Lists of hooks to run before anything is changed.
    #[serde(default)]
    pub hooks: Vec<HookList>,
}

/// The result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// Whether it succeeded.
    pub successful: bool,
    /// The new primary with its identity, if one was opened.
    pub successor: Option<(InstanceKey, Identity)>,
    /// The identity of the failed primary, for its quarantine.
    pub quarantine: Option<(InstanceKey, Identity)>,
    /// Replicas left behind.
    pub lost_replicas: Vec<Refusal>,
    /// Transactions that are known to be lost.
    pub lost: Option<GtidSet>,
    /// Errors.
    pub errors: Vec<String>,
    /// Last lines of the record.
    pub lines: Vec<StepRecord>,
    /// Lists of hooks to run after the end.
    #[serde(default)]
    pub hooks: Vec<HookList>,
    /// Whether the recovery may have made the old primary read-only and could not make it writable again, so that it
    /// must still be opened.
    #[serde(default)]
    pub owes_opening: bool,
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Applied {
    /// Done, or already done before.
    Done,
    /// A number was allocated.
    Number {
        /// The number.
        number: u64,
    },
    /// A claim or resume was granted.
    Claimed {
        /// The right to act.
        token: ClaimToken,
    },
    /// Refused; nothing changed.
    Refused {
        /// Why.
        why: RefusedCommand,
    },
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Number { number } => write!(f, "number {number}"),
            Self::Claimed { token } => write!(f, "claimed {} with epoch {}", token.uid, token.epoch),
            Self::Refused { why } => write!(f, "refused: {why}"),
        }
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum RefusedCommand {
    /// The state belongs to another group.
    #[error("the state belongs to group {0}")]
    OtherGroup(String),
    /// Instances take part in another recovery.
    #[error("{instance} takes part in recovery {uid}")]
    Locked {
        /// The instance.
        instance: InstanceKey,
        /// The recovery.
        uid: String,
    },
    /// A recovery of the cluster ended recently.
    #[error("recovery {0} of this cluster ended recently and is not acknowledged")]
    Recent(String),
    /// Recoveries are disabled.
    #[error("recoveries are globally disabled")]
    Disabled,
    /// The old primary is no longer the cluster's primary.
    #[error("{0} is no longer the recorded primary of the cluster")]
    NotPrimary(InstanceKey),
    /// The named object does not exist.
    #[error("{0} does not exist")]
    Unknown(String),
    /// A higher epoch exists, or another holder, or the recovery is over.
    #[error("the claim on recovery {0} is not current")]
    StaleClaim(String),
    /// The entry is not valid in this phase of the recovery.
    #[error("out of order: {0}")]
    OutOfOrder(String),
    /// A list is full.
    #[error("too many: {0}")]
    TooMany(String),
    /// The intent belongs to another origin.
    #[error("set by {0}, which must end it")]
    OwnedBy(Origin),
    /// The command is newer than this program.
    #[error("command version {0} is newer than this program supports")]
    TooNew(u32),
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
