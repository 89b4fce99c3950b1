use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DynamicObject, ObjectMeta};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::RequestError;
use super::list_watch::ObjectChange;
use super::watch_cache::{SecretKey, WatchCache, WatchEvent};
use crate::domain::declared::{Completeness, SecretState};
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

fn request_error(is_forbidden: bool) -> RequestError {
    RequestError {
        why: "no".to_owned(),
        code: is_forbidden.then_some(403),
    }
}

/// A model of one scope with the document `orders` listed and its Secret asked for.
fn with_orders() -> WatchCache {
    let mut cache = WatchCache::new(1);
    cache.apply(WatchEvent::Documents(0, ObjectChange::Listed(vec![readable("orders")])));
    assert_eq!(cache.secrets_wanted().into_iter().collect::<Vec<_>>(), [key()]);
    cache
}

fn standing(cache: &WatchCache) -> SecretState {
    cache.contents().documents[0].secret.clone()
}

#[test]
fn it_is_complete_when_all_scopes_are_listed_and_stale_after_any_error() {
    let mut cache = WatchCache::new(2);
    assert_eq!(cache.contents().completeness, Completeness::Stale);
    cache.apply(WatchEvent::Documents(0, ObjectChange::Listed(vec![readable("orders")])));
    assert_eq!(cache.contents().completeness, Completeness::Stale);
    cache.apply(WatchEvent::Documents(1, ObjectChange::Listed(Vec::new())));
    assert_eq!(cache.contents().completeness, Completeness::Complete);
    cache.apply(WatchEvent::Documents(1, ObjectChange::Broken(request_error(false))));
    assert_eq!(
        (cache.contents().completeness, cache.contents().documents.len()),
        (Completeness::Stale, 1)
    );
    cache.apply(WatchEvent::Documents(1, ObjectChange::Applied(readable("users"))));
    assert_eq!(
        cache.contents().completeness,
        Completeness::Stale,
        "an event alone proves no completeness"
    );
    cache.apply(WatchEvent::Documents(1, ObjectChange::Listed(Vec::new())));
    assert_eq!(
        (cache.contents().completeness, cache.contents().documents.len()),
        (Completeness::Complete, 1)
    );
}

#[test]
fn one_unreadable_document_leaves_the_others_and_is_complained_of_once() {
    let mut cache = WatchCache::new(1);
    let broken = object("broken", &json!({"seeds": 7}));
    let warnings = cache.apply(WatchEvent::Documents(
        0,
        ObjectChange::Listed(vec![broken.clone(), readable("orders")]),
    ));
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("cr:db/broken") && warnings[0].contains("spec.seeds"),
        "{warnings:?}"
    );
    let seen = cache.contents();
    assert_eq!((seen.documents.len(), seen.unreadable.len()), (1, 1));
    assert_eq!(
        cache.apply(WatchEvent::Documents(0, ObjectChange::Applied(broken))),
        Vec::<String>::new()
    );
    cache.apply(WatchEvent::Documents(0, ObjectChange::Applied(readable("broken"))));
    assert_eq!(
        (cache.contents().documents.len(), cache.contents().unreadable.len()),
        (2, 0)
    );
    cache.apply(WatchEvent::Documents(0, ObjectChange::Deleted(readable("broken"))));
    assert_eq!(cache.contents().documents.len(), 1);
}

#[test]
fn a_secret_has_one_of_five_standings() {
    let mut cache = with_orders();
    assert_eq!(standing(&cache), SecretState::Unread);
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Broken(request_error(false))));
    assert_eq!(standing(&cache), SecretState::Unread);
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Broken(request_error(true))));
    assert!(matches!(standing(&cache), SecretState::Forbidden(_)));
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Listed(Vec::new())));
    assert_eq!(
        standing(&cache),
        SecretState::Missing("Secret account does not exist in namespace db".to_owned())
    );
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Applied(Secret::default())));
    assert_eq!(
        standing(&cache),
        SecretState::Missing("Secret db/account: key user is missing or empty".to_owned())
    );
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Applied(secret("one"))));
    assert_eq!(standing(&cache), SecretState::Read);
}

#[test]
fn an_account_that_was_read_stays_while_its_secret_cannot_be_read() {
    let mut cache = with_orders();
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Listed(vec![secret("one")])));
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Broken(request_error(true))));
    assert!(matches!(standing(&cache), SecretState::LastKnown(_)));
    let credentials = cache.credentials();
    assert_eq!(credentials[&origin("orders")].topology.password.expose_secret(), "one");
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Deleted(secret("one"))));
    assert_eq!(cache.credentials().len(), 0);
}

#[test]
fn secrets_that_no_document_names_are_forgotten() {
    let mut cache = with_orders();
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Listed(vec![secret("one")])));
    cache.apply(WatchEvent::Documents(0, ObjectChange::Deleted(readable("orders"))));
    assert_eq!(cache.secrets_wanted().len(), 0);
    // Its watch may have sent one more.
    cache.apply(WatchEvent::Secret(key(), ObjectChange::Applied(secret("two"))));
    cache.apply(WatchEvent::Documents(0, ObjectChange::Applied(readable("orders"))));
    cache.secrets_wanted();
    assert_eq!(standing(&cache), SecretState::Unread);
}

#[test]
fn refusals_read_as_one_line_and_know_forbidden() {
    let status = kube::core::Status::failure("mysqlclusters is forbidden", "Forbidden").with_code(403);
    let request_error = RequestError::from(&kube::Error::Api(status.boxed()));
    assert_eq!(
        request_error,
        RequestError {
            why: "mysqlclusters is forbidden (403)".to_owned(),
            code: Some(403)
        }
    );
}
