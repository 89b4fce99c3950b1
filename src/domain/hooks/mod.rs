//! Hooks: which lists of commands run when, and what they are told. Running them is an adapter's work.
//!
//! - this file: the lists, and which of them a recovery of each kind calls, before and after;
//! - [`ledger`]: what is still to be run for a recovery or detection and what was, part of the replicated state;
//! - [`occasion`]: the values that a command is told, as placeholders, variables and one JSON document;
//! - [`template`]: a command's text with values in place of placeholders, so that no value is ever read as shell text.
//!
//! Names, placeholders and variables are orchestrator's; the list says so where ours differ.

use serde::{Deserialize, Serialize};

use super::finding::{Code, Finding};
use super::recovery::plan::RecoveryKind;
use super::state::State;
use super::time::WallTime;

pub mod ledger;
pub mod occasion;
pub mod template;

pub use ledger::{HookLedger, HookRun, HookSubject};
pub use occasion::{AutoRecovery, Occasion, Subject};
pub use template::{Rendered, render};

/// One list of commands of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HookList {
    /// When a failure is new, before anything is done about it.
    OnFailureDetection,
    /// Before a takeover that a person asked for.
    PreGracefulTakeover,
    /// Before any recovery.
    PreFailover,
    /// In the middle of a failover, where nothing else proves that the old primary takes no writes.
    Fencing,
    /// After a primary, or a co-primary, was replaced.
    PostMasterFailover,
    /// After an intermediate source was replaced.
    PostIntermediateMasterFailover,
    /// After any recovery that did what it was for.
    PostFailover,
    /// After a recovery that did not.
    PostUnsuccessfulFailover,
    /// After a takeover that a person asked for.
    PostGracefulTakeover,
}

impl HookList {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::OnFailureDetection,
        Self::PreGracefulTakeover,
        Self::PreFailover,
        Self::Fencing,
        Self::PostMasterFailover,
        Self::PostIntermediateMasterFailover,
        Self::PostFailover,
        Self::PostUnsuccessfulFailover,
        Self::PostGracefulTakeover,
    ];

    /// The configuration key that holds its commands.
    pub fn key(self) -> &'static str {
        match self {
            Self::OnFailureDetection => "OnFailureDetectionProcesses",
            Self::PreGracefulTakeover => "PreGracefulTakeoverProcesses",
            Self::PreFailover => "PreFailoverProcesses",
            Self::Fencing => "FencingProcesses",
            Self::PostMasterFailover => "PostMasterFailoverProcesses",
            Self::PostIntermediateMasterFailover => "PostIntermediateMasterFailoverProcesses",
            Self::PostFailover => "PostFailoverProcesses",
            Self::PostUnsuccessfulFailover => "PostUnsuccessfulFailoverProcesses",
            Self::PostGracefulTakeover => "PostGracefulTakeoverProcesses",
        }
    }

    /// Whether a command of it that fails, or takes too long, stops the recovery: the user's veto. The others are told what happened,
    /// and their failure changes nothing.
    pub fn may_veto(self) -> bool {
        match self {
            Self::OnFailureDetection | Self::PreGracefulTakeover | Self::PreFailover | Self::Fencing => true,
            Self::PostMasterFailover
            | Self::PostIntermediateMasterFailover
            | Self::PostFailover
            | Self::PostUnsuccessfulFailover
            | Self::PostGracefulTakeover => false,
        }
    }
}

impl std::fmt::Display for HookList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
    }
}

/// What a recovery of one kind calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindLists {
    /// Before anything is touched, in this order. Each may veto.
    pub before: &'static [HookList],
    /// After it did what it was for, in this order.
    pub succeeded: &'static [HookList],
    /// After it did not. A vetoed recovery calls nothing more, as in orchestrator.
    pub failed: &'static [HookList],
    /// It repairs a failure: when that is over by the time that the commands before it have ended, there is nothing left to repair.
    pub repairs: bool,
    /// `{command}`: how orchestrator tells a person's recovery from one that began by itself.
    pub command: &'static str,
}

