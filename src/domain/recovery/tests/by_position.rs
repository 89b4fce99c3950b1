use super::*;
use crate::domain::instance::{BinlogCoordinates, InstanceFacts};

fn at(position: u64) -> BinlogCoordinates {
    BinlogCoordinates {
        file: "binlog.000007".to_owned(),
        position,
    }
}

/// A replica of a server without GTIDs that received up to a position.
fn plain(n: u32, position: u64) -> Instance {
    cut(n, "")
        .facts(|facts| facts.gtid_mode = "OFF".to_owned())
        .channel(|channel| {
            channel.positioning = Positioning::FilePosition;
            channel.read = at(position);
            channel.exec = at(position);
        })
}

fn dead() -> Instance {
    primary(1, "").facts(|facts| facts.gtid_mode = "OFF".to_owned()).dead()
}

#[test]
fn the_replica_that_received_most_of_the_sources_log_is_promoted() {
    for (ahead, behind) in [(2, 3), (3, 2)] {
        let tree = topology([dead(), plain(ahead, 900), plain(behind, 800)]);
        let (made, report) = planned(&tree, &Policy::default());
        let made = made.unwrap();
        assert_eq!(
            (made.kind, &made.successor),
            (RecoveryKind::DeadPrimaryByPosition, &key(ahead))
        );
        assert!(report.refused.iter().any(|refusal| refusal.instance == key(behind)));
        let follows = made
            .steps
            .iter()
            .any(|step| matches!(step, Step::RepointAt { replicas, .. } if replicas.contains_key(&key(behind))));
        assert!(follows, "{:?}", made.steps);
    }
}

#[test]
fn a_later_file_is_further_than_a_later_position() {
    let later = plain(2, 4).channel(|channel| {
        channel.read = BinlogCoordinates {
            file: "binlog.000008".to_owned(),
            position: 4,
        };
    });
    let (made, _) = planned(&topology([dead(), later, plain(3, 800)]), &Policy::default());
    assert_eq!(made.unwrap().successor, key(2));
}

#[test]
fn one_gtid_channel_among_them_is_decided_by_gtid() {
    let tree = topology([dead(), plain(2, 900), cut(3, "1:1-90")]);
    let (made, report) = planned(&tree, &Policy::default());
    assert_eq!(made.unwrap().kind, RecoveryKind::DeadPrimary);
    assert!(report.refused.contains(&Refusal {
        instance: key(2),
        reason: RefusalReason::NoGtid
    }));
}

#[test]
fn what_the_primary_was_seen_to_write_beyond_is_a_loss_that_the_policy_judges() {
    let written = || dead().facts(|facts| facts.binlog = Some(at(1000)));
    let tree = topology([written(), plain(2, 900), plain(3, 800)]);
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let (made, report) = plan(&dead_primary(), &tree, &refuse, NOW);
    assert!(made.is_none());
    assert!(report.no_plan.unwrap().contains("binlog.000007:1000"));
    let allow = Policy {
        loss: LossPolicy::Allow,
        ..Policy::default()
    };
    let (made, report) = planned(&tree, &allow);
    assert!(made.is_some() && report.remarks[0].contains("lost"), "{report:?}");
}

#[test]
fn the_best_one_may_be_out_of_the_question_and_then_it_is_left_behind() {
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::MustNot);
    let (made, _) = planned(&topology([dead(), plain(2, 900), plain(3, 800)]), &policy);
    let made = made.unwrap();
    assert_eq!(made.successor, key(3));
    assert!(matches!(&made.lost_replicas[..], [lost] if lost.instance == key(2)));
}

#[test]
fn a_member_of_a_replication_group_is_not_replaced_by_position_either() {
    let member = dead().facts(|facts| facts.group_name = "g1".to_owned());
    let (made, report) = plan(
        &dead_primary(),
        &topology([member, plain(2, 900)]),
        &Policy::default(),
        NOW,
    );
    assert!(made.is_none(), "{made:?}");
    assert!(report.no_plan.unwrap().contains("g1"));
}

fn binlog_server(n: u32, position: u64) -> Instance {
    plain(n, position).facts(|facts| facts.version_comment = "MaxScale 2.1 binlog router".to_owned())
}

/// A replica of `source`, which serves the primary's log as it is.
fn through(source: u32, n: u32, position: u64) -> Instance {
    plain(n, position).channel(|channel| {
        channel.source = key(source);
        channel.io = ThreadState::Running;
    })
}

#[test]
fn replicas_of_a_binlog_server_are_chosen_from_by_the_dead_primarys_log() {
    let tree = topology([
        dead(),
        binlog_server(2, 2000),
        through(2, 3, 900),
        through(2, 4, 1000),
        plain(5, 950),
    ]);
    let (made, report) = planned(&tree, &Policy::default());
    let made = made.unwrap();
    assert_eq!(made.successor, key(4));
    let receivers_stopped = made.steps.iter().find_map(|step| {
        let Step::StopReceivers { replicas } = step else {
            return None;
        };
        Some(replicas.clone())
    });
    assert_eq!(receivers_stopped.unwrap(), BTreeSet::from([key(3), key(4), key(5)]));
    let moved = made.steps.iter().find_map(|step| {
        let Step::RepointAt { replicas, .. } = step else {
            return None;
        };
        Some(replicas.keys().cloned().collect::<Vec<_>>())
    });
    assert_eq!(moved.unwrap(), [key(3), key(5)]);
    assert_eq!(reason(&made.lost_replicas, 2), &RefusalReason::BinlogServer);
    // What the binlog server has beyond is a loss.
    assert!(report.remarks[0].contains("binlog.000007:2000"), "{report:?}");
}

