//! Servers that recoveries left behind: which have recovered.

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_replicating;
use crate::domain::instance::Instance;
use crate::domain::intent::IntentId;
use crate::domain::state::{State, lost_replicas};
use crate::domain::topology::Topology;

/// Downtimes of lost servers that have ended: the server replicates from the primary again, directly or not, with both
/// threads, or it is the primary, or no cluster records it any longer.
pub fn ended_downtimes(state: &State, topologies: &[&Topology]) -> Vec<IntentId> {
    lost_replicas(state)
        .filter(|(instance, _)| {
            let seen = topologies
                .iter()
                .find_map(|topology| topology.get(instance).map(|found| (*topology, found)));
            match seen {
                Some((topology, found)) => has_recovered(state, topology, found),
                None => !state
                    .clusters
                    .values()
                    .any(|cluster| cluster.instances.contains(*instance)),
            }
        })
        .map(|(_, id)| id.clone())
        .collect()
}

fn has_recovered(state: &State, topology: &Topology, instance: &Instance) -> bool {
    let Some(facts) = instance.valid_facts() else {
        return false;
    };
    let is_held = state
        .quarantines
        .values()
        .any(|held| held.cluster == topology.cluster && held.identity == facts.identity);
    let Some(primary) = current_primary(topology).filter(|_| !is_held) else {
        return false;
    };
    let primary_answers = topology.get(&primary).is_some_and(Instance::is_valid);
    if primary == instance.key {
        return primary_answers && facts.is_writable();
    }
    primary_answers
        && is_replicating(instance)
        && topology
            .descendants_of(&primary)
            .iter()
            .any(|below| below.key == instance.key)
}

#[cfg(test)]
mod tests {
    use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};
    use crate::domain::intent::{Intent, IntentDetails, Origin};

    use super::*;

    fn state_with_lost(n: u32) -> State {
        let mut state = State {
            clock: NOW,
            ..State::default()
        };
        let intent = Intent {
            instance: key(n),
            origin: Origin::Recovery,
            details: IntentDetails::Downtime {
                owner: "ham4db".to_owned(),
                reason: crate::domain::state::LOST_IN_RECOVERY.to_owned(),
                since: NOW,
                until: None,
            },
        };
        state.intents.insert(intent.id(), intent);
        state
    }

    #[test]
    fn the_downtime_of_a_lost_server_ends_when_it_replicates_from_the_primary() {
        let state = state_with_lost(2);
        let ends = |instances: Vec<Instance>| {
            let topology = topology(instances);
            !ended_downtimes(&state, &[&topology]).is_empty()
        };
        assert!(ends(vec![primary(1, "1:1-9"), replica(2, 1, "1:1-9")]));
        assert!(ends(vec![
            primary(1, "1:1-9"),
            replica(3, 1, "1:1-9"),
            replica(2, 3, "1:1-9")
        ]));
        for still_lost in [
            replica(2, 1, "1:1-9").dead(),
            replica(2, 1, "1:1-9").cut(),
            replica(2, 9, "1:1-9"),
            primary(2, "1:1-9"),
        ] {
            assert!(!ends(vec![primary(1, "1:1-9"), still_lost.clone()]), "{still_lost:?}");
        }
        assert!(
            !ends(vec![primary(1, "1:1-9").dead(), replica(2, 1, "1:1-9")]),
            "nothing is known while the primary is dead"
        );
    }

    #[test]
    fn the_downtime_of_a_server_that_nothing_records_ends() {
        let mut state = state_with_lost(2);
        assert_eq!(ended_downtimes(&state, &[]).len(), 1);
        let cluster = crate::domain::state::Cluster {
            id: crate::domain::topology::ClusterId("c1".to_owned()),
            created_at: NOW,
            name: key(1).to_string(),
            alias: String::new(),
            epoch: 1,
            instances: [key(1), key(2)].into(),
            primary: None,
            document: None,
            split_from: None,
        };
        state.clusters.insert(cluster.id.clone(), cluster);
        assert!(
            ended_downtimes(&state, &[]).is_empty(),
            "it is recorded and only not seen yet"
        );
    }
}
