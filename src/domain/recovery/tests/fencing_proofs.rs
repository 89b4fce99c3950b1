//! Which proof allows an opening.

use super::*;
use crate::domain::instance::SemiSync;
use crate::domain::recovery::fencing_proof::{FencingProof, fencing_proof, predict};
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::settings::{Accounts, ServerSettings};
use crate::domain::version::ServerVersion;

/// A primary that waits for `count` of its replicas, whoever is connected, for ten seconds.
fn waiting(count: u32) -> Instance {
    db1().facts(|facts| {
        facts.semi_sync = SemiSync {
            available: true,
            source_enabled: true,
            timeout_millis: 10_000,
            wait_for_count: count,
            wait_no_replica: true,
            after_sync: true,
            source_active: true,
            clients: 3,
            ..SemiSync::default()
        };
    })
}

fn acknowledging(n: u32, io: ThreadState) -> Instance {
    cut(n, "1:1-100")
        .facts(|facts| facts.semi_sync.replica_enabled = true)
        .channel(|channel| channel.io = io)
}

fn fenced(outcome: Outcome) -> Vec<StepResult> {
    vec![StepResult {
        step: Step::Fence { old_primary: key(1) },
        outcomes: [(key(1), outcome)].into(),
    }]
}

fn plan_of(tree: &Topology) -> Plan {
    let policy = Policy {
        loss: LossPolicy::Allow,
        ..Policy::default()
    };
    planned(tree, &policy).0.unwrap()
}

#[test]
fn the_old_primarys_word_is_the_best_proof() {
    let tree = topology([db1(), cut(2, "1:1-100")]);
    let plan = plan_of(&tree);
    assert_eq!(
        fencing_proof(&plan, &fenced(Outcome::Done), &tree, None, NOW),
        FencingProof::OldPrimaryReadOnly { bypass: None }
    );
    let unanswered = fenced(Outcome::NoAnswer("refused".to_owned()));
    let told = fencing_proof(&plan, &unanswered, &tree, None, NOW).to_string();
    assert!(told.starts_with("none") && told.contains("without semi-sync"), "{told}");
}

#[test]
fn a_primary_that_cannot_get_its_acknowledgements_takes_no_write() {
    use ThreadState::{Connecting, Stopped};
    // Two acknowledgements of three replicas: two of them stopped are enough.
    let tree = |third| {
        topology([
            waiting(2),
            acknowledging(2, Stopped),
            acknowledging(3, Stopped),
            acknowledging(4, third),
        ])
    };
    let plan = plan_of(&tree(Connecting));
    let revoked = fencing_proof(&plan, &[], &tree(Connecting), None, NOW.plus_millis(9_999));
    let wanted = FencingProof::AcksRevoked {
        stopped: 2,
        of: 3,
        needed: 2,
        until: NOW.plus_millis(10_000),
    };
    assert_eq!(revoked, wanted);
    // It may have given up waiting.
    let late = fencing_proof(&plan, &[], &tree(Connecting), None, NOW.plus_millis(10_000)).to_string();
    assert!(late.contains("stops waiting"), "{late}");
    let one = topology([
        waiting(2),
        acknowledging(2, Stopped),
        acknowledging(3, Stopped).dead(),
        acknowledging(4, Connecting),
    ]);
    let told = fencing_proof(&plan, &[], &one, None, NOW).to_string();
    assert!(
        told.contains("1 of 3 semi-sync replicas") && told.contains("2 are needed"),
        "{told}"
    );
    // One that the primary counted and nobody knows may acknowledge.
    let few = topology([waiting(1), acknowledging(2, Stopped)]);
    let told = fencing_proof(&plan_of(&few), &[], &few, None, NOW).to_string();
    assert!(told.contains("1 of 3") && told.contains("3 are needed"), "{told}");
}

