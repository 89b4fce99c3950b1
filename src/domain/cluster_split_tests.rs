use super::*;
use crate::domain::fixture::{Adjust, NOW, key, mysql_set, primary, replica, topology, uuid};
use crate::domain::instance::ProbeFailure;
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::sample::{claim, plan};
use crate::domain::state::{Applied, Proposal, Quarantine, QuarantineState, apply};

fn identity(n: u32) -> Identity {
    Identity::ServerUuid(uuid(n))
}

/// The recorded cluster `c1` of servers 1 to 6 with the primary 1. Server 3 was made a primary of its own, and 5 and 6
/// follow it.
fn world() -> (State, Vec<Instance>) {
    let cluster = Cluster {
        id: ClusterId("c1".to_owned()),
        created_at: NOW,
        name: key(1).to_string(),
        alias: "shop".to_owned(),
        epoch: 7,
        instances: (1..=6).map(key).collect(),
        primary: Some(RecordedPrimary {
            instance: key(1),
            identity: identity(1),
            since: NOW,
            epoch: 0,
            opened_by: None,
            process: None,
        }),
        document: None,
        split_from: None,
    };
    let state = State {
        clusters: [(cluster.id.clone(), cluster)].into(),
        clock: NOW,
        ..State::default()
    };
    let instances = vec![
        primary(1, "1:1-120"),
        replica(2, 1, "1:1-120"),
        replica(4, 1, "1:1-119"),
        primary(3, "1:1-100,3:1-9"),
        replica(5, 3, "1:1-100,3:1-9"),
        replica(6, 5, "1:1-100,3:1-10"),
    ];
    (state, instances)
}

fn judged(state: &State, instances: Vec<Instance>) -> Division {
    division(state, &topology(instances), NOW)
}

fn apart(division: Division) -> Vec<(InstanceKey, BTreeSet<InstanceKey>)> {
    match division {
        Division::Halves(halves) => halves
            .apart
            .into_iter()
            .map(|half| (half.head, half.instances))
            .collect(),
        Division::One | Division::Held { .. } => panic!("{division:?}"),
    }
}

fn held(division: Division) -> String {
    match division {
        Division::Held { why } => why,
        Division::One | Division::Halves(_) => panic!("{division:?}"),
    }
}

#[test]
fn a_cluster_that_a_person_splits_becomes_two() {
    let (state, instances) = world();
    let topology = topology(instances.clone());
    let Division::Halves(halves) = division(&state, &topology, NOW) else {
        panic!("one")
    };
    assert_eq!(halves.kept.instances, [1, 2, 4].map(key).into());
    assert_eq!(apart(judged(&state, instances)), [(key(3), [3, 5, 6].map(key).into())]);
    let mut after = state.clone();
    let command = command(&state, &topology, &halves.apart[0], ClusterId("c2".to_owned()), "why");
    let (applied, _) = apply(&mut after, &Proposal::new(NOW, command));
    assert_eq!(applied, Applied::Done);
    let (old, new) = (
        &after.clusters[&ClusterId("c1".to_owned())],
        &after.clusters[&ClusterId("c2".to_owned())],
    );
    assert_eq!((old.name.as_str(), old.alias.as_str()), ("db1:3306", "shop"));
    assert_eq!(old.instances, [1, 2, 4].map(key).into());
    assert_eq!((new.name.as_str(), new.alias.as_str(), new.epoch), ("db3:3306", "", 7));
    assert_eq!(new.instances, [3, 5, 6].map(key).into());
    assert_eq!(
        new.primary.as_ref().map(|it| (&it.instance, &it.identity)),
        Some((&key(3), &identity(3)))
    );
    // And they stay two.
    let groups = super::super::grouping::group(&topology.instances, &topology.aliases, &after);
    assert_eq!(groups.len(), 2, "{groups:?}");
    let audit = after.audit.values().next().unwrap();
    assert_eq!(
        (audit.kind.as_str(), audit.cluster_name.as_str()),
        ("split-cluster", "db1:3306")
    );
}

#[test]
fn a_second_writable_server_without_a_replica_is_no_half() {
    let (state, mut instances) = world();
    instances.truncate(4);
    assert_eq!(held(judged(&state, instances)), "nothing replicates from db3:3306");
    // And of a primary that lost all its replicas to the other one, a takeover by hand was forgotten.
    let (state, mut instances) = world();
    instances[1] = replica(2, 3, "1:1-100,3:1-9");
    instances[2] = replica(4, 3, "1:1-100,3:1-9");
    assert_eq!(held(judged(&state, instances)), "nothing replicates from db1:3306");
}

