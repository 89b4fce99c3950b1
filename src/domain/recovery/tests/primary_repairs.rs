//! Repairs of a primary that answers: semi-sync and being read-only. db1 is the primary.

use super::*;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::progress::next;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::Phase;

fn finding(code: Code) -> Finding {
    Finding { code, ..dead_primary() }
}

/// A primary that waits for `wanted` and has `clients`.
fn source(wanted: u32, clients: u32) -> Instance {
    primary(1, "1:1-100").facts(|facts| {
        facts.semi_sync.available = true;
        facts.semi_sync.source_enabled = true;
        facts.semi_sync.source_active = true;
        facts.semi_sync.wait_for_count = wanted;
        facts.semi_sync.clients = clients;
    })
}

fn able(n: u32) -> Instance {
    replica(n, 1, "1:1-100").facts(|facts| facts.semi_sync.available = true)
}

fn on(n: u32) -> Instance {
    able(n).facts(|facts| {
        facts.semi_sync.replica_enabled = true;
        facts.semi_sync.replica_active = true;
    })
}

fn with_priority(priority: u32, instance: Instance) -> Instance {
    instance.facts(|facts| facts.semi_sync.priority = Some(priority))
}

fn keys(servers: &[u32]) -> BTreeSet<InstanceKey> {
    servers.iter().map(|n| key(*n)).collect()
}

fn switch_on(servers: &[u32]) -> Step {
    Step::Acknowledge {
        replicas: keys(servers),
        on: true,
    }
}

fn switch_off(servers: &[u32]) -> Step {
    Step::Acknowledge {
        replicas: keys(servers),
        on: false,
    }
}

fn exact() -> Policy {
    Policy {
        enforce_exact_semi_sync: true,
        recover_locked_semi_sync: true,
        ..Policy::default()
    }
}

#[track_caller]
fn switched(code: Code, policy: &Policy, instances: impl IntoIterator<Item = Instance>) -> Vec<Step> {
    let tree = topology(instances);
    let (made, report) = plan(&finding(code), &tree, policy, NOW);
    let made = made.unwrap_or_else(|| panic!("no plan: {report:?}"));
    assert_eq!(lint(&made, &tree), Vec::<String>::new());
    made.steps
}

#[test]
fn a_locked_primary_gets_as_many_as_it_lacks_the_best_first() {
    let locked = Code::LockedSemiSyncMaster;
    let none = Policy::default();
    assert_eq!(
        switched(locked, &none, [source(1, 0), able(2), able(3)]),
        [switch_on(&[2])]
    );
    let rules = Policy {
        promotion_rules: [(key(3), PromotionRule::Prefer)].into(),
        ..Policy::default()
    };
    assert_eq!(
        switched(locked, &rules, [source(1, 0), able(2), able(3)]),
        [switch_on(&[3])]
    );
    let tree = [
        source(2, 0),
        with_priority(1, able(2)),
        with_priority(9, able(3)),
        with_priority(5, able(4)),
    ];
    assert_eq!(switched(locked, &rules, tree), [switch_on(&[3, 4])]);
    let tree = [source(2, 1), on(2), able(3), able(4)];
    assert_eq!(switched(locked, &none, tree), [switch_on(&[3])]);
}

#[test]
fn who_must_not_acknowledge_or_cannot_is_not_asked() {
    let locked = Code::LockedSemiSyncMaster;
    let unfit: [fn(Instance) -> Instance; 5] = [
        Adjust::dead,
        Adjust::cut,
        |replica| with_priority(0, replica),
        |replica| replica.facts(|facts| facts.semi_sync.available = false),
        |replica| replica.facts(|facts| facts.problems = vec!["semi-sync priority query: error 1146".to_owned()]),
    ];
    for change in unfit {
        let steps = switched(locked, &Policy::default(), [source(1, 0), change(able(2)), able(3)]);
        assert_eq!(steps, [switch_on(&[3])]);
    }
    let downtime = HeldBack::Paused;
    let policy = Policy {
        downtimes: [(key(2), downtime)].into(),
        ..Policy::default()
    };
    assert_eq!(
        switched(locked, &policy, [source(1, 0), able(2), able(3)]),
        [switch_on(&[3])]
    );
    let tree = topology([source(1, 0), able(2).dead()]);
    let (made, report) = plan(&finding(locked), &tree, &Policy::default(), NOW);
    assert_eq!(made, None);
    assert!(report.no_plan.unwrap().contains("no other replica can acknowledge"));
}

