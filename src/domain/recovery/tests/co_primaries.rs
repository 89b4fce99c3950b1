//! db1, the primary, and db2 replicate from each other; db3 replicates from db1, db4 from db2.

use super::*;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::progress::next;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::Phase;

fn first() -> Instance {
    replica(1, 2, "1:1-100").facts(|facts| facts.read_only = false)
}

fn others() -> [Instance; 3] {
    [
        replica(2, 1, "1:1-100").cut(),
        replica(3, 1, "1:1-100").cut(),
        replica(4, 2, "1:1-100"),
    ]
}

fn dead(code: Code, n: u32) -> Finding {
    Finding {
        code,
        instance: key(n),
        ..dead_primary()
    }
}

fn must() -> Policy {
    Policy {
        must_promote_other_co_primary: true,
        ..Policy::default()
    }
}

fn tree(change: impl Fn(u32, Instance) -> Instance) -> Topology {
    let all = others().into_iter().chain([first().dead()]);
    topology(all.map(|instance| {
        let n = (1..=4).find(|n| key(*n) == instance.key).unwrap();
        change(n, instance)
    }))
}

fn planned(tree: &Topology, policy: &Policy) -> Result<Plan, String> {
    let (made, report) = plan(&dead(Code::DeadCoMaster, 1), tree, policy, NOW);
    if let Some(made) = &made {
        assert_eq!(made.kind, RecoveryKind::CoPrimary);
        assert_eq!(lint(made, tree), Vec::<String>::new());
    }
    made.ok_or_else(|| report.no_plan.unwrap())
}

fn follows(plan: &Plan) -> BTreeSet<InstanceKey> {
    let repoint = |step: &Step| {
        if let Step::Repoint { replicas, .. } = step {
            Some(replicas.clone())
        } else {
            None
        }
    };
    plan.steps.iter().find_map(repoint).unwrap_or_default()
}

#[test]
fn the_other_one_takes_over_with_the_dead_ones_replicas() {
    let plan = planned(&tree(|_, it| it), &must()).unwrap();
    assert_eq!(plan.successor, key(2));
    assert_eq!(follows(&plan), [key(3)].into());
    let told = plan.steps.iter().map(Step::describe).collect::<Vec<_>>().join("; ");
    assert!(told.contains("stop receivers on db2:3306, db3:3306"), "{told}");
}

#[test]
fn nobody_else_is_promoted_unless_the_configuration_allows_it() {
    let unfit = tree(|n, it| {
        if n == 2 {
            it.facts(|facts| facts.log_bin = false)
        } else {
            it
        }
    });
    let why = planned(&unfit, &must()).unwrap_err();
    assert!(why.contains("db2:3306"), "{why}");
    let plan = planned(&unfit, &Policy::default()).unwrap();
    assert_eq!(plan.successor, key(3));
    assert!(follows(&plan).contains(&key(2)));
}

#[test]
fn one_that_takes_writes_is_the_one_and_what_it_wrote_is_not_errant() {
    let active = tree(|n, it| match n {
        2 => it.facts(|facts| {
            facts.read_only = false;
            facts.executed = mysql_set("1:1-100,2:1-5");
        }),
        _ => it,
    });
    let plan = planned(&active, &Policy::default()).unwrap();
    assert_eq!(
        (&plan.successor, &plan.position),
        (&key(2), &mysql_set("1:1-100,2:1-5"))
    );
}

/// db2, the other co-primary, is behind db3.
fn behind(change: impl Fn(u32, Instance) -> Instance) -> Topology {
    tree(|n, it| {
        let it = match n {
            2 => it.facts(|facts| facts.executed = mysql_set("1:1-90")),
            4 => it.facts(|facts| facts.executed = mysql_set("1:1-90")),
            _ => it,
        };
        change(n, it)
    })
}

fn caught_up_from(plan: &Plan) -> Option<InstanceKey> {
    plan.steps.iter().find_map(|step| {
        if let Step::CatchUp { from, .. } = step {
            Some(from.clone())
        } else {
            None
        }
    })
}

#[test]
fn the_other_one_is_caught_up_what_a_plain_replica_alone_received() {
    let plan = planned(&behind(|_, it| it), &must()).unwrap();
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    assert_eq!((&plan.position, &plan.lost), (&mysql_set("1:1-100"), &None));
    assert_eq!(plan.sources.get(&key(2)), Some(&key(1)));
    assert_eq!(follows(&plan), [key(3)].into());
    // Whatever speaks against it otherwise: nobody else may be promoted.
    let policy = Policy {
        promotion_rules: [(key(2), PromotionRule::PreferNot), (key(3), PromotionRule::Prefer)].into(),
        ..must()
    };
    assert_eq!(planned(&behind(|_, it| it), &policy).unwrap().successor, key(2));
    // When nobody has more, nobody feeds.
    assert_eq!(caught_up_from(&planned(&tree(|_, it| it), &must()).unwrap()), None);
}

