//! What a document asks for while the API server hides a part of it.

use std::collections::{BTreeMap, BTreeSet};

use super::fixture::{NOW, document, key, origin, seen, state, state_with, view};
use super::tests::{condition_of, downtime, names, of, settle};
use super::*;
use crate::domain::intent::PromotionRule;
use crate::domain::policy::{OldPrimary, RecoveryMode};
use crate::domain::state::{RequestProgress, request_key};

const KIND: ConditionKind = ConditionKind::DefinitionCurrent;

fn lacking(fields: &[&str]) -> Definition {
    Definition::Read {
        lacks: fields.iter().map(|field| (*field).to_owned()).collect(),
        has_more: BTreeSet::new(),
    }
}

/// A document that asks for everything of which something stays.
fn whole(generation: i64) -> DeclaredCluster {
    let mut declared = document("db", "orders");
    declared.document.generation = generation;
    declared.document.mode = RecoveryMode::DetectOnly;
    declared.document.old_primary = OldPrimary::Rejoin;
    declared.document.durability = Some(crate::domain::policy::Durability::default());
    declared.downtime = vec![downtime("b", None)];
    declared.candidates = vec![DeclaredCandidate {
        instance: key("c"),
        rule: PromotionRule::MustNot,
    }];
    declared.takeover = Some(DeclaredTakeover {
        id: "t".to_owned(),
        target: Some(key("b")),
        catch_up_seconds: Some(5),
        deadline: NOW.plus_millis(3_600_000),
    });
    declared.services = Some(DeclaredServices {
        primary: "orders-primary".to_owned(),
        port: 3306,
        replicas: Some("orders-replicas".to_owned()),
    });
    declared
}

/// The same without any of it, as it is read when the fields are hidden, or were removed.
fn hidden(generation: i64) -> DeclaredCluster {
    let mut declared = document("db", "orders");
    declared.document.generation = generation;
    declared.absent = optional_fields().collect();
    declared
}

/// Everything that lasts of a document is as [`whole`] asks.
fn stays(state: &State, answer: &Reconciliation) -> bool {
    let recorded = &state.documents[&origin("db", "orders")];
    let request = &state.requests[&request_key(&origin("db", "orders"), "takeover", "t")];
    recorded.mode == RecoveryMode::DetectOnly
        && recorded.old_primary == OldPrimary::Rejoin
        && recorded.durability.is_some()
        && recorded.services == whole(1).services
        && state.intents.len() == 2
        && request.progress == RequestProgress::Pending
        && answer.publications[&origin("db", "orders")].services.len() == 2
        && of(answer, "orders").downtime.len() == 1
}

#[test]
fn what_an_older_definition_hides_stays_whatever_is_changed_meanwhile() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    settle(&seen(vec![whole(1)]), &mut state, std::slice::from_ref(&view), NOW);
    for generation in [1, 2] {
        let seen = SourceContents {
            definition: lacking(&["spec", "status.takeover"]),
            ..seen(vec![hidden(generation)])
        };
        let answer = settle(&seen, &mut state, std::slice::from_ref(&view), NOW);
        assert!(stays(&state, &answer), "{state:#?}");
        let status = of(&answer, "orders");
        assert_eq!(
            condition_of(status, KIND),
            (ConditionStatus::False, "OlderThanThisVersion")
        );
        let message = &status.condition(KIND).unwrap().message;
        assert!(
            message.contains("without spec, status.takeover:") && message.contains("ham4db crd | kubectl apply"),
            "{message}"
        );
    }
    assert_eq!(state.documents[&origin("db", "orders")].generation, 2);
}

#[test]
fn a_field_that_goes_without_a_new_generation_was_removed_by_nobody() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    settle(&seen(vec![whole(4)]), &mut state, std::slice::from_ref(&view), NOW);
    let lost = SourceContents {
        definition: lacking(&[]),
        ..seen(vec![hidden(4)])
    };
    let answer = settle(&lost, &mut state, std::slice::from_ref(&view), NOW);
    assert_eq!(names(&answer), Vec::<&str>::new());
    assert!(stays(&state, &answer), "{state:#?}");
    assert_eq!(
        condition_of(of(&answer, "orders"), KIND),
        (ConditionStatus::False, "FieldsLost")
    );

    let removed = SourceContents {
        definition: lacking(&[]),
        ..seen(vec![hidden(5)])
    };
    let answer = settle(&removed, &mut state, std::slice::from_ref(&view), NOW);
    assert_eq!(
        names(&answer),
        [
            "put-document",
            "end-intent",
            "end-intent",
            "cancel-request",
            "put-document"
        ],
        "the generation is recorded last"
    );
    assert_eq!(
        condition_of(of(&answer, "orders"), KIND),
        (ConditionStatus::True, "Current")
    );
    assert_eq!(
        (state.intents.len(), state.documents[&origin("db", "orders")].generation),
        (0, 5)
    );
    assert_eq!(answer.publications[&origin("db", "orders")].services, Vec::new());
}

