//! What a status says.

use std::collections::BTreeMap;

use super::fixture::{A, B, NOW, document, key, origin, seen, state, state_with, view};
use super::tests::{condition_of, downtime, later, names, of, settle};
use super::*;
use crate::domain::cluster_view::JudgedFinding;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::ProbeFailure;
use crate::domain::intent::{Intent, IntentDetails, PromotionRule};
use crate::domain::policy::{HeldBack, VoterProblem};
use crate::domain::version::Flavour;

#[test]
fn of_two_documents_on_one_cluster_the_owner_counts_and_the_other_says_so() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let mut younger = document("db", "users");
    younger.created = Some(NOW);
    younger.downtime = vec![downtime("b", None)];
    settle(&seen(vec![document("db", "orders")]), &mut state, &[], NOW);
    let both = seen(vec![document("db", "orders"), younger]);
    settle(&both, &mut state, std::slice::from_ref(&view), NOW);
    assert_eq!(state.intents, BTreeMap::new(), "only the owner's wishes count");
    let answer = reconcile(&both, &state, &[view], &BTreeMap::new(), NOW);
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Ready),
        (ConditionStatus::True, "Writable")
    );
    let other = of(&answer, "users");
    assert_eq!(
        condition_of(other, ConditionKind::Ready),
        (ConditionStatus::False, "OwnedByAnotherDocument")
    );
    assert!(other.problem.contains("cr:db/orders"), "{}", other.problem);
    assert_eq!(other.instances, Vec::new());
}

#[test]
fn a_seed_that_is_another_name_of_a_server_leads_to_the_same_cluster() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let mut younger = document("db", "users");
    younger.created = Some(NOW);
    younger.document.seeds = std::collections::BTreeSet::from([key("b.alias")]);
    younger.downtime = vec![downtime("b", None)];
    settle(&seen(vec![document("db", "orders")]), &mut state, &[], NOW);
    let both = seen(vec![document("db", "orders"), younger]);
    settle(&both, &mut state, std::slice::from_ref(&view), NOW);
    assert_eq!(state.intents, BTreeMap::new(), "only the owner's wishes count");
    let answer = reconcile(&both, &state, &[view], &BTreeMap::new(), NOW);
    assert_eq!(
        condition_of(of(&answer, "users"), ConditionKind::Discovered),
        (ConditionStatus::False, "OwnedByAnotherDocument")
    );
}

#[test]
fn seeds_that_lead_astray_are_named() {
    let mine = view(Some(origin("db", "orders")));
    let mut theirs = view(Some(origin("db", "users")));
    theirs.cluster.id.0 = "cluster-2".to_owned();
    theirs.cluster.instances = std::collections::BTreeSet::from([key("x")]);
    theirs.topology.instances = BTreeMap::from([(key("x"), crate::domain::instance::Instance::unseen(key("x")))]);
    let mut declared = document("db", "orders");
    declared.document.seeds.insert(key("x"));
    let state = state_with(&mine);
    let answer = reconcile(
        &seen(vec![declared.clone()]),
        &state,
        &[mine.clone(), theirs.clone()],
        &BTreeMap::new(),
        NOW,
    );
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Discovered),
        (ConditionStatus::False, "SeedBelongsToAnother")
    );

    theirs.cluster.document = Some(origin("db", "orders"));
    let answer = reconcile(
        &seen(vec![declared]),
        &state,
        &[mine.clone(), theirs],
        &BTreeMap::new(),
        NOW,
    );
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Discovered),
        (ConditionStatus::False, "SeveralTopologies")
    );

    let mut declared = document("db", "orders");
    declared.document.seeds.insert(key("nobody"));
    let answer = reconcile(&seen(vec![declared]), &state, &[mine], &BTreeMap::new(), NOW);
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Discovered),
        (ConditionStatus::Unknown, "SeedNotFound")
    );
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Ready),
        (ConditionStatus::True, "Writable")
    );
}

