//! One analysis result: a code, the instance that it is about, and the evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::commit_stall::CommitStall;
use super::gtid::GtidSet;
use super::instance::{Observation, ProbeFailure};
use super::key::InstanceKey;
use super::time::WallTime;
use super::topology::ClusterId;

/// Analysis codes, named as orchestrator names them where it has the finding; declared in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Code {
    /// Primary unreachable, and it has no replicas.
    DeadMasterWithoutReplicas,
    /// Primary unreachable, all replicas answer and none of them receives.
    DeadMaster,
    /// Primary unreachable and no replica answers.
    DeadMasterAndReplicas,
    /// Primary unreachable, some replicas answer and none of them receives.
    DeadMasterAndSomeReplicas,
    /// The server that a recovery or takeover opened is gone before the cluster followed it (own code).
    SuccessorLost,
    /// Primary unreachable, replicas receive and all of them lag.
    UnreachableMasterWithLaggingReplicas,
    /// Primary unreachable for us, and a replica still receives.
    UnreachableMaster,
    /// Primary accepts connections and answers nothing, or commits nothing (own code).
    StalledPrimary,
    /// Primary refuses with too many connections (own code).
    SaturatedPrimary,
    /// Two writable primaries in one cluster (own code).
    SplitPrimary,
    /// Another program than this group controls the cluster (own code).
    AnotherController,
    /// One server identity is seen live at two addresses (own code).
    DuplicateIdentity,
    /// Primary waits for more semi-sync replicas than it has, and has not moved for a while.
    LockedSemiSyncMaster,
    /// Primary waits for more semi-sync replicas than it has.
    LockedSemiSyncMasterHypothesis,
    /// More semi-sync replicas are connected than the primary waits for, and the number is to be exact.
    MasterWithTooManySemiSyncReplicas,
    /// Primary reachable and read-only although its replicas replicate.
    NoWriteableMasterStructureWarning,
    /// The only replica of a reachable primary does not replicate.
    MasterSingleReplicaNotReplicating,
    /// The only replica of a reachable primary is unreachable.
    MasterSingleReplicaDead,
    /// Primary reachable, all replicas answer and none replicates.
    AllMasterReplicasNotReplicating,
    /// Primary reachable, no replica replicates and some are unreachable.
    AllMasterReplicasNotReplicatingOrDead,
    /// Co-primary unreachable, all its replicas answer and none receives.
    DeadCoMaster,
    /// Co-primary unreachable, some replicas answer and none of these receives.
    DeadCoMasterAndSomeReplicas,
    /// Co-primary unreachable for us, and a replica still receives.
    UnreachableCoMaster,
    /// Co-primary reachable, and none of its replicas replicates.
    AllCoMasterReplicasNotReplicating,
    /// Intermediate primary unreachable, and its only replica cannot connect to it.
    DeadIntermediateMasterWithSingleReplicaFailingToConnect,
    /// Intermediate primary unreachable, and its only replica does not receive.
    DeadIntermediateMasterWithSingleReplica,
    /// Intermediate primary unreachable, all its replicas answer and none receives.
    DeadIntermediateMaster,
    /// Intermediate primary unreachable, some replicas answer and none of these receives.
    DeadIntermediateMasterAndSomeReplicas,
    /// Intermediate primary unreachable, and no replica of it answers.
    DeadIntermediateMasterAndReplicas,
    /// Intermediate primary unreachable, its replicas receive and all of them lag.
    UnreachableIntermediateMasterWithLaggingReplicas,
    /// Intermediate primary unreachable for us, and a replica still receives.
    UnreachableIntermediateMaster,
    /// Intermediate primary reachable for us, and no answering replica can connect to it.
    AllIntermediateMasterReplicasFailingToConnectOrDead,
    /// Intermediate primary reachable, and none of its replicas replicates.
    AllIntermediateMasterReplicasNotReplicating,
    /// Member of a replication group unreachable, and none of its replicas receives.
    DeadReplicationGroupMemberWithReplicas,
    /// A binlog server cannot connect to its source.
    BinlogServerFailingToConnectToMaster,
    /// A direct replica of the primary cannot connect to it.
    FirstTierReplicaFailingToConnectToMaster,
    /// A failed primary is back (own code).
    QuarantinedPrimaryReturned,
    /// A replica that a recovery left behind is back and can be attached again (own code).
    LostReplicaReturned,
    /// A server has transactions that the primary lacks, and a person has them dealt with (own code).
    ErrantTransactions,
    /// A server could not be attached to another source for want of an account (own code).
    MissingReplicationCredentials,
    /// A grant is missing that the planned recovery would need (own code).
    MissingPrivileges,
    /// Accounts may write although the server is read-only (own code).
    FenceIneffective,
    /// The server is writable as soon as it starts (own code).
    BootsWritable,
    /// Settings with which a crash loses data or a failure is seen late (own code).
    UnsafeSettings,
    /// Semi-sync is not as the durability policy of the cluster wants it (own code).
    DurabilityNotKept,
    /// A majority of the members is in one data centre (own code).
    QuorumInOneDataCenter,
    /// A replication group has chosen another of its members as its primary (own code). Told when it happens, never a state of things.
    GroupPrimaryChanged,
    /// Nothing to report for the instance but structure warnings.
    NoProblem,
}

