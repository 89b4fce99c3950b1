//! Requested takeovers, in the simulator: refused with reasons, done, undone, and followed by another one when the target dies.

use std::sync::Arc;

use crate::app::ports::OpenTransaction;
use crate::domain::fixture::key;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::state::{Phase, Recovery};
use crate::domain::topology::ClusterId;

use super::{Fault, Rig};

pub(super) fn takeover(auto: bool) -> ManualRequest {
    ManualRequest {
        command: if auto {
            "graceful-master-takeover-auto".to_owned()
        } else {
            "graceful-master-takeover".to_owned()
        },
        starts_old_primary: auto,
        ..ManualRequest::default()
    }
}

pub(super) fn forced() -> ManualRequest {
    ManualRequest {
        command: "force-master-failover".to_owned(),
        forced: true,
        ..ManualRequest::default()
    }
}

/// A request to the first member, which leads.
pub(super) async fn ask(rig: &Rig, target: Option<u32>, order: ManualRequest) -> Result<String, HeldBack> {
    let coordinator = Arc::clone(&rig.members[&1].coordinator);
    let target = target.map(key);
    coordinator
        .replace_primary(&ClusterId("c1".to_owned()), target.as_ref(), order)
        .await
}

async fn refused(rig: &Rig, target: Option<u32>, order: ManualRequest) -> String {
    match ask(rig, target, order).await {
        Err(HeldBack::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn recovery(rig: &Rig, uid: &str) -> Recovery {
    rig.group.state().recoveries[uid].clone()
}

fn follows(rig: &Rig, n: u32, source: u32) -> bool {
    rig.world.with(n, |server| {
        server
            .channel
            .as_ref()
            .is_some_and(|link| link.source == key(source) && link.receives && link.applies)
    })
}

#[tokio::test(start_paused = true)]
async fn the_named_replica_takes_over_and_the_old_primary_is_left_stopped() {
    let rig = Rig::started(3, 3).await;
    rig.world.write(1, 20);
    let uid = ask(&rig, Some(3), takeover(false)).await.unwrap();
    let done = recovery(&rig, &uid);
    assert!(done.is_successful(), "{done:#?}");
    assert_eq!(rig.world.writable(), [key(3)]);
    assert!(follows(&rig, 2, 3));
    let old = rig.world.with(1, |server| server.channel.clone()).unwrap();
    assert_eq!((old.source, old.receives, old.applies), (key(3), false, false));
    let state = rig.group.state();
    assert_eq!(
        state
            .clusters
            .values()
            .next()
            .unwrap()
            .primary
            .clone()
            .unwrap()
            .instance,
        key(3)
    );
    assert!(state.quarantines.is_empty(), "{:?}", state.quarantines);
    assert_eq!(rig.world.opened(), [key(3).to_string()]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn with_auto_the_target_is_chosen_and_the_old_primary_replicates() {
    let rig = Rig::started(4, 3).await;
    let uid = ask(&rig, None, takeover(true)).await.unwrap();
    assert!(recovery(&rig, &uid).is_successful());
    assert_eq!(rig.world.writable(), [key(2)]);
    for n in [1, 3, 4] {
        assert!(follows(&rig, n, 2), "db{n}: {:#?}", rig.world.log());
    }
    rig.world.write(2, 5);
    rig.world.assert_sound();
    // There and back again: a takeover blocks no other one.
    let uid = ask(&rig, Some(1), takeover(true)).await.unwrap();
    assert!(recovery(&rig, &uid).is_successful());
    assert_eq!(rig.world.writable(), [key(1)]);
    let held = |n: u32| rig.world.with(n, |server| server.executed.clone());
    assert!(held(1).covers(&held(2)) && held(1).covers(&held(4)));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_refused_with_the_reason_and_nothing_is_touched() {
    let rig = Rig::started(4, 3).await;
    assert!(
        refused(&rig, None, takeover(false))
            .await
            .contains("name the successor"),
        "several replicas"
    );
    assert!(
        refused(&rig, Some(1), takeover(false))
            .await
            .contains("is the primary already")
    );
    assert!(
        refused(&rig, Some(9), takeover(false))
            .await
            .contains("not in the cluster")
    );
    rig.world
        .with(3, |server| server.channel.as_mut().unwrap().applies = false);
    let why = refused(&rig, Some(3), takeover(true)).await;
    assert!(why.contains("db3:3306") && why.contains("applier thread"), "{why}");
    rig.world.kill(4);
    let why = refused(&rig, Some(2), takeover(true)).await;
    assert!(why.contains("db4:3306 cannot follow db2:3306"), "{why}");
    assert_eq!(rig.world.log(), Vec::<String>::new());
    assert!(rig.recoveries().is_empty());
    assert_eq!(rig.world.writable(), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn transactions_that_run_long_are_waited_for_and_then_ended() {
    let rig = Rig::started(3, 3).await;
    let transaction = OpenTransaction {
        session: 42,
        id: "4711".to_owned(),
    };
    rig.world
        .with(1, |server| server.transactions.push(transaction.clone()));
    let begun = tokio::time::Instant::now();
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    assert!(recovery(&rig, &uid).is_successful());
    assert!(begun.elapsed().as_millis() >= 4900, "{:?}", begun.elapsed());
    assert!(
        rig.world
            .log()
            .contains(&"db1:3306 kill_sessions by member1".to_owned())
    );
    assert!(rig.world.with(1, |server| server.transactions.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn where_the_policy_refuses_long_transactions_the_primary_stays() {
    let mut rig = Rig::new(3, 1);
    rig.policy.takeover.ends_transactions = false;
    rig.start(1);
    rig.settled().await;
    let transaction = OpenTransaction {
        session: 42,
        id: "4711".to_owned(),
    };
    rig.world
        .with(1, |server| server.transactions.push(transaction.clone()));
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    let ended = recovery(&rig, &uid);
    assert!(!ended.is_successful());
    assert!(ended.errors[0].contains("(42) did not end"), "{:?}", ended.errors);
    assert!(!rig.world.log().iter().any(|line| line.contains("set_read_only")));
    assert_eq!(rig.world.writable(), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_catch_up_leaves_the_old_primary_writable() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(2, |server| server.applier_hangs = true);
    rig.world.write(1, 10);
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    let ended = recovery(&rig, &uid);
    assert!(!ended.is_successful());
    assert!(ended.errors[0].contains("did not apply all"), "{:?}", ended.errors);
    assert_eq!(rig.world.writable(), [key(1)]);
    assert!(follows(&rig, 3, 1));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_after_it_was_committed_gives_way_to_the_old_primary() {
    let rig = Rig::started(3, 3).await;
    let world = rig.world.clone();
    rig.group.then("open", move || world.kill(2));
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    let first = recovery(&rig, &uid);
    assert!(
        first.errors.iter().any(|error| error.contains("SuccessorLost")),
        "{first:#?}"
    );
    assert!(rig.world.writable().is_empty());
    let since = tokio::time::Instant::now();
    rig.until("another one is writable", |rig| rig.world.writable() == [key(1)])
        .await;
    assert!(since.elapsed().as_secs() < 10, "{:?}", since.elapsed());
    let all = rig.recovered(2).await;
    assert_eq!(all[1].plan.code.as_str(), "SuccessorLost");
    assert!(
        all[1].finding.description.contains(&uid),
        "{}",
        all[1].finding.description
    );
    assert!(all[1].is_successful(), "{:#?}", all[1]);
    assert!(follows(&rig, 3, 1), "{:#?}", rig.world.log());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_successor_of_a_dead_primary_that_dies_too_gives_way_to_the_next_replica() {
    let rig = Rig::started(4, 3).await;
    let world = rig.world.clone();
    rig.group.then("open", move || world.kill(2));
    rig.world.kill(1);
    let all = rig.recovered(2).await;
    assert!(!all[0].is_successful(), "{:#?}", all[0]);
    assert!(all[1].is_successful(), "{:#?}", all[1]);
    assert_eq!(rig.world.writable(), [key(3)]);
    rig.until("the last one follows", |rig| follows(rig, 4, 3)).await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_in_a_takeover_that_opened_nobody_is_undone() {
    for statement in ["transactions", "set_read_only", "kill_clients"] {
        for is_done in [false, true] {
            let rig = Rig::started(3, 3).await;
            let group = rig.group.clone();
            rig.world.plan(if is_done {
                Fault::then(1, statement, move |_| group.depose(1))
            } else {
                Fault::first(1, statement, move |_| group.depose(1))
            });
            ask(&rig, Some(2), takeover(true)).await.ok();
            let recoveries = rig.recovered(1).await;
            assert!(!recoveries[0].is_successful(), "{statement} {is_done}");
            assert_eq!(recoveries[0].holder_name, "member2", "{statement} {is_done}");
            assert_eq!(
                rig.world.writable(),
                [key(1)],
                "{statement} {is_done}: {:#?}",
                rig.world.log()
            );
            rig.world.assert_sound();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_after_the_open_entry_is_finished_for() {
    for (n, statement) in [
        (2, "reset_replication"),
        (2, "set_writable"),
        (3, "follow"),
        (1, "attach"),
    ] {
        let rig = Rig::started(3, 3).await;
        let group = rig.group.clone();
        rig.world.plan(Fault::then(n, statement, move |_| group.depose(1)));
        ask(&rig, Some(2), takeover(true)).await.ok();
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful(), "{statement}: {recoveries:#?}");
        assert_eq!(rig.world.writable(), [key(2)], "{statement}: {:#?}", rig.world.log());
        assert!(
            follows(&rig, 3, 2) && follows(&rig, 1, 2),
            "{statement}: {:#?}",
            rig.world.log()
        );
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_primary_that_cannot_be_attached_is_held() {
    let rig = Rig::started(3, 3).await;
    for _ in 0..2 {
        rig.world.plan(Fault::refuse(1, "attach"));
    }
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    let done = recovery(&rig, &uid);
    assert!(done.is_successful(), "{done:#?}");
    assert!(
        done.errors[0].contains("db1:3306 could not be pointed"),
        "{:?}",
        done.errors
    );
    assert_eq!(rig.group.state().quarantines.len(), 1);
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_forced_failover_fences_a_primary_that_answers_and_loses_nothing() {
    let rig = Rig::started(3, 3).await;
    rig.world.write(1, 20);
    let uid = ask(&rig, None, forced()).await.unwrap();
    let done = recovery(&rig, &uid);
    assert!(done.is_successful(), "{done:#?}");
    assert_eq!(done.lost, None);
    assert_eq!(rig.world.writable(), [key(2)]);
    assert!(follows(&rig, 3, 2));
    assert_eq!(rig.group.state().quarantines.len(), 1, "the old primary is held");
    let log = rig.world.log();
    let place = |wanted: &str| log.iter().position(|line| line.starts_with(wanted)).unwrap();
    assert!(
        place("db1:3306 set_read_only") < place("db2:3306 set_writable"),
        "{log:#?}"
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_forced_failover_stops_when_the_primary_answers_and_stays_writable() {
    for fault in [Fault::refuse as fn(u32, &'static str) -> Fault, Fault::broken] {
        let rig = Rig::started(3, 3).await;
        for _ in 0..4 {
            rig.world.plan(fault(1, "set_read_only"));
        }
        let uid = ask(&rig, None, forced()).await.unwrap();
        let ended = recovery(&rig, &uid);
        assert!(
            matches!(ended.phase, Phase::Ended { successful: false, .. }),
            "{ended:#?}"
        );
        assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_takeover_promotes_the_named_one_or_nobody() {
    let rig = Rig::started(4, 3).await;
    let uid = ask(&rig, Some(4), forced()).await.unwrap();
    assert!(recovery(&rig, &uid).is_successful());
    assert_eq!(rig.world.writable(), [key(4)]);
    // One that is not a direct replica of the present primary is no answer.
    let why = refused(&rig, Some(1), forced()).await;
    assert!(why.contains("db1:3306"), "{why}");
    assert_eq!(rig.world.writable(), [key(4)]);
    rig.world.assert_sound();
}