#[test]
fn a_healthy_cluster_reads_as_healthy() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let answer = settle(&seen(vec![document("db", "orders")]), &mut state, &[view], NOW);
    let model = of(&answer, "orders");
    let expected = [
        (ConditionKind::Ready, ConditionStatus::True),
        (ConditionKind::Discovered, ConditionStatus::True),
        (ConditionKind::PrimaryWritable, ConditionStatus::True),
        (ConditionKind::ReplicationHealthy, ConditionStatus::True),
        (ConditionKind::RecoveryActive, ConditionStatus::False),
        (ConditionKind::RecoveryBlocked, ConditionStatus::False),
        (ConditionKind::ErrantGtids, ConditionStatus::False),
        (ConditionKind::Downtimed, ConditionStatus::False),
        (ConditionKind::Paused, ConditionStatus::False),
        (ConditionKind::CredentialsMissing, ConditionStatus::False),
        (ConditionKind::RaftHealthy, ConditionStatus::True),
        (ConditionKind::UndiscoveredServers, ConditionStatus::False),
        (ConditionKind::PrimaryServicePublished, ConditionStatus::False),
        (ConditionKind::DefinitionCurrent, ConditionStatus::True),
        (ConditionKind::Reconciling, ConditionStatus::False),
        (ConditionKind::Stalled, ConditionStatus::False),
    ];
    let told: Vec<(ConditionKind, ConditionStatus)> = model
        .conditions
        .iter()
        .map(|condition| (condition.kind, condition.status))
        .collect();
    assert_eq!(told, expected);
    assert_eq!(model.problem, "");
    assert_eq!(model.answering(), (3, 3));
    assert_eq!(model.worst_lag(), Some(2));
    assert_eq!(model.primary.as_ref().unwrap().epoch, 3);
    let roles: Vec<Role> = model.instances.iter().map(|instance| instance.role).collect();
    assert_eq!(roles, [Role::Primary, Role::Replica, Role::Replica]);
}

#[test]
fn each_dead_follower_is_named() {
    let mut view = view(Some(origin("db", "orders")));
    view.policy.voters = ["m1", "m2", "m3"].map(|name| (name.to_owned(), String::new())).into();
    let condition = |view: &crate::domain::cluster_view::ClusterView| {
        let mut state = state_with(view);
        let answer = settle(
            &seen(vec![document("db", "orders")]),
            &mut state,
            std::slice::from_ref(view),
            NOW,
        );
        let condition = of(&answer, "orders").condition(ConditionKind::RaftHealthy).cloned();
        let condition = condition.unwrap();
        (condition.status, condition.reason, condition.message)
    };
    let confirmed = "a majority of the voters m1, m2, m3 confirmed the leader";
    assert_eq!(
        condition(&view),
        (ConditionStatus::True, "Quorum", confirmed.to_owned())
    );
    view.policy.voter_problems = BTreeMap::from([
        ("m1".to_owned(), VoterProblem::ClockSkew),
        ("m2".to_owned(), VoterProblem::Silent),
        ("m3".to_owned(), VoterProblem::Silent),
    ]);
    assert_eq!(
        condition(&view),
        (
            ConditionStatus::False,
            "MemberSilent",
            format!(
                "no answer from m2, m3: start it, or remove it from the group; ClockSkew: the clock of m1 differs from the majority's: \
                 correct it; {confirmed}"
            )
        )
    );
    view.policy
        .voter_problems
        .retain(|_, problem| *problem == VoterProblem::ClockSkew);
    assert_eq!(condition(&view).1, "ClockSkew");
}

