use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DynamicObject, ObjectMeta};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::Refusal;
use super::follow::Change;
use super::model::{Model, SecretKey, WatchEvent};
use crate::app::ports::cluster_source::Reading;
use crate::domain::declared::SecretStanding;
use crate::domain::intent::Origin;

fn origin(name: &str) -> Origin {
    Origin::Document {
        namespace: "db".to_owned(),
        name: name.to_owned(),
    }
}

fn key() -> SecretKey {
    ("db".to_owned(), "account".to_owned())
}

/// A document as a list carries it: without apiVersion and kind.
fn object(name: &str, spec: &Value) -> DynamicObject {
    DynamicObject {
        types: None,
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("db".to_owned()),
            ..ObjectMeta::default()
        },
        data: json!({"spec": spec}),
    }
}

fn readable(name: &str) -> DynamicObject {
    object(
        name,
        &json!({"seeds": [{"host": "db1"}], "credentialsSecretRef": {"name": "account"}}),
    )
}

fn secret(password: &str) -> Secret {
    let data = BTreeMap::from([
        ("user".to_owned(), ByteString(b"ham4db".to_vec())),
        ("password".to_owned(), ByteString(password.as_bytes().to_vec())),
    ]);
    Secret {
        data: Some(data),
        ..Secret::default()
    }
}

fn refusal(is_forbidden: bool) -> Refusal {
    Refusal {
        why: "no".to_owned(),
        code: is_forbidden.then_some(403),
    }
}

/// A model of one scope with the document `orders` listed and its Secret asked for.
fn with_orders() -> Model {
    let mut model = Model::new(1);
    model.absorb(WatchEvent::Documents(0, Change::Listed(vec![readable("orders")])));
    assert_eq!(model.secrets_wanted().into_iter().collect::<Vec<_>>(), [key()]);
    model
}

fn standing(model: &Model) -> SecretStanding {
    model.seen().documents[0].secret.clone()
}

#[test]
fn it_is_complete_when_all_scopes_are_listed_and_stale_after_any_error() {
    let mut model = Model::new(2);
    assert_eq!(model.seen().reading, Reading::Stale);
    model.absorb(WatchEvent::Documents(0, Change::Listed(vec![readable("orders")])));
    assert_eq!(model.seen().reading, Reading::Stale);
    model.absorb(WatchEvent::Documents(1, Change::Listed(Vec::new())));
    assert_eq!(model.seen().reading, Reading::Complete);
    model.absorb(WatchEvent::Documents(1, Change::Broken(refusal(false))));
    assert_eq!(
        (model.seen().reading, model.seen().documents.len()),
        (Reading::Stale, 1)
    );
    model.absorb(WatchEvent::Documents(1, Change::Applied(readable("users"))));
    assert_eq!(
        model.seen().reading,
        Reading::Stale,
        "an event alone proves no completeness"
    );
    model.absorb(WatchEvent::Documents(1, Change::Listed(Vec::new())));
    assert_eq!(
        (model.seen().reading, model.seen().documents.len()),
        (Reading::Complete, 1)
    );
}

#[test]
fn one_unreadable_document_leaves_the_others_and_is_complained_of_once() {
    let mut model = Model::new(1);
    let broken = object("broken", &json!({"seeds": 7}));
    let warnings = model.absorb(WatchEvent::Documents(
        0,
        Change::Listed(vec![broken.clone(), readable("orders")]),
    ));
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("cr:db/broken") && warnings[0].contains("spec.seeds"),
        "{warnings:?}"
    );
    let seen = model.seen();
    assert_eq!((seen.documents.len(), seen.unreadable.len()), (1, 1));
    assert_eq!(
        model.absorb(WatchEvent::Documents(0, Change::Applied(broken))),
        Vec::<String>::new()
    );
    model.absorb(WatchEvent::Documents(0, Change::Applied(readable("broken"))));
    assert_eq!((model.seen().documents.len(), model.seen().unreadable.len()), (2, 0));
    model.absorb(WatchEvent::Documents(0, Change::Deleted(readable("broken"))));
    assert_eq!(model.seen().documents.len(), 1);
}

#[test]
fn a_secret_has_one_of_five_standings() {
    let mut model = with_orders();
    assert_eq!(standing(&model), SecretStanding::Unread);
    model.absorb(WatchEvent::Secret(key(), Change::Broken(refusal(false))));
    assert_eq!(standing(&model), SecretStanding::Unread);
    model.absorb(WatchEvent::Secret(key(), Change::Broken(refusal(true))));
    assert!(matches!(standing(&model), SecretStanding::Forbidden(_)));
    model.absorb(WatchEvent::Secret(key(), Change::Listed(Vec::new())));
    assert_eq!(
        standing(&model),
        SecretStanding::Missing("Secret account does not exist in namespace db".to_owned())
    );
    model.absorb(WatchEvent::Secret(key(), Change::Applied(Secret::default())));
    assert_eq!(
        standing(&model),
        SecretStanding::Missing("Secret db/account: key user is missing or empty".to_owned())
    );
    model.absorb(WatchEvent::Secret(key(), Change::Applied(secret("one"))));
    assert_eq!(standing(&model), SecretStanding::Read);
}

#[test]
fn an_account_that_was_read_stays_while_its_secret_cannot_be_read() {
    let mut model = with_orders();
    model.absorb(WatchEvent::Secret(key(), Change::Listed(vec![secret("one")])));
    model.absorb(WatchEvent::Secret(key(), Change::Broken(refusal(true))));
    assert!(matches!(standing(&model), SecretStanding::LastKnown(_)));
    let credentials = model.credentials();
    assert_eq!(credentials[&origin("orders")].topology.password.expose_secret(), "one");
    model.absorb(WatchEvent::Secret(key(), Change::Deleted(secret("one"))));
    assert_eq!(model.credentials().len(), 0);
}

#[test]
fn secrets_that_no_document_names_are_forgotten() {
    let mut model = with_orders();
    model.absorb(WatchEvent::Secret(key(), Change::Listed(vec![secret("one")])));
    model.absorb(WatchEvent::Documents(0, Change::Deleted(readable("orders"))));
    assert_eq!(model.secrets_wanted().len(), 0);
    // Its watch may have sent one more.
    model.absorb(WatchEvent::Secret(key(), Change::Applied(secret("two"))));
    model.absorb(WatchEvent::Documents(0, Change::Applied(readable("orders"))));
    model.secrets_wanted();
    assert_eq!(standing(&model), SecretStanding::Unread);
}

#[test]
fn refusals_read_as_one_line_and_know_forbidden() {
    let status = kube::core::Status::failure("mysqlclusters is forbidden", "Forbidden").with_code(403);
    let refusal = Refusal::from(&kube::Error::Api(status.boxed()));
    assert_eq!(
        refusal,
        Refusal {
            why: "mysqlclusters is forbidden (403)".to_owned(),
            code: Some(403)
        }
    );
}