impl Code {
    /// The text that stands for the code in the API, in hooks and in the backend's tables.
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
            Self::GroupPrimaryChanged => "GroupPrimaryChanged",
            Self::NoProblem => "NoProblem",
        }
    }

    /// Whether the finding is about the instance's replicas so much that their downtime is the instance's
    /// (reference of orchestrator, §5.4).
    pub fn is_about_replicas(self) -> bool {
        matches!(
            self,
            Self::AllMasterReplicasNotReplicating
                | Self::AllMasterReplicasNotReplicatingOrDead
                | Self::MasterSingleReplicaDead
                | Self::AllCoMasterReplicasNotReplicating
                | Self::DeadIntermediateMasterWithSingleReplica
                | Self::DeadIntermediateMasterWithSingleReplicaFailingToConnect
                | Self::DeadIntermediateMasterAndReplicas
                | Self::DeadIntermediateMasterAndSomeReplicas
                | Self::AllIntermediateMasterReplicasFailingToConnectOrDead
                | Self::AllIntermediateMasterReplicasNotReplicating
        )
    }

    /// Whether a finding may become another one, or be told otherwise, although nothing changed but the time.
    pub fn changes_with_time(self) -> bool {
        matches!(
            self,
            Self::StalledPrimary | Self::LockedSemiSyncMasterHypothesis | Self::QuarantinedPrimaryReturned
        )
    }

    /// Whether a recovery exists for the finding.
    pub fn is_actionable(self) -> bool {
        super::recovery::plan::RecoveryKind::for_code(self).is_some()
    }
}

