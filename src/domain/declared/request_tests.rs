//! Requests of documents: what is proposed, and what the status says.

use super::fixture::{NOW, document, key, origin, seen, state, state_with, view};
use super::tests::{later, names, of, settle};
use super::*;
use crate::domain::state::sample::plan;
use crate::domain::state::{
    Phase, Proposal, Request, RequestKind, RequestOutcome, RequestProgress, apply, request_key,
};

const HOUR: i64 = 3_600_000;

fn takeover(id: &str, deadline: WallTime) -> DeclaredTakeover {
    DeclaredTakeover {
        id: id.to_owned(),
        target: Some(key("b")),
        catch_up_seconds: Some(60),
        deadline,
    }
}

fn asking(id: &str, deadline: WallTime) -> DeclaredCluster {
    DeclaredCluster {
        takeover: Some(takeover(id, deadline)),
        ..document("db", "orders")
    }
}

fn shown(answer: &Reconciliation) -> (TakeoverPhase, String) {
    let status = of(answer, "orders").takeover.clone().unwrap();
    (status.phase, status.message)
}

#[test]
fn a_takeover_is_recorded_once_whatever_becomes_of_status_document_and_leader() {
    let declared = asking("a", later(HOUR));
    let mut state = state();
    let answer = settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    assert_eq!(names(&answer), ["put-document", "request"]);
    let request = &state.requests[&request_key(&origin("db", "orders"), "takeover", "a")];
    assert_eq!(
        request.what,
        RequestKind::Takeover {
            target: Some(key("b")),
            catch_up_seconds: Some(60),
            deadline: later(HOUR)
        }
    );
    // A status that was wiped and a new leader look like this: nothing is known but state and document.
    assert_eq!(
        names(&settle(&seen(vec![declared.clone()]), &mut state, &[], later(1))),
        [""; 0]
    );
    // Deleted, and made anew.
    let answer = settle(&seen(Vec::new()), &mut state, &[], later(2));
    assert_eq!(names(&answer), ["withdraw-document"]);
    let anew = DeclaredCluster {
        document: crate::domain::state::Document {
            uid: "uid-anew".to_owned(),
            ..declared.document.clone()
        },
        ..declared
    };
    let answer = settle(&seen(vec![anew]), &mut state, &[], later(3));
    assert_eq!(names(&answer), ["put-document"]);
    assert_eq!(
        shown(&reconcile_again(&state, &asking("a", later(HOUR)), later(4))).0,
        TakeoverPhase::Cancelled
    );
}

fn reconcile_again(state: &State, declared: &DeclaredCluster, now: WallTime) -> Reconciliation {
    reconcile(&seen(vec![declared.clone()]), state, &[], &BTreeMap::new(), now)
}

#[test]
fn an_old_manifest_in_a_fresh_group_is_expired() {
    let mut state = state();
    settle(&seen(vec![asking("a", later(-1))]), &mut state, &[], NOW);
    let answer = reconcile_again(&state, &asking("a", later(-1)), later(1));
    let status = of(&answer, "orders").takeover.clone().unwrap();
    assert_eq!(
        (status.phase, status.started, status.finished),
        (TakeoverPhase::Expired, None, Some(NOW))
    );
    assert!(status.message.contains("deadline"), "{}", status.message);
    let mut far = super::fixture::state();
    settle(&seen(vec![asking("a", later(25 * HOUR))]), &mut far, &[], NOW);
    let told = shown(&reconcile_again(&far, &asking("a", later(25 * HOUR)), later(1)));
    assert!(told.0 == TakeoverPhase::Refused && told.1.contains("24 h"), "{told:?}");
}

#[test]
fn what_is_cleared_or_replaced_is_taken_back() {
    let mut state = state();
    settle(&seen(vec![asking("a", later(HOUR))]), &mut state, &[], NOW);
    let answer = settle(&seen(vec![asking("b", later(HOUR))]), &mut state, &[], later(1));
    assert_eq!(names(&answer), ["request", "cancel-request"]);
    let answer = settle(&seen(vec![document("db", "orders")]), &mut state, &[], later(2));
    assert_eq!(names(&answer), ["cancel-request"]);
    let answer = reconcile_again(&state, &document("db", "orders"), later(3));
    let status = of(&answer, "orders").takeover.clone().unwrap();
    assert_eq!(
        (status.phase, status.id.as_str()),
        (TakeoverPhase::Cancelled, "b"),
        "the last one is shown"
    );
}

