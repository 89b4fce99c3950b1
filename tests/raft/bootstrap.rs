//! A group is founded once, whichever step is interrupted.

use std::collections::BTreeSet;
use std::sync::Arc;

use ham4db::adapter::raft::identity::{IdentityPhase, MemberIdentity};
use ham4db::adapter::raft::{BootstrapStep, LOST_GROUP_HELP};
use ham4db::app::ports::Consensus;

use crate::harness::{Group, HaltAt, MemoryMarker, eventually, until};

fn identity(group: &Group, index: usize) -> Option<MemberIdentity> {
    MemberIdentity::load(&group.nodes[index].directory.path().join("raft")).unwrap()
}

/// One uuid, one leader, three voters with the ids of the founding.
async fn is_one_group(group: &Group) {
    group.healthy().await;
    let ids: Vec<u64> = group.voters().await.iter().map(|peer| peer.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    let uuids: BTreeSet<String> = (0..3)
        .map(|index| identity(group, index).unwrap().cluster_uuid)
        .collect();
    assert_eq!(uuids.len(), 1);
    let seeds = group.commit(1).await;
    group.all_have(seeds).await;
}

async fn survives_a_halt(halted: usize, step: BootstrapStep) {
    let mut group = Group::prepare(3).await;
    group.marker = Some(Arc::new(MemoryMarker::default()));
    let halt = HaltAt::step(step.clone());
    for index in 0..3 {
        let observer = (index == halted).then(|| halt.clone());
        group.try_start(index, observer).await.unwrap();
    }
    until(&format!("{step:?} is reached"), || halt.was_reached()).await;
    group.stop(halted).await;
    let before = identity(&group, halted);
    group.start(halted).await;
    is_one_group(&group).await;
    if let Some(before) = before {
        let after = identity(&group, halted).unwrap();
        assert_eq!(
            (after.cluster_uuid, after.member),
            (before.cluster_uuid, before.member),
            "resumed, not begun anew, after {step:?}"
        );
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_after_its_identity_resumes() {
    survives_a_halt(0, BootstrapStep::IdentityWritten).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_after_the_marker_resumes() {
    survives_a_halt(0, BootstrapStep::MarkerWritten).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_between_two_peers_resumes() {
    survives_a_halt(0, BootstrapStep::PeerAssigned(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_after_the_last_peer_resumes() {
    survives_a_halt(0, BootstrapStep::PeerAssigned(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_after_its_log_was_stamped_resumes() {
    survives_a_halt(0, BootstrapStep::LogStamped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_after_the_first_entry_resumes() {
    survives_a_halt(0, BootstrapStep::Initialised).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_killed_at_the_end_resumes() {
    survives_a_halt(0, BootstrapStep::Settled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_killed_before_it_acknowledged_its_id_resumes() {
    survives_a_halt(1, BootstrapStep::AssignmentStored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_killed_after_its_log_was_stamped_resumes() {
    survives_a_halt(2, BootstrapStep::LogStamped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_waits_for_every_peer_and_says_for_whom() {
    let mut group = Group::prepare(3).await;
    group.start(0).await;
    group.start(1).await;
    until("the founder waits for c", || {
        group.nodes[0]
            .health()
            .is_err_and(|why| why.contains("waits for c ") && !why.contains("waits for b"))
    })
    .await;
    until("b waits for the founder", || {
        group.nodes[1]
            .health()
            .is_err_and(|why| why.contains("waits for a to found"))
    })
    .await;
    assert_eq!(
        (identity(&group, 0), identity(&group, 1)),
        (None, None),
        "nobody has an id yet"
    );
    group.start(2).await;
    is_one_group(&group).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_that_lost_its_disk_before_the_first_entry_founds_no_second_group() {
    for with_marker in [true, false] {
        let mut group = Group::prepare(3).await;
        group.marker = with_marker.then(|| Arc::new(MemoryMarker::default()));
        let halt = HaltAt::step(BootstrapStep::PeerAssigned(3));
        group.try_start(0, Some(halt.clone())).await.unwrap();
        group.start(1).await;
        group.start(2).await;
        until("all have ids", || halt.was_reached()).await;
        group.stop(0).await;
        group.lose_disk(0);
        group.start(0).await;
        until("the recovery command is named", || {
            group.nodes[0].health().is_err_and(|why| why.contains(LOST_GROUP_HELP))
        })
        .await;
        assert!(identity(&group, 0).is_none_or(|identity| identity.phase == IdentityPhase::Wiped));
        group.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marker_of_a_lost_group_is_respected_by_pristine_members() {
    let mut group = Group::prepare(3).await;
    group.marker = Some(Arc::new(MemoryMarker::default()));
    for index in 0..3 {
        group.start(index).await;
    }
    group.healthy().await;
    let uuid = identity(&group, 0).unwrap().cluster_uuid;
    for index in 0..3 {
        group.stop(index).await;
        group.lose_disk(index);
    }
    for index in 0..3 {
        group.start(index).await;
    }
    until("the recovery command is named", || {
        group.nodes[0].health().is_err_and(|why| why.contains(LOST_GROUP_HELP))
    })
    .await;
    assert_eq!(identity(&group, 0).unwrap().cluster_uuid, uuid);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_founder_joins_its_group_with_a_new_id() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(3).await;
    group.stop(0).await;
    group.lose_disk(0);
    group.start(0).await;
    group.healthy().await;
    group.all_have(seeds).await;
    let voters = eventually("the old id is gone", || async {
        let voters = group.voters().await;
        (voters.len() == 3 && voters.iter().all(|peer| peer.id != 1)).then_some(voters)
    })
    .await;
    assert_eq!(voters[0].name, "a");
    assert!(voters[0].id > 3, "{voters:?}");
    assert_eq!(group.nodes[0].id(), voters[0].id);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_of_a_group_may_only_join_that_group() {
    let mut group = Group::prepare(3).await;
    group.nodes[0].store = crate::store::MemoryStore::of_group("uuid-of-another");
    for index in 0..3 {
        group.start(index).await;
    }
    until("a founds nothing", || {
        group.nodes[0]
            .health()
            .is_err_and(|why| why.contains("its backend belongs to group uuid-of-another"))
    })
    .await;
    assert_eq!(identity(&group, 0), None);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_does_not_start_on_the_backend_of_another_group() {
    let mut group = Group::running(3).await;
    group.stop(1).await;
    group.nodes[1].store = crate::store::MemoryStore::of_group("uuid-of-another");
    let error = group.try_start(1, None).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the backend belongs to group uuid-of-another"),
        "{error}"
    );
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_keeps_its_id_while_the_group_is_down() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(2).await;
    for index in 0..3 {
        group.stop(index).await;
    }
    for index in 0..3 {
        group.start(index).await;
    }
    is_one_group(&group).await;
    group.all_have(seeds + 1).await;
    assert_eq!(group.nodes[1].member().me().id, 2);
    group.shutdown().await;
}