#[test]
fn too_many_are_trimmed_on_before_off_and_never_below_the_count() {
    let many = Code::MasterWithTooManySemiSyncReplicas;
    assert_eq!(
        switched(many, &exact(), [source(1, 3), on(2), on(3), on(4)]),
        [switch_off(&[3, 4])]
    );
    let tree = [
        source(1, 2),
        with_priority(1, on(2)),
        with_priority(0, on(3)),
        with_priority(7, able(4)),
    ];
    assert_eq!(switched(many, &exact(), tree), [switch_on(&[4]), switch_off(&[2, 3])]);
    // Nobody is switched off while there are not enough to stay.
    let tree = topology([source(2, 1), with_priority(0, on(2))]);
    let (made, _) = plan(&finding(many), &tree, &exact(), NOW);
    assert_eq!(made, None);
}

#[test]
fn unsound_switches_are_told_apart() {
    let tree = topology([source(1, 2), on(2), on(3), able(4)]);
    let sound = plan(&finding(Code::MasterWithTooManySemiSyncReplicas), &tree, &exact(), NOW);
    let sound = sound.0.unwrap();
    assert_eq!(sound.steps, [switch_off(&[3])]);
    for (wanted, steps) in [
        ("fewer would acknowledge", vec![switch_off(&[2, 3])]),
        ("switched off before", vec![switch_off(&[3]), switch_on(&[4])]),
        ("switched on and off", vec![switch_on(&[4]), switch_off(&[4])]),
        ("no replicating replica", vec![switch_on(&[1])]),
        ("nothing would be switched", Vec::new()),
        ("has no place", vec![switch_off(&[3]), Step::Open { successor: key(2) }]),
    ] {
        let told = lint(&Plan { steps, ..sound.clone() }, &tree).join("; ");
        assert!(told.contains(wanted), "wanted `{wanted}` in `{told}`");
    }
}

fn done(step: Step, outcomes: &[(u32, Outcome)]) -> StepResult {
    StepResult {
        step,
        outcomes: outcomes.iter().map(|(n, outcome)| (key(*n), outcome.clone())).collect(),
    }
}

fn failed() -> Outcome {
    Outcome::Failed("no".to_owned())
}

#[track_caller]
fn finished(next: NextAction) -> Finish {
    let NextAction::Finish(finish) = next else {
        panic!("not over: {next:?}")
    };
    finish
}

#[test]
fn when_the_chosen_one_cannot_be_switched_on_another_one_is() {
    let tree = topology([source(1, 0), able(2), able(3)]);
    let plan = plan(&finding(Code::LockedSemiSyncMaster), &tree, &exact(), NOW)
        .0
        .unwrap();
    let step = |done: &[StepResult]| next(&plan, &Phase::Claimed, done, &tree, &exact(), NOW);
    let one = done(switch_on(&[2]), &[(2, failed())]);
    assert_eq!(step(std::slice::from_ref(&one)), NextAction::Run(switch_on(&[2])));
    let mut results = vec![one.clone(), one];
    assert_eq!(step(&results), NextAction::Run(switch_on(&[3])));
    results.push(done(switch_on(&[3]), &[(3, Outcome::Done)]));
    let finish = finished(step(&results));
    assert!(finish.successful);
    assert_eq!(finish.errors.len(), 1);
}

fn let_go(servers: &[u32]) -> Step {
    Step::AcknowledgeReceived {
        replicas: keys(servers),
    }
}

#[test]
fn commits_that_wait_are_let_go_by_those_that_acknowledge_one_after_the_other() {
    let waiting = |clients| source(1, clients).facts(|facts| facts.semi_sync.wait_sessions = 2);
    let mut stuck = waiting(1);
    stuck.acks_awaited_since = Some(NOW);
    let tree = topology([waiting(0), able(2), able(3)]);
    let code = Code::LockedSemiSyncMaster;
    let locked = plan(&finding(code), &tree, &Policy::default(), NOW).0.unwrap();
    assert_eq!(locked.steps, [switch_on(&[2]), let_go(&[2, 3])]);
    assert_eq!(lint(&locked, &tree), Vec::<String>::new());
    // db2 is counted by the source, and does not answer.
    let gone = [stuck.clone(), on(2).dead(), able(3)];
    assert_eq!(
        switched(code, &Policy::default(), gone),
        [switch_on(&[3]), let_go(&[3])]
    );
    // It acknowledges, and what waits it had received before.
    let late = [stuck, on(2)];
    assert_eq!(switched(code, &Policy::default(), late), [let_go(&[2])]);

    let step = |done: &[StepResult], fresh: &Topology| next(&locked, &Phase::Claimed, done, fresh, &exact(), NOW);
    let mut results = vec![done(switch_on(&[2]), &[(2, Outcome::Done)])];
    assert_eq!(
        step(&results, &tree),
        NextAction::Run(let_go(&[2])),
        "db3 does not acknowledge"
    );
    let moved = topology([
        waiting(1).facts(|facts| facts.executed = mysql_set("1:1-101")),
        on(2),
        able(3),
    ]);
    assert!(
        finished(step(&results, &moved)).successful,
        "commits get through: others wait now"
    );
    results.push(done(let_go(&[2]), &[(2, failed())]));
    assert_eq!(step(&results, &tree), NextAction::Run(let_go(&[2])));
    results.push(done(let_go(&[2]), &[(2, failed())]));
    let finish = finished(step(&results, &tree));
    assert!(!finish.successful && finish.errors.len() == 2, "{:?}", finish.errors);
    let free = topology([source(1, 1), on(2), able(3)]);
    assert!(finished(step(&results, &free)).successful, "it was free all the same");
}

