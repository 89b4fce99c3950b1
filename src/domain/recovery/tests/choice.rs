//! Who is promoted.

use super::*;
use crate::domain::policy::EventsPolicy;
use crate::domain::scheduled_events::{EnabledEvents, ScheduledEvent};
use crate::domain::settings::ServerSettings;

#[test]
fn of_equal_replicas_the_first_by_address_is_promoted_and_the_others_follow() {
    let plan = chosen([db1(), cut(3, "1:1-100"), cut(2, "1:1-100"), cut(4, "1:1-100")]);
    assert_eq!(plan.successor, key(2));
    assert_eq!(plan.position, mysql_set("1:1-100"));
    assert_eq!((plan.lost, plan.lost_replicas), (None, Vec::new()));
    assert_eq!(plan.old_primary_identity, Some(Identity::ServerUuid(uuid(1))));
    assert_eq!(plan.instances, (1..=4).map(key).collect());
    let replicas: BTreeSet<InstanceKey> = (2..=4).map(key).collect();
    assert_eq!(
        plan.steps,
        [
            Step::Fence { old_primary: key(1) },
            Step::StopReceivers { replicas },
            Step::Drain { successor: key(2) },
            Step::Redial { old_primary: key(1) },
            Step::Open { successor: key(2) },
            Step::Repoint {
                successor: key(2),
                replicas: (3..=4).map(key).collect()
            },
        ]
    );
}

#[test]
fn the_one_that_received_more_is_promoted_whatever_it_applied() {
    for (behind, ahead) in [(2, 3), (3, 2)] {
        let ahead_replica = cut(ahead, "1:1-90").received("1:80-100");
        let (made, report) = planned(
            &topology([db1(), cut(behind, "1:1-99"), ahead_replica]),
            &Policy::default(),
        );
        let plan = made.unwrap();
        assert_eq!(plan.successor, key(ahead));
        assert_eq!(plan.lost, None);
        assert_eq!(
            *reason(&report.refused, behind),
            RefusalReason::Behind(mysql_set("1:100").to_string())
        );
    }
}

#[test]
fn of_two_that_received_the_same_the_one_with_less_left_to_apply_is_promoted() {
    for (lags, applied) in [(2, 3), (3, 2)] {
        let lagging = cut(lags, "1:1-100").received("1:101-1000");
        let plan = chosen([db1(), lagging, cut(applied, "1:1-1000")]);
        assert_eq!(plan.successor, key(applied));
    }
    // A few transactions are applied while one looks.
    let nearly = cut(2, "1:1-100").received("1:101-199");
    assert_eq!(chosen([db1(), nearly, cut(3, "1:1-199")]).successor, key(2));
}

#[test]
fn a_backlog_does_not_outweigh_a_promotion_rule() {
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::Prefer);
    let lagging = cut(2, "1:1-100").received("1:101-1000");
    assert_eq!(
        chosen_with(&policy, [db1(), lagging, cut(3, "1:1-1000")]).successor,
        key(2)
    );
}

#[test]
fn a_promotion_rule_does_not_outweigh_what_was_received() {
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::Must);
    // Nobody can feed it: what the other one has needs what that one has purged.
    let purged = cut(3, "1:1-100").facts(|facts| facts.purged = mysql_set("1:1-100"));
    assert_eq!(
        chosen_with(&policy, [db1(), cut(2, "1:1-99"), purged]).successor,
        key(3)
    );
    assert_eq!(
        chosen_with(&policy, [db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]).successor,
        key(2)
    );
}

#[test]
fn a_replica_with_an_errant_transaction_is_not_promoted_while_another_can_be() {
    let errant = || cut(2, "1:1-100,2:1");
    let (made, report) = planned(&topology([db1(), errant(), cut(3, "1:1-100")]), &Policy::default());
    let plan = made.unwrap();
    assert_eq!(plan.successor, key(3));
    assert_eq!(
        *reason(&report.refused, 2),
        RefusalReason::Errant(mysql_set("2:1").to_string())
    );
    // It follows: what it wrote itself was no obstacle under the old primary either.
    assert!(plan.lost_replicas.is_empty());
    assert_eq!(plan.lost, None);
    let alone = chosen([db1(), errant()]);
    assert_eq!((alone.successor, alone.position), (key(2), mysql_set("1:1-100")));
}

