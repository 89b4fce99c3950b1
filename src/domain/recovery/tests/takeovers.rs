//! Who may take over, and what speaks against it.

use super::super::planner::{lost_successor, plan_forced_failover, plan_takeover, topology_for};
use super::*;
use crate::domain::policy::TakeoverTerms;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::settings::ServerSettings;
use crate::domain::state::command::COMMAND_VERSION;
use crate::domain::state::{Cluster, Command, Phase, Proposal, Recovery, State, apply, sample};

fn auto() -> ManualRequest {
    ManualRequest {
        command: "graceful-master-takeover-auto".to_owned(),
        starts_old_primary: true,
        ..ManualRequest::default()
    }
}

fn cluster() -> Vec<Instance> {
    vec![primary(1, "1:1-100"), replica(2, 1, "1:1-100"), replica(3, 1, "1:1-99")]
}

fn asked(instances: Vec<Instance>, policy: &Policy, target: Option<u32>) -> Result<Plan, String> {
    let tree = topology(instances);
    let target = target.map(key);
    let (plan, report) = plan_takeover(&tree, policy, target.as_ref(), auto());
    if let Some(plan) = &plan {
        assert_eq!(lint(plan, &tree), Vec::<String>::new());
    }
    plan.ok_or_else(|| report.no_plan.expect("a reason"))
}

#[track_caller]
fn refused(instances: Vec<Instance>, policy: &Policy, target: Option<u32>, reason: &str) {
    let why = asked(instances, policy, target).expect_err("refused");
    assert!(why.contains(reason), "{why}");
}

#[test]
fn everybody_follows_the_one_that_takes_over() {
    let plan = asked(cluster(), &Policy::default(), Some(3)).unwrap();
    assert_eq!(plan.successor, key(3));
    assert_eq!(
        plan.steps.last(),
        Some(&Step::Repoint {
            successor: key(3),
            replicas: BTreeSet::from([key(1), key(2)]),
        })
    );
    assert_eq!(plan.instances, BTreeSet::from([key(1), key(2), key(3)]));
}

#[test]
fn without_a_name_the_one_that_suits_best_is_chosen() {
    assert_eq!(asked(cluster(), &Policy::default(), None).unwrap().successor, key(2));
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(3), PromotionRule::Prefer);
    assert_eq!(asked(cluster(), &policy, None).unwrap().successor, key(3));
    policy.promotion_rules.insert(key(3), PromotionRule::MustNot);
    policy.downtimes.insert(
        key(2),
        HeldBack::Downtimed {
            owner: "ops".to_owned(),
            reason: "disk".to_owned(),
            until: None,
        },
    );
    refused(
        cluster(),
        &policy,
        None,
        "db2:3306: in downtime (end-downtime); db3:3306: promotion rule must_not",
    );
}

#[test]
fn the_primary_must_be_one_that_answers_and_takes_writes() {
    let with = |first: Instance| vec![first, replica(2, 1, "1:1-100")];
    let policy = Policy::default();
    refused(
        with(primary(1, "1:1-100").dead()),
        &policy,
        Some(2),
        "a takeover needs a living one",
    );
    refused(
        with(primary(1, "1:1-100").facts(|facts| facts.read_only = true)),
        &policy,
        Some(2),
        "is read-only",
    );
    refused(
        with(primary(1, "1:1-100").facts(|facts| facts.group_name = "g".to_owned())),
        &policy,
        Some(2),
        "replication group g",
    );
    let mut two = cluster();
    two.push(primary(4, "1:1-100"));
    refused(two, &policy, Some(2), "db4:3306 is a writable primary beside db1:3306");
    let held = Policy {
        held_back: Some(HeldBack::RecoveryRuns { uid: "u1".to_owned() }),
        ..Policy::default()
    };
    refused(cluster(), &held, Some(2), "recovery u1 of this cluster is running");
}

#[test]
fn what_holds_automatic_recoveries_back_does_not_hold_a_person_back() {
    for held in [HeldBack::GloballyDisabled, HeldBack::Paused, HeldBack::NoFilterMatches] {
        let policy = Policy {
            held_back: Some(held),
            ..Policy::default()
        };
        assert!(asked(cluster(), &policy, Some(2)).is_ok());
    }
}