#[test]
fn one_writable_primary_is_one_cluster() {
    let (state, mut instances) = world();
    instances[3] = instances[3].clone().facts(|facts| facts.read_only = true);
    assert_eq!(judged(&state, instances), Division::One);
    let (state, mut instances) = world();
    instances[0] = instances[0].clone().dead();
    assert_eq!(judged(&state, instances), Division::One);
}

#[test]
fn a_split_brain_after_a_recovery_stays_one() {
    let (mut state, instances) = world();
    state.quarantines.insert(
        "c1/x".to_owned(),
        Quarantine {
            identity: identity(3),
            instance: key(3),
            cluster: ClusterId("c1".to_owned()),
            recovery: "r".to_owned(),
            epoch: 1,
            since: NOW,
            standing: QuarantineState::Absent,
        },
    );
    assert_eq!(held(judged(&state, instances.clone())), "db3:3306 is in quarantine");
    state.quarantines.clear();
    let mut ran = plan(1, 3, 1, &[1, 3]);
    ran.cluster = ClusterId("c1".to_owned());
    state.clusters.get_mut(&ran.cluster).unwrap().primary = None;
    apply(
        &mut state,
        &Proposal::new(
            NOW,
            Command::Claim {
                claim: Box::new(claim("r1", ran)),
            },
        ),
    );
    state.clusters = world().0.clusters;
    assert_eq!(
        held(judged(&state, instances.clone())),
        "recovery r1 of the cluster runs"
    );
    let ended = |minutes: i64| super::super::state::Phase::Ended {
        at: NOW.plus_millis(-minutes * 60_000),
        successor: Some(key(1)),
        successful: true,
    };
    state.recoveries.get_mut("r1").unwrap().phase = ended(9);
    let why = held(judged(&state, instances.clone()));
    assert!(
        why.starts_with("recovery r1 replaced the primary less than 10 minutes ago"),
        "{why}"
    );
    state.recoveries.get_mut("r1").unwrap().phase = ended(11);
    assert_eq!(apart(judged(&state, instances)).len(), 1);
}

#[test]
fn halves_that_do_not_work_or_hold_foreign_transactions_stay_one() {
    type Change = fn(Instance) -> Instance;
    let cases: [(&str, usize, Change); 5] = [
        ("db5:3306 does not answer", 4, |it| it.failing(ProbeFailure::NoAnswer)),
        ("db6:3306 does not replicate", 5, Adjust::cut),
        ("db2:3306 does not answer", 1, |it| it.failing(ProbeFailure::NoAnswer)),
        ("db2:3306 does not replicate", 1, |it| {
            it.channel(|channel| channel.sql = ThreadState::Stopped)
        }),
        (
            "db4:3306 has transactions that db1:3306 lacks: 00000003-0000-0000-0000-000000000000:1-4",
            2,
            |it| it.facts(|facts| facts.executed = mysql_set("1:1-119,3:1-4")),
        ),
    ];
    for (why, at, change) in cases {
        let (state, mut instances) = world();
        instances[at] = change(instances[at].clone());
        assert_eq!(held(judged(&state, instances)), why);
    }
    let (state, mut instances) = world();
    instances[0] = primary(1, "1:1-120").facts(|facts| facts.identity = identity(9));
    assert_eq!(
        held(judged(&state, instances)),
        "db1:3306 is not the server that is recorded as the primary"
    );
}

