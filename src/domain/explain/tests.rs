use crate::domain::analysis::findings;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};
use crate::domain::instance::Instance;
use crate::domain::intent::PromotionRule;
use crate::domain::policy::{HeldBack, LossPolicy, Policy};
use crate::domain::recovery::planner::held_back;
use crate::domain::settings::{Privileges, ServerSettings};

use super::{Explanation, explain};

fn explained(instances: impl IntoIterator<Item = Instance>, policy: &Policy) -> Explanation {
    let topology = topology(instances);
    let found = findings(&topology, policy, &[], NOW);
    let judged: Vec<_> = found
        .iter()
        .map(|finding| (finding, held_back(finding, &topology, policy)))
        .collect();
    explain(
        &topology,
        policy,
        judged.iter().map(|(finding, held)| (*finding, held.as_ref())),
        NOW,
    )
}

#[test]
fn a_healthy_cluster_is_ready_and_says_who_would_be_promoted() {
    let healthy = explained(
        [
            primary(1, "1:1-100"),
            replica(2, 1, "1:1-100"),
            replica(3, 1, "1:1-100"),
        ],
        &Policy::default(),
    );
    assert!(healthy.ready, "{healthy}");
    assert_eq!(
        healthy.to_string(),
        "cluster shop (db1:3306)\n\
         READY: if db1:3306 failed now, db2:3306 would be promoted\n\
         would be lost: nothing that is known, and nothing proves that this is all: db1:3306 was last seen without semi-sync that \
         waits however many replicas are connected (AFTER_SYNC, wait_no_replica): it may have confirmed what no replica received\n\
         proof, if the primary does not answer: none, only the agreement of the members: db1:3306 was last seen without semi-sync \
         that waits however many replicas are connected (AFTER_SYNC, wait_no_replica)\n\
         what would be done:\n\
         \u{20} 1. fence db1:3306: set super_read_only and end client sessions, if it answers\n\
         \u{20} 2. stop receivers on db2:3306, db3:3306\n\
         \u{20} 3. drain: db2:3306 applies everything that it received\n\
         \u{20} 4. reconnect to db1:3306: check whether it is back\n\
         \u{20} 5. open: make db2:3306 the writable primary\n\
         \u{20} 6. repoint db3:3306 to db2:3306\n\
         the other servers:\n\
         \u{20} db2:3306  would be promoted\n\
         \u{20} db3:3306  could be promoted: as good, ranks lower: db2:3306 comes first by address\n"
    );
}

