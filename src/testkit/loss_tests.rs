//! Loss is judged by proof, in the simulator: who may have acknowledged, and what is done where not enough of them are left.

use crate::domain::fixture::{key, mysql_set};
use crate::domain::instance::SemiSync;
use crate::domain::policy::{Durability, DurabilityMode, HeldBack, LossPolicy, OldPrimary};
use crate::domain::recovery::loss_evidence::{LossAcceptance, LossEvidence};

use super::handover_tests::{ask, forced};
use super::{Fault, Rig};

/// Three servers; db1 waits for one of db2 and db3, whichever are connected.
async fn promising(loss: LossPolicy, timeout_millis: u64) -> Rig {
    let mut rig = Rig::new(3, 3);
    rig.policy.loss = loss;
    rig.policy.loss_timeout_millis = timeout_millis;
    rig.world.with(1, |server| {
        server.facts.semi_sync = SemiSync {
            available: true,
            source_enabled: true,
            source_active: true,
            after_sync: true,
            wait_no_replica: true,
            wait_for_count: 1,
            timeout_millis: 4_000_000_000,
            ..SemiSync::default()
        };
    });
    for n in 2..=3 {
        rig.world.with(n, |server| {
            server.facts.semi_sync.available = true;
            server.facts.semi_sync.replica_enabled = true;
            server.facts.semi_sync.replica_active = true;
        });
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

/// db3 is cut from db1 for a moment, db2 acknowledges ten commits, and db1 and db2 die together before any member looks at them again.
fn primary_and_acknowledging_replica_die(rig: &Rig) {
    rig.world.cut(3, 1);
    rig.world.write(1, 10);
    assert!(
        rig.world
            .with(2, |server| server.executed.contains(&mysql_set("1:1-110")))
    );
    rig.world.kill(1);
    rig.world.kill(2);
    rig.world.lock().heal(&key(3));
}

fn reason(rig: &Rig) -> Option<String> {
    let (_, view) = rig.first();
    let finding = view.findings.iter().find(|judged| judged.finding.instance == key(1))?;
    match &finding.held_back {
        Some(HeldBack::Refused(why)) => Some(why.clone()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_a_dead_replica_acknowledged_are_not_lost_in_silence() {
    let rig = promising(LossPolicy::Auto, 0).await;
    primary_and_acknowledging_replica_die(&rig);
    rig.until("the reason is shown", |rig| {
        rig.group
            .state()
            .blocked
            .values()
            .any(|blocked| blocked.instance == key(1))
    })
    .await;
    rig.wait(20_000).await;
    assert_eq!(rig.world.opened(), Vec::<String>::new(), "{:#?}", rig.recoveries());
    let blocked = rig.group.state().blocked[&key(1)].clone();
    assert_eq!(blocked.blocking_recovery, 0);
    assert!(
        blocked.reason.contains("what would be lost is unknown") && blocked.reason.contains("db2:3306"),
        "{blocked:?}"
    );
    let why = reason(&rig);
    assert!(why.is_none_or(|why| why.contains("what would be lost is unknown")));
    let state = rig.group.state();
    assert!(
        state.detections.values().any(|detection| matches!(
            &detection.held_back,
            Some(HeldBack::Refused(why)) if why.contains("what would be lost is unknown")
        )),
        "{:#?}",
        state.detections
    );
    // An operator decides otherwise, and the record does not say that nothing is lost.
    let uid = ask(&rig, None, forced()).await.unwrap();
    let done = rig.group.state().recoveries[&uid].clone();
    assert!(done.is_successful(), "{done:#?}");
    assert_eq!(done.successor(), Some(&key(3)));
    let told = done.loss().unwrap();
    assert!(
        told.starts_with("unknown, at least 0 transactions: 1 of 2 semi-sync replicas"),
        "{told}"
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_loss_is_accepted_when_its_time_is_over_and_recorded_as_unknown() {
    let rig = promising(LossPolicy::AllowAfterTimeout, 30_000).await;
    primary_and_acknowledging_replica_die(&rig);
    rig.wait(20_000).await;
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    let done = rig.recovered(1).await.remove(0);
    assert!(done.is_successful(), "{done:#?}");
    assert!(matches!(
        done.plan.loss_evidence,
        Some(LossEvidence::Unknown {
            accepted: LossAcceptance::Timeout,
            ..
        })
    ));
    assert!(done.loss().unwrap().starts_with("unknown, at least"));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_comes_back_with_what_it_acknowledged_ends_the_wait() {
    let rig = promising(LossPolicy::Auto, 0).await;
    primary_and_acknowledging_replica_die(&rig);
    rig.wait(10_000).await;
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    // Its process did not end: what it received is what it acknowledged.
    rig.world.with(2, |server| server.up = true);
    let done = rig.recovered(1).await.remove(0);
    assert!(done.is_successful(), "{done:#?}");
    let told = done.loss().unwrap();
    assert!(told.starts_with("none: 2 of 2 semi-sync replicas"), "{told}");
    for n in 2..=3 {
        rig.until("it has everything", |rig| {
            rig.world
                .with(n, |server| server.executed.contains(&mysql_set("1:1-110")))
        })
        .await;
    }
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_alone_under_a_promise_is_replaced_with_the_proof() {
    let rig = promising(LossPolicy::Auto, 0).await;
    rig.world.write(1, 10);
    rig.world.kill(1);
    let done = rig.recovered(1).await.remove(0);
    assert!(done.is_successful(), "{done:#?}");
    assert_eq!(
        done.plan.loss_evidence,
        Some(LossEvidence::Acknowledged {
            compared: 2,
            of: 2,
            needed: 2
        })
    );
    assert!(done.loss().unwrap().starts_with("none: "));
    rig.world.assert_sound();
}

/// It dies while the receivers stop: the second verdict refuses, and everything is put back.
#[tokio::test(start_paused = true)]
async fn an_acknowledging_replica_that_dies_before_its_receiver_is_stopped_is_missed_in_the_second_verdict() {
    let rig = promising(LossPolicy::Auto, 0).await;
    rig.world
        .plan(Fault::first(3, "stop_receiver", |inner| inner.kill(&key(3))));
    rig.world.kill(1);
    let done = rig.recovered(1).await.remove(0);
    assert!(!done.is_successful(), "{done:#?}");
    assert!(
        done.errors
            .iter()
            .any(|error| error.contains("what would be lost is unknown")),
        "{:?}",
        done.errors
    );
    assert_eq!(done.loss(), None);
    assert_eq!(rig.world.opened(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn of_an_asynchronous_primary_the_record_never_says_that_nothing_is_lost() {
    let rig = Rig::started(3, 3).await;
    rig.world.kill(1);
    let done = rig.recovered(1).await.remove(0);
    assert!(done.is_successful(), "{done:#?}");
    assert!(
        done.loss().unwrap().starts_with("unknown, at least 0 transactions"),
        "{done:#?}"
    );
    // A living primary that is fenced tells what it has.
    let rig = Rig::started(3, 3).await;
    let uid = ask(&rig, None, forced()).await.unwrap();
    let done = rig.group.state().recoveries[&uid].clone();
    assert_eq!(done.plan.loss_evidence, Some(LossEvidence::OldPrimaryRead), "{done:#?}");
    assert!(done.loss().unwrap().starts_with("none: the old primary is read-only"));
}

/// A primary with commits that wait for acknowledgements is replaced, returns, and its sessions cannot be ended: making it
/// wait for nothing would confirm these commits to their clients.
#[tokio::test(start_paused = true)]
async fn commits_that_wait_on_a_returned_primary_are_not_confirmed_while_their_clients_are_connected() {
    let mut rig = Rig::new(3, 3);
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.policy.durability = Durability {
        mode: DurabilityMode::SemiSync,
        ..Durability::default()
    };
    for n in 1..=3 {
        rig.world.with(n, |server| {
            server.facts.semi_sync.available = true;
            server.facts.semi_sync.replica_enabled = n > 1;
            server.facts.semi_sync.replica_active = n > 1;
        });
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.wait(15_000).await;
    rig.world.kill(1);
    rig.until("another one is the primary", |rig| !rig.world.opened().is_empty())
        .await;
    for _ in 0..500 {
        rig.world.plan(Fault::refuse(1, "kill_clients"));
    }
    rig.world.with(1, |server| {
        server.facts.semi_sync.source_enabled = true;
        server.facts.semi_sync.wait_sessions = 3;
    });
    rig.world.start(1);
    rig.until("it rejoins", |rig| rig.world.with(1, |server| server.channel.is_some()))
        .await;
    assert_eq!(rig.world.with(1, |server| server.facts.semi_sync.wait_sessions), 3);
    rig.world.assert_sound();
}
