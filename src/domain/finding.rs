//! One analysis result: a code, the instance that it is about, and the evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::commit_stall::CommitStall;
use super::gtid::GtidSet;
use super::instance::{Observation, ProbeFailure};
use super::key::InstanceKey;
use super::time::WallTime;
use super::topology::ClusterId;

/// Analysis codes, with orchestrator's names where orchestrator has the finding. The order of declaration is the order
/// of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Code {
    /// The primary is unreachable and has no replicas.
    DeadMasterWithoutReplicas,
    /// The primary is unreachable. All replicas answer and none of them receives.
    DeadMaster,
    /// The primary is unreachable and no replica answers.
    DeadMasterAndReplicas,
    /// The primary is unreachable. Some replicas answer and none of them receives.
    DeadMasterAndSomeReplicas,
    /// The server that a recovery or takeover opened failed before the cluster followed it (own code).
    SuccessorLost,
    /// The primary is unreachable. Replicas receive and all of them lag.
    UnreachableMasterWithLaggingReplicas,
    /// The primary is unreachable for this member, and a replica still receives.
    UnreachableMaster,
    /// The primary accepts connections and does not answer, or it answers and commits nothing (own code).
    StalledPrimary,
    /// The primary refuses connections with "too many connections" (own code).
    SaturatedPrimary,
    /// Two writable primaries in one cluster (own code).
    SplitPrimary,
    /// Another program than this group controls the cluster (own code).
    AnotherController,
    /// One server identity is seen live at two addresses at the same time (own code).
    DuplicateIdentity,
    /// The primary waits for more semi-sync replicas than are connected, and its binary log has not moved for a while.
    LockedSemiSyncMaster,
    /// The primary waits for more semi-sync replicas than are connected.
    LockedSemiSyncMasterHypothesis,
    /// More semi-sync replicas are connected than the primary waits for, and the configuration demands the exact
    /// number.
    MasterWithTooManySemiSyncReplicas,
    /// The primary is reachable and read-only although its replicas replicate.
    NoWriteableMasterStructureWarning,
    /// The only replica of a reachable primary does not replicate.
    MasterSingleReplicaNotReplicating,
    /// The only replica of a reachable primary is unreachable.
    MasterSingleReplicaDead,
    /// The primary is reachable. All replicas answer and none replicates.
    AllMasterReplicasNotReplicating,
    /// The primary is reachable. No replica replicates and some are unreachable.
    AllMasterReplicasNotReplicatingOrDead,
    /// A co-primary is unreachable. All its replicas answer and none receives.
    DeadCoMaster,
    /// A co-primary is unreachable. Some replicas answer and none of these receives.
    DeadCoMasterAndSomeReplicas,
    /// A co-primary is unreachable for this member, and a replica still receives.
    UnreachableCoMaster,
    /// A co-primary is reachable, and none of its replicas replicates.
    AllCoMasterReplicasNotReplicating,
    /// An intermediate primary is unreachable, and its only replica cannot connect to it.
    DeadIntermediateMasterWithSingleReplicaFailingToConnect,
    /// An intermediate primary is unreachable, and its only replica does not receive.
    DeadIntermediateMasterWithSingleReplica,
    /// An intermediate primary is unreachable. All its replicas answer and none receives.
    DeadIntermediateMaster,
    /// An intermediate primary is unreachable. Some replicas answer and none of these receives.
    DeadIntermediateMasterAndSomeReplicas,
    /// An intermediate primary is unreachable, and none of its replicas answers.
    DeadIntermediateMasterAndReplicas,
    /// An intermediate primary is unreachable. Its replicas receive and all of them lag.
    UnreachableIntermediateMasterWithLaggingReplicas,
    /// An intermediate primary is unreachable for this member, and a replica still receives.
    UnreachableIntermediateMaster,
    /// An intermediate primary is reachable for this member, and no answering replica can connect to it.
    AllIntermediateMasterReplicasFailingToConnectOrDead,
    /// An intermediate primary is reachable, and none of its replicas replicates.
    AllIntermediateMasterReplicasNotReplicating,
    /// A member of a replication group is unreachable, and none of its replicas receives.
    DeadReplicationGroupMemberWithReplicas,
    /// A binlog server cannot connect to its source.
    BinlogServerFailingToConnectToMaster,
    /// A direct replica of the primary cannot connect to it.
    FirstTierReplicaFailingToConnectToMaster,
    /// A quarantined primary answers again (own code).
    QuarantinedPrimaryReturned,
    /// A replica that a recovery left behind answers again and can be attached (own code).
    LostReplicaReturned,
    /// A server has transactions that the primary lacks, and an operator requested their resolution (own code).
    ErrantTransactions,
    /// A server cannot be attached to another source because no replication account is known (own code).
    MissingReplicationCredentials,
    /// A privilege is missing that a recovery would need (own code).
    MissingPrivileges,
    /// Accounts can write although the server is read-only (own code).
    FenceIneffective,
    /// The server is writable right after a start (own code).
    BootsWritable,
    /// Settings with which a crash loses data or a failure is detected late (own code).
    UnsafeSettings,
    /// The semi-sync settings do not match the durability policy of the cluster (own code).
    DurabilityNotKept,
    /// A majority of the members is in one data center (own code).
    QuorumInOneDataCenter,
    /// The server names addresses that are not dialled (own code).
    UndiscoveredServers,
    /// Servers are connected without TLS, or with TLS that is not verified (own code).
    UnverifiedServers,
    /// A replication group chose another of its members as its primary (own code). Reported once when it happens, not
    /// as a lasting state.
    GroupPrimaryChanged,
    /// The instance has structure warnings only.
    NoProblem,
}

