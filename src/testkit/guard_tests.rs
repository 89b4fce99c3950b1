//! The failed primary returns: it is kept read-only, classified, made a replica again, and never used as the primary.

use std::sync::{Arc, Mutex};

use crate::domain::fixture::{key, mysql_set};
use crate::domain::key::InstanceKey;
use crate::domain::policy::OldPrimary;
use crate::domain::state::{Command, QuarantineState};

use super::{Fault, Reach, Rig};

async fn failed_over(old_primary: OldPrimary) -> Rig {
    let mut rig = Rig::new(3, 1);
    rig.policy.old_primary = old_primary;
    rig.start(1);
    rig.settled().await;
    rig.world.kill(1);
    rig.recovered(1).await;
    assert_eq!(rig.world.writable(), [key(2)]);
    rig
}

fn standing(rig: &Rig) -> Option<QuarantineState> {
    rig.group
        .state()
        .quarantines
        .values()
        .next()
        .map(|quarantine| quarantine.standing.clone())
}

#[tokio::test(start_paused = true)]
async fn a_returned_primary_is_read_only_within_a_third_of_a_second() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.wait(5000).await;
    rig.world.start(1);
    assert_eq!(rig.world.writable(), [key(1), key(2)]);
    rig.wait(300).await;
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.until("it is judged", |rig| standing(rig) == Some(QuarantineState::Contained))
        .await;
    // Held, not touched otherwise.
    rig.wait(5000).await;
    assert_eq!(rig.recoveries().len(), 1);
    assert!(rig.world.with(1, |server| server.channel.is_none()));
}

#[tokio::test(start_paused = true)]
async fn whoever_makes_a_held_server_writable_finds_it_read_only_again() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    rig.world.with(1, |server| server.read_only = false);
    rig.until("it is held again", |rig| rig.world.writable() == [key(2)])
        .await;
}

/// Its clients commit again as soon as the statement has given up, and this server alone would acknowledge their commits.
#[tokio::test(start_paused = true)]
async fn semi_sync_is_on_again_before_the_next_try_to_make_a_server_read_only() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.wait(5000).await;
    rig.world.with(1, |server| {
        server.facts.semi_sync.source_enabled = true;
        server.facts.semi_sync.wait_sessions = 3;
    });
    // While the statement waits, the clients cannot be killed at first, and are disconnected then.
    rig.world.plan(Fault::blocked(1, "set_read_only"));
    rig.world.plan(Fault::slow(1, "kill_clients"));
    let found = Arc::new(Mutex::new(Vec::new()));
    let next_try = Arc::clone(&found);
    rig.world.plan(Fault::first(1, "set_read_only", move |inner| {
        let is_on = inner.servers[&key(1)].facts.semi_sync.source_enabled;
        next_try.lock().unwrap().push(is_on);
    }));
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    assert_eq!(*found.lock().unwrap(), [true], "the next try");
    let log = rig.world.log();
    let switched = log
        .iter()
        .filter(|line| line.starts_with("db1:3306 set_semi_sync_source "));
    assert_eq!(switched.count(), 2, "off and on: {log:?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_held_server_is_noticed() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    rig.wait(3000).await;
    rig.world.kill(1);
    rig.world.start(1);
    rig.wait(300).await;
    assert_eq!(rig.world.writable(), [key(2)]);
}

/// Kills a held db1 and starts it again after so many milliseconds. Returns for how long it was writable, at most half a second.
async fn open_after_restart(rig: &Rig, down_millis: u64) -> u64 {
    rig.world.kill(1);
    rig.wait(down_millis).await;
    rig.world.start(1);
    let mut open = 0;
    while open < 500 && rig.world.writable().contains(&key(1)) {
        rig.wait(5).await;
        open += 5;
    }
    open
}

/// Times at which the pulse, the review and a dial of the enforcer are in different phases, milliseconds.
const PHASES: [u64; 12] = [0, 70, 140, 210, 333, 405, 480, 555, 640, 731, 850, 960];

