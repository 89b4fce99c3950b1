//! The cluster at one moment: record, topology, policy and findings, with the reason that holds each finding's recovery back.

use super::finding::{Finding, Opinion};
use super::policy::{HeldBack, Policy};
use super::state::Cluster;
use super::topology::Topology;

/// A finding, with the reason that holds its recovery back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedFinding {
    /// The finding.
    pub finding: Finding,
    /// Why no recovery follows the finding; `None` when one may follow, or runs.
    pub held_back: Option<HeldBack>,
    /// The members' last answers about the instance. Known on the leader only, and empty where the members were not asked.
    pub opinions: Vec<Opinion>,
}

impl JudgedFinding {
    /// A finding about which the members were not asked.
    pub fn new(finding: Finding, held_back: Option<HeldBack>) -> Self {
        Self {
            finding,
            held_back,
            opinions: Vec::new(),
        }
    }
}

/// A recorded cluster as one member sees it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The record of the cluster in the replicated state.
    pub cluster: Cluster,
    /// The instances of the cluster and how they replicate.
    pub topology: Topology,
    /// What may be done to the cluster.
    pub policy: Policy,
    /// The analysis results, in the order of the codes.
    pub findings: Vec<JudgedFinding>,
    /// Whether a dead primary is replaced without a request (document or filters; switches and blocks aside).
    pub automated_recovery: bool,
}

impl ClusterView {
    /// The reasons that hold back the recoveries of the findings, as text, in the order of the findings. Empty when none is held back.
    pub fn held_back_reasons(&self) -> Vec<String> {
        self.findings
            .iter()
            .filter(|judged| judged.finding.code.is_actionable())
            .filter_map(|judged| judged.held_back.as_ref().map(ToString::to_string))
            .collect()
    }
}
