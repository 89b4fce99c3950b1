//! What is proposed, and when.

use std::collections::BTreeMap;

use super::fixture::{B, NOW, document, key, origin, seen, state, state_with, view};
use super::*;
use crate::domain::intent::{Intent, IntentDetails, IntentId, IntentKind, PromotionRule};
use crate::domain::policy::RecoveryMode;
use crate::domain::state::{Proposal, apply, command::COMMAND_VERSION};

pub(super) fn later(millis: i64) -> WallTime {
    NOW.plus_millis(millis)
}

/// Reconciles, applies, and says what was proposed; then shows that nothing is left to do.
pub(super) fn settle(seen: &SourceContents, state: &mut State, views: &[ClusterView], now: WallTime) -> Reconciliation {
    let answer = reconcile(seen, state, views, &BTreeMap::new(), now);
    for command in &answer.commands {
        apply(
            state,
            &Proposal {
                version: COMMAND_VERSION,
                at: now,
                command: command.clone(),
            },
        );
    }
    let again = reconcile(seen, state, views, &answer.vanished, now);
    assert_eq!(again.commands, Vec::new(), "a second reconcile has nothing to do");
    answer
}

pub(super) fn downtime(host: &str, until: Option<WallTime>) -> DeclaredDowntime {
    DeclaredDowntime {
        instance: key(host),
        owner: "alice".to_owned(),
        reason: "disk".to_owned(),
        until,
    }
}

pub(super) fn names(answer: &Reconciliation) -> Vec<&'static str> {
    answer.commands.iter().map(Command::name).collect()
}

pub(super) fn of<'a>(answer: &'a Reconciliation, name: &str) -> &'a StatusModel {
    &answer.statuses[&origin("db", name)]
}

pub(super) fn condition_of(model: &StatusModel, kind: ConditionKind) -> (ConditionStatus, &'static str) {
    let condition = model.condition(kind).unwrap();
    (condition.status, condition.reason)
}

#[test]
fn a_new_document_is_put_once_with_its_wishes() {
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", Some(later(60_000)))];
    declared.candidates = vec![DeclaredCandidate {
        instance: key("c"),
        rule: PromotionRule::Prefer,
    }];
    let mut state = state();
    let answer = settle(&seen(vec![declared]), &mut state, &[], NOW);
    assert_eq!(names(&answer), ["put-document", "set-intent", "set-intent"]);
    let id = IntentId {
        kind: IntentKind::Downtime,
        instance: key("b"),
        origin: origin("db", "orders"),
    };
    assert_eq!(
        state.intents[&id].details,
        IntentDetails::Downtime {
            owner: "alice".to_owned(),
            reason: "disk".to_owned(),
            since: NOW,
            until: Some(later(60_000))
        }
    );
}

#[test]
fn only_what_changed_is_proposed() {
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", None)];
    let mut state = state();
    settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    declared.document.generation = 2;
    declared.document.paused = true;
    let answer = settle(&seen(vec![declared.clone()]), &mut state, &[], later(5_000));
    assert_eq!(names(&answer), ["put-document"]);
    declared.downtime[0].reason = "memory".to_owned();
    let answer = settle(&seen(vec![declared]), &mut state, &[], later(6_000));
    assert_eq!(names(&answer), ["set-intent"]);
}

#[test]
fn an_entry_that_goes_is_withdrawn_and_only_its_own() {
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", None)];
    declared.candidates = vec![DeclaredCandidate {
        instance: key("c"),
        rule: PromotionRule::MustNot,
    }];
    let mut state = state();
    let api = Intent {
        instance: key("b"),
        origin: Origin::Api,
        details: IntentDetails::Candidate {
            rule: PromotionRule::Must,
            until: None,
        },
    };
    state.intents.insert(api.id(), api.clone());
    settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    declared.downtime.clear();
    declared.candidates.clear();
    let answer = settle(&seen(vec![declared]), &mut state, &[], later(1));
    assert_eq!(names(&answer), ["end-intent", "end-intent"]);
    assert_eq!(state.intents.keys().cloned().collect::<Vec<_>>(), vec![api.id()]);
}

#[test]
fn a_document_that_goes_is_withdrawn_after_a_complete_reading_and_not_before() {
    let mut state = state();
    let both = vec![document("db", "orders"), document("db", "users")];
    settle(&seen(both.clone()), &mut state, &[], NOW);
    let rest = vec![both[0].clone()];
    for completeness in [Completeness::Stale, Completeness::Partial] {
        let answer = reconcile(
            &SourceContents {
                completeness,
                ..seen(rest.clone())
            },
            &state,
            &[],
            &BTreeMap::new(),
            NOW,
        );
        assert_eq!(answer.commands, Vec::new(), "{completeness:?}");
    }
    let answer = settle(&seen(rest), &mut state, &[], NOW);
    assert_eq!(
        answer.commands,
        [Command::WithdrawDocument {
            origin: origin("db", "users")
        }]
    );
}

#[test]
fn the_only_document_of_a_namespace_is_withdrawn_at_once() {
    let mut state = state();
    settle(&seen(vec![document("db", "orders")]), &mut state, &[], NOW);
    let answer = settle(&seen(Vec::new()), &mut state, &[], later(1));
    assert_eq!(names(&answer), ["withdraw-document"]);
}