#[test]
fn one_that_takes_writes_is_caught_up_beside_what_nobody_else_has_of_it() {
    let active = behind(|n, it| match n {
        2 => it.facts(|facts| {
            facts.read_only = false;
            facts.executed = mysql_set("1:1-90,2:1-5");
        }),
        3 => it.facts(|facts| facts.executed = mysql_set("1:1-100,2:1-3")),
        _ => it,
    });
    let plan = planned(&active, &Policy::default()).unwrap();
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    assert_eq!(
        (&plan.position, &plan.lost),
        (&mysql_set("1:1-100,2:1-5"), &None),
        "what it wrote before is no errant transaction"
    );
    assert_eq!(follows(&plan), [key(3)].into());
}

type Spoil = fn(&mut crate::domain::instance::InstanceFacts);

#[test]
fn one_that_cannot_be_caught_up_is_refused_with_the_reason() {
    let spoils: [(Spoil, &str); 2] = [
        (
            |facts| facts.purged = mysql_set("1:1-95"),
            "and it cannot catch up from db3:3306: purged and needed: 00000001",
        ),
        (
            |facts| facts.version = ServerVersion::parse("10.1.0", "").unwrap(),
            "and it cannot catch up from db3:3306: version: MySQL 10.1.0",
        ),
    ];
    for (spoil, why) in spoils {
        let tree = behind(|n, it| if n == 3 { it.facts(spoil) } else { it });
        let told = planned(&tree, &must()).unwrap_err();
        assert!(
            told.contains("db2:3306 is the other co-primary and cannot be promoted: lacks"),
            "{told}"
        );
        assert!(told.contains(why) && told.contains("; db3:3306 could be"), "{told}");
    }
}

#[test]
fn what_a_server_holds_that_can_neither_catch_up_from_nor_be_promoted_falls_under_the_loss_policy() {
    let spoils: [Spoil; 2] = [
        |facts| facts.log_replica_updates = false,
        |facts| facts.executed = mysql_set("1:1-100,3:1"),
    ];
    for spoil in spoils {
        let tree = behind(|n, it| if n == 3 { it.facts(spoil) } else { it });
        let plan = planned(&tree, &must()).unwrap();
        assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), None));
        assert_eq!(plan.lost, Some(mysql_set("1:91-100")));
        let refuse = Policy {
            loss: LossPolicy::Refuse,
            ..must()
        };
        let told = planned(&tree, &refuse).unwrap_err();
        assert!(told.contains("lossPolicy is Refuse"), "{told}");
    }
}

#[test]
fn its_own_replica_does_not_catch_up_from_it() {
    // It cannot have more; if it says so all the same, feeding from it would make a ring of the two.
    let strange = behind(|n, it| match n {
        3 => it.dead(),
        4 => it.facts(|facts| facts.executed = mysql_set("1:1-100")),
        _ => it,
    });
    let why = planned(&strange, &must()).unwrap_err();
    assert!(
        why.contains("cannot catch up from db4:3306: unknown: it replicates from db2:3306"),
        "{why}"
    );
}

/// The same servers without GTIDs.
fn by_position(change: impl Fn(u32, Instance) -> Instance) -> Topology {
    tree(|n, it| {
        let it = it.facts(|facts| {
            facts.gtid_mode = "OFF".to_owned();
            for channel in &mut facts.channels {
                channel.positioning = Positioning::FilePosition;
                channel.lag_seconds = Some(0);
            }
        });
        change(n, it)
    })
}

fn planned_by_position(tree: &Topology, policy: &Policy) -> Result<Plan, String> {
    let (made, report) = plan(&dead(Code::DeadCoMaster, 1), tree, policy, NOW);
    if let Some(made) = &made {
        assert_eq!(made.kind, RecoveryKind::DeadPrimaryByPosition);
        assert_eq!(lint(made, tree), Vec::<String>::new());
    }
    made.ok_or_else(|| report.no_plan.unwrap())
}

fn follows_at(plan: &Plan) -> BTreeSet<InstanceKey> {
    let repoint = |step: &Step| {
        if let Step::RepointAt { replicas, .. } = step {
            Some(replicas.keys().cloned().collect())
        } else {
            None
        }
    };
    plan.steps.iter().find_map(repoint).unwrap_or_default()
}

