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
use crate::domain::recovery::plan::{Plan, PlanReport, Refusal};
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

use super::record::{
    Acknowledgement, ClaimToken, Document, Epoch, Group, MemberId, MemberRecord, QuarantineState, Seed, StepRecord,
};
use super::request::{Request, RequestKind, RequestOutcome};

/// The highest version of commands that this program understands ([`Command::since`]). A member that meets a higher one stops with a
/// sentence.
pub const COMMAND_VERSION: u32 = 3;

/// A command with its version and the proposer's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// [`Command::since`]: who applies it must understand this version.
    pub version: u32,
    /// When it was proposed.
    pub at: WallTime,
    /// What.
    pub command: Command,
}

impl Proposal {
    /// A command, proposed at this time.
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

/// What is told of the primary that a replication group has chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupChoice {
    /// About the one that was the primary.
    pub finding: Finding,
    /// Who saw it.
    pub member_name: String,
    /// Lists of hooks to be run for it.
    #[serde(default)]
    pub hooks: Vec<HookList>,
}

/// Everything that changes the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum Command {
    /// Names the group. Applied once; another name is refused.
    Found {
        /// The group.
        group: Group,
    },
    /// Allocates a member id above all that ever were.
    #[serde(rename_all = "camelCase")]
    AllocateMember {
        /// Name of the member.
        name: String,
        /// Ids that the bootstrap handed out; the counter starts above them.
        above: MemberId,
    },
    /// A member says what it understands.
    Hello {
        /// The member.
        member: MemberRecord,
    },
    /// Discovery starts here too.
    Discover {
        /// The seed.
        seed: Seed,
    },
    /// The instance is no longer wanted.
    Forget {
        /// Which.
        instance: InstanceKey,
        /// Not discovered again before this.
        until: WallTime,
    },
    /// A cluster is named, or its members or primary changed. Also merges: `absorbs` end in this one.
    #[serde(rename_all = "camelCase")]
    DescribeCluster {
        /// Its id: new for a cluster never seen.
        id: ClusterId,
        /// Its instances.
        instances: BTreeSet<InstanceKey>,
        /// Its primary: only when exactly one top was seen writable and no recovery runs.
        primary: Option<(InstanceKey, Identity)>,
        /// When the process of this primary began, as it tells; `None` when it does not.
        #[serde(default)]
        process: Option<i64>,
        /// Alias; empty leaves the present one.
        alias: String,
        /// Clusters that turned out to be the same one.
        absorbs: Vec<ClusterId>,
        /// The document that owns it.
        document: Option<Origin>,
        /// The primary is another one because its replication group has chosen so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chosen: Option<Box<GroupChoice>>,
    },
    /// Asks for something.
    SetIntent {
        /// What.
        intent: Intent,
    },
    /// Ends what one origin asked for.
    EndIntent {
        /// Which.
        id: IntentId,
    },
    /// A document as last read.
    PutDocument {
        /// It.
        document: Box<Document>,
    },
    /// A document is gone: withdraws it and all intents of its origin. `MySQL` is left alone.
    WithdrawDocument {
        /// Which.
        origin: Origin,
    },
    /// Switches recoveries on or off everywhere.
    SetGlobalRecoveries {
        /// On.
        enabled: bool,
    },
    /// The group goes on with one member, since the majority is lost for good: a person said so. What the others had committed may be
    /// missing, so nothing is repaired until recoveries are enabled again.
    #[serde(rename_all = "camelCase")]
    ForceQuorum {
        /// The member that is left.
        survivor: MemberId,
        /// Its name.
        survivor_name: String,
        /// The members that are lost.
        lost: Vec<String>,
    },
    /// A finding was seen first.
    #[serde(rename_all = "camelCase")]
    Detect {
        /// It.
        finding: Box<Finding>,
        /// By.
        member_name: String,
        /// What held a recovery back.
        held_back: Option<HeldBack>,
        /// Lists of hooks to be run for it.
        #[serde(default)]
        hooks: Vec<HookList>,
    },
    /// Takes the right to run one recovery (design §4.2).
    Claim {
        /// What is claimed.
        claim: Box<Claim>,
    },
    /// A new actor takes over an unfinished recovery: same uid, higher epoch.
    #[serde(rename_all = "camelCase")]
    Resume {
        /// Which.
        uid: String,
        /// New actor.
        holder: MemberId,
        /// Its name.
        holder_name: String,
        /// The epoch must become higher than this (found on the servers).
        above: Epoch,
    },
    /// The successor may become writable: committed before it does.
    Open {
        /// The claim.
        token: ClaimToken,
        /// Who.
        successor: InstanceKey,
        /// With at least this.
        position: GtidSet,
        /// The plan as chosen again after the freeze.
        plan: Box<Plan>,
        /// Which proof allows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[serde(rename = "receipt")]
        fencing_proof: Option<FencingProof>,
    },
    /// Lines for the record of a recovery.
    Record {
        /// The claim.
        token: ClaimToken,
        /// Lines, numbers are given when applied.
        lines: Vec<StepRecord>,
    },
    /// A recovery is over.
    End {
        /// The claim.
        token: ClaimToken,
        /// How.
        ending: Box<Ending>,
    },
    /// What is known of a quarantined server changed.
    #[serde(rename_all = "camelCase")]
    Judge {
        /// Its key in [`super::State::quarantines`].
        quarantine: String,
        /// Address at which it is back.
        instance: InstanceKey,
        /// Where it stands.
        standing: QuarantineState,
    },
    /// A server leaves quarantine: it is a replica again, or a person let it go.
    Release {
        /// Its key in [`super::State::quarantines`].
        quarantine: String,
        /// Why.
        reason: String,
    },
    /// A person has looked at recoveries.
    Acknowledge {
        /// Which recoveries, by uid.
        uids: Vec<String>,
        /// The word.
        acknowledgement: Acknowledgement,
    },
    /// A list of hooks is about to be run. Answered with the number of the attempt; refused when the list is not due.
    #[serde(rename_all = "camelCase")]
    HooksBegin {
        /// What for.
        subject: HookSubject,
        /// Which.
        list: HookList,
    },
    /// A list of hooks was run to its end, well or not. Nothing when it was not due any more.
    #[serde(rename_all = "camelCase")]
    HooksRan {
        /// What for.
        subject: HookSubject,
        /// How it ended.
        run: HookRun,
        /// Lines for the record of a recovery.
        lines: Vec<StepRecord>,
    },
    /// A document asks for something that is done once. Nothing when it was recorded before.
    Request {
        /// What.
        request: Box<Request>,
    },
    /// A document takes a request back.
    #[serde(rename_all = "camelCase")]
    CancelRequest {
        /// Its key in [`super::State::requests`].
        key: String,
        /// Why, for people.
        why: String,
    },
    /// A pending request is not begun any more.
    #[serde(rename_all = "camelCase")]
    SettleRequest {
        /// Its key in [`super::State::requests`].
        key: String,
        /// How it ended.
        outcome: RequestOutcome,
        /// Why, for people.
        why: String,
    },
    /// A recovery was refused because of a recent one.
    Block {
        /// Which.
        blocked: super::record::Blocked,
    },
}