/// The lists of each kind of recovery. A new kind must find its place here.
pub fn lists_of(kind: RecoveryKind) -> KindLists {
    match kind {
        RecoveryKind::DeadPrimary | RecoveryKind::DeadPrimaryByPosition | RecoveryKind::CoPrimary => KindLists {
            before: &[HookList::PreFailover],
            succeeded: &[HookList::PostMasterFailover, HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember => KindLists {
            before: &[HookList::PreFailover],
            succeeded: &[HookList::PostIntermediateMasterFailover, HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        // The primary stays who it is: nothing was failed over.
        RecoveryKind::NonWritablePrimary => KindLists {
            before: &[HookList::PreFailover],
            succeeded: &[HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        // Commits wait meanwhile: no command is asked before, as in orchestrator.
        RecoveryKind::SemiSync => KindLists {
            before: &[],
            succeeded: &[HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        // A planned change calls those of a failover as well, as in orchestrator; its command tells the two apart.
        RecoveryKind::Takeover => KindLists {
            before: &[HookList::PreGracefulTakeover, HookList::PreFailover],
            succeeded: &[
                HookList::PostMasterFailover,
                HookList::PostFailover,
                HookList::PostGracefulTakeover,
            ],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: false,
            command: "graceful-master-takeover",
        },
        // Orchestrator never attaches an old primary by itself, and calls nothing when a replica is moved: its scripts expect no call.
        RecoveryKind::Rejoin
        | RecoveryKind::ResolveErrant
        | RecoveryKind::MatchBelow
        | RecoveryKind::BootReadOnly
        | RecoveryKind::ReopenPrimary
        | RecoveryKind::Durability => KindLists {
            before: &[],
            succeeded: &[],
            failed: &[],
            repairs: false,
            command: "",
        },
    }
}

/// What a recovery calls once it is over.
pub fn lists_after(kind: RecoveryKind, ledger: &HookLedger, successful: bool) -> &'static [HookList] {
    let lists = lists_of(kind);
    match (ledger.veto(), successful) {
        (Some(_), _) => &[],
        (None, true) => lists.succeeded,
        (None, false) => lists.failed,
    }
}

/// What is called when a replication group has chosen another primary: scripts that follow a failover have the same to do. Nothing is
/// asked before, for nobody could be stopped. Orchestrator calls nothing (its issue 1239).
pub const AFTER_GROUP_CHOICE: &[HookList] = &[HookList::PostMasterFailover, HookList::PostFailover];

/// Whether a finding of this code is told to `OnFailureDetectionProcesses`: failures of servers that others replicate from, and what
/// keeps such a one from being repaired. Advice about settings is not, nor is a single replica's trouble. Orchestrator leaves out
/// `DeadMasterWithoutReplicas`, dead intermediate sources with one replica, and unreachable intermediate and co-primaries: a failure
/// that nobody heard of.
pub fn is_told(code: Code) -> bool {
    match code {
        Code::DeadMasterWithoutReplicas
        | Code::DeadMaster
        | Code::DeadMasterAndReplicas
        | Code::DeadMasterAndSomeReplicas
        | Code::SuccessorLost
        | Code::UnreachableMasterWithLaggingReplicas
        | Code::UnreachableMaster
        | Code::StalledPrimary
        | Code::SaturatedPrimary
        | Code::SplitPrimary
        | Code::LockedSemiSyncMaster
        | Code::MasterWithTooManySemiSyncReplicas
        | Code::NoWriteableMasterStructureWarning
        | Code::AllMasterReplicasNotReplicating
        | Code::AllMasterReplicasNotReplicatingOrDead
        | Code::DeadCoMaster
        | Code::DeadCoMasterAndSomeReplicas
        | Code::UnreachableCoMaster
        | Code::AllCoMasterReplicasNotReplicating
        | Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect
        | Code::DeadIntermediateMasterWithSingleReplica
        | Code::DeadIntermediateMaster
        | Code::DeadIntermediateMasterAndSomeReplicas
        | Code::DeadIntermediateMasterAndReplicas
        | Code::UnreachableIntermediateMasterWithLaggingReplicas
        | Code::UnreachableIntermediateMaster
        | Code::AllIntermediateMasterReplicasFailingToConnectOrDead
        | Code::AllIntermediateMasterReplicasNotReplicating
        | Code::DeadReplicationGroupMemberWithReplicas => true,
        Code::AnotherController
        | Code::DuplicateIdentity
        | Code::LockedSemiSyncMasterHypothesis
        | Code::MasterSingleReplicaNotReplicating
        | Code::MasterSingleReplicaDead
        | Code::BinlogServerFailingToConnectToMaster
        | Code::FirstTierReplicaFailingToConnectToMaster
        | Code::QuarantinedPrimaryReturned
        | Code::LostReplicaReturned
        | Code::ErrantTransactions
        | Code::MissingReplicationCredentials
        | Code::MissingPrivileges
        | Code::FenceIneffective
        | Code::BootsWritable
        | Code::UnsafeSettings
        | Code::DurabilityNotKept
        | Code::QuorumInOneDataCenter
        | Code::GroupPrimaryChanged
        | Code::NoProblem => false,
    }
}

/// Whether a finding is to be told to `OnFailureDetectionProcesses` now: its code is one that is told, and the same instance was not
/// told of within the last `block_millis`, once as something that is repaired and once as something that is not. Who stopped the
/// recovery that followed is asked again.
pub fn is_news(state: &State, finding: &Finding, block_millis: u64, now: WallTime) -> bool {
    let block = i64::try_from(block_millis).unwrap_or(i64::MAX);
    let list = HookList::OnFailureDetection;
    let refused = |ledger: &HookLedger| ledger.runs.iter().any(|run| run.list == list && run.failure.is_some());
    is_told(finding.code)
        && !state.detections.values().any(|detection| {
            detection.finding.instance == finding.instance
                && detection.finding.code.is_actionable() == finding.code.is_actionable()
                && now < detection.at.plus_millis(block)
                && (detection.hooks.concerns(list)
                    || detection
                        .recovery
                        .as_ref()
                        .and_then(|uid| state.recoveries.get(uid))
                        .is_some_and(|recovery| recovery.hooks.concerns(list) && !refused(&recovery.hooks)))
        })
}

#[cfg(test)]
mod tests;