impl Code {
    /// The name of the code in the API, in hooks and in the backend's tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadMasterWithoutReplicas => "DeadMasterWithoutReplicas",
            Self::DeadMaster => "DeadMaster",
            Self::DeadMasterAndReplicas => "DeadMasterAndReplicas",
            Self::DeadMasterAndSomeReplicas => "DeadMasterAndSomeReplicas",
            Self::SuccessorLost => "SuccessorLost",
            Self::UnreachableMasterWithLaggingReplicas => "UnreachableMasterWithLaggingReplicas",
            Self::UnreachableMaster => "UnreachableMaster",
            Self::StalledPrimary => "StalledPrimary",
            Self::SaturatedPrimary => "SaturatedPrimary",
            Self::SplitPrimary => "SplitPrimary",
            Self::AnotherController => "AnotherController",
            Self::DuplicateIdentity => "DuplicateIdentity",
            Self::LockedSemiSyncMaster => "LockedSemiSyncMaster",
            Self::LockedSemiSyncMasterHypothesis => "LockedSemiSyncMasterHypothesis",
            Self::MasterWithTooManySemiSyncReplicas => "MasterWithTooManySemiSyncReplicas",
            Self::NoWriteableMasterStructureWarning => "NoWriteableMasterStructureWarning",
            Self::MasterSingleReplicaNotReplicating => "MasterSingleReplicaNotReplicating",
            Self::MasterSingleReplicaDead => "MasterSingleReplicaDead",
            Self::AllMasterReplicasNotReplicating => "AllMasterReplicasNotReplicating",
            Self::AllMasterReplicasNotReplicatingOrDead => "AllMasterReplicasNotReplicatingOrDead",
            Self::DeadCoMaster => "DeadCoMaster",
            Self::DeadCoMasterAndSomeReplicas => "DeadCoMasterAndSomeReplicas",
            Self::UnreachableCoMaster => "UnreachableCoMaster",
            Self::AllCoMasterReplicasNotReplicating => "AllCoMasterReplicasNotReplicating",
            Self::DeadIntermediateMasterWithSingleReplicaFailingToConnect => {
                "DeadIntermediateMasterWithSingleReplicaFailingToConnect"
            }
            Self::DeadIntermediateMasterWithSingleReplica => "DeadIntermediateMasterWithSingleReplica",
            Self::DeadIntermediateMaster => "DeadIntermediateMaster",
            Self::DeadIntermediateMasterAndSomeReplicas => "DeadIntermediateMasterAndSomeReplicas",
            Self::DeadIntermediateMasterAndReplicas => "DeadIntermediateMasterAndReplicas",
            Self::UnreachableIntermediateMasterWithLaggingReplicas => {
                "UnreachableIntermediateMasterWithLaggingReplicas"
            }
            Self::UnreachableIntermediateMaster => "UnreachableIntermediateMaster",
            Self::AllIntermediateMasterReplicasFailingToConnectOrDead => {
                "AllIntermediateMasterReplicasFailingToConnectOrDead"
            }
            Self::AllIntermediateMasterReplicasNotReplicating => "AllIntermediateMasterReplicasNotReplicating",
            Self::DeadReplicationGroupMemberWithReplicas => "DeadReplicationGroupMemberWithReplicas",
            Self::BinlogServerFailingToConnectToMaster => "BinlogServerFailingToConnectToMaster",
            Self::FirstTierReplicaFailingToConnectToMaster => "FirstTierReplicaFailingToConnectToMaster",
            Self::QuarantinedPrimaryReturned => "QuarantinedPrimaryReturned",
            Self::LostReplicaReturned => "LostReplicaReturned",
            Self::ErrantTransactions => "ErrantTransactions",
            Self::MissingReplicationCredentials => "MissingReplicationCredentials",
            Self::MissingPrivileges => "MissingPrivileges",
            Self::FenceIneffective => "FenceIneffective",
            Self::BootsWritable => "BootsWritable",
            Self::UnsafeSettings => "UnsafeSettings",
            Self::DurabilityNotKept => "DurabilityNotKept",
            Self::QuorumInOneDataCenter => "QuorumInOneDataCenter",
            Self::UndiscoveredServers => "UndiscoveredServers",
            Self::UnverifiedServers => "UnverifiedServers",
            Self::GroupPrimaryChanged => "GroupPrimaryChanged",
            Self::NoProblem => "NoProblem",
        }
    }

    /// Whether the finding is about the replicas: when all replicas of the instance are in downtime, the finding counts
    /// as downtimed, as in orchestrator.
    pub fn is_about_replicas(self) -> bool {
        match self {
            Self::MasterSingleReplicaDead
            | Self::AllMasterReplicasNotReplicating
            | Self::AllMasterReplicasNotReplicatingOrDead
            | Self::AllCoMasterReplicasNotReplicating
            | Self::DeadIntermediateMasterWithSingleReplicaFailingToConnect
            | Self::DeadIntermediateMasterWithSingleReplica
            | Self::DeadIntermediateMasterAndSomeReplicas
            | Self::DeadIntermediateMasterAndReplicas
            | Self::AllIntermediateMasterReplicasFailingToConnectOrDead
            | Self::AllIntermediateMasterReplicasNotReplicating => true,
            Self::DeadMasterWithoutReplicas
            | Self::DeadMaster
            | Self::DeadMasterAndReplicas
            | Self::DeadMasterAndSomeReplicas
            | Self::SuccessorLost
            | Self::UnreachableMasterWithLaggingReplicas
            | Self::UnreachableMaster
            | Self::StalledPrimary
            | Self::SaturatedPrimary
            | Self::SplitPrimary
            | Self::AnotherController
            | Self::DuplicateIdentity
            | Self::LockedSemiSyncMaster
            | Self::LockedSemiSyncMasterHypothesis
            | Self::MasterWithTooManySemiSyncReplicas
            | Self::NoWriteableMasterStructureWarning
            | Self::MasterSingleReplicaNotReplicating
            | Self::DeadCoMaster
            | Self::DeadCoMasterAndSomeReplicas
            | Self::UnreachableCoMaster
            | Self::DeadIntermediateMaster
            | Self::UnreachableIntermediateMasterWithLaggingReplicas
            | Self::UnreachableIntermediateMaster
            | Self::DeadReplicationGroupMemberWithReplicas
            | Self::BinlogServerFailingToConnectToMaster
            | Self::FirstTierReplicaFailingToConnectToMaster
            | Self::QuarantinedPrimaryReturned
            | Self::LostReplicaReturned
            | Self::ErrantTransactions
            | Self::MissingReplicationCredentials
            | Self::MissingPrivileges
            | Self::FenceIneffective
            | Self::BootsWritable
            | Self::UnsafeSettings
            | Self::DurabilityNotKept
            | Self::QuorumInOneDataCenter
            | Self::UndiscoveredServers
            | Self::UnverifiedServers
            | Self::GroupPrimaryChanged
            | Self::NoProblem => false,
        }
    }

    /// Whether the finding or its text can change by the passage of time alone.
    pub fn changes_with_time(self) -> bool {
        match self {
            Self::StalledPrimary | Self::LockedSemiSyncMasterHypothesis | Self::QuarantinedPrimaryReturned => true,
            Self::DeadMasterWithoutReplicas
            | Self::DeadMaster
            | Self::DeadMasterAndReplicas
            | Self::DeadMasterAndSomeReplicas
            | Self::SuccessorLost
            | Self::UnreachableMasterWithLaggingReplicas
            | Self::UnreachableMaster
            | Self::SaturatedPrimary
            | Self::SplitPrimary
            | Self::AnotherController
            | Self::DuplicateIdentity
            | Self::LockedSemiSyncMaster
            | Self::MasterWithTooManySemiSyncReplicas
            | Self::NoWriteableMasterStructureWarning
            | Self::MasterSingleReplicaNotReplicating
            | Self::MasterSingleReplicaDead
            | Self::AllMasterReplicasNotReplicating
            | Self::AllMasterReplicasNotReplicatingOrDead
            | Self::DeadCoMaster
            | Self::DeadCoMasterAndSomeReplicas
            | Self::UnreachableCoMaster
            | Self::AllCoMasterReplicasNotReplicating
            | Self::DeadIntermediateMasterWithSingleReplicaFailingToConnect
            | Self::DeadIntermediateMasterWithSingleReplica
            | Self::DeadIntermediateMaster
            | Self::DeadIntermediateMasterAndSomeReplicas
            | Self::DeadIntermediateMasterAndReplicas
            | Self::UnreachableIntermediateMasterWithLaggingReplicas
            | Self::UnreachableIntermediateMaster
            | Self::AllIntermediateMasterReplicasFailingToConnectOrDead
            | Self::AllIntermediateMasterReplicasNotReplicating
            | Self::DeadReplicationGroupMemberWithReplicas
            | Self::BinlogServerFailingToConnectToMaster
            | Self::FirstTierReplicaFailingToConnectToMaster
            | Self::LostReplicaReturned
            | Self::ErrantTransactions
            | Self::MissingReplicationCredentials
            | Self::MissingPrivileges
            | Self::FenceIneffective
            | Self::BootsWritable
            | Self::UnsafeSettings
            | Self::DurabilityNotKept
            | Self::QuorumInOneDataCenter
            | Self::UndiscoveredServers
            | Self::UnverifiedServers
            | Self::GroupPrimaryChanged
            | Self::NoProblem => false,
        }
    }

    /// Whether a recovery exists for this code.
    pub fn is_actionable(self) -> bool {
        super::recovery::kind::RecoveryKind::for_code(self).is_some()
    }
}

