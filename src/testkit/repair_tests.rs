//! Repairs below the primary: replicas of a dead intermediate primary get another source despite any fault, and a failover of the
//! primary never waits for that. db1 is the primary, db2 the intermediate primary, db3 and db4 replicate from db2, and db5 from
//! db1.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::Consensus as _;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::{key, mysql_set, uuid};
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::step::Step;
use crate::domain::state::{Applied, Claim, ClusterFilter, Command, Recovery};
use crate::domain::topology::ClusterId;

use super::{Fault, Rig};

fn to(n: u32, replicas: &[u32]) -> Step {
    Step::Repoint {
        successor: key(n),
        replicas: replicas.iter().map(|n| key(*n)).collect(),
    }
}

/// db3 takes the place of db2, db4 follows it.
fn plan() -> Plan {
    Plan {
        manual_request: None,
        kind: RecoveryKind::IntermediatePrimary,
        code: Code::DeadIntermediateMaster,
        cluster: ClusterId("c1".to_owned()),
        old_primary: key(2),
        old_primary_identity: Some(Identity::ServerUuid(uuid(2))),
        successor: key(3),
        successor_identity: Identity::ServerUuid(uuid(3)),
        position: mysql_set("1:1-100"),
        instances: [key(2), key(3), key(4)].into(),
        lost_replicas: Vec::new(),
        lost: None,
        loss_evidence: None,
        steps: vec![to(1, &[3]), to(3, &[4])],
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        old_primary_state: None,
        events: None,
        commits_nothing: false,
        remembered: None,
    }
}