#[test]
fn what_was_not_seen_is_unknown_and_never_healthy() {
    let mut state = state();
    let answer = settle(&seen(vec![document("db", "orders")]), &mut state, &[], NOW);
    let model = of(&answer, "orders");
    for kind in [
        ConditionKind::Ready,
        ConditionKind::Discovered,
        ConditionKind::PrimaryWritable,
        ConditionKind::ErrantGtids,
        ConditionKind::RaftHealthy,
        ConditionKind::UndiscoveredServers,
    ] {
        assert_eq!(
            condition_of(model, kind),
            (ConditionStatus::Unknown, "NotSeenYet"),
            "{kind:?}"
        );
    }
    assert_eq!(
        condition_of(model, ConditionKind::Reconciling),
        (ConditionStatus::True, "Discovering")
    );
    assert_eq!(
        condition_of(model, ConditionKind::Stalled),
        (ConditionStatus::False, "NotStalled")
    );
}

#[test]
fn a_primary_that_does_not_answer_is_not_ready_and_a_held_back_recovery_says_why() {
    let mut view = view(Some(origin("db", "orders")));
    view.topology.instances.get_mut(&key("a")).unwrap().failure = Some(ProbeFailure::Refused);
    let finding = Finding {
        code: Code::DeadMaster,
        instance: key("a"),
        cluster: view.cluster.id.clone(),
        description: "unreachable and no replica receives".to_owned(),
        evidence: Evidence {
            is_primary: true,
            ..Evidence::default()
        },
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    view.findings = vec![JudgedFinding::new(finding, Some(HeldBack::Paused))];
    let state = state_with(&view);
    let answer = reconcile(
        &seen(vec![document("db", "orders")]),
        &state,
        &[view],
        &BTreeMap::new(),
        NOW,
    );
    let model = of(&answer, "orders");
    assert_eq!(
        condition_of(model, ConditionKind::Ready),
        (ConditionStatus::Unknown, "PrimaryUnreachable")
    );
    assert_eq!(
        condition_of(model, ConditionKind::RecoveryBlocked),
        (ConditionStatus::True, "HeldBack")
    );
    let recovery = model.recovery.as_ref().unwrap();
    assert_eq!(
        (recovery.phase, recovery.failure, &recovery.old_primary),
        (RecoveryPhase::Blocked, Code::DeadMaster, &key("a"))
    );
    assert_eq!(model.instances[0].read_only, None);
    assert!(model.problem.contains("paused"), "{}", model.problem);
    assert_eq!(
        condition_of(model, ConditionKind::Stalled),
        (ConditionStatus::True, "HeldBack")
    );
    assert_eq!(
        condition_of(model, ConditionKind::Reconciling),
        (ConditionStatus::False, "Settled")
    );
}

#[test]
fn a_missing_account_is_the_first_thing_to_mend() {
    for (secret, reason) in [
        (
            SecretState::Missing("Secret s does not exist".to_owned()),
            "CredentialsMissing",
        ),
        (
            SecretState::Forbidden("apply a Role".to_owned()),
            "CredentialsForbidden",
        ),
    ] {
        let mut declared = document("db", "orders");
        declared.secret = secret;
        let mut state = state();
        let answer = settle(&seen(vec![declared]), &mut state, &[], NOW);
        assert_eq!(
            condition_of(of(&answer, "orders"), ConditionKind::Ready),
            (ConditionStatus::False, reason)
        );
        assert_eq!(
            condition_of(of(&answer, "orders"), ConditionKind::CredentialsMissing),
            (ConditionStatus::True, reason)
        );
        assert_eq!(
            condition_of(of(&answer, "orders"), ConditionKind::Stalled),
            (ConditionStatus::True, reason)
        );
    }
}

#[test]
fn downtimes_say_what_became_of_them() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let api = Intent {
        instance: key("c"),
        origin: Origin::Api,
        details: IntentDetails::Downtime {
            owner: "bob".to_owned(),
            reason: "test".to_owned(),
            since: NOW,
            until: None,
        },
    };
    state.intents.insert(api.id(), api);
    let mut declared = document("db", "orders");
    declared.downtime = vec![
        downtime("b.alias", Some(later(60_000))),
        downtime("nobody", None),
        downtime("a", Some(later(-1))),
    ];
    let documents = seen(vec![declared]);
    settle(&documents, &mut state, std::slice::from_ref(&view), NOW);
    let answer = reconcile(&documents, &state, std::slice::from_ref(&view), &BTreeMap::new(), NOW);
    let model = of(&answer, "orders");
    let phases: Vec<(String, DowntimePhase, DowntimeOrigin)> = model
        .downtime
        .iter()
        .map(|entry| (entry.instance.hostname.clone(), entry.phase, entry.origin))
        .collect();
    assert_eq!(
        phases,
        [
            ("b.alias".to_owned(), DowntimePhase::Active, DowntimeOrigin::Document),
            ("nobody".to_owned(), DowntimePhase::NotFound, DowntimeOrigin::Document),
            ("a".to_owned(), DowntimePhase::Expired, DowntimeOrigin::Document),
            ("c".to_owned(), DowntimePhase::Active, DowntimeOrigin::Api),
        ]
    );
    let ends: Vec<Option<DowntimeEnd>> = model.instances.iter().map(|instance| instance.downtime).collect();
    assert_eq!(
        ends,
        [
            None,
            Some(DowntimeEnd::At(later(60_000))),
            Some(DowntimeEnd::Indefinite)
        ]
    );
    assert_eq!(
        condition_of(model, ConditionKind::Downtimed),
        (ConditionStatus::True, "InDowntime")
    );

    // Its time passes: no command, and it is shown.
    let answer = reconcile(&documents, &state, &[view], &BTreeMap::new(), later(60_000));
    assert_eq!(answer.commands, Vec::new());
    assert_eq!(of(&answer, "orders").downtime[0].phase, DowntimePhase::Expired);
}