#[test]
fn nothing_is_asked_or_taken_back_by_a_reading_that_cannot_be_relied_on() {
    let mut stale = seen(vec![asking("a", later(HOUR))]);
    stale.completeness = Completeness::Stale;
    let mut state = state();
    assert_eq!(names(&settle(&stale, &mut state, &[], NOW)), ["put-document"]);
    settle(&seen(vec![asking("a", later(HOUR))]), &mut state, &[], later(1));
    stale.documents = vec![document("db", "orders")];
    assert_eq!(names(&settle(&stale, &mut state, &[], later(2))), [""; 0]);
    // One whose newer generation is on record.
    let mut newer = asking("a", later(HOUR));
    newer.document.generation = 5;
    settle(&seen(vec![newer]), &mut state, &[], later(3));
    assert_eq!(
        names(&settle(
            &seen(vec![document("db", "orders")]),
            &mut state,
            &[],
            later(4)
        )),
        [""; 0]
    );
}

#[test]
fn a_document_that_does_not_count_asks_for_nothing() {
    let owner = origin("db", "older");
    let view = view(Some(owner.clone()));
    let mut state = state_with(&view);
    let older = document("db", "older");
    state.documents.insert(owner, older.document.clone());
    let answer = settle(&seen(vec![older, asking("a", later(HOUR))]), &mut state, &[view], NOW);
    assert_eq!(names(&answer), ["put-document", "put-document"]);
    assert_eq!(shown(&answer).0, TakeoverPhase::Pending);
}

#[test]
fn another_target_under_the_same_name_is_not_what_is_done() {
    let mut state = state();
    settle(&seen(vec![asking("a", later(HOUR))]), &mut state, &[], NOW);
    let mut other = asking("a", later(HOUR));
    other.takeover.as_mut().unwrap().target = Some(key("c"));
    let answer = settle(&seen(vec![other]), &mut state, &[], later(1));
    assert_eq!(names(&answer), [""; 0]);
    assert!(shown(&answer).1.contains("was different and stays in effect"));
}

#[test]
fn the_status_follows_a_takeover_to_its_end() {
    let origin = origin("db", "orders");
    let mut view = view(Some(origin.clone()));
    let mut state = state_with(&view);
    let declared = asking("a", later(HOUR));
    settle(&seen(vec![declared.clone()]), &mut state, &[view.clone()], NOW);
    let key_of = request_key(&origin, "takeover", "a");
    let told = |state: &State, view: &ClusterView| {
        let all = seen(vec![declared.clone()]);
        shown(&reconcile(
            &all,
            state,
            std::slice::from_ref(view),
            &BTreeMap::new(),
            later(9),
        ))
        .0
    };
    assert_eq!(told(&state, &view), TakeoverPhase::Pending);

    // The claim names the request.
    let mut claimed = plan(1, 1, 2, &[]);
    claimed.cluster = view.cluster.id.clone();
    claimed.old_primary = key("a");
    claimed.successor = key("b");
    claimed.kind = crate::domain::recovery::kind::RecoveryKind::Takeover;
    claimed.manual_request = Some(crate::domain::recovery::manual_request::ManualRequest {
        request: Some(key_of.clone()),
        ..crate::domain::recovery::manual_request::ManualRequest::default()
    });
    let claim = Box::new(crate::domain::state::sample::claim("r1", claimed));
    let applied = apply(&mut state, &Proposal::new(later(5), Command::Claim { claim })).0;
    assert!(applied.to_string().starts_with("claimed"), "{applied}");
    assert_eq!(told(&state, &view), TakeoverPhase::Draining);
    let facts = view
        .topology
        .instances
        .get_mut(&key("a"))
        .unwrap()
        .facts
        .as_mut()
        .unwrap();
    facts.read_only = true;
    assert_eq!(told(&state, &view), TakeoverPhase::CatchingUp);
    state.recoveries.get_mut("r1").unwrap().phase = Phase::Opened {
        successor: key("b"),
        position: state.recoveries["r1"].plan.position.clone(),
        at: later(6),
    };
    assert_eq!(told(&state, &view), TakeoverPhase::Promoting);
    for (outcome, phase) in [
        (RequestOutcome::Succeeded, TakeoverPhase::Succeeded),
        (RequestOutcome::Failed, TakeoverPhase::Failed),
        (RequestOutcome::Refused, TakeoverPhase::Refused),
        (RequestOutcome::Expired, TakeoverPhase::Expired),
        (RequestOutcome::Cancelled, TakeoverPhase::Cancelled),
    ] {
        let request: &mut Request = state.requests.get_mut(&key_of).unwrap();
        request.progress = RequestProgress::Over {
            outcome,
            why: "so".to_owned(),
            at: later(7),
            uid: Some("r1".to_owned()),
        };
        assert_eq!(told(&state, &view), phase);
    }
}