#[test]
fn every_reason_against_a_replica_and_against_acting_is_told() {
    let policy = Policy {
        held_back: Some(HeldBack::Paused),
        promotion_rules: [(key(2), PromotionRule::MustNot)].into(),
        ..Policy::default()
    };
    let explanation = explained(
        [
            primary(1, "1:1-100"),
            replica(2, 1, "1:1-100"),
            replica(3, 1, "1:1-100").dead(),
            replica(4, 1, "1:1-100").facts(|facts| facts.log_bin = false),
            Instance::unseen(key(5)),
        ],
        &policy,
    );
    assert!(!explanation.ready);
    let text = explanation.to_string();
    for line in [
        "NOT READY: if db1:3306 failed now, no server would be promoted",
        "  - the document has paused: true",
        "  - no replica can be promoted",
        "  db2:3306  cannot be promoted: promotion rule must_not",
        "  db3:3306  cannot be promoted: unreachable: connection refused",
        "  db4:3306  cannot be promoted: binary logging is off (log_bin)",
        "  db5:3306  cannot be promoted: unreachable: never seen",
        "  - db5:3306: never seen",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn what_is_on_its_way_is_no_obstacle_even_where_nothing_may_be_lost() {
    let refuse = Policy {
        loss: LossPolicy::Refuse,
        ..Policy::default()
    };
    let waiting = || {
        primary(1, "1:1-120").facts(|facts| {
            facts.semi_sync.source_enabled = true;
            facts.semi_sync.source_active = true;
            facts.semi_sync.after_sync = true;
            facts.semi_sync.wait_no_replica = true;
            facts.semi_sync.wait_for_count = 1;
            facts.semi_sync.clients = 1;
            facts.semi_sync.timeout_millis = 60_000;
        })
    };
    let acknowledging = || replica(2, 1, "1:1-100").facts(|facts| facts.semi_sync.replica_enabled = true);
    let busy = explained([waiting(), acknowledging()], &refuse);
    assert!(busy.ready, "{busy}");
    assert!(busy.loss.arriving);
    assert_eq!(busy.loss.transactions, 20);
    assert_eq!(busy.loss.unknown, None);
    let text = busy.to_string();
    assert!(
        text.contains("would be lost: nothing that it confirmed: 1 of 1 semi-sync replicas"),
        "{text}"
    );

    let stopped = explained([waiting(), acknowledging().cut()], &refuse);
    assert!(!stopped.ready);
    assert_eq!(stopped.successor, Some(key(2)));
    assert!(
        stopped.obstacles.iter().any(|why| why.contains("lossPolicy is Refuse")),
        "{stopped}"
    );

    // What an asynchronous primary confirmed cannot be known when it is gone.
    let asynchronous = explained([primary(1, "1:1-100"), replica(2, 1, "1:1-100")], &refuse);
    assert!(!asynchronous.ready);
    assert!(
        asynchronous.obstacles[0].starts_with("what would be lost is unknown, and lossPolicy is Refuse"),
        "{asynchronous}"
    );

    let allowed = explained(
        [primary(1, "1:1-120"), replica(2, 1, "1:1-100").cut()],
        &Policy::default(),
    );
    assert!(allowed.ready, "{allowed}");
    assert!(
        allowed.to_string().contains("would be lost: at least 20 transactions"),
        "{allowed}"
    );
}

#[test]
fn a_downtime_of_the_primary_and_a_general_reason_are_both_told() {
    let downtimed = HeldBack::Downtimed {
        owner: "alice".to_owned(),
        reason: "disk".to_owned(),
        until: None,
    };
    let policy = Policy {
        held_back: Some(HeldBack::GloballyDisabled),
        downtimes: [(key(1), downtimed)].into(),
        ..Policy::default()
    };
    let explanation = explained([primary(1, "1:1-9"), replica(2, 1, "1:1-9")], &policy);
    assert_eq!(
        explanation.obstacles,
        [
            "recoveries are globally disabled (enable-global-recoveries)",
            "db1:3306 is in downtime by alice: disk"
        ]
    );
    assert_eq!(
        explanation.successor,
        Some(key(2)),
        "the successor is shown all the same"
    );
}

#[test]
fn a_finding_that_leads_to_no_recovery_names_the_rule() {
    let paused = Policy {
        held_back: Some(HeldBack::Paused),
        ..Policy::default()
    };
    let cluster = [primary(1, "1:1-9").dead(), replica(2, 1, "1:1-9").cut()];
    let explanation = explained(cluster.clone(), &paused);
    let held = explanation.findings.first().expect("the primary is dead");
    assert_eq!(held.held_back.as_deref(), Some("the document has paused: true"));
    let acts = explained(cluster, &Policy::default());
    assert!(acts.to_string().contains("; a recovery follows"), "{acts}");
}

#[test]
fn servers_beside_the_tree_are_named_and_cannot_be_promoted() {
    let beside = replica(3, 9, "1:1-5");
    let explanation = explained(
        [primary(1, "1:1-9"), replica(2, 1, "1:1-9"), beside],
        &Policy::default(),
    );
    let outlook = explanation.outlook(&key(3)).expect("it is in the view");
    assert!(!outlook.ok);
    assert_eq!(
        outlook.why,
        "does not replicate from db1:3306, nor from a replica of it"
    );
    assert!(explanation.outlook(&key(1)).is_none());
}

#[test]
fn an_explanation_is_read_back_as_it_was_written_and_tolerates_what_it_does_not_know() {
    let explanation = explained([primary(1, "1:1-100"), replica(2, 1, "1:1-90")], &Policy::default());
    let mut json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(
        serde_json::from_value::<Explanation>(json.clone()).unwrap(),
        explanation
    );
    json["somethingNewer"] = 1.into();
    assert_eq!(serde_json::from_value::<Explanation>(json).unwrap(), explanation);
}

#[test]
fn a_read_only_primary_is_an_obstacle_with_its_reason() {
    let read_only = || primary(1, "1:1-100").facts(|facts| facts.read_only = true);
    let text = |policy: &Policy, other: Instance| {
        let explanation = explained([read_only(), other], policy);
        assert!(!explanation.ready, "{explanation}");
        explanation.obstacles.join("; ")
    };
    let booted = Policy {
        booted_read_only: Some(key(1)),
        ..Policy::default()
    };
    let behind = || replica(2, 1, "1:1-90");
    assert!(text(&Policy::default(), behind()).contains("RecoverNonWriteableMaster is not set"));
    assert!(text(&booted, behind()).contains("until it is made writable again"));
    assert!(text(&booted, replica(2, 1, "1:1-101")).contains("db2:3306 holds what db1:3306 lacks"));
    let asked = Policy {
        recover_non_writable_primary: true,
        ..Policy::default()
    };
    assert!(text(&asked, behind()).contains("until it is made writable again"));
    // What a recovery has in its hands is that one's affair.
    let held = Policy {
        in_recovery: [key(1)].into(),
        ..Policy::default()
    };
    assert!(explained([read_only(), behind()], &held).ready);
}

#[test]
fn another_controller_and_missing_privileges_are_named_before_anything_breaks() {
    let owned = Instance {
        another_controller: Some("ham4db@10.0.0.9".to_owned()),
        ..primary(1, "1:1-100")
    };
    let explanation = explained([owned, replica(2, 1, "1:1-100")], &Policy::default());
    assert!(!explanation.ready);
    assert!(
        explanation.obstacles.iter().any(|why| why.contains("ham4db@10.0.0.9")),
        "{explanation}"
    );

    let poor = |n: u32| {
        replica(n, 1, "1:1-100").facts(|facts| {
            facts.settings = Some(ServerSettings {
                account: "ham4db@%".to_owned(),
                privileges: Some(Privileges::default()),
                ..ServerSettings::default()
            });
        })
    };
    let explanation = explained(
        [primary(1, "1:1-100"), poor(2), replica(3, 1, "1:1-90")],
        &Policy::default(),
    );
    assert_eq!((explanation.ready, &explanation.successor), (false, &Some(key(2))));
    assert!(
        explanation
            .obstacles
            .iter()
            .any(|why| why.contains("SYSTEM_VARIABLES_ADMIN")),
        "{explanation}"
    );
    // One that would only follow is said among what is wrong, and stops nothing.
    let explanation = explained(
        [primary(1, "1:1-100"), replica(2, 1, "1:1-100"), poor(3)],
        &Policy::default(),
    );
    assert!(explanation.ready, "{explanation}");
    assert!(
        explanation.findings.iter().any(|held| held.code == "MissingPrivileges"),
        "{explanation}"
    );
}

#[test]
fn a_primary_that_may_still_be_starting_is_said_to_have_its_time() {
    let restarted = |n: u32| {
        replica(n, 1, "1:1-100")
            .cut()
            .facts(|facts| facts.uptime_seconds = 10)
            .channel(|channel| {
                channel.io_error.message = "Error connecting to source 'repl@db1:3306'".to_owned();
            })
    };
    let explanation = explained(
        [Instance::unseen(key(1)), restarted(2), restarted(3)],
        &Policy::default(),
    );
    assert!(!explanation.ready);
    assert!(
        explanation.obstacles.iter().any(|why| why.contains("start")),
        "{explanation}"
    );
}
