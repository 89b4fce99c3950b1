//! From a document in an API server to commands and back to its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ham4db::adapter::kube::{Client, KubeSource, PodWatches, Scope};
use ham4db::app::ports::cluster_source::ClusterSource as _;
use ham4db::domain::declared::Completeness;
use ham4db::domain::intent::IntentKind;
use ham4db::domain::key::InstanceKey;
use ham4db::resource::MySQLCluster;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::leader::{Alone, DEADLINE, no_views, origin};
use super::server::{Server, condition, create, create_secret, document, namespace, until};

/// A source that watches one namespace, until the guard goes.
pub(crate) fn source(client: Client, namespace: &str) -> (Arc<KubeSource>, DropGuard) {
    source_with(client, namespace, PodWatches::default())
}

/// The same, which also follows pods and nodes.
pub(crate) fn source_with(client: Client, namespace: &str, follows: PodWatches) -> (Arc<KubeSource>, DropGuard) {
    let scope = Scope::Namespaces(BTreeSet::from([namespace.to_owned()]));
    let source = KubeSource::with(client, scope, follows);
    let stop = CancellationToken::new();
    tokio::spawn(source.clone().run(stop.clone()));
    (source, stop.drop_guard())
}

/// The loops of a leader on a source that watches a namespace of its own, until it goes.
pub(crate) struct Declaring {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) leader: Arc<Alone>,
    pub(crate) source: Arc<KubeSource>,
    _loops: [DropGuard; 2],
    /// It ends with the last test that uses it.
    _server: Arc<Server>,
}

impl Declaring {
    pub(crate) async fn begun() -> Self {
        let server = Server::shared();
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let leader = Alone::leading("ours");
        let (source, watching) = source(client.clone(), &namespace);
        let declaring = leader.declare(source.clone(), no_views());
        Self {
            client,
            namespace,
            leader,
            source,
            _loops: [watching, declaring],
            _server: server,
        }
    }

    pub(crate) async fn create(&self, name: &str, spec: &Value) -> Api<MySQLCluster> {
        create(&self.client, &self.namespace, name, spec).await
    }
}

pub(crate) async fn reading(source: &KubeSource, wanted: Completeness) {
    let mut documents = source.documents();
    let reached = tokio::time::timeout(DEADLINE, documents.wait_for(|seen| seen.completeness == wanted))
        .await
        .is_ok();
    assert!(
        reached,
        "the reading is not {wanted:?} but {:?}",
        documents.borrow().completeness
    );
}

#[tokio::test]
async fn a_document_is_known_and_its_status_written() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    create_secret(&client, &namespace, "orders", "geheim").await;
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source.clone(), no_views());
    reading(&source, Completeness::Complete).await;

    let api = create(
        &client,
        &namespace,
        "orders",
        &json!({"downtime": [{"host": "192.0.2.9", "owner": "o", "reason": "r", "indefinite": true}]}),
    )
    .await;
    let state = leader
        .until("the document is recorded", |state| {
            !state.documents.is_empty() && !state.intents.is_empty()
        })
        .await;
    let written = until(&api, "orders", "its status is written", |document| {
        document.status.is_some()
    })
    .await;

    let recorded = &state.documents[&origin(&namespace, "orders")];
    assert_eq!(recorded.seeds, BTreeSet::from([InstanceKey::new("192.0.2.1", 3306)]));
    assert_eq!(Some(&recorded.uid), written.metadata.uid.as_ref());
    assert_eq!(state.intents.keys().next().unwrap().kind, IntentKind::Downtime);
    let status = written.status.as_ref().unwrap();
    assert_eq!(status.observed_generation, Some(1));
    let observer = status.observer.as_ref().unwrap();
    assert_eq!(
        (observer.cluster_uuid.as_str(), observer.member.as_str()),
        ("ours", "ham4db-0")
    );
    assert_eq!(status.conditions[0].type_, "Ready");
    assert_eq!(status.conditions.len(), 16);
    until(&api, "orders", "the account is read", |document| {
        condition(document, "CredentialsMissing") == Some(("False".to_owned(), "CredentialsRead".to_owned()))
    })
    .await;
}

