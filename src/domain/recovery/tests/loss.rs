//! What proves a loss, and what is done where nothing does.

use super::*;
use crate::domain::instance::{ConnectedReplica, SemiSync};
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::loss_evidence::{LossAcceptance, LossEvidence, describe_loss};
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::planner::choose_again_with;
use crate::domain::time::WallTime;

/// A dead primary that waited for `count` of `clients` replicas, whichever are connected.
pub(super) fn promising(count: u32, clients: u32) -> Instance {
    db1().facts(|facts| {
        facts.semi_sync = SemiSync {
            available: true,
            source_enabled: true,
            timeout_millis: 10_000,
            wait_for_count: count,
            wait_no_replica: true,
            after_sync: true,
            source_active: true,
            clients,
            ..SemiSync::default()
        };
    })
}

pub(super) fn acknowledging(n: u32) -> Instance {
    cut(n, "1:1-100").facts(|facts| {
        facts.semi_sync.available = true;
        facts.semi_sync.replica_enabled = true;
        facts.semi_sync.replica_active = true;
    })
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with the field of a plan")]
fn compared(compared: u32, of: u32, needed: u32) -> Option<LossEvidence> {
    Some(LossEvidence::Acknowledged { compared, of, needed })
}

fn why(report: &PlanReport) -> &str {
    report.no_plan.as_deref().unwrap_or_default()
}

#[track_caller]
fn unknown(plan: &Plan) -> (&str, LossAcceptance) {
    match &plan.loss_evidence {
        Some(LossEvidence::Unknown { why, accepted }) => (why, *accepted),
        other => panic!("{other:?}"),
    }
}

/// The primary and the only replica that acknowledged died together, and the third server was cut from the primary:
/// it was opened at once, and the record named no loss.
#[test]
fn the_replica_that_acknowledged_died_with_the_primary_and_the_third_is_not_opened() {
    let servers = || [promising(1, 2), acknowledging(2).dead(), acknowledging(3)];
    let report = not_planned(&Policy::default(), servers());
    assert_eq!(
        why(&report),
        "what would be lost is unknown, and semi-sync of db1:3306 promised that none can be (lossPolicy is not set): \
         1 of 2 semi-sync replicas of db1:3306 are compared, and only 2 have everything that it confirmed (not \
         compared: db2:3306: unreachable: connection refused)"
    );
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let report = not_planned(&refuse, servers());
    assert!(why(&report).starts_with("what would be lost is unknown, and lossPolicy is Refuse"));
    let plan = chosen([promising(1, 2), acknowledging(2), acknowledging(3)]);
    assert_eq!(plan.loss_evidence, compared(2, 2, 2));
    // A third acknowledgement is one more that has to be compared.
    assert!(
        !why(&not_planned(
            &Policy::default(),
            [promising(1, 3), acknowledging(2), acknowledging(3)],
        ))
        .is_empty()
    );
}

#[test]
fn where_a_loss_is_allowed_an_unknown_one_is_recorded_as_unknown() {
    let servers = || [promising(1, 2), acknowledging(2).dead(), acknowledging(3)];
    let allow = Policy {
        loss: LossPolicy::Allow,
        ..Policy::default()
    };
    let (plan, report) = planned(&topology(servers()), &allow);
    let plan = plan.unwrap();
    assert_eq!(plan.successor, key(3));
    assert_eq!(unknown(&plan).1, LossAcceptance::Policy);
    assert!(
        report
            .remarks
            .iter()
            .any(|remark| remark.contains("what is lost is unknown")),
        "{report:?}"
    );
    let told = describe_loss(plan.lost.as_ref(), plan.loss_evidence.as_ref());
    assert!(told.starts_with("unknown, at least 0 transactions: 1 of 2"), "{told}");
}

#[test]
fn an_unknown_loss_is_accepted_after_the_timeout_and_not_before() {
    let policy = Policy {
        loss: LossPolicy::AllowAfterTimeout,
        loss_timeout_millis: 8_000,
        ..Policy::default()
    };
    let servers = |millis: i64| {
        let primary = Instance {
            last_seen: Some(NOW.plus_millis(-millis)),
            ..promising(1, 2)
        };
        [primary, acknowledging(2).dead(), acknowledging(3)]
    };
    let report = not_planned(&policy, servers(7_999));
    assert!(why(&report).contains("8 s to return (lossTimeout)"), "{report:?}");
    assert_eq!(
        unknown(&chosen_with(&policy, servers(8_000))).1,
        LossAcceptance::Timeout
    );
    // Nothing has to be waited for where it is proved that nothing is lost.
    let all = [promising(1, 2), acknowledging(2), acknowledging(3)];
    assert_eq!(chosen_with(&policy, all).loss_evidence, compared(2, 2, 2));
}

#[test]
fn a_forced_failover_accepts_what_is_not_known_and_no_known_loss_that_is_forbidden() {
    let forced = ManualRequest {
        forced: true,
        ..ManualRequest::default()
    };
    let terms = |loss| {
        forced.terms(Policy {
            loss,
            ..Policy::default()
        })
    };
    for loss in [LossPolicy::Auto, LossPolicy::Refuse, LossPolicy::AllowAfterTimeout] {
        let plan = chosen_with(
            &terms(loss),
            [promising(1, 2), acknowledging(2).dead(), acknowledging(3)],
        );
        assert_eq!(unknown(&plan).1, LossAcceptance::Request, "{loss:?}");
    }
    let ahead = || promising(1, 2).facts(|facts| facts.executed = mysql_set("1:1-120"));
    assert!(
        !why(&not_planned(
            &terms(LossPolicy::Refuse),
            [ahead(), acknowledging(2), acknowledging(3)],
        ))
        .is_empty()
    );
    let plan = chosen_with(&terms(LossPolicy::Auto), [ahead(), acknowledging(2), acknowledging(3)]);
    assert_eq!(plan.lost, Some(mysql_set("1:101-120")));
    assert!(matches!(plan.loss_evidence, Some(LossEvidence::Unknown { .. })));
}

#[test]
fn an_asynchronous_primary_promised_nothing_and_its_loss_is_never_none() {
    let plan = chosen([db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]);
    let (why_not, accepted) = unknown(&plan);
    assert!(why_not.contains("without semi-sync"), "{why_not}");
    assert_eq!(accepted, LossAcceptance::NoPromise);
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let report = not_planned(&refuse, [db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]);
    assert!(
        why(&report).contains("may have confirmed what no replica received"),
        "{report:?}"
    );
}

/// Whichever of N acknowledging replicas are compared, N - w + 1 of them are enough, and fewer are not.
#[test]
fn as_many_are_compared_that_one_of_any_w_is_among_them() {
    for of in 1..=4_u32 {
        for wait_for in 1..=of {
            for away in 0..of {
                let replicas = (2..2 + of).map(|n| {
                    if n < 2 + away {
                        acknowledging(n).dead()
                    } else {
                        acknowledging(n)
                    }
                });
                let servers: Vec<Instance> = std::iter::once(promising(wait_for, of)).chain(replicas).collect();
                let (plan, report) = planned(&topology(servers), &Policy::default());
                let is_enough = of - away >= of + 1 - wait_for;
                assert_eq!(
                    plan.is_some(),
                    is_enough,
                    "{away} of {of} away, {wait_for} waited for: {report:?}"
                );
            }
        }
    }
}

#[test]
fn every_replica_that_may_have_acknowledged_counts() {
    let base = || vec![promising(1, 1), acknowledging(2)];
    let with = |more: Instance| base().into_iter().chain([more]).collect::<Vec<Instance>>();
    assert_eq!(chosen(base()).loss_evidence, compared(1, 1, 1));
    // Set to acknowledge, and away; never seen to be set otherwise; without readable settings.
    let unreadable = acknowledging(3).facts(|facts| {
        facts.semi_sync = SemiSync::default();
        facts.problems.push("semi-sync status: error 1227: denied".to_owned());
    });
    for gone in [acknowledging(3).dead(), unreadable.dead()] {
        assert!(!why(&not_planned(&Policy::default(), with(gone))).is_empty());
    }
    // Promotion rules and delays change nothing about what a server acknowledged.
    let policy = Policy {
        promotion_rules: [(key(3), PromotionRule::MustNot)].into(),
        ..Policy::default()
    };
    let delayed = || acknowledging(3).channel(|channel| channel.delay_seconds = 3600);
    assert_eq!(chosen_with(&policy, with(delayed())).loss_evidence, compared(2, 2, 2));
    assert!(!why(&not_planned(&policy, with(delayed().dead()))).is_empty());
    // One that is not set to acknowledge does not count.
    assert_eq!(chosen(with(cut(3, "1:1-100").dead())).loss_evidence, compared(1, 1, 1));
}

/// A server may drop its relay log when it starts: what it acknowledged may be gone.
#[test]
fn a_replica_that_started_after_the_primary_was_last_seen_is_not_compared() {
    let started = |seconds: u64| acknowledging(2).facts(|facts| facts.uptime_seconds = seconds);
    assert!(
        planned(&topology([promising(1, 1), started(60)]), &Policy::default())
            .0
            .is_some()
    );
    let report = not_planned(&Policy::default(), [promising(1, 1), started(1)]);
    assert!(
        why(&report).contains("it started after db1:3306 was last seen"),
        "{report:?}"
    );
}

#[test]
fn a_replica_that_was_away_for_long_and_not_connected_acknowledged_nothing() {
    let listed = |n: u32| ConnectedReplica {
        key: key(n),
        reported: true,
    };
    let primary =
        |clients: u32, replicas: Vec<ConnectedReplica>| promising(1, clients).facts(|facts| facts.replicas = replicas);
    let away = |seconds: i64| Instance {
        last_seen: Some(NOW.plus_millis(-1000 * seconds)),
        ..acknowledging(3).dead()
    };
    let plan = chosen([primary(1, vec![listed(2)]), acknowledging(2), away(600)]);
    assert_eq!(plan.loss_evidence, compared(1, 1, 1));
    for servers in [
        // It may have gone after the primary was asked.
        vec![primary(1, vec![listed(2)]), acknowledging(2), away(1)],
        // Only the members do not reach it.
        vec![primary(1, vec![listed(2), listed(3)]), acknowledging(2), away(600)],
        // More acknowledge than are listed, or one that is not known.
        vec![primary(2, vec![listed(2)]), acknowledging(2), away(600)],
        vec![primary(1, vec![listed(2), listed(9)]), acknowledging(2), away(600)],
        // The one that is listed does not acknowledge, so the counted one is another.
        vec![primary(1, vec![listed(2)]), cut(2, "1:1-100"), away(600)],
    ] {
        assert!(!why(&not_planned(&Policy::default(), servers)).is_empty());
    }
}

/// Members that never saw the primary know from its replicas that it may have promised.
#[test]
fn a_primary_that_was_never_seen_may_have_promised() {
    let unseen = || Instance::unseen(key(1)).dead();
    let plan = chosen([unseen(), acknowledging(2), acknowledging(3)]);
    assert!(unknown(&plan).0.contains("never seen"), "{plan:?}");
    assert_eq!(unknown(&plan).1, LossAcceptance::Compared);
    let report = not_planned(
        &Policy::default(),
        [unseen(), acknowledging(2).dead(), acknowledging(3)],
    );
    assert!(why(&report).contains("may have promised"), "{report:?}");
    assert_eq!(
        unknown(&chosen([unseen(), cut(2, "1:1-100").dead(), cut(3, "1:1-100")])).1,
        LossAcceptance::NoPromise
    );
}

/// It may have gone on alone: the opening is allowed, and the record does not say that nothing is lost.
#[test]
fn a_promise_ends_with_the_timeout_of_semi_sync() {
    let seen = |millis: i64| Instance {
        last_seen: Some(NOW.plus_millis(-millis)),
        ..promising(1, 1)
    };
    assert_eq!(chosen([seen(9_999), acknowledging(2)]).loss_evidence, compared(1, 1, 1));
    let plan = chosen([seen(10_000), acknowledging(2)]);
    assert!(unknown(&plan).0.contains("after 10000 ms"), "{plan:?}");
    let changed = Policy {
        acks_changed_at: Some(NOW.plus_millis(-1)),
        ..Policy::default()
    };
    let plan = chosen_with(&changed, [seen(5_000), acknowledging(2)]);
    assert!(unknown(&plan).0.contains("was not seen since"), "{plan:?}");
}

/// The second verdict: a replica that answered and whose receiver was not stopped is not compared.
#[test]
fn only_stopped_receivers_count_when_the_choice_is_made_again() {
    let tree = topology([promising(1, 2), acknowledging(2), acknowledging(3)]);
    let plan = planned(&tree, &Policy::default()).0.unwrap();
    let again = |tree: &Topology, stopped: &[u32], now: WallTime| {
        let inputs = ChoiceInputs {
            receivers_stopped: Some(stopped.iter().copied().map(key).collect()),
            ..ChoiceInputs::at(now)
        };
        choose_again_with(&plan, tree, &Policy::default(), inputs)
    };
    assert_eq!(again(&tree, &[2, 3], NOW).unwrap().loss_evidence, compared(2, 2, 2));
    let refused = again(&tree, &[2], NOW).unwrap_err();
    assert!(refused.contains("db3:3306: its receiver is not stopped"), "{refused}");
    let died = topology([promising(1, 2), acknowledging(2), acknowledging(3).dead()]);
    assert!(again(&died, &[2, 3], NOW).is_err());
    // One that this recovery pointed at another server still counts, and receives nothing from the old primary.
    let moved = topology([
        promising(1, 2),
        acknowledging(2),
        acknowledging(3).channel(|channel| channel.source = key(2)),
    ]);
    assert_eq!(again(&moved, &[2], NOW).unwrap().loss_evidence, compared(2, 2, 2));
}

#[test]
fn the_lint_counts_from_the_other_side() {
    let tree = topology([promising(1, 2), acknowledging(2), acknowledging(3)]);
    let plan = planned(&tree, &Policy::default()).0.unwrap();
    let one_away = topology([promising(1, 2), acknowledging(2), acknowledging(3).dead()]);
    let told = lint(&plan, &one_away).join("; ");
    assert!(
        told.contains("1 acknowledging replicas that are not compared"),
        "{told}"
    );
    let asynchronous = topology([db1(), acknowledging(2), acknowledging(3)]);
    assert!(lint(&plan, &asynchronous).join("; ").contains("was not seen to wait"));
    let silent = Plan {
        loss_evidence: None,
        ..plan.clone()
    };
    assert!(
        lint(&silent, &tree)
            .join("; ")
            .contains("does not tell what proves its loss")
    );
    let read = Plan {
        loss_evidence: Some(LossEvidence::OldPrimaryRead),
        ..plan.clone()
    };
    assert!(
        lint(&read, &tree)
            .join("; ")
            .contains("was not read from a read-only server")
    );
    let accepted_by_nobody = Plan {
        loss_evidence: Some(LossEvidence::Unknown {
            why: "?".to_owned(),
            accepted: LossAcceptance::NoPromise,
        }),
        ..plan
    };
    assert!(
        lint(&accepted_by_nobody, &one_away)
            .join("; ")
            .contains("no rule accepts")
    );
}

#[test]
fn a_plan_of_an_earlier_version_reads_back_without_evidence() {
    let tree = topology([promising(1, 1), acknowledging(2)]);
    let plan = planned(&tree, &Policy::default()).0.unwrap();
    let mut value = serde_json::to_value(&plan).unwrap();
    assert!(value.as_object_mut().unwrap().remove("lossEvidence").is_some());
    let old: Plan = serde_json::from_value(value).unwrap();
    assert_eq!(old.loss_evidence, None);
    assert_eq!(
        serde_json::from_value::<Plan>(serde_json::to_value(&plan).unwrap()).unwrap(),
        plan
    );
}
