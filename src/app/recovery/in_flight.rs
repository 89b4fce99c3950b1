//! What the coordinator keeps in mind: who works on which cluster, what was said, and what was given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Opinion;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

/// Something to be said about a finding.
#[derive(Debug)]
pub(super) struct ReportedFinding {
    pub(super) text: String,
    /// Since when it is so.
    pub(super) since: MonotonicTime,
    /// When it was said last.
    pub(super) at: Option<MonotonicTime>,
}

/// A task that works on a cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct OccupyingTask {
    pub(super) ticket: u64,
    /// A replacement of the primary does not wait for it: its claim ends the other one.
    pub(super) gives_way: bool,
}

#[derive(Debug, Default)]
pub(super) struct InFlightRecoveries {
    /// Clusters that a task works on.
    pub(super) busy: BTreeMap<ClusterId, OccupyingTask>,
    /// The number of the last task.
    pub(super) last_ticket: u64,
    /// Recoveries that a task of this process runs.
    pub(super) running: BTreeSet<String>,
    /// Requests of documents that a task of this process handles, by their keys.
    pub(super) requests: BTreeSet<String>,
    /// What was said last about a finding.
    pub(super) said: BTreeMap<(InstanceKey, &'static str), ReportedFinding>,
    /// When a finding was last given up.
    pub(super) tried: BTreeMap<ClusterId, MonotonicTime>,
    /// What keeps each finding from being acted on, as found out by asking members and planning.
    pub(super) held_back: BTreeMap<InstanceKey, HeldBack>,
    /// What the members said of a suspect when they were asked last, without what they saw.
    pub(super) opinions: BTreeMap<InstanceKey, Vec<Opinion>>,
}

impl InFlightRecoveries {
    /// Nobody works on the cluster, or one who gives way to somebody who does not.
    pub(super) fn is_free(&self, cluster: &ClusterId, gives_way: bool) -> bool {
        self.busy
            .get(cluster)
            .is_none_or(|present| present.gives_way && !gives_way)
    }
}