#[test]
fn a_commit_on_its_way_is_no_failure_of_switching_off() {
    let commits = source(1, 2).facts(|facts| facts.semi_sync.wait_sessions = 1);
    let tree = topology([commits, on(2), on(3)]);
    let plan = plan(&finding(Code::MasterWithTooManySemiSyncReplicas), &tree, &exact(), NOW);
    let plan = plan.0.unwrap();
    assert_eq!(plan.steps, [switch_off(&[3])]);
    let good = [done(switch_off(&[3]), &[(3, Outcome::Done)])];
    let finish = finished(next(&plan, &Phase::Claimed, &good, &tree, &exact(), NOW));
    assert!(finish.successful, "{:?}", finish.errors);
}

#[test]
fn nobody_is_switched_off_when_switching_on_failed() {
    let tree = topology([source(1, 1), with_priority(1, on(2)), with_priority(9, able(3))]);
    let plan = plan(&finding(Code::MasterWithTooManySemiSyncReplicas), &tree, &exact(), NOW);
    let plan = plan.0.unwrap();
    assert_eq!(plan.steps, [switch_on(&[3]), switch_off(&[2])]);
    let step = |done: &[StepResult]| next(&plan, &Phase::Claimed, done, &tree, &exact(), NOW);
    let one = done(switch_on(&[3]), &[(3, failed())]);
    let finish = finished(step(&[one.clone(), one]));
    assert_eq!(finish.errors.len(), 1, "{:?}", finish.errors);
    let good = [done(switch_on(&[3]), &[(3, Outcome::Done)])];
    assert_eq!(step(&good), NextAction::Run(switch_off(&[2])));
}

// === read-only ===

fn read_only() -> Instance {
    primary(1, "1:1-100").facts(|facts| facts.read_only = true)
}

fn opened(instances: impl IntoIterator<Item = Instance>) -> Result<Plan, String> {
    let tree = topology(instances);
    let (made, report) = plan(
        &finding(Code::NoWriteableMasterStructureWarning),
        &tree,
        &Policy::default(),
        NOW,
    );
    if let Some(made) = &made {
        assert_eq!(lint(made, &tree), Vec::<String>::new());
    }
    made.ok_or_else(|| report.no_plan.unwrap())
}

#[test]
fn a_read_only_primary_is_opened_when_nothing_speaks_against_it() {
    let plan = opened([read_only(), replica(2, 1, "1:1-90"), replica(3, 1, "1:1-100")]).unwrap();
    assert_eq!(plan.steps, [Step::MakeWritable { primary: key(1) }]);
    assert_eq!(plan.instances, keys(&[1]));
}

#[test]
fn every_doubt_leaves_a_read_only_primary_alone() {
    let replica_3 = || replica(3, 1, "1:1-100");
    for (wanted, other) in [
        ("holds what db1:3306 lacks", replica(2, 1, "1:1-101")),
        ("holds what db1:3306 lacks", replica(2, 1, "1:1-101").dead()),
        ("holds what db1:3306 lacks", replica(2, 1, "1:1-100").received("1:101")),
        ("is writable", primary(2, "1:1-50")),
        ("is writable", primary(2, "1:1-50").dead()),
        (
            "is writable",
            replica(2, 1, "1:1-50").facts(|facts| facts.read_only = false),
        ),
        ("nothing is known", Instance::unseen(key(2))),
    ] {
        let why = opened([read_only(), other, replica_3()]).unwrap_err();
        assert!(why.contains(wanted), "wanted `{wanted}` in `{why}`");
    }
    let why = opened([read_only().dead(), replica_3()]).unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
    let why = opened([
        replica(1, 9, "1:1-100").facts(|facts| facts.read_only = true),
        replica_3(),
    ])
    .unwrap_err();
    assert!(why.contains("db1:3306"), "{why}");
}

