use super::code_tests::policy;
use super::*;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology, uuid};
use crate::domain::group_replication::{GroupMember, GroupPeer, GroupRole, GroupState};
use crate::domain::instance::{Instance, ProbeFailure};

const ALL: [u32; 3] = [1, 2, 3];

/// Member `n` of a group of db1, db2 and db3, of which `primaries` take writes.
pub(super) fn member(n: u32, primaries: &[u32]) -> Instance {
    let role = |n: u32| {
        if primaries.contains(&n) {
            GroupRole::Primary
        } else {
            GroupRole::Secondary
        }
    };
    primary(n, "9:1-100").facts(|facts| {
        facts.read_only = !primaries.contains(&n);
        facts.group_name = "group".to_owned();
        facts.group = Some(GroupMember {
            state: GroupState::Online,
            role: role(n),
            single_primary: primaries.len() == 1,
            members: ALL
                .map(|n| GroupPeer {
                    key: key(n),
                    uuid: uuid(n),
                    state: GroupState::Online,
                    role: role(n),
                })
                .into(),
        });
    })
}

fn group(primaries: &[u32]) -> Vec<Instance> {
    ALL.map(|n| member(n, primaries)).into()
}

fn codes(instances: Vec<Instance>) -> Vec<(Code, String)> {
    findings(&topology(instances), &policy(), &[], NOW)
        .into_iter()
        .map(|finding| (finding.code, finding.instance.hostname))
        .collect()
}

#[test]
fn the_primary_of_a_group_is_whom_the_group_says() {
    let tree = topology(group(&[1]));
    assert_eq!(codes(group(&[1])), []);
    assert_eq!(current_primary(&tree), Some(key(1)));
    assert_eq!(current_primary(&topology(group(&[2]))), Some(key(2)), "db1 is recorded");
    let mut unseen = group(&[3]);
    unseen[2] = unseen[2].clone().dead();
    assert_eq!(current_primary(&topology(unseen)), Some(key(3)), "by the others' word");
    let mut multi = topology(group(&[1, 2, 3]));
    assert_eq!(codes(group(&[1, 2, 3])), [], "many writable members are one node");
    assert_eq!(current_primary(&multi), Some(key(1)));
    multi.recorded_primary = Some(key(2));
    assert_eq!(current_primary(&multi), Some(key(2)));
}

#[test]
fn a_member_that_died_is_no_dead_primary() {
    let mut instances = group(&[2]);
    instances[0] = instances[0].clone().dead();
    assert_eq!(codes(instances.clone()), []);
    instances.push(replica(4, 1, "9:1-100").cut());
    instances.push(replica(5, 2, "9:1-100"));
    assert_eq!(
        codes(instances.clone()),
        [(Code::DeadReplicationGroupMemberWithReplicas, "db1".to_owned())]
    );
    instances[0] = instances[0].clone().failing(ProbeFailure::Stalled);
    assert_eq!(
        codes(instances.clone()),
        [(Code::FirstTierReplicaFailingToConnectToMaster, "db4".to_owned())],
        "it lives"
    );
    instances[0] = member(1, &[2]).dead();
    instances[3] = replica(4, 1, "9:1-100");
    assert_eq!(codes(instances), [], "its replica receives");
}

#[test]
fn a_group_of_which_nobody_answers_is_unreachable_and_never_dead() {
    let silent: Vec<Instance> = group(&[1]).into_iter().map(Adjust::dead).collect();
    assert_eq!(codes(silent), [(Code::UnreachableMaster, "db1".to_owned())]);
}

#[test]
fn a_writable_server_beside_a_group_is_another_primary() {
    let mut instances = group(&[1, 2]);
    instances.push(primary(4, "4:1-5"));
    instances.push(replica(5, 1, "9:1-100"));
    assert_eq!(
        codes(instances.clone()),
        [
            (Code::SplitPrimary, "db1".to_owned()),
            (Code::SplitPrimary, "db4".to_owned())
        ]
    );
    let tree = topology(instances);
    assert_eq!(other_writable_tops(&tree, &key(2)), [key(4)].into());
    assert_eq!(other_writable_tops(&tree, &key(4)), [key(1)].into());
}

#[test]
fn a_group_that_replicates_from_elsewhere_is_in_the_middle() {
    let mut instances = group(&[1]);
    let channel = replica(1, 9, "9:1-100").facts.unwrap().channels;
    instances[0] = instances[0].clone().facts(|facts| facts.channels = channel);
    instances.push(primary(9, "9:1-100"));
    let mut tree = topology(instances);
    tree.recorded_primary = Some(key(9));
    assert_eq!(current_primary(&tree), Some(key(9)));
    assert_eq!(findings(&tree, &policy(), &[], NOW), []);
}

#[test]
fn a_server_that_only_could_join_a_group_is_an_ordinary_one() {
    let offline = primary(1, "1:1-100").facts(|facts| {
        facts.group_name = "group".to_owned();
        facts.group = Some(GroupMember {
            state: GroupState::Offline,
            ..GroupMember::default()
        });
    });
    assert_eq!(
        codes(vec![offline.dead(), replica(2, 1, "1:1-100").cut()]),
        [(Code::DeadMaster, "db1".to_owned())]
    );
    let unread = primary(1, "1:1-100").facts(|facts| facts.group_name = "group".to_owned());
    let found = codes(vec![unread.dead(), replica(2, 1, "1:1-100").cut()]);
    assert_eq!(
        found,
        [(Code::DeadReplicationGroupMemberWithReplicas, "db1".to_owned())]
    );
}

#[test]
fn another_primary_is_told_when_it_is_of_the_same_group() {
    let mut instances = group(&[2]);
    instances[0] = instances[0].clone().dead();
    instances.push(replica(4, 2, "9:1-100"));
    let tree = topology(instances);
    let told = group::choice(&tree, &policy(), &key(1), &key(2)).unwrap();
    assert_eq!((told.code, &told.instance), (Code::GroupPrimaryChanged, &key(1)));
    assert!(told.evidence.is_primary && told.evidence.is_group_member);
    assert!(
        told.description.contains("has chosen db2:3306") && told.description.contains("unreachable"),
        "{}",
        told.description
    );
    assert_eq!(
        group::choice(&tree, &policy(), &key(1), &key(4)),
        None,
        "db4 is outside"
    );
    assert_eq!(group::choice(&tree, &policy(), &key(4), &key(1)), None);
}
