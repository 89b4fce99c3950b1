//! `bootReadOnly: Enforce`: whether servers are read-only after their next start, and a primary that is made writable again after
//! its own start.

use crate::domain::fixture::key;
use crate::domain::policy::BootReadOnly;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::Recovery;

use super::{Fault, Rig};

fn rig(servers: u32, boot_read_only: BootReadOnly) -> Rig {
    let mut rig = Rig::new(servers, 1);
    rig.policy.boot_read_only = boot_read_only;
    rig.start(1);
    rig
}

/// For each server, whether its next start is read-only.
fn boots_read_only(rig: &Rig) -> Vec<bool> {
    let inner = rig.world.lock();
    inner.servers.values().map(|server| server.boots_read_only).collect()
}

#[tokio::test(start_paused = true)]
async fn with_enforce_every_server_boots_read_only_and_with_advise_none_is_touched() {
    let enforced = rig(3, BootReadOnly::Enforce);
    enforced.settled().await;
    enforced
        .until("all boot read-only", |rig| boots_read_only(rig) == [true, true, true])
        .await;
    let recoveries = enforced.recovered(1).await;
    assert_eq!(
        (recoveries.len(), recoveries[0].plan.kind, recoveries[0].is_successful()),
        (1, RecoveryKind::BootReadOnly, true)
    );
    assert_eq!(enforced.world.writable(), [key(1)], "the running server is left alone");
    enforced.wait(20_000).await;
    assert_eq!(enforced.recoveries().len(), 1);

    let advised = rig(3, BootReadOnly::Advise);
    advised.settled().await;
    advised.wait(20_000).await;
    assert_eq!(advised.world.log(), [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_refuses_is_recorded_and_not_tried_all_the_time() {
    let rig = rig(2, BootReadOnly::Enforce);
    rig.world.plan(Fault::refuse(2, "set_boot_read_only"));
    rig.settled().await;
    let recoveries = rig.recovered(1).await;
    assert!(!recoveries[0].is_successful());
    assert!(
        recoveries[0].errors[0].starts_with("db2:3306 will still start writable"),
        "{:?}",
        recoveries[0].errors
    );
    rig.wait(200_000).await;
    assert_eq!(rig.recoveries().len(), 1);
    rig.until("it is tried again", |rig| boots_read_only(rig) == [true, true])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_starts_read_only_is_opened_again() {
    let rig = rig(1, BootReadOnly::Enforce);
    rig.settled().await;
    rig.until("it boots read-only", |rig| boots_read_only(rig) == [true])
        .await;
    rig.recovered(1).await;
    rig.world.kill(1);
    rig.world.start(1);
    assert_eq!(rig.world.writable(), []);
    rig.until("it is open again", |rig| rig.world.writable() == [key(1)])
        .await;
    let recoveries = rig.recovered(2).await;
    assert_eq!(recoveries[1].plan.kind, RecoveryKind::ReopenPrimary);
    assert!(recoveries[1].is_successful());
    assert!(rig.group.state().quarantines.is_empty());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_a_person_made_read_only_stays_so() {
    let rig = rig(2, BootReadOnly::Enforce);
    rig.settled().await;
    rig.recovered(1).await;
    rig.world.with(1, |server| {
        server.read_only = true;
        server.read_only_since_boot = false;
    });
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), []);
    assert_eq!(rig.recoveries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_closes_it_after_the_last_look_wins() {
    let rig = rig(1, BootReadOnly::Enforce);
    rig.settled().await;
    rig.recovered(1).await;
    rig.world.plan(Fault::first(1, "settings", |inner| {
        inner.servers.get_mut(&key(1)).unwrap().read_only_since_boot = false;
    }));
    rig.world.kill(1);
    rig.world.start(1);
    let recoveries = rig.recovered(2).await;
    assert!(!recoveries[1].is_successful());
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failed_primary_that_returns_read_only_is_never_opened_again() {
    let rig = rig(3, BootReadOnly::Enforce);
    rig.settled().await;
    rig.recovered(1).await;
    rig.world.kill(1);
    rig.recovered(2).await;
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.start(1);
    rig.wait(120_000).await;
    assert_eq!(rig.world.writable(), [key(2)]);
    assert!(
        rig.recoveries()
            .iter()
            .all(|recovery| recovery.plan.kind != RecoveryKind::ReopenPrimary)
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_writable_is_made_read_only_again() {
    let rig = rig(3, BootReadOnly::Advise);
    rig.settled().await;
    rig.world.plan(Fault::refuse(2, "set_read_only"));
    rig.world.kill(2);
    rig.world.start(2);
    assert_eq!(rig.world.writable(), [key(1), key(2)]);
    rig.until("one is writable", |rig| rig.world.writable() == [key(1)])
        .await;
    let recoveries = rig.recovered(2).await;
    assert!(!recoveries[0].is_successful() && recoveries[1].is_successful());
    assert!(
        recoveries
            .iter()
            .all(|recovery| recovery.plan.kind == RecoveryKind::BootReadOnly)
    );
    rig.world.with(2, |server| server.read_only = false);
    rig.wait(60_000).await;
    assert_eq!(rig.world.writable(), [key(1), key(2)], "a person's statement");
    assert_eq!(rig.recoveries().len(), 2);

    let off = rig_without_it();
    off.settled().await;
    off.world.kill(2);
    off.world.start(2);
    off.wait(60_000).await;
    assert_eq!(off.world.writable(), [key(1), key(2)]);
}

fn rig_without_it() -> Rig {
    rig(2, BootReadOnly::Off)
}

/// Two repairs exist for a primary that started read-only: `bootReadOnly: Enforce` and `RecoverNonWriteableMaster`.
#[tokio::test(start_paused = true)]
async fn a_primary_that_starts_read_only_is_opened_by_exactly_one_of_two_repairs() {
    for (enforce, recover) in [(true, true), (true, false), (false, true)] {
        let about = format!("Enforce: {enforce}, RecoverNonWriteableMaster: {recover}");
        let mut rig = Rig::new(3, 1);
        rig.policy.boot_read_only = if enforce {
            BootReadOnly::Enforce
        } else {
            BootReadOnly::Advise
        };
        rig.policy.recover_non_writable_primary = recover;
        rig.start(1);
        rig.settled().await;
        if enforce {
            rig.recovered(1).await;
        }
        // No replica can be promoted, so the primary is waited for.
        for n in [2, 3] {
            rig.world.with(n, |server| server.facts.log_bin = false);
        }
        rig.world.with(1, |server| server.boots_read_only = true);
        rig.wait(10_000).await;
        for round in 1..=2 {
            rig.world.kill(1);
            rig.wait(1000).await;
            rig.world.start(1);
            rig.until(&format!("{about}: open again"), |rig| rig.world.writable() == [key(1)])
                .await;
            rig.wait(40_000).await;
            let is_opening = |kind| matches!(kind, RecoveryKind::ReopenPrimary | RecoveryKind::NonWritablePrimary);
            let openings: Vec<_> = rig
                .recoveries()
                .into_iter()
                .filter(|recovery| is_opening(recovery.plan.kind))
                .collect();
            assert_eq!(openings.len(), round, "{about}: {openings:#?}");
            assert!(openings.iter().all(Recovery::is_successful), "{about}: {openings:#?}");
            assert_eq!(rig.world.opened().len(), round, "{about}");
            if !enforce {
                // The same repair is not made twice within its block.
                break;
            }
        }
        rig.world.assert_sound();
    }
}
