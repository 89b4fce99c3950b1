//! A dead intermediate primary, or group member: where its replicas go. db1 is the primary, db2 the dead one.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::instance::{BinlogCoordinates, Positioning};
use crate::domain::policy::RepairBlock;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::progress::next;
use crate::domain::recovery::step::EquivalentPosition;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::Phase;

fn dead(code: Code) -> Finding {
    Finding {
        code,
        instance: key(2),
        ..dead_primary()
    }
}

fn top() -> Instance {
    primary(1, "1:1-100")
}

fn middle() -> Instance {
    replica(2, 1, "1:1-100").dead()
}

fn orphan(n: u32, executed: &str) -> Instance {
    replica(n, 2, executed).cut()
}

fn sibling(n: u32) -> Instance {
    replica(n, 1, "1:1-100")
}

fn at(data_center: &str, instance: Instance) -> Instance {
    instance.facts(|facts| data_center.clone_into(&mut facts.data_center))
}

#[track_caller]
fn made(code: Code, tree: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    let (made, report) = plan(&dead(code), tree, policy, NOW);
    if let Some(made) = &made {
        assert_eq!(lint(made, tree), Vec::<String>::new());
    }
    (made, report)
}

#[track_caller]
fn moves(policy: &Policy, instances: impl IntoIterator<Item = Instance>) -> Plan {
    let (made, report) = made(Code::DeadIntermediateMaster, &topology(instances), policy);
    made.unwrap_or_else(|| panic!("no plan: {report:?}"))
}

fn to(n: u32, replicas: &[u32]) -> Step {
    Step::Repoint {
        successor: key(n),
        replicas: replicas.iter().map(|n| key(*n)).collect(),
    }
}

#[test]
fn a_sibling_in_the_same_data_centre_is_the_first_choice() {
    let plan = moves(
        &Policy::default(),
        [
            at("x", top()),
            at("y", middle()),
            at("y", orphan(3, "1:1-100")),
            at("y", orphan(4, "1:1-90")),
            at("x", sibling(5)),
            at("y", sibling(6)),
        ],
    );
    assert_eq!(plan.kind, RecoveryKind::IntermediatePrimary);
    assert_eq!(plan.steps, [to(6, &[3, 4])]);
    assert_eq!((plan.successor, plan.lost_replicas), (key(6), Vec::new()));
    assert_eq!(plan.instances, [key(2), key(3), key(4)].into());
}

#[test]
fn among_siblings_the_promotion_rule_decides_then_the_environment() {
    let rules = |rules: &[(u32, PromotionRule)]| Policy {
        promotion_rules: rules.iter().map(|(n, rule)| (key(*n), *rule)).collect(),
        ..Policy::default()
    };
    let tree = || [top(), middle(), orphan(3, "1:1-9"), sibling(5), sibling(6), sibling(7)];
    assert_eq!(moves(&Policy::default(), tree()).steps, [to(5, &[3])]);
    assert_eq!(
        moves(&rules(&[(6, PromotionRule::Prefer)]), tree()).steps,
        [to(6, &[3])]
    );
    let banned = rules(&[(5, PromotionRule::MustNot), (6, PromotionRule::PreferNot)]);
    assert_eq!(moves(&banned, tree()).steps, [to(7, &[3])]);
    let same = |instance: Instance| instance.facts(|facts| "prod".clone_into(&mut facts.environment));
    let [one, two, three, five, six, seven] = tree();
    let tree = [one, same(two), three, five, six, same(seven)];
    assert_eq!(moves(&Policy::default(), tree).steps, [to(7, &[3])]);
}

#[test]
fn a_sibling_that_cannot_catch_up_from_them_is_passed_over() {
    let unfit: [fn(Instance) -> Instance; 7] = [
        Adjust::dead,
        |sibling| sibling.facts(|facts| facts.log_replica_updates = false),
        |sibling| sibling.channel(|channel| channel.filtered = true),
        |sibling| sibling.channel(|channel| channel.sql = ThreadState::Stopped),
        |sibling| sibling.channel(|channel| channel.delay_seconds = 60),
        |sibling| sibling.facts(|facts| facts.executed = mysql_set("1:1-80")),
        |sibling| sibling.facts(|facts| facts.purged = mysql_set("1:1-95")),
    ];
    for change in unfit {
        let tree = [top(), middle(), orphan(3, "1:1-90"), change(sibling(5)), sibling(6)];
        assert_eq!(moves(&Policy::default(), tree).steps, [to(6, &[3])]);
    }
}

