//! The kinds of recoveries, which finding calls for which, and what holds for a kind whatever the cluster.

use serde::{Deserialize, Serialize};

use crate::domain::finding::Code;

/// What a recovery does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecoveryKind {
    /// A dead primary is replaced, by GTID.
    DeadPrimary,
    /// A dead primary is replaced, by file and position.
    DeadPrimaryByPosition,
    /// A dead primary that replicated from another server, as that one did from it, is replaced, by GTID.
    CoPrimary,
    /// A returned primary becomes a replica.
    Rejoin,
    /// The replicas of a dead intermediate primary get another source.
    IntermediatePrimary,
    /// The replicas of a dead member of a replication group get another member as source.
    GroupMember,
    /// Errant transactions are resolved, on a manual request.
    ResolveErrant,
    /// A living primary is replaced by a replica, and follows it.
    Takeover,
    /// A semi-sync primary gets as many acknowledging replicas as it waits for, and where configured no more.
    SemiSync,
    /// A primary that is read-only is made writable.
    NonWritablePrimary,
    /// A replica is moved below another server by Pseudo-GTID, on a manual request.
    MatchBelow,
    /// Servers that would start writable are set to start read-only, or a writable replica is made read-only.
    BootReadOnly,
    /// The primary has started read-only, and is made writable again.
    ReopenPrimary,
    /// Semi-sync of the primary and its replicas is set as the durability policy asks.
    Durability,
}

/// Which recovery each actionable finding calls for.
const CALLS_FOR: &[(Code, RecoveryKind)] = &[
    (Code::DeadMaster, RecoveryKind::DeadPrimary),
    (Code::DeadMasterAndSomeReplicas, RecoveryKind::DeadPrimary),
    (Code::SuccessorLost, RecoveryKind::DeadPrimary),
    (Code::DeadCoMaster, RecoveryKind::CoPrimary),
    (Code::DeadCoMasterAndSomeReplicas, RecoveryKind::CoPrimary),
    (Code::DeadIntermediateMaster, RecoveryKind::IntermediatePrimary),
    (
        Code::DeadIntermediateMasterAndSomeReplicas,
        RecoveryKind::IntermediatePrimary,
    ),
    (
        Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect,
        RecoveryKind::IntermediatePrimary,
    ),
    (
        Code::AllIntermediateMasterReplicasFailingToConnectOrDead,
        RecoveryKind::IntermediatePrimary,
    ),
    (Code::DeadReplicationGroupMemberWithReplicas, RecoveryKind::GroupMember),
    (Code::LockedSemiSyncMaster, RecoveryKind::SemiSync),
    (Code::MasterWithTooManySemiSyncReplicas, RecoveryKind::SemiSync),
    (
        Code::NoWriteableMasterStructureWarning,
        RecoveryKind::NonWritablePrimary,
    ),
];

impl RecoveryKind {
    /// The recovery that a finding calls for; `None` when there is none.
    pub fn for_code(code: Code) -> Option<Self> {
        CALLS_FOR
            .iter()
            .find(|(called, _)| *called == code)
            .map(|(_, kind)| *kind)
    }

    /// The repair that a policy, and not the finding itself, calls for where this finding is; `None` when there is none.
    pub fn of_policy(code: Code) -> Option<Self> {
        const POLICY_REPAIRS: [(Code, RecoveryKind); 4] = [
            (Code::QuarantinedPrimaryReturned, RecoveryKind::Rejoin),
            (Code::LostReplicaReturned, RecoveryKind::Rejoin),
            (Code::DurabilityNotKept, RecoveryKind::Durability),
            (Code::BootsWritable, RecoveryKind::BootReadOnly),
        ];
        let mut repairs = POLICY_REPAIRS.iter();
        repairs.find(|(found, _)| *found == code).map(|(_, kind)| *kind)
    }

    /// Whether it makes a server writable, and so commits an Open entry.
    pub fn opens_a_server(self) -> bool {
        match self {
            Self::DeadPrimary
            | Self::DeadPrimaryByPosition
            | Self::CoPrimary
            | Self::Takeover
            | Self::ReopenPrimary => true,
            Self::Rejoin
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::ResolveErrant
            | Self::SemiSync
            | Self::NonWritablePrimary
            | Self::MatchBelow
            | Self::BootReadOnly
            | Self::Durability => false,
        }
    }

    /// Whether it ends with another server as the cluster's primary. Only such a recovery changes the recorded
    /// primary and leaves the old primary in quarantine.
    pub fn replaces_primary(self) -> bool {
        match self {
            Self::DeadPrimary | Self::DeadPrimaryByPosition | Self::CoPrimary | Self::Takeover => true,
            Self::Rejoin
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::SemiSync
            | Self::NonWritablePrimary
            | Self::ResolveErrant
            | Self::MatchBelow
            | Self::BootReadOnly
            | Self::ReopenPrimary
            | Self::Durability => false,
        }
    }

    /// Whether its plan is about one server that keeps its role, which is named both as old primary and as successor.
    pub fn keeps_its_server(self) -> bool {
        match self {
            Self::SemiSync | Self::NonWritablePrimary | Self::BootReadOnly | Self::ReopenPrimary | Self::Durability => {
                true
            }
            Self::DeadPrimary
            | Self::DeadPrimaryByPosition
            | Self::CoPrimary
            | Self::Rejoin
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::ResolveErrant
            | Self::Takeover
            | Self::MatchBelow => false,
        }
    }

    /// Whether one that succeeded keeps the same repair of the same instance from being made again for the whole
    /// block period: where a repetition would be a sign that something works against it.
    pub fn blocks_its_repetition(self) -> bool {
        match self {
            Self::DeadPrimary
            | Self::DeadPrimaryByPosition
            | Self::CoPrimary
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::NonWritablePrimary => true,
            Self::Rejoin
            | Self::ResolveErrant
            | Self::Takeover
            | Self::SemiSync
            | Self::MatchBelow
            | Self::BootReadOnly
            | Self::ReopenPrimary
            | Self::Durability => false,
        }
    }

    /// Whether it gives way: a claim of a recovery that replaces the primary ends it, instead of waiting for it. What
    /// it did stays done: each of its steps is complete in itself, and the other recovery reads the state of the
    /// servers again.
    pub fn gives_way(self) -> bool {
        !self.replaces_primary()
    }
}
