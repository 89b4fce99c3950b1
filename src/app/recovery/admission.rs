//! Which repairs begin now, when a data centre is lost and many clusters fail at once: a bounded number, the most important first.
//!
//! The order: what was not tried yet before what was given up and waits for another try (of these the one that waits longest); the
//! replacement of a primary before every other repair; clusters that took writes before others; clusters with a document before those
//! that a filter opted in; more servers before fewer; last the cluster's id, so that the order is always the same.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::domain::finding::Finding;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

/// How important a repair is: less is more important, the order of the fields is the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecoveryPriority {
    /// When it was given up; `None` sorts first.
    pub(super) given_up: Option<MonotonicTime>,
    /// It is no replacement of a primary.
    pub(super) gives_way: bool,
    /// The cluster was not seen writable.
    pub(super) was_not_writable: bool,
    /// No document opted it in.
    pub(super) has_no_document: bool,
    /// How many servers the cluster has.
    pub(super) servers: Reverse<usize>,
    /// Which.
    pub(super) cluster: ClusterId,
}

/// A repair that could begin.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) priority: RecoveryPriority,
    pub(super) finding: Finding,
}

/// Those that begin now, in order. `busy` are the clusters that are worked on, and whether that work gives way; at most `limit` are
/// worked on at once, and at most half of these by repairs that are no replacement of a primary, so that a primary finds a place.
pub(super) fn admit(mut waiting: Vec<Waiting>, busy: &BTreeMap<ClusterId, bool>, limit: usize) -> Vec<Waiting> {
    waiting.sort_by(|left, right| left.priority.cmp(&right.priority));
    let mut busy = busy.clone();
    let mut admitted = Vec::new();
    for one in waiting {
        let RecoveryPriority { gives_way, cluster, .. } = &one.priority;
        let present = busy.get(cluster);
        let is_free = present.is_none_or(|present| *present && !gives_way);
        let lesser = busy.values().filter(|gives_way| **gives_way).count();
        let has_room = if *gives_way {
            busy.len() < limit && lesser < (limit / 2).max(1)
        } else {
            // It takes over the place of what gives way to it.
            present.is_some() || busy.len() < limit
        };
        if is_free && has_room {
            busy.insert(cluster.clone(), *gives_way);
            admitted.push(one);
        }
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::{Code, Evidence};
    use crate::domain::fixture::key;

    fn id(name: &str) -> ClusterId {
        ClusterId(name.to_owned())
    }

    fn waiting(name: &str, change: impl FnOnce(&mut RecoveryPriority)) -> Waiting {
        let mut priority = RecoveryPriority {
            given_up: None,
            gives_way: false,
            was_not_writable: false,
            has_no_document: false,
            servers: Reverse(3),
            cluster: id(name),
        };
        change(&mut priority);
        Waiting {
            priority,
            finding: Finding {
                code: Code::DeadMaster,
                instance: key(1),
                cluster: id(name),
                description: String::new(),
                evidence: Evidence::default(),
                structure: Vec::new(),
                downtimed: false,
                replicas_downtimed: false,
            },
        }
    }

    fn names(admitted: &[Waiting]) -> Vec<&str> {
        admitted.iter().map(|one| one.priority.cluster.0.as_str()).collect()
    }

    #[test]
    fn the_most_important_comes_first() {
        let all = vec![
            waiting("given-up-early", |one| one.given_up = Some(MonotonicTime(5))),
            waiting("given-up-late", |one| one.given_up = Some(MonotonicTime(9))),
            waiting("intermediate", |one| one.gives_way = true),
            waiting("read-only", |one| one.was_not_writable = true),
            waiting("by-filter", |one| one.has_no_document = true),
            waiting("b-small", |_| ()),
            waiting("a-small", |_| ()),
            waiting("large", |one| one.servers = Reverse(9)),
        ];
        assert_eq!(
            names(&admit(all, &BTreeMap::new(), 20)),
            [
                "large",
                "a-small",
                "b-small",
                "by-filter",
                "read-only",
                "intermediate",
                "given-up-early",
                "given-up-late"
            ]
        );
    }

    #[test]
    fn no_more_begin_than_there_are_places() {
        let many = || ["a", "b", "c", "d"].map(|name| waiting(name, |_| ())).to_vec();
        assert_eq!(names(&admit(many(), &BTreeMap::new(), 2)), ["a", "b"]);
        let busy = BTreeMap::from([(id("x"), false)]);
        assert_eq!(names(&admit(many(), &busy, 2)), ["a"]);
        let busy = BTreeMap::from([(id("x"), false), (id("y"), true)]);
        assert_eq!(names(&admit(many(), &busy, 2)), Vec::<&str>::new());
    }

    #[test]
    fn repairs_below_a_primary_leave_room_for_primaries() {
        let lesser = |name| waiting(name, |one| one.gives_way = true);
        let all = vec![lesser("a"), lesser("b"), lesser("c"), lesser("d")];
        assert_eq!(names(&admit(all.clone(), &BTreeMap::new(), 4)), ["a", "b"]);
        assert_eq!(names(&admit(all, &BTreeMap::new(), 1)), ["a"]);
    }

    #[test]
    fn one_cluster_has_one_repair_and_its_primary_goes_before_the_rest() {
        let lesser = |name| waiting(name, |one| one.gives_way = true);
        let both = vec![lesser("a"), waiting("a", |_| ()), lesser("a")];
        let admitted = admit(both.clone(), &BTreeMap::new(), 4);
        assert_eq!(admitted.len(), 1);
        assert!(!admitted[0].priority.gives_way);
        // Even when all places are taken: it takes over its own cluster's.
        let busy = BTreeMap::from([(id("a"), true)]);
        assert_eq!(admit(both.clone(), &busy, 1).len(), 1);
        let busy = BTreeMap::from([(id("a"), false)]);
        assert!(admit(both, &busy, 4).is_empty());
    }
}
