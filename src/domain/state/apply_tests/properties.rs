use super::*;

proptest::proptest! {
    #[test]
    fn all_members_that_apply_the_same_commands_have_the_same_state(seeds in proptest::collection::vec(proptest::prelude::any::<u64>(), 1..60)) {
        let (mut one, mut other) = (Sample::default(), Sample::default());
        for seed in seeds {
            let (left, right) = (one.step(seed), other.step(seed));
            proptest::prop_assert_eq!(left, right);
        }
        proptest::prop_assert_eq!(one.state, other.state);
    }

    #[test]
    fn a_copy_that_takes_only_the_changed_records_is_complete(seeds in proptest::collection::vec(proptest::prelude::any::<u64>(), 1..60)) {
        let mut sample = Sample::default();
        let mut copy = State::default();
        for seed in seeds {
            let (command, applied, changes) = sample.step(seed);
            for change in &changes {
                take(&mut copy, &sample.state, change);
            }
            proptest::prop_assert_eq!(&copy, &sample.state, "{:?} answered {}", command, applied);
        }
    }

    #[test]
    fn at_no_time_do_two_unfinished_recoveries_share_an_instance_or_a_cluster(seeds in proptest::collection::vec(proptest::prelude::any::<u64>(), 1..80)) {
        let mut sample = Sample::default();
        for seed in seeds {
            sample.step(seed);
            let active: Vec<&Recovery> = sample.state.recoveries.values().filter(|recovery| recovery.is_active()).collect();
            for (at, left) in active.iter().enumerate() {
                for right in &active[at + 1..] {
                    proptest::prop_assert!(left.plan.instances.is_disjoint(&right.plan.instances));
                    proptest::prop_assert!(left.plan.cluster != right.plan.cluster);
                }
            }
        }
    }

    #[test]
    fn a_state_survives_its_snapshot(seeds in proptest::collection::vec(proptest::prelude::any::<u64>(), 1..60)) {
        let mut sample = Sample::default();
        for seed in seeds {
            let (command, _, _) = sample.step(seed);
            let text = serde_json::to_string(&command).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
        }
        let text = serde_json::to_string(&sample.state).unwrap();
        proptest::prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), sample.state);
    }
}

/// What a store does with a change, in memory.
fn take(copy: &mut State, from: &State, change: &Change) {
    fn put<K: Ord + Clone, V: Clone>(
        to: &mut std::collections::BTreeMap<K, V>,
        from: &std::collections::BTreeMap<K, V>,
        key: &K,
    ) {
        match from.get(key) {
            Some(value) => to.insert(key.clone(), value.clone()),
            None => to.remove(key),
        };
    }
    match change {
        Change::Meta => {
            copy.group.clone_from(&from.group);
            copy.clock = from.clock;
            copy.version = from.version;
            copy.last_number = from.last_number;
            copy.recoveries_disabled = from.recoveries_disabled;
            copy.quorum_forced = from.quorum_forced;
            copy.unseen.clone_from(&from.unseen);
        }
        Change::Seeds => copy.seeds.clone_from(&from.seeds),
        Change::Forgotten(key) => put(&mut copy.forgotten, &from.forgotten, key),
        Change::Cluster(key) => put(&mut copy.clusters, &from.clusters, key),
        Change::Intent(key) => put(&mut copy.intents, &from.intents, key),
        Change::Document(key) => put(&mut copy.documents, &from.documents, key),
        Change::Recovery(key) => put(&mut copy.recoveries, &from.recoveries, key),
        Change::Quarantine(key) => put(&mut copy.quarantines, &from.quarantines, key),
        Change::Detection(key) => put(&mut copy.detections, &from.detections, key),
        Change::Request(key) => put(&mut copy.requests, &from.requests, key),
        Change::Blocked(key) => put(&mut copy.blocked, &from.blocked, key),
        Change::Member(key) => put(&mut copy.members, &from.members, key),
        Change::Audit(key) => put(&mut copy.audit, &from.audit, key),
    }
}