impl Command {
    /// The first version whose members read this command as it is meant. Older ones would not know the command, or not a value in it, or
    /// would leave a field away: then their state would differ from everybody else's.
    ///
    /// A new command, and a new field or value that changes the state, is of a version above the last released one.
    pub fn since(&self) -> u32 {
        match self {
            Self::Found { .. }
            | Self::AllocateMember { .. }
            | Self::Discover { .. }
            | Self::Forget { .. }
            | Self::SetIntent { .. }
            | Self::EndIntent { .. }
            | Self::WithdrawDocument { .. }
            | Self::SetGlobalRecoveries { .. }
            | Self::Resume { .. }
            | Self::Record { .. }
            | Self::Judge { .. }
            | Self::Release { .. }
            | Self::Acknowledge { .. }
            | Self::Block { .. } => 1,
            // Where a member is.
            Self::Hello { member } => 1 + u32::from(!member.data_center.is_empty()),
            // When the primary's process began, and why a replication group has another one.
            Self::DescribeCluster { process, chosen, .. } => 1 + u32::from(process.is_some() || chosen.is_some()),
            // Whether a primary whose pod is about to go hands over. Services are no reason: who does not know them keeps the rest of the
            // policy, which must not wait for an upgrade, and whoever leads records them again.
            Self::PutDocument { document } => 2 + u32::from(document.on_drain != OnDrain::default()),
            Self::Request { request } => 2 + u32::from(matches!(request.what, RequestKind::Drain { .. })),
            // Plans of more kinds with more steps, more findings and verdicts, more policies of documents, lists of hooks.
            Self::Detect { .. }
            | Self::Claim { .. }
            | Self::Open { .. }
            | Self::End { .. }
            | Self::HooksBegin { .. }
            | Self::HooksRan { .. }
            | Self::CancelRequest { .. }
            | Self::SettleRequest { .. } => 2,
            Self::ForceQuorum { .. } => 3,
        }
    }

