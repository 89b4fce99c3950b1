//! A primary that ham4db promoted restarts and is read-only, as its configuration says. db1 was the first primary.

use crate::domain::fixture::{key, mysql_set};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::Recovery;

use super::Rig;

/// db1 is gone and another server was promoted. Returns the number of that server.
async fn promoted(servers: u32) -> (Rig, u32) {
    let rig = Rig::started(servers, 3).await;
    for n in 2..=servers {
        rig.world.with(n, |server| server.boots_read_only = true);
    }
    rig.world.kill(1);
    rig.recovered(1).await;
    let [promoted] = rig.world.writable().try_into().unwrap();
    let n = (2..=servers).find(|n| key(*n) == promoted).unwrap();
    // The leader has seen it take writes.
    rig.until("its process is recorded", |rig| process(rig).is_some()).await;
    (rig, n)
}

fn process(rig: &Rig) -> Option<i64> {
    let state = rig.group.state();
    state.clusters.values().next()?.primary.as_ref()?.process
}

async fn restart(rig: &Rig, n: u32) {
    rig.world.kill(n);
    rig.wait(2000).await;
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
    rig.world.start(n);
}

fn openings(rig: &Rig) -> Vec<Recovery> {
    let all = rig.recoveries().into_iter();
    all.filter(|recovery| recovery.plan.kind == RecoveryKind::NonWritablePrimary)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_promoted_server_that_starts_again_read_only_is_made_writable_each_time() {
    let (rig, n) = promoted(3).await;
    for round in 1..=2 {
        restart(&rig, n).await;
        rig.until("it takes writes again", |rig| rig.world.writable() == [key(n)])
            .await;
        rig.recovered(1 + round).await;
        let last = openings(&rig).pop().unwrap();
        assert!(last.is_successful(), "{last:#?}");
        assert_eq!(openings(&rig).len(), round);
        rig.until("its new process is recorded", |rig| process(rig).is_some())
            .await;
        // The same repair is not made twice in half a minute.
        rig.wait(31_000).await;
    }
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn it_is_made_writable_although_nobody_replicates_from_it() {
    let (rig, n) = promoted(2).await;
    restart(&rig, n).await;
    rig.until("it takes writes again", |rig| rig.world.writable() == [key(n)])
        .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_a_person_made_read_only_stays_so() {
    let (rig, n) = promoted(3).await;
    rig.world.with(n, |server| server.read_only = true);
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
    // Also after a start of the process, once it was seen to take writes.
    restart(&rig, n).await;
    rig.until("it takes writes again", |rig| rig.world.writable() == [key(n)])
        .await;
    rig.recovered(2).await;
    rig.until("its new process is recorded", |rig| process(rig).is_some())
        .await;
    rig.world.with(n, |server| server.read_only = true);
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
    assert_eq!(openings(&rig).len(), 1);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_ham4db_did_not_open_stays_read_only_after_a_start() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.boots_read_only = true);
    // A failover would have ended before it is back, were there somebody to promote.
    for n in [2, 3] {
        rig.world.with(n, |server| server.facts.log_bin = false);
    }
    rig.wait(10_000).await;
    restart(&rig, 1).await;
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
    assert_eq!(openings(&rig), []);
}

#[tokio::test(start_paused = true)]
async fn one_that_lost_what_its_replica_has_is_left_read_only() {
    let (rig, n) = promoted(3).await;
    let other = 5 - n;
    rig.world.write(n, 5);
    rig.until("the replica has it", |rig| {
        let more = mysql_set(&format!("{n}:101-105"));
        rig.world.with(other, |server| server.executed.contains(&more))
    })
    .await;
    rig.world.kill(n);
    rig.world.with(n, |server| {
        server.executed = server.executed.subtract(&mysql_set(&format!("{n}:103-105")));
    });
    rig.wait(2000).await;
    rig.world.start(n);
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
    assert_eq!(openings(&rig), []);
    rig.world.assert_sound();
}
