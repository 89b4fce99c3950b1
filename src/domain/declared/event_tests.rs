//! What is told once.

use std::collections::BTreeMap;

use super::fixture::{document, key, origin, seen, state_with, view};
use super::tests::{downtime, later, of, settle};
use super::*;
use crate::domain::intent::{Intent, IntentDetails, IntentId, IntentKind};
use crate::domain::state::{Proposal, apply};

/// Reason and note of everything that is to be told of the document now.
fn told(seen: &SourceContents, state: &State, view: &ClusterView, now: WallTime) -> Vec<(EventReason, String)> {
    let answer = reconcile(seen, state, std::slice::from_ref(view), &BTreeMap::new(), now);
    let events = &answer.events[&origin("db", "orders")];
    events
        .iter()
        .map(|notice| (notice.reason, notice.note.clone()))
        .collect()
}

fn propose(state: &mut State, at: WallTime, command: Command) {
    apply(state, &Proposal::new(at, command));
}

#[test]
fn a_downtime_of_a_document_ends_once_at_its_time_or_when_its_entry_goes() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let mut declared = document("db", "orders");
    declared.downtime = vec![downtime("b", Some(later(60_000))), downtime("c", None)];
    let both = seen(vec![declared.clone()]);
    settle(&both, &mut state, std::slice::from_ref(&view), later(0));
    let begun = |told: &[(EventReason, String)]| {
        told.iter()
            .filter(|(reason, _)| *reason == EventReason::DowntimeBegun)
            .count()
    };
    assert_eq!(begun(&told(&both, &state, &view, later(59_999))), 2);

    let now = told(&both, &state, &view, later(60_000));
    assert_eq!(begun(&now), 1);
    let ended = (
        EventReason::DowntimeEnded,
        "b:3306 is no longer in downtime: the downtime expired".to_owned(),
    );
    assert!(now.contains(&ended), "{now:?}");

    // Both entries go: the first one was over before.
    declared.downtime.clear();
    declared.document.generation = 2;
    let none = seen(vec![declared]);
    settle(&none, &mut state, std::slice::from_ref(&view), later(70_000));
    let now = told(&none, &state, &view, later(70_001));
    assert_eq!(
        now,
        [(
            EventReason::DowntimeEnded,
            "c:3306 is no longer in downtime: by cr:db/orders".to_owned()
        )]
    );
    assert_eq!(told(&none, &state, &view, later(70_000 + 11 * 60_000)), []);
}

#[test]
fn a_downtime_through_the_api_ends_once_too() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let all = seen(vec![document("db", "orders")]);
    settle(&all, &mut state, std::slice::from_ref(&view), later(0));
    let set = |instance: &str, until: i64| Command::SetIntent {
        intent: Intent {
            instance: key(instance),
            origin: Origin::Api,
            details: IntentDetails::Downtime {
                owner: "alice".to_owned(),
                reason: "disk".to_owned(),
                since: later(0),
                until: Some(later(until)),
            },
        },
    };
    propose(&mut state, later(0), set("b", 1_000));
    propose(&mut state, later(0), set("c", 99_000));
    assert_eq!(
        told(&all, &state, &view, later(1_001)).len(),
        1,
        "the next command removes what is over"
    );
    let id = IntentId {
        kind: IntentKind::Downtime,
        instance: key("c"),
        origin: Origin::Api,
    };
    propose(&mut state, later(2_000), Command::EndIntent { id });
    let mut notes: Vec<String> = told(&all, &state, &view, later(2_000))
        .into_iter()
        .map(|(reason, note)| format!("{} {note}", reason.as_str()))
        .collect();
    notes.sort();
    assert_eq!(
        notes,
        [
            "DowntimeEnded b:3306 is no longer in downtime: the downtime expired",
            "DowntimeEnded c:3306 is no longer in downtime: ended by an operator",
        ]
    );
}

#[test]
fn an_instance_that_is_forgotten_is_told_of_its_own_cluster_only() {
    let mut view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let all = seen(vec![document("db", "orders")]);
    settle(&all, &mut state, std::slice::from_ref(&view), later(0));
    for host in ["b", "elsewhere"] {
        let instance = key(host);
        propose(
            &mut state,
            later(5),
            Command::Forget {
                instance,
                until: later(99_000),
            },
        );
    }
    view.topology.instances.remove(&key("b"));
    let now = told(&all, &state, &view, later(6));
    let [(EventReason::InstanceForgotten, note)] = &now[..] else {
        panic!("{now:?}")
    };
    assert!(note.starts_with("b:3306 was forgotten"), "{note}");
}

#[test]
fn a_name_that_is_taken_is_told_each_hour() {
    let view = view(Some(origin("db", "orders")));
    let mut declared = document("db", "orders");
    declared.services = Some(DeclaredServices {
        primary: "orders-primary".to_owned(),
        port: 3306,
        replicas: None,
    });
    let answer = settle(
        &seen(vec![declared]),
        &mut state_with(&view),
        std::slice::from_ref(&view),
        later(0),
    );
    let publication = &answer.publications[&origin("db", "orders")];
    let taken = Err(PublishError::NameTaken("Service orders-primary is not ours".to_owned()));
    let [now, soon, hours] = [0, 60_000, 7_200_000].map(|at| publication.event(&taken, later(at)).unwrap());
    assert_eq!(
        (now.reason, &now.uid),
        (EventReason::NameTaken, &"uid-orders".to_owned())
    );
    assert_eq!(now.key, soon.key);
    assert_ne!(now.key, hours.key);
    assert_eq!(publication.event(&Ok(None), later(0)), None);
    assert_eq!(
        publication.event(&Err(PublishError::Forbidden("no".to_owned())), later(0)),
        None
    );
}

#[test]
fn the_status_says_what_became_of_the_annotation() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let mut declared = document("db", "orders");
    let shown = |declared: &DeclaredCluster, state: &mut State| {
        let answer = settle(
            &seen(vec![declared.clone()]),
            state,
            std::slice::from_ref(&view),
            later(0),
        );
        // As after the next look.
        let again = reconcile(
            &seen(vec![declared.clone()]),
            state,
            std::slice::from_ref(&view),
            &answer.vanished,
            later(1),
        );
        of(&again, "orders").force.clone()
    };
    assert_eq!(shown(&declared, &mut state), None);
    declared.force = Some("yes".to_owned());
    let wrong = shown(&declared, &mut state).unwrap();
    assert_eq!((wrong.value.as_str(), wrong.phase), ("yes", ForcePhase::Refused));
    assert!(wrong.message.contains("write HOST:PORT/ID"), "{}", wrong.message);

    declared.force = Some("a:3306/5-1".to_owned());
    assert_eq!(shown(&declared, &mut state).unwrap().phase, ForcePhase::Pending);
    let key = state.requests.keys().next().unwrap().clone();
    let refused = Command::SettleRequest {
        key,
        outcome: crate::domain::state::RequestOutcome::Refused,
        why: "a:3306 answers and takes writes".to_owned(),
    };
    propose(&mut state, later(1), refused);
    let expected = ForceStatus {
        value: "a:3306/5-1".to_owned(),
        phase: ForcePhase::Refused,
        message: "a:3306 answers and takes writes".to_owned(),
    };
    assert_eq!(shown(&declared, &mut state), Some(expected.clone()));
    declared.force = None;
    assert_eq!(
        shown(&declared, &mut state),
        Some(expected),
        "removed, the last one is shown"
    );
}