#[test]
fn without_a_near_sibling_the_most_advanced_takes_the_place_and_the_others_follow_it() {
    let plan = moves(
        &Policy::default(),
        [
            top(),
            middle(),
            orphan(3, "1:1-90"),
            orphan(4, "1:1-100"),
            orphan(5, "1:1-80"),
        ],
    );
    assert_eq!(plan.steps, [to(1, &[4]), to(4, &[3, 5])]);
    assert_eq!(plan.successor, key(4));
}

#[test]
fn a_replica_that_may_not_lead_goes_up_when_it_is_alone() {
    let policy = Policy {
        promotion_rules: [(key(3), PromotionRule::MustNot)].into(),
        ..Policy::default()
    };
    let alone = moves(&policy, [top(), middle(), orphan(3, "1:1-90")]);
    assert_eq!(alone.steps, [to(1, &[3])]);
    let two = moves(&policy, [top(), middle(), orphan(3, "1:1-100"), orphan(4, "1:1-90")]);
    // db3 is ahead of db4, which may lead: it goes up by itself.
    assert_eq!(two.steps, [to(1, &[3, 4])]);
}

#[test]
fn another_data_centre_is_taken_before_going_up_unless_that_is_forbidden() {
    let tree = || {
        [
            at("x", top()),
            at("y", middle()),
            at("y", orphan(3, "1:1-100")),
            at("y", orphan(4, "1:1-90")),
            at("x", sibling(5)),
        ]
    };
    let free = moves(&Policy::default(), tree());
    assert_eq!(free.steps, [to(5, &[3]), to(3, &[4])]);
    let policy = Policy {
        prevent_cross_data_center: true,
        ..Policy::default()
    };
    let bound = moves(&policy, tree());
    assert_eq!(bound.steps, [to(1, &[3]), to(3, &[4])]);
    // One that cannot follow the new intermediate stays behind: a second link across is forbidden.
    let [one, two, three, four, five] = tree();
    let four = four.facts(|facts| facts.executed = mysql_set("1:1-50"));
    let three = three.facts(|facts| facts.purged = mysql_set("1:1-60"));
    let bound = moves(&policy, [one, two, three, four, five]);
    assert_eq!(bound.steps, [to(1, &[3])]);
    assert!(
        matches!(reason(&bound.lost_replicas, 4), RefusalReason::Geography(_)),
        "{:?}",
        bound.lost_replicas
    );
}

#[test]
fn who_cannot_follow_anybody_is_left_behind_with_the_reason() {
    let plan = moves(
        &Policy::default(),
        [
            top().facts(|facts| facts.purged = mysql_set("1:1-50")),
            middle(),
            orphan(3, "1:1-100,3:1-2"),
            orphan(4, "1:1-40"),
            orphan(5, "1:1-90").facts(|facts| facts.purged = mysql_set("1:1-50")),
            orphan(6, "1:1-90").dead(),
            orphan(7, "1:1-90").facts(|facts| facts.version = ServerVersion::parse("8.0.36", "").unwrap()),
            by_position(orphan(8, ""), "OFF"),
        ],
    );
    assert_eq!(plan.steps, [to(1, &[5])]);
    let lost = |n| reason(&plan.lost_replicas, n).clone();
    assert!(matches!(lost(3), RefusalReason::Errant(set) if set.contains(&uuid(3))));
    assert!(matches!(lost(4), RefusalReason::Purged(_)));
    assert!(matches!(lost(6), RefusalReason::Unreachable(_)));
    assert!(matches!(lost(7), RefusalReason::Version(_)));
    assert_eq!(lost(8), RefusalReason::NoGtid);
}

