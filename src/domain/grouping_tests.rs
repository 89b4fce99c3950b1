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
    let groups = group(&topology.instances, &topology.aliases, &state.clusters);
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
    let groups = group(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(grouped(&groups), [(vec![], keys(&[1, 2, 3])), (vec![], keys(&[4, 5]))]);
}

#[test]
fn replicas_of_a_server_that_is_not_watched_are_not_linked_through_it() {
    let instances = by_key([replica(2, 1, ""), replica(3, 1, "")]);
    let groups = group(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(groups.len(), 2);
}

#[test]
fn a_record_holds_together_what_no_longer_replicates() {
    let instances = by_key([primary(1, ""), primary(2, ""), replica(3, 2, "")]);
    let clusters = recorded([cluster("c1", 5, &[1, 2])]);
    let groups = group(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[1, 2, 3]))]);
}

#[test]
fn a_recorded_member_that_is_not_watched_does_not_part_the_others() {
    // Server 1 comes first in the record, and nobody watches it.
    let instances = by_key([primary(2, ""), primary(3, "")]);
    let clusters = recorded([cluster("c1", 5, &[1, 2, 3])]);
    let groups = group(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[2, 3]))]);
}

#[test]
fn clusters_that_turn_out_to_be_one_are_named_oldest_first() {
    let instances = by_key([primary(1, ""), replica(2, 1, ""), replica(3, 2, "")]);
    let clusters = recorded([cluster("b", 5, &[1]), cluster("a", 7, &[2]), cluster("c", 5, &[3])]);
    let groups = group(&instances, &BTreeMap::new(), &clusters);
    assert_eq!(grouped(&groups), [(vec!["b", "c", "a"], keys(&[1, 2, 3]))]);
}

#[test]
fn addresses_of_one_server_are_one() {
    let instances = by_key([primary(1, ""), replica(2, 7, "")]);
    let aliases = BTreeMap::from([(key(7), key(1))]);
    let groups = group(&instances, &aliases, &recorded([cluster("c1", 5, &[7])]));
    assert_eq!(grouped(&groups), [(vec!["c1"], keys(&[1, 2]))]);
}

#[test]
fn a_ring_is_one_group() {
    let instances = by_key([replica(1, 3, ""), replica(2, 1, ""), replica(3, 2, "")]);
    let groups = group(&instances, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(grouped(&groups), [(vec![], keys(&[1, 2, 3]))]);
}

#[test]
fn nothing_is_recorded_of_servers_that_were_never_seen() {
    let topology = topology([Instance::unseen(key(1))]);
    let groups = group(&topology.instances, &topology.aliases, &BTreeMap::new());
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
fn the_oldest_document_with_a_seed_in_the_cluster_owns_it() {
    let (mut state, topology) = world();
    let named = |name: &str, created: i64, seed: u32| crate::domain::state::Document {
        created: WallTime(created),
        seeds: BTreeSet::from([key(seed)]),
        ..document(name)
    };
    for document in [named("young", 30, 1), named("old", 20, 3), named("elsewhere", 10, 9)] {
        state.documents.insert(document.origin.clone(), document);
    }
    assert_eq!(owner(&state, &topology), Some(document("old").origin));
    let tie = named("also-old", 20, 2);
    state.documents.insert(tie.origin.clone(), tie);
    assert_eq!(owner(&state, &topology), Some(document("also-old").origin));
    let Some(Command::DescribeCluster { document: owner, .. }) = described(&state, &topology) else {
        panic!("nothing")
    };
    assert_eq!(owner, Some(document("also-old").origin));
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
    let groups = group(&by_key(instances), &BTreeMap::new(), &BTreeMap::new());
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
