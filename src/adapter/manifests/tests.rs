use std::fs;
use std::path::Path;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::ManifestDirectory;
use crate::app::ports::cluster_source::{ClusterSource as _, StatusError};
use crate::domain::declared::{Completeness, Observer, SecretState, SourceContents, StatusModel};
use crate::domain::intent::Origin;
use crate::domain::time::WallTime;

const ORDERS: &str = "\
apiVersion: ham4db.io/v1alpha1
kind: MySQLCluster
metadata: {name: orders}
spec:
  seeds: [{host: 127.0.0.1, port: 3310}]
  credentialsSecretRef: {name: account}
";
const USERS: &str = "\
apiVersion: ham4db.io/v1alpha1
kind: MySQLCluster
metadata: {name: users, namespace: db}
spec:
  seeds: [{host: 127.0.0.1, port: 3320}]
  credentialsSecretRef: {name: account}
";
const ACCOUNT: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: account}
data: {user: aGFtNGRi}
stringData: {password: geheim}
";

fn origin(namespace: &str, name: &str) -> Origin {
    Origin::Document {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A directory with these files, looked at twice.
async fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Arc<ManifestDirectory>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let source = ManifestDirectory::new(folder.path());
    source.scan_once().await;
    source.scan_once().await;
    (folder, source)
}

fn seen(source: &ManifestDirectory) -> Arc<SourceContents> {
    source.documents().borrow().clone()
}

fn origins(seen: &SourceContents) -> Vec<String> {
    seen.documents
        .iter()
        .map(|declared| declared.document.origin.to_string())
        .collect()
}

fn observer(uuid: &str, term: u64, renewed: WallTime) -> Observer {
    Observer {
        cluster_uuid: uuid.to_owned(),
        member: "m1".to_owned(),
        term,
        renewed,
    }
}

const NOW: WallTime = WallTime(1_800_000_000_000);

#[tokio::test]
async fn several_documents_a_file_and_their_secrets_beside_them() {
    let both = format!("# clusters\n---\n{ORDERS}---\n{USERS}");
    let (_folder, source) = directory(&[
        ("clusters.yaml", &both),
        ("account.yml", ACCOUNT),
        ("notes.txt", "no document"),
    ])
    .await;
    let seen = seen(&source);
    assert_eq!(origins(&seen), ["cr:db/users", "cr:default/orders"]);
    assert_eq!(seen.completeness, Completeness::Complete);
    assert_eq!(seen.documents[1].secret, SecretState::Read);
    assert_eq!(
        seen.documents[0].secret,
        SecretState::Missing("the directory has no Secret db/account".to_owned())
    );
    let credentials = source.credentials().borrow().clone();
    assert_eq!(credentials.len(), 1);
    let account = &credentials[&origin("default", "orders")].topology;
    assert_eq!(
        (account.user.as_str(), account.password.expose_secret()),
        ("ham4db", "geheim")
    );
}

#[tokio::test]
async fn a_malformed_document_does_not_disturb_the_others() {
    let mixed = format!("{ORDERS}---\nkind: [unfinished\n---\n{USERS}");
    let (_folder, source) = directory(&[("a.yaml", &mixed), ("b.yaml", "\tno yaml at all"), ("c.yaml", ACCOUNT)]).await;
    let seen = seen(&source);
    assert_eq!(origins(&seen), ["cr:db/users", "cr:default/orders"]);
    assert_eq!(
        seen.completeness,
        Completeness::Partial,
        "who knows what the unreadable ones are called: nothing is absent"
    );
}

#[tokio::test]
async fn a_document_that_tells_its_name_is_reported_under_it_and_withdraws_nothing() {
    let bad = ORDERS.replace("port: 3310", "port: many");
    let (_folder, source) = directory(&[("a.yaml", &bad), ("b.yaml", USERS)]).await;
    let seen = seen(&source);
    assert_eq!(origins(&seen), ["cr:db/users"]);
    assert_eq!(seen.completeness, Completeness::Complete);
    assert!(
        seen.unreadable[&origin("default", "orders")].starts_with("spec.seeds[0].port: invalid type"),
        "{:?}",
        seen.unreadable
    );
}

#[tokio::test]
async fn absence_counts_when_it_was_seen_twice() {
    let (folder, source) = directory(&[("a.yaml", ORDERS), ("b.yaml", USERS)]).await;
    assert_eq!(seen(&source).completeness, Completeness::Complete);
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    source.scan_once().await;
    assert_eq!(
        (origins(&seen(&source)).len(), seen(&source).completeness),
        (1, Completeness::Partial)
    );
    source.scan_once().await;
    assert_eq!(
        (origins(&seen(&source)).len(), seen(&source).completeness),
        (1, Completeness::Complete)
    );
}

#[tokio::test]
async fn a_directory_that_is_gone_keeps_what_was_read() {
    let (folder, source) = directory(&[("a.yaml", ORDERS), ("s.yaml", ACCOUNT)]).await;
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists());
    source.scan_once().await;
    assert_eq!(
        (origins(&seen(&source)).len(), seen(&source).completeness),
        (1, Completeness::Stale)
    );
    assert_eq!(source.credentials().borrow().len(), 1);
}