#[test]
fn what_was_half_taken_back_goes_on_being_taken_back() {
    let mut state = state();
    settle(&seen(vec![whole(1)]), &mut state, &[], NOW);
    let removed = SourceContents {
        definition: lacking(&[]),
        ..seen(vec![hidden(2)])
    };
    let answer = reconcile(&removed, &state, &[], &BTreeMap::new(), NOW);
    // The leader dies after the second command.
    for command in answer.commands.iter().take(2) {
        crate::domain::state::apply(&mut state, &crate::domain::state::Proposal::new(NOW, command.clone()));
    }
    assert_eq!(state.documents[&origin("db", "orders")].generation, 1);
    let answer = settle(&removed, &mut state, &[], NOW);
    assert_eq!(names(&answer), ["end-intent", "cancel-request", "put-document"]);
    assert_eq!(
        (state.intents.len(), state.documents[&origin("db", "orders")].generation),
        (0, 2)
    );
}

#[test]
fn nothing_is_believed_gone_before_the_definition_was_looked_at() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    settle(&seen(vec![whole(1)]), &mut state, std::slice::from_ref(&view), NOW);
    for unknown in [
        SourceContents {
            definition: Definition::NotReadYet,
            ..seen(vec![hidden(2)])
        },
        SourceContents {
            definition: lacking(&[]),
            unchecked: true,
            ..seen(vec![hidden(2)])
        },
    ] {
        let answer = settle(&unknown, &mut state, std::slice::from_ref(&view), NOW);
        assert!(stays(&state, &answer), "{state:#?}");
        let recorded = &state.documents[&origin("db", "orders")];
        assert_eq!(recorded.generation, 1, "what the next one asks for is not known yet");
    }
    let looked = SourceContents {
        definition: lacking(&[]),
        ..seen(vec![hidden(2)])
    };
    let mut after = state.clone();
    settle(&looked, &mut after, std::slice::from_ref(&view), NOW);
    assert_eq!(
        (after.intents.len(), after.documents[&origin("db", "orders")].generation),
        (0, 2)
    );
    // Whoever may not look has to believe what is there.
    let blind = SourceContents {
        definition: Definition::Unreadable("no".to_owned()),
        ..seen(vec![hidden(2)])
    };
    let answer = settle(&blind, &mut state, std::slice::from_ref(&view), NOW);
    assert_eq!(
        condition_of(of(&answer, "orders"), KIND),
        (ConditionStatus::Unknown, "DefinitionUnreadable")
    );
    assert_eq!(state.intents.len(), 0);
}

#[test]
fn services_that_were_made_before_they_were_recorded_are_not_touched_behind_an_older_definition() {
    let mut state = state();
    let seen = SourceContents {
        definition: lacking(&["spec.primaryService"]),
        ..seen(vec![hidden(1)])
    };
    let answer = settle(&seen, &mut state, &[], NOW);
    assert_eq!(answer.publications, BTreeMap::new());
}

#[test]
fn a_field_inside_of_one_that_is_there_stays_too() {
    let mut state = state();
    settle(&seen(vec![whole(1)]), &mut state, &[], NOW);
    let mut older = whole(2);
    older.services.as_mut().unwrap().replicas = None;
    older.absent = BTreeSet::from(["spec.primaryService.replicasName"]);
    let seen = SourceContents {
        definition: lacking(&["spec.primaryService.replicasName"]),
        ..seen(vec![older])
    };
    settle(&seen, &mut state, &[], NOW);
    assert_eq!(state.documents[&origin("db", "orders")].services, whole(1).services);
}

#[test]
fn a_newer_definition_is_no_trouble_and_a_file_has_none() {
    let newer = Definition::Read {
        lacks: BTreeSet::new(),
        has_more: BTreeSet::from(["spec.mood".to_owned()]),
    };
    for (definition, expected) in [
        (newer, (ConditionStatus::True, "NewerThanThisVersion")),
        (Definition::Own, (ConditionStatus::True, "Current")),
        (Definition::NotReadYet, (ConditionStatus::Unknown, "NotReadYet")),
    ] {
        let seen = SourceContents {
            definition,
            ..seen(vec![document("db", "orders")])
        };
        let answer = settle(&seen, &mut state(), &[], NOW);
        assert_eq!(condition_of(of(&answer, "orders"), KIND), expected);
    }
}

#[test]
fn many_fields_are_counted() {
    let fields: Vec<String> = (0..9).map(|number| format!("spec.f{number}")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let complaint = lacking(&fields).problem().unwrap();
    assert!(complaint.contains("spec.f5 and 3 more:"), "{complaint}");
}

#[test]
fn an_older_definition_is_the_problem_where_there_is_no_worse_one() {
    let view = view(Some(origin("db", "orders")));
    for (paused, shown) in [(false, "the API server serves an older"), (true, "spec.paused is true")] {
        let mut declared = document("db", "orders");
        declared.document.paused = paused;
        let seen = SourceContents {
            definition: lacking(&["spec.takeover"]),
            ..seen(vec![declared])
        };
        let answer = settle(&seen, &mut state_with(&view), std::slice::from_ref(&view), NOW);
        let problem = &of(&answer, "orders").problem;
        assert!(problem.starts_with(shown), "{problem}");
    }
}