#[test]
fn the_target_must_be_near_and_at_work() {
    let policy = Policy {
        takeover: TakeoverTerms {
            lag_seconds: 20,
            ..TakeoverTerms::default()
        },
        ..Policy::default()
    };
    let with = |target: Instance| vec![primary(1, "1:1-100"), target, replica(3, 1, "1:1-100")];
    let target = || replica(2, 1, "1:1-100");
    let table: [(Instance, &str); 8] = [
        (
            target().channel(|channel| channel.lag_seconds = Some(21)),
            "it lags 21 s (limit 20 s",
        ),
        (
            target().channel(|channel| channel.lag_seconds = None),
            "unknown: its lag",
        ),
        (
            target().channel(|channel| channel.delay_seconds = 60),
            "delayed on purpose",
        ),
        (target().cut(), "its receiver thread is Connecting, error 2003"),
        (
            target().channel(|channel| channel.sql = ThreadState::Stopped),
            "its applier thread is Stopped",
        ),
        (target().dead(), "unreachable"),
        (replica(2, 1, "1:1-100,2:1-4"), "errant transactions"),
        (
            target().facts(|facts| facts.log_replica_updates = false),
            "log_replica_updates is off",
        ),
    ];
    for (instance, reason) in table {
        refused(with(instance), &policy, Some(2), reason);
    }
    refused(
        with(replica(2, 3, "1:1-100")),
        &policy,
        Some(2),
        "it replicates from db3:3306, not from the primary (move it",
    );
    refused(cluster(), &policy, Some(9), "db9:3306 is not in the cluster");
    assert!(
        asked(
            with(target().channel(|channel| channel.lag_seconds = Some(20))),
            &policy,
            Some(2)
        )
        .is_ok()
    );
}

#[test]
fn nobody_is_left_behind_unless_it_is_in_downtime() {
    let mut instances = cluster();
    instances.push(replica(4, 1, "1:1-100").dead());
    refused(
        instances.clone(),
        &Policy::default(),
        Some(2),
        "db4:3306 cannot follow db2:3306: unreachable",
    );
    let mut policy = Policy::default();
    policy.downtimes.insert(
        key(4),
        HeldBack::Downtimed {
            owner: "ops".to_owned(),
            reason: "disk".to_owned(),
            until: None,
        },
    );
    let plan = asked(instances, &policy, Some(2)).unwrap();
    assert_eq!(plan.lost_replicas.len(), 1);
    assert!(!plan.instances.contains(&key(4)));
}

#[test]
fn a_forced_failover_needs_no_dead_primary_and_a_named_one_beats_every_preference() {
    let tree = topology(cluster());
    let mut policy = Policy::default();
    policy.promotion_rules.insert(key(2), PromotionRule::Prefer);
    let (plan, _) = plan_forced_failover(&tree, &policy, None, ManualRequest::default(), NOW);
    assert_eq!(plan.unwrap().successor, key(2));
    let equal = topology([
        primary(1, "1:1-100"),
        replica(2, 1, "1:1-100"),
        replica(3, 1, "1:1-100"),
    ]);
    let (plan, report) = plan_forced_failover(&equal, &policy, Some(&key(3)), ManualRequest::default(), NOW);
    let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!(
        (&plan.successor, plan.designated(), plan.is_forced()),
        (&key(3), Some(&key(3)), true)
    );
    assert_eq!(lint(&plan, &equal), Vec::<String>::new());
    // It lacks what the other one has: it is fed that.
    let (plan, report) = plan_forced_failover(&tree, &policy, Some(&key(3)), ManualRequest::default(), NOW);
    let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!((&plan.successor, &plan.lost), (&key(3), &None));
    let catch_up_from = Step::CatchUp {
        successor: key(3),
        from: key(2),
    };
    assert!(plan.steps.contains(&catch_up_from), "{:?}", plan.steps);
    assert_eq!(lint(&plan, &tree), Vec::<String>::new());
    // And when that is impossible, being named does not make a loss.
    let purged = cluster().into_iter().map(|instance| {
        if instance.key == key(2) {
            instance.facts(|facts| facts.purged = mysql_set("1:1-100"))
        } else {
            instance
        }
    });
    let (plan, report) = plan_forced_failover(&topology(purged), &policy, Some(&key(3)), ManualRequest::default(), NOW);
    assert_eq!(plan, None);
    let why = report.no_plan.unwrap();
    assert!(
        why.contains("db3:3306 was named and cannot be promoted: lacks"),
        "{why}"
    );
}

// === a lost successor ===

/// db2 was to take over from db1, which is read-only.
fn lost(old: Instance, target: Instance) -> Topology {
    let mut tree = topology([old, target, replica(3, 1, "1:1-100")]);
    tree.recorded_primary = Some(key(2));
    tree
}

/// The recovery in which db2 was committed.
fn ended(successful: bool) -> Recovery {
    let cluster = Cluster {
        id: ClusterId("c1".to_owned()),
        created_at: NOW,
        name: key(1).to_string(),
        alias: String::new(),
        epoch: 0,
        instances: BTreeSet::new(),
        primary: None,
        document: None,
        split_from: None,
    };
    let mut state = State {
        clusters: [(cluster.id.clone(), cluster)].into(),
        ..State::default()
    };
    let claim = sample::claim("first", sample::plan(1, 1, 2, &[1, 2, 3]));
    let proposal = Proposal {
        version: COMMAND_VERSION,
        at: NOW,
        command: Command::Claim { claim: Box::new(claim) },
    };
    apply(&mut state, &proposal);
    let mut recovery = state.recoveries.remove("first").expect("it was claimed");
    recovery.phase = Phase::Ended {
        at: NOW,
        successor: Some(key(2)),
        successful,
    };
    recovery
}

