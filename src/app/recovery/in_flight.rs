//! What the coordinator remembers between two calls: the clusters that tasks work on, the reports, and the attempts
//! that were given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::recovery::admission::{self, OccupiedClusters};
use crate::domain::finding::Opinion;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

/// A text about a finding, and when it was reported.
#[derive(Debug)]
pub(super) struct FindingReport {
    pub(super) text: String,
    /// When the text was seen first.
    pub(super) since: MonotonicTime,
    /// When it was reported last.
    pub(super) reported_at: Option<MonotonicTime>,
}

/// A task that works on a cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct OccupyingTask {
    /// The number of the task.
    pub(super) ticket: u64,
    /// A replacement of the primary does not wait for this task: its claim ends the claim of this task.
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
    /// Keys of the requests that a task of this process handles.
    pub(super) requests: BTreeSet<String>,
    /// The last text about each finding.
    pub(super) reports: BTreeMap<(InstanceKey, &'static str), FindingReport>,
    /// When the last task on each cluster ended.
    pub(super) last_ended: BTreeMap<ClusterId, MonotonicTime>,
    /// Why the last attempt to act on a finding was given up.
    pub(super) held_back: BTreeMap<InstanceKey, HeldBack>,
    /// The last opinions of the members about each suspect, without their observations.
    pub(super) opinions: BTreeMap<InstanceKey, Vec<Opinion>>,
}

impl InFlightRecoveries {
    /// The clusters that tasks work on, as admission takes them.
    pub(super) fn occupied_clusters(&self) -> OccupiedClusters {
        let occupied = self.busy.iter();
        occupied
            .map(|(cluster, task)| (cluster.clone(), task.gives_way))
            .collect()
    }

    /// Whether a repair of the cluster could begin now: no task works on it, or one that gives way to this repair.
    pub(super) fn is_free(&self, cluster: &ClusterId, gives_way: bool) -> bool {
        admission::is_free(&self.occupied_clusters(), cluster, gives_way)
    }

    /// Notes that a task works on a cluster that admission gave to it. Returns the number of the task.
    pub(super) fn occupy(&mut self, cluster: &ClusterId, gives_way: bool) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.busy.insert(cluster.clone(), OccupyingTask { ticket, gives_way });
        ticket
    }
}
