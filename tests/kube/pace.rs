//! The loop against a source in memory: what it proposes and writes, and that neither waits for the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ham4db::app::ports::CredentialsByOrigin;
use ham4db::app::ports::cluster_source::{ClusterSource, DocumentSet, StatusError};
use ham4db::app::ports::publisher::Publisher;
use ham4db::domain::declared::{ClusterEvent, Completeness, Observer, SourceContents, StatusModel};
use ham4db::domain::intent::Origin;
use ham4db::resource;
use serde_json::json;
use tokio::sync::watch;

use super::leader::{Alone, DEADLINE, no_views, origin};
use super::server::document;

/// A source that the test fills; its writes may hang or fail.
#[derive(Default)]
struct Memory {
    documents: watch::Sender<DocumentSet>,
    written: watch::Sender<Vec<(Origin, Observer)>>,
    behaviour: Mutex<Behaviour>,
}

#[derive(Clone, Copy, Default)]
enum Behaviour {
    #[default]
    Writes,
    Hangs,
    Fails,
}

impl Memory {
    fn put(&self, names: &[&str]) {
        let read = |name: &&str| {
            resource::document(&document("db", name, &json!({})), "default")
                .unwrap()
                .declared
        };
        let seen = SourceContents {
            completeness: Completeness::Complete,
            documents: names.iter().map(read).collect(),
            ..SourceContents::default()
        };
        self.documents.send_replace(Arc::new(seen));
    }

    fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    async fn written(&self, what: &str, wanted: impl Fn(&[(Origin, Observer)]) -> bool) {
        let mut written = self.written.subscribe();
        let reached = tokio::time::timeout(DEADLINE, written.wait_for(|all| wanted(all)))
            .await
            .is_ok();
        assert!(reached, "{what}: {:?}", self.written.borrow());
    }
}

impl Publisher for Memory {}

#[async_trait]
impl ClusterSource for Memory {
    fn documents(&self) -> watch::Receiver<DocumentSet> {
        self.documents.subscribe()
    }

    fn credentials(&self) -> watch::Receiver<CredentialsByOrigin> {
        watch::channel(CredentialsByOrigin::default()).1
    }

    async fn write_status(
        &self,
        origin: &Origin,
        _status: &StatusModel,
        observer: &Observer,
    ) -> Result<(), StatusError> {
        let behaviour = *self.behaviour.lock().unwrap();
        match behaviour {
            Behaviour::Writes => {
                self.written
                    .send_modify(|all| all.push((origin.clone(), observer.clone())));
                Ok(())
            }
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::Fails => Err(StatusError::Failed {
                origin: origin.clone(),
                why: "no".to_owned(),
            }),
        }
    }

    async fn record_event(&self, _origin: &Origin, _event: &ClusterEvent) -> Result<(), StatusError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_source_that_hangs_while_a_status_is_written_delays_no_command() {
    let source = Arc::new(Memory::default());
    source.behave(Behaviour::Hangs);
    source.put(&["orders"]);
    let leader = Alone::leading("ours");
    let _declaring = leader.declare(source.clone(), no_views());
    leader
        .until("the first one is recorded", |state| state.documents.len() == 1)
        .await;
    let begun = std::time::Instant::now();
    source.put(&["orders", "users"]);
    leader
        .until("the second one is recorded", |state| state.documents.len() == 2)
        .await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    source.behave(Behaviour::Writes);
    source
        .written("both statuses are written once it works again", |all| all.len() == 2)
        .await;
}

#[tokio::test]
async fn a_status_that_failed_is_tried_again() {
    let source = Arc::new(Memory::default());
    source.behave(Behaviour::Fails);
    source.put(&["orders"]);
    let leader = Alone::leading("ours");
    let _declaring = leader.declare(source.clone(), no_views());
    leader.until("it is recorded", |state| state.documents.len() == 1).await;
    source.behave(Behaviour::Writes);
    source.written("its status is written", |all| all.len() == 1).await;
}

#[tokio::test]
async fn what_did_not_change_is_neither_proposed_nor_written_again() {
    let source = Arc::new(Memory::default());
    source.put(&["orders"]);
    let leader = Alone::leading("ours");
    let _declaring = leader.declare(source.clone(), no_views());
    source.written("its status is written", |all| !all.is_empty()).await;
    // Each of these is a change that the loop looks at.
    for names in [&["orders", "users"][..], &["orders"], &["orders", "users"], &["orders"]] {
        let wanted = names.len();
        source.put(names);
        leader
            .until("the documents are as put", |state| state.documents.len() == wanted)
            .await;
    }
    let of_orders = source
        .written
        .borrow()
        .iter()
        .filter(|(of, _)| *of == origin("db", "orders"))
        .count();
    assert_eq!(of_orders, 1);
    assert_eq!(
        leader.proposed().iter().filter(|name| **name == "put-document").count(),
        3
    );
}

#[tokio::test]
async fn a_new_leader_writes_its_own_name_and_term() {
    let source = Arc::new(Memory::default());
    source.put(&["orders"]);
    let leader = Alone::leading("ours");
    let _declaring = leader.declare(source.clone(), no_views());
    source.written("by the first one", |all| all.len() == 1).await;
    leader.lead(false);
    leader.lead(true);
    source
        .written("by the second one", |all| {
            all.iter().any(|(_, observer)| observer.term == 3)
        })
        .await;
}