#[test]
fn what_is_in_quarantine_or_errant_does_not_keep_a_primary_read_only() {
    let opened = |other: Instance, quarantined: &[u32]| {
        let tree = topology([read_only(), other, replica(3, 1, "1:1-100")]);
        let policy = Policy {
            quarantined: keys(quarantined),
            ..Policy::default()
        };
        let code = Code::NoWriteableMasterStructureWarning;
        let (made, report) = plan(&finding(code), &tree, &policy, NOW);
        made.map(|made| assert_eq!(lint(&made, &tree), Vec::<String>::new()))
            .ok_or_else(|| report.no_plan.unwrap())
    };
    // The old primary, which had more when it was lost, and was writable when it was last seen.
    assert_eq!(opened(primary(2, "1:1-100,2:1-5").dead(), &[2]), Ok(()));
    // It is back, and not fenced yet.
    let why = opened(primary(2, "1:1-100"), &[2]).unwrap_err();
    assert!(why.contains("is writable"), "{why}");
    // It is fenced.
    let fenced = primary(2, "1:1-100,2:1-5").facts(|facts| facts.read_only = true);
    assert_eq!(opened(fenced, &[2]), Ok(()));
    // What was written on a replica by mistake never was the primary's.
    assert_eq!(opened(replica(2, 1, "1:1-90,2:1-5"), &[]), Ok(()));
    let why = opened(replica(2, 1, "1:1-100"), &[1]).unwrap_err();
    assert!(why.contains("in quarantine"), "{why}");
}

#[test]
fn what_called_for_the_opening_is_looked_at_again_right_before_it() {
    let tree = topology([read_only(), replica(2, 1, "1:1-90")]);
    let plan = opened([read_only(), replica(2, 1, "1:1-90")]).unwrap();
    let step = |tree: &Topology, done: &[StepResult]| next(&plan, &Phase::Claimed, done, tree, &Policy::default(), NOW);
    let open = Step::MakeWritable { primary: key(1) };
    assert_eq!(step(&tree, &[]), NextAction::Run(open.clone()));
    let ahead = topology([read_only(), replica(2, 1, "1:1-101")]);
    assert!(matches!(step(&ahead, &[]), NextAction::Abort { undo, .. } if undo.is_empty()));
    let another = topology([
        read_only().facts(|facts| facts.identity = Identity::ServerUuid(uuid(9))),
        replica(2, 1, "1:1-90"),
    ]);
    assert!(matches!(step(&another, &[]), NextAction::Abort { reason, .. } if reason.contains("another server")));
    let writable = topology([primary(1, "1:1-100"), replica(2, 1, "1:1-90")]);
    assert!(finished(step(&writable, &[])).successful);
    let no = done(open.clone(), &[(1, failed())]);
    assert_eq!(step(&tree, std::slice::from_ref(&no)), NextAction::Run(open.clone()));
    assert!(matches!(step(&tree, &[no.clone(), no]), NextAction::Abort { .. }));
    let finish = finished(step(&tree, &[done(open, &[(1, Outcome::Done)])]));
    assert!(finish.successful);
}

#[test]
fn these_repairs_are_made_only_when_asked_for() {
    let tree = topology([source(1, 0), able(2)]);
    let hold = |code, policy: &Policy| held_back(&finding(code), &tree, policy);
    let not_asked = |key: &str| Some(HeldBack::NotAskedFor { key: key.to_owned() });
    let none = Policy::default();
    assert_eq!(
        hold(Code::LockedSemiSyncMaster, &none),
        not_asked("RecoverLockedSemiSyncMaster")
    );
    assert_eq!(
        hold(Code::MasterWithTooManySemiSyncReplicas, &none),
        not_asked("EnforceExactSemiSyncReplicas")
    );
    assert_eq!(
        hold(Code::NoWriteableMasterStructureWarning, &none),
        not_asked("RecoverNonWriteableMaster")
    );
    let booted = Policy {
        booted_read_only: Some(key(1)),
        ..Policy::default()
    };
    assert_eq!(hold(Code::NoWriteableMasterStructureWarning, &booted), None);
    let all = Policy {
        recover_non_writable_primary: true,
        held_back: Some(HeldBack::NoFilterMatches),
        ..exact()
    };
    for code in [
        Code::LockedSemiSyncMaster,
        Code::MasterWithTooManySemiSyncReplicas,
        Code::NoWriteableMasterStructureWarning,
    ] {
        assert_eq!(hold(code, &all), None);
        let paused = Policy {
            held_back_living: Some(HeldBack::Paused),
            ..all.clone()
        };
        assert_eq!(hold(code, &paused), Some(HeldBack::Paused));
    }
}
