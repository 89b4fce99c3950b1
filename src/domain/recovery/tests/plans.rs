//! What is done, lost and refused.

use super::*;

#[test]
fn known_loss_falls_under_the_policy() {
    let instances = || [primary(1, "1:1-110").dead(), cut(2, "1:1-100")];
    let plan = chosen(instances());
    assert_eq!(plan.lost, Some(mysql_set("1:101-110")));
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let report = not_planned(&refuse, instances());
    assert!(report.no_plan.unwrap().ends_with(&mysql_set("1:101-110").to_string()));
    assert_eq!(
        chosen_with(&refuse, [loss::promising(1, 1), loss::acknowledging(2)]).lost,
        None
    );
    let waits = Policy {
        loss: LossPolicy::AllowAfterTimeout,
        loss_timeout_millis: 30_000,
        ..Policy::default()
    };
    let tree = topology(instances());
    assert!(plan_at(&tree, &waits, 29_999).is_none());
    assert!(plan_at(&tree, &waits, 30_000).is_some());
}

fn plan_at(topology: &Topology, policy: &Policy, later: i64) -> Option<Plan> {
    plan(&dead_primary(), topology, policy, NOW.plus_millis(later)).0
}

#[test]
fn what_an_ineligible_replica_holds_is_lost_knowingly_and_it_is_left_behind() {
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(3), PromotionRule::MustNot);
    // It cannot feed the other one either: it does not log what it replicates.
    let mute = || cut(3, "1:1-104").facts(|facts| facts.log_replica_updates = false);
    let instances = || [Instance::unseen(key(1)).dead(), cut(2, "1:1-100"), mute()];
    let plan = chosen_with(&policy, instances());
    assert_eq!((plan.successor, plan.lost), (key(2), Some(mysql_set("1:101-104"))));
    assert!(matches!(reason(&plan.lost_replicas, 3), RefusalReason::Errant(_)));
    policy.loss = LossPolicy::Refuse;
    assert!(not_planned(&policy, instances()).no_plan.unwrap().contains("Refuse"));
}

#[test]
fn a_follower_that_needs_what_is_purged_or_runs_an_older_version_is_left_behind() {
    let purged = cut(3, "1:1-100").facts(|facts| facts.purged = mysql_set("1:1-60"));
    let old = cut(5, "1:1-100").facts(|facts| facts.version = ServerVersion::parse("8.0.40", "").unwrap());
    let promotion_rules = [
        (key(2), PromotionRule::MustNot),
        (key(4), PromotionRule::MustNot),
        (key(5), PromotionRule::MustNot),
    ]
    .into();
    let policy = Policy {
        promotion_rules,
        ..Policy::default()
    };
    // db2 received all and applied little: pointing it elsewhere drops its relay log.
    let plan = chosen_with(
        &policy,
        [
            db1(),
            purged,
            cut(2, "1:1-50").received("1:51-100"),
            cut(4, "1:1-60"),
            old,
        ],
    );
    assert_eq!(plan.successor, key(3));
    assert_eq!(
        *reason(&plan.lost_replicas, 2),
        RefusalReason::Purged(mysql_set("1:51-60").to_string())
    );
    assert!(matches!(reason(&plan.lost_replicas, 5), RefusalReason::Version(_)));
    assert!(plan.steps.contains(&Step::Repoint {
        successor: key(3),
        replicas: [key(4)].into()
    }));
}

#[test]
fn nobody_is_promoted_beside_a_writable_primary_or_while_someone_receives() {
    let told = |instances: Vec<Instance>| not_planned(&Policy::default(), instances).no_plan.unwrap();
    assert_eq!(
        told(vec![db1(), cut(2, "1:1-100"), primary(3, "1:1-80")]),
        "db3:3306 is a writable primary of the same cluster already"
    );
    assert_eq!(
        told(vec![db1(), cut(2, "1:1-100"), replica(3, 1, "1:1-100")]),
        "db3:3306 receives from db1:3306"
    );
    assert_eq!(told(vec![primary(1, "1:1-100"), cut(2, "1:1-100")]), "db1:3306 answers");
    assert_eq!(
        told(vec![db1(), cut(2, "1:1-100").dead()]),
        "no replica can be promoted"
    );
    let mut moved = topology([
        db1(),
        cut(2, "1:1-100"),
        primary(3, "1:1-80").facts(|facts| facts.read_only = true),
        replica(4, 3, ""),
    ]);
    moved.recorded_primary = Some(key(3));
    let (made, report) = planned(&moved, &Policy::default());
    assert_eq!(
        (made, report.no_plan.unwrap().as_str()),
        (None, "db1:3306 is not the primary of the cluster, db3:3306 is")
    );
}

#[test]
fn replicas_that_are_stopped_already_are_not_receivers_stopped_again() {
    let stopped = cut(3, "1:1-100").channel(|channel| channel.io = ThreadState::Stopped);
    let plan = chosen([db1(), cut(2, "1:1-100"), stopped]);
    assert!(plan.steps.contains(&Step::StopReceivers {
        replicas: [key(2)].into()
    }));
}

#[test]
fn a_rehearsal_names_the_successor_before_anything_breaks() {
    let tree = topology([primary(1, "1:1-100"), replica(2, 1, "1:1-99"), replica(3, 1, "1:1-100")]);
    let (made, report) = preview_failover(&tree, &Policy::default(), NOW);
    assert_eq!((made.unwrap().successor, report.refused.len()), (key(3), 1));
}

