use super::*;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology, uuid};
use crate::domain::group_replication::{GroupMember, GroupPeer, GroupRole, GroupState};
use crate::domain::instance::Identity;
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::sample::document;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::time::WallTime;

fn by_key(instances: impl IntoIterator<Item = Instance>) -> BTreeMap<InstanceKey, Instance> {
    instances
        .into_iter()
        .map(|instance| (instance.key.clone(), instance))
        .collect()
}

fn cluster(id: &str, created_at: i64, servers: &[u32]) -> Cluster {
    Cluster {
        id: ClusterId(id.to_owned()),
        created_at: WallTime(created_at),
        name: String::new(),
        alias: String::new(),
        epoch: 0,
        instances: servers.iter().copied().map(key).collect(),
        primary: None,
        document: None,
        split_from: None,
    }
}

fn recorded(clusters: impl IntoIterator<Item = Cluster>) -> BTreeMap<ClusterId, Cluster> {
    clusters
        .into_iter()
        .map(|cluster| (cluster.id.clone(), cluster))
        .collect()
}

fn keys(servers: &[u32]) -> BTreeSet<InstanceKey> {
    servers.iter().copied().map(key).collect()
}

fn grouped(groups: &[Grouping]) -> Vec<(Vec<&str>, BTreeSet<InstanceKey>)> {
    groups
        .iter()
        .map(|group| {
            (
                group.recorded.iter().map(|id| id.0.as_str()).collect(),
                group.instances.clone(),
            )
        })
        .collect()
}

fn by_records(
    instances: &BTreeMap<InstanceKey, Instance>,
    aliases: &BTreeMap<InstanceKey, InstanceKey>,
    clusters: &BTreeMap<ClusterId, Cluster>,
) -> Vec<Grouping> {
    let state = State {
        clusters: clusters.clone(),
        ..State::default()
    };
    group(instances, aliases, &state)
}

/// Cluster `c1` of servers 1 to 3 with the primary 1, as recorded and as seen.
fn world() -> (State, Topology) {
    let mut record = cluster("c1", 5, &[1, 2, 3]);
    record.primary = Some(RecordedPrimary {
        instance: key(1),
        identity: Identity::ServerUuid(uuid(1)),
        since: NOW,
        epoch: 0,
        opened_by: None,
        process: None,
    });
    record.name = key(1).to_string();
    let state = State {
        clusters: recorded([record]),
        ..State::default()
    };
    (
        state,
        topology([primary(1, "1:1-9"), replica(2, 1, "1:1-9"), replica(3, 1, "1:1-9")]),
    )
}

fn described(state: &State, topology: &Topology) -> Option<Command> {
    let groups = group(&topology.instances, &topology.aliases, state);
    assert_eq!(groups.len(), 1, "{groups:?}");
    describe(state, &groups[0], topology, "")
}

fn primary_of(command: Option<Command>) -> Option<InstanceKey> {
    match command {
        Some(Command::DescribeCluster { primary, .. }) => primary.map(|(key, _)| key),
        _ => None,
    }
}

#[test]
fn those_who_replicate_belong_together_and_others_do_not() {
    let instances = by_key([
        primary(1, ""),
        replica(2, 1, ""),
        replica(3, 2, ""),
        primary(4, ""),
        replica(5, 4, ""),
    ]);
    let groups = by_records(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(grouped(&groups), [(vec![], keys(&[1, 2, 3])), (vec![], keys(&[4, 5]))]);
}

#[test]
fn replicas_of_a_server_that_is_not_watched_are_not_linked_through_it() {
    let instances = by_key([replica(2, 1, ""), replica(3, 1, "")]);
    let groups = by_records(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(groups.len(), 2);
}

#[test]
fn a_record_holds_together_what_no_longer_replicates() {
    let instances = by_key([primary(1, ""), primary(2, ""), replica(3, 2, "")]);
    let clusters = recorded([cluster("c1", 5, &[1, 2])]);
    let groups = by_records(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[1, 2, 3]))]);
}

#[test]
fn a_recorded_member_that_is_not_watched_does_not_part_the_others() {
    // Server 1 comes first in the record, and nobody watches it.
    let instances = by_key([primary(2, ""), primary(3, "")]);
    let clusters = recorded([cluster("c1", 5, &[1, 2, 3])]);
    let groups = by_records(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[2, 3]))]);
}