#[test]
fn an_end_moved_into_the_past_ends_a_downtime() {
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", Some(later(60_000)))];
    let mut state = state();
    settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    declared.downtime = vec![downtime("b", Some(later(-60_000)))];
    let answer = settle(&seen(vec![declared]), &mut state, &[], later(1));
    assert_eq!(names(&answer), ["end-intent"]);
}

#[test]
fn errant_transactions_are_shown_and_a_later_look_at_a_replica_is_no_error() {
    let mut view = view(Some(origin("db", "orders")));
    let set = |text: &str| GtidSet::parse(Flavour::MySql, text).unwrap();
    let executed = |view: &mut ClusterView, host: &str, text: &str| {
        view.topology
            .instances
            .get_mut(&key(host))
            .unwrap()
            .facts
            .as_mut()
            .unwrap()
            .executed = set(text);
    };
    executed(&mut view, "b", &format!("{A}:1-110"));
    let state = state_with(&view);
    let documents = seen(vec![document("db", "orders")]);
    let answer = reconcile(&documents, &state, std::slice::from_ref(&view), &BTreeMap::new(), NOW);
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::ErrantGtids).0,
        ConditionStatus::False
    );
    executed(&mut view, "b", &format!("{A}:1-110,{B}:1-2"));
    let answer = reconcile(&documents, &state, &[view], &BTreeMap::new(), NOW);
    assert_eq!(
        of(&answer, "orders").instances[1].errant,
        Some(set(&format!("{B}:1-2")))
    );
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::ErrantGtids).0,
        ConditionStatus::True
    );
}

#[test]
fn promotion_rules_prefer_never_then_documents_then_the_api() {
    let view = view(Some(origin("db", "orders")));
    for (api, cr, expected) in [
        (PromotionRule::MustNot, PromotionRule::Must, PromotionRule::MustNot),
        (PromotionRule::Must, PromotionRule::MustNot, PromotionRule::MustNot),
        (PromotionRule::Must, PromotionRule::PreferNot, PromotionRule::PreferNot),
    ] {
        let mut state = state_with(&view);
        for (origin, rule) in [(Origin::Api, api), (origin("db", "orders"), cr)] {
            let intent = Intent {
                instance: key("b"),
                origin,
                details: IntentDetails::Candidate { rule, until: None },
            };
            state.intents.insert(intent.id(), intent);
        }
        let mut declared = document("db", "orders");
        declared.candidates = vec![DeclaredCandidate {
            instance: key("b"),
            rule: cr,
        }];
        let answer = settle(&seen(vec![declared]), &mut state, std::slice::from_ref(&view), NOW);
        assert_eq!(of(&answer, "orders").instances[1].promotion_rule, expected);
    }
}

