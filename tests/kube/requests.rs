//! What a document asks for once: recorded, shown, taken back, and not asked again.

use std::time::Duration;

use ham4db::domain::state::RequestOutcome;
use ham4db::domain::state::RequestStanding;
use ham4db::resource::MySQLCluster;
use ham4db::resource::status::TakeoverPhase;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::documents::source;
use super::leader::{Alone, DEADLINE, no_pictures};
use super::server::{Server, create, namespace, until};

fn takeover(id: &str, ahead: i64) -> Value {
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

#[tokio::test]
async fn a_takeover_is_asked_for_once_whatever_becomes_of_status_document_and_leader() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source, no_pictures());
    let spec = takeover("a", 3600);
    let api = create(&client, &namespace, "orders", &spec).await;
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
    let api = create(&client, &namespace, "orders", &spec).await;
    shows(&api, TakeoverPhase::Cancelled).await;
    let asked = leader.proposed().iter().filter(|name| **name == "request").count();
    assert_eq!(asked, 1, "{:?}", leader.proposed());
}

#[tokio::test]
async fn an_old_manifest_in_a_fresh_group_is_expired() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source, no_pictures());
    let api = create(&client, &namespace, "orders", &takeover("old", -60)).await;
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
            request.standing,
            RequestStanding::Over {
                outcome: RequestOutcome::Expired,
                ..
            }
        ),
        "{request:?}"
    );
    // It is told once, however often the leader changes.
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let told = loop {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        if let Some(event) = all.into_iter().next() {
            break event;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        (told.reason.as_deref(), told.type_.as_deref(), told.action.as_deref()),
        (Some("TakeoverExpired"), Some("Warning"), Some("Takeover"))
    );
    let regarding = told.regarding.unwrap();
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
    let far = create(
        &client,
        &namespace,
        "far",
        &takeover("far", Duration::from_hours(48).as_secs().cast_signed()),
    )
    .await;
    until(&far, "far", "it is refused", |document| {
        let status = document.status.as_ref().and_then(|status| status.takeover.as_ref());
        status.is_some_and(|takeover| takeover.phase == TakeoverPhase::Refused && takeover.message.contains("24 h"))
    })
    .await;
    loop {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let reasons: Vec<&str> = all.iter().filter_map(|event| event.reason.as_deref()).collect();
        if reasons.contains(&"TakeoverRefused") {
            let expired = reasons.iter().filter(|reason| **reason == "TakeoverExpired").count();
            assert_eq!((expired, reasons.len()), (1, 2), "{reasons:?}");
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the refusal was not told: {reasons:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
