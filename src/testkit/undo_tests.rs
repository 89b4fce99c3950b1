//! What an undo restores on the old primary: what was found there before the recovery touched it, whichever actor touched it.

use std::time::Duration;

use crate::domain::fixture::key;
use crate::domain::hooks::HookList;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::Recovery;

use super::{Fault, Reach, Rig, Script};

/// A group whose primary restarts read-only, as its configuration file says. ham4db has never opened it.
async fn boots_read_only() -> Rig {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.boots_read_only = true);
    rig
}

fn assert_came_back(rig: &Rig, recovery: &Recovery, about: &str) {
    let log = rig.world.log();
    assert!(
        recovery.errors.iter().any(|error| error.contains("came back")),
        "{about}: {recovery:#?}"
    );
    assert_eq!(rig.world.writable(), [key(1)], "{about}: {log:#?}");
    for n in [2, 3] {
        assert!(
            rig.world.with(n, |server| server.channel.as_ref().unwrap().receives),
            "{about}: {log:#?}"
        );
    }
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_comes_back_read_only_before_another_is_opened_is_opened_by_the_undo() {
    for (n, statement) in [
        (2, "stop_receiver"),
        (3, "stop_receiver"),
        (2, "wait_applied"),
        (2, "facts"),
    ] {
        for leader_is_lost in [false, true] {
            let about = format!("back at {statement} on db{n}, leader lost: {leader_is_lost}");
            let rig = boots_read_only().await;
            let group = rig.group.clone();
            rig.world.plan(Fault::first(n, statement, move |inner| {
                inner.start(&key(1));
                if leader_is_lost {
                    group.depose(1);
                }
            }));
            rig.world.kill(1);
            let recoveries = rig.recovered(1).await;
            assert_came_back(&rig, &recoveries[0], &about);
            assert_eq!(recoveries.len(), 1, "{about}: {recoveries:#?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_restarts_read_only_while_hooks_run_is_opened_by_the_undo() {
    let mut rig = Rig::new(3, 1);
    rig.hook_settings.lists = [(HookList::PreFailover, vec!["before".to_owned()])].into();
    rig.start(1);
    rig.settled().await;
    rig.world.with(1, |server| server.boots_read_only = true);
    let world = rig.world.clone();
    let script = Script {
        takes: Duration::from_secs(3),
        begins: Some(Box::new(move || world.start(1))),
        ..Script::good()
    };
    rig.hooks.plan("before", script);
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.errors[0].contains("was not found any more"), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_was_read_only_before_is_not_made_writable_by_an_undo() {
    for leader_is_lost in [false, true] {
        let rig = boots_read_only().await;
        // An operator made it read-only, and every member has seen that.
        rig.world.with(1, |server| server.read_only = true);
        rig.wait(6000).await;
        let (world, group) = (rig.world.clone(), rig.group.clone());
        rig.group.then("claim", move || world.start(1));
        if leader_is_lost {
            rig.world
                .plan(Fault::then(1, "set_read_only", move |_| group.depose(1)));
        }
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(!recoveries[0].is_successful(), "{recoveries:#?}");
        let fenced = |line: &String| line.starts_with("db1:3306 set_read_only");
        assert!(rig.world.log().iter().any(fenced), "{:#?}", rig.world.log());
        rig.wait(10_000).await;
        assert_eq!(rig.world.opened(), Vec::<String>::new(), "{leader_is_lost}");
        assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new(), "{leader_is_lost}");
    }
}

/// The first leader fences db1, which has just returned, and is lost. No later fence reaches db1: connections to it are dropped.
async fn fenced_and_lost(rig: &Rig) {
    let (world, group) = (rig.world.clone(), rig.group.clone());
    rig.group.then("claim", move || world.start(1));
    rig.world.plan(Fault::then(1, "set_read_only", move |inner| {
        inner.servers.get_mut(&key(1)).unwrap().reach = Reach::Dropped;
        group.depose(1);
    }));
    rig.world.kill(1);
    rig.until("it is fenced", |rig| {
        rig.world.with(1, |server| server.reach == Reach::Dropped)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_a_lost_leader_fenced_is_opened_by_the_next_one_that_fenced_nothing() {
    let rig = Rig::started(3, 3).await;
    rig.world.plan(Fault::first(2, "stop_receiver", |inner| {
        inner.servers.get_mut(&key(1)).unwrap().reach = Reach::Answers;
    }));
    fenced_and_lost(&rig).await;
    let recoveries = rig.recovered(1).await;
    assert_came_back(&rig, &recoveries[0], "fenced by the first leader");
    let fences = rig.world.log();
    let fences: Vec<&String> = fences.iter().filter(|line| line.contains("set_read_only")).collect();
    assert_eq!(fences, ["db1:3306 set_read_only by member1"]);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_a_lost_leader_fenced_is_opened_when_it_answers_after_the_undo() {
    let mut rig = Rig::new(3, 3);
    rig.hook_settings.lists = [(HookList::Fencing, vec!["fence".to_owned()])].into();
    rig.policy.fences_outside = true;
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    let script = Script {
        code: 3,
        ..Script::good()
    };
    rig.hooks.plan("fence", script);
    fenced_and_lost(&rig).await;
    let recoveries = rig.recovered(1).await;
    assert!(
        recoveries[0]
            .errors
            .iter()
            .any(|error| error.contains("nothing proves")),
        "{recoveries:#?}"
    );
    rig.world.with(1, |server| server.reach = Reach::Answers);
    rig.until("it takes writes again", |rig| rig.world.writable() == [key(1)])
        .await;
    assert!(
        rig.recoveries()
            .iter()
            .any(|recovery| recovery.plan.kind == RecoveryKind::NonWritablePrimary)
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_an_operator_made_read_only_meanwhile_is_not_opened_by_an_undo() {
    let rig = Rig::started(3, 1).await;
    // Replicas and members lose it for a moment. It does not restart, and nobody fences it.
    rig.world.plan(Fault::first(2, "wait_applied", |inner| {
        let server = inner.servers.get_mut(&key(1)).unwrap();
        server.up = true;
        server.read_only = true;
    }));
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(
        recoveries[0].errors.iter().any(|error| error.contains("came back")),
        "{recoveries:#?}"
    );
    rig.wait(10_000).await;
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    assert_eq!(rig.world.writable(), Vec::<InstanceKey>::new());
}