#[test]
fn all_documents_of_a_namespace_at_once_are_held_for_ten_minutes() {
    let mut state = state();
    let all = vec![
        document("db", "orders"),
        document("db", "users"),
        document("other", "carts"),
    ];
    settle(&seen(all.clone()), &mut state, &[], NOW);
    let other = seen(vec![all[2].clone()]);

    let first = reconcile(&other, &state, &[], &BTreeMap::new(), NOW);
    assert_eq!(first.commands, Vec::new());
    assert_eq!(first.vanished.len(), 2);
    assert!(
        first.warnings.iter().any(|warning| warning.contains("namespace db")),
        "{:?}",
        first.warnings
    );

    let almost = reconcile(&other, &state, &[], &first.vanished, later(599_999));
    assert_eq!(almost.commands, Vec::new());
    // An outage in between neither ends the hold nor starts it again.
    let outage = reconcile(
        &SourceContents {
            completeness: Completeness::Stale,
            ..other.clone()
        },
        &state,
        &[],
        &almost.vanished,
        later(599_999),
    );
    assert_eq!(outage.vanished, first.vanished);
    let over = reconcile(&other, &state, &[], &outage.vanished, later(600_000));
    assert_eq!(names(&over), ["withdraw-document", "withdraw-document"]);

    let back = reconcile(&seen(all), &state, &[], &first.vanished, later(5_000));
    assert_eq!(back.commands, Vec::new());
    assert_eq!(back.vanished, BTreeMap::new());
}

#[test]
fn what_cannot_be_read_keeps_what_it_last_asked_for() {
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", None)];
    let mut state = state();
    settle(&seen(vec![declared]), &mut state, &[], NOW);
    let mut broken = seen(Vec::new());
    broken
        .unreadable
        .insert(origin("db", "orders"), "spec.seeds: invalid type".to_owned());
    let answer = settle(&broken, &mut state, &[], later(1));
    assert_eq!(answer.commands, Vec::new());
    assert_eq!(
        condition_of(of(&answer, "orders"), ConditionKind::Ready),
        (ConditionStatus::False, "Unreadable")
    );
    assert_eq!(of(&answer, "orders").conditions.len(), ConditionKind::ALL.len());
}

#[test]
fn a_member_whose_view_lags_does_not_turn_the_state_back() {
    let mut new = document("db", "orders");
    new.document.generation = 5;
    new.document.paused = true;
    let mut state = state();
    settle(&seen(vec![new]), &mut state, &[], NOW);
    let answer = reconcile(
        &seen(vec![document("db", "orders")]),
        &state,
        &[],
        &BTreeMap::new(),
        NOW,
    );
    assert_eq!(answer.commands, Vec::new());
    assert!(answer.warnings[0].contains("is delayed"), "{:?}", answer.warnings);

    // Deleted and made again: a new uid is a new document, whatever its generation is.
    let mut again = document("db", "orders");
    again.document.uid = "uid-2".to_owned();
    let answer = settle(&seen(vec![again]), &mut state, &[], NOW);
    assert_eq!(names(&answer), ["put-document"]);
}

#[test]
fn a_source_without_creation_times_counts_from_the_first_record() {
    let mut declared = document("default", "orders");
    declared.created = None;
    let mut state = state();
    settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    assert_eq!(state.documents[&origin("default", "orders")].created, NOW);
    let answer = settle(&seen(vec![declared]), &mut state, &[], later(99_000));
    assert_eq!(answer.commands, Vec::new());
}

#[test]
fn another_groups_document_is_only_observed_until_it_falls_silent() {
    let mut declared = document("db", "orders");
    declared.observed_by = Some(ObservedBy {
        cluster_uuid: "theirs".to_owned(),
        renewed: NOW,
    });
    let mut state = state();
    let seen = seen(vec![declared]);
    let answer = settle(&seen, &mut state, &[], later(89_999));
    assert_eq!(answer.statuses, BTreeMap::new());
    assert!(
        answer.warnings[0].contains("OwnedByAnotherGroup"),
        "{:?}",
        answer.warnings
    );
    assert_eq!(state.documents[&origin("db", "orders")].mode, RecoveryMode::DetectOnly);
    let answer = settle(&seen, &mut state, &[], later(90_000));
    assert_eq!(names(&answer), ["put-document"]);
    assert_eq!(state.documents[&origin("db", "orders")].mode, RecoveryMode::Auto);
    assert_eq!(answer.statuses.len(), 1);
}

#[test]
fn the_quarantine_of_a_server_that_a_document_no_longer_names_lasted_for_ever() {
    use crate::domain::instance::{Identity, ProbeFailure};
    use crate::domain::state::{Quarantine, QuarantineState};

    for (failure, proposed) in [
        (Some(ProbeFailure::Refused), vec!["forget-gone", "put-document"]),
        (None, vec!["put-document"]),
    ] {
        let is_gone = failure.is_some();
        let mut view = view(Some(origin("db", "orders")));
        let mut state = state_with(&view);
        let mut declared = document("db", "orders");
        declared.document.seeds.insert(key("b"));
        settle(
            &seen(vec![declared.clone()]),
            &mut state,
            std::slice::from_ref(&view),
            NOW,
        );
        view.topology.instances.get_mut(&key("b")).unwrap().failure = failure;
        let held = Quarantine {
            identity: Identity::ServerUuid(B.to_owned()),
            instance: key("b"),
            cluster: view.cluster.id.clone(),
            recovery: "r".to_owned(),
            epoch: 1,
            since: NOW,
            standing: QuarantineState::Absent,
        };
        state.quarantines.insert("held".to_owned(), held);
        declared.document.generation = 2;
        declared.document.seeds.remove(&key("b"));
        let answer = settle(
            &seen(vec![declared]),
            &mut state,
            std::slice::from_ref(&view),
            later(1000),
        );
        assert_eq!(names(&answer), proposed);
        assert_eq!(
            state.quarantines.is_empty(),
            is_gone,
            "a server that answers is still held"
        );
    }
}
