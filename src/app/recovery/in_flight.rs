//! What the coordinator remembers between two calls: the clusters that tasks work on, the reports, and the attempts
//! that were given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::recovery::admission::{self, Occupant, OccupiedClusters};
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
    /// What it is. A replacement of the primary does not wait for a task that gives way: its claim ends the claim of that task.
    pub(super) occupant: Occupant,
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
    /// When the last task on each cluster ended: the last one that gave way, and the last one that did not.
    last_ended: BTreeMap<(ClusterId, bool), MonotonicTime>,
    /// Since when nothing calls for a failed repair, by the id of its last attempt.
    pub(super) unwanted_since: BTreeMap<String, MonotonicTime>,
    /// When it was tried last to raise the version of the state.
    pub(super) version_raised_at: Option<MonotonicTime>,
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
            .map(|(cluster, task)| (cluster.clone(), task.occupant))
            .collect()
    }

    /// Whether a repair of the cluster could begin now: no task works on it, or one that gives way to this repair.
    pub(super) fn is_free(&self, cluster: &ClusterId, gives_way: bool) -> bool {
        admission::is_free(&self.occupied_clusters(), cluster, gives_way)
    }

    /// When the last task on a cluster ended, as far as a repair has to wait after it: a replacement of the primary does not wait after
    /// tasks that give way.
    pub(super) fn last_ended(&self, cluster: &ClusterId, gives_way: bool) -> Option<MonotonicTime> {
        let ended = |of_lesser| self.last_ended.get(&(cluster.clone(), of_lesser)).copied();
        let replacement = ended(false);
        if gives_way {
            replacement.max(ended(true))
        } else {
            replacement
        }
    }

    /// Notes that the task with this number has ended. A repair that it gave way to keeps the cluster.
    pub(super) fn release(&mut self, cluster: &ClusterId, ticket: u64, now: MonotonicTime) {
        if let Some(task) = self
            .busy
            .get(cluster)
            .copied()
            .filter(|present| present.ticket == ticket)
        {
            self.busy.remove(cluster);
            self.last_ended.insert((cluster.clone(), task.occupant.gives_way), now);
        }
    }

    /// Notes that a task works on a cluster that admission gave to it. Returns the number of the task.
    pub(super) fn occupy(&mut self, cluster: &ClusterId, occupant: Occupant) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.busy.insert(cluster.clone(), OccupyingTask { ticket, occupant });
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_of_a_primary_does_not_wait_after_a_lesser_repair() {
        let cluster = ClusterId("c1".to_owned());
        let mut in_flight = InFlightRecoveries::default();
        let occupant = |gives_way| Occupant {
            gives_way,
            is_about_silence: false,
        };
        let lesser = in_flight.occupy(&cluster, occupant(true));
        in_flight.release(&cluster, lesser, MonotonicTime(7));
        assert_eq!(in_flight.last_ended(&cluster, true), Some(MonotonicTime(7)));
        assert_eq!(in_flight.last_ended(&cluster, false), None);
        let replacement = in_flight.occupy(&cluster, occupant(false));
        in_flight.release(&cluster, lesser, MonotonicTime(8));
        assert!(!in_flight.is_free(&cluster, false), "an earlier task releases nothing");
        in_flight.release(&cluster, replacement, MonotonicTime(9));
        for gives_way in [true, false] {
            assert_eq!(in_flight.last_ended(&cluster, gives_way), Some(MonotonicTime(9)));
        }
    }
}
