//! Members join, leave, and return.

use std::time::Duration;

use ham4db::app::ports::Consensus;

use crate::harness::{Group, eventually, until};

const DEADLINE: Duration = Duration::from_secs(20);

async fn voter_names(group: &Group) -> Vec<String> {
    group.voters().await.into_iter().map(|peer| peer.name).collect()
}

async fn voters_become(group: &Group, names: &[&str]) {
    eventually(&format!("the voters are {names:?}"), || async {
        (voter_names(group).await == names).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_member_waits_until_it_is_on_the_lists() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(2).await;
    group.add("d").await;
    let newcomers_list = group.entries(&[0, 1, 2, 3]);
    group.nodes[3].wanted.send_replace(newcomers_list.clone());
    group.start(3).await;
    until("d is refused", || {
        group.nodes[3]
            .health()
            .is_err_and(|why| why.contains("d is not in the leader's list"))
    })
    .await;
    // Only the leader has the name on its list: this is not enough.
    let leader = group.leader().await;
    group.nodes[leader].wanted.send_replace(newcomers_list);
    until("d is refused still", || {
        group.nodes[3]
            .health()
            .is_err_and(|why| why.contains("a majority of the voters does not have"))
    })
    .await;
    group.want_all();
    group.healthy().await;
    voters_become(&group, &["a", "b", "c", "d"]).await;
    group.all_have(seeds).await;
    assert!(group.nodes[3].id() > 3);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_is_not_wanted_leaves_and_comes_back_with_a_new_id() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let leaving = (leader + 1) % 3;
    let staying: Vec<usize> = (0..3).filter(|index| *index != leaving).collect();
    group.want(&group.entries(&staying));
    let names: Vec<String> = staying.iter().map(|index| group.nodes[*index].name.clone()).collect();
    voters_become(&group, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let directory = group.nodes[leaving].directory.path().join("raft");
    until("its log is set aside", || directory.join("raft.db.removed-1").exists()).await;
    until("it is not admitted", || {
        group.nodes[leaving]
            .health()
            .is_err_and(|why| why.contains("not in the leader's list"))
    })
    .await;
    let seeds = group.commit(2).await;
    group.want_all();
    group.healthy().await;
    voters_become(&group, &["a", "b", "c"]).await;
    assert!(group.nodes[leaving].id() > 3);
    group.all_have(seeds).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_removed_while_it_was_down_notices_at_its_return() {
    let mut group = Group::running(3).await;
    let leader = group.leader().await;
    let leaving = (leader + 1) % 3;
    let staying: Vec<usize> = (0..3).filter(|index| *index != leaving).collect();
    group.stop(leaving).await;
    group.want(&group.entries(&staying));
    eventually("two voters are left", || async {
        (group.voters().await.len() == 2).then_some(())
    })
    .await;
    let term = group.nodes[leader].member().leadership().borrow().term;
    group.want_all();
    group.start(leaving).await;
    group.healthy().await;
    assert!(group.nodes[leaving].id() > 3);
    assert!(
        group.nodes[leaving]
            .directory
            .path()
            .join("raft/raft.db.removed-1")
            .exists()
    );
    assert_eq!(
        group.nodes[leader].member().leadership().borrow().term,
        term,
        "it disturbed nobody"
    );
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_is_not_wanted_hands_over_first() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let staying: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    group.want(&group.entries(&staying));
    let next = group.leader_among(&staying).await;
    eventually("two voters are left", || async {
        let voters = group.nodes[next].member().peers();
        (voters.len() == 2 && voters.iter().all(|peer| peer.name != group.nodes[leader].name)).then_some(())
    })
    .await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_that_are_scaled_away_end_without_taking_the_quorum() {
    let mut group = Group::running(3).await;
    let leader = group.leader().await;
    // The leader is one of the removed members.
    let staying = (leader + 1) % 3;
    group.want(&group.entries(&[staying]));
    let end = async |index: usize| {
        let member = group.nodes[index].member();
        member.hand_over(DEADLINE).await;
        assert!(
            member.leave(DEADLINE).await,
            "{} is not let go",
            group.nodes[index].name
        );
        member.shutdown().await;
    };
    tokio::join!(end(leader), end((leader + 2) % 3));
    assert!(
        group.nodes[staying].member().leave(DEADLINE).await,
        "a wanted member waits for nothing"
    );
    let only = group.nodes[staying].name.clone();
    voters_become(&group, &[only.as_str()]).await;
    assert_eq!(group.leader_among(&[staying]).await, staying);
    group.stop(leader).await;
    group.stop((leader + 2) % 3).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_list_changes_nothing() {
    let group = Group::running(3).await;
    group.want(&[]);
    // Wait for several membership rounds of the leader.
    for _ in 0..3 {
        let seeds = group.commit(1).await;
        group.all_have(seeds).await;
    }
    let looked = std::time::Instant::now();
    until("the leader had time to do harm", || {
        looked.elapsed() > group.timings.peer_check_interval * 4
    })
    .await;
    assert_eq!(voter_names(&group).await, ["a", "b", "c"]);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_of_a_removed_founder_never_comes_up_again() {
    let mut group = Group::running(3).await;
    // c has the highest id. It leaves, and its records are lost.
    group.stop(2).await;
    group.lose_disk(2);
    group.want(&group.entries(&[0, 1]));
    voters_become(&group, &["a", "b"]).await;
    group.want_all();
    group.start(2).await;
    group.healthy().await;
    assert!(group.nodes[2].id() > 3, "id {} was c's before", group.nodes[2].id());
    group.shutdown().await;
}
