use std::collections::BTreeMap;

use super::*;
use crate::domain::fixture::{Adjust, NOW, key, mysql_set, primary, replica, topology};
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::next_action::Undo;
use crate::domain::recovery::planner::plan_takeover;
use crate::domain::recovery::progress::next;
use crate::domain::recovery::replica_state::PriorPrimaryState;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::topology::Topology;

fn cluster() -> Topology {
    topology([primary(1, "1:1-100"), replica(2, 1, "1:1-90"), replica(3, 1, "1:1-100")])
}

fn planned() -> Plan {
    let (plan, report) = plan_takeover(&cluster(), &Policy::default(), Some(&key(2)), ManualRequest::default());
    plan.unwrap_or_else(|| panic!("{report:?}"))
}

fn result(step: Step, n: u32, outcome: Outcome) -> StepResult {
    StepResult {
        step,
        outcomes: BTreeMap::from([(key(n), outcome)]),
    }
}

fn demoted(outcome: Outcome) -> StepResult {
    result(Step::Demote { old_primary: key(1) }, 1, outcome)
}

fn drained(outcome: Outcome) -> StepResult {
    result(Step::Drain { successor: key(2) }, 2, outcome)
}

/// The cluster with the old primary read-only.
fn fresh(old: &str, target: &str) -> Topology {
    topology([
        primary(1, old).facts(|facts| facts.read_only = true),
        replica(2, 1, target),
        replica(3, 1, "1:1-100"),
    ])
}

fn after(done: &[StepResult], fresh: &Topology) -> NextAction {
    next(&planned(), &Phase::Claimed, done, fresh, &Policy::default(), NOW)
}

#[track_caller]
fn undone(next: &NextAction, reason: &str) {
    let NextAction::Abort { reason: told, undo } = next else {
        panic!("{next:?}");
    };
    assert!(told.contains(reason), "{told}");
    assert_eq!(*undo, [Undo::Reopen { old_primary: key(1) }]);
}

#[test]
fn it_demotes_drains_and_opens_when_both_hold_the_same() {
    assert_eq!(
        after(&[], &cluster()),
        NextAction::Run(Step::Demote { old_primary: key(1) })
    );
    let mut done = vec![demoted(Outcome::Done)];
    let drain = NextAction::Run(Step::Drain { successor: key(2) });
    assert_eq!(after(&done, &fresh("1:1-120", "1:1-90")), drain);
    done.push(drained(Outcome::Done));
    // It took writes on after all: they are waited for as well.
    assert_eq!(after(&done, &fresh("1:1-121", "1:1-120")), drain);
    let NextAction::CommitOpen {
        plan,
        successor,
        position,
        fencing_proof,
    } = after(&done, &fresh("1:1-121", "1:1-121"))
    else {
        panic!("not opened");
    };
    assert_eq!(fencing_proof, FencingProof::OldPrimaryReadOnly { bypass: None });
    assert_eq!((successor, position), (key(2), mysql_set("1:1-121")));
    assert_eq!(plan.position, mysql_set("1:1-121"));
}

#[test]
fn whatever_goes_wrong_before_the_opening_the_old_primary_takes_writes_again() {
    let equal = || fresh("1:1-120", "1:1-120");
    for outcome in [
        Outcome::NoAnswer("gone".to_owned()),
        Outcome::Failed("no".to_owned()),
        Outcome::Unknown("lost".to_owned()),
    ] {
        undone(
            &after(&[demoted(outcome.clone())], &cluster()),
            "was not made read-only",
        );
        undone(
            &after(&[demoted(Outcome::Done), drained(outcome)], &equal()),
            "did not apply all",
        );
    }
    let both = [demoted(Outcome::Done), drained(Outcome::Done)];
    let writable = topology([
        primary(1, "1:1-120"),
        replica(2, 1, "1:1-120"),
        replica(3, 1, "1:1-100"),
    ]);
    undone(&after(&both, &writable), "takes writes again");
    undone(
        &after(&both, &fresh("1:1-120", "1:1-120,2:1-3")),
        "holds transactions that",
    );
    let mut dead = equal();
    dead.instances.insert(key(2), replica(2, 1, "1:1-120").dead());
    undone(&after(&both, &dead), "db2:3306 no longer answers");
    let mut moved = equal();
    moved.instances.insert(key(2), replica(2, 3, "1:1-120"));
    undone(&after(&both, &moved), "it replicates from db3:3306");
    let mut restarted = equal();
    restarted.instances.insert(key(1), primary(1, "1:1-120").dead());
    undone(&after(&both, &restarted), "db1:3306 no longer answers");
}

#[test]
fn a_primary_that_never_stops_writing_is_no_takeover() {
    let mut done = vec![demoted(Outcome::Done)];
    done.extend(std::iter::repeat_with(|| drained(Outcome::Done)).take(DRAIN_TRIES));
    undone(
        &after(&done, &fresh("1:1-121", "1:1-120")),
        "still takes writes although it is read-only",
    );
}

#[test]
fn a_new_actor_undoes_what_opened_nobody_and_finishes_the_rest() {
    let plan = planned();
    undone(
        &on_resume(&plan, &Phase::Claimed).expect("something to do"),
        "was lost before",
    );
    let opened = Phase::Opened {
        successor: key(2),
        position: mysql_set("1:1-120"),
        at: NOW,
    };
    assert_eq!(on_resume(&plan, &opened), None);
    let equal = fresh("1:1-120", "1:1-120");
    let first = next(&plan, &opened, &[], &equal, &Policy::default(), NOW);
    assert_eq!(
        first,
        NextAction::Run(Step::Fence { old_primary: key(1) }),
        "what became of the old primary is not known"
    );
    let fenced = [result(Step::Fence { old_primary: key(1) }, 1, Outcome::Done)];
    let then = next(&plan, &opened, &fenced, &equal, &Policy::default(), NOW);
    assert_eq!(then, NextAction::Run(Step::Open { successor: key(2) }));
}

#[test]
fn a_primary_that_was_read_only_before_a_takeover_is_not_opened_by_its_undo() {
    let mut plan = planned();
    assert!(plan.old_primary_state.is_some_and(|state| state.writable));
    plan.old_primary_state = plan.old_primary_state.map(|state| PriorPrimaryState {
        writable: false,
        ..state
    });
    let failed = [demoted(Outcome::Failed("no".to_owned()))];
    let fresh = fresh("1:1-100", "1:1-90");
    let undone = [
        next(&plan, &Phase::Claimed, &failed, &fresh, &Policy::default(), NOW),
        on_resume(&plan, &Phase::Claimed).expect("something to do"),
        on_withdrawn(&plan, &Phase::Claimed).expect("something to do"),
    ];
    for next in undone {
        assert!(
            matches!(&next, NextAction::Abort { undo, .. } if undo.is_empty()),
            "{next:?}"
        );
    }
}
