use std::collections::BTreeMap;

use super::*;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};
use crate::domain::instance::{Instance, ProbeFailure, ThreadState};
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::lint::lint;
use crate::domain::recovery::next_action::{NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::plan_silent_primary;
use crate::domain::recovery::progress::next;
use crate::domain::state::Phase;
use crate::domain::topology::{ClusterId, Topology};

fn finding() -> Finding {
    Finding {
        code: Code::UnreachableMaster,
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        description: String::new(),
        evidence: Evidence {
            is_primary: true,
            failure: Some(ProbeFailure::NoAnswer),
            receiving_replicas: 2,
            ..Evidence::default()
        },
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    }
}

fn db1() -> Instance {
    primary(1, "1:1-100").failing(ProbeFailure::NoAnswer)
}

/// Both replicas say that they receive.
fn before() -> Topology {
    topology([db1(), replica(2, 1, "1:1-100"), replica(3, 1, "1:1-100")])
}

/// Both try in vain.
fn after() -> Topology {
    let trying = |n| replica(n, 1, "1:1-100").channel(|channel| channel.io = ThreadState::Connecting);
    topology([db1(), trying(2), trying(3)])
}

fn planned() -> Plan {
    let (plan, report) = plan_silent_primary(&finding(), &before(), &Policy::default(), None, NOW);
    plan.unwrap_or_else(|| panic!("{report:?}"))
}

fn after_test(outcomes: impl IntoIterator<Item = (u32, Outcome)>, fresh: &Topology) -> NextAction {
    let plan = planned();
    let outcomes: BTreeMap<InstanceKey, Outcome> = outcomes.into_iter().map(|(n, outcome)| (key(n), outcome)).collect();
    let done = [StepResult {
        step: plan.steps[0].clone(),
        outcomes,
    }];
    next(&plan, &Phase::Claimed, &done, fresh, &Policy::default(), NOW)
}

fn silent() -> Outcome {
    Outcome::NoAnswer("no answer to the connection attempt".to_owned())
}

fn failed() -> Outcome {
    Outcome::Failed("db3:3306 has reached db1:3306 again".to_owned())
}

#[test]
fn every_replica_that_says_that_it_receives_has_to_try_before_anything_else() {
    let plan = planned();
    let test = Step::ReconnectTest {
        old_primary: key(1),
        replicas: [key(2), key(3)].into(),
    };
    assert_eq!(plan.steps[0], test);
    assert_eq!(lint(&plan, &before()), Vec::<String>::new());
    let first = next(&plan, &Phase::Claimed, &[], &before(), &Policy::default(), NOW);
    assert_eq!(first, NextAction::Run(test));
    let mut blind = plan.clone();
    blind.steps.remove(0);
    let told = lint(&blind, &before()).join("; ");
    assert!(
        told.contains("db2:3306 reports that it receives from db1:3306"),
        "{told}"
    );
    let mut late = plan;
    late.steps.swap(0, 2);
    let told = lint(&late, &before()).join("; ");
    assert!(told.contains("must not come before reconnect test"), "{told}");
}

#[test]
fn the_test_comes_first_whatever_the_kind_of_the_plan() {
    let by_position = Plan {
        kind: RecoveryKind::DeadPrimaryByPosition,
        ..planned()
    };
    let first = next(&by_position, &Phase::Claimed, &[], &before(), &Policy::default(), NOW);
    assert!(
        matches!(first, NextAction::Run(Step::ReconnectTest { .. })),
        "{first:?}"
    );
    let mut blind = by_position;
    blind.steps.remove(0);
    assert!(lint(&blind, &before()).join("; ").contains("and is not tested"));
}

#[test]
fn a_finding_that_says_more_than_silence_has_no_such_plan() {
    for failure in [ProbeFailure::Refused, ProbeFailure::Stalled, ProbeFailure::Saturated] {
        let loud = topology([primary(1, "1:1-100").failing(failure), replica(2, 1, "1:1-100")]);
        let (plan, report) = plan_silent_primary(&finding(), &loud, &Policy::default(), None, NOW);
        assert_eq!(plan, None);
        assert!(report.no_plan.is_some_and(|why| why.contains("is not silent")));
    }
    let back = topology([primary(1, "1:1-100"), replica(2, 1, "1:1-100")]);
    assert_eq!(
        plan_silent_primary(&finding(), &back, &Policy::default(), None, NOW).0,
        None
    );
}

#[test]
fn when_nobody_reaches_it_the_recovery_goes_on_without_dialling_it_again() {
    let both = NextAction::Run(Step::StopReceivers {
        replicas: [key(2), key(3)].into(),
    });
    let all = [(1, silent()), (2, Outcome::Done), (3, Outcome::Done)];
    assert_eq!(after_test(all, &after()), both);
    // One that was lost meanwhile has no say.
    let one_lost = [(1, silent()), (2, Outcome::Done), (3, silent())];
    assert_eq!(after_test(one_lost, &after()), both);
}

#[test]
fn one_that_reaches_it_ends_everything_and_the_threads_run_again() {
    let unknown = || Outcome::Unknown("connection lost".to_owned());
    for (wanted, outcomes) in [
        (
            "db3:3306 has reached",
            [(1, silent()), (2, Outcome::Done), (3, failed())],
        ),
        ("is not proved", [(1, silent()), (2, Outcome::Done), (3, unknown())]),
        ("no replica could try", [(1, silent()), (2, silent()), (3, silent())]),
        (
            "answers again",
            [(1, Outcome::Done), (2, Outcome::Done), (3, Outcome::Done)],
        ),
        ("answers again", [(1, failed()), (2, Outcome::Done), (3, Outcome::Done)]),
    ] {
        let NextAction::Abort { reason, undo } = after_test(outcomes, &after()) else {
            panic!("{wanted}: it goes on");
        };
        assert!(reason.contains(wanted), "{wanted}: {reason}");
        let replicas = [key(2), key(3)].into();
        assert_eq!(undo, [Undo::StartReceivers { replicas }]);
    }
}

#[test]
fn the_test_goes_on_until_the_replicas_are_receivers_stopped() {
    let all = [(1, silent()), (2, Outcome::Done), (3, Outcome::Done)];
    let NextAction::Abort { reason, .. } = after_test(all, &before()) else {
        panic!("it goes on");
    };
    assert!(reason.contains("reconnected: db2:3306"), "{reason}");
}