async fn staged() -> Rig {
    let mut rig = Rig::new(5, 3);
    for n in [3, 4] {
        rig.world.lock().follow(&key(n), &key(2));
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

/// Claims the repair for the first member, whose loops then find it unfinished and carry it out.
async fn claim(rig: &Rig) {
    claim_plan(rig, plan()).await;
}

async fn claim_plan(rig: &Rig, plan: Plan) {
    let finding = Finding {
        code: plan.code,
        instance: plan.old_primary.clone(),
        cluster: ClusterId("c1".to_owned()),
        description: String::new(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    let claim = Claim {
        uid: "repair".to_owned(),
        holder: 1,
        holder_name: "member1".to_owned(),
        finding,
        opinions: Vec::new(),
        plan,
        report: PlanReport::default(),
        above: 0,
        hooks: Vec::new(),
    };
    let applied = rig
        .group
        .member(1)
        .propose(Command::Claim { claim: Box::new(claim) })
        .await;
    assert!(matches!(applied, Ok(Applied::Claimed { .. })), "{applied:?}");
}

fn repair(rig: &Rig) -> Recovery {
    rig.group.state().recoveries["repair"].clone()
}

fn source_of(rig: &Rig, n: u32) -> Option<InstanceKey> {
    rig.world
        .with(n, |server| server.channel.as_ref().map(|link| link.source.clone()))
}

#[tokio::test(start_paused = true)]
async fn the_replicas_of_a_dead_intermediate_get_another_source_and_nothing_else_is_touched() {
    let rig = staged().await;
    rig.world.kill(2);
    claim(&rig).await;
    rig.until("the repair is over", |rig| !repair(rig).is_active()).await;
    let repair = repair(&rig);
    assert!(repair.is_successful() && repair.lost_replicas.is_empty(), "{repair:#?}");
    assert_eq!((source_of(&rig, 3), source_of(&rig, 4)), (Some(key(1)), Some(key(3))));
    let touched: BTreeSet<String> = rig.world.log().into_iter().collect();
    let wanted = ["db3:3306 follow by member1", "db4:3306 follow by member1"];
    assert_eq!(touched, wanted.map(str::to_owned).into());
    assert_eq!(rig.world.writable(), [key(1)]);
    let state = rig.group.state();
    let cluster = state.clusters.values().next().unwrap();
    assert_eq!(cluster.primary.as_ref().unwrap().instance, key(1));
    assert!(state.quarantines.is_empty());
    rig.world.assert_sound();
}

/// The repair has begun, and its first statement does not end.
async fn hanging() -> Rig {
    let rig = staged().await;
    rig.world.kill(2);
    rig.world.plan(Fault::hang(3, "follow"));
    claim(&rig).await;
    rig.until("the repair is under way", |rig| rig.world.lock().faults.is_empty())
        .await;
    rig
}

#[tokio::test(start_paused = true)]
async fn a_failover_of_the_primary_does_not_wait_for_a_repair_that_hangs() {
    let rig = hanging().await;
    rig.world.kill(1);
    let begun = Instant::now();
    rig.until("another primary", |rig| {
        let writable = rig.world.writable();
        !writable.is_empty() && writable != [key(1)]
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let ended = repair(&rig);
    assert!(!ended.is_active() && !ended.is_successful());
    assert!(ended.errors[0].contains("in favour of"), "{:?}", ended.errors);
    rig.recovered(2).await;
    rig.world.assert_sound();
    // What the ended actor was about to do is not done behind the other one's back.
    let primary = rig.world.writable().remove(0);
    rig.wait(10_000).await;
    assert_eq!(rig.world.writable(), [primary]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_a_repair_that_gave_way_had_stopped_goes_on() {
    let rig = hanging().await;
    // As one does that brings its replicas to one place first.
    for n in [3, 4] {
        rig.world
            .with(n, |server| server.channel.as_mut().unwrap().receives = false);
    }
    rig.world.kill(1);
    rig.recovered(2).await;
    let goes_on = |n: u32| format!("db{n}:3306 start_receiver by member1");
    let log = rig.world.log();
    assert!([3, 4].iter().all(|n| log.contains(&goes_on(*n))), "{log:?}");
    rig.world.assert_sound();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused,
    Broken,
    DoneAndBroken,
    Hangs,
    ServerDies,
    IntermediateReturns,
    ActorLost,
}

async fn run(trouble: Trouble, n: u32, statement: &'static str, after: u32) {
    let about = format!("{trouble:?} at {statement} on db{n} after {after}");
    let rig = staged().await;
    rig.world.with(2, |server| server.boots_read_only = true);
    rig.world.kill(2);
    let group = rig.group.clone();
    let fault = match trouble {
        Trouble::Refused => Fault::refuse(n, statement),
        Trouble::Broken => Fault::broken(n, statement),
        Trouble::DoneAndBroken => Fault::done_and_broken(n, statement),
        Trouble::Hangs => Fault::hang(n, statement),
        Trouble::ServerDies => Fault::first(n, statement, move |inner| inner.kill(&key(n))),
        Trouble::IntermediateReturns => Fault::first(n, statement, |inner| inner.start(&key(2))),
        Trouble::ActorLost => Fault::then(n, statement, move |_| group.depose(1)),
    };
    rig.world.plan(Fault { after, ..fault });
    claim(&rig).await;
    rig.until(&format!("{about}: over"), |rig| !repair(rig).is_active())
        .await;
    let repair = repair(&rig);
    let lost: BTreeSet<&InstanceKey> = repair.lost_replicas.iter().map(|refusal| &refusal.instance).collect();
    for n in [3, 4] {
        let (up, source, receives) = rig.world.with(n, |server| {
            let link = server.channel.as_ref().unwrap();
            (server.up, link.source.clone(), link.receives)
        });
        let is_caught_up = [key(1), key(3), key(5)].contains(&source) && receives;
        assert!(
            !up || is_caught_up || lost.contains(&key(n)),
            "{about}: db{n} {source}, {repair:#?}"
        );
    }
    assert_eq!(repair.is_successful(), lost.len() < 2, "{about}: {repair:#?}");
    assert_eq!(rig.world.writable(), [key(1)], "{about}");
    assert_eq!(rig.world.opened(), Vec::<String>::new(), "{about}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_a_replica_is_caught_up_or_named_as_left_behind() {
    for trouble in [
        Trouble::Refused,
        Trouble::Broken,
        Trouble::DoneAndBroken,
        Trouble::Hangs,
        Trouble::ServerDies,
        Trouble::IntermediateReturns,
        Trouble::ActorLost,
    ] {
        for n in [3, 4] {
            run(trouble, n, "follow", 0).await;
            for after in 0..2 {
                run(trouble, n, "facts", after).await;
            }
        }
    }
}

// === a primary that answers ===

fn living(kind: RecoveryKind, code: Code, servers: &[u32], steps: Vec<Step>) -> Plan {
    Plan {
        kind,
        code,
        old_primary: key(1),
        old_primary_identity: Some(Identity::ServerUuid(uuid(1))),
        successor: key(1),
        successor_identity: Identity::ServerUuid(uuid(1)),
        instances: servers.iter().map(|n| key(*n)).collect(),
        steps,
        ..plan()
    }
}

/// db1 waits for one of db2 to db4, which can acknowledge and do not.
async fn locked() -> Rig {
    locked_with(0).await
}

/// The same, with so many commits that wait for what db2 received already.
async fn locked_with(waiting: u32) -> Rig {
    let rig = Rig::started(4, 3).await;
    for n in 1..=4 {
        rig.world.with(n, |server| server.facts.semi_sync.available = true);
    }
    rig.world.with(1, |server| {
        server.facts.semi_sync.source_enabled = true;
        server.facts.semi_sync.wait_for_count = 1;
        server.facts.semi_sync.wait_sessions = waiting;
    });
    // Everybody has to have seen it.
    rig.wait(6000).await;
    let on = Step::Acknowledge {
        replicas: [key(2)].into(),
        on: true,
    };
    let told = Step::AcknowledgeReceived {
        replicas: [key(2)].into(),
    };
    let position = rig.world.with(1, |server| server.executed.clone());
    let code = Code::LockedSemiSyncMaster;
    let plan = Plan {
        position,
        ..living(RecoveryKind::SemiSync, code, &[1, 2, 3, 4], vec![on, told])
    };
    rig.world.kill(4);
    claim_plan(&rig, plan).await;
    rig
}

fn acknowledging(rig: &Rig) -> Vec<u32> {
    let acknowledges = |n: &u32| {
        rig.world
            .with(*n, |server| server.up && server.facts.semi_sync.replica_active)
    };
    (2..=4).filter(acknowledges).collect()
}

#[tokio::test(start_paused = true)]
async fn a_locked_primary_gets_an_acknowledging_replica() {
    let rig = locked().await;
    rig.until("over", |rig| !repair(rig).is_active()).await;
    assert!(repair(&rig).is_successful(), "{:#?}", repair(&rig));
    assert_eq!(acknowledging(&rig), [2]);
    assert_eq!(rig.world.log(), ["db2:3306 acknowledge by member1"]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_for_what_a_replica_has_already_are_let_go() {
    let rig = locked_with(3).await;
    rig.until("over", |rig| !repair(rig).is_active()).await;
    assert!(repair(&rig).is_successful(), "{:#?}", repair(&rig));
    assert_eq!(
        rig.world.log(),
        [
            "db2:3306 acknowledge by member1",
            "db2:3306 acknowledge_received by member1"
        ]
    );
    assert_eq!(rig.world.with(1, |server| server.facts.semi_sync.wait_sessions), 0);
}

#[tokio::test(start_paused = true)]
async fn commits_that_nobody_lets_go_are_told() {
    let rig = locked_with(3).await;
    for _ in 0..2 {
        rig.world.plan(Fault::refuse(2, "acknowledge_received"));
    }
    rig.until("over", |rig| !repair(rig).is_active()).await;
    let repair = repair(&rig);
    assert!(!repair.is_successful());
    assert!(
        format!("{repair:?}").contains("commits on db1:3306 still wait"),
        "{repair:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn another_replica_is_asked_when_the_first_refuses() {
    let rig = locked().await;
    for _ in 0..2 {
        rig.world.plan(Fault::refuse(2, "acknowledge"));
    }
    rig.until("over", |rig| !repair(rig).is_active()).await;
    assert!(repair(&rig).is_successful(), "{:#?}", repair(&rig));
    assert_eq!(acknowledging(&rig), [3]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_read_only_primary_is_opened_and_only_while_nobody_else_is_writable() {
    for split in [false, true] {
        let rig = Rig::started(3, 3).await;
        rig.world.with(1, |server| server.read_only = true);
        if split {
            rig.world.with(3, |server| server.read_only = false);
        }
        rig.wait(6000).await;
        let open = Step::MakeWritable { primary: key(1) };
        let code = Code::NoWriteableMasterStructureWarning;
        let plan = living(RecoveryKind::NonWritablePrimary, code, &[1], vec![open]);
        claim_plan(&rig, plan).await;
        rig.until("over", |rig| !repair(rig).is_active()).await;
        let repair = repair(&rig);
        assert_eq!(repair.is_successful(), !split, "{repair:#?}");
        let wanted = if split { key(3) } else { key(1) };
        assert_eq!(rig.world.writable(), [wanted]);
        assert!(rig.group.state().quarantines.is_empty());
        rig.world.assert_sound();
    }
}

// === repairs that fail ===

/// db2 is dead, its replicas refuse every other source, and the members repair that by themselves.
async fn failing() -> Rig {
    let mut rig = Rig::new(5, 3);
    rig.policy.recover_intermediate_filters = vec![ClusterFilter::All];
    for n in [3, 4] {
        rig.world.lock().follow(&key(n), &key(2));
        for _ in 0..200 {
            rig.world.plan(Fault::refuse(n, "follow"));
        }
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.world.kill(2);
    rig
}

fn held_back(rig: &Rig, member: u64) -> Option<HeldBack> {
    let view = rig.view_of(member);
    let judged = rig.members[&member].coordinator.with_last_attempts(view).findings;
    let about = judged.into_iter().find(|judged| judged.finding.instance == key(2))?;
    about.held_back
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_waits_ever_longer_and_says_so() {
    let rig = failing().await;
    rig.wait(170_000).await;
    let recoveries = rig.recoveries();
    assert!(recoveries.iter().all(|one| !one.is_successful()), "{recoveries:#?}");
    // After 5, 10, 20, 40 and 80 s.
    assert_eq!(recoveries.len(), 6, "{recoveries:#?}");
    let waits = recoveries
        .windows(2)
        .map(|pair| pair[1].started.millis_since(pair[0].ended().unwrap()) / 1000);
    assert_eq!(waits.collect::<Vec<_>>(), [5, 10, 20, 40, 80]);
    let told = held_back(&rig, 1).unwrap().to_string();
    let last = &recoveries[5].uid;
    assert!(
        told.starts_with(&format!(
            "the repair failed 6 times, last as recovery {last}; next attempt at "
        )),
        "{told}"
    );
    let state = rig.group.state();
    let blocked = &state.blocked[&key(2)];
    assert_eq!(blocked.blocking_recovery, recoveries[5].id);
    assert!(blocked.reason.contains("failed 6 times"), "{blocked:?}");
    // The next leader has the same count.
    rig.group.elect(2);
    rig.wait(100_000).await;
    assert_eq!(rig.recoveries().len(), 6);
    assert!(held_back(&rig, 2).unwrap().to_string().contains("failed 6 times"));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_failover_does_not_wait_for_a_repair_that_failed_or_is_about_to() {
    let rig = failing().await;
    rig.recovered(1).await;
    rig.world.kill(1);
    let begun = Instant::now();
    rig.until("another primary", |rig| {
        rig.world.writable().iter().any(|writable| *writable != key(1))
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_nothing_calls_for_any_more_begins_a_new_count() {
    let rig = failing().await;
    rig.wait(40_000).await;
    let failed = rig.recoveries().len();
    assert!(failed >= 3, "{failed}");
    rig.world.start(2);
    rig.wait(15_000).await;
    let recoveries = rig.recoveries();
    let acknowledged = recoveries.iter().filter_map(|one| one.acknowledged.as_ref());
    let by: Vec<&str> = acknowledged.map(|one| one.by.as_str()).collect();
    assert_eq!(by, ["ham4db"], "the last one, which holds back the next");
    rig.world.lock().faults.clear();
    rig.world.kill(2);
    rig.wait(5_000).await;
    let all = rig.recoveries();
    assert_eq!(all.len(), recoveries.len() + 1);
    assert!(all.last().unwrap().is_successful(), "{:#?}", all.last());
    rig.world.assert_sound();
}
