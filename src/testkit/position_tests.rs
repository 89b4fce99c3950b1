//! Failovers without GTIDs: places told by relay logs, and by Pseudo-GTID where these tell nothing.

use std::time::Duration;

use crate::domain::fixture::key;
use crate::domain::recovery::plan::RecoveryKind;
use crate::domain::recovery::pseudo_gtid::Marks;

use super::{Fault, Rig};

/// A primary and three replicas without GTIDs; db3 stopped receiving a while ago.
async fn one_behind(pseudo_gtid: bool) -> Rig {
    let mut rig = Rig::new(4, 3);
    rig.policy.pseudo_gtid = pseudo_gtid;
    rig.pseudo_gtid = pseudo_gtid.then(|| Marks::automatic().reading(7, &[]));
    rig.world.without_gtids();
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world
        .with(3, |server| server.channel.as_mut().unwrap().receives = false);
    rig.world.write(1, 25);
    rig.wait(6000).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn one_that_relay_logs_do_not_place_goes_on_by_pseudo_gtid_exactly_where_it_was() {
    let rig = one_behind(true).await;
    rig.world.relay_logs_are_gone();
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    let [recovery] = recoveries.as_slice() else {
        panic!("{recoveries:#?}")
    };
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.plan.kind, RecoveryKind::DeadPrimaryByPosition);
    assert_eq!(recovery.successor(), Some(&key(2)));
    assert!(recovery.plan.lost_replicas.is_empty(), "{recovery:#?}");
    assert!(
        rig.world
            .log()
            .iter()
            .any(|line| line.starts_with("db3:3306 log_events"))
    );
    rig.until("db3 follows db2", |rig| {
        rig.world
            .with(3, |server| server.channel.as_ref().unwrap().source == key(2))
    })
    .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_pseudo_gtid_one_that_relay_logs_do_not_place_is_left_behind() {
    let rig = one_behind(false).await;
    rig.world.relay_logs_are_gone();
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    let left: Vec<_> = recovery.plan.lost_replicas.iter().map(|lost| &lost.instance).collect();
    assert_eq!(left, [&key(3)]);
    assert!(
        rig.world
            .with(3, |server| server.channel.as_ref().unwrap().source == key(1))
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn while_relay_logs_tell_the_place_no_binary_log_is_searched() {
    let rig = one_behind(true).await;
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(
        recovery.is_successful() && recovery.plan.lost_replicas.is_empty(),
        "{recovery:#?}"
    );
    assert!(!rig.world.log().iter().any(|line| line.contains(" log_events ")));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_a_transaction_of_its_own_is_left_behind() {
    let rig = one_behind(true).await;
    rig.world.relay_logs_are_gone();
    rig.world.with(3, |server| {
        server.executed = server.executed.union(&crate::domain::fixture::mysql_set("3:999"));
    });
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    let left: Vec<_> = recovery.plan.lost_replicas.iter().map(|lost| &lost.instance).collect();
    assert_eq!(left, [&key(3)], "{recovery:#?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_in_the_middle_of_the_search_costs_one_replica_at_most() {
    for server in [2, 3] {
        let rig = one_behind(true).await;
        rig.world.relay_logs_are_gone();
        rig.world.plan(Fault::broken(server, "log_events"));
        rig.world.kill(1);
        let recovery = rig.recovered(1).await.remove(0);
        assert!(recovery.is_successful(), "{recovery:#?}");
        assert_eq!(rig.world.writable(), [key(2)]);
        assert!(recovery.plan.lost_replicas.iter().all(|lost| lost.instance == key(3)));
        rig.wait(u64::try_from(Duration::from_secs(5).as_millis()).unwrap())
            .await;
        rig.world.assert_sound();
    }
}