#[test]
fn what_only_one_replica_got_from_the_dying_primary_is_not_errant() {
    let plan = chosen([db1(), cut(2, "1:1-100"), cut(3, "1:1-103")]);
    assert_eq!((plan.successor, plan.lost), (key(3), None));
}

#[test]
fn what_a_former_primary_wrote_is_not_errant() {
    let old = || primary(1, "2:1-50,1:1-100").dead();
    let plan = chosen([old(), cut(2, "2:1-50,1:1-100"), cut(3, "2:1-50,1:1-90")]);
    assert_eq!(plan.successor, key(2));
    // The primary was never seen: the other replica testifies.
    let plan = chosen([
        Instance::unseen(key(1)).dead(),
        cut(2, "2:1-50,1:1-100"),
        cut(3, "2:1-50,1:1-90"),
    ]);
    assert_eq!(plan.successor, key(2));
}

#[test]
fn errant_transactions_of_an_intermediate_replica_are_errant_below_it_too() {
    let tree = topology([
        db1(),
        cut(2, "1:1-100,2:1-3"),
        replica(3, 2, "1:1-100,2:1-3"),
        cut(4, "1:1-90"),
    ]);
    let received_transactions = ReceivedTransactions::below(&tree, &key(1));
    assert_eq!(received_transactions.errant(&key(2)), Some(&mysql_set("2:1-3")));
    assert_eq!(received_transactions.errant(&key(3)), Some(&mysql_set("2:1-3")));
    assert_eq!(
        received_transactions.get(&key(3)).unwrap().position,
        mysql_set("1:1-100")
    );
    assert_eq!(received_transactions.errant(&key(4)), None);
}

#[test]
fn mariadb_servers_are_compared_by_what_their_positions_cover() {
    let mariadb = |n, executed| mariadb_replica(n, 1, executed).cut();
    // db2 was primary up to 50; db3 was set up from a backup of db1 and does not name it.
    let first = || mariadb_primary(1, "0-2-50,0-1-100").dead();
    let plan = chosen([first(), mariadb(2, "0-2-50,0-1-99"), mariadb(3, "0-1-100")]);
    assert_eq!((plan.successor, plan.lost), (key(3), None));
    let plan = chosen([
        Instance::unseen(key(1)).dead(),
        mariadb(2, "0-2-50,0-1-100"),
        mariadb(3, "0-1-99"),
    ]);
    assert_eq!(
        (plan.successor, plan.old_primary_identity),
        (key(2), Some(Identity::ServerId(1)))
    );
    let errant = chosen([first(), mariadb(2, "0-2-101,0-1-100"), mariadb(3, "0-2-50,0-1-100")]);
    assert_eq!(errant.successor, key(3));
    let behind = chosen([
        mariadb_primary(1, "0-1-105").dead(),
        mariadb(2, "0-1-100"),
        mariadb(3, "0-1-98"),
    ]);
    assert_eq!(
        (behind.successor, behind.lost),
        (key(2), Some(mariadb_set("0-1-101..105")))
    );
}