#[test]
fn a_status_does_not_change_by_itself() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let documents = seen(vec![document("db", "orders")]);
    let first = settle(&documents, &mut state, std::slice::from_ref(&view), NOW);
    let second = reconcile(
        &documents,
        &state,
        std::slice::from_ref(&view),
        &first.vanished,
        later(3_600_000),
    );
    assert_eq!(first.statuses, second.statuses);

    let mut lagging = view.clone();
    for instance in lagging.topology.instances.values_mut() {
        if let Some(channel) = instance.facts.as_mut().and_then(|facts| facts.channels.first_mut()) {
            channel.lag_seconds = Some(77);
        }
    }
    let third = reconcile(&documents, &state, &[lagging], &first.vanished, NOW);
    assert_ne!(third.statuses, second.statuses);
    assert!(
        !of(&third, "orders").differs_in_substance(of(&second, "orders")),
        "lag alone is not urgent"
    );
}

#[test]
fn a_status_says_who_could_be_promoted_and_what_would_hold_a_recovery_back_before_anything_fails() {
    let declared = || seen(vec![document("db", "orders")]);
    let mut view = view(Some(origin("db", "orders")));
    for replica in ["b", "c"] {
        let facts = view
            .topology
            .instances
            .get_mut(&key(replica))
            .unwrap()
            .facts
            .as_mut()
            .unwrap();
        facts.log_replica_updates = true;
        facts.gtid_mode = "ON".to_owned();
        facts.channels[0].positioning = crate::domain::instance::Positioning::AutoPosition;
    }
    let state = state_with(&view);
    let status = |view: &ClusterView| {
        let answer = reconcile(&declared(), &state, std::slice::from_ref(view), &BTreeMap::new(), NOW);
        of(&answer, "orders").clone()
    };
    let could = |model: &StatusModel| -> Vec<Option<bool>> {
        let ok = |instance: &InstanceStatus| instance.promotable.as_ref().map(|promotable| promotable.ok);
        model.instances.iter().map(ok).collect()
    };
    let healthy = status(&view);
    assert_eq!(could(&healthy), [None, Some(true), Some(true)]);
    assert_eq!(healthy.recovery, None);

    // Who is ahead changes all the time: that is no news.
    let replica = view.topology.instances.get_mut(&key("c")).unwrap();
    replica.facts.as_mut().unwrap().executed = GtidSet::parse(Flavour::MySql, &format!("{A}:1-90")).unwrap();
    let behind = status(&view);
    assert_eq!(behind, healthy);

    view.policy.held_back = Some(crate::domain::policy::HeldBack::Paused);
    for host in ["b", "c"] {
        view.policy.promotion_rules.insert(key(host), PromotionRule::MustNot);
    }
    let blocked = status(&view);
    assert_eq!(could(&blocked), [None, Some(false), Some(false)]);
    assert_eq!(
        blocked.instances[1].promotable.as_ref().map(|told| told.why.as_str()),
        Some("promotion rule must_not")
    );
    let recovery = blocked.recovery.as_ref().expect("it would be held back");
    assert_eq!(recovery.phase, RecoveryPhase::WouldBlock);
    assert_eq!(
        recovery.blocked_by,
        ["the document has paused: true", "no replica can be promoted"]
    );
    assert!(blocked.differs_in_substance(&healthy));
    assert_eq!(
        condition_of(&blocked, ConditionKind::RecoveryBlocked),
        (ConditionStatus::False, "NothingHeldBack"),
        "nothing calls for a recovery"
    );
}