impl Code {
    /// Whether the code is advice about something to improve before a failure. Advice is shown and logged once. It
    /// never becomes a detection.
    pub fn is_advice(self) -> bool {
        match self {
            Self::MissingReplicationCredentials
            | Self::MissingPrivileges
            | Self::FenceIneffective
            | Self::BootsWritable
            | Self::UnsafeSettings
            | Self::DurabilityNotKept
            | Self::QuorumInOneDataCenter
            | Self::UndiscoveredServers
            | Self::UnverifiedServers => true,
            Self::DeadMasterWithoutReplicas
            | Self::DeadMaster
            | Self::DeadMasterAndReplicas
            | Self::DeadMasterAndSomeReplicas
            | Self::SuccessorLost
            | Self::UnreachableMasterWithLaggingReplicas
            | Self::UnreachableMaster
            | Self::StalledPrimary
            | Self::SaturatedPrimary
            | Self::SplitPrimary
            | Self::AnotherController
            | Self::DuplicateIdentity
            | Self::LockedSemiSyncMaster
            | Self::LockedSemiSyncMasterHypothesis
            | Self::MasterWithTooManySemiSyncReplicas
            | Self::NoWriteableMasterStructureWarning
            | Self::MasterSingleReplicaNotReplicating
            | Self::MasterSingleReplicaDead
            | Self::AllMasterReplicasNotReplicating
            | Self::AllMasterReplicasNotReplicatingOrDead
            | Self::DeadCoMaster
            | Self::DeadCoMasterAndSomeReplicas
            | Self::UnreachableCoMaster
            | Self::AllCoMasterReplicasNotReplicating
            | Self::DeadIntermediateMasterWithSingleReplicaFailingToConnect
            | Self::DeadIntermediateMasterWithSingleReplica
            | Self::DeadIntermediateMaster
            | Self::DeadIntermediateMasterAndSomeReplicas
            | Self::DeadIntermediateMasterAndReplicas
            | Self::UnreachableIntermediateMasterWithLaggingReplicas
            | Self::UnreachableIntermediateMaster
            | Self::AllIntermediateMasterReplicasFailingToConnectOrDead
            | Self::AllIntermediateMasterReplicasNotReplicating
            | Self::DeadReplicationGroupMemberWithReplicas
            | Self::BinlogServerFailingToConnectToMaster
            | Self::FirstTierReplicaFailingToConnectToMaster
            | Self::QuarantinedPrimaryReturned
            | Self::LostReplicaReturned
            | Self::ErrantTransactions
            | Self::GroupPrimaryChanged
            | Self::NoProblem => false,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Warnings about the structure of a topology. They never trigger a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StructureWarning {
    /// No replica logs the updates that it replicates, so none can be promoted over the others.
    NoLoggingReplicasStructureWarning,
    /// The replicas do not all use GTIDs of one flavour, nor are they all binlog servers.
    NoFailoverSupportStructureWarning,
    /// Of the replicas that log updates, some use the format `STATEMENT` and some `MIXED`.
    StatementAndMixedLoggingReplicasStructureWarning,
    /// Of the replicas that log updates, some use the format `STATEMENT` and some `ROW`. A replica that logs statements
    /// cannot replicate from one that logs rows.
    StatementAndRowLoggingReplicasStructureWarning,
    /// Of the replicas that log updates, some use the format `MIXED` and some `ROW`.
    MixedAndRowLoggingReplicasStructureWarning,
    /// The replicas that log updates run several release series. An older version cannot replicate from a newer one.
    MultipleMajorVersionsLoggingReplicasStructureWarning,
    /// A replica has another `gtid_mode` than its source.
    DifferentGTIDModesStructureWarning,
    /// A replica has transactions that its primary lacks.
    ErrantGTIDStructureWarning,
    /// The primary is read-only.
    NoWriteableMasterStructureWarning,
    /// The primary waits for more semi-sync replicas than are connected.
    NotEnoughValidSemiSyncReplicasStructureWarning,
}

/// The evidence for a finding: facts of the instance and counts over its direct replicas, with orchestrator's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each shown by the API under its own name"
)]
pub struct Evidence {
    /// The last probe of the instance succeeded.
    pub last_check_valid: bool,
    /// The last probe was answered in part.
    pub last_check_partial: bool,
    /// How the last probe failed.
    pub failure: Option<ProbeFailure>,
    /// The instance is at the top of the topology.
    pub is_primary: bool,
    /// The instance is one of two that replicate from each other.
    pub is_co_primary: bool,
    /// Replication hops to the top.
    pub depth: u32,
    /// The direct replicas.
    pub replicas: Vec<InstanceKey>,
    /// The instance is a member of a replication group.
    pub is_group_member: bool,
    /// The instance keeps binary logs for others and executes nothing.
    pub is_binlog_server: bool,
    /// Direct replicas that answer.
    pub valid_replicas: u32,
    /// Answering replicas that receive, whatever their applier thread does.
    pub receiving_replicas: u32,
    /// Answering replicas with both replication threads running.
    pub replicating_replicas: u32,
    /// Answering replicas with a receiver thread that cannot connect.
    pub replicas_failing_to_connect: u32,
    /// Replicas that lag more than `ReasonableReplicationLagSeconds`.
    pub lagging_replicas: u32,
    /// Replicas with a configured delay.
    pub delayed_replicas: u32,
    /// Replicas in downtime.
    pub downtimed_replicas: u32,
    /// Replicas that log the updates that they replicate.
    pub logging_replicas: u32,
    /// Logging replicas with `binlog_format=STATEMENT`.
    pub statement_logging_replicas: u32,
    /// Logging replicas with `binlog_format=MIXED`.
    pub mixed_logging_replicas: u32,
    /// Logging replicas with `binlog_format=ROW`.
    pub row_logging_replicas: u32,
    /// Release series (`8.4`) of the logging replicas, ordered, without duplicates.
    pub logging_versions: Vec<String>,
    /// `gtid_mode` of the replicas, ordered, without duplicates; empty on MariaDB.
    pub replica_gtid_modes: Vec<String>,
    /// Replicas with semi-sync enabled.
    pub semi_sync_replicas: u32,
    /// The instance itself cannot connect to its source.
    pub is_failing_to_connect: bool,
    /// Why the instance commits nothing; `None` when it commits or is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_stall: Option<CommitStall>,
}

impl Evidence {
    /// Number of direct replicas.
    pub fn replica_count(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }
}

/// What one member sees of a suspect and of all its replicas, from probes that began after the member was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opinion {
    /// Id of the member.
    pub member: u64,
    /// Name of the member.
    pub name: String,
    /// When the member answered.
    pub at: WallTime,
    /// Duration of the answer, milliseconds.
    pub millis: u64,
    /// The verdict of the member.
    pub verdict: OpinionVerdict,
    /// Data center of the member; empty when it is unknown.
    #[serde(default)]
    pub data_center: String,
    /// The member's observations of the suspect and of its replicas.
    #[serde(default)]
    pub observations: Vec<Observation>,
    /// The GTID set that the member last saw on the suspect, when it sees the suspect dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<GtidSet>,
}

