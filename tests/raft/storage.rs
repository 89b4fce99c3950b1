//! Backends and logs that are lost, replaced, or outdated.

use ham4db::app::ports::Consensus;

use crate::harness::{Group, eventually, until};
use crate::store::MemoryStore;

/// Makes snapshots often and keeps no entries behind them.
fn short_log(group: &mut Group) {
    group.timings.entries_per_snapshot = 20;
    group.timings.entries_kept = 0;
}

async fn snapshot_exists(group: &Group, index: usize) {
    eventually("a snapshot", || async {
        let log = ham4db::adapter::raft::log_store::LogStore::open(
            &group.nodes[index].directory.path().join("raft"),
            std::time::Duration::MAX,
        )
        .await
        .unwrap();
        let purged = log.purged().await.unwrap();
        log.close().await;
        purged.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_backend_is_rebuilt_from_the_log() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(3).await;
    group.all_have(seeds).await;
    group.stop(1).await;
    group.nodes[1].store = MemoryStore::default();
    group.start(1).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert_eq!(group.nodes[1].id(), 2, "a lost backend costs no id");
    assert_eq!(group.nodes[1].store.content().await.0.seeds.len(), seeds);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_backend_is_rebuilt_from_snapshot_and_log() {
    let mut group = Group::running_with(3, short_log).await;
    let seeds = group.commit(45).await;
    group.all_have(seeds).await;
    snapshot_exists(&group, 2).await;
    group.stop(2).await;
    // No other member runs: everything comes from its own disk.
    group.stop(0).await;
    group.stop(1).await;
    group.nodes[2].store = MemoryStore::default();
    group.start(2).await;
    until("the state is back without any peer", || group.nodes[2].seeds() == seeds).await;
    assert!(group.nodes[2].store.replaced() >= 1, "through the snapshot");
    group.start(0).await;
    group.start(1).await;
    group.healthy().await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_lags_behind_the_log_gets_a_snapshot() {
    let mut group = Group::running_with(3, short_log).await;
    group.commit(2).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    group.stop(follower).await;
    let seeds = group.commit(60).await;
    snapshot_exists(&group, leader).await;
    let before = group.nodes[follower].store.replaced();
    group.start(follower).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert!(
        group.nodes[follower].store.replaced() > before,
        "it was sent a snapshot"
    );
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_with_nothing_left_gets_a_snapshot_and_a_new_id() {
    let mut group = Group::running_with(3, short_log).await;
    group.commit(30).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    group.stop(follower).await;
    group.lose_disk(follower);
    let seeds = group.commit(30).await;
    group.start(follower).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert!(group.nodes[follower].id() > 3);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_without_its_log_joins_again_and_keeps_the_evidence() {
    let mut group = Group::running(3).await;
    let seeds = group.commit(3).await;
    group.stop(1).await;
    let directory = group.nodes[1].directory.path().join("raft");
    std::fs::remove_file(directory.join("identity.json")).unwrap();
    group.start(1).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert!(group.nodes[1].id() > 3, "an id without its identity file is given up");
    assert!(directory.join("raft.db.orphaned-1").exists());
    let (state, mark) = group.nodes[1].store.content().await;
    assert_eq!((state.seeds.len(), mark.member), (seeds, group.nodes[1].id()));
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_member_leaves_its_port_and_answers_nothing() {
    let mut group = Group::running(3).await;
    let address = group.nodes[2].address;
    let kept = tokio::net::TcpStream::connect(address).await.unwrap();
    group.stop(2).await;
    let mut byte = [0_u8; 1];
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        kept.readable().await.unwrap();
        kept.try_read(&mut byte)
    })
    .await
    .expect("the connection ends with its member");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    tokio::net::TcpListener::bind(address).await.expect("the port is free");
    let leader = group.leader().await;
    assert_eq!(group.nodes[leader].member().peers().len(), 3, "stopping is not leaving");
    group.shutdown().await;
}