#[test]
fn the_second_choice_stays_within_what_was_claimed() {
    let tree = topology([db1(), cut(2, "1:1-100"), cut(3, "1:1-90")]);
    let plan = planned(&tree, &Policy::default()).0.unwrap();
    let fresh = topology([db1(), cut(2, "1:1-100"), cut(3, "1:1-101"), cut(4, "1:1-102")]);
    let again = choose_again(&plan, &fresh, &Policy::default(), NOW).unwrap();
    assert_eq!(
        (again.successor.clone(), again.instances.clone()),
        (key(3), plan.instances.clone())
    );
    assert_eq!(again.lost, Some(mysql_set("1:102")));
    assert!(
        !again
            .steps
            .iter()
            .any(|step| matches!(step, Step::Repoint { replicas, .. } if replicas.contains(&key(4))))
    );
    let gone = topology([db1(), cut(2, "1:1-100").dead(), cut(3, "1:1-90").dead()]);
    assert_eq!(
        choose_again(&plan, &gone, &Policy::default(), NOW).unwrap_err(),
        "no replica can be promoted"
    );
}

#[test]
fn what_holds_a_recovery_back_is_told_in_order() {
    let tree = topology([db1(), cut(2, "1:1-100")]);
    let mut policy = Policy::default();
    assert_eq!(held_back(&dead_primary(), &tree, &policy), None);
    let unreachable = Finding {
        code: Code::UnreachableMaster,
        ..dead_primary()
    };
    assert_eq!(held_back(&unreachable, &tree, &policy), Some(HeldBack::NotActionable));
    let downtime = HeldBack::Downtimed {
        owner: "ops".to_owned(),
        reason: "disk".to_owned(),
        until: None,
    };
    policy.downtimes.insert(key(1), downtime.clone());
    assert_eq!(held_back(&dead_primary(), &tree, &policy), Some(downtime));
    policy.held_back = Some(HeldBack::Paused);
    assert_eq!(held_back(&dead_primary(), &tree, &policy), Some(HeldBack::Paused));
}

// === rejoin ===

fn quarantine() -> Quarantine {
    Quarantine {
        identity: Identity::ServerUuid(uuid(1)),
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        recovery: "r1".to_owned(),
        epoch: 1,
        since: NOW,
        standing: QuarantineState::Contained,
    }
}

fn after_failover(returned: &str, purged: &str) -> Topology {
    let old = primary(1, returned).facts(|facts| facts.read_only = true);
    let new = primary(2, "1:1-100,2:1-20").facts(|facts| facts.purged = mysql_set(purged));
    let mut tree = topology([old, new, replica(3, 2, "1:1-100,2:1-20")]);
    tree.recorded_primary = Some(key(2));
    tree
}

#[test]
fn a_contained_primary_rejoins_when_the_policy_wants_it() {
    let rejoin = Policy {
        old_primary: OldPrimary::Rejoin,
        ..Policy::default()
    };
    let tree = after_failover("1:1-100", "");
    let plan = plan_rejoin(&quarantine(), &tree, &rejoin).0.unwrap();
    assert_eq!(lint(&plan, &tree), Vec::<String>::new());
    assert_eq!(
        (plan.kind, &plan.old_primary, &plan.successor),
        (RecoveryKind::Rejoin, &key(1), &key(2))
    );
    let repoint = Step::Repoint {
        successor: key(2),
        replicas: [key(1)].into(),
    };
    assert_eq!(plan.steps, [Step::Fence { old_primary: key(1) }, repoint]);
    let told = |tree: &Topology, policy: &Policy| plan_rejoin(&quarantine(), tree, policy).1.no_plan.unwrap();
    assert!(told(&tree, &Policy::default()).starts_with("oldPrimary is Hold"));
    let errant = told(&after_failover("1:1-103", ""), &rejoin);
    assert_eq!(
        errant,
        format!(
            "db1:3306: holds transactions that the primary lacks: {}",
            mysql_set("1:101-103")
        )
    );
    let purged = told(&after_failover("1:1-98", "1:1-99"), &rejoin);
    assert_eq!(
        purged,
        format!("db1:3306: the primary has purged what it needs: {}", mysql_set("1:99"))
    );
    let mut gone = tree.clone();
    gone.instances.insert(key(1), db1());
    assert_eq!(told(&gone, &rejoin), "db1:3306: connection refused");
}

#[test]
fn what_members_remember_of_the_primary_and_nobody_holds_is_lost() {
    let tree = topology([Instance::unseen(key(1)).dead(), cut(2, "1:1-100"), cut(3, "1:1-98")]);
    let remember = |set: &str, policy: &Policy| {
        crate::domain::recovery::planner::plan_remembering(&dead_primary(), &tree, policy, Some(mysql_set(set)), NOW)
    };
    let plan = remember("1:1-107", &Policy::default()).0.unwrap();
    assert_eq!(lint(&plan, &tree), Vec::<String>::new());
    assert_eq!(plan.lost, Some(mysql_set("1:101-107")));
    // The second choice remembers it too.
    let again = choose_again(&plan, &tree, &Policy::default(), NOW).unwrap();
    assert_eq!(again.lost, Some(mysql_set("1:101-107")));
    assert_eq!(remember("1:1-99", &Policy::default()).0.unwrap().lost, None);
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    assert!(remember("1:1-107", &refuse).1.no_plan.unwrap().contains("Refuse"));
}
