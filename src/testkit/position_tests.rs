//! Failovers without GTIDs: positions are determined from relay logs, or by Pseudo-GTID where relay logs do not suffice.

use std::time::Duration;

use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::key;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::plan_match;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;

use super::{Fault, Rig};

/// A primary and three replicas without GTIDs; db3 stopped receiving a while ago.
async fn one_behind(pseudo_gtid: bool) -> Rig {
    let mut rig = Rig::new(4, 3);
    rig.policy.pseudo_gtid = pseudo_gtid;
    rig.pseudo_gtid = pseudo_gtid.then(|| PseudoGtidPatterns::automatic().reading(7, &[]));
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

/// The same topology, running, with db3 receiving again and Pseudo-GTID as requested.
async fn alive(pseudo_gtid: bool) -> Rig {
    let rig = one_behind(pseudo_gtid).await;
    rig.world
        .with(3, |server| server.channel.as_mut().unwrap().receives = true);
    rig.wait(6000).await;
    rig
}

fn plan_of(rig: &Rig, replica: u32, target: u32) -> Result<Plan, String> {
    let (_, view) = rig.first();
    plan_match(&key(replica), &key(target), &view.topology, &view.policy)
}

async fn carry_out(rig: &Rig, plan: Plan) -> Result<String, String> {
    let finding = Finding {
        code: Code::NoProblem,
        instance: plan.old_primary.clone(),
        cluster: plan.cluster.clone(),
        description: "asked for".to_owned(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    let (member, view) = rig.first();
    member
        .coordinator
        .run_ordered_repair(view, finding, plan, PlanReport::default())
        .await
}

fn source_of(rig: &Rig, n: u32) -> InstanceKey {
    rig.world
        .with(n, |server| server.channel.as_ref().unwrap().source.clone())
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_a_person_moves_goes_on_where_it_was() {
    let rig = alive(true).await;
    rig.world.with(3, |server| server.read_only = false);
    let plan = plan_of(&rig, 3, 2).unwrap();
    carry_out(&rig, plan).await.unwrap();
    assert_eq!(source_of(&rig, 3), key(2));
    let recovery = rig.recoveries().remove(0);
    assert_eq!(recovery.plan.kind, RecoveryKind::MatchBelow);
    assert!(recovery.is_successful());
    // It was writable, and is no failed primary for that.
    assert!(rig.group.state().quarantines.is_empty());
    rig.world.write(1, 15);
    rig.until("db3 has what is written on", |rig| {
        let all = rig.world.with(1, |server| server.executed.clone());
        rig.world.with(3, |server| server.executed == all)
    })
    .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ahead_of_its_target_stays_where_it_is_and_receives_again() {
    let rig = alive(true).await;
    rig.world
        .with(4, |server| server.channel.as_mut().unwrap().receives = false);
    rig.world.write(1, 3);
    rig.wait(6000).await;
    let plan = plan_of(&rig, 3, 4).unwrap();
    let why = carry_out(&rig, plan).await.unwrap_err();
    assert!(why.contains("ahead"), "{why}");
    assert_eq!(source_of(&rig, 3), key(1));
    assert!(rig.world.with(3, |server| server.channel.as_ref().unwrap().receives));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_in_between_the_replica_is_somewhere_and_loses_nothing() {
    for statement in ["stop_receiver", "wait_all_applied", "log_events", "follow"] {
        for fault in [
            Fault::broken(3, statement),
            Fault::refuse(3, statement),
            Fault::done_and_broken(3, statement),
        ] {
            let rig = alive(true).await;
            rig.world.plan(fault);
            let plan = plan_of(&rig, 3, 2).unwrap();
            drop(carry_out(&rig, plan).await);
            assert!([key(1), key(2)].contains(&source_of(&rig, 3)));
            rig.world.write(1, 15);
            rig.until(&format!("db3 has all, after {statement}"), |rig| {
                let all = rig.world.with(1, |server| server.executed.clone());
                rig.world.with(3, |server| server.executed == all)
            })
            .await;
            rig.world.assert_sound();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_ends_a_move_by_hand() {
    let rig = alive(true).await;
    let plan = plan_of(&rig, 3, 2).unwrap();
    rig.world
        .plan(Fault::first(3, "log_events", |inner| inner.kill(&key(1))));
    drop(carry_out(&rig, plan).await);
    rig.until("one of the replicas takes writes", |rig| {
        let writable = rig.world.writable();
        writable.len() == 1 && writable != [key(1)]
    })
    .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn replicas_of_a_binlog_server_follow_the_one_of_them_that_is_promoted_and_it_is_left_alone() {
    let mut rig = Rig::new(5, 3);
    rig.world.without_gtids();
    rig.world.with(2, |server| {
        server.facts.version_comment = "MaxScale".to_owned();
        server.facts.log_bin = true;
    });
    for below in [3, 4] {
        rig.world.lock().follow(&key(below), &key(2));
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world
        .with(4, |server| server.channel.as_mut().unwrap().receives = false);
    rig.world.write(1, 25);
    rig.wait(6000).await;
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    let left: Vec<_> = recovery.lost_replicas.iter().map(|lost| &lost.instance).collect();
    assert_eq!(left, [&key(2)], "{recovery:#?}");
    let successor = recovery.successor().unwrap().clone();
    assert!([key(3), key(5)].contains(&successor));
    rig.until("the others follow it", |rig| {
        [3, 4, 5]
            .into_iter()
            .filter(|n| key(*n) != successor)
            .all(|n| source_of(rig, n) == successor)
    })
    .await;
    let touched: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter(|line| line.starts_with("db2:"))
        .collect();
    assert_eq!(touched, Vec::<String>::new());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_on_after_a_lost_leader_points_nobody_twice_at_the_same_place() {
    for statement in ["follow", "set_writable"] {
        let mut rig = one_behind(true).await;
        rig.world.relay_logs_are_gone();
        let group = rig.group.clone();
        let on = if statement == "follow" { 3 } else { 2 };
        rig.world.plan(Fault::then(on, statement, move |_| group.depose(1)));
        rig.world.kill(1);
        rig.until("db2 takes writes", |rig| rig.world.writable() == [key(2)])
            .await;
        rig.world.write(2, 15);
        let recovery = rig.recovered(1).await.remove(0);
        assert!(recovery.is_successful(), "{recovery:#?}");
        rig.until("db3 has what is written on", |rig| {
            let all = rig.world.with(2, |server| server.executed.clone());
            rig.world.with(3, |server| server.executed == all)
        })
        .await;
        rig.world.assert_sound();
        rig.stop(1);
    }
}

// === co-primaries ===

/// db1 and db2 replicate from each other without GTIDs, db3 and db4 from db1.
async fn ring(is_writable: bool) -> Rig {
    let mut rig = Rig::new(4, 3);
    rig.world.lock().follow(&key(1), &key(2));
    rig.world.with(2, |server| server.read_only = !is_writable);
    rig.world.without_gtids();
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world.write(1, 25);
    rig.wait(6000).await;
    rig
}

fn source(rig: &Rig, n: u32) -> Option<InstanceKey> {
    rig.world
        .with(n, |server| server.channel.as_ref().map(|link| link.source.clone()))
}

#[tokio::test(start_paused = true)]
async fn without_gtids_the_other_co_primary_takes_over_with_the_replicas_of_the_dead_one() {
    let rig = ring(false).await;
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.finding.code, Code::DeadCoMaster);
    assert_eq!(recovery.plan.kind, RecoveryKind::DeadPrimaryByPosition);
    assert_eq!(recovery.successor(), Some(&key(2)));
    assert!(recovery.lost_replicas.is_empty(), "{recovery:#?}");
    for n in [3, 4] {
        assert_eq!(source(&rig, n), Some(key(2)));
    }
    assert_eq!(source(&rig, 2), None);
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_gtids_a_co_primary_that_takes_writes_stays_and_the_others_are_left_where_they_are_with_the_reason() {
    let rig = ring(true).await;
    rig.world.kill(1);
    rig.wait(20_000).await;
    let view = rig.view_of(1);
    assert_eq!(view.cluster.primary.as_ref().unwrap().instance, key(2));
    let findings = rig.members[&1].coordinator.with_last_attempts(view).findings;
    let about = findings.iter().find(|judged| judged.finding.code == Code::DeadCoMaster);
    let why = about.and_then(|judged| judged.held_back.as_ref()).unwrap().to_string();
    assert!(
        why.starts_with("no plan: no replica of db1:3306 can follow another server (db3:3306: "),
        "{why}"
    );
    assert_eq!((source(&rig, 3), source(&rig, 4)), (Some(key(1)), Some(key(1))));
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}