#[test]
fn the_conditions_for_waiting_follow_a_takeover() {
    let mut state = state();
    let view = view(Some(origin("db", "orders")));
    state.clusters.insert(view.cluster.id.clone(), view.cluster.clone());
    let declared = asking("a", later(HOUR));
    let answer = settle(&seen(vec![declared]), &mut state, std::slice::from_ref(&view), NOW);
    let reconciling = of(&answer, "orders").condition(ConditionKind::Reconciling).unwrap();
    assert_eq!(
        (reconciling.status, reconciling.reason),
        (ConditionStatus::True, "TakingOver")
    );
    let key_of = request_key(&origin("db", "orders"), "takeover", "a");
    let command = Command::SettleRequest {
        key: key_of,
        outcome: RequestOutcome::Refused,
        why: "it is behind".to_owned(),
    };
    apply(&mut state, &Proposal::new(later(1), command));
    let all = seen(vec![asking("a", later(HOUR))]);
    let answer = reconcile(&all, &state, &[view], &BTreeMap::new(), later(2));
    let reconciling = of(&answer, "orders").condition(ConditionKind::Reconciling).unwrap();
    assert_eq!(
        (reconciling.status, reconciling.reason),
        (ConditionStatus::False, "Settled")
    );
    // It is told once, as long as it is news.
    let told = |now: WallTime| -> Vec<EventReason> {
        let answer = reconcile(&all, &state, &[], &BTreeMap::new(), now);
        answer.events[&origin("db", "orders")]
            .iter()
            .map(|notice| notice.reason)
            .collect()
    };
    assert_eq!(told(later(3)), [EventReason::TakeoverRefused]);
    assert_eq!(told(later(11 * 60_000)), Vec::<EventReason>::new());
}

/// A recovery of the cluster of [`view`], which is over.
fn ended(state: &mut State, view: &ClusterView, uid: &str) {
    let mut claimed = plan(1, 1, 2, &[]);
    claimed.cluster = view.cluster.id.clone();
    claimed.old_primary = key("a");
    claimed.successor = key("b");
    let claim = Box::new(crate::domain::state::sample::claim(uid, claimed));
    let applied = apply(state, &Proposal::new(NOW, Command::Claim { claim })).0;
    assert!(applied.to_string().starts_with("claimed"), "{applied}");
}

#[test]
fn a_recovery_that_the_document_names_is_acknowledged_when_it_is_over() {
    let view = view(Some(origin("db", "orders")));
    let mut state = state_with(&view);
    let mut declared = document("db", "orders");
    declared.acknowledged = Some("r1".to_owned());
    let all = seen(vec![declared.clone()]);
    settle(&all, &mut state, &[], NOW);
    ended(&mut state, &view, "r1");
    assert_eq!(names(&settle(&all, &mut state, &[], later(1))), [""; 0], "it runs");
    state.recoveries.get_mut("r1").unwrap().phase = Phase::Ended {
        at: later(2),
        successor: Some(key("b")),
        successful: true,
    };
    let answer = settle(&all, &mut state, std::slice::from_ref(&view), later(3));
    assert_eq!(names(&answer), ["acknowledge"]);
    let word = state.recoveries["r1"].acknowledged.clone().unwrap();
    assert_eq!((word.by.as_str(), word.at), ("cr:db/orders", later(3)));
    let answer = reconcile(&all, &state, std::slice::from_ref(&view), &BTreeMap::new(), later(3));
    assert!(of(&answer, "orders").last_recovery.as_ref().unwrap().acknowledged);

    // One of another document's cluster is not this one's to acknowledge.
    state.recoveries.get_mut("r1").unwrap().acknowledged = None;
    state.clusters.values_mut().next().unwrap().document = Some(origin("db", "other"));
    assert_eq!(names(&settle(&all, &mut state, &[], later(4))), [""; 0]);
}

#[test]
fn a_forced_promotion_names_old_primary_and_incident_and_is_recorded_once() {
    let mut declared = document("db", "orders");
    declared.force = Some("a:3306/1800000000000-4".to_owned());
    let mut state = state();
    let answer = settle(&seen(vec![declared.clone()]), &mut state, &[], NOW);
    assert_eq!(names(&answer), ["put-document", "request"]);
    let request = state.requests.values().next().unwrap();
    assert_eq!(
        request.what,
        RequestKind::Force {
            old_primary: key("a"),
            incident: "1800000000000-4".to_owned()
        }
    );
    assert_eq!(of(&answer, "orders").takeover, None, "it is no takeover");
    for text in ["", "a:3306", "a:3306/", "a:x/1", "a:3306/1 2", "yes"] {
        let mut wrong = document("db", "orders");
        wrong.force = Some(text.to_owned());
        let mut fresh = super::fixture::state();
        let answer = settle(&seen(vec![wrong]), &mut fresh, &[], NOW);
        assert_eq!(names(&answer), ["put-document"], "{text}");
        let warned = answer
            .warnings
            .iter()
            .any(|warning| warning.contains("ham4db.io/force-promote"));
        assert!(warned, "{text}: {:?}", answer.warnings);
    }
}
