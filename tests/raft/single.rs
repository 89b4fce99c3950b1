//! The port `Consensus` of a single member.

use std::sync::Arc;

use ham4db::adapter::single::{SingleError, SingleMember};
use ham4db::app::ports::{Consensus, Health, ProposeError, Unconfirmed};
use ham4db::domain::state::{Applied, Command};

use crate::claims;
use crate::harness::{Group, SystemClock, seed};
use crate::store::MemoryStore;

async fn start(store: &MemoryStore) -> Arc<SingleMember> {
    SingleMember::start(
        "alone",
        "http://alone:3000",
        Arc::new(store.clone()),
        Arc::new(SystemClock::default()),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn member_alone_leads_and_keeps_its_state() {
    let store = MemoryStore::default();
    let first = start(&store).await;
    assert!(first.leadership().borrow().is_leader);
    assert_eq!(first.propose(seed(1)).await, Ok(Applied::Done));
    let group = first.state().borrow().group.clone().unwrap();
    let second = start(&store).await;
    assert_eq!(
        second.state().borrow().group.as_ref(),
        Some(&group),
        "the group is named once"
    );
    assert_eq!(second.state().borrow().seeds.len(), 1);
    assert_eq!(second.health(), Health::Healthy);
    assert_eq!(second.barrier().await, Ok(()));
}

#[tokio::test]
async fn claim_is_confirmed_until_it_is_resumed() {
    let single = start(&MemoryStore::default()).await;
    let token = claims::claim(single.as_ref(), "r1").await;
    assert_eq!(single.confirm(&token).await, Ok(token.epoch));
    let resume = Command::Resume {
        uid: "r1".to_owned(),
        holder: 1,
        holder_name: "alone".to_owned(),
        above: 7,
    };
    let resumed = claims::granted(single.propose(resume).await.unwrap());
    assert_eq!(resumed.epoch, 8);
    assert!(matches!(single.confirm(&token).await, Err(Unconfirmed::Stale(_))));
    assert_eq!(single.confirm(&resumed).await, Ok(8));
}

#[tokio::test]
async fn failed_write_leaves_doubt_until_the_backend_was_read_again() {
    let store = MemoryStore::default();
    let single = start(&store).await;
    let token = claims::claim(single.as_ref(), "r1").await;
    store.fail(true);
    assert!(matches!(
        single.propose(seed(1)).await,
        Err(ProposeError::OutcomeUnknown(_))
    ));
    assert_eq!(single.state().borrow().seeds.len(), 0);
    assert!(matches!(single.health(), Health::Unhealthy(_)));
    assert!(
        matches!(single.confirm(&token).await, Err(Unconfirmed::NoQuorum(_))),
        "no effect while the backend is in doubt"
    );
    store.fail(false);
    assert_eq!(single.propose(seed(2)).await, Ok(Applied::Done));
    assert_eq!(single.health(), Health::Healthy);
    assert_eq!(single.confirm(&token).await, Ok(token.epoch));
}

#[tokio::test]
async fn each_of_a_hundred_commands_at_once_waited_for_a_write_of_its_own() {
    let store = MemoryStore::default();
    let single = start(&store).await;
    let before = store.writes();
    let all = futures::future::join_all((0..100).map(|n| single.propose(seed(n)))).await;
    assert!(all.iter().all(|applied| *applied == Ok(Applied::Done)));
    assert_eq!(single.state().borrow().seeds.len(), 100);
    let writes = store.writes() - before;
    assert!(writes <= 2, "{writes} writes");
    assert_eq!(start(&store).await.state().borrow().seeds.len(), 100);
}

#[tokio::test]
async fn a_caller_that_is_gone_does_not_end_the_write_of_another() {
    let store = MemoryStore::default();
    let single = start(&store).await;
    let mut first = Box::pin(single.propose(seed(1)));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(single.propose(seed(2)));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await, Ok(Applied::Done));
    assert_eq!(single.state().borrow().seeds.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_of_a_raft_member_is_left_alone() {
    let mut group = Group::running(1).await;
    group.commit(1).await;
    group.stop(0).await;
    let store = group.nodes[0].store.clone();
    let before = store.content().await;
    let refused = SingleMember::start("alone", "", Arc::new(store.clone()), Arc::new(SystemClock::default())).await;
    assert!(
        matches!(refused, Err(SingleError::BelongsToGroup { member: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(store.content().await, before);
}
