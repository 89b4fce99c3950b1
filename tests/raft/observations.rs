//! Requests for the observations of another member.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ham4db::app::ports::{
    Consensus as _, ObservationRequest, ObservationSource, ObservationUpdate, Peer, SharedObservation, SharedOutcome,
};
use ham4db::domain::instance::ProbeFailure;
use ham4db::domain::intent::Origin;
use ham4db::domain::key::InstanceKey;

use crate::harness::Group;

const DEADLINE: Duration = Duration::from_secs(5);

/// Answers with one failure, whose text has this length, and keeps what was asked.
struct Failing {
    length: usize,
    asked: Mutex<Vec<ObservationRequest>>,
}

#[async_trait]
impl ObservationSource for Failing {
    async fn observations(&self, request: ObservationRequest) -> ObservationUpdate {
        self.asked.lock().unwrap().push(request);
        ObservationUpdate {
            stream: 4,
            version: 7,
            observations: vec![SharedObservation {
                key: InstanceKey::new("db1", 3306),
                account: Origin::Api,
                begun_millis_ago: 12,
                ended_millis_ago: 11,
                micros: 900,
                outcome: SharedOutcome::Failed(ProbeFailure::Lost("x".repeat(self.length))),
            }],
            ..ObservationUpdate::default()
        }
    }
}

fn failing(length: usize) -> Arc<Failing> {
    Arc::new(Failing {
        length,
        asked: Mutex::default(),
    })
}

async fn fetch(group: &Group, request: &ObservationRequest) -> Result<ObservationUpdate, String> {
    let member = group.nodes[0].member();
    let peers: Vec<Peer> = member.peers();
    let other = peers.iter().find(|peer| peer.name == group.nodes[1].name).unwrap();
    member.fetch_observations(other, request, DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_what_another_one_observed() {
    let source = failing(5);
    let other: Arc<dyn ObservationSource> = Arc::<Failing>::clone(&source);
    let group = Group::running_with(2, |group| {
        group.nodes[1].observations = Some(other);
    })
    .await;
    let request = ObservationRequest {
        stream: 4,
        after: 6,
        ..ObservationRequest::default()
    };
    let update = fetch(&group, &request).await.unwrap();
    assert_eq!((update.stream, update.version), (4, 7));
    assert_eq!(
        update.observations[0].outcome,
        SharedOutcome::Failed(ProbeFailure::Lost("xxxxx".to_owned()))
    );
    assert!(update.received_bytes > 100, "{}", update.received_bytes);
    assert_eq!(*source.asked.lock().unwrap(), [request]);
    // A cut link is an error, and not an empty answer.
    group.isolate(0, true);
    let error = fetch(&group, &ObservationRequest::default()).await.unwrap_err();
    assert!(error.contains("cut"), "{error}");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_share_says_so_and_a_huge_answer_is_refused() {
    let huge: Arc<dyn ObservationSource> = failing(17 * 1024 * 1024);
    let group = Group::running_with(2, |group| group.nodes[1].observations = Some(huge)).await;
    let error = fetch(&group, &ObservationRequest::default()).await.unwrap_err();
    assert!(error.contains("longer than 16777216 bytes"), "{error}");
    group.shutdown().await;
    let group = Group::running(2).await;
    let error = fetch(&group, &ObservationRequest::default()).await.unwrap_err();
    assert!(
        error.contains("404") && error.contains("ProbeSharing is off"),
        "{error}"
    );
    group.shutdown().await;
}
