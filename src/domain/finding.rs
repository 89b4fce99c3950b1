//! One analysis result: a code, the instance that it is about, and the evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::instance::{Observation, ProbeFailure};
use super::key::InstanceKey;
use super::time::Wall;
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
    /// Primary unreachable, replicas receive and all of them lag.
    UnreachableMasterWithLaggingReplicas,
    /// Primary unreachable for us, and a replica still receives.
    UnreachableMaster,
    /// Primary accepts connections and does not answer (own code).
    StalledPrimary,
    /// Primary refuses with too many connections (own code).
    SaturatedPrimary,
    /// Two writable primaries in one cluster (own code).
    SplitPrimary,
    /// The only replica of a reachable primary does not replicate.
    MasterSingleReplicaNotReplicating,
    /// The only replica of a reachable primary is unreachable.
    MasterSingleReplicaDead,
    /// Primary reachable, all replicas answer and none replicates.
    AllMasterReplicasNotReplicating,
    /// Primary reachable, no replica replicates and some are unreachable.
    AllMasterReplicasNotReplicatingOrDead,
    /// A direct replica of the primary cannot connect to it.
    FirstTierReplicaFailingToConnectToMaster,
    /// A failed primary is back (own code).
    QuarantinedPrimaryReturned,
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
            Self::UnreachableMasterWithLaggingReplicas => "UnreachableMasterWithLaggingReplicas",
            Self::UnreachableMaster => "UnreachableMaster",
            Self::StalledPrimary => "StalledPrimary",
            Self::SaturatedPrimary => "SaturatedPrimary",
            Self::SplitPrimary => "SplitPrimary",
            Self::MasterSingleReplicaNotReplicating => "MasterSingleReplicaNotReplicating",
            Self::MasterSingleReplicaDead => "MasterSingleReplicaDead",
            Self::AllMasterReplicasNotReplicating => "AllMasterReplicasNotReplicating",
            Self::AllMasterReplicasNotReplicatingOrDead => "AllMasterReplicasNotReplicatingOrDead",
            Self::FirstTierReplicaFailingToConnectToMaster => "FirstTierReplicaFailingToConnectToMaster",
            Self::QuarantinedPrimaryReturned => "QuarantinedPrimaryReturned",
            Self::NoProblem => "NoProblem",
        }
    }

    /// Whether a recovery exists for the finding.
    pub fn is_actionable(self) -> bool {
        matches!(self, Self::DeadMaster | Self::DeadMasterAndSomeReplicas)
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
    /// Not all replicas use GTIDs of one flavour.
    NoFailoverSupportStructureWarning,
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
    /// Replicas that are semi-sync replicas.
    pub semi_sync_replicas: u32,
    /// The instance itself cannot connect to its source.
    pub is_failing_to_connect: bool,
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
    pub at: Wall,
    /// How many milliseconds the answer took.
    pub millis: u64,
    /// What it says.
    pub verdict: Verdict,
    /// What it saw: the suspect and its replicas.
    #[serde(default)]
    pub observations: Vec<Observation>,
}

/// What a member says of a suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It sees the suspect dead and no replica receiving.
    Dead,
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
    /// All its replicas are in downtime.
    #[serde(default)]
    pub replicas_downtimed: bool,
}
