//! Which repairs begin now and which wait. Every repair passes here, whatever calls for it: a finding, a policy, a returned server, an
//! order of an operator or a document, or an unfinished recovery.
//!
//! A cluster has one repair at a time. Automatic repairs also need one of a limited number of places, so that the loss of a data
//! center does not start hundreds of recoveries at once. The most important repair gets the first place. The order: what is proved to
//! have failed before what is merely silent; repairs that were not tried yet before repairs that were given up and are retried (of these the one that waits longest); the replacement of a primary
//! before every other repair; clusters that took writes before others; clusters with a document before those that a filter covers;
//! more servers before fewer; last the cluster's id, so that the order is always the same.
//!
//! A replacement of a primary never waits for anything less important: it takes over its cluster from a repair that gives way, and
//! neither repairs that give way nor attempts about silent servers use its places.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

/// How important a repair is: less is more important, and the order of the fields is the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "each field is one criterion of the order")]
pub(super) struct RecoveryPriority {
    /// It needs a place. An order does not: its author waits for the answer. An unfinished recovery does not: its servers are locked.
    pub(super) is_limited: bool,
    /// Nothing but silence speaks for the failure. Most such attempts end without a repair, and a silent data center has hundreds of them.
    pub(super) is_about_silence: bool,
    /// When the previous attempt was given up; `None` sorts first.
    pub(super) given_up: Option<MonotonicTime>,
    /// It does not replace a primary.
    pub(super) gives_way: bool,
    /// The cluster was not seen writable.
    pub(super) was_not_writable: bool,
    /// The cluster has no document.
    pub(super) has_no_document: bool,
    /// How many servers the cluster has.
    pub(super) servers: Reverse<usize>,
    /// The cluster.
    pub(super) cluster: ClusterId,
}

impl RecoveryPriority {
    /// The priority of an order or of an unfinished recovery: it begins as soon as its cluster is free.
    pub(super) fn unlimited(cluster: ClusterId, gives_way: bool) -> Self {
        Self {
            is_limited: false,
            is_about_silence: false,
            given_up: None,
            gives_way,
            was_not_writable: false,
            has_no_document: false,
            servers: Reverse(0),
            cluster,
        }
    }
}

/// A repair that could begin, with what its task needs.
#[derive(Clone, Debug)]
pub(super) struct Candidate<W> {
    pub(super) priority: RecoveryPriority,
    pub(super) work: W,
}

/// What a repair that has a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant {
    /// It gives way to a replacement of the primary.
    pub(super) gives_way: bool,
    /// It is an attempt about a silent server.
    pub(super) is_about_silence: bool,
}

impl From<&RecoveryPriority> for Occupant {
    fn from(priority: &RecoveryPriority) -> Self {
        Self {
            gives_way: priority.gives_way,
            is_about_silence: priority.is_about_silence,
        }
    }
}

/// The clusters that have a repair.
pub(super) type OccupiedClusters = BTreeMap<ClusterId, Occupant>;

/// The candidates that begin now, the most important first; the others wait. At most `limit` replacements of a primary run at once.
/// Other repairs, and attempts about silent servers, run while fewer than `limit` repairs run in all, and each kind uses at most half of the
/// places.
pub(super) fn admit<W>(
    mut candidates: Vec<Candidate<W>>,
    occupied: &OccupiedClusters,
    limit: usize,
) -> Vec<Candidate<W>> {
    candidates.sort_by(|left, right| left.priority.cmp(&right.priority));
    let mut occupied = occupied.clone();
    let mut admitted = Vec::new();
    for candidate in candidates {
        let priority = &candidate.priority;
        if is_free(&occupied, &priority.cluster, priority.gives_way) && has_place(&occupied, priority, limit) {
            occupied.insert(priority.cluster.clone(), Occupant::from(priority));
            admitted.push(candidate);
        }
    }
    admitted
}

/// Whether a cluster has no repair, or one that gives way to a repair that does not.
pub(super) fn is_free(occupied: &OccupiedClusters, cluster: &ClusterId, gives_way: bool) -> bool {
    occupied
        .get(cluster)
        .is_none_or(|present| present.gives_way && !gives_way)
}