#[test]
fn when_nothing_above_answers_there_is_no_plan() {
    let tree = topology([top().dead(), middle(), orphan(3, "1:1-90"), orphan(4, "1:1-90")]);
    let (plan, report) = made(Code::DeadIntermediateMaster, &tree, &Policy::default());
    assert_eq!(plan, None);
    assert_eq!(report.refused.len(), 2, "{report:?}");
    assert!(report.no_plan.unwrap().contains("no replica of db2:3306"));
}

#[test]
fn mariadb_replicas_move_alike() {
    let tree = topology([
        mariadb_primary(1, "0-1-100"),
        mariadb_replica(2, 1, "0-1-100").dead(),
        mariadb_replica(3, 2, "0-1-100").cut(),
        mariadb_replica(4, 2, "0-1-90").cut(),
        mariadb_replica(5, 2, "0-1-90,0-5-91").cut(),
    ]);
    let (plan, _) = made(Code::DeadIntermediateMaster, &tree, &Policy::default());
    let plan = plan.unwrap();
    assert_eq!(plan.steps, [to(1, &[3]), to(3, &[4])]);
    assert!(matches!(reason(&plan.lost_replicas, 5), RefusalReason::Errant(_)));
}

#[test]
fn replicas_of_a_group_member_go_to_a_member_nearby() {
    let member = |instance: Instance| instance.facts(|facts| "group".clone_into(&mut facts.group_name));
    let tree = topology([
        at("x", member(primary(1, "1:1-100"))),
        at("y", member(primary(2, "1:1-100")).dead()),
        at("y", member(primary(5, "1:1-100").facts(|facts| facts.read_only = true))),
        orphan(3, "1:1-100"),
        orphan(4, "1:1-100,4:1"),
    ]);
    let (plan, report) = made(Code::DeadReplicationGroupMemberWithReplicas, &tree, &Policy::default());
    let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!(plan.kind, RecoveryKind::GroupMember);
    assert_eq!(plan.steps, [to(5, &[3])]);
    assert!(matches!(reason(&plan.lost_replicas, 4), RefusalReason::Errant(_)));
}

#[test]
fn a_living_intermediate_is_left_by_those_who_cannot_reach_it() {
    let tree = topology([top(), replica(2, 1, "1:1-100"), orphan(3, "1:1-90"), sibling(4)]);
    let code = Code::AllIntermediateMasterReplicasFailingToConnectOrDead;
    let (plan, _) = made(code, &tree, &Policy::default());
    assert_eq!(plan.unwrap().steps, [to(4, &[3])]);
    let (plan, report) = made(Code::DeadIntermediateMaster, &tree, &Policy::default());
    assert_eq!((plan, report.no_plan.as_deref()), (None, Some("db2:3306 answers")));
}

#[test]
fn unsound_moves_are_told_apart() {
    let tree = topology([
        top(),
        middle(),
        orphan(3, "1:1-100"),
        orphan(4, "1:1-90"),
        replica(5, 3, "1:1-90"),
    ]);
    let sound = made(Code::DeadIntermediateMaster, &tree, &Policy::default()).0.unwrap();
    assert_eq!(sound.steps, [to(1, &[3]), to(3, &[4])]);
    for (wanted, steps) in [
        ("which the plan does not claim", vec![to(1, &[3, 4, 5])]),
        ("does not replicate from", vec![to(1, &[3, 4, 5])]),
        ("gets its changes through", vec![to(3, &[4]), to(1, &[3])]),
        ("gets its changes through", vec![to(1, &[4]), to(5, &[3])]),
        ("is the failed server", vec![to(1, &[3]), to(2, &[4])]),
        ("neither moved nor left behind", vec![to(1, &[3])]),
        ("would be moved twice", vec![to(1, &[3, 4]), to(1, &[4])]),
        ("holds what db4:3306 lacks", vec![to(1, &[4]), to(4, &[3])]),
        ("nothing would be moved", Vec::new()),
        ("has no place", vec![to(1, &[3, 4]), Step::Open { successor: key(1) }]),
    ] {
        let told = lint(&Plan { steps, ..sound.clone() }, &tree).join("; ");
        assert!(told.contains(wanted), "wanted `{wanted}` in `{told}`");
    }
}

