//! What the group of members keeps in the API server.

use ham4db::adapter::kube::{Client, ConfigMapMarker, wanted_replicas};
use ham4db::app::ports::BootstrapMarker as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::leader::DEADLINE;
use super::server::{Server, namespace};

async fn statefulset(client: &Client, namespace: &str) -> Api<StatefulSet> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let set = json!({
        "metadata": {"name": "ham4db"},
        "spec": {
            "replicas": 3, "serviceName": "ham4db-peers", "selector": {"matchLabels": {"app": "ham4db"}},
            "template": {"metadata": {"labels": {"app": "ham4db"}}, "spec": {"containers": [{"name": "ham4db", "image": "ham4db"}]}},
        },
    });
    api.create(&PostParams::default(), &serde_json::from_value(set).unwrap())
        .await
        .unwrap();
    api
}

#[tokio::test]
async fn the_marker_is_made_once_and_tells_everybody_the_same() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let marker = ConfigMapMarker::new(client.clone(), &namespace, "ham4db");
    let early = marker.create_or_read("{}").await;
    assert!(
        early.unwrap_err().to_string().contains("StatefulSet"),
        "without a StatefulSet there is no owner"
    );

    let sets = statefulset(&client, &namespace).await;
    let answers = futures::future::join_all(
        ["{\"member\":1}", "{\"member\":2}", "{\"member\":3}"].map(|note| marker.create_or_read(note)),
    )
    .await;
    let answers: Vec<String> = answers.into_iter().map(Result::unwrap).collect();
    let first = answers[0].clone();
    assert!(answers.iter().all(|answer| *answer == first), "{answers:?}");
    assert_eq!(marker.create_or_read("another").await.unwrap(), first);

    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let map = maps.get("ham4db-bootstrap").await.unwrap();
    let owner = &map.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), Some(&owner.uid)),
        ("StatefulSet", sets.get("ham4db").await.unwrap().metadata.uid.as_ref())
    );
    assert_eq!(map.immutable, Some(true));
}

#[tokio::test]
async fn the_wanted_number_of_members_is_followed_and_outlives_the_statefulset() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let stop = CancellationToken::new();
    let _stopping = stop.clone().drop_guard();
    let mut wanted = wanted_replicas(client.clone(), &namespace, "ham4db", stop);
    assert_eq!(*wanted.borrow(), None);
    let sets = statefulset(&client, &namespace).await;
    tokio::time::timeout(DEADLINE, wanted.wait_for(|number| *number == Some(3)))
        .await
        .unwrap()
        .unwrap();
    sets.patch(
        "ham4db",
        &PatchParams::default(),
        &Patch::Merge(&json!({"spec": {"replicas": 5}})),
    )
    .await
    .unwrap();
    tokio::time::timeout(DEADLINE, wanted.wait_for(|number| *number == Some(5)))
        .await
        .unwrap()
        .unwrap();
    sets.delete("ham4db", &DeleteParams::default()).await.unwrap();
    let changed = tokio::time::timeout(std::time::Duration::from_secs(1), wanted.changed()).await;
    assert!(changed.is_err(), "its absence says nothing: {:?}", *wanted.borrow());
}
