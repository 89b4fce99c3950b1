//! Who is fed from whom before it is promoted, and who is not.

use super::loss::{acknowledging, promising};
use super::*;

fn catch_up_from(successor: u32, from: u32) -> Step {
    Step::CatchUp {
        successor: key(successor),
        from: key(from),
    }
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

fn rules<const N: usize>(rules: [(u32, PromotionRule); N]) -> Policy {
    Policy {
        promotion_rules: rules.into_iter().map(|(n, rule)| (key(n), rule)).collect(),
        ..Policy::default()
    }
}

#[test]
fn the_preferred_one_is_caught_up_from_the_one_that_received_more() {
    let policy = rules([(2, PromotionRule::Prefer)]);
    let tree = topology([db1(), cut(2, "1:1-90"), cut(3, "1:1-95").received("1:90-100")]);
    let (made, report) = planned(&tree, &policy);
    let plan = made.unwrap();
    assert_eq!(
        (&plan.successor, &plan.position, &plan.lost),
        (&key(2), &mysql_set("1:1-100"), &None)
    );
    assert_eq!(plan.steps[2], catch_up_from(2, 3));
    assert_eq!(plan.sources, [(key(2), key(1)), (key(3), key(1))].into());
    assert_eq!(
        report.remarks,
        ["db2:3306 first catches up from db3:3306, which received more"]
    );
    assert_eq!(
        reason(&report.refused, 3).to_string(),
        "as good, ranks lower: promotion rule neutral, db2:3306 has prefer"
    );
    // And when it is not behind, there is nothing to feed.
    assert_eq!(
        caught_up_from(&chosen_with(&policy, [db1(), cut(2, "1:1-100"), cut(3, "1:1-100")])),
        None
    );
}

#[test]
fn one_that_must_not_be_promoted_catches_up_others_the_other_one_with_what_it_alone_received() {
    for policy in [
        rules([(3, PromotionRule::MustNot)]),
        Policy {
            promotion_ignored: vec![key(3)],
            ..Policy::default()
        },
        Policy {
            prevent_cross_data_center: true,
            ..Policy::default()
        },
    ] {
        let at = |n, place: &str| {
            let instance = if n == 1 { promising(1, 2) } else { acknowledging(n) };
            instance.facts(|facts| facts.data_center = place.to_owned())
        };
        let refuse = Policy {
            loss: LossPolicy::Refuse,
            ..policy
        };
        let plan = chosen_with(&refuse, [at(1, "a"), at(2, "a"), at(3, "b").received("1:101-104")]);
        assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
        assert_eq!((&plan.position, &plan.lost), (&mysql_set("1:1-104"), &None));
        // It follows afterwards: what it has, the successor has too.
        assert!(plan.lost_replicas.is_empty());
    }
}

#[test]
fn catching_up_takes_time_and_is_done_for_place_and_rule_only() {
    let older = cut(2, "1:1-99").facts(|facts| facts.version = ServerVersion::parse("9.7.1", "").unwrap());
    let plan = chosen([db1(), older, cut(3, "1:1-100")]);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(3), None));
    let home = |instance: Instance| instance.facts(|facts| facts.data_center = "a".to_owned());
    let away = |instance: Instance| instance.facts(|facts| facts.data_center = "b".to_owned());
    let plan = chosen([home(db1()), home(cut(2, "1:1-99")), away(cut(3, "1:1-100"))]);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    for change in [
        (|facts, place| facts.region = place) as fn(&mut crate::domain::instance::InstanceFacts, String),
        |facts, place| facts.environment = place,
    ] {
        let at = |instance: Instance, place: &str| instance.facts(|facts| change(facts, place.to_owned()));
        let plan = chosen([at(db1(), "x"), at(cut(2, "1:1-99"), "x"), at(cut(3, "1:1-100"), "y")]);
        assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    }
}

#[test]
fn one_of_another_place_catches_up_others_only_when_the_rest_cannot_be_promoted_with_less_trouble() {
    let policy = rules([(4, PromotionRule::PreferNot)]);
    // An equal one that need not be fed comes first.
    let plan = chosen_with(&policy, [db1(), cut(2, "1:1-99"), cut(3, "1:1-100"), cut(4, "1:1-100")]);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(3), None));
    let plan = chosen_with(&policy, [db1(), cut(2, "1:1-99"), cut(4, "1:1-100")]);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(4))));
    // Of those that are behind, the first by rank; of the feeders one that has applied all.
    let catch_up_sources = [cut(4, "1:1-99").received("1:100"), cut(5, "1:1-100")];
    let policy = rules([(4, PromotionRule::PreferNot), (5, PromotionRule::PreferNot)]);
    let plan = chosen_with(
        &policy,
        [db1(), cut(2, "1:1-98"), cut(3, "1:1-99")]
            .into_iter()
            .chain(catch_up_sources),
    );
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(5))));
}

#[test]
fn nobody_is_caught_up_from_a_server_that_cannot_or_must_not_catch_up_from() {
    let policy = rules([(3, PromotionRule::MustNot)]);
    let full = || cut(3, "1:1-104");
    let failed = ThreadError {
        number: 1062,
        message: "duplicate".to_owned(),
    };
    for (what, catch_up_source) in [
        ("errant transactions would travel", cut(3, "1:1-104,3:1")),
        ("dead", full().dead()),
        ("logs nothing", full().facts(|facts| facts.log_bin = false)),
        (
            "logs not what it replicates",
            full().facts(|facts| facts.log_replica_updates = false),
        ),
        ("filters", full().channel(|channel| channel.filtered = true)),
        (
            "without GTID",
            full().channel(|channel| channel.positioning = Positioning::FilePosition),
        ),
        (
            "cannot apply",
            full().channel(|channel| (channel.sql, channel.sql_error) = (ThreadState::Stopped, failed)),
        ),
        ("has purged", full().facts(|facts| facts.purged = mysql_set("1:1-101"))),
        (
            "newer",
            full().facts(|facts| facts.version = ServerVersion::parse("10.1.0", "").unwrap()),
        ),
    ] {
        let plan = chosen_with(&policy, [db1(), cut(2, "1:1-100"), catch_up_source]);
        assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), None), "{what}");
    }
    let statements = full().facts(|facts| facts.binlog_format = "ROW".to_owned());
    let cannot_log_rows = cut(2, "1:1-100").facts(|facts| facts.binlog_format = "STATEMENT".to_owned());
    assert_eq!(
        caught_up_from(&chosen_with(&policy, [db1(), cannot_log_rows, statements])),
        None
    );
}

