//! What a document asks for once: recorded, shown, taken back, and not asked again.

use std::time::Duration;

use futures::StreamExt as _;
use ham4db::domain::state::{RequestOutcome, RequestProgress};
use ham4db::resource::MySQLCluster;
use ham4db::resource::status::TakeoverPhase;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube_runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};

use super::documents::Declaring;
use super::leader::DEADLINE;
use super::server::until;

pub(crate) fn takeover(id: &str, ahead: i64) -> Value {
    let deadline = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
    json!({"takeover": {"requestID": id, "target": {"host": "db2", "port": 3306}, "deadline": deadline.to_string()}})
}

async fn shows(api: &Api<MySQLCluster>, phase: TakeoverPhase) -> MySQLCluster {
    until(api, "orders", &format!("the takeover is {phase:?}"), |document| {
        let status = document.status.as_ref().and_then(|status| status.takeover.as_ref());
        status.is_some_and(|takeover| takeover.phase == phase)
    })
    .await
}

/// All Events, once there is one with this reason.
pub(crate) async fn told(events: &Api<Event>, reason: &str) -> Vec<Event> {
    let applied = watcher(events.clone(), watcher::Config::default()).applied_objects();
    let is_it = |event: Result<Event, watcher::Error>| {
        let is_it = event.is_ok_and(|event| event.reason.as_deref() == Some(reason));
        std::future::ready(is_it)
    };
    let seen = tokio::time::timeout(DEADLINE, std::pin::pin!(applied).any(is_it)).await;
    let all = events.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(seen.ok(), Some(true), "no Event says {reason}: {all:#?}");
    all
}

#[tokio::test]
async fn a_takeover_is_asked_for_once_whatever_becomes_of_status_document_and_leader() {
    let declaring = Declaring::begun().await;
    let leader = &declaring.leader;
    let spec = takeover("a", 3600);
    let api = declaring.create("orders", &spec).await;
    let pending = shows(&api, TakeoverPhase::Pending).await;
    let told = pending.status.unwrap().takeover.unwrap();
    assert_eq!(told.request_id, "a");
    leader
        .until("the request is recorded", |state| state.requests.len() == 1)
        .await;

    // A status that is wiped is written again from the record, by another term of the leader too.
    leader.lead(false);
    let wiped = json!({"status": null});
    api.patch_status("orders", &PatchParams::default(), &Patch::Merge(&wiped))
        .await
        .unwrap();
    leader.lead(true);
    shows(&api, TakeoverPhase::Pending).await;

    // Cleared: taken back. Applied again: not asked again.
    let clear = json!({"spec": {"takeover": null}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&clear))
        .await
        .unwrap();
    shows(&api, TakeoverPhase::Cancelled).await;
    api.patch(
        "orders",
        &PatchParams::default(),
        &Patch::Merge(&json!({"spec": spec.clone()})),
    )
    .await
    .unwrap();
    until(&api, "orders", "the status is of the new generation", |document| {
        document.status.as_ref().unwrap().observed_generation == document.metadata.generation
    })
    .await;
    shows(&api, TakeoverPhase::Cancelled).await;

    api.delete("orders", &DeleteParams::default()).await.unwrap();
    leader
        .until("the document is withdrawn", |state| state.documents.is_empty())
        .await;
    let api = declaring.create("orders", &spec).await;
    shows(&api, TakeoverPhase::Cancelled).await;
    let asked = leader.proposed().iter().filter(|name| **name == "request").count();
    assert_eq!(asked, 1, "{:?}", leader.proposed());
}

#[tokio::test]
async fn an_old_manifest_in_a_fresh_group_is_expired() {
    let declaring = Declaring::begun().await;
    let leader = &declaring.leader;
    let api = declaring.create("orders", &takeover("old", -60)).await;
    let document = shows(&api, TakeoverPhase::Expired).await;
    let status = document.status.unwrap().takeover.unwrap();
    assert!(
        status.finished_at.is_some() && status.started_at.is_none(),
        "{status:?}"
    );
    let state = leader.now();
    let request = state.requests.values().next().unwrap();
    assert!(
        matches!(
            request.progress,
            RequestProgress::Over {
                outcome: RequestOutcome::Expired,
                ..
            }
        ),
        "{request:?}"
    );
    // It is told once, however often the leader changes.
    let events: Api<Event> = Api::namespaced(declaring.client.clone(), &declaring.namespace);
    let expired = told(&events, "TakeoverExpired").await.remove(0);
    assert_eq!(
        (
            expired.reason.as_deref(),
            expired.type_.as_deref(),
            expired.action.as_deref()
        ),
        (Some("TakeoverExpired"), Some("Warning"), Some("Takeover"))
    );
    let regarding = expired.regarding.unwrap();
    assert_eq!(
        (regarding.kind.as_deref(), regarding.name.as_deref(), regarding.uid),
        (
            Some("MySQLCluster"),
            Some("orders"),
            api.get("orders").await.unwrap().metadata.uid
        )
    );
    leader.lead(false);
    leader.lead(true);

    // One that is too far ahead is no order for today either.
    let far = takeover("far", Duration::from_hours(48).as_secs().cast_signed());
    let far = declaring.create("far", &far).await;
    until(&far, "far", "it is refused", |document| {
        let status = document.status.as_ref().and_then(|status| status.takeover.as_ref());
        status.is_some_and(|takeover| takeover.phase == TakeoverPhase::Refused && takeover.message.contains("24 h"))
    })
    .await;
    let events = told(&events, "TakeoverRefused").await;
    let reasons: Vec<&str> = events.iter().filter_map(|event| event.reason.as_deref()).collect();
    let expired = reasons.iter().filter(|reason| **reason == "TakeoverExpired").count();
    assert_eq!((expired, reasons.len()), (1, 2), "{reasons:?}");
}
