//! Hooks: which lists of commands run when, and which values they get. An adapter runs them.
//!
//! - this file: the lists, and the lists that a recovery of each kind runs before and after;
//! - [`progress`]: which lists of a recovery or detection are pending and which ran, part of the replicated state;
//! - [`invocation`]: the values for a command as placeholders, variables and one JSON document;
//! - [`template`]: the text of a command with values in place of placeholders, so that a shell never interprets a
//!   value.
//!
//! Names, placeholders and variables are orchestrator's; the list marks those that are not.

use serde::{Deserialize, Serialize};

use super::finding::{Code, Finding};
use super::state::State;
use super::time::WallTime;
use crate::domain::recovery::kind::RecoveryKind;

pub mod invocation;
pub mod progress;
pub mod template;

pub use invocation::{AutoRecovery, HookInvocation, SubjectRecord};
pub use progress::{HookProgress, HookRun, HookSubject};
pub use template::{Rendered, render};

/// A configured list of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HookList {
    /// After the detection of a new failure, beside the recovery that may follow.
    OnFailureDetection,
    /// Before a takeover that an operator requested.
    PreGracefulTakeover,
    /// Before any recovery.
    PreFailover,
    /// In the middle of a failover, where nothing else proves that the old primary takes no writes.
    Fencing,
    /// After a primary or a co-primary was replaced.
    PostMasterFailover,
    /// After an intermediate primary was replaced.
    PostIntermediateMasterFailover,
    /// After any successful recovery.
    PostFailover,
    /// After any failed recovery.
    PostUnsuccessfulFailover,
    /// After a takeover that an operator requested.
    PostGracefulTakeover,
}

impl HookList {
    /// All lists.
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

    /// The configuration key of the list.
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

    /// Whether a failing or timed-out command of the list aborts the recovery: a veto. The failure of other lists is
    /// only reported.
    pub fn may_veto(self) -> bool {
        match self {
            Self::PreGracefulTakeover | Self::PreFailover | Self::Fencing => true,
            Self::OnFailureDetection
            | Self::PostMasterFailover
            | Self::PostIntermediateMasterFailover
            | Self::PostFailover
            | Self::PostUnsuccessfulFailover
            | Self::PostGracefulTakeover => false,
        }
    }

    /// Whether a failure of the list is an error of its recovery: the list runs when the recovery has ended.
    pub fn follows_recovery(self) -> bool {
        match self {
            Self::OnFailureDetection | Self::PreGracefulTakeover | Self::PreFailover | Self::Fencing => false,
            Self::PostMasterFailover
            | Self::PostIntermediateMasterFailover
            | Self::PostFailover
            | Self::PostUnsuccessfulFailover
            | Self::PostGracefulTakeover => true,
        }
    }
}

impl std::fmt::Display for HookList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
    }
}

/// The lists that a recovery of one kind runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindLists {
    /// Before anything is changed, in this order. Each may veto.
    pub before: &'static [HookList],
    /// After a successful recovery, in this order.
    pub succeeded: &'static [HookList],
    /// After a failed recovery. A vetoed recovery runs no further lists, as in orchestrator.
    pub failed: &'static [HookList],
    /// Whether the recovery repairs a failure: when the failure has ended by the time the lists before it have run,
    /// there is nothing left to repair.
    pub repairs: bool,
    /// `{command}`: by this value orchestrator distinguishes a recovery that an operator requested from an automatic
    /// one.
    pub command: &'static str,
}

/// The lists of each kind of recovery.
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
        // The primary stays the same: there was no failover.
        RecoveryKind::NonWritablePrimary => KindLists {
            before: &[HookList::PreFailover],
            succeeded: &[HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        // Commits are blocked meanwhile, so no list runs before, as in orchestrator.
        RecoveryKind::SemiSync => KindLists {
            before: &[],
            succeeded: &[HookList::PostFailover],
            failed: &[HookList::PostUnsuccessfulFailover],
            repairs: true,
            command: "",
        },
        // A planned takeover also runs the lists of a failover, as in orchestrator; the command distinguishes the two.
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
        // Orchestrator never attaches an old primary automatically, and runs no hooks when a replica is moved: its
        // scripts expect no call.
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

/// The lists that run after a recovery.
pub fn lists_after(kind: RecoveryKind, progress: &HookProgress, successful: bool) -> &'static [HookList] {
    let lists = lists_of(kind);
    match (progress.veto(), successful) {
        (Some(_), _) => &[],
        (None, true) => lists.succeeded,
        (None, false) => lists.failed,
    }
}

/// The lists that run when a replication group has chosen another primary: scripts for a failover have the same work to
/// do. No list runs before, because nothing could be vetoed. Orchestrator runs no hooks then (its issue 1239).
pub const AFTER_GROUP_CHOICE: &[HookList] = &[HookList::PostMasterFailover, HookList::PostFailover];

/// Whether a finding of this code runs `OnFailureDetectionProcesses`: failures of servers that have replicas, and
/// problems that prevent the repair of such a failure. Advice about settings and problems of a single replica do not.
/// Orchestrator leaves out `DeadMasterWithoutReplicas`, dead intermediate primaries with one replica, and unreachable
/// intermediate and co-primaries, so these failures stay unnoticed there.
pub fn runs_hooks_on_detection(code: Code) -> bool {
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
        | Code::UndiscoveredServers
        | Code::UnverifiedServers
        | Code::GroupPrimaryChanged
        | Code::NoProblem => false,
    }
}

/// Whether a finding runs `OnFailureDetectionProcesses` now: its code does so, and the list did not run for the same
/// instance within the last `block_millis`. Repairable and other codes count separately.
pub fn is_detection_hook_due(state: &State, finding: &Finding, block_millis: u64, now: WallTime) -> bool {
    let block = i64::try_from(block_millis).unwrap_or(i64::MAX);
    let list = HookList::OnFailureDetection;
    runs_hooks_on_detection(finding.code)
        && !state.detections.values().any(|detection| {
            detection.finding.instance == finding.instance
                && detection.finding.code.is_actionable() == finding.code.is_actionable()
                && now < detection.at.plus_millis(block)
                && (detection.hooks.contains(list)
                    || detection
                        .recovery
                        .as_ref()
                        .and_then(|uid| state.recoveries.get(uid))
                        .is_some_and(|recovery| recovery.hooks.contains(list)))
        })
}

#[cfg(test)]
mod tests;