/// The verdict of one member about a suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OpinionVerdict {
    /// The suspect is dead and no replica receives.
    Dead,
    /// The suspect's host does not answer, replicas report that they receive, and nothing shows that they do: a network
    /// may drop all packets. The verdict counts as dead for a test of whether replicas can reconnect, and for nothing
    /// else.
    Silent(String),
    /// The suspect accepts connections and does not answer, and nothing shows that a replica receives. A veto, unless
    /// the policy allows the replacement of a stalled primary.
    Stalled(String),
    /// The suspect is alive, or a replica receives: a veto.
    Alive(String),
    /// The member sees nothing of the cluster and does not count.
    Abstains(String),
    /// The member did not answer in time; counts as a no.
    Missing(String),
}

/// One analysis result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The analysis code.
    pub code: Code,
    /// The instance that the finding is about.
    pub instance: InstanceKey,
    /// The cluster of the instance.
    pub cluster: ClusterId,
    /// One sentence for the operator.
    pub description: String,
    /// The facts that led to the code.
    pub evidence: Evidence,
    /// Structure warnings of the same instance.
    #[serde(default)]
    pub structure: Vec<StructureWarning>,
    /// The instance is in downtime: the finding is shown and triggers nothing.
    #[serde(default)]
    pub downtimed: bool,
    /// All replicas of the instance are in downtime, and the code is about replicas ([`Code::is_about_replicas`]).
    #[serde(default)]
    pub replicas_downtimed: bool,
}

impl Finding {
    /// Whether the finding is only shown: the instance is in downtime, or all the replicas are that the finding is
    /// about.
    pub fn is_skippable(&self) -> bool {
        self.downtimed || self.replicas_downtimed
    }
}