#[test]
fn clusters_that_turn_out_to_be_one_are_named_oldest_first() {
    let instances = by_key([primary(1, ""), replica(2, 1, ""), replica(3, 2, "")]);
    let clusters = recorded([cluster("b", 5, &[1]), cluster("a", 7, &[2]), cluster("c", 5, &[3])]);
    let groups = by_records(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["b", "c", "a"], keys(&[1, 2, 3]))]);
}

#[test]
fn addresses_of_one_server_are_one() {
    let instances = by_key([primary(1, ""), replica(2, 7, "")]);
    let aliases = BTreeMap::from([(key(7), key(1))]);
    let groups = by_records(&instances, &aliases, &recorded([cluster("c1", 5, &[7])]));
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[1, 2]))]);
}

#[test]
fn a_ring_is_one_group() {
    let instances = by_key([replica(1, 3, ""), replica(2, 1, ""), replica(3, 2, "")]);
    let groups = by_records(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(grouped(&groups), [(vec![], keys(&[1, 2, 3]))]);
}

#[test]
fn nothing_is_recorded_of_servers_that_were_never_seen() {
    let topology = topology([Instance::unseen(key(1))]);
    let groups = by_records(&topology.instances, &topology.aliases, &BTreeMap::new());
    assert_eq!(describe(&State::default(), &groups[0], &topology, ""), None);
}

#[test]
fn a_new_cluster_is_described_with_its_primary() {
    let (_, topology) = world();
    let command = described(&State::default(), &topology).unwrap();
    let Command::DescribeCluster {
        id,
        instances,
        primary,
        absorbs,
        document,
        ..
    } = command
    else {
        panic!()
    };
    assert_eq!(
        (id.0.as_str(), instances, absorbs, document),
        ("c1", keys(&[1, 2, 3]), vec![], None)
    );
    assert_eq!(primary, Some((key(1), Identity::ServerUuid(uuid(1)))));
}

#[test]
fn what_is_recorded_as_it_is_needs_no_entry() {
    let (state, topology) = world();
    assert_eq!(described(&state, &topology), None);
}

#[test]
fn a_dead_primary_stays_recorded() {
    let (state, mut topology) = world();
    let dead = topology.instances[&key(1)].clone().dead();
    topology.instances.insert(key(1), dead);
    assert_eq!(described(&state, &topology), None);
}

#[test]
fn one_that_was_opened_by_hand_is_no_primary_while_others_follow_the_old_one() {
    let (state, mut topology) = world();
    topology.instances.insert(key(1), primary(1, "1:1-9").dead());
    topology.instances.insert(key(2), primary(2, "1:1-9"));
    assert_eq!(primary_of(described(&state, &topology)), None);
    // When they follow it, it is.
    topology.instances.insert(key(3), replica(3, 2, "1:1-9"));
    assert_eq!(primary_of(described(&state, &topology)), Some(key(2)));
}

#[test]
fn of_two_writable_tops_none_is_recorded() {
    let (mut state, mut topology) = world();
    state.clusters.values_mut().for_each(|cluster| cluster.primary = None);
    topology.instances.insert(key(2), primary(2, "1:1-9"));
    assert_eq!(primary_of(described(&state, &topology)), None);
}

#[test]
fn a_read_only_or_silent_or_quarantined_top_is_not_recorded() {
    let (mut state, base) = world();
    state.clusters.values_mut().for_each(|cluster| cluster.primary = None);
    for top in [
        primary(1, "").facts(|facts| facts.read_only = true),
        primary(1, "").dead(),
    ] {
        let mut topology = base.clone();
        topology.instances.insert(key(1), top);
        assert_eq!(primary_of(described(&state, &topology)), None);
    }
    assert_eq!(primary_of(described(&state, &base)), Some(key(1)));
    let held = Quarantine {
        identity: Identity::ServerUuid(uuid(1)),
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        recovery: "r".to_owned(),
        epoch: 1,
        since: NOW,
        standing: QuarantineState::Absent,
    };
    state.quarantines.insert("c1/1".to_owned(), held);
    assert_eq!(primary_of(described(&state, &base)), None);
}

#[test]
fn another_server_at_the_primarys_address_is_recorded_as_another() {
    let (state, mut topology) = world();
    let other = primary(1, "1:1-9").facts(|facts| facts.identity = Identity::ServerUuid(uuid(9)));
    topology.instances.insert(key(1), other);
    let Some(Command::DescribeCluster { primary, .. }) = described(&state, &topology) else {
        panic!("nothing")
    };
    assert_eq!(primary, Some((key(1), Identity::ServerUuid(uuid(9)))));
}

#[test]
fn who_is_recorded_and_not_watched_at_this_moment_stays_recorded() {
    let (state, mut topology) = world();
    topology.instances.remove(&key(3));
    assert_eq!(described(&state, &topology), None);
    // A new one is added all the same.
    topology.instances.insert(key(4), replica(4, 1, "1:1-9"));
    let Some(Command::DescribeCluster { instances, .. }) = described(&state, &topology) else {
        panic!("nothing")
    };
    assert_eq!(instances, keys(&[1, 2, 3, 4]));
}

#[test]
fn an_address_that_turned_out_to_be_another_one_leaves_the_record() {
    let (state, mut topology) = world();
    topology.instances.remove(&key(3));
    topology.aliases.insert(key(3), key(2));
    let Some(Command::DescribeCluster { instances, .. }) = described(&state, &topology) else {
        panic!("nothing")
    };
    assert_eq!(instances, keys(&[1, 2]));
}

#[test]
fn several_records_of_one_cluster_end_in_the_oldest() {
    let (mut state, topology) = world();
    state
        .clusters
        .insert(ClusterId("c9".to_owned()), cluster("c9", 9, &[3]));
    let Some(Command::DescribeCluster { id, absorbs, .. }) = described(&state, &topology) else {
        panic!("nothing")
    };
    assert_eq!(
        (id, absorbs),
        (ClusterId("c1".to_owned()), vec![ClusterId("c9".to_owned())])
    );
}

/// db1, db2 and db3 as members of one group, of which `primaries` take writes; they name db4, which was not seen yet.
fn replication_group(primaries: &[u32]) -> Vec<Instance> {
    let member = |n: u32| {
        primary(n, "9:1-9").facts(|facts| {
            facts.read_only = !primaries.contains(&n);
            facts.group_name = "group".to_owned();
            facts.group = Some(GroupMember {
                state: GroupState::Online,
                role: if primaries.contains(&n) {
                    GroupRole::Primary
                } else {
                    GroupRole::Secondary
                },
                single_primary: primaries.len() == 1,
                members: vec![GroupPeer {
                    key: key(4),
                    uuid: uuid(4),
                    state: GroupState::Recovering,
                    role: GroupRole::Secondary,
                }],
            });
        })
    };
    vec![member(1), member(2), member(3)]
}

#[test]
fn members_of_one_replication_group_belong_together() {
    let mut instances = replication_group(&[1]);
    instances.push(Instance::unseen(key(4)));
    instances.push(primary(5, "5:1"));
    let groups = by_records(&by_key(instances), &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(grouped(&groups), [(vec![], keys(&[1, 2, 3, 4])), (vec![], keys(&[5]))]);
}

#[test]
fn the_record_follows_the_primary_that_the_replication_group_chose() {
    let (mut state, mut topology) = world();
    topology.instances = by_key(replication_group(&[2]));
    // An asynchronous replica of the former primary, which is a member still, does not hold the record back.
    topology.instances.insert(key(4), replica(4, 1, "9:1-9"));
    assert_eq!(primary_of(described(&state, &topology)), Some(key(2)));
    topology.instances = by_key(replication_group(&[1, 2, 3]));
    assert_eq!(described(&state, &topology), None, "the recorded one is one of several");
    topology.instances = by_key(replication_group(&[2, 3]));
    assert_eq!(primary_of(described(&state, &topology)), Some(key(2)));
    topology.instances.insert(key(5), primary(5, "5:1"));
    let record = state.clusters.values_mut().next().unwrap();
    record.instances.insert(key(5));
    assert_eq!(
        primary_of(described(&state, &topology)),
        None,
        "another one takes writes too"
    );
}

#[test]
fn of_co_primaries_the_writable_one_is_recorded() {
    let (mut state, mut topology) = world();
    let writable = |n, source| replica(n, source, "1:1-9").facts(|facts| facts.read_only = false);
    topology.instances = by_key([replica(1, 2, "1:1-9"), writable(2, 1), replica(3, 2, "1:1-9")]);
    assert_eq!(
        primary_of(described(&state, &topology)),
        Some(key(2)),
        "the roles were changed"
    );
    topology.instances.insert(key(1), writable(1, 2));
    assert_eq!(described(&state, &topology), None, "both: the recorded one stays");
    state.clusters.values_mut().for_each(|cluster| cluster.primary = None);
    assert_eq!(
        primary_of(described(&state, &topology)),
        Some(key(1)),
        "the first of them"
    );
}

#[test]
fn the_process_of_a_primary_that_takes_writes_is_recorded_once() {
    let (mut state, _) = world();
    let seen = |started: i64, read_only: bool| {
        let it = primary(1, "1:1-9").facts(|facts| {
            facts.started = Some(started);
            facts.read_only = read_only;
        });
        topology([it, replica(2, 1, "1:1-9"), replica(3, 1, "1:1-9")])
    };
    let told = |state: &State, topology: &Topology| match described(state, topology) {
        Some(Command::DescribeCluster { process, .. }) => process,
        _ => None,
    };
    assert_eq!(told(&state, &seen(1000, true)), None);
    assert_eq!(told(&state, &seen(1000, false)), Some(1000));
    for cluster in state.clusters.values_mut() {
        cluster.primary.as_mut().unwrap().process = Some(1000);
    }
    assert_eq!(described(&state, &seen(1001, false)), None);
    assert_eq!(told(&state, &seen(1060, false)), Some(1060));
    assert_eq!(described(&state, &seen(1060, true)), None);
}

#[test]
fn while_a_recovery_runs_nobody_else_says_who_the_primary_is() {
    use crate::domain::state::sample::{claim, plan};
    use crate::domain::state::{Proposal, apply};
    let (mut state, _) = world();
    let mut plan = plan(1, 1, 2, &[1, 2]);
    plan.cluster = ClusterId("c1".to_owned());
    let proposal = Proposal {
        version: 1,
        at: NOW,
        command: Command::Claim {
            claim: Box::new(claim("u1", plan)),
        },
    };
    let (applied, _) = apply(&mut state, &proposal);
    assert!(
        matches!(applied, crate::domain::state::Applied::Claimed { .. }),
        "{applied}"
    );
    let elsewhere = topology([primary(1, "1:1-9").dead(), primary(2, "1:1-9"), replica(3, 2, "1:1-9")]);
    assert_eq!(described(&state, &elsewhere), None);
}

/// Two recorded clusters, of servers 1 to 3 and 4 to 6, with the primaries 1 and 4, and the same as seen.
fn two_clusters() -> (State, BTreeMap<InstanceKey, Instance>) {
    let record = |id: &str, created_at: i64, first: u32| Cluster {
        primary: Some(RecordedPrimary {
            instance: key(first),
            identity: Identity::ServerUuid(uuid(first)),
            since: NOW,
            epoch: 0,
            opened_by: None,
            process: None,
        }),
        ..cluster(id, created_at, &[first, first + 1, first + 2])
    };
    let state = State {
        clusters: recorded([record("a", 5, 1), record("b", 7, 4)]),
        ..State::default()
    };
    let instances = by_key([
        primary(1, ""),
        replica(2, 1, ""),
        replica(3, 1, ""),
        primary(4, ""),
        replica(5, 4, ""),
        replica(6, 4, ""),
    ]);
    (state, instances)
}

#[test]
fn a_replica_that_was_moved_to_another_cluster_does_not_merge_the_two() {
    let (state, mut instances) = two_clusters();
    instances.insert(key(3), replica(3, 5, ""));
    let groups = group(&instances, &BTreeMap::new(), &state);
    assert_eq!(
        grouped(&groups),
        [(vec!["a"], keys(&[1, 2])), (vec!["b"], keys(&[3, 4, 5, 6]))]
    );
    // The primary itself takes its cluster along.
    instances.insert(key(1), replica(1, 4, ""));
    let groups = group(&instances, &BTreeMap::new(), &state);
    assert_eq!(grouped(&groups), [(vec!["a", "b"], keys(&[1, 2, 3, 4, 5, 6]))]);
}

#[test]
fn a_cluster_absorbs_none_in_which_a_recovery_runs() {
    use crate::domain::state::{apply, sample};
    for (busy, other) in [("a", "b"), ("b", "a")] {
        let (mut state, mut instances) = two_clusters();
        instances.insert(key(1), replica(1, 4, ""));
        let plan = sample::plan(1, 1, 2, &[1, 2, 3]);
        let claim = sample::claim("one", plan);
        let mut claimed = State {
            clusters: recorded([cluster("x", 1, &[1, 2, 3])]),
            ..State::default()
        };
        claimed.clusters = BTreeMap::from([(
            sample::cluster_id(1),
            Cluster {
                id: sample::cluster_id(1),
                ..cluster("x", 1, &[1, 2, 3])
            },
        )]);
        apply(
            &mut claimed,
            &crate::domain::state::Proposal::new(NOW, Command::Claim { claim: Box::new(claim) }),
        );
        let mut recovery = claimed.recoveries["one"].clone();
        recovery.plan.cluster = ClusterId(busy.to_owned());
        state.recoveries.insert("one".to_owned(), recovery);
        let groups = group(&instances, &BTreeMap::new(), &state);
        assert_eq!(groups.len(), 2, "{busy} {other}: {groups:?}");
        // Nor is a merge described from a view that shows them as one.
        let topology = topology(instances.values().cloned());
        let both = Grouping {
            recorded: vec![ClusterId("a".to_owned()), ClusterId("b".to_owned())],
            instances: instances.keys().cloned().collect(),
        };
        assert_eq!(describe(&state, &both, &topology, ""), None);
        state.recoveries.clear();
        assert_eq!(group(&instances, &BTreeMap::new(), &state).len(), 1);
        assert!(describe(&state, &both, &topology, "").is_some());
    }
}

#[test]
fn a_document_owns_the_older_of_two_clusters_with_its_seeds() {
    let (mut state, instances) = two_clusters();
    let mut both = document("shop");
    both.seeds = keys(&[1, 4]);
    for cluster in state.clusters.values_mut() {
        cluster.document = Some(both.origin.clone());
    }
    state.documents.insert(both.origin.clone(), both.clone());
    let owner_of = |id: &str, servers: &[u32]| {
        let servers = servers.iter().filter_map(|n| instances.get(&key(*n)).cloned());
        let mut topology = topology(servers);
        topology.cluster = ClusterId(id.to_owned());
        ownership::owner(&state, &topology)
    };
    assert_eq!(owner_of("a", &[1, 2, 3]), Some(both.origin.clone()));
    assert_eq!(owner_of("b", &[4, 5, 6]), None);
}

#[test]
fn no_link_merges_the_clusters_of_two_documents() {
    // The intruder is an older cluster; one of its servers replicates from a server that replicates from the other one's primary.
    let instances = by_key([
        primary(1, ""),
        replica(2, 1, ""),
        replica(3, 1, ""),
        replica(4, 3, ""),
        replica(5, 4, ""),
    ]);
    for intruder in [1, 99] {
        let mut state = State {
            clusters: recorded([cluster("orders", 5, &[1, 2]), cluster("intruder", intruder, &[4, 5])]),
            ..State::default()
        };
        for name in ["orders", "intruder"] {
            let document = document(name);
            let cluster = state.clusters.get_mut(&ClusterId(name.to_owned())).unwrap();
            cluster.document = Some(document.origin.clone());
            state.documents.insert(document.origin.clone(), document);
        }
        let groups = group(&instances, &BTreeMap::new(), &state);
        assert_eq!(
            grouped(&groups),
            [(vec!["orders"], keys(&[1, 2, 3])), (vec!["intruder"], keys(&[4, 5]))],
            "{intruder}"
        );
        // Of one document, or without one, they are one.
        state.documents.remove(&document("intruder").origin);
        assert_eq!(group(&instances, &BTreeMap::new(), &state).len(), 1);
    }
}

/// The version of [`group`] before it was linear.
fn quadratic(
    instances: &BTreeMap<InstanceKey, Instance>,
    aliases: &BTreeMap<InstanceKey, InstanceKey>,
    clusters: &BTreeMap<ClusterId, Cluster>,
) -> Vec<Grouping> {
    let resolve = |key: &InstanceKey| aliases.get(key).unwrap_or(key).clone();
    let mut neighbours: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> =
        instances.keys().map(|key| (key.clone(), BTreeSet::new())).collect();
    let mut link = |a: &InstanceKey, b: &InstanceKey| {
        if instances.contains_key(a) && instances.contains_key(b) {
            neighbours.entry(a.clone()).or_default().insert(b.clone());
            neighbours.entry(b.clone()).or_default().insert(a.clone());
        }
    };
    for instance in instances.values() {
        if let Some(source) = instance.source() {
            link(&instance.key, &resolve(source));
        }
    }
    let mut group_of: BTreeMap<&str, &InstanceKey> = BTreeMap::new();
    for instance in instances.values() {
        let facts = instance.facts.as_ref().filter(|facts| facts.is_group_member());
        let Some(facts) = facts else { continue };
        let first = group_of.entry(&facts.group_name).or_insert(&instance.key);
        link(first, &instance.key);
        for peer in facts.group.iter().flat_map(|group| &group.members) {
            link(&instance.key, &resolve(&peer.key));
        }
    }
    for cluster in clusters.values() {
        let mut members = cluster
            .instances
            .iter()
            .map(&resolve)
            .filter(|key| instances.contains_key(key));
        if let Some(first) = members.next() {
            for member in members {
                link(&first, &member);
            }
        }
    }
    let mut groups = Vec::new();
    let mut done: BTreeSet<InstanceKey> = BTreeSet::new();
    for start in instances.keys() {
        if done.contains(start) {
            continue;
        }
        let mut found = BTreeSet::from([start.clone()]);
        let mut waiting = vec![start.clone()];
        while let Some(key) = waiting.pop() {
            for neighbour in neighbours.get(&key).into_iter().flatten() {
                if found.insert(neighbour.clone()) {
                    waiting.push(neighbour.clone());
                }
            }
        }
        done.extend(found.iter().cloned());
        let mut recorded: Vec<&Cluster> = clusters
            .values()
            .filter(|cluster| cluster.instances.iter().any(|key| found.contains(&resolve(key))))
            .collect();
        recorded.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        groups.push(Grouping {
            recorded: recorded.into_iter().map(|cluster| cluster.id.clone()).collect(),
            instances: found,
        });
    }
    groups
}

proptest::proptest! {
    #[test]
    fn grouping_in_linear_time_gives_what_the_quadratic_version_gave(
        sources in proptest::collection::vec(0_u32..16, 14),
        in_groups in proptest::collection::vec(0_u8..5, 14),
        records in proptest::collection::vec((0_i64..3, proptest::collection::btree_set(1_u32..18, 0..6)), 0..6),
        other_addresses in proptest::collection::btree_map(14_u32..20, 1_u32..15, 0..4),
    ) {
        let numbers = (1_u32..).zip(sources.iter().zip(&in_groups));
        let instances = by_key(numbers.map(|(n, (source, group))| {
            let instance = match source {
                0 => primary(n, ""),
                1 => Instance::unseen(key(n)),
                source => replica(n, *source, ""),
            };
            match group {
                0 if instance.facts.is_some() => instance.facts(|facts| facts.group_name = format!("g{}", n % 3)),
                _ => instance,
            }
        }));
        let aliases: BTreeMap<InstanceKey, InstanceKey> =
            other_addresses.into_iter().map(|(alias, of)| (key(alias), key(of))).filter(|(alias, of)| alias != of).collect();
        let clusters = recorded(records.iter().enumerate().map(|(at, (created_at, servers))| {
            cluster(&format!("c{at}"), *created_at, &servers.iter().copied().collect::<Vec<_>>())
        }));
        proptest::prop_assert_eq!(
            by_records(&instances, &aliases, &clusters),
            quadratic(&instances, &aliases, &clusters)
        );
    }
}

#[test]
fn a_server_that_was_just_forgotten_was_recorded_again_while_it_was_still_polled() {
    let (mut state, view) = world();
    let only = Grouping {
        recorded: vec![ClusterId("c1".to_owned())],
        instances: keys(&[1, 2, 3]),
    };
    state.clusters.values_mut().for_each(|cluster| {
        cluster.instances.remove(&key(3));
    });
    state.forgotten.insert(key(3), NOW);
    let described = describe(&state, &only, &view, "");
    assert!(
        !matches!(&described, Some(Command::DescribeCluster { instances, .. }) if instances.contains(&key(3))),
        "{described:?}"
    );
    // A cluster of which everything was forgotten is not recorded as a new one.
    state.clusters.clear();
    state.forgotten.extend([1, 2].map(|n| (key(n), NOW)));
    let only = Grouping {
        recorded: Vec::new(),
        ..only
    };
    assert_eq!(describe(&state, &only, &view, ""), None);
}
