//! A group that lost its majority for good continues with one member.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ham4db::adapter::raft::{ForceAnswer, ForceRequest};
use ham4db::app::ports::{Clock, Consensus};
use ham4db::domain::state::{Applied, Command};

use crate::harness::{Group, SystemClock, eventually, until};

fn directory(group: &Group, index: usize) -> PathBuf {
    group.nodes[index].directory.path().join("raft")
}

/// Sends a request to a member, naming others as lost.
async fn ask(group: &Group, index: usize, lost: &[&str]) -> ForceAnswer {
    let lost: BTreeSet<String> = lost.iter().map(|name| (*name).to_owned()).collect();
    let request = ForceRequest::new(SystemClock::default().wall(), lost);
    let directory = directory(group, index);
    request.put(&directory).unwrap();
    eventually("an answer", || async { request.answer(&directory).unwrap() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_and_the_others_join_it_with_empty_disks() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(5).await;
    group.all_have(seeds).await;
    let answer = ask(&group, 0, &["b", "c"]).await;
    assert!(!answer.done && answer.what.contains("is healthy"), "{}", answer.what);

    for index in [1, 2] {
        group.stop(index).await;
        group.lose_disk(index);
    }
    until("a is not healthy", || group.nodes[0].health().is_err()).await;
    let answer = ask(&group, 0, &["b"]).await;
    assert!(
        !answer.done && answer.what.starts_with("c does not answer and was not named as lost"),
        "{}",
        answer.what
    );
    let answer = ask(&group, 0, &["b", "c"]).await;
    assert!(answer.done, "{}", answer.what);
    group.healthy().await;
    group.leader_among(&[0]).await;
    let state = group.nodes[0].member().state().borrow().clone();
    assert_eq!(state.seeds.len(), seeds, "what it had is there");
    assert!(state.recoveries_disabled && state.quorum_forced.is_some());
    assert!(state.last_number > 1000, "no id comes up twice");

    for index in [1, 2] {
        group.start(index).await;
    }
    group.healthy().await;
    let seeds = group.commit(3).await;
    group.all_have(seeds).await;
    assert_eq!(group.voters().await.len(), 3);
    assert!(group.nodes[1].id() > 1000, "{}", group.nodes[1].id());

    let enable = Command::SetGlobalRecoveries { enabled: true };
    let leader = group.leader().await;
    assert_eq!(group.nodes[leader].member().propose(enable).await, Ok(Applied::Done));
    assert_eq!(
        group.nodes[leader].member().state().borrow().quorum_forced,
        None,
        "enabling recoveries acknowledges the forced quorum"
    );
    // It behaves as any group: it survives a restart of all members, and the loss of the surviving member.
    for index in 0..3 {
        group.stop(index).await;
    }
    for index in [1, 2] {
        group.start(index).await;
    }
    group.healthy().await;
    group.all_have(seeds).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_called_lost_and_comes_back_is_a_new_member() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(2).await;
    group.all_have(seeds).await;
    for index in [1, 2] {
        group.stop(index).await;
    }
    until("a is not healthy", || group.nodes[0].health().is_err()).await;
    assert!(ask(&group, 0, &["b", "c"]).await.done);
    group.healthy().await;
    group.start(1).await;
    group.healthy().await;
    assert!(group.nodes[1].id() > 1000, "{}", group.nodes[1].id());
    assert!(directory(&group, 1).join("raft.db.removed-1").exists());
    group.start(2).await;
    group.healthy().await;
    let seeds = group.commit(1).await;
    group.all_have(seeds).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_are_left_the_one_with_the_later_log_goes_on() {
    let mut group = Group::running(5).await;
    let first = group.leader().await;
    let behind = (first + 1) % 5;
    group.isolate(behind, true);
    let seeds = group.commit(4).await;
    let ahead = (first + 2) % 5;
    until("another one has all of it", || group.nodes[ahead].seeds() == seeds).await;
    let lost: Vec<usize> = (0..5).filter(|index| ![behind, ahead].contains(index)).collect();
    for index in &lost {
        group.stop(*index).await;
        group.lose_disk(*index);
    }
    group.isolate(behind, false);
    let lost: Vec<String> = lost.iter().map(|index| group.nodes[*index].name.clone()).collect();
    let lost: Vec<&str> = lost.iter().map(String::as_str).collect();
    until("nobody is healthy", || {
        group.nodes[ahead].health().is_err() && group.nodes[behind].health().is_err()
    })
    .await;
    let answer = ask(&group, behind, &lost).await;
    assert!(
        !answer.done && answer.what.contains("has a later log"),
        "{}",
        answer.what
    );
    let mut all = lost.clone();
    let name = group.nodes[behind].name.clone();
    all.push(&name);
    let answer = ask(&group, ahead, &all).await;
    assert!(!answer.done && answer.what.contains("is not lost"), "{}", answer.what);
    let answer = ask(&group, ahead, &lost).await;
    assert!(answer.done, "{}", answer.what);
    // The member that was left out detects that it was removed, and joins again.
    group.healthy().await;
    assert!(group.nodes[behind].id() > 1000, "{}", group.nodes[behind].id());
    group.all_have(seeds).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_log_does_not_go_on() {
    let mut group = Group::running(3).await;
    for index in 0..3 {
        group.stop(index).await;
    }
    std::fs::remove_file(directory(&group, 1).join("raft.db")).unwrap();
    group.start(1).await;
    let answer = ask(&group, 1, &["a", "c"]).await;
    assert!(!answer.done && answer.what.contains("no log"), "{}", answer.what);
    group.shutdown().await;
}
