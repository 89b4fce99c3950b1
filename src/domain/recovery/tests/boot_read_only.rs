//! Servers that are to start read-only, and a primary that has started so.

use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};
use crate::domain::instance::Instance;
use crate::domain::policy::{BootReadOnly, HeldBack, Policy};
use crate::domain::recovery::lint::lint;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::planner::{plan_boot_read_only, plan_reopen_primary, plan_replica_read_only};
use crate::domain::recovery::progress::next;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::settings::{Boot, ServerSettings};
use crate::domain::state::{LOST_IN_RECOVERY, Phase};
use crate::domain::topology::Topology;

fn enforce() -> Policy {
    Policy {
        boot_read_only: BootReadOnly::Enforce,
        ..Policy::default()
    }
}

fn told(instance: Instance, boot: Boot, read_only_since_boot: bool) -> Instance {
    instance.facts(|facts| {
        facts.settings = Some(ServerSettings {
            boot,
            read_only_since_boot: Some(read_only_since_boot),
            ..ServerSettings::default()
        });
    })
}

/// A primary that has started read-only.
fn closed() -> Instance {
    told(primary(1, "1:1-100"), Boot::ReadOnly, true).facts(|facts| facts.read_only = true)
}

#[test]
fn only_servers_that_answer_and_would_start_writable_are_touched_and_only_with_enforce() {
    let tree = topology([
        told(primary(1, "1:1-9"), Boot::Writable, false),
        told(replica(2, 1, "1:1-9"), Boot::ReadOnly, true),
        told(replica(3, 1, "1:1-9"), Boot::Writable, false).dead(),
        told(replica(4, 1, "1:1-9"), Boot::Unknown("MariaDB".to_owned()), false),
        told(replica(5, 1, "1:1-9"), Boot::Writable, false),
    ]);
    let plan = plan_boot_read_only(&tree, &enforce()).unwrap();
    assert_eq!(plan.instances, [key(1), key(5)].into());
    assert_eq!(lint(&plan, &tree), [] as [String; 0]);
    assert_eq!(plan_boot_read_only(&tree, &Policy::default()), None);
    let done = topology([told(primary(1, "1:1-9"), Boot::ReadOnly, false)]);
    assert_eq!(plan_boot_read_only(&done, &enforce()), None);
}

#[test]
fn a_primary_that_started_read_only_is_opened_again_when_it_holds_everything() {
    let tree = topology([closed(), replica(2, 1, "1:1-100"), replica(3, 2, "1:1-90").dead()]);
    let plan = plan_reopen_primary(&tree, &enforce()).unwrap().unwrap();
    assert_eq!(
        (&plan.old_primary, &plan.successor, &plan.old_primary_identity),
        (&key(1), &key(1), &None)
    );
    assert_eq!(plan.instances, [key(1)].into());
    assert_eq!(lint(&plan, &tree), [] as [String; 0]);
    assert_eq!(plan_reopen_primary(&tree, &Policy::default()), Ok(None));
}

#[test]
fn what_is_writable_or_was_closed_by_a_statement_is_left_alone() {
    let open = told(primary(1, "1:1-100"), Boot::ReadOnly, true);
    let by_hand = told(primary(1, "1:1-100"), Boot::ReadOnly, false).facts(|facts| facts.read_only = true);
    let unknown = closed().facts(|facts| facts.settings = None);
    for top in [open, by_hand, unknown, closed().dead()] {
        let tree = topology([top, replica(2, 1, "1:1-100")]);
        assert_eq!(plan_reopen_primary(&tree, &enforce()), Ok(None));
    }
}

#[test]
fn whatever_could_make_two_primaries_or_lose_something_refuses_the_reopening() {
    let why = |tree: Topology| plan_reopen_primary(&tree, &enforce()).unwrap_err();
    let ahead = topology([closed(), replica(2, 1, "1:1-90").received("1:1-101")]);
    assert!(why(ahead).starts_with("db2:3306 holds what db1:3306 lacks"));
    let unseen = Instance {
        facts: None,
        ..replica(2, 1, "").dead()
    };
    assert!(why(topology([closed(), unseen])).contains("does not replicate from it"));
    let other = topology([closed(), replica(2, 1, "1:1-100"), primary(3, "3:1")]);
    assert!(why(other).starts_with("db3:3306 is a writable primary"));
    let away = topology([closed(), replica(2, 1, "1:1-100"), primary(3, "3:1").dead()]);
    assert!(why(away).starts_with("db3:3306 belongs to the cluster"));
    let replicating = topology([
        closed().facts(|facts| facts.channels = replica(1, 9, "").facts.unwrap().channels),
        replica(2, 1, "1:1-100"),
    ]);
    assert!(plan_reopen_primary(&replicating, &enforce()).is_err());
}

#[test]
fn the_check_finds_a_reopening_that_makes_two() {
    let alone = topology([closed(), replica(2, 1, "1:1-100")]);
    let plan = plan_reopen_primary(&alone, &enforce()).unwrap().unwrap();
    let beside = topology([closed(), replica(2, 1, "1:1-100"), primary(3, "3:1")]);
    assert!(lint(&plan, &beside).join("; ").contains("makes two"));
    let mut replacing = plan;
    replacing.old_primary_identity = Some(replacing.successor_identity.clone());
    assert!(
        lint(&replacing, &alone)
            .join("; ")
            .contains("no other server takes its place")
    );
}

/// A writable replica that was read-only before its start.
fn reopened(n: u32, source: u32) -> Instance {
    Instance {
        reopened_by_start: true,
        ..replica(n, source, "1:1-100").facts(|facts| facts.read_only = false)
    }
}