#[test]
fn a_binlog_server_below_another_one_hands_on_the_same_log() {
    let lower = binlog_server(3, 900).channel(|channel| channel.source = key(2));
    let tree = topology([dead(), binlog_server(2, 900), lower, through(3, 4, 900)]);
    let (made, _) = planned(&tree, &Policy::default());
    let made = made.unwrap();
    assert_eq!(made.successor, key(4));
    let left: Vec<_> = made.lost_replicas.iter().map(|lost| lost.instance.clone()).collect();
    assert_eq!(left, [key(2), key(3)]);
}

#[test]
fn a_binlog_server_is_never_promoted_with_gtids_or_without() {
    let (made, report) = plan(
        &dead_primary(),
        &topology([dead(), binlog_server(2, 900)]),
        &Policy::default(),
        NOW,
    );
    assert!(made.is_none() && report.no_plan.is_some(), "{made:?}");
    let by_gtid = cut(2, "1:1-100").facts(|facts| facts.version_comment = "MaxScale".to_owned());
    let made = chosen([db1(), by_gtid, cut(3, "1:1-90")]);
    assert_eq!(made.successor, key(3));
}

/// A change to the facts of a replica.
type Change = fn(&mut InstanceFacts);

/// Which of db2 and db3, which received the same, is promoted, and why the other one is not.
fn preferred(policy: &Policy, changes: [Change; 2]) -> (InstanceKey, String) {
    let old_primary = dead().facts(|facts| {
        facts.data_center = "north".to_owned();
        facts.region = "europe".to_owned();
        facts.environment = "production".to_owned();
    });
    let [of_db2, of_db3] = changes;
    let tree = topology([old_primary, plain(2, 900).facts(of_db2), plain(3, 900).facts(of_db3)]);
    let (made, report) = planned(&tree, policy);
    let made = made.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!(made.kind, RecoveryKind::DeadPrimaryByPosition);
    let [refused] = &report.refused[..] else {
        panic!("{report:?}");
    };
    (made.successor, refused.reason.to_string())
}

#[test]
fn among_equal_positions_the_rank_decides_as_it_does_with_gtids() {
    fn at_home(facts: &mut InstanceFacts) {
        facts.data_center = "north".to_owned();
        facts.region = "europe".to_owned();
        facts.environment = "production".to_owned();
    }
    let cases: [(&str, Change); 6] = [
        ("failed primary's data centre", |facts| {
            at_home(facts);
            facts.data_center = "south".to_owned();
        }),
        ("failed primary's region", |facts| {
            at_home(facts);
            facts.region = "asia".to_owned();
        }),
        ("failed primary's environment", |facts| {
            at_home(facts);
            facts.environment = "staging".to_owned();
        }),
        ("runs an older version", |facts| {
            at_home(facts);
            facts.version.patch += 1;
        }),
        ("binlog_format", |facts| {
            at_home(facts);
            facts.binlog_format = "ROW".to_owned();
        }),
        ("its applier thread is stopped", |facts| {
            at_home(facts);
            for channel in &mut facts.channels {
                channel.sql = ThreadState::Stopped;
            }
        }),
    ];
    for (why, change) in cases {
        let better: Change = if why == "binlog_format" {
            |facts| {
                at_home(facts);
                facts.binlog_format = "MIXED".to_owned();
            }
        } else {
            at_home
        };
        let (successor, reason) = preferred(&Policy::default(), [change, better]);
        assert_eq!(successor, key(3), "{why}");
        assert!(reason.contains(why), "{why}: {reason}");
        let (successor, _) = preferred(&Policy::default(), [better, change]);
        assert_eq!(successor, key(2), "{why}");
    }
    let (successor, reason) = preferred(&Policy::default(), [at_home, at_home]);
    assert_eq!(successor, key(2));
    assert!(reason.contains("comes first by address"), "{reason}");
}

#[test]
fn the_data_centre_comes_before_the_promotion_rule() {
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::Prefer);
    let away: Change = |facts| facts.data_center = "south".to_owned();
    let near: Change = |facts| facts.data_center = "north".to_owned();
    assert_eq!(preferred(&policy, [away, near]).0, key(3));
    assert_eq!(preferred(&policy, [near, near]).0, key(2));
}

#[test]
fn the_replica_that_received_most_is_promoted_whatever_its_rank() {
    let near = |n, position| plain(n, position).facts(|facts| facts.data_center = "north".to_owned());
    let away = plain(2, 900).facts(|facts| facts.data_center = "south".to_owned());
    let old_primary = dead().facts(|facts| facts.data_center = "north".to_owned());
    let (made, report) = planned(&topology([old_primary, away, near(3, 800)]), &Policy::default());
    assert_eq!(made.unwrap().successor, key(2));
    assert_eq!(
        reason(&report.refused, 3).to_string(),
        "lacks what follows binlog.000007:800 (db2:3306 received up to binlog.000007:900)"
    );
}

#[test]
fn a_server_that_most_others_cannot_follow_ranks_last_even_in_the_same_data_centre() {
    let at = |n, data_center: &str, format: &str| {
        plain(n, 900).facts(|facts| {
            facts.data_center = data_center.to_owned();
            facts.binlog_format = format.to_owned();
        })
    };
    let old_primary = dead().facts(|facts| facts.data_center = "north".to_owned());
    let tree = topology([
        old_primary,
        at(2, "north", "ROW"),
        at(3, "south", "STATEMENT"),
        at(4, "south", "STATEMENT"),
        at(5, "south", "STATEMENT"),
    ]);
    let (made, report) = planned(&tree, &Policy::default());
    assert_eq!(made.unwrap().successor, key(3));
    let told = reason(&report.refused, 2).to_string();
    assert!(
        told.contains("most other replicas could not replicate from it"),
        "{told}"
    );
}
