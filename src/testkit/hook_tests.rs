//! Hooks before and after a recovery: which are called, what a veto stops, and that no call is lost with a leader.

use std::time::Duration;

use crate::domain::fixture::key;
use crate::domain::hooks::HookList;
use crate::domain::policy::HeldBack;

use super::{CommitFault, CommitFaultKind, Fault, Rig, Script};

/// All lists, each with one command of the same name.
const LISTS: [HookList; 5] = [
    HookList::OnFailureDetection,
    HookList::PreFailover,
    HookList::PostMasterFailover,
    HookList::PostFailover,
    HookList::PostUnsuccessfulFailover,
];

async fn rig(members: u64, lists: &[HookList]) -> Rig {
    let mut rig = Rig::new(3, members);
    rig.hook_settings.lists = lists.iter().map(|list| (*list, vec![list.key().to_owned()])).collect();
    for id in 1..=members {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

/// Asserts that no hook of the recoveries is left to be called.
async fn told(rig: &Rig) {
    rig.until("all hooks have run", |rig| {
        let state = rig.group.state();
        state.recoveries.values().all(|recovery| recovery.hooks.due.is_empty())
            && state
                .detections
                .values()
                .all(|detection| detection.hooks.due.is_empty())
    })
    .await;
}

/// The calls of the lists that run one after the other.
fn in_order(rig: &Rig) -> Vec<String> {
    let all = rig.hooks.told().into_iter();
    all.filter(|told| !told.starts_with("OnFailureDetection")).collect()
}

/// How often the list of a detection was called.
fn at_detection(rig: &Rig) -> usize {
    rig.hooks.told().len() - in_order(rig).len()
}

fn code(code: i32) -> Script {
    Script { code, ..Script::good() }
}

#[tokio::test(start_paused = true)]
async fn a_failover_calls_the_lists_in_order_and_tells_them_what_happened() {
    let rig = rig(3, &LISTS).await;
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    told(&rig).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert_eq!(
        in_order(&rig),
        [
            "PreFailoverProcesses #1",
            "PostMasterFailoverProcesses #1",
            "PostFailoverProcesses #1",
        ]
    );
    assert_eq!(at_detection(&rig), 1);
    let mut ran = rig.hooks.ran();
    ran.sort_by_key(|ran| ran.text != "OnFailureDetectionProcesses");
    let of = |number: usize, name: &str| ran[number].variables[name].clone();
    assert_eq!(of(1, "ORC_FAILURE_TYPE"), "DeadMaster");
    assert_eq!(of(1, "ORC_SUCCESSOR_HOST"), "");
    assert_eq!(of(1, "HAM4DB_PHASE"), "Claimed");
    assert_eq!(
        (of(2, "ORC_SUCCESSOR_HOST"), of(2, "ORC_SUCCESSOR_PORT")),
        ("db2".to_owned(), "3306".to_owned())
    );
    assert_eq!(of(2, "ORC_IS_SUCCESSFUL"), "true");
    assert_eq!(of(2, "ORC_AUTO_MASTER_RECOVERY"), "false");
    assert_eq!(ran[2].input["recovery"]["uid"], recoveries[0].uid.as_str());
    assert_eq!(ran[2].input["successor"], "db2:3306");
    // The record tells of them, those that ran after the end too.
    let recovery = rig.recoveries().remove(0);
    for list in &LISTS[..4] {
        let line = format!("{list} 1 of 1: done in 1 ms");
        assert!(
            recovery.steps.iter().any(|step| step.message == line),
            "{line}: {:#?}",
            recovery.steps
        );
    }
    assert_eq!(recovery.errors, Vec::<String>::new());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_hooks_nothing_is_written_and_nothing_waited_for() {
    let rig = rig(3, &[]).await;
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.wait(1000).await;
    let committed = rig.group.committed();
    assert!(committed.iter().all(|name| !name.starts_with("hooks")), "{committed:?}");
    assert_eq!(rig.hooks.told(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_veto_leaves_everything_as_it_is_and_is_the_reason_that_is_shown() {
    for list in [HookList::PreFailover] {
        let rig = rig(3, &LISTS).await;
        rig.hooks.plan(list.key(), code(7));
        rig.world.kill(1);
        let recovery = rig.recovered(1).await.remove(0);
        assert!(!recovery.is_successful() && recovery.successor().is_none());
        let why = format!("{list} 1 of 1: exited with 7: not today");
        assert_eq!(recovery.errors, std::slice::from_ref(&why));
        // Nobody was touched, and the replicas still wait for their primary.
        assert_eq!(rig.world.log(), Vec::<String>::new());
        for n in [2, 3] {
            assert!(rig.world.with(n, |server| server.channel.as_ref().unwrap().receives));
        }
        // Nothing is told afterwards, as in orchestrator.
        told(&rig).await;
        assert_eq!(in_order(&rig).last().unwrap(), &format!("{list} #1"));
        let held_back = |rig: &Rig| {
            rig.group.state().detections.values().find_map(|detection| {
                matches!(&detection.held_back, Some(HeldBack::Vetoed { why: said, .. }) if *said == why).then_some(())
            })
        };
        rig.until("the veto is shown as the reason", |rig| held_back(rig).is_some())
            .await;
        // Asked again after the block of a recovery that promoted nobody, it agrees.
        let recoveries = rig.recovered(2).await;
        assert!(recoveries[1].is_successful(), "{recoveries:#?}");
        told(&rig).await;
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_takes_too_long_is_a_veto() {
    let mut rig = Rig::new(3, 1);
    rig.hook_settings.lists.insert(
        HookList::PreFailover,
        vec!["first".to_owned(), "second".to_owned(), "third".to_owned()],
    );
    rig.hook_settings
        .deadlines
        .insert(HookList::PreFailover, Duration::from_secs(5));
    rig.start(1);
    rig.settled().await;
    let takes = |seconds| Script {
        takes: Duration::from_secs(seconds),
        ..Script::good()
    };
    // The deadline is that of the list.
    rig.hooks.plan("first", takes(3));
    rig.hooks.plan("second", takes(3));
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert_eq!(
        recovery.errors,
        ["PreFailoverProcesses 2 of 3: ended, not done within the 5 s of the list"]
    );
    assert_eq!(rig.hooks.told(), ["first #1", "second #1"]);
    assert_eq!(rig.world.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_back_when_the_hooks_have_ended_is_not_touched() {
    let rig = rig(3, &[HookList::PreFailover, HookList::PostUnsuccessfulFailover]).await;
    let world = rig.world.clone();
    rig.hooks.plan(
        "PreFailoverProcesses",
        Script {
            takes: Duration::from_secs(3),
            code: 0,
            begins: Some(Box::new(move || world.start(1))),
        },
    );
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert_eq!(
        recovery.errors,
        ["when the hooks had ended, DeadMaster of db1:3306 was not found any more"]
    );
    assert_eq!(rig.world.log(), Vec::<String>::new());
    assert_eq!(rig.world.writable(), [key(1)]);
    told(&rig).await;
    assert_eq!(
        rig.hooks.told(),
        ["PreFailoverProcesses #1", "PostUnsuccessfulFailoverProcesses #1"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_afterwards_is_recorded_and_changes_nothing() {
    let rig = rig(1, &LISTS).await;
    rig.hooks.plan("PostMasterFailoverProcesses", code(1));
    rig.world.kill(1);
    rig.recovered(1).await;
    told(&rig).await;
    let recovery = rig.recoveries().remove(0);
    assert!(recovery.is_successful());
    assert_eq!(
        recovery.errors,
        ["PostMasterFailoverProcesses 1 of 1: exited with 1: not today"]
    );
    assert_eq!(rig.hooks.told().last().unwrap(), "PostFailoverProcesses #1");
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_fails_after_it_touched_something_is_told_as_such() {
    let rig = rig(1, &LISTS).await;
    for n in [2, 3] {
        rig.world.plan(Fault::refuse(n, "wait_applied"));
    }
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.until("it is told", |rig| in_order(rig).len() >= 2).await;
    assert_eq!(
        in_order(&rig)[..2],
        ["PreFailoverProcesses #1", "PostUnsuccessfulFailoverProcesses #1"]
    );
    let mut ran = rig.hooks.ran();
    ran.sort_by_key(|ran| ran.text != "OnFailureDetectionProcesses");
    assert_eq!(ran[2].variables["ORC_IS_SUCCESSFUL"], "false");
    assert_eq!(ran[2].variables["ORC_SUCCESSOR_HOST"], "");
    // Once it is possible it is done; the failure is no news by then, and the recovery is asked about again.
    rig.recovered(2).await;
    told(&rig).await;
    assert_eq!(
        in_order(&rig)[2..],
        [
            "PreFailoverProcesses #1",
            "PostMasterFailoverProcesses #1",
            "PostFailoverProcesses #1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn slow_hooks_afterwards_hold_up_neither_the_cluster_nor_its_next_recovery() {
    let mut rig = Rig::new(4, 1);
    rig.policy.block_millis = 1000;
    rig.hook_settings
        .lists
        .insert(HookList::PostFailover, vec!["slow".to_owned()]);
    rig.hook_settings
        .deadlines
        .insert(HookList::PostFailover, Duration::from_mins(5));
    rig.start(1);
    rig.settled().await;
    rig.hooks.plan(
        "slow",
        Script {
            takes: Duration::from_secs(100),
            ..Script::good()
        },
    );
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.wait(1500).await;
    rig.world.kill(2);
    let recoveries = rig.recovered(2).await;
    assert!(recoveries.iter().all(crate::domain::state::Recovery::is_successful));
    assert!(!recoveries[0].hooks.due.is_empty(), "the first one's hook still runs");
    told(&rig).await;
    assert_eq!(rig.hooks.told(), ["slow #1", "slow #1"]);
}

#[tokio::test(start_paused = true)]
async fn hooks_of_a_leader_that_dies_after_the_end_entry_are_run_by_the_next() {
    for kind in [CommitFaultKind::DeposedAfter, CommitFaultKind::DeposedBefore] {
        let rig = rig(3, &LISTS).await;
        rig.group.plan(CommitFault::new("end", kind));
        rig.world.kill(1);
        rig.recovered(1).await;
        told(&rig).await;
        assert_eq!(
            in_order(&rig),
            [
                "PreFailoverProcesses #1",
                "PostMasterFailoverProcesses #1",
                "PostFailoverProcesses #1",
            ],
            "{kind:?}"
        );
        let mut ran = rig.hooks.ran();
        ran.sort_by_key(|ran| ran.text != "OnFailureDetectionProcesses");
        assert_eq!((ran[1].member, ran[2].member, ran[3].member), (1, 2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_a_leader_began_and_did_not_end_is_run_once_more_as_the_second_attempt() {
    for list in [
        HookList::PreFailover,
        HookList::PostMasterFailover,
        HookList::PostFailover,
    ] {
        let rig = rig(3, &LISTS).await;
        let group = rig.group.clone();
        rig.hooks.plan(
            list.key(),
            Script {
                takes: Duration::from_secs(2),
                code: 0,
                begins: Some(Box::new(move || group.depose(1))),
            },
        );
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful());
        told(&rig).await;
        let ran: Vec<(u64, String)> = rig
            .hooks
            .ran()
            .into_iter()
            .filter(|ran| ran.text == list.key())
            .map(|ran| (ran.member, ran.variables["HAM4DB_ATTEMPT"].clone()))
            .collect();
        assert_eq!(ran, [(1, "1".to_owned()), (2, "2".to_owned())], "{list}");
        // All others ran once.
        assert_eq!(rig.hooks.told().len(), 5, "{:?}", rig.hooks.told());
        assert!(
            rig.recoveries()[0]
                .hooks
                .runs
                .iter()
                .any(|run| run.list == list && run.attempt == 2)
        );
        rig.wait(10_000).await;
        assert_eq!(rig.hooks.told().len(), 5, "{:?}", rig.hooks.told());
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resumed_recovery_does_not_ask_again_who_agreed() {
    let rig = rig(3, &LISTS).await;
    let group = rig.group.clone();
    rig.world
        .plan(Fault::then(2, "stop_receiver", move |_| group.depose(1)));
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert_eq!(recoveries[0].holder_name, "member2");
    told(&rig).await;
    assert_eq!(
        rig.hooks
            .told()
            .iter()
            .filter(|told| told.starts_with("PreFailover"))
            .count(),
        1,
        "{:?}",
        rig.hooks.told()
    );
}

#[tokio::test(start_paused = true)]
async fn a_veto_that_was_written_down_holds_for_the_next_actor_too() {
    let rig = rig(3, &LISTS).await;
    rig.hooks.plan("PreFailoverProcesses", code(1));
    rig.group.plan(CommitFault::new("end", CommitFaultKind::DeposedBefore));
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert_eq!(recovery.holder_name, "member2");
    assert!(!recovery.is_successful());
    assert_eq!(in_order(&rig), ["PreFailoverProcesses #1"]);
    assert_eq!(rig.world.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_detection_hook_that_never_ends_delays_neither_the_failover_nor_the_hooks_after_it() {
    for exit in [0, 1] {
        let rig = rig(3, &LISTS).await;
        rig.hooks.plan(
            "OnFailureDetectionProcesses",
            Script {
                takes: Duration::from_hours(1),
                ..code(exit)
            },
        );
        rig.world.kill(1);
        let begun = tokio::time::Instant::now();
        let recovery = rig.recovered(1).await.remove(0);
        assert!(recovery.is_successful(), "{recovery:#?}");
        rig.until("the hooks after it have run", |rig| in_order(rig).len() == 3)
            .await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(rig.recoveries()[0].hooks.is_detection_due());
        // Its deadline ends it, which is recorded and is no error of the recovery.
        told(&rig).await;
        let recovery = rig.recoveries().remove(0);
        let line = "OnFailureDetectionProcesses 1 of 1: ended, not done within the 60 s of the list";
        assert!(
            recovery.steps.iter().any(|step| step.message.starts_with(line)),
            "{:#?}",
            recovery.steps
        );
        assert_eq!(recovery.errors, Vec::<String>::new());
        assert_eq!(at_detection(&rig), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_detection_hook_whose_leader_is_gone_is_run_by_the_next_one() {
    let rig = rig(3, &LISTS).await;
    let group = rig.group.clone();
    rig.hooks.plan(
        "OnFailureDetectionProcesses",
        Script {
            takes: Duration::from_secs(20),
            code: 0,
            begins: None,
        },
    );
    rig.world.kill(1);
    rig.recovered(1).await;
    group.depose(1);
    told(&rig).await;
    let members: Vec<u64> = rig
        .hooks
        .ran()
        .into_iter()
        .filter(|ran| ran.text == "OnFailureDetectionProcesses")
        .map(|ran| ran.member)
        .collect();
    assert_eq!(members, [1, 2]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_nothing_is_done_about_is_told_once() {
    let mut rig = Rig::new(3, 1);
    rig.policy.recover_primary_filters = Vec::new();
    rig.hook_settings.lists.insert(
        HookList::OnFailureDetection,
        vec!["tell {failureType} of {failedHost} in {failureClusterAlias}".to_owned()],
    );
    rig.start(1);
    rig.settled().await;
    rig.world.kill(1);
    rig.until("it is told", |rig| !rig.hooks.told().is_empty()).await;
    // The detection is written again each minute, the hook is not called again.
    rig.until("it is written again", |rig| rig.group.state().detections.len() >= 2)
        .await;
    told(&rig).await;
    assert_eq!(rig.hooks.told(), ["tell DeadMaster of db1 in shop #1"]);
    assert_eq!(rig.hooks.ran()[0].input["recovery"], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_ends_in_an_ampersand_is_not_waited_for() {
    let mut rig = Rig::new(3, 1);
    rig.hook_settings
        .lists
        .insert(HookList::PreFailover, vec!["page somebody &".to_owned()]);
    rig.start(1);
    rig.settled().await;
    rig.hooks.plan(
        "page somebody",
        Script {
            takes: Duration::from_mins(10),
            code: 1,
            begins: None,
        },
    );
    rig.world.kill(1);
    let begun = tokio::time::Instant::now();
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(rig.hooks.told(), ["page somebody #1"]);
}