#[test]
fn a_replica_whose_start_made_it_writable_is_made_read_only_one_at_a_time() {
    let tree = topology([primary(1, "1:1-100"), reopened(2, 1), reopened(3, 2)]);
    for wanted in [BootReadOnly::Advise, BootReadOnly::Enforce] {
        let policy = Policy {
            boot_read_only: wanted,
            ..Policy::default()
        };
        let plan = plan_replica_read_only(&tree, &policy).unwrap();
        assert_eq!((&plan.old_primary, &plan.old_primary_identity), (&key(2), &None));
        assert_eq!(plan.instances, [key(2)].into());
        assert_eq!(plan.steps, [Step::Fence { old_primary: key(2) }]);
        assert_eq!(lint(&plan, &tree), [] as [String; 0]);
    }
    let off = Policy {
        boot_read_only: BootReadOnly::Off,
        ..Policy::default()
    };
    assert_eq!(plan_replica_read_only(&tree, &off), None);
    let held = topology([primary(1, "1:1-100"), replica(2, 1, "1:1-100"), reopened(3, 2)]);
    assert_eq!(
        plan_replica_read_only(&held, &Policy::default()).unwrap().old_primary,
        key(3)
    );
}

#[test]
fn a_replica_that_was_away_while_its_source_was_replaced_and_starts_writable_is_made_read_only() {
    let mut policy = Policy::default();
    policy.downtimes.insert(
        key(2),
        HeldBack::Downtimed {
            owner: "ham4db".to_owned(),
            reason: LOST_IN_RECOVERY.to_owned(),
            until: None,
        },
    );
    let held = primary(3, "1:1-101").facts(|facts| facts.read_only = true);
    for old_primary in [held.clone(), held.dead()] {
        let tree = topology([
            primary(1, "1:1-100"),
            replica(4, 1, "1:1-100"),
            old_primary,
            reopened(2, 3),
        ]);
        let plan = plan_replica_read_only(&tree, &policy).unwrap();
        assert_eq!(plan.steps, [Step::Fence { old_primary: key(2) }]);
        assert_eq!(lint(&plan, &tree), [] as [String; 0]);
    }
    let elsewhere = topology([primary(1, "1:1-100"), replica(4, 1, "1:1-100"), reopened(2, 9)]);
    assert_eq!(
        plan_replica_read_only(&elsewhere, &policy),
        None,
        "a source of another cluster"
    );
    let beside = topology([
        primary(1, "1:1-100"),
        replica(4, 1, "1:1-100"),
        primary(3, "3:1"),
        reopened(2, 3),
    ]);
    assert_eq!(
        plan_replica_read_only(&beside, &policy),
        None,
        "its source takes writes"
    );
    policy.downtimes.insert(
        key(2),
        HeldBack::Downtimed {
            owner: "ann".to_owned(),
            reason: "maintenance".to_owned(),
            until: None,
        },
    );
    let tree = topology([primary(1, "1:1-100"), reopened(2, 1)]);
    assert_eq!(plan_replica_read_only(&tree, &policy), None, "a person's downtime");
}

#[test]
fn who_keeps_a_replica_writable_is_left_alone_and_so_is_whoever_may_be_the_primary() {
    let on_purpose = replica(2, 1, "1:1-100").facts(|facts| facts.read_only = false);
    let co_primary = Instance {
        ..replica(1, 2, "1:1-100").facts(|facts| facts.read_only = false)
    };
    let closed = primary(1, "1:1-100").facts(|facts| facts.read_only = true);
    let in_a_group = reopened(2, 1).facts(|facts| facts.group_name = "g".to_owned());
    for tree in [
        topology([primary(1, "1:1-100"), on_purpose]),
        topology([co_primary, reopened(2, 1)]),
        topology([primary(1, "1:1-100").dead(), reopened(2, 1)]),
        topology([closed, reopened(2, 1)]),
        topology([primary(1, "1:1-100"), in_a_group]),
        topology([primary(1, "1:1-100"), reopened(2, 1).dead()]),
    ] {
        assert_eq!(plan_replica_read_only(&tree, &Policy::default()), None, "{tree:?}");
    }
    let policy = Policy {
        quarantined: [key(2)].into(),
        ..Policy::default()
    };
    let tree = topology([primary(1, "1:1-100"), reopened(2, 1)]);
    assert_eq!(plan_replica_read_only(&tree, &policy), None, "the guard holds it");
}

#[test]
fn a_replica_that_changed_since_the_plan_is_not_touched() {
    let tree = topology([primary(1, "1:1-100"), reopened(2, 1)]);
    let plan = plan_replica_read_only(&tree, &Policy::default()).unwrap();
    let step =
        |done: &[StepResult], fresh: &Topology| next(&plan, &Phase::Claimed, done, fresh, &Policy::default(), NOW);
    assert_eq!(step(&[], &tree), NextAction::Run(Step::Fence { old_primary: key(2) }));
    let held = topology([primary(1, "1:1-100"), replica(2, 1, "1:1-100")]);
    assert!(matches!(step(&[], &held), NextAction::Abort { .. }));
    let another = reopened(2, 1).facts(|facts| facts.identity = primary(9, "").facts.unwrap().identity);
    assert!(matches!(
        step(&[], &topology([primary(1, "1:1-100"), another])),
        NextAction::Abort { .. }
    ));
    let result = |outcome| StepResult {
        step: Step::Fence { old_primary: key(2) },
        outcomes: [(key(2), outcome)].into(),
    };
    let over = |outcome| {
        let NextAction::Finish(finish) = step(&[result(outcome)], &held) else {
            panic!("it goes on");
        };
        finish
    };
    assert!(over(Outcome::Done).successful);
    let failed = over(Outcome::Failed("no".to_owned()));
    assert!(
        !failed.successful && failed.errors[0].contains("still takes writes"),
        "{:?}",
        failed.errors
    );
}