#[test]
fn each_forbidden_one_is_refused_with_its_reason() {
    let mut policy = Policy {
        prevent_cross_data_center: true,
        ..Policy::default()
    };
    policy.promotion_rules.insert(key(10), PromotionRule::MustNot);
    policy.promotion_ignored.push(key(11));
    let downtime = HeldBack::Downtimed {
        owner: "ops".to_owned(),
        reason: "disk".to_owned(),
        until: None,
    };
    policy.downtimes.insert(key(12), downtime);
    let all = |n| cut(n, "1:1-100").facts(|facts| facts.data_center = "a".to_owned());
    let sql_error = ThreadError {
        number: 1062,
        message: "duplicate".to_owned(),
    };
    let instances = vec![
        db1().facts(|facts| facts.data_center = "a".to_owned()),
        all(2).failing(ProbeFailure::NoAnswer),
        all(3).facts(|facts| facts.log_bin = false),
        all(4).facts(|facts| facts.log_replica_updates = false),
        all(5).channel(|channel| channel.filtered = true),
        all(6).channel(|channel| channel.positioning = Positioning::FilePosition),
        all(7).channel(|channel| (channel.sql, channel.sql_error) = (ThreadState::Stopped, sql_error)),
        all(8).channel(|channel| channel.delay_seconds = 3600),
        all(9).facts(|facts| facts.data_center = "b".to_owned()),
        all(10),
        all(11),
        all(12),
        all(13).facts(|facts| facts.problems.push("replication status: error 1227: denied".to_owned())),
        all(14).facts(|facts| facts.group_name = "g".to_owned()),
        all(15).facts(|facts| facts.problems.push("semi-sync status: error 1227: denied".to_owned())),
    ];
    let (made, report) = planned(&topology(instances), &policy);
    let plan = made.unwrap();
    assert_eq!(plan.successor, key(15));
    let told: Vec<String> = (2..=14).map(|n| reason(&report.refused, n).to_string()).collect();
    let wanted = [
        "unreachable: no answer to the connection attempt",
        "binary logging is off (log_bin)",
        "log_replica_updates is off",
        "has replication filters",
        "does not replicate by GTID",
        "applier thread stopped: error 1062: duplicate",
        "delayed on purpose by 3600 s",
        "geography: data centre b, the failed primary's is a",
        "promotion rule must_not",
        "excluded by PromotionIgnoreHostnameFilters",
        "in downtime",
        "unknown: replication status: error 1227: denied",
        "unknown: member of the replication group g",
    ];
    assert_eq!(told, wanted);
    assert_eq!(
        plan.lost_replicas,
        [Refusal {
            instance: key(2),
            reason: reason(&report.refused, 2).clone()
        }]
    );
}

#[test]
fn an_unknown_data_centre_counts_as_another_one_where_leaving_it_is_forbidden() {
    let policy = Policy {
        prevent_cross_data_center: true,
        ..Policy::default()
    };
    let report = not_planned(&policy, [Instance::unseen(key(1)).dead(), cut(2, "1:1-100")]);
    assert_eq!(
        reason(&report.refused, 2).to_string(),
        "geography: the data centre of db1:3306 is unknown, and leaving it is forbidden"
    );
}

#[test]
fn rank_decides_among_equal_ones_in_the_declared_order() {
    let at = |n, place: &str| cut(n, "1:1-100").facts(|facts| facts.data_center = place.to_owned());
    let home = || db1().facts(|facts| facts.data_center = "a".to_owned());
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::Must);
    assert_eq!(
        chosen_with(&policy, [home(), at(2, "b"), at(3, "a")]).successor,
        key(3),
        "data centre before rule"
    );
    policy.promotion_rules = [(key(2), PromotionRule::PreferNot), (key(4), PromotionRule::Prefer)].into();
    assert_eq!(chosen_with(&policy, [home(), at(2, "a"), at(3, "a")]).successor, key(3));
    let older = |n| cut(n, "1:1-100").facts(|facts| facts.version = ServerVersion::parse("8.4.5", "").unwrap());
    assert_eq!(
        chosen_with(&policy, [home(), older(3), cut(4, "1:1-100")]).successor,
        key(4),
        "rule before version"
    );
    let mixed = |n| cut(n, "1:1-100").facts(|facts| facts.binlog_format = "MIXED".to_owned());
    assert_eq!(
        chosen([db1(), mixed(2), older(3)]).successor,
        key(3),
        "version before format"
    );
    assert_eq!(
        chosen([db1(), cut(2, "1:1-100"), mixed(3)]).successor,
        key(3),
        "format before address"
    );
    let idle = cut(2, "1:1-100").channel(|channel| channel.sql = ThreadState::Stopped);
    assert_eq!(chosen([db1(), idle, cut(3, "1:1-100")]).successor, key(3));
}

#[test]
fn a_delayed_replica_is_promoted_only_when_nobody_else_can_have_what_it_holds() {
    let delayed = |n, executed| cut(n, executed).channel(|channel| channel.delay_seconds = 3600);
    assert_eq!(
        chosen([db1(), delayed(2, "1:1-100"), cut(3, "1:1-100")]).successor,
        key(3)
    );
    let alone = || delayed(2, "1:1-100").received("1:101");
    assert_eq!(chosen([db1(), alone(), cut(3, "1:1-100")]).successor, key(3));
    let logs_nothing = cut(3, "1:1-100").facts(|facts| facts.log_bin = false);
    let (made, report) = planned(&topology([db1(), alone(), logs_nothing]), &Policy::default());
    assert_eq!(made.unwrap().successor, key(2));
    assert!(
        report.remarks[0].contains("delayed on purpose by 3600 s"),
        "{:?}",
        report.remarks
    );
}