#[tokio::test]
async fn nothing_is_read_again_while_nothing_changes() {
    let (folder, source) = directory(&[("a.yaml", ORDERS), ("s.yaml", ACCOUNT)]).await;
    let mut documents = source.documents();
    let mut credentials = source.credentials();
    documents.mark_unchanged();
    credentials.mark_unchanged();
    source.scan_once().await;
    assert!(!documents.has_changed().unwrap());
    fs::write(folder.path().join("s.yaml"), ACCOUNT.replace("geheim", "ein anderes")).unwrap();
    source.scan_once().await;
    assert!(credentials.has_changed().unwrap());
}

#[tokio::test]
async fn the_digest_follows_the_documents_and_not_the_statuses() {
    let (folder, source) = directory(&[("a.yaml", ORDERS)]).await;
    let first = source.digest().borrow().clone();
    assert_eq!(first.len(), 64);
    source
        .write_status(
            &origin("default", "orders"),
            &StatusModel::default(),
            &observer("ours", 1, NOW),
        )
        .await
        .unwrap();
    source.scan_once().await;
    assert_eq!(*source.digest().borrow(), first);
    assert_eq!(seen(&source).completeness, Completeness::Complete);
    fs::write(folder.path().join("b.yaml"), USERS).unwrap();
    source.scan_once().await;
    assert_ne!(*source.digest().borrow(), first);
}

#[tokio::test]
async fn a_status_is_written_whole_and_read_back() {
    let (folder, source) = directory(&[("a.yaml", ORDERS)]).await;
    source
        .write_status(
            &origin("default", "orders"),
            &StatusModel::unreadable("why"),
            &observer("ours", 7, NOW),
        )
        .await
        .unwrap();
    let names: Vec<String> = names_in(&folder.path().join("status"));
    assert_eq!(names, ["default.orders.yaml"], "no draft is left");
    let text = fs::read_to_string(folder.path().join("status/default.orders.yaml")).unwrap();
    assert!(
        text.contains("clusterUUID: ours") && text.contains("type: Ready"),
        "{text}"
    );
    source.scan_once().await;
    let observed = seen(&source).documents[0].observed_by.clone().unwrap();
    assert_eq!((observed.cluster_uuid.as_str(), observed.renewed), ("ours", NOW));
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_status_of_another_group_is_left_alone() {
    let (_folder, source) = directory(&[("a.yaml", ORDERS)]).await;
    let orders = origin("default", "orders");
    source
        .write_status(&orders, &StatusModel::default(), &observer("theirs", 1, NOW))
        .await
        .unwrap();
    let refused = source
        .write_status(
            &orders,
            &StatusModel::default(),
            &observer("ours", 1, NOW.plus_millis(60_000)),
        )
        .await;
    assert!(matches!(refused, Err(StatusError::Superseded { .. })), "{refused:?}");
    source
        .write_status(
            &orders,
            &StatusModel::default(),
            &observer("ours", 1, NOW.plus_millis(90_000)),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn the_status_of_a_document_that_went_goes_too() {
    let (folder, source) = directory(&[("a.yaml", ORDERS), ("b.yaml", USERS)]).await;
    for orders in [origin("default", "orders"), origin("db", "users")] {
        source
            .write_status(&orders, &StatusModel::default(), &observer("ours", 1, NOW))
            .await
            .unwrap();
    }
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    source.scan_once().await;
    assert_eq!(names_in(&folder.path().join("status")).len(), 2);
    source.scan_once().await;
    assert_eq!(names_in(&folder.path().join("status")), ["default.orders.yaml"]);
}

#[tokio::test]
async fn of_two_documents_of_one_name_the_first_file_counts() {
    let other = ORDERS.replace("3310", "3399");
    let (_folder, source) = directory(&[("a.yaml", ORDERS), ("b.yaml", &other)]).await;
    let seen = seen(&source);
    assert_eq!(origins(&seen), ["cr:default/orders"]);
    assert_eq!(seen.documents[0].document.seeds.first().unwrap().port, 3310);
}

#[tokio::test]
async fn what_kubectl_prints_for_several_is_read() {
    let indented = |text: &str| format!("    {}\n", text.trim_end().replace('\n', "\n    "));
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n  -\n{}  -\n{}",
        indented(ORDERS),
        indented(ACCOUNT)
    );
    let (_folder, source) = directory(&[("list.yaml", &list)]).await;
    assert_eq!(origins(&seen(&source)), ["cr:default/orders"]);
    assert_eq!(source.credentials().borrow().len(), 1);
}

#[tokio::test]
async fn a_secret_that_cannot_be_decoded_is_named_without_its_content() {
    let bad = ACCOUNT.replace("aGFtNGRi", "\"geheim!\"");
    let (_folder, source) = directory(&[("a.yaml", ORDERS), ("s.yaml", &bad)]).await;
    let standing = seen(&source).documents[0].secret.clone();
    assert_eq!(
        standing,
        SecretState::Missing("Secret default/account: data.user is not valid base64".to_owned())
    );
}