#[test]
fn without_gtids_the_other_one_takes_over_and_the_dead_ones_replicas_are_placed_in_its_log() {
    let plan = planned_by_position(&by_position(|_, it| it), &must()).unwrap();
    assert_eq!(plan.successor, key(2));
    assert_eq!(follows_at(&plan), [key(3)].into(), "db4 replicates from db2 already");
    assert!(plan.lost_replicas.is_empty(), "{:?}", plan.lost_replicas);
}

#[test]
fn without_gtids_nothing_is_placed_in_a_log_with_writes_that_the_dead_one_may_not_have_passed_on() {
    let left = |change: fn(u32, Instance) -> Instance| {
        let plan = planned_by_position(&by_position(change), &must()).unwrap();
        assert_eq!((&plan.successor, follows_at(&plan)), (&key(2), BTreeSet::new()));
        let [lost] = plan.lost_replicas.as_slice() else {
            panic!("{:?}", plan.lost_replicas)
        };
        assert_eq!(lost.instance, key(3));
        lost.reason.to_string()
    };
    let takes_writes = left(|n, it| match n {
        2 => it.facts(|facts| facts.read_only = false),
        _ => it,
    });
    assert!(takes_writes.contains("db2:3306 takes writes itself"), "{takes_writes}");
    for behind in [None, Some(3600)] {
        let tree = by_position(|n, it| match n {
            1 => it.facts(|facts| facts.channels[0].lag_seconds = behind),
            _ => it,
        });
        let plan = planned_by_position(
            &tree,
            &Policy {
                reasonable_lag_seconds: 10,
                ..must()
            },
        )
        .unwrap();
        let why = plan.lost_replicas[0].reason.to_string();
        assert!(
            why.contains("whether db1:3306 had applied all writes of db2:3306"),
            "{why}"
        );
    }
}

#[test]
fn without_gtids_nobody_else_is_promoted_either_unless_the_configuration_allows_it() {
    let unfit = by_position(|n, it| match n {
        2 => it.facts(|facts| facts.log_bin = false),
        _ => it,
    });
    let why = planned_by_position(&unfit, &must()).unwrap_err();
    assert!(
        why.starts_with("db2:3306 is the other co-primary and cannot be promoted: "),
        "{why}"
    );
    let plan = planned_by_position(&unfit, &Policy::default()).unwrap();
    assert_eq!(plan.successor, key(3));
}

#[test]
fn of_a_dead_one_that_is_not_the_primary_the_replicas_move_and_the_primary_does_not() {
    let tree = topology([
        first().cut(),
        replica(2, 1, "1:1-100").dead(),
        replica(3, 1, "1:1-100"),
        replica(4, 2, "1:1-100").cut(),
    ]);
    let (made, report) = plan(&dead(Code::DeadCoMaster, 2), &tree, &must(), NOW);
    let made = made.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!(made.kind, RecoveryKind::IntermediatePrimary);
    assert_eq!(lint(&made, &tree), Vec::<String>::new());
    assert_eq!(made.instances, [key(2), key(4)].into());
    assert_eq!(follows(&made), [key(4)].into());
}

#[test]
fn one_that_comes_back_with_everything_stays_the_primary() {
    let gone = tree(|_, it| it);
    let plan = planned(&gone, &must()).unwrap();
    let receivers_stopped = |it: Instance| {
        it.facts(|facts| {
            for channel in &mut facts.channels {
                channel.io = crate::domain::instance::ThreadState::Stopped;
            }
        })
    };
    let back = topology(
        others()
            .map(|it| if it.key == key(4) { it } else { receivers_stopped(it) })
            .into_iter()
            .chain([first()]),
    );
    let done = |step: Step, outcomes: &[(u32, Outcome)]| StepResult {
        step,
        outcomes: outcomes.iter().map(|(n, outcome)| (key(*n), outcome.clone())).collect(),
    };
    let fence = Step::Fence { old_primary: key(1) };
    let stop_receivers = Step::StopReceivers {
        replicas: [key(2), key(3)].into(),
    };
    let results = [
        done(fence, &[(1, Outcome::NoAnswer("refused".to_owned()))]),
        done(stop_receivers, &[(2, Outcome::Done), (3, Outcome::Done)]),
    ];
    let step = next(&plan, &Phase::Claimed, &results, &back, &must(), NOW);
    assert!(
        matches!(&step, NextAction::Abort { reason, .. } if reason.contains("came back")),
        "{step:?}"
    );
}