fn has_place(occupied: &OccupiedClusters, priority: &RecoveryPriority, limit: usize) -> bool {
    let count = |is_counted: fn(&Occupant) -> bool| occupied.values().filter(|occupant| is_counted(occupant)).count();
    let half = (limit / 2).max(1);
    if !priority.is_limited {
        true
    } else if priority.gives_way {
        occupied.len() < limit && count(|occupant| occupant.gives_way) < half
    } else if priority.is_about_silence {
        count(|occupant| !occupant.gives_way) < limit && count(|occupant| occupant.is_about_silence) < half
    } else {
        count(|occupant| !occupant.gives_way && !occupant.is_about_silence) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ClusterId {
        ClusterId(name.to_owned())
    }

    fn candidate(name: &str, change: impl FnOnce(&mut RecoveryPriority)) -> Candidate<()> {
        let mut priority = RecoveryPriority {
            is_limited: true,
            is_about_silence: false,
            given_up: None,
            gives_way: false,
            was_not_writable: false,
            has_no_document: false,
            servers: Reverse(3),
            cluster: id(name),
        };
        change(&mut priority);
        Candidate { priority, work: () }
    }

    fn names(admitted: &[Candidate<()>]) -> Vec<&str> {
        admitted.iter().map(|one| one.priority.cluster.0.as_str()).collect()
    }

    fn occupied(clusters: &[(&str, bool)]) -> OccupiedClusters {
        clusters
            .iter()
            .map(|(name, gives_way)| {
                let occupant = Occupant {
                    gives_way: *gives_way,
                    is_about_silence: false,
                };
                (id(name), occupant)
            })
            .collect()
    }

    #[test]
    fn the_most_important_comes_first() {
        let all = vec![
            candidate("silent", |one| one.is_about_silence = true),
            candidate("given-up-early", |one| one.given_up = Some(MonotonicTime(5))),
            candidate("given-up-late", |one| one.given_up = Some(MonotonicTime(9))),
            candidate("intermediate", |one| one.gives_way = true),
            candidate("read-only", |one| one.was_not_writable = true),
            candidate("by-filter", |one| one.has_no_document = true),
            candidate("b-small", |_| ()),
            candidate("a-small", |_| ()),
            candidate("large", |one| one.servers = Reverse(9)),
            candidate("ordered", |one| *one = RecoveryPriority::unlimited(id("ordered"), true)),
        ];
        assert_eq!(
            names(&admit(all, &BTreeMap::new(), 20)),
            [
                "ordered",
                "large",
                "a-small",
                "b-small",
                "by-filter",
                "read-only",
                "intermediate",
                "given-up-early",
                "given-up-late",
                "silent"
            ]
        );
    }

    #[test]
    fn no_more_begin_than_there_are_places() {
        let many = || ["a", "b", "c", "d"].map(|name| candidate(name, |_| ())).to_vec();
        assert_eq!(names(&admit(many(), &BTreeMap::new(), 2)), ["a", "b"]);
        assert_eq!(names(&admit(many(), &occupied(&[("x", false)]), 2)), ["a"]);
        assert_eq!(
            names(&admit(many(), &occupied(&[("x", false), ("y", false)]), 2)),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn repairs_that_give_way_use_half_of_the_places() {
        let lesser = |name| candidate(name, |one| one.gives_way = true);
        let all = vec![lesser("a"), lesser("b"), lesser("c"), lesser("d")];
        assert_eq!(names(&admit(all.clone(), &BTreeMap::new(), 4)), ["a", "b"]);
        assert_eq!(names(&admit(all.clone(), &BTreeMap::new(), 1)), ["a"]);
        let replacements = occupied(&[("w", false), ("x", false), ("y", false)]);
        assert_eq!(names(&admit(all.clone(), &replacements, 4)), ["a"]);
        assert_eq!(names(&admit(all, &replacements, 3)), Vec::<&str>::new());
    }

    #[test]
    fn a_replacement_of_a_primary_does_not_wait_for_repairs_of_other_clusters() {
        for limit in 1..=4 {
            let busy = occupied(&[("v", true), ("w", true), ("x", true), ("y", true)]);
            assert_eq!(
                names(&admit(vec![candidate("a", |_| ())], &busy, limit)),
                ["a"],
                "{limit}"
            );
        }
        // One that was given up before is as free: what was not tried yet does not take its place.
        let lesser = |name| candidate(name, |one| one.gives_way = true);
        let retried = candidate("z", |one| one.given_up = Some(MonotonicTime(1)));
        assert_eq!(
            names(&admit(vec![lesser("a"), retried], &BTreeMap::new(), 1)),
            ["a", "z"]
        );
    }

    #[test]
    fn a_dead_primary_waits_for_no_attempts_about_a_silent_data_center() {
        let silent = |name: &str| candidate(name, |one| one.is_about_silence = true);
        let all: Vec<_> = ["a", "b", "c", "d", "e"].map(silent).to_vec();
        let first = admit(all, &BTreeMap::new(), 4);
        assert_eq!(names(&first), ["a", "b"], "half of the places");
        let busy: OccupiedClusters = first
            .iter()
            .map(|one| (one.priority.cluster.clone(), Occupant::from(&one.priority)))
            .collect();
        let dead = ["w", "x", "y", "z"].map(|name| candidate(name, |_| ())).to_vec();
        assert_eq!(names(&admit(dead, &busy, 4)), ["w", "x", "y", "z"], "every place");
        let retried = candidate("z", |one| one.given_up = Some(MonotonicTime(1)));
        assert_eq!(
            names(&admit(vec![silent("a"), retried], &BTreeMap::new(), 4)),
            ["z", "a"]
        );
        let replacements = occupied(&[("w", false), ("x", false)]);
        assert_eq!(names(&admit(vec![silent("a")], &replacements, 2)), Vec::<&str>::new());
    }

    #[test]
    fn an_order_and_an_unfinished_recovery_need_a_free_cluster_and_no_place() {
        let order = |gives_way| candidate("a", |one| *one = RecoveryPriority::unlimited(id("a"), gives_way));
        let full = occupied(&[("x", false), ("y", true)]);
        for gives_way in [true, false] {
            assert_eq!(names(&admit(vec![order(gives_way)], &full, 1)), ["a"]);
        }
        assert!(admit(vec![order(true)], &occupied(&[("a", true)]), 9).is_empty());
        assert_eq!(names(&admit(vec![order(false)], &occupied(&[("a", true)]), 9)), ["a"]);
        assert!(admit(vec![order(false)], &occupied(&[("a", false)]), 9).is_empty());
    }

    #[test]
    fn one_cluster_has_one_repair_and_its_primary_goes_before_the_rest() {
        let lesser = |name| candidate(name, |one| one.gives_way = true);
        let both = vec![lesser("a"), candidate("a", |_| ()), lesser("a")];
        let admitted = admit(both.clone(), &BTreeMap::new(), 4);
        assert_eq!(admitted.len(), 1);
        assert!(!admitted[0].priority.gives_way);
        // Even when all places are taken: it takes over its own cluster.
        assert_eq!(admit(both.clone(), &occupied(&[("a", true)]), 1).len(), 1);
        assert!(admit(both, &occupied(&[("a", false)]), 4).is_empty());
    }
}
