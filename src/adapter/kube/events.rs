//! Events of a document. Their names follow from what they are about, so that the API server itself keeps one from being there twice.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};

use crate::app::ports::cluster_source::{ClusterEvent, StatusError};
use crate::domain::intent::Origin;
use crate::resource;

use super::{REQUEST_DEADLINE, Refusal};

/// Length of a note, as the API server bounds it (1 KiB).
const MAX_NOTE: usize = 1000;
/// Length of the name of an instance that reports, as the API server bounds it.
const MAX_INSTANCE: usize = 128;

/// Writes an event, unless it is there already.
pub(super) async fn tell(client: &Client, origin: &Origin, notice: &ClusterEvent) -> Result<(), StatusError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(StatusError::Gone(origin.clone()));
    };
    let failed = |why: String| StatusError::Failed {
        origin: origin.clone(),
        why: format!("event {}: {why}", notice.reason.as_str()),
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let event = event(namespace, name, notice);
    let created = tokio::time::timeout(REQUEST_DEADLINE, api.create(&PostParams::default(), &event)).await;
    match created {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let refusal = Refusal::from(&error);
            if refusal.code == Some(409) {
                return Ok(());
            }
            Err(failed(refusal.why))
        }
        Err(_) => Err(failed(format!(
            "the API server did not answer within {} s",
            REQUEST_DEADLINE.as_secs()
        ))),
    }
}

fn event(namespace: &str, name: &str, notice: &ClusterEvent) -> Event {
    let reporter = std::env::var("HOSTNAME").unwrap_or_default();
    let reporter = if reporter.is_empty() {
        resource::FIELD_MANAGER.to_owned()
    } else {
        cut(&reporter, MAX_INSTANCE)
    };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(name, notice)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        action: Some(notice.reason.action().to_owned()),
        reason: Some(notice.reason.as_str().to_owned()),
        note: Some(cut(&notice.note, MAX_NOTE)),
        type_: Some(
            if notice.reason.is_warning() {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        regarding: Some(ObjectReference {
            api_version: Some(resource::API_VERSION.to_owned()),
            kind: Some(resource::KIND.to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(notice.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(format!("ham4db.io/{}", resource::FIELD_MANAGER)),
        reporting_instance: Some(reporter),
        ..Event::default()
    }
}

/// `NAME.HASH`: of the same document, reason and key the same. Names of documents have at most 52 characters.
fn event_name(name: &str, notice: &ClusterEvent) -> String {
    let mut hash = Sha256::new();
    for part in [notice.uid.as_str(), notice.reason.as_str(), notice.key.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let hash = hash.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    format!("{name}.{hash:016x}")
}

/// At most `max` bytes, whole characters.
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

    fn notice(uid: &str, key: &str, note: &str) -> ClusterEvent {
        ClusterEvent {
            uid: uid.to_owned(),
            reason: EventReason::TakeoverRefused,
            key: key.to_owned(),
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_same_has_the_same_name_and_everything_else_another() {
        let name = |notice: &ClusterEvent| event_name("orders", notice);
        let first = name(&notice("u", "a", "x"));
        assert_eq!(first, name(&notice("u", "a", "other words")));
        assert_ne!(first, name(&notice("u", "b", "x")));
        assert_ne!(first, name(&notice("v", "a", "x")), "made anew, it is another document");
        assert_ne!(name(&notice("u", "va", "")), name(&notice("uv", "a", "")));
        assert!(first.starts_with("orders.") && first.len() == 23, "{first}");
    }

    #[test]
    fn long_notes_are_cut_between_characters() {
        let event = event("db", "orders", &notice("u", "a", &"ä".repeat(1000)));
        assert_eq!(event.note.unwrap(), "ä".repeat(500));
        assert_eq!(cut("abc", 10), "abc");
    }
}
