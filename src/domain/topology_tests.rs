use super::*;
use crate::domain::fixture::{key, primary, replica, topology, uuid};

fn keys(instances: &[&Instance]) -> Vec<InstanceKey> {
    instances.iter().map(|instance| instance.key.clone()).collect()
}

fn all(servers: &[u32]) -> Vec<InstanceKey> {
    servers.iter().copied().map(key).collect()
}

#[test]
fn descendants_come_level_by_level_each_once() {
    let tree = topology([
        primary(1, ""),
        replica(2, 1, ""),
        replica(3, 1, ""),
        replica(4, 3, ""),
        replica(5, 4, ""),
        replica(6, 2, ""),
    ]);
    assert_eq!(keys(&tree.descendants_of(&key(1))), all(&[2, 3, 6, 4, 5]));
    assert_eq!(keys(&tree.descendants_of(&key(3))), all(&[4, 5]));
    assert!(tree.descendants_of(&key(5)).is_empty());
}

#[test]
fn a_server_that_is_only_named_has_descendants_too() {
    let tree = topology([replica(2, 1, ""), replica(3, 2, "")]);
    assert_eq!(keys(&tree.descendants_of(&key(1))), all(&[2, 3]));
    assert_eq!(tree.tops(), BTreeSet::from([key(1)]));
}

#[test]
fn a_loop_ends() {
    let ring = topology([replica(1, 3, ""), replica(2, 1, ""), replica(3, 2, "")]);
    assert_eq!(keys(&ring.descendants_of(&key(1))), all(&[2, 3]));
    for instance in ring.instances.values() {
        assert_eq!(ring.depth_of(instance), 2);
    }
    assert!(ring.tops().is_empty());
    let own = topology([replica(1, 1, "")]);
    assert!(own.descendants_of(&key(1)).is_empty());
    assert_eq!(own.depth_of(&own.instances[&key(1)]), 0);
    assert!(!own.is_co_primary(&own.instances[&key(1)]));
    assert_eq!(own.replicas_of(&key(1)).count(), 0);
}

#[test]
fn two_that_replicate_from_each_other_are_co_primaries() {
    let tree = topology([replica(1, 2, ""), replica(2, 1, ""), replica(3, 1, "")]);
    let is = |n: u32| tree.is_co_primary(&tree.instances[&key(n)]);
    assert_eq!((is(1), is(2), is(3)), (true, true, false));
    assert!(!tree.is_primary(&tree.instances[&key(1)]));
}

#[test]
fn depth_counts_hops_within_the_view() {
    let tree = topology([primary(1, ""), replica(2, 1, ""), replica(3, 2, ""), replica(4, 9, "")]);
    let depth = |n: u32| tree.depth_of(&tree.instances[&key(n)]);
    assert_eq!((depth(1), depth(2), depth(3), depth(4)), (0, 1, 2, 0));
    assert_eq!(tree.tops(), BTreeSet::from([key(1), key(9)]));
}

#[test]
fn a_server_is_found_by_all_its_addresses() {
    let mut tree = topology([primary(1, ""), replica(2, 7, ""), replica(3, 2, "")]);
    tree.aliases.insert(key(7), key(1));
    assert_eq!(tree.get(&key(7)).map(|instance| &instance.key), Some(&key(1)));
    assert_eq!(tree.source_of(&tree.instances[&key(2)]), Some(&key(1)));
    assert_eq!(
        tree.replicas_of(&key(7))
            .map(|instance| instance.key.clone())
            .collect::<Vec<_>>(),
        all(&[2])
    );
    assert_eq!(keys(&tree.descendants_of(&key(7))), all(&[2, 3]));
    assert_eq!(tree.depth_of(&tree.instances[&key(3)]), 2);
    assert_eq!(tree.tops(), BTreeSet::from([key(1)]));
}

#[test]
fn a_server_of_which_nothing_is_known_is_no_primary() {
    let tree = topology([Instance::unseen(key(1))]);
    assert!(!tree.is_primary(&tree.instances[&key(1)]));
    assert_eq!(tree.get(&key(9)), None);
}

#[test]
fn an_identity_is_found_whatever_its_address() {
    let tree = topology([primary(1, ""), replica(2, 1, "")]);
    let found = |n: u32| {
        tree.by_identity(&Identity::ServerUuid(uuid(n)))
            .map(|instance| instance.key.clone())
    };
    assert_eq!((found(2), found(8)), (Some(key(2)), None));
}