fn next_after(tree: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    let finding = lost_successor(tree, policy, [&ended(false)]).expect("a finding");
    assert_eq!((finding.code, &finding.instance), (Code::SuccessorLost, &key(2)));
    let (plan, report) = plan(&finding, tree, policy, NOW);
    if let Some(plan) = &plan {
        assert_eq!(lint(plan, tree), Vec::<String>::new());
    }
    (plan, report)
}

fn read_only(executed: &str) -> Instance {
    primary(1, executed).facts(|facts| facts.read_only = true)
}

#[test]
fn the_old_primary_takes_over_again_from_a_target_that_is_lost() {
    let tree = lost(read_only("1:1-110"), replica(2, 1, "1:1-110").dead());
    let (plan, report) = next_after(&tree, &Policy::default());
    let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!((plan.successor, plan.lost), (key(1), None));
}

#[test]
fn without_the_old_primary_the_next_replica_does_under_the_loss_policy() {
    let mut tree = lost(primary(1, "1:1-110").dead(), replica(2, 1, "1:1-110").dead());
    tree.instances.insert(key(3), cut(3, "1:1-100"));
    let (plan, _) = next_after(&tree, &Policy::default());
    let plan = plan.unwrap();
    assert_eq!((plan.successor, plan.lost), (key(3), Some(mysql_set("1:101-110"))));
    let strict = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let (plan, report) = next_after(&tree, &strict);
    assert_eq!(plan, None);
    assert!(report.no_plan.unwrap().contains("lossPolicy is Refuse"));
}

#[test]
fn a_successor_is_not_lost_while_it_lives_or_another_server_takes_writes_or_it_was_opened() {
    let dead = || replica(2, 1, "1:1-110").dead();
    let policy = Policy::default();
    let found = |tree: &Topology, successful: bool| lost_successor(tree, &policy, [&ended(successful)]).is_some();
    assert!(found(&lost(read_only("1:1-110"), dead()), false));
    assert!(!found(&lost(read_only("1:1-110"), dead()), true), "it was opened");
    assert!(!found(&lost(primary(1, "1:1-110"), dead()), false), "db1 takes writes");
    let opened = replica(2, 1, "1:1-110").facts(|facts| facts.read_only = false);
    assert!(!found(&lost(read_only("1:1-110"), opened), false), "it takes writes");
    let grouped = replica(2, 1, "1:1-110").facts(|facts| facts.group_name = "g".to_owned());
    assert!(
        !found(&lost(read_only("1:1-110"), grouped), false),
        "its group opens it"
    );
    let stalled = replica(2, 1, "1:1-110").failing(ProbeFailure::Stalled);
    assert!(!found(&lost(read_only("1:1-110"), stalled), false), "it lives");
}

#[test]
fn a_successor_that_is_back_and_was_never_opened_is_replaced_where_nothing_is_lost() {
    let tree = lost(read_only("1:1-110"), cut(2, "1:1-110"));
    let (plan, report) = next_after(&tree, &Policy::default());
    let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!((plan.successor, plan.lost), (key(1), None));
    let mut tree = lost(primary(1, "1:1-110").dead(), cut(2, "1:1-110"));
    tree.instances.insert(key(3), cut(3, "1:1-100"));
    let (plan, report) = next_after(&tree, &Policy::default());
    assert_eq!(plan, None);
    let why = report.no_plan.unwrap();
    assert!(
        why.contains("db2:3306 was chosen, answers, is read-only and has transactions that no other server has"),
        "{why}"
    );
}

#[test]
fn the_view_of_a_lost_successor_changes_nothing_for_other_findings() {
    let tree = lost(read_only("1:1-110"), replica(2, 1, "1:1-110").dead());
    assert_eq!(*topology_for(Code::DeadMaster, &tree, &key(2)), tree);
    assert_ne!(*topology_for(Code::SuccessorLost, &tree, &key(2)), tree);
}

#[test]
fn a_replica_on_which_a_backup_holds_its_lock_does_not_take_over() {
    let mut instances = cluster();
    let locked = instances.remove(1).facts(|facts| {
        facts.settings = Some(ServerSettings {
            backup_lock: Some(true),
            ..ServerSettings::default()
        });
    });
    instances.push(locked);
    refused(
        instances.clone(),
        &Policy::default(),
        Some(2),
        "a backup holds its lock (wait until",
    );
    assert_eq!(asked(instances, &Policy::default(), None).unwrap().successor, key(3));
}
