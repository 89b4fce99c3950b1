//! Every call as the release's account: its Role is enough for all of them, and for nothing else.

use ham4db::adapter::kube::{Client, ConfigMapMarker, wanted_replicas};
use ham4db::app::ports::BootstrapMarker as _;
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, GetParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::leader::DEADLINE;
use super::release::{NAMESPACE, Release, SECRET, STATEFULSET};
use super::requests::{takeover, told};
use super::server::{Server, condition, create, create_secret, document, until};
use super::services::{FIRST, Publishing, SECOND, Shown, THIRD};

/// What may not be read, by its path.
const HIDDEN: [&str; 12] = [
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/secrets",
    "/api/v1/namespaces/ham4db/secrets",
    "/api/v1/namespaces/ham4db/secrets/another",
    "/api/v1/namespaces/default/secrets/mysql-topology",
    "/api/v1/namespaces/ham4db/configmaps",
    "/apis/apps/v1/namespaces/ham4db/statefulsets",
    "/apis/ham4db.io/v1alpha1/mysqlclusters",
    "/apis/ham4db.io/v1alpha1/namespaces/default/mysqlclusters",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mysqlclusters.ham4db.io",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/ham4db/roles",
];

fn is_forbidden<T>(answer: &Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

async fn says(api: &Api<MySQLCluster>, kind: &str, status: &str, reason: &str) -> MySQLCluster {
    let wanted = Some((status.to_owned(), reason.to_owned()));
    until(api, "orders", reason, |document| condition(document, kind) == wanted).await
}

#[tokio::test]
async fn the_role_of_the_release_is_enough_for_every_call_and_for_no_other() {
    let server = Server::bare();
    server.apply_definition();
    let release = Release::on(server.clone()).await;
    let (client, own) = (&release.client, &release.own);

    // What the group keeps: the marker, and how many members are wanted.
    let marker = ConfigMapMarker::new(own.clone(), NAMESPACE, STATEFULSET);
    assert_eq!(marker.create_or_read("first").await.unwrap(), "first");
    assert_eq!(marker.create_or_read("second").await.unwrap(), "first");
    let stop = CancellationToken::new();
    let _stopping = stop.clone().drop_guard();
    let mut members = wanted_replicas(own.clone(), NAMESPACE, STATEFULSET, stop);
    let wanted = members.wait_for(|number| *number == Some(3));
    tokio::time::timeout(DEADLINE, wanted).await.unwrap().unwrap();

    // What the controller does: documents, the Secret by its name, the definition, status, Events, Services and their slices.
    create_secret(client, NAMESPACE, SECRET, "geheim").await;
    create_secret(client, NAMESPACE, "another", "geheim").await;
    let publishing = Publishing::with(server.clone(), client.clone(), own.clone(), NAMESPACE.to_owned());
    let mut spec = takeover("old", -60);
    spec["credentialsSecretRef"] = json!({"name": SECRET});
    spec["primaryService"] = json!({"replicasName": "orders-ro"});
    let api = create(client, NAMESPACE, "orders", &spec).await;
    publishing.says(&api, "True", "Published").await;
    publishing.leads("orders-ro", &[SECOND, THIRD]).await;
    says(&api, "CredentialsMissing", "False", "CredentialsRead").await;
    says(&api, "DefinitionCurrent", "True", "Current").await;
    told(&Api::namespaced(client.clone(), NAMESPACE), "TakeoverExpired").await;
    publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[FIRST],
    });
    publishing.leads("orders-primary", &[SECOND]).await;
    let patch = json!({"spec": {"primaryService": null}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    publishing.says(&api, "False", "NotAskedFor").await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !publishing.all_slices().await.is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "slices that are not asked for stay"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    may_do_nothing_else(own, &api).await;

    // A Secret of another name: the condition has the Role that is missing, and with it all is well.
    let patch = json!({"spec": {"credentialsSecretRef": {"name": "another"}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let document = says(&api, "CredentialsMissing", "True", "CredentialsForbidden").await;
    assert_eq!(
        condition(&document, "Ready"),
        Some(("False".to_owned(), "CredentialsForbidden".to_owned()))
    );
    let status = document.status.unwrap();
    let missing = status.conditions.iter().find(|it| it.type_ == "CredentialsMissing");
    let problem = status.summary.unwrap().problem;
    assert!(
        problem.contains("credentialSecrets") && !problem.contains('\n'),
        "{problem}"
    );
    release.server.apply_grant(&missing.unwrap().message);
    says(&api, "CredentialsMissing", "False", "CredentialsRead").await;
}

async fn may_do_nothing_else(own: &Client, api: &Api<MySQLCluster>) {
    for path in HIDDEN {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let request = kube::core::Request::new(parent).get(name, &GetParams::default());
        let answer = own.request::<Value>(request.unwrap()).await;
        assert!(is_forbidden(&answer), "{path}: {answer:?}");
    }
    let documents: Api<MySQLCluster> = Api::namespaced(own.clone(), NAMESPACE);
    let pause = Patch::Merge(json!({"spec": {"paused": true}}));
    let patched = documents.patch("orders", &PatchParams::default(), &pause).await;
    assert!(is_forbidden(&patched), "{patched:?}");
    let deleted = documents.delete("orders", &DeleteParams::default()).await;
    assert!(is_forbidden(&deleted), "{deleted:?}");
    let another: MySQLCluster = serde_json::from_value(document(NAMESPACE, "mine", &json!({}))).unwrap();
    let created = documents.create(&PostParams::default(), &another).await;
    assert!(is_forbidden(&created), "{created:?}");
    let sets: Api<StatefulSet> = Api::namespaced(own.clone(), NAMESPACE);
    let scaled = sets
        .patch(
            STATEFULSET,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 1}})),
        )
        .await;
    assert!(is_forbidden(&scaled), "{scaled:?}");
    let maps: Api<ConfigMap> = Api::namespaced(own.clone(), NAMESPACE);
    let removed = maps
        .delete(&format!("{STATEFULSET}-bootstrap"), &DeleteParams::default())
        .await;
    assert!(is_forbidden(&removed), "{removed:?}");
    assert!(!api.get("orders").await.unwrap().spec.paused);
}
