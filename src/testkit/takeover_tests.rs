//! The actor is lost during a recovery: another one continues from what is committed.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::key;
use crate::domain::state::Recovery;

use super::handover_tests::{ask, takeover};
use super::{CommitFault, Fault, Reach, Rig};

/// Asserts what must hold after every recovery.
fn assert_one_primary(rig: &Rig, recoveries: &[Recovery], about: &str) {
    rig.world.assert_sound();
    let log = rig.world.log();
    assert_eq!(recoveries.len(), 1, "{about}: {recoveries:#?}");
    assert!(recoveries[0].is_successful(), "{about}: {recoveries:#?}\n{log:#?}");
    let successor = recoveries[0].successor().unwrap().clone();
    assert_eq!(
        rig.world.writable(),
        std::slice::from_ref(&successor),
        "{about}: {log:#?}"
    );
    assert!(
        rig.world.opened().iter().all(|opened| *opened == successor.to_string()),
        "{about}: {log:#?}"
    );
    for n in [2, 3] {
        if key(n) != successor {
            let link = rig.world.with(n, |server| server.channel.clone()).unwrap();
            assert_eq!(
                (link.source, link.receives),
                (successor.clone(), true),
                "{about}: {log:#?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_at_a_commit_is_followed_by_another() {
    for (kind, command) in CommitFault::sweep() {
        let rig = Rig::started(3, 3).await;
        rig.group.plan(CommitFault::new(command, kind));
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert_one_primary(&rig, &recoveries, &format!("{kind:?} at {command}"));
        let committed = rig.group.committed();
        assert_eq!(
            committed.iter().filter(|name| *name == "open").count(),
            1,
            "{kind:?} at {command}: {committed:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_at_a_statement_is_followed_by_another() {
    for (n, statement) in [
        (2, "stop_receiver"),
        (3, "stop_receiver"),
        (2, "start_applier"),
        (2, "wait_applied"),
        (2, "reset_replication"),
        (2, "set_writable"),
        (3, "follow"),
        (2, "facts"),
    ] {
        for is_done in [false, true] {
            let rig = Rig::started(3, 3).await;
            let group = rig.group.clone();
            rig.world.plan(if is_done {
                Fault::then(n, statement, move |_| group.depose(1))
            } else {
                Fault::first(n, statement, move |_| group.depose(1))
            });
            rig.world.kill(1);
            let recoveries = rig.recovered(1).await;
            assert_one_primary(&rig, &recoveries, &format!("{statement} on db{n}, done: {is_done}"));
            assert_eq!(recoveries[0].holder_name, "member2", "{statement} on db{n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_leaders_lost_one_after_the_other_are_followed_by_a_third() {
    let rig = Rig::started(3, 5).await;
    let (first, second) = (rig.group.clone(), rig.group.clone());
    rig.world
        .plan(Fault::then(2, "stop_receiver", move |_| first.depose(1)));
    rig.world
        .plan(Fault::then(2, "reset_replication", move |_| second.depose(2)));
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert_one_primary(&rig, &recoveries, "two leaders lost");
    assert_eq!(
        (recoveries[0].holder_name.as_str(), recoveries[0].epoch),
        ("member3", 3)
    );
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_was_cut_off_for_a_while_does_not_touch_anything_afterwards() {
    let rig = Rig::started(3, 3).await;
    let group = rig.group.clone();
    // It hangs in the middle of stopping receivers until everything is over, then reaches the others again.
    rig.world.plan(Fault::hang(3, "stop_receiver"));
    rig.world.kill(1);
    rig.until("the recovery is claimed", |rig| !rig.recoveries().is_empty())
        .await;
    rig.wait(50).await;
    group.depose(1);
    let recoveries = rig.recovered(1).await;
    assert_one_primary(&rig, &recoveries, "hanging actor");
    let log = rig.world.log();
    group.heal(1);
    rig.wait(20_000).await;
    let late: Vec<String> = rig
        .world
        .log()
        .split_off(log.len())
        .into_iter()
        .filter(|line| line.ends_with("member1"))
        .collect();
    assert_eq!(late, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_group_goes_on_with_what_it_finds() {
    for statement in ["stop_receiver", "reset_replication", "set_writable"] {
        let mut rig = Rig::started(3, 1).await;
        let group = rig.group.clone();
        rig.world.plan(Fault::then(2, statement, move |_| group.depose(1)));
        rig.world.kill(1);
        rig.until("the member is cut off", |rig| {
            rig.group.committed().contains(&String::from("claim"))
                && rig.world.log().iter().any(|line| line.contains(statement))
        })
        .await;
        rig.stop(1);
        rig.wait(10_000).await;
        // Nothing is remembered but the state.
        rig.group.heal(1);
        rig.start(1);
        let recoveries = rig.recovered(1).await;
        assert_one_primary(&rig, &recoveries, statement);
        let resumed = rig.group.committed().iter().filter(|name| *name == "resume").count();
        assert!(
            (1..=3).contains(&resumed),
            "resumed {resumed} times: {:?}",
            rig.group.committed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fence_of_a_lost_actor_is_undone_by_the_next_one() {
    let rig = Rig::started(3, 3).await;
    let (world, group) = (rig.world.clone(), rig.group.clone());
    rig.group.then("claim", move || world.start(1));
    rig.world
        .plan(Fault::then(1, "set_read_only", move |_| group.depose(1)));
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(!recoveries[0].is_successful(), "{recoveries:#?}");
    assert_eq!(recoveries[0].holder_name, "member2");
    assert!(
        rig.world
            .log()
            .iter()
            .any(|line| line.starts_with("db1:3306 set_read_only")),
        "{:#?}",
        rig.world.log()
    );
    assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn the_next_actor_leaves_another_server_at_the_old_primarys_address_alone() {
    let rig = Rig::started(3, 3).await;
    let group = rig.group.clone();
    // Two of three are gone for a while; the third sees who stands at the address now before it may act.
    rig.world.plan(Fault::then(2, "stop_receiver", move |inner| {
        inner.replace(&key(1), 9);
        group.depose(1);
        group.depose(2);
    }));
    rig.world.kill(1);
    rig.until("two members are cut off", |rig| !rig.world.log().is_empty())
        .await;
    rig.wait(1000).await;
    rig.group.heal(2);
    rig.recovered(1).await;
    rig.wait(2000).await;
    let touched: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter(|line| line.starts_with("db1:3306"))
        .collect();
    assert_eq!(
        touched,
        Vec::<String>::new(),
        "{:#?} {:#?}",
        rig.world.log(),
        rig.recoveries()
            .iter()
            .map(|recovery| (
                &recovery.plan.old_primary_identity,
                &recovery.phase,
                &recovery.errors,
                &recovery.steps
            ))
            .collect::<Vec<_>>()
    );
    rig.world.assert_sound();
}

/// The new primary of a takeover and the leader vanish before the other members have probed the servers again. Returns how long it takes
/// until another server takes writes, by the given way to vanish.
async fn vanishes_after_a_takeover(vanish: impl Fn(&Rig)) -> Duration {
    let rig = Rig::started(4, 3).await;
    ask(&rig, Some(2), takeover(true)).await.unwrap();
    let vanished = Instant::now();
    vanish(&rig);
    rig.group.depose(1);
    rig.until("another server takes writes", |rig| {
        rig.world.writable().iter().any(|server| *server != key(2))
    })
    .await;
    rig.world.assert_sound();
    vanished.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_new_primary_that_dies_with_the_leader_right_after_a_takeover_is_replaced_soon() {
    let took = vanishes_after_a_takeover(|rig| rig.world.kill(2)).await;
    assert!(took <= Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_primary_that_is_cut_off_with_the_leader_right_after_a_takeover_is_replaced_soon() {
    let took = vanishes_after_a_takeover(|rig| {
        rig.world.with(2, |server| server.reach = Reach::Dropped);
        for replica in [1, 3, 4] {
            rig.world.cut(replica, 2);
        }
    })
    .await;
    assert!(took <= Duration::from_secs(15), "{took:?}");
}
