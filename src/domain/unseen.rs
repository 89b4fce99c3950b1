//! Instances that were not seen for a long time: since when, and which of them are forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::{Instance, ProbeFailure};
use super::intent::{IntentDetails, Origin};
use super::key::InstanceKey;
use super::state::{Cluster, Command, QuarantineState, State};
use super::time::WallTime;

/// What this member knows of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It answers, or its failure proves that it is alive.
    Seen,
    /// It has not answered for a while, and nothing proves that it is alive.
    Unseen,
    /// It is not polled, or it has failed for a short time only, or the failure says nothing of the server.
    Unknown,
}

impl Sighting {
    /// The sighting of an instance that has failed for so long (`None`: it does not fail).
    pub fn of(instance: &Instance, failing_millis: Option<u64>, patience_millis: u64) -> Self {
        let Some(failure) = &instance.failure else {
            return if instance.facts.is_some() {
                Self::Seen
            } else {
                Self::Unknown
            };
        };
        let is_long = failing_millis.is_some_and(|millis| millis >= patience_millis);
        if matches!(failure, ProbeFailure::NoCredentials(_)) {
            Self::Unknown
        } else if failure.proves_life() {
            Self::Seen
        } else if is_long {
            Self::Unseen
        } else {
            Self::Unknown
        }
    }
}

/// The addresses of which it matters when they were seen: the members of clusters, and quarantined servers.
pub fn subjects(state: &State) -> BTreeSet<InstanceKey> {
    let members = state.clusters.values().flat_map(|cluster| &cluster.instances);
    let held = state.quarantines.values().map(|held| &held.instance);
    members.chain(held).cloned().collect()
}

/// The command that records which instances are not seen, and which are seen again; `None` when nothing changed.
///
/// The time of the command counts, and it stays when another member leads or all restart.
pub fn record(state: &State, sightings: &BTreeMap<InstanceKey, Sighting>) -> Option<Command> {
    let with = |wanted| {
        let all = sightings.iter();
        all.filter(move |(_, sighting)| **sighting == wanted)
            .map(|(key, _)| key)
    };
    let unseen: BTreeSet<InstanceKey> = with(Sighting::Unseen)
        .filter(|key| !state.unseen.contains_key(*key))
        .cloned()
        .collect();
    let seen: BTreeSet<InstanceKey> = with(Sighting::Seen)
        .filter(|key| state.unseen.contains_key(*key))
        .cloned()
        .collect();
    (!unseen.is_empty() || !seen.is_empty()).then_some(Command::RecordUnseen { unseen, seen })
}