    /// Short name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Found { .. } => "found",
            Self::AllocateMember { .. } => "allocate-member",
            Self::Hello { .. } => "hello",
            Self::Discover { .. } => "discover",
            Self::Forget { .. } => "forget",
            Self::DescribeCluster { .. } => "describe-cluster",
            Self::SetIntent { .. } => "set-intent",
            Self::EndIntent { .. } => "end-intent",
            Self::PutDocument { .. } => "put-document",
            Self::WithdrawDocument { .. } => "withdraw-document",
            Self::SetGlobalRecoveries { .. } => "set-global-recoveries",
            Self::ForceQuorum { .. } => "force-quorum",
            Self::Detect { .. } => "detect",
            Self::Claim { .. } => "claim",
            Self::Resume { .. } => "resume",
            Self::Open { .. } => "open",
            Self::Record { .. } => "record",
            Self::End { .. } => "end",
            Self::Judge { .. } => "judge",
            Self::Release { .. } => "release",
            Self::Acknowledge { .. } => "acknowledge",
            Self::HooksBegin { .. } => "hooks-begin",
            Self::HooksRan { .. } => "hooks-ran",
            Self::Request { .. } => "request",
            Self::CancelRequest { .. } => "cancel-request",
            Self::SettleRequest { .. } => "settle-request",
            Self::Block { .. } => "block",
        }
    }
}

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the recovery, minted by the claimant.
    pub uid: String,
    /// Who acts.
    pub holder: MemberId,
    /// Its name.
    pub holder_name: String,
    /// The finding.
    pub finding: Finding,
    /// What the members said.
    pub opinions: Vec<Opinion>,
    /// What is to be done.
    pub plan: Plan,
    /// What was considered.
    pub report: PlanReport,
    /// The epoch must become higher than this (found on the servers).
    pub above: Epoch,
    /// Lists of hooks to be run before anything is touched.
    #[serde(default)]
    pub hooks: Vec<HookList>,
}

/// How a recovery ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// Whether it did what it was for.
    pub successful: bool,
    /// The new primary with its identity, if one was opened.
    pub successor: Option<(InstanceKey, Identity)>,
    /// The failed primary's identity, to be quarantined.
    pub quarantine: Option<(InstanceKey, Identity)>,
    /// Replicas left behind.
    pub lost_replicas: Vec<Refusal>,
    /// What is known to be lost.
    pub lost: Option<GtidSet>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// Last lines of the record.
    pub lines: Vec<StepRecord>,
    /// Lists of hooks to be run now that it is over.
    #[serde(default)]
    pub hooks: Vec<HookList>,
    /// It may have made the old primary read-only, and could not make it writable again: that is still to be done.
    #[serde(default)]
    pub owes_opening: bool,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Applied {
    /// Done, or already so.
    Done,
    /// A number was allocated.
    Number {
        /// It.
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
        /// Which.
        instance: InstanceKey,
        /// In which recovery.
        uid: String,
    },
    /// A recovery of the cluster ended a short while ago.
    #[error("recovery {0} of this cluster is recent and not acknowledged")]
    Recent(String),
    /// Recoveries are switched off.
    #[error("recoveries are globally disabled")]
    Disabled,
    /// The old primary is no longer the cluster's primary.
    #[error("{0} is not the recorded primary of the cluster any more")]
    NotPrimary(InstanceKey),
    /// Nothing of that name.
    #[error("{0} is unknown")]
    Unknown(String),
    /// A higher epoch exists, or another holder, or the recovery is over.
    #[error("the claim on recovery {0} is not current")]
    StaleClaim(String),
    /// An entry that has no place at this point of the recovery.
    #[error("out of order: {0}")]
    OutOfOrder(String),
    /// A list is full.
    #[error("too many: {0}")]
    TooMany(String),
    /// The intent is another origin's.
    #[error("set by {0}; end it there")]
    OwnedBy(Origin),
    /// The command is newer than this program.
    #[error("command version {0} is newer than this program understands")]
    TooNew(u32),
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