impl Code {
    /// Advice: what could be better before something fails. Shown, said once, never a detection.
    pub fn is_advice(self) -> bool {
        matches!(
            self,
            Self::MissingReplicationCredentials
                | Self::MissingPrivileges
                | Self::FenceIneffective
                | Self::BootsWritable
                | Self::DurabilityNotKept
                | Self::UnsafeSettings
                | Self::QuorumInOneDataCenter
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Warnings about the shape of a topology; they never trigger anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StructureWarning {
    /// No replica logs what it replicates: none can be promoted over the others.
    NoLoggingReplicasStructureWarning,
    /// Not all replicas use GTIDs of one flavour, or all are binlog servers.
    NoFailoverSupportStructureWarning,
    /// Of the replicas that log, some log statements and some `MIXED`.
    StatementAndMixedLoggingReplicasStructureWarning,
    /// Of the replicas that log, some log statements and some rows: one that logs statements cannot follow one that logs rows.
    StatementAndRowLoggingReplicasStructureWarning,
    /// Of the replicas that log, some log `MIXED` and some rows.
    MixedAndRowLoggingReplicasStructureWarning,
    /// The replicas that log are of several release series: an older one cannot follow a newer one.
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

/// What a finding rests on: counts over the direct replicas, with orchestrator's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent answers, each shown by the API under its own name"
)]
pub struct Evidence {
    /// The last attempt to ask the instance succeeded.
    pub last_check_valid: bool,
    /// It answered in part.
    pub last_check_partial: bool,
    /// How the last attempt failed.
    pub failure: Option<ProbeFailure>,
    /// Top of the topology.
    pub is_primary: bool,
    /// One of two that replicate from each other.
    pub is_co_primary: bool,
    /// Hops to the top.
    pub depth: u32,
    /// Direct replicas.
    pub replicas: Vec<InstanceKey>,
    /// A member of a replication group.
    pub is_group_member: bool,
    /// It keeps binary logs for others and executes nothing.
    pub is_binlog_server: bool,
    /// Of these, answering.
    pub valid_replicas: u32,
    /// Of these, receiving (whatever the applying thread does).
    pub receiving_replicas: u32,
    /// Answering replicas with both threads running.
    pub replicating_replicas: u32,
    /// Answering replicas whose receiving thread cannot connect.
    pub replicas_failing_to_connect: u32,
    /// Replicas lagging more than is reasonable.
    pub lagging_replicas: u32,
    /// Replicas with a configured delay.
    pub delayed_replicas: u32,
    /// Replicas in downtime.
    pub downtimed_replicas: u32,
    /// Replicas that log what they replicate.
    pub logging_replicas: u32,
    /// Of these, with `binlog_format=STATEMENT`.
    pub statement_logging_replicas: u32,
    /// Of these, with `binlog_format=MIXED`.
    pub mixed_logging_replicas: u32,
    /// Of these, with `binlog_format=ROW`.
    pub row_logging_replicas: u32,
    /// Release series (`8.4`) of the replicas that log, each once, ordered.
    pub logging_versions: Vec<String>,
    /// `gtid_mode` of the replicas, each once, ordered; empty on MariaDB.
    pub replica_gtid_modes: Vec<String>,
    /// Replicas that are semi-sync replicas.
    pub semi_sync_replicas: u32,
    /// The instance itself cannot connect to its source.
    pub is_failing_to_connect: bool,
    /// Why it commits nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_stall: Option<CommitStall>,
}

impl Evidence {
    /// How many direct replicas there are.
    pub fn replica_count(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }
}

/// What one member sees of a suspect and of every replica of it, from probes begun after it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opinion {
    /// Which member.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// When it answered.
    pub at: WallTime,
    /// How many milliseconds the answer took.
    pub millis: u64,
    /// What it says.
    pub verdict: Verdict,
    /// Where the member is; empty when it was not told.
    #[serde(default)]
    pub data_center: String,
    /// What it saw: the suspect and its replicas.
    #[serde(default)]
    pub observations: Vec<Observation>,
    /// What it last saw the suspect hold, when it sees it dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<GtidSet>,
}

/// What a member says of a suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It sees the suspect dead and no replica receiving.
    Dead,
    /// It gets no answer from the suspect's host, replicas say that they receive, and nothing shows that they do: packets may be
    /// dropped on every way. Counts as dead for a test of whether replicas can reconnect, and for nothing else.
    Silent(String),
    /// The suspect accepts connections and answers none, and nothing shows that a replica receives. A veto, unless the policy lets a
    /// stalled primary be replaced.
    Stalled(String),
    /// It sees the suspect alive, or a replica receiving: a veto.
    Alive(String),
    /// It sees nothing of the cluster and does not count.
    Abstains(String),
    /// No answer in time; counts as no.
    Missing(String),
}

/// One analysis result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What.
    pub code: Code,
    /// About which instance.
    pub instance: InstanceKey,
    /// In which cluster.
    pub cluster: ClusterId,
    /// One sentence for people.
    pub description: String,
    /// What it rests on.
    pub evidence: Evidence,
    /// Shape warnings of the same instance.
    #[serde(default)]
    pub structure: Vec<StructureWarning>,
    /// The instance is in downtime: shown, never acted on.
    #[serde(default)]
    pub downtimed: bool,
    /// All its replicas are in downtime, and the code is one that is about these.
    #[serde(default)]
    pub replicas_downtimed: bool,
}

impl Finding {
    /// Shown, and never acted on: the instance is in downtime, or all the replicas that the finding is about are.
    pub fn is_skippable(&self) -> bool {
        self.downtimed || self.replicas_downtimed
    }
}
