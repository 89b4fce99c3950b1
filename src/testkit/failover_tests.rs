//! A primary dies: which replica is promoted, what is undone, and what must never happen.

use std::time::Duration;

use crate::domain::finding::{Code, OpinionVerdict};
use crate::domain::fixture::{key, mysql_set};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Phase, Recovery};

use super::world::Server;
use super::{Fault, Reach, Rig};

fn source_of(rig: &Rig, n: u32) -> Option<InstanceKey> {
    rig.world
        .with(n, |server| server.channel.as_ref().map(|link| link.source.clone()))
}

fn receives(rig: &Rig, n: u32) -> bool {
    rig.world
        .with(n, |server| server.channel.as_ref().is_some_and(|link| link.receives))
}

fn only(recoveries: Vec<Recovery>) -> Recovery {
    assert_eq!(recoveries.len(), 1, "{recoveries:#?}");
    recoveries.into_iter().next().unwrap()
}

/// The facts of a server as the members read them.
fn facts(rig: &Rig, n: u32) -> InstanceFacts {
    rig.world.lock().facts(&key(n))
}

#[tokio::test(start_paused = true)]
async fn a_dead_primary_is_replaced_by_one_of_two_equal_replicas() {
    let rig = Rig::started(3, 3).await;
    rig.world.write(1, 5);
    rig.world.kill(1);
    let begun = tokio::time::Instant::now();
    let recovery = only(rig.recovered(1).await);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.successor(), Some(&key(2)));
    assert_eq!(rig.world.opened(), ["db2:3306"]);
    assert_eq!(rig.world.writable(), [key(2)]);
    assert_eq!((source_of(&rig, 2), source_of(&rig, 3)), (None, Some(key(2))));
    assert!(receives(&rig, 3));
    let state = rig.group.state();
    let cluster = state.clusters.values().next().unwrap();
    assert_eq!(cluster.primary.as_ref().unwrap().instance, key(2));
    assert_eq!(cluster.name, "db2:3306");
    assert_eq!(state.quarantines.len(), 1);
    assert_eq!(state.quarantines.values().next().unwrap().instance, key(1));
    // It goes on from there.
    rig.world.write(2, 1);
    assert!(facts(&rig, 3).executed.contains(&mysql_set("2:106")));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_only_one_replica_received_decides_and_is_applied_before_the_opening() {
    let rig = Rig::started(3, 1).await;
    rig.world.receive(3, "1:101-107");
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(3)));
    assert!(facts(&rig, 3).executed.contains(&mysql_set("1:1-107")));
    assert!(facts(&rig, 2).executed.contains(&mysql_set("1:1-107")));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_arrives_between_the_last_look_and_the_stop_receivers_counts() {
    let rig = Rig::started(3, 1).await;
    rig.world.kill(1);
    // The thread had it in hand when it was stopped; nobody has looked since.
    rig.world.plan(Fault::first(3, "stop_receiver", |inner| {
        let link = inner.servers.get_mut(&key(3)).unwrap().channel.as_mut().unwrap();
        link.received = link.received.union(&mysql_set("1:101"));
    }));
    // And the first look afterwards fails: what was known before must not pass for fresh.
    rig.world.plan(Fault::broken(3, "facts"));
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(3)), "{recovery:#?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn one_member_that_sees_life_is_a_veto_and_nothing_is_touched() {
    let rig = Rig::started(3, 3).await;
    rig.group.says(3, OpinionVerdict::Alive(String::from("it answers me")));
    rig.world.kill(1);
    rig.wait(5000).await;
    assert_eq!(rig.recoveries().len(), 0);
    assert_eq!(rig.world.log(), Vec::<String>::new());
    let held_back = rig.members[&1].coordinator.held_back(&key(1)).unwrap();
    assert!(held_back.to_string().contains("it answers me"), "{held_back}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_stalls_is_left_alone() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.reach = Reach::Stalls);
    rig.wait(5000).await;
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_only_the_members_have_lost_is_left_alone() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.reach = Reach::Dropped);
    rig.wait(5000).await;
    // It writes nothing, so its replicas had to show that they reach it.
    let recovery = only(rig.recoveries());
    assert!(!recovery.is_successful() && receives(&rig, 2) && receives(&rig, 3));
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    assert!(!rig.world.log().iter().any(|line| line.starts_with("db1:3306")));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_filter_is_left_alone_and_says_so() {
    let mut rig = Rig::new(3, 1);
    rig.policy.recover_primary_filters = Vec::new();
    rig.start(1);
    rig.settled().await;
    rig.world.kill(1);
    rig.until("the failure is recorded", |rig| {
        rig.group
            .state()
            .detections
            .values()
            .any(|detection| detection.held_back.is_some())
    })
    .await;
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_be_receivers_stopped_is_not_promoted_and_follows_all_the_same() {
    let rig = Rig::started(4, 1).await;
    rig.world.plan(Fault::refuse(2, "stop_receiver"));
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.successor(), Some(&key(3)));
    assert_eq!(source_of(&rig, 2), Some(key(3)));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn when_the_chosen_one_dies_while_it_catches_up_the_next_is_taken() {
    let rig = Rig::started(4, 1).await;
    rig.world.kill(1);
    rig.world
        .plan(Fault::first(2, "wait_applied", |inner| inner.kill(&key(2))));
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.successor(), Some(&key(3)));
    assert_eq!(source_of(&rig, 4), Some(key(3)));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_catch_up_gives_way() {
    let rig = Rig::started(3, 1).await;
    rig.world.with(2, |server| server.applier_hangs = true);
    rig.world.receive(2, "1:101");
    rig.world.receive(3, "1:101");
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(3)), "{recovery:#?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn when_nobody_can_be_promoted_after_all_the_threads_run_again() {
    let rig = Rig::started(2, 1).await;
    rig.world.kill(1);
    rig.world.plan(Fault::refuse(2, "wait_applied"));
    let recovery = only(rig.recovered(1).await);
    assert!(!recovery.is_successful());
    assert_eq!(
        recovery.phase,
        Phase::Ended {
            at: recovery.ended().unwrap(),
            successor: None,
            successful: false
        }
    );
    assert!(receives(&rig, 2), "{:#?}", rig.world.log());
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    // And when the block of a recovery that promoted nobody is over, it is tried again.
    let recovery = rig.recovered(2).await.pop().unwrap();
    assert_eq!(recovery.successor(), Some(&key(2)));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_returns_while_the_successor_applies_gets_its_replicas_back_at_once() {
    let rig = Rig::started(3, 1).await;
    for n in [2, 3] {
        rig.world.with(n, |server| server.applier_hangs = true);
    }
    rig.world.write(1, 5);
    rig.wait(3000).await;
    rig.world.kill(1);
    rig.until("the successor applies", |rig| {
        rig.world.log().iter().any(|line| line.contains(" wait_applied"))
    })
    .await;
    rig.wait(5000).await;
    assert!(!receives(&rig, 2) && !receives(&rig, 3));
    rig.world.start(1);
    let since = tokio::time::Instant::now();
    let recovery = only(rig.recovered(1).await);
    assert!(since.elapsed().as_millis() < 1500, "{:?}", since.elapsed());
    assert!(
        recovery.errors.iter().any(|error| error.contains("came back")),
        "{recovery:#?}"
    );
    assert_eq!(rig.world.writable(), [key(1)]);
    assert!(receives(&rig, 2) && receives(&rig, 3));
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_back_at_the_redial_stays_primary() {
    let rig = Rig::started(3, 1).await;
    rig.world.kill(1);
    rig.world
        .plan(Fault::first(2, "wait_applied", |inner| inner.start(&key(1))));
    let recovery = only(rig.recovered(1).await);
    assert!(
        recovery.errors.iter().any(|error| error.contains("came back")),
        "{recovery:#?}"
    );
    assert_eq!(rig.world.writable(), [key(1)]);
    assert!(receives(&rig, 2) && receives(&rig, 3));
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_fenced_primary_that_turns_out_to_be_fine_is_writable_again() {
    let rig = Rig::started(3, 1).await;
    // Back at the very moment of the claim: the fence reaches it.
    let world = rig.world.clone();
    rig.group.then("claim", move || world.start(1));
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(!recovery.is_successful(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
    assert!(receives(&rig, 2) && receives(&rig, 3));
    assert!(
        rig.world
            .log()
            .iter()
            .any(|line| line.starts_with("db1:3306 set_read_only")),
        "{:#?}",
        rig.world.log()
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_comes_back_behind_and_writable_is_fenced_before_the_opening() {
    let rig = Rig::started(3, 1).await;
    rig.world.receive(2, "1:101-102");
    rig.world.kill(1);
    rig.world
        .plan(Fault::first(2, "wait_applied", |inner| inner.start(&key(1))));
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(2)), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_was_fenced_and_restarts_writable_is_fenced_again() {
    let rig = Rig::started(3, 1).await;
    rig.world.receive(2, "1:101-102");
    let world = rig.world.clone();
    rig.group.then("claim", move || world.start(1));
    rig.world.kill(1);
    // Its session of the first fence is gone with its earlier life.
    rig.world.plan(Fault::first(2, "wait_applied", |inner| {
        inner.kill(&key(1));
        inner.start(&key(1));
    }));
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(2)), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(2)], "{:#?}", rig.world.log());
    let log = rig.world.log();
    let opened = log
        .iter()
        .position(|line| line.starts_with("db2:3306 reset_replication"))
        .unwrap();
    let fences = log[..opened]
        .iter()
        .filter(|line| line.starts_with("db1:3306 set_read_only"))
        .count();
    assert_eq!(fences, 2, "{log:#?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn another_server_at_the_old_primarys_address_is_left_alone() {
    let rig = Rig::started(3, 1).await;
    rig.world.kill(1);
    rig.world
        .plan(Fault::first(2, "stop_receiver", |inner| inner.replace(&key(1), 9)));
    rig.recovered(1).await;
    rig.wait(2000).await;
    let touched: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter(|line| line.starts_with("db1:3306"))
        .collect();
    assert_eq!(touched, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_opening_whose_connection_breaks_is_done_again() {
    for fault in [
        Fault::broken(2, "reset_replication"),
        Fault::broken(2, "set_writable"),
        Fault::done_and_broken(2, "set_writable"),
    ] {
        let rig = Rig::started(3, 1).await;
        rig.world.plan(fault);
        rig.world.kill(1);
        let recovery = only(rig.recovered(1).await);
        assert!(recovery.is_successful(), "{recovery:#?}");
        assert_eq!(rig.world.writable(), [key(2)]);
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_restarts_at_the_opening_is_opened_all_the_same() {
    let rig = Rig::started(3, 1).await;
    rig.world.with(2, |server| server.boots_read_only = true);
    let world = rig.world.clone();
    rig.world.plan(Fault::first(2, "reset_replication", move |inner| {
        inner.kill(&key(2));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(800)).await;
            world.start(2);
        });
    }));
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_back_at_once_is_put_back_a_little_later() {
    let rig = Rig::started(2, 1).await;
    rig.world.plan(Fault::refuse(2, "wait_applied"));
    rig.world.plan(Fault::broken(2, "start_receiver"));
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(receives(&rig, 2), "{recovery:#?}");
    assert!(
        !recovery.errors.iter().any(|error| error.contains("not undone")),
        "{recovery:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_connection_breaks_at_the_repointing_follows_all_the_same() {
    let rig = Rig::started(3, 1).await;
    rig.world.plan(Fault::broken(3, "follow"));
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert_eq!(
        (recovery.is_successful(), recovery.lost_replicas.len()),
        (true, 0),
        "{recovery:#?}"
    );
    assert_eq!(source_of(&rig, 3), Some(key(2)));
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_is_lost_after_the_entry_is_followed_by_that_of_the_next_recovery() {
    let rig = Rig::started(3, 1).await;
    rig.world
        .plan(Fault::first(2, "reset_replication", |inner| inner.kill(&key(2))));
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(
        recovery.errors.iter().any(|error| error.contains("SuccessorLost")),
        "{recovery:#?}"
    );
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    // No actor opens the old primary again for this recovery. The next one chooses among all servers that are left.
    rig.world.start(1);
    let next = rig.recovered(2).await.remove(1);
    assert!(
        next.is_successful() && next.plan.code == Code::SuccessorLost,
        "{next:#?}"
    );
    rig.until("only its successor takes writes", |rig| {
        rig.world.writable() == [next.successor().unwrap().clone()]
    })
    .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_answers_and_could_not_be_opened_three_times_is_opened_in_the_end() {
    let rig = Rig::started(3, 1).await;
    for _ in 0..4 {
        rig.world.plan(Fault::hang(2, "reset_replication"));
    }
    for _ in 0..2 {
        rig.world.plan(Fault::refuse(2, "set_writable"));
    }
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_proof_nothing_is_touched_any_more() {
    // A clean recovery needs some ten proofs: take them away one after the other.
    for proofs in 0..12 {
        let rig = Rig::started(3, 1).await;
        rig.group.fail_proofs_after(proofs);
        rig.world.kill(1);
        rig.wait(3000).await;
        let log = rig.world.log();
        rig.wait(10_000).await;
        assert_eq!(rig.world.log(), log, "after {proofs} proofs");
        assert!(rig.world.writable().len() <= 1);
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_partial_answer_of_the_living_primary_does_not_hide_its_death() {
    let rig = Rig::started(3, 1).await;
    rig.world.with(1, |server| {
        server.facts.problems = vec!["replicas: error 1227: access denied".to_owned()];
    });
    rig.wait(6000).await;
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_could_not_be_made_writable_again_is_when_it_answers_again() {
    let rig = Rig::started(3, 1).await;
    let reach = |reach| move |server: &mut Server| server.reach = reach;
    // The fence reached it, it is fine, and before that can be undone the network goes.
    let world = rig.world.clone();
    rig.group.then("claim", move || world.start(1));
    rig.world.plan(Fault::first(1, "set_writable", move |inner| {
        reach(Reach::Dropped)(inner.servers.get_mut(&key(1)).unwrap());
    }));
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(
        recovery.errors.iter().any(|error| error.contains("not undone")),
        "{recovery:#?}"
    );
    assert_eq!(rig.world.writable(), []);
    rig.world.with(1, reach(Reach::Answers));
    rig.until("the old primary takes writes again", |rig| {
        rig.world.writable() == [key(1)]
    })
    .await;
    rig.world.assert_sound();
}