#[test]
fn one_that_delays_on_purpose_gives_what_it_alone_received_and_its_delay_stands_in_the_plan() {
    let holds_back = cut(3, "1:1-90")
        .received("1:91-104")
        .channel(|channel| channel.delay_seconds = 3600);
    let plan = chosen([db1(), cut(2, "1:1-100"), holds_back.clone()]);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    assert_eq!((&plan.position, &plan.lost), (&mysql_set("1:1-104"), &None));
    assert_eq!(plan.prior_states[&key(3)].delay_seconds, 3600);
    // When nobody else can be promoted, it is, with all that it received.
    let plan = chosen_with(
        &rules([(2, PromotionRule::MustNot)]),
        [db1(), cut(2, "1:1-100"), holds_back],
    );
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(3), None));
    assert_eq!(plan.prior_states[&key(3)].delay_seconds, 3600);
}

#[test]
fn nobody_is_caught_up_from_one_that_hangs_below_it() {
    let policy = rules([(2, PromotionRule::Prefer)]);
    let tree = topology([db1(), cut(2, "1:1-90"), replica(3, 2, "1:1-100")]);
    let plan = planned(&tree, &policy).0.unwrap();
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(3), None));
}

#[test]
fn mariadb_replicas_are_caught_up_by_what_their_positions_cover() {
    let policy = rules([(2, PromotionRule::Prefer)]);
    let mariadb = |n, executed| mariadb_replica(n, 1, executed).cut();
    let tree = [
        mariadb_primary(1, "0-1-100").dead(),
        mariadb(2, "0-1-98"),
        mariadb(3, "0-1-100"),
    ];
    let plan = chosen_with(&policy, tree);
    assert_eq!((&plan.successor, caught_up_from(&plan)), (&key(2), Some(key(3))));
    assert_eq!((&plan.position, &plan.lost), (&mariadb_set("0-1-100"), &None));
}

#[test]
fn an_unsound_catching_up_is_told() {
    let policy = rules([(2, PromotionRule::Prefer)]);
    let tree = topology([db1(), cut(2, "1:1-90"), cut(3, "1:1-100"), replica(4, 2, "1:1-90")]);
    let plan = planned(&tree, &policy).0.unwrap();
    let with = |from: u32| {
        let mut plan = plan.clone();
        plan.steps[2] = catch_up_from(2, from);
        plan
    };
    assert!(lint(&with(4), &tree).join("; ").contains("which replicates from it"));
    assert!(
        lint(&with(1), &tree)
            .join("; ")
            .contains("does not answer or is no replica")
    );
    let errant = topology([db1(), cut(2, "1:1-90"), cut(3, "1:1-100,3:1")]);
    assert!(lint(&plan, &errant).join("; ").contains("errant transactions 00000003"));
    let mut late = plan.clone();
    late.steps.swap(2, 3);
    assert!(
        lint(&late, &tree)
            .join("; ")
            .contains("drain must not come before catch up")
    );
}

#[test]
fn lag_and_unapplied_transactions_keep_from_promotion_where_that_is_asked_for() {
    let slow = |n, lag| cut(n, "1:1-100").channel(|channel| channel.lag_seconds = lag);
    let policy = Policy {
        max_promotion_lag_seconds: 60,
        ..Policy::default()
    };
    let tree = topology([db1(), slow(2, Some(60)), slow(3, None), slow(4, Some(59))]);
    let (made, report) = planned(&tree, &policy);
    assert_eq!(made.unwrap().successor, key(4));
    assert_eq!(
        reason(&report.refused, 2).to_string(),
        "lag: 60 s, and FailMasterPromotionOnLagMinutes allows less than 60 s"
    );
    assert_eq!(
        reason(&report.refused, 3).to_string(),
        "lag: unknown, and FailMasterPromotionOnLagMinutes allows less than 60 s"
    );
    let policy = Policy {
        unapplied: crate::domain::policy::UnappliedPolicy::Refuse,
        ..Policy::default()
    };
    let tree = [db1(), cut(2, "1:1-100"), cut(3, "1:1-98").received("1:97-100")];
    let (made, report) = planned(&topology(tree), &policy);
    assert_eq!(made.unwrap().successor, key(2));
    assert_eq!(
        *reason(&report.refused, 3),
        RefusalReason::NotUpToDate(mysql_set("1:99-100").to_string())
    );
}

#[test]
fn one_that_most_others_cannot_follow_is_not_promoted_for_its_rule() {
    let policy = rules([(2, PromotionRule::Prefer)]);
    let at =
        |n, version: &str| cut(n, "1:1-100").facts(|facts| facts.version = ServerVersion::parse(version, "").unwrap());
    let plan = chosen_with(&policy, [db1(), at(2, "9.7.4"), at(3, "8.4.5"), at(4, "8.4.5")]);
    assert_eq!((&plan.successor, plan.lost_replicas), (&key(3), Vec::new()));
}