#[tokio::test(start_paused = true)]
async fn a_held_server_is_read_only_soon_whenever_it_is_restarted() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.start(1);
    for down in [0, 50, 400, 3000] {
        for phase in PHASES {
            rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
            rig.wait(1000 + phase).await;
            let open = open_after_restart(&rig, down).await;
            assert!(open <= 150, "{open} ms after {down} ms, phase {phase}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_held_server_waits_for_no_other_server() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    // A review compares it with the primary, which takes its time to answer. db3 receives, so that the primary is not replaced.
    rig.world.with(2, |server| server.reach = Reach::Dropped);
    for phase in PHASES {
        rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
        rig.wait(1000 + phase).await;
        let open = open_after_restart(&rig, 0).await;
        assert!(open <= 150, "{open} ms, phase {phase}");
    }
    assert_eq!(rig.recoveries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_server_that_restarts_while_the_leader_changes_is_read_only_soon() {
    for phase in PHASES {
        let mut rig = Rig::new(3, 3);
        for id in 1..=3 {
            rig.start(id);
        }
        rig.settled().await;
        rig.world.kill(1);
        rig.recovered(1).await;
        rig.world.start(1);
        rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
        rig.wait(phase).await;
        rig.group.depose(1);
        let open = open_after_restart(&rig, 0).await;
        assert!(open <= 150, "{open} ms, phase {phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn commits_that_block_the_statement_on_a_returned_server_end_with_their_sessions() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.plan(Fault::blocked(1, "set_read_only"));
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    let statements: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter_map(|line| line.strip_prefix("db1:3306 ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(
        statements[..2],
        ["kill_clients", "kill_clients"],
        "while the statement waits, and after it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_server_on_which_clients_commit_again_and_again_becomes_read_only() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.plan(Fault::blocked_by_commits(1, "set_read_only"));
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_prove_that_it_leads_ends_no_session_on_a_returned_server() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.group.fail_proofs_after(0);
    rig.world.start(1);
    rig.world.with(1, |server| server.lock = Some(999));
    rig.wait(3000).await;
    assert_eq!(rig.world.with(1, |server| server.lock), Some(999));
    assert!(rig.world.lock().killed_holders.is_empty());
    rig.group.fail_proofs_after(u32::MAX);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    assert_eq!(rig.world.lock().killed_holders, [(key(1), "member1".to_owned(), 999)]);
}

#[tokio::test(start_paused = true)]
async fn a_held_server_that_restarts_writable_is_read_only_within_a_third_of_a_second() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    rig.world.kill(1);
    rig.wait(3000).await;
    rig.world.start(1);
    assert_eq!(rig.world.writable(), [key(1), key(2)]);
    rig.wait(300).await;
    assert_eq!(rig.world.writable(), [key(2)]);
}

#[tokio::test(start_paused = true)]
async fn an_old_primary_that_was_cut_off_or_stalled_is_read_only_soon_after_it_answers() {
    for reach in [Reach::Dropped, Reach::Stalls] {
        let rig = failed_over(OldPrimary::Hold).await;
        rig.world.start(1);
        rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
        rig.world.with(1, |server| server.reach = reach);
        rig.wait(5000).await;
        rig.world.with(1, |server| {
            server.reach = Reach::Answers;
            server.read_only = false;
        });
        rig.wait(800).await;
        assert_eq!(rig.world.writable(), [key(2)], "{reach:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_the_old_primary_holds_is_named_and_it_does_not_rejoin() {
    let rig = Rig::new(3, 1);
    let mut rig = rig;
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.start(1);
    rig.settled().await;
    rig.world
        .with(1, |server| server.executed = server.executed.union(&mysql_set("1:101")));
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.world.start(1);
    rig.until("it is judged", |rig| {
        matches!(standing(rig), Some(QuarantineState::Errant { .. }))
    })
    .await;
    assert_eq!(
        standing(&rig),
        Some(QuarantineState::Errant {
            set: mysql_set("1:101")
        })
    );
    rig.wait(5000).await;
    assert_eq!(rig.recoveries().len(), 1);
    assert_eq!(rig.world.writable(), [key(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_returned_primary_that_lacks_nothing_of_its_own_rejoins() {
    let rig = failed_over(OldPrimary::Rejoin).await;
    rig.world.write(2, 3);
    rig.world.start(1);
    rig.until("it follows and is let go", |rig| {
        rig.group.state().quarantines.is_empty()
    })
    .await;
    let link = rig.world.with(1, |server| server.channel.clone()).unwrap();
    assert_eq!((link.source, link.receives), (key(2), true));
    assert!(
        rig.world
            .lock()
            .facts(&key(1))
            .executed
            .contains(&mysql_set("2:101-103"))
    );
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_rejoined_primary_that_is_promoted_again_is_not_made_read_only() {
    let mut rig = Rig::new(2, 1);
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.policy.block_millis = 0;
    rig.start(1);
    rig.settled().await;
    rig.world.kill(1);
    rig.recovered(1).await;
    // The moment that it follows, the new primary dies: it is the only one that can be promoted, and still in quarantine.
    rig.world.plan(Fault::then(1, "follow", |inner| inner.kill(&key(2))));
    rig.world.start(1);
    rig.until("it is promoted", |rig| {
        rig.recoveries()
            .iter()
            .any(|recovery| recovery.successor() == Some(&key(1)) && !recovery.is_active())
    })
    .await;
    rig.wait(5000).await;
    assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_a_person_lets_go_is_not_touched_again() {
    let rig = failed_over(OldPrimary::Hold).await;
    let quarantine = rig.group.state().quarantines.keys().next().unwrap().clone();
    rig.group.commit(Command::Release {
        quarantine,
        reason: "by hand".to_owned(),
    });
    rig.wait(1000).await;
    let log = rig.world.log();
    rig.world.start(1);
    rig.wait(3000).await;
    assert_eq!(rig.world.log(), log);
}

#[tokio::test(start_paused = true)]
async fn another_server_at_the_address_of_a_quarantined_one_is_left_alone() {
    let rig = failed_over(OldPrimary::Hold).await;
    rig.world.lock().replace(&key(1), 9);
    rig.until("it is seen", |rig| {
        matches!(standing(rig), Some(QuarantineState::Unknown { .. }))
    })
    .await;
    rig.wait(3000).await;
    assert!(
        rig.world.log().iter().all(|line| !line.starts_with("db1:3306")),
        "{:#?}",
        rig.world.log()
    );
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_lead_guards_nothing() {
    let mut rig = Rig::new(3, 3);
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.group.depose(1);
    rig.wait(1000).await;
    rig.world.start(1);
    rig.until("it is held", |rig| rig.world.writable() == [key(2)]).await;
    let held: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter(|line| line.starts_with("db1:3306 set_read_only"))
        .collect();
    assert!(held.iter().all(|line| line.ends_with("member2")), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_flaps_in_the_middle_of_a_rejoin_still_repairs_afterwards() {
    let mut rig = Rig::new(3, 3);
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.policy.block_millis = 0;
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world.kill(1);
    rig.recovered(1).await;
    let group = rig.group.clone();
    // Led for a moment by another one while db1 is being pointed at its new source.
    rig.world.plan(Fault::then(1, "follow", move |_| group.elect(2)));
    rig.world.start(1);
    rig.until("another member leads", |rig| {
        rig.world.log().iter().any(|line| line.starts_with("db1:3306 follow"))
    })
    .await;
    rig.wait(500).await;
    rig.group.elect(1);
    rig.recovered(2).await;
    rig.until("db1 is let go", |rig| rig.group.state().quarantines.is_empty())
        .await;
    rig.world.kill(2);
    rig.until("the next failure is repaired", |rig| rig.world.writable().len() == 1)
        .await;
    assert_ne!(rig.world.writable(), Vec::<InstanceKey>::new());
    rig.world.assert_sound();
}

/// The downtimes that recoveries set.
fn lost(rig: &Rig) -> Vec<InstanceKey> {
    let state = rig.group.state();
    crate::domain::state::lost_replicas(&state)
        .map(|(key, _)| key.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_lost_server_is_in_downtime_until_it_is_a_replica_again() {
    let rig = failed_over(OldPrimary::Rejoin).await;
    assert_eq!(lost(&rig), [key(1)]);
    rig.wait(10_000).await;
    assert_eq!(lost(&rig), [key(1)], "it is still away");
    rig.world.start(1);
    rig.until("its downtime is over", |rig| lost(rig).is_empty()).await;
    assert!(rig.group.state().quarantines.is_empty() || rig.world.with(1, |server| server.channel.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_a_recovery_left_behind_is_attached_again() {
    let mut rig = Rig::new(3, 1);
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.start(1);
    rig.settled().await;
    rig.world.kill(3);
    rig.wait(2000).await;
    rig.world.kill(1);
    rig.recovered(1).await;
    assert_eq!(lost(&rig), [key(1), key(3)]);
    rig.world.write(2, 5);
    rig.world.start(3);
    rig.until("it follows the new primary", |rig| {
        let link = rig.world.with(3, |server| server.channel.clone());
        link.is_some_and(|link| link.source == key(2) && link.receives)
    })
    .await;
    rig.until("its downtime is over", |rig| lost(rig) == [key(1)]).await;
    // Its start made it writable, beside the new primary: it is read-only before it follows.
    let touched: Vec<String> = rig
        .world
        .log()
        .into_iter()
        .filter_map(|line| line.strip_prefix("db3:3306 ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(touched[..3], ["set_read_only", "kill_clients", "follow"], "{touched:?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_lost_replica_with_transactions_of_its_own_is_left_to_a_person() {
    let mut rig = Rig::new(3, 1);
    rig.policy.old_primary = OldPrimary::Rejoin;
    rig.start(1);
    rig.settled().await;
    rig.world.kill(3);
    rig.wait(2000).await;
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.world
        .with(3, |server| server.executed = server.executed.union(&mysql_set("3:1")));
    rig.world.start(3);
    rig.wait(10_000).await;
    let link = rig.world.with(3, |server| server.channel.clone()).unwrap();
    assert_eq!(link.source, key(1), "it was not moved");
    assert!(lost(&rig).contains(&key(3)));
}

#[tokio::test(start_paused = true)]
async fn under_hold_and_in_a_persons_downtime_a_lost_replica_is_left_alone() {
    for person in [false, true] {
        let mut rig = Rig::new(3, 1);
        rig.policy.old_primary = if person { OldPrimary::Rejoin } else { OldPrimary::Hold };
        rig.start(1);
        rig.settled().await;
        rig.world.kill(3);
        rig.wait(2000).await;
        rig.world.kill(1);
        rig.recovered(1).await;
        if person {
            let intent = crate::domain::intent::Intent {
                instance: key(3),
                origin: crate::domain::intent::Origin::Api,
                details: crate::domain::intent::IntentDetails::Downtime {
                    owner: "alice".to_owned(),
                    reason: "disk".to_owned(),
                    since: crate::domain::fixture::NOW,
                    until: None,
                },
            };
            rig.group.commit(Command::SetIntent { intent });
        }
        rig.world.start(3);
        rig.wait(10_000).await;
        let link = rig.world.with(3, |server| server.channel.clone()).unwrap();
        assert_eq!(link.source, key(1), "person: {person}");
    }
}