#[tokio::test]
async fn a_change_is_followed_and_a_withdrawal_leaves_nothing() {
    let declaring = Declaring::begun().await;
    let leader = &declaring.leader;
    let spec = json!({"candidates": [{"host": "db1", "promotionRule": "MustNot"}]});
    let api = declaring.create("orders", &spec).await;
    leader
        .until("the candidate is recorded", |state| state.intents.len() == 1)
        .await;

    let patch = json!({"spec": {"paused": true, "candidates": null}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    leader
        .until("paused is recorded", |state| {
            state.documents.values().any(|document| document.paused)
        })
        .await;
    leader
        .until("the candidate is withdrawn", |state| state.intents.is_empty())
        .await;
    until(&api, "orders", "it says that it is paused", |document| {
        condition(document, "Paused") == Some(("True".to_owned(), "Paused".to_owned()))
            && document.status.as_ref().unwrap().observed_generation == document.metadata.generation
    })
    .await;

    api.delete("orders", &DeleteParams::default()).await.unwrap();
    leader
        .until("the document is withdrawn", |state| state.documents.is_empty())
        .await;
    assert_eq!(
        leader.proposed(),
        [
            "put-document",
            "set-intent",
            "put-document",
            "end-intent",
            // Its generation is the last that is recorded of it.
            "put-document",
            "withdraw-document"
        ]
    );
}

#[tokio::test]
async fn a_deletion_that_nobody_watched_is_withdrawn_after_the_next_complete_list() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let leader = Alone::leading("ours");
    let api = create(&client, &namespace, "orders", &json!({})).await;
    create(&client, &namespace, "users", &json!({})).await;
    {
        let (source, _watching) = source(client.clone(), &namespace);
        let _declaring = leader.declare(source, no_views());
        leader
            .until("both are recorded", |state| state.documents.len() == 2)
            .await;
    }
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    let (source, _watching) = source(client, &namespace);
    let _declaring = leader.declare(source, no_views());
    let state = leader
        .until("the deleted one is withdrawn", |state| state.documents.len() == 1)
        .await;
    assert!(state.documents.contains_key(&origin(&namespace, "users")));
}

#[tokio::test]
async fn a_member_that_does_not_lead_proposes_and_writes_nothing_until_it_leads() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let leader = Alone::leading("ours");
    leader.lead(false);
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source.clone(), no_views());
    let api = create(&client, &namespace, "orders", &json!({})).await;
    let mut documents = source.documents();
    tokio::time::timeout(DEADLINE, documents.wait_for(|seen| seen.documents.len() == 1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (leader.proposed().len(), api.get("orders").await.unwrap().status),
        (0, None)
    );
    leader.lead(true);
    until(&api, "orders", "its status is written", |document| {
        document.status.is_some()
    })
    .await;
    assert_eq!(leader.proposed(), ["put-document"]);
}

#[tokio::test]
async fn a_document_of_another_group_is_observed_and_its_status_left_alone() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let api = create(&client, &namespace, "orders", &json!({})).await;
    let status = json!({"status": {"observer": {"clusterUUID": "theirs", "member": "x", "term": 9, "renewedAt": jiff::Timestamp::now().to_string()}}});
    api.patch_status("orders", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source.clone(), no_views());
    let state = leader
        .until("the document is recorded", |state| !state.documents.is_empty())
        .await;
    assert_eq!(
        state.documents.values().next().unwrap().mode,
        ham4db::domain::policy::RecoveryMode::DetectOnly
    );
    // A second document shows that statuses are written meanwhile.
    let other = create(&client, &namespace, "users", &json!({})).await;
    until(&other, "users", "its status is written", |document| {
        document.status.is_some()
    })
    .await;
    let observer = api.get("orders").await.unwrap().status.unwrap().observer.unwrap();
    assert_eq!(observer.cluster_uuid, "theirs");
}

#[tokio::test]
async fn what_was_stored_under_a_laxer_definition_stops_nobody() {
    let server = Server::bare();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client.clone(), &namespace);
    let _declaring = leader.declare(source.clone(), no_views());

    let mut lax: serde_json::Value =
        serde_yaml::from_str(&std::fs::read_to_string(super::server::DEFINITION).unwrap()).unwrap();
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let said = server.kubectl(&["apply", "--server-side"], Some(&lax));
    assert!(said.ok, "{}", said.text);
    server.wait_for_definition();
    let broken = document(&namespace, "broken", &json!({"seeds": "everywhere"}));
    for object in [&broken, &document(&namespace, "orders", &json!({}))] {
        let said = server.kubectl(&["create"], Some(object));
        assert!(said.ok, "{}", said.text);
    }
    server.apply_definition();

    // The definition was missing when the source began: it goes on by itself.
    reading(&source, Completeness::Complete).await;
    let state = leader
        .until("the readable one is recorded", |state| !state.documents.is_empty())
        .await;
    assert_eq!(
        state.documents.keys().collect::<Vec<_>>(),
        [&origin(&namespace, "orders")]
    );
    let seen = source.documents().borrow().clone();
    assert!(
        seen.unreadable[&origin(&namespace, "broken")].starts_with("spec.seeds: invalid type"),
        "{:?}",
        seen.unreadable
    );
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let said = server.kubectl(&["get", "h4c", "broken", "-n", &namespace, "-o", "json"], None);
        if said.text.contains("\"reason\": \"Unreadable\"") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "it does not say that it cannot be read: {}",
            said.text
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // Mended, it counts.
    let mend = r#"[{"op":"replace","path":"/spec/seeds","value":[{"host":"192.0.2.2","port":3306}]}]"#;
    let said = server.kubectl(
        &["patch", "h4c", "broken", "-n", &namespace, "--type=json", "-p", mend],
        None,
    );
    assert!(said.ok, "{}", said.text);
    leader
        .until("the mended one is recorded", |state| state.documents.len() == 2)
        .await;
}
