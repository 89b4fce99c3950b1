//! The Secrets that documents name.

use ham4db::adapter::kube::KubeSource;
use ham4db::app::ports::cluster_source::ClusterSource as _;
use ham4db::domain::declared::SecretState;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::documents::{Declaring, source};
use super::leader::{DEADLINE, origin};
use super::server::{Server, condition, create, create_secret, namespace, until};

async fn password(source: &KubeSource, namespace: &str, wanted: Option<&str>) {
    let mut credentials = source.credentials();
    let of = origin(namespace, "orders");
    let reached = tokio::time::timeout(
        DEADLINE,
        credentials.wait_for(|all| all.get(&of).map(|held| held.topology.password.expose_secret()) == wanted),
    )
    .await;
    assert!(reached.is_ok(), "the password does not become {wanted:?}");
}

#[tokio::test]
async fn a_secret_is_missed_read_and_followed_without_a_restart() {
    let declaring = Declaring::begun().await;
    let (client, namespace) = (&declaring.client, &declaring.namespace);
    let api = declaring.create("orders", &json!({})).await;
    until(&api, "orders", "it says that its Secret is missing", |document| {
        condition(document, "CredentialsMissing") == Some(("True".to_owned(), "CredentialsMissing".to_owned()))
            && condition(document, "Ready") == Some(("False".to_owned(), "CredentialsMissing".to_owned()))
    })
    .await;

    let secrets: Api<Secret> = create_secret(client, namespace, "orders", "one").await;
    password(&declaring.source, namespace, Some("one")).await;
    until(&api, "orders", "it says that its Secret is there", |document| {
        condition(document, "CredentialsMissing") == Some(("False".to_owned(), "CredentialsRead".to_owned()))
    })
    .await;
    let patch = json!({"stringData": {"password": "two"}});
    secrets
        .patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    password(&declaring.source, namespace, Some("two")).await;

    // Another Secret: the first one is not used for it any more.
    create_secret(client, namespace, "other", "three").await;
    let patch = json!({"spec": {"credentialsSecretRef": {"name": "other"}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    password(&declaring.source, namespace, Some("three")).await;
    secrets.delete("other", &DeleteParams::default()).await.unwrap();
    password(&declaring.source, namespace, None).await;
}

#[tokio::test]
async fn a_role_that_names_the_secret_is_enough_and_without_it_the_role_is_named() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    create_secret(&client, &namespace, "orders", "geheim").await;
    create(&client, &namespace, "orders", &json!({})).await;
    let make = |arguments: &[&str]| {
        let said = server.kubectl(&[&["create", "-n", &namespace], arguments].concat(), None);
        assert!(said.ok, "{}", said.text);
        said.text
    };
    let account = format!("--serviceaccount={namespace}:ham4db");
    make(&["serviceaccount", "ham4db"]);
    make(&[
        "role",
        "documents",
        "--verb=get,list,watch",
        "--resource=mysqlclusters.ham4db.io",
    ]);
    make(&["rolebinding", "documents", "--role=documents", &account]);
    let token = make(&["token", "ham4db"]);
    let (source, _watching) = source(server.client_of(token.trim()).await, &namespace);
    let mut documents = source.documents();
    let forbidden = documents.wait_for(|seen| {
        let declared = seen.documents.first();
        declared.is_some_and(|declared| matches!(&declared.secret, SecretState::Forbidden(_)))
    });
    let seen = tokio::time::timeout(DEADLINE, forbidden)
        .await
        .unwrap()
        .unwrap()
        .clone();
    let SecretState::Forbidden(why) = &seen.documents[0].secret else {
        panic!("{:?}", seen.documents)
    };
    server.apply_grant(why);
    password(&source, &namespace, Some("geheim")).await;
}
