//! Servers that are gone for good.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::key;
use crate::domain::key::InstanceKey;

use super::Rig;

/// After how long a server that is not seen is forgotten here.
const LIMIT: Duration = Duration::from_mins(1);

async fn started(servers: u32, change: impl FnOnce(&mut Rig)) -> Rig {
    let mut rig = Rig::new(servers, 3);
    rig.forget_after = LIMIT;
    change(&mut rig);
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

fn is_member(rig: &Rig, server: &InstanceKey) -> bool {
    let state = rig.group.state();
    state
        .clusters
        .values()
        .any(|cluster| cluster.instances.contains(server))
}

#[tokio::test(start_paused = true)]
async fn a_failed_primary_that_never_returned_was_in_quarantine_for_ever() {
    let rig = started(3, |_| {}).await;
    rig.world.kill(1);
    let killed = Instant::now();
    rig.recovered(1).await;
    assert_eq!(rig.group.state().quarantines.len(), 1);
    rig.until("it is forgotten", |rig| !is_member(rig, &key(1))).await;
    assert!(killed.elapsed() >= LIMIT, "{:?}", killed.elapsed());
    let state = rig.group.state();
    assert!(state.quarantines.is_empty() && state.unseen.is_empty());
    assert_eq!(state.clusters.len(), 1);
    let forgotten: Vec<_> = state.audit.values().filter(|entry| entry.kind == "forget").collect();
    assert_eq!(forgotten.len(), 1, "{forgotten:?}");
    assert_eq!(forgotten[0].instance, Some(key(1)));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn the_time_does_not_begin_again_with_each_leader_and_ends_when_the_server_is_seen() {
    let mut rig = started(4, |_| {}).await;
    rig.world.kill(3);
    rig.world.kill(4);
    let killed = Instant::now();
    rig.wait(40_000).await;
    rig.world.start(4);
    rig.stop(1);
    rig.until("it is forgotten", |rig| !is_member(rig, &key(3))).await;
    assert!(
        killed.elapsed() < LIMIT + Duration::from_secs(30),
        "{:?}",
        killed.elapsed()
    );
    rig.wait(40_000).await;
    assert!(is_member(&rig, &key(4)), "it was seen in between");
    assert!(rig.group.state().unseen.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_primary_that_nothing_replaced_is_not_forgotten() {
    let rig = started(3, |rig| rig.policy.recover_primary_filters.clear()).await;
    rig.world.kill(1);
    rig.world.kill(3);
    rig.until("the replica is forgotten", |rig| !is_member(rig, &key(3)))
        .await;
    rig.wait(60_000).await;
    assert!(is_member(&rig, &key(1)));
    let state = rig.group.state();
    let cluster = state.clusters.values().next().unwrap();
    assert_eq!(cluster.primary.as_ref().unwrap().instance, key(1));
}