#[test]
fn what_was_seen_before_semi_sync_was_changed_proves_nothing() {
    let tree = topology([
        waiting(1),
        acknowledging(2, ThreadState::Stopped),
        acknowledging(3, ThreadState::Stopped),
        acknowledging(4, ThreadState::Stopped),
    ]);
    let proof = |tree: &Topology, changed| fencing_proof(&plan_of(tree), &[], tree, changed, NOW);
    let before = Some(NOW.plus_millis(-1));
    assert!(matches!(proof(&tree, before), FencingProof::AcksRevoked { of: 3, .. }));
    let told = proof(&tree, Some(NOW)).to_string();
    assert!(told.contains("not seen since"), "{told}");
    // Who did not acknowledge then may do so now, and does not answer: four may acknowledge, and three of them are stopped.
    let gone = Instance {
        last_seen: Some(NOW.plus_millis(-5_000)),
        ..cut(5, "1:1-100").dead()
    };
    let mut tree = tree;
    tree.instances.insert(key(5), gone);
    let proof_of = |changed: i64| proof(&tree, Some(NOW.plus_millis(changed)));
    assert!(matches!(proof_of(-6_000), FencingProof::AcksRevoked { of: 3, .. }));
    let told = proof_of(-4_000).to_string();
    assert!(
        told.contains("3 of 4 semi-sync replicas") && told.contains("4 are needed"),
        "{told}"
    );
}

#[test]
fn any_weaker_semi_sync_is_no_proof() {
    let weaker: [fn(&mut SemiSync); 4] = [
        |semi_sync| semi_sync.after_sync = false,
        |semi_sync| semi_sync.wait_no_replica = false,
        |semi_sync| semi_sync.source_active = false,
        |semi_sync| semi_sync.source_enabled = false,
    ];
    for weaken in weaker {
        let primary = waiting(1).facts(|facts| weaken(&mut facts.semi_sync));
        let tree = topology([primary, acknowledging(2, ThreadState::Stopped)]);
        assert!(matches!(
            fencing_proof(&plan_of(&tree), &[], &tree, None, NOW),
            FencingProof::AcceptedByPolicy { .. }
        ));
    }
}

#[test]
fn a_proof_is_foretold_for_the_replicas_that_answer() {
    let tree = topology([
        waiting(1),
        acknowledging(2, ThreadState::Connecting),
        acknowledging(3, ThreadState::Connecting),
        acknowledging(4, ThreadState::Connecting),
    ]);
    let plan = plan_of(&tree);
    assert!(matches!(
        predict(&plan, &tree, None, NOW),
        FencingProof::AcksRevoked { stopped: 3, .. }
    ));
}

/// A fenced primary whose version has no `super_read_only`, like MariaDB, and these accounts are not stopped by it.
fn without_super_read_only(past_read_only: Option<Accounts>) -> Instance {
    db1().facts(|facts| {
        facts.version = ServerVersion::parse("5.6.51", "MySQL").unwrap();
        facts.settings = Some(ServerSettings {
            past_read_only,
            ..ServerSettings::default()
        });
    })
}

#[test]
fn read_only_that_accounts_bypass_is_a_weak_proof_and_says_so() {
    let told = |past_read_only| {
        let tree = topology([without_super_read_only(past_read_only), cut(2, "1:1-100")]);
        let plan = plan_of(&tree);
        fencing_proof(&plan, &fenced(Outcome::Done), &tree, None, NOW)
    };
    let nobody = told(Some(Accounts::default()));
    assert_eq!(nobody, FencingProof::OldPrimaryReadOnly { bypass: None });
    let app = told(Some(Accounts {
        count: 2,
        names: vec!["app@%".to_owned(), "etl@%".to_owned()],
    }));
    assert!(app.is_weak());
    assert_eq!(
        app.to_string(),
        "the old primary confirmed that it is read-only and its client sessions were killed, but 2 accounts can write despite \
         read_only (app@%, etl@%)"
    );
    let unknown = told(None);
    assert!(
        unknown.is_weak() && unknown.to_string().contains("is unknown"),
        "{unknown}"
    );
}

#[test]
fn the_proofs_of_earlier_versions_are_read_and_read_theirs() {
    let before: FencingProof = serde_json::from_str(r#"{"receipt":"oldPrimaryReadOnly"}"#).unwrap();
    assert_eq!(before, FencingProof::OldPrimaryReadOnly { bypass: None });
    assert_eq!(
        serde_json::to_string(&before).unwrap(),
        r#"{"receipt":"oldPrimaryReadOnly"}"#
    );
}
