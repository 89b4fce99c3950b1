//! Creates the Events of a document. The name of an Event is derived from its content, so that the API server refuses a
//! duplicate.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};

use crate::app::ports::cluster_source::StatusError;
use crate::domain::declared::ClusterEvent;
use crate::domain::intent::Origin;
use crate::resource;

use super::{REQUEST_DEADLINE, RequestError};

/// Limit for a note in bytes, below the limit of the API server (1 KiB).
const MAX_NOTE: usize = 1000;
/// Limit of the API server for the name of the reporting instance, in bytes.
const MAX_INSTANCE: usize = 128;

/// Creates an Event, unless it exists.
///
/// # Errors
/// When the origin is not a document, or the API server refuses or does not answer in time.
pub(super) async fn record(client: &Client, origin: &Origin, event: &ClusterEvent) -> Result<(), StatusError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(StatusError::Gone(origin.clone()));
    };
    let failed = |why: String| StatusError::Failed {
        origin: origin.clone(),
        why: format!("event {}: {why}", event.reason.as_str()),
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let event = kube_event(namespace, name, event);
    let created = tokio::time::timeout(REQUEST_DEADLINE, api.create(&PostParams::default(), &event)).await;
    match created {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let request_error = RequestError::from(&error);
            if request_error.code == Some(409) {
                return Ok(());
            }
            Err(failed(request_error.why))
        }
        Err(_) => Err(failed(format!(
            "the API server did not answer within {} s",
            REQUEST_DEADLINE.as_secs()
        ))),
    }
}

/// The Event as the API server stores it.
fn kube_event(namespace: &str, name: &str, event: &ClusterEvent) -> Event {
    let reporter = std::env::var("HOSTNAME").unwrap_or_default();
    let reporter = if reporter.is_empty() {
        resource::FIELD_MANAGER.to_owned()
    } else {
        cut(&reporter, MAX_INSTANCE)
    };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(name, event)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        action: Some(event.reason.action().to_owned()),
        reason: Some(event.reason.as_str().to_owned()),
        note: Some(cut(&event.note, MAX_NOTE)),
        type_: Some(if event.reason.is_warning() { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(resource::API_VERSION.to_owned()),
            kind: Some(resource::KIND.to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(event.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(format!("ham4db.io/{}", resource::FIELD_MANAGER)),
        reporting_instance: Some(reporter),
        ..Event::default()
    }
}

/// `NAME.HASH`, which is the same for the same document, reason and key. Names of documents have at most 52 characters.
fn event_name(name: &str, event: &ClusterEvent) -> String {
    let mut hash = Sha256::new();
    for part in [event.uid.as_str(), event.reason.as_str(), event.key.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let hash = hash.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    format!("{name}.{hash:016x}")
}

/// Truncates a text to at most `max` bytes, at a character boundary.
fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::declared::EventReason;

    fn event(uid: &str, key: &str, note: &str) -> ClusterEvent {
        ClusterEvent {
            uid: uid.to_owned(),
            reason: EventReason::TakeoverRefused,
            key: key.to_owned(),
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_same_has_the_same_name_and_everything_else_another() {
        let name = |event: &ClusterEvent| event_name("orders", event);
        let first = name(&event("u", "a", "x"));
        assert_eq!(first, name(&event("u", "a", "other words")));
        assert_ne!(first, name(&event("u", "b", "x")));
        assert_ne!(first, name(&event("v", "a", "x")), "made anew, it is another document");
        assert_ne!(name(&event("u", "va", "")), name(&event("uv", "a", "")));
        assert!(first.starts_with("orders.") && first.len() == 23, "{first}");
    }

    #[test]
    fn long_notes_are_cut_between_characters() {
        let event = kube_event("db", "orders", &event("u", "a", &"ä".repeat(1000)));
        assert_eq!(event.note.unwrap(), "ä".repeat(500));
        assert_eq!(cut("abc", 10), "abc");
    }
}