#[test]
fn a_replica_below_another_one_is_promoted_when_it_is_ahead() {
    let tree = topology([db1(), cut(2, "1:1-90"), cut(4, "1:1-95"), replica(3, 2, "1:1-100")]);
    let (made, _) = planned(&tree, &Policy::default());
    let plan = made.unwrap();
    assert_eq!(plan.successor, key(3));
    assert!(plan.steps.contains(&Step::StopReceivers {
        replicas: (2..=4).map(key).collect()
    }));
    assert!(plan.steps.contains(&Step::Repoint {
        successor: key(3),
        replicas: [key(2), key(4)].into()
    }));
    // One below a direct replica keeps its source.
    let plan = chosen([db1(), cut(2, "1:1-100"), replica(3, 2, "1:1-100"), cut(4, "1:1-100")]);
    assert_eq!(plan.successor, key(2));
    assert!(plan.steps.contains(&Step::Repoint {
        successor: key(2),
        replicas: [key(4)].into()
    }));
    assert!(plan.instances.contains(&key(3)));
}

#[test]
fn of_incomparable_replicas_one_is_promoted_only_when_loss_is_allowed() {
    let instances = || [Instance::unseen(key(1)).dead(), cut(2, "1:1-90:95"), cut(3, "1:1-94")];
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let report = not_planned(&refuse, instances());
    assert_eq!(
        *reason(&report.refused, 2),
        RefusalReason::Incomparable(mysql_set("1:91-94").to_string())
    );
    let plan = chosen(instances());
    assert_eq!((plan.successor, plan.lost), (key(3), Some(mysql_set("1:95"))));
    assert!(matches!(reason(&plan.lost_replicas, 2), RefusalReason::Errant(_)));
}

fn backed_up(n: u32, executed: &str) -> Instance {
    cut(n, executed).facts(|facts| {
        facts.settings = Some(ServerSettings {
            backup_lock: Some(true),
            ..ServerSettings::default()
        });
    })
}

#[test]
fn a_replica_on_which_a_backup_holds_its_lock_is_promoted_last() {
    let tree = topology([db1(), backed_up(2, "1:1-100"), cut(3, "1:1-100")]);
    let (plan, report) = planned(&tree, &Policy::default());
    assert_eq!(plan.unwrap().successor, key(3));
    let why = reason(&report.refused, 2).to_string();
    assert!(why.contains("a backup holds its lock"), "{why}");
    // It received more: the other one gets that from it.
    let plan = chosen([db1(), backed_up(2, "1:1-101"), cut(3, "1:1-100")]);
    assert_eq!((plan.successor, plan.lost), (key(3), None));
    // There is no other one.
    let (plan, report) = planned(&topology([db1(), backed_up(2, "1:1-100")]), &Policy::default());
    assert_eq!(plan.unwrap().successor, key(2));
    assert!(report.remarks[0].contains("a backup holds its lock on"), "{report:?}");
}

#[test]
fn the_plan_records_the_events_that_were_enabled_on_the_old_primary() {
    let events = EnabledEvents::of([ScheduledEvent {
        schema: "app".to_owned(),
        name: "tick".to_owned(),
    }]);
    let old = |known: Option<EnabledEvents>| {
        db1().facts(|facts| {
            facts.settings = Some(ServerSettings {
                events: known.clone(),
                ..ServerSettings::default()
            });
        })
    };
    let planned = |known: Option<EnabledEvents>, policy: EventsPolicy| {
        let policy = Policy {
            events: policy,
            ..Policy::default()
        };
        chosen_with(&policy, [old(known), cut(2, "1:1-100")]).events
    };
    assert_eq!(
        planned(Some(events.clone()), EventsPolicy::Enable),
        Some(events.clone())
    );
    assert_eq!(planned(Some(events), EventsPolicy::Leave), None);
    assert_eq!(planned(None, EventsPolicy::Enable), None);
}
