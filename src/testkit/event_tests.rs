//! Events of the event scheduler, and locks that hold up a demotion, in the simulator.

use crate::domain::fixture::key;
use crate::domain::policy::EventsPolicy;
use crate::domain::scheduled_events::{EnabledEvents, ScheduledEvent};
use crate::domain::state::Recovery;

use super::handover_tests::{ask, takeover};
use super::{Fault, Rig};

fn events() -> EnabledEvents {
    EnabledEvents::of(["cleanup", "tick"].map(|name| ScheduledEvent {
        schema: "app".to_owned(),
        name: name.to_owned(),
    }))
}

async fn rig(policy: EventsPolicy) -> Rig {
    let mut rig = Rig::new(3, 1);
    rig.policy.events = policy;
    rig.world.with(1, |server| server.events = Some(events()));
    rig.start(1);
    rig.settled().await;
    rig.wait(1000).await;
    rig
}

fn lines(recovery: &Recovery) -> String {
    let lines: Vec<&str> = recovery.steps.iter().map(|line| line.message.as_str()).collect();
    lines.join("\n")
}

/// The places in the log of these statements on a server; the log has each exactly once.
fn places(rig: &Rig, statements: &[String]) -> Vec<usize> {
    let log = rig.world.log();
    statements
        .iter()
        .map(|statement| {
            let mut found = log.iter().enumerate().filter(|(_, line)| line.starts_with(statement));
            let (place, _) = found.next().unwrap_or_else(|| panic!("{statement}: {log:#?}"));
            assert_eq!(found.count(), 0, "{statement}: {log:#?}");
            place
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_primary_enables_the_events_of_the_old_one_after_its_replicas_follow() {
    let rig = rig(EventsPolicy::Enable).await;
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(
        recoveries[0].is_successful() && recoveries[0].errors.is_empty(),
        "{recoveries:#?}"
    );
    let order = places(
        &rig,
        &[
            format!("{} set_writable", key(2)),
            format!("{} follow", key(3)),
            format!("{} enable_events", key(2)),
        ],
    );
    assert!(order.is_sorted(), "{:#?}", rig.world.log());
    let lines = lines(&recoveries[0]);
    assert!(
        lines.contains("enable on") && lines.contains("`app`.`cleanup`, `app`.`tick`: 2 events enabled"),
        "{lines}"
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_enabled_are_an_error_of_a_successful_recovery() {
    for fault in [Fault::refuse(2, "enable_events"), Fault::hang(2, "enable_events")] {
        let rig = rig(EventsPolicy::Enable).await;
        rig.world.plan(fault);
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful(), "{recoveries:#?}");
        assert!(
            recoveries[0]
                .errors
                .iter()
                .any(|error| error.contains("not all events are enabled")),
            "{recoveries:#?}"
        );
        assert_eq!(rig.world.writable(), [key(2)]);
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_left_alone_by_policy_and_where_they_are_unknown() {
    for (policy, known) in [(EventsPolicy::Leave, true), (EventsPolicy::Enable, false)] {
        let rig = rig(policy).await;
        if !known {
            rig.world.with(1, |server| server.events = None);
            rig.wait(10_000).await;
        }
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(
            recoveries[0].is_successful() && recoveries[0].errors.is_empty(),
            "{recoveries:#?}"
        );
        let log = rig.world.log();
        assert!(!log.iter().any(|line| line.contains("enable_events")), "{log:#?}");
        let lines = lines(&recoveries[0]);
        assert_eq!(lines.contains("the events of"), !known, "{lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_demotion_that_waits_too_long_for_a_lock_is_undone_and_names_the_session() {
    for kills in [true, false] {
        let mut rig = Rig::new(3, 1);
        rig.policy.takeover.ends_transactions = kills;
        rig.start(1);
        rig.settled().await;
        rig.wait(1000).await;
        for _ in 0..9 {
            rig.world.plan(Fault::blocked(1, "set_read_only"));
        }
        let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
        let recovery = rig.group.state().recoveries[&uid].clone();
        assert!(!recovery.is_successful(), "{recovery:#?}");
        let errors = recovery.errors.join("; ");
        assert!(errors.contains("held by session 77 of app@10.0.0.9, 31 s"), "{errors}");
        assert_eq!(rig.world.writable(), [key(1)]);
        let log = rig.world.log();
        assert_eq!(log.iter().any(|line| line.contains("kill_clients")), kills, "{log:#?}");
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_ends_with_its_session_does_not_stop_a_takeover() {
    let rig = Rig::started(3, 1).await;
    rig.world.plan(Fault::blocked(1, "set_read_only"));
    let uid = ask(&rig, Some(2), takeover(true)).await.unwrap();
    assert!(rig.group.state().recoveries[&uid].is_successful());
    assert_eq!(rig.world.writable(), [key(2)]);
}