#[test]
fn halves_become_clusters_once_they_have_looked_the_same_for_a_while() {
    let (state, instances) = world();
    let later = |millis: i64, change: fn(&mut Vec<Instance>)| {
        let mut instances = instances.clone();
        for instance in &mut instances {
            instance.last_seen = Some(NOW.plus_millis(millis));
        }
        change(&mut instances);
        topology(instances)
    };
    let halves_of = |topology: &Topology| match division(&state, topology, NOW) {
        Division::Halves(halves) => halves,
        other @ (Division::One | Division::Held { .. }) => panic!("{other:?}"),
    };
    let mut dwell = SplitDwell::default();
    let mut ripe =
        |millis: i64, topology: &Topology| dwell.is_ripe(topology, &halves_of(topology), NOW.plus_millis(millis));
    assert!(!ripe(0, &later(0, |_| {})));
    assert!(!ripe(5000, &later(5000, |_| {})));
    // One was not read since.
    assert!(!ripe(6000, &later(6000, |all| all[4].last_seen = Some(NOW))));
    assert!(ripe(6100, &later(6000, |_| {})));
    // One joined the half: the time begins again.
    assert!(!ripe(7000, &later(7000, |all| all[2] = replica(4, 3, "1:1-100,3:1-9"))));
    assert!(!ripe(
        12_900,
        &later(12_900, |all| {
            all[2] = replica(4, 3, "1:1-100,3:1-9");
            all[2].last_seen = Some(NOW.plus_millis(12_900));
        })
    ));
}

#[test]
fn split_cluster_names_what_forbids_it() {
    let (state, mut instances) = world();
    let refused = |state: &State, instances: &[Instance], n: u32| {
        half_of(state, &topology(instances.to_vec()), &key(n)).unwrap_err()
    };
    assert!(refused(&state, &instances, 1).starts_with("db1:3306 is the recorded primary of cluster db1:3306"));
    assert!(refused(&state, &instances, 5).starts_with("db5:3306 replicates from db3:3306; end its replication first"));
    assert!(refused(&state, &instances, 9).starts_with("db9:3306 is not a server of cluster"));
    let half = half_of(&state, &topology(instances.clone()), &key(3)).unwrap();
    assert_eq!((half.is_writable, half.instances.len()), (true, 3));
    // A lone server that takes writes is separated by the command only.
    instances.truncate(4);
    let half = half_of(&state, &topology(instances.clone()), &key(3)).unwrap();
    assert_eq!(half.instances, BTreeSet::from([key(3)]));
    let mut held = state.clone();
    held.quarantines.insert(
        "c1/x".to_owned(),
        Quarantine {
            identity: identity(3),
            instance: key(3),
            cluster: ClusterId("c1".to_owned()),
            recovery: "r".to_owned(),
            epoch: 1,
            since: NOW,
            standing: QuarantineState::Absent,
        },
    );
    assert!(refused(&held, &instances, 3).starts_with("db3:3306 is in quarantine after recovery r"));
}

#[test]
fn merge_clusters_names_what_forbids_it() {
    let (mut state, instances) = world();
    let whole = topology(instances.clone());
    let half = half_of(&state, &whole, &key(3)).unwrap();
    let split = command(&state, &whole, &half, ClusterId("c2".to_owned()), "why");
    apply(&mut state, &Proposal::new(NOW, split));
    let one = |change: fn(Instance) -> Instance| {
        let mut own = instances[..3].to_vec();
        own[0] = change(own[0].clone());
        topology(own)
    };
    let other = |change: fn(Instance) -> Instance| {
        let mut own = instances[3..].to_vec();
        own[0] = change(own[0].clone());
        Topology {
            cluster: ClusterId("c2".to_owned()),
            cluster_name: key(3).to_string(),
            recorded_primary: Some(key(3)),
            ..topology(own)
        }
    };
    let closed = |it: Instance| it.facts(|facts| facts.read_only = true);
    assert_eq!(
        merge(&state, &one(|it| it), &other(|it| it), "").unwrap_err(),
        "db1:3306 and db3:3306 are both writable primaries; make one of them read-only first"
    );
    assert_eq!(
        merge(&state, &one(|it| it), &other(Adjust::dead), "").unwrap_err(),
        "db3:3306, the primary of db3:3306, does not answer, so it may be writable"
    );
    assert_eq!(
        merge(&state, &one(|it| it), &one(|it| it), "").unwrap_err(),
        "db1:3306 is one cluster"
    );
    let wanted = merge(&state, &other(closed), &one(|it| it), "").unwrap();
    let (applied, _) = apply(&mut state, &Proposal::new(NOW, wanted));
    assert_eq!(applied, Applied::Done);
    let merged = state.clusters.values().collect::<Vec<_>>();
    assert_eq!(merged.len(), 1);
    assert_eq!((merged[0].id.0.as_str(), merged[0].instances.len()), ("c1", 6));
    assert_eq!(merged[0].primary.as_ref().map(|it| &it.instance), Some(&key(1)));
}