// === what comes next ===

fn done(source: u32, replicas: &[(u32, Outcome)]) -> StepResult {
    StepResult {
        step: to(source, &replicas.iter().map(|(n, _)| *n).collect::<Vec<_>>()),
        outcomes: replicas.iter().map(|(n, outcome)| (key(*n), outcome.clone())).collect(),
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
fn the_new_intermediate_is_moved_first_and_what_is_seen_done_is_not_repeated() {
    let mut tree = topology([top(), middle(), orphan(3, "1:1-100"), orphan(4, "1:1-90")]);
    let plan = made(Code::DeadIntermediateMaster, &tree, &Policy::default()).0.unwrap();
    let step = |tree: &Topology, done: &[StepResult]| next(&plan, &Phase::Claimed, done, tree, &Policy::default(), NOW);
    assert_eq!(step(&tree, &[]), NextAction::Run(to(1, &[3])));
    let first = done(1, &[(3, Outcome::Done)]);
    assert_eq!(step(&tree, std::slice::from_ref(&first)), NextAction::Run(to(3, &[4])));
    // A new actor has no results, and sees what was done.
    tree.instances.insert(key(3), replica(3, 1, "1:1-100"));
    assert_eq!(step(&tree, &[]), NextAction::Run(to(3, &[4])));
    let finish = finished(step(&tree, &[first, done(3, &[(4, Outcome::Done)])]));
    assert!(finish.successful && finish.lost_replicas.is_empty());
    assert_eq!(finish.successor.map(|(key, _)| key), Some(key(3)));
}

#[test]
fn when_the_new_intermediate_fails_the_others_go_up_themselves() {
    let tree = topology([top(), middle(), orphan(3, "1:1-100"), orphan(4, "1:1-90")]);
    let plan = made(Code::DeadIntermediateMaster, &tree, &Policy::default()).0.unwrap();
    let step = |done: &[StepResult]| next(&plan, &Phase::Claimed, done, &tree, &Policy::default(), NOW);
    let mut results = vec![done(1, &[(3, failed())])];
    assert_eq!(step(&results), NextAction::Run(to(1, &[3])));
    results.push(done(1, &[(3, failed())]));
    assert_eq!(step(&results), NextAction::Run(to(1, &[4])));
    results.push(done(1, &[(4, Outcome::Done)]));
    let finish = finished(step(&results));
    assert!(finish.successful);
    assert_eq!(
        reason(&finish.lost_replicas, 3),
        &RefusalReason::Unreachable("no".to_owned())
    );
}

#[test]
fn a_source_that_dies_meanwhile_is_replaced_once_and_nothing_moved_is_no_success() {
    let mut tree = topology([top(), middle(), orphan(3, "1:1-90"), sibling(5), sibling(6)]);
    let plan = made(Code::DeadIntermediateMaster, &tree, &Policy::default()).0.unwrap();
    assert_eq!(plan.steps, [to(5, &[3])]);
    tree.instances.insert(key(5), sibling(5).dead());
    let step = |tree: &Topology, done: &[StepResult]| next(&plan, &Phase::Claimed, done, tree, &Policy::default(), NOW);
    assert_eq!(step(&tree, &[]), NextAction::Run(to(6, &[3])));
    let twice = [done(6, &[(3, failed())]), done(6, &[(3, failed())])];
    assert_eq!(step(&tree, &twice), NextAction::Run(to(1, &[3])));
    let four = [&twice[..], &[done(1, &[(3, failed())]), done(1, &[(3, failed())])]].concat();
    let finish = finished(step(&tree, &four));
    assert!(!finish.successful);
    assert_eq!(finish.successor, None);
    assert_eq!(finish.errors.len(), 1);
}

#[test]
fn intermediates_have_their_own_filters_and_their_own_pauses() {
    let tree = topology([top(), middle(), orphan(3, "1:1-90")]);
    let finding = dead(Code::DeadIntermediateMaster);
    let mut policy = Policy {
        held_back: Some(HeldBack::NoFilterMatches),
        ..Policy::default()
    };
    assert_eq!(held_back(&finding, &tree, &policy), None);
    assert_eq!(
        held_back(&dead_primary(), &tree, &policy),
        Some(HeldBack::NoFilterMatches)
    );
    let mut recent = RepairBlock {
        kind: RecoveryKind::IntermediatePrimary,
        instance: key(2),
        uid: "r1".to_owned(),
        until: NOW.plus_millis(1),
        failures: 0,
    };
    policy.repair_blocks = vec![recent.clone()];
    let wanted = HeldBack::RecentRecovery {
        uid: "r1".to_owned(),
        until: NOW.plus_millis(1),
    };
    assert_eq!(held_back(&finding, &tree, &policy), Some(wanted));
    recent.instance = key(9);
    policy.repair_blocks = vec![recent];
    assert_eq!(held_back(&finding, &tree, &policy), None);
    policy.held_back_intermediates = Some(HeldBack::Paused);
    assert_eq!(held_back(&finding, &tree, &policy), Some(HeldBack::Paused));
}

/// A server whose channel, if it has one, works by position.
fn by_position(instance: Instance, mode: &str) -> Instance {
    let is_replica = instance.facts.as_ref().is_some_and(|facts| !facts.channels.is_empty());
    let instance = instance.facts(|facts| mode.clone_into(&mut facts.gtid_mode));
    if !is_replica {
        return instance;
    }
    instance.channel(|channel| {
        channel.positioning = Positioning::FilePosition;
        channel.read = read_up_to(900);
        channel.exec = read_up_to(900);
    })
}

fn read_up_to(position: u64) -> BinlogCoordinates {
    BinlogCoordinates {
        file: "binlog.000007".to_owned(),
        position,
    }
}

fn placed_at(n: u32, replicas: &[(u32, Option<u64>)]) -> Step {
    let place = |(n, at): &(u32, Option<u64>)| (key(*n), at.map(read_up_to));
    Step::RepointAt {
        successor: key(n),
        replicas: replicas.iter().map(place).collect(),
    }
}

fn stopped(keys: &[u32]) -> [Step; 2] {
    let replicas: BTreeSet<InstanceKey> = keys.iter().map(|n| key(*n)).collect();
    [
        Step::StopReceivers {
            replicas: replicas.clone(),
        },
        Step::ApplyAll { replicas },
    ]
}

#[test]
fn channels_by_position_of_servers_with_gtids_go_on_by_gtid_once_all_is_applied() {
    let orphan = by_position(orphan(3, "1:1-90"), "ON");
    let tree = || [top(), middle(), orphan.clone(), sibling(5)];
    let plan = moves(&Policy::default(), tree());
    let [stop_receivers, apply] = stopped(&[3]);
    assert_eq!(
        plan.steps,
        [stop_receivers.clone(), apply.clone(), placed_at(5, &[(3, None)])]
    );
    let tree = topology(tree());
    let mut done = Vec::new();
    for wanted in plan.steps.clone() {
        let next = next(&plan, &Phase::Claimed, &done, &tree, &Policy::default(), NOW);
        assert_eq!(next, NextAction::Run(wanted.clone()));
        done.push(all_done(wanted, &[3]));
    }
    let end = finished(next(&plan, &Phase::Claimed, &done, &tree, &Policy::default(), NOW));
    assert!(end.successful && end.lost_replicas.is_empty(), "{end:?}");
}

fn all_done(step: Step, replicas: &[u32]) -> StepResult {
    StepResult {
        step,
        outcomes: replicas.iter().map(|n| (key(*n), Outcome::Done)).collect(),
    }
}

/// db3 received more than db4, and both know no GTIDs; db1 is all that is above.
fn plain_tree() -> Topology {
    let behind = by_position(orphan(4, ""), "OFF").channel(|channel| channel.read = read_up_to(800));
    topology([
        by_position(top(), "OFF"),
        by_position(middle(), "OFF"),
        by_position(orphan(3, ""), "OFF"),
        behind,
    ])
}

fn pseudo_gtid() -> Policy {
    Policy {
        pseudo_gtid: true,
        ..Policy::default()
    }
}

#[test]
fn without_gtids_nobody_is_moved_unless_there_is_pseudo_gtid() {
    let (made, report) = made(Code::DeadIntermediateMaster, &plain_tree(), &Policy::default());
    assert_eq!(made, None);
    let no_gtid = |refusal: &&Refusal| refusal.reason == RefusalReason::NoGtid;
    assert_eq!(report.refused.iter().filter(no_gtid).count(), 2, "{report:?}");
}

#[test]
fn by_pseudo_gtid_the_one_that_received_most_leads_and_the_other_is_matched_below_it() {
    let policy = pseudo_gtid();
    let (plan, _) = made(Code::DeadIntermediateMaster, &plain_tree(), &policy);
    let plan = plan.unwrap();
    // Logs are compared with those of db1 and db3, so these are claimed as well.
    assert_eq!(plan.instances, [1, 2, 3, 4].map(key).into());
    let matching = |source: u32, replica: u32, found: Option<u64>| Step::Match {
        successor: key(source),
        replicas: BTreeMap::from([(
            key(replica),
            EquivalentPosition {
                after: read_up_to(900),
                found: found.map(read_up_to),
            },
        )]),
    };
    let tree = plain_tree();
    let [stop_receivers, apply] = stopped(&[3]);
    let [stop_receivers_other, apply_other] = stopped(&[4]);
    let recovery_state = [
        (stop_receivers, 3, None),
        (apply, 3, None),
        (matching(1, 3, None), 3, Some(matching(1, 3, Some(70)))),
        (placed_at(1, &[(3, Some(70))]), 3, None),
        (stop_receivers_other, 4, None),
        (apply_other, 4, None),
        (matching(3, 4, None), 4, Some(matching(3, 4, Some(50)))),
        (placed_at(3, &[(4, Some(50))]), 4, None),
    ];
    let mut done = Vec::new();
    for (wanted, replica, filled) in recovery_state {
        let step = next(&plan, &Phase::Claimed, &done, &tree, &policy, NOW);
        assert_eq!(step, NextAction::Run(wanted.clone()));
        done.push(all_done(filled.unwrap_or(wanted), &[replica]));
    }
    let end = finished(next(&plan, &Phase::Claimed, &done, &tree, &policy, NOW));
    assert!(end.successful && end.lost_replicas.is_empty(), "{end:?}");
}

#[test]
fn one_whose_place_is_not_found_goes_on_where_it_was() {
    let policy = pseudo_gtid();
    let tree = topology([
        by_position(top(), "OFF"),
        by_position(middle(), "OFF"),
        by_position(orphan(3, ""), "OFF"),
    ]);
    let (plan, _) = made(Code::DeadIntermediateMaster, &tree, &policy);
    let plan = plan.unwrap();
    let mut done = Vec::new();
    let mut ran = Vec::new();
    let end = loop {
        match next(&plan, &Phase::Claimed, &done, &tree, &policy, NOW) {
            NextAction::Run(step) => {
                ran.push(step.describe().split([':', ' ']).next().unwrap().to_owned());
                let outcome = if matches!(step, Step::Match { .. }) {
                    Outcome::Failed("db1:3306 lacks the entry".to_owned())
                } else {
                    Outcome::Done
                };
                done.push(StepResult {
                    step,
                    outcomes: [(key(3), outcome)].into(),
                });
            }
            over @ (NextAction::CommitOpen { .. }
            | NextAction::Finish(_)
            | NextAction::Abort { .. }
            | NextAction::AlreadyEnded) => {
                break finished(over);
            }
        }
    };
    assert_eq!(ran, ["stop", "drain", "match", "start"]);
    assert!(!end.successful);
    assert!(
        matches!(&end.lost_replicas[..], [Refusal { reason: RefusalReason::Behind(why), .. }] if why.contains("lacks the entry")),
        "{end:?}"
    );
}
