//! A definition that is older than this version: it hides fields that were stored before, and takes no status that has them.

use ham4db::domain::policy::BootReadOnly;
use ham4db::domain::state::{RequestProgress, State};
use ham4db::resource::MySQLCluster;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::server::{Server, condition, create, history, until};
use super::services::{FIRST, Publishing, SECOND, Shown, THIRD};

/// Waits until the condition about the definition has this status and reason; answers its message.
async fn says(api: &Api<MySQLCluster>, status: &str, reason: &str) -> String {
    let wanted = Some((status.to_owned(), reason.to_owned()));
    let document = until(api, "orders", reason, |document| {
        condition(document, "DefinitionCurrent") == wanted
    })
    .await;
    let conditions = document.status.unwrap().conditions;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "DefinitionCurrent");
    condition.unwrap().message.clone()
}

/// What was recorded from the fields that the older definition does not have.
fn stays(state: &State) -> bool {
    let recorded = state.documents.values().next().unwrap();
    let request = state.requests.values().next().unwrap();
    recorded.boot_read_only == BootReadOnly::Enforce
        && recorded.durability.is_some()
        && recorded.services.is_some()
        && request.progress == RequestProgress::Pending
}

fn served(server: &Server, namespace: &str) -> Value {
    let said = server.kubectl(&["get", "h4c", "orders", "-n", namespace, "-o", "json"], None);
    serde_json::from_str(&said.text).unwrap()
}

/// The definition is the one of an earlier version.
fn roll_back(server: &Server) {
    let earlier = history().join("v1alpha1-early/schema.yaml");
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        earlier.to_str().unwrap(),
    ];
    let said = server.kubectl(&apply, None);
    assert!(said.ok, "{}", said.text);
}

#[tokio::test]
async fn what_an_older_definition_hides_stays_and_its_status_is_written_all_the_same() {
    let server = Server::bare();
    server.apply_definition();
    let publishing = Publishing::on(server.clone()).await;
    let (namespace, leader) = (&publishing.namespace, &publishing.leader);
    let deadline = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    let whole = json!({
        "primaryService": {"replicasName": "orders-ro"},
        "durability": {"mode": "SemiSync"},
        "recovery": {"bootReadOnly": "Enforce"},
        "takeover": {"requestID": "a", "deadline": deadline},
        "downtime": [{"host": "192.0.2.9", "owner": "o", "reason": "r", "indefinite": true}],
    });
    let api = create(&publishing.client, namespace, "orders", &whole).await;
    publishing.says(&api, "True", "Published").await;
    says(&api, "True", "Current").await;
    leader
        .until("it asks for everything", |state| {
            !state.requests.is_empty() && stays(state)
        })
        .await;
    let service = publishing.services().get("orders-primary").await.unwrap();

    // Rolled back: the fields are hidden at once, under the same generation, and a failover happens.
    roll_back(&server);
    publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[FIRST],
    });
    publishing.leads("orders-primary", &[SECOND]).await;
    publishing.leads("orders-ro", &[THIRD]).await;
    let message = says(&api, "False", "OlderThanThisVersion").await;
    for part in [
        "spec.durability",
        "spec.primaryService",
        "ham4db crd | kubectl apply --server-side",
    ] {
        assert!(message.contains(part), "{message}");
    }
    until(&api, "orders", "its status names the new primary", |document| {
        let status = document.status.as_ref().unwrap();
        status.primary.as_ref().is_some_and(|primary| primary.host == SECOND)
    })
    .await;
    let hidden = served(&server, namespace);
    assert_eq!(
        (&hidden["spec"]["primaryService"], &hidden["status"]["takeover"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(hidden["metadata"]["generation"], 1);

    // Changed meanwhile: what is hidden stays, what is not is done.
    let patch = json!({"spec": {"paused": true, "downtime": []}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let state = leader
        .until("the change is recorded", |state| {
            state.intents.is_empty() && state.documents.values().all(|document| document.generation == 2)
        })
        .await;
    assert!(
        stays(&state) && state.documents.values().all(|document| document.paused),
        "{state:#?}"
    );

    // Back again: with the first status that was written the hidden fields were lost.
    server.apply_definition();
    let message = says(&api, "False", "FieldsLost").await;
    assert!(
        message.contains("spec.primaryService") && message.contains("spec.takeover"),
        "{message}"
    );
    assert_eq!(served(&server, namespace)["spec"]["primaryService"], Value::Null);
    assert!(stays(&leader.now()));

    // Applied again, it asks for them; removed then, they go.
    api.patch(
        "orders",
        &PatchParams::default(),
        &Patch::Merge(&json!({"spec": whole})),
    )
    .await
    .unwrap();
    says(&api, "True", "Current").await;
    publishing.says(&api, "True", "Published").await;
    assert!(stays(&leader.now()));
    let after = publishing.services().get("orders-primary").await.unwrap();
    assert_eq!(after.metadata.uid, service.metadata.uid, "it was there all the time");
    let patch = json!({"spec": {"primaryService": null, "takeover": null}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    publishing.says(&api, "False", "NotAskedFor").await;
    leader
        .until("the takeover is taken back", |state| {
            state
                .requests
                .values()
                .all(|request| request.progress != RequestProgress::Pending)
        })
        .await;
}