/// The instances that were not seen for `limit_millis` and are forgotten.
///
/// Not forgotten are: instances of a cluster with a running recovery; the recorded primary, which stays until it is
/// replaced; what a document names; what a person or a document put into downtime; what this member sees.
pub fn forgettable(
    state: &State,
    sightings: &BTreeMap<InstanceKey, Sighting>,
    now: WallTime,
    limit_millis: u64,
) -> Vec<InstanceKey> {
    let is_over = |since: WallTime| now.millis_since(since) >= limit_millis;
    let is_named = |key: &InstanceKey| state.documents.values().any(|document| document.seeds.contains(key));
    let is_downtimed = |key: &InstanceKey| {
        state.intents.values().any(|intent| {
            let by_request = intent.origin != Origin::Recovery && intent.details.is_active(now);
            by_request && intent.instance == *key && matches!(intent.details, IntentDetails::Downtime { .. })
        })
    };
    let is_recovered = |key: &InstanceKey| {
        let mut active = state.recoveries.values().filter(|recovery| recovery.is_active());
        active.any(|recovery| {
            let plan = &recovery.plan;
            let cluster = state.clusters.get(&plan.cluster);
            cluster.is_some_and(|cluster| cluster.instances.contains(key))
                || plan.instances.contains(key)
                || plan.old_primary == *key
                || plan.successor == *key
        })
    };
    let is_primary =
        |cluster: &Cluster, key: &InstanceKey| cluster.primary.as_ref().is_some_and(|primary| primary.instance == *key);
    let may_go = |key: &&InstanceKey| {
        !is_named(key)
            && !is_downtimed(key)
            && !is_recovered(key)
            && !state.clusters.values().any(|cluster| is_primary(cluster, key))
    };
    let gone = state
        .unseen
        .iter()
        .filter(|(key, since)| is_over(**since) && sightings.get(*key) == Some(&Sighting::Unseen));
    // A quarantined server that was forgotten earlier is not polled, so nothing else is known of it.
    let held = state.quarantines.values().filter(|held| {
        let is_polled = sightings
            .get(&held.instance)
            .is_some_and(|sighting| *sighting != Sighting::Unknown);
        let is_member = state
            .clusters
            .values()
            .any(|cluster| cluster.instances.contains(&held.instance));
        held.standing == QuarantineState::Absent && !is_polled && !is_member && is_over(held.since)
    });
    let gone: BTreeSet<&InstanceKey> = gone
        .map(|(key, _)| key)
        .chain(held.map(|held| &held.instance))
        .collect();
    gone.into_iter().filter(may_go).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{Adjust, NOW, key, primary, replica};
    use crate::domain::intent::Intent;
    use crate::domain::state::{Applied, Proposal, apply};

    const HOUR: u64 = 3_600_000;

    /// A cluster of `servers` servers, the first of which is the recorded primary.
    fn state_of(servers: u32) -> State {
        let mut state = State::default();
        let identity = primary(1, "").facts.unwrap().identity;
        let described = Command::DescribeCluster {
            id: crate::domain::topology::ClusterId("c1".to_owned()),
            instances: (1..=servers).map(key).collect(),
            primary: Some((key(1), identity)),
            process: None,
            alias: String::new(),
            absorbs: Vec::new(),
            document: None,
            chosen: None,
        };
        run(&mut state, 0, described);
        state
    }

    fn at(hours: i64) -> WallTime {
        NOW.plus_millis(hours * 3_600_000)
    }

    fn run(state: &mut State, hours: i64, command: Command) -> Applied {
        apply(state, &Proposal::new(at(hours), command)).0
    }

    fn all(servers: &[(u32, Sighting)]) -> BTreeMap<InstanceKey, Sighting> {
        servers.iter().map(|(n, sighting)| (key(*n), *sighting)).collect()
    }

    #[test]
    fn only_a_server_that_nothing_shows_alive_is_unseen() {
        let see = |instance: &Instance, millis| Sighting::of(instance, millis, 1000);
        assert_eq!(see(&primary(1, "1:1"), None), Sighting::Seen);
        assert_eq!(see(&Instance::unseen(key(1)), None), Sighting::Unknown);
        let dead = primary(1, "1:1").dead();
        assert_eq!(see(&dead, Some(999)), Sighting::Unknown);
        assert_eq!(see(&dead, Some(1000)), Sighting::Unseen);
        for (failure, expected) in [
            (ProbeFailure::Name("no such host".to_owned()), Sighting::Unseen),
            (ProbeFailure::NoAnswer, Sighting::Unseen),
            (ProbeFailure::Denied("no".to_owned()), Sighting::Seen),
            (ProbeFailure::Saturated, Sighting::Seen),
            (ProbeFailure::Stalled, Sighting::Seen),
            (ProbeFailure::NoCredentials("none".to_owned()), Sighting::Unknown),
        ] {
            let instance = replica(2, 1, "1:1").failing(failure.clone());
            assert_eq!(see(&instance, Some(5000)), expected, "{failure}");
        }
    }

    #[test]
    fn the_time_counts_from_the_first_record_and_ends_when_it_is_seen() {
        let mut state = state_of(3);
        let dead = all(&[(1, Sighting::Seen), (2, Sighting::Unseen), (3, Sighting::Seen)]);
        let command = record(&state, &dead).unwrap();
        run(&mut state, 1, command);
        assert_eq!(record(&state, &dead), None, "recorded once");
        assert_eq!(state.unseen, BTreeMap::from([(key(2), at(1))]));
        // Another leader that has not polled long enough changes nothing.
        let unsure = all(&[(1, Sighting::Seen), (2, Sighting::Unknown), (3, Sighting::Seen)]);
        assert_eq!(record(&state, &unsure), None);
        assert_eq!(forgettable(&state, &unsure, at(99), HOUR), []);
        assert_eq!(forgettable(&state, &dead, at(2), 2 * HOUR), []);
        assert_eq!(forgettable(&state, &dead, at(3), 2 * HOUR), [key(2)]);
        let back = all(&[(2, Sighting::Seen)]);
        let command = record(&state, &back).unwrap();
        run(&mut state, 4, command);
        assert!(state.unseen.is_empty());
    }

    #[test]
    fn what_is_still_needed_is_not_forgotten_however_long_it_was_not_seen() {
        let mut state = state_of(3);
        let dead = all(&[(1, Sighting::Unseen), (2, Sighting::Unseen), (3, Sighting::Unseen)]);
        let command = record(&state, &dead).unwrap();
        run(&mut state, 0, command);
        let gone = |state: &State| forgettable(state, &dead, at(500), 240 * HOUR);
        assert_eq!(
            gone(&state),
            [2, 3].map(key),
            "a dead primary that nothing replaced stays"
        );
        let intent = Intent {
            instance: key(3),
            origin: Origin::Api,
            details: IntentDetails::Downtime {
                owner: "ann".to_owned(),
                reason: "moved".to_owned(),
                since: NOW,
                until: None,
            },
        };
        run(&mut state, 0, Command::SetIntent { intent });
        assert_eq!(gone(&state), [key(2)]);
        let mut document = crate::domain::state::sample::document("shop");
        document.seeds = BTreeSet::from([key(2)]);
        let document = Box::new(document);
        run(&mut state, 0, Command::PutDocument { document });
        assert_eq!(gone(&state), []);
    }

    #[test]
    fn a_quarantine_ended_never_when_its_server_was_gone_for_good() {
        let mut state = state_of(3);
        let held = crate::domain::state::Quarantine {
            identity: primary(9, "1:1").facts.unwrap().identity,
            instance: key(9),
            cluster: state.clusters.keys().next().unwrap().clone(),
            recovery: "r".to_owned(),
            epoch: 1,
            since: NOW,
            standing: QuarantineState::Absent,
        };
        state.quarantines.insert("c1/9".to_owned(), held);
        let unpolled = all(&[(9, Sighting::Unknown)]);
        assert_eq!(forgettable(&state, &unpolled, at(239), 240 * HOUR), []);
        assert_eq!(forgettable(&state, &unpolled, at(240), 240 * HOUR), [key(9)]);
        assert_eq!(
            forgettable(&state, &all(&[(9, Sighting::Seen)]), at(999), 240 * HOUR),
            []
        );
        let instance = key(9);
        let forget = Command::ForgetGone {
            instance,
            until: at(241),
            reason: "not seen for 240 h".to_owned(),
        };
        assert_eq!(run(&mut state, 240, forget), Applied::Done);
        assert!(state.quarantines.is_empty());
        let entry = state.audit.values().last().unwrap();
        assert_eq!(
            (entry.kind.as_str(), entry.message.as_str()),
            ("forget", "not seen for 240 h")
        );
    }
}
