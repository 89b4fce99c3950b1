//! The role labels of pods: the leader passes the labels that differ to the publisher, until the watch of the pods shows them as they are to
//! be.
//!
//! A separate loop, like that of the Services. The watch that reported the difference also shows the written label, so this loop only keeps
//! when to retry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::declared::{LabelError, PodLabel};
use crate::domain::intent::Origin;

use crate::app::declarative::changed::changed_or_pending;
use crate::app::ports::Consensus;
use crate::app::ports::publisher::Publisher;

/// The most documents that are labelled concurrently.
const WRITERS: usize = 8;
/// The longest that one write may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// How soon a label that still differs is written again: the watch may lag behind.
const RETRY: Duration = Duration::from_millis(500);
/// The same after a refusal, which an operator has to resolve.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// The labels that differ from what they are to be; empty on a member that does not lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted(pub(super) Arc<BTreeMap<Origin, Vec<PodLabel>>>);

/// The labels of a document and the result of writing them.
type Labelled = (Origin, Vec<PodLabel>, Result<(), LabelError>);

/// Writes the role labels of pods.
pub(super) struct PodLabeller {
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) publisher: Arc<dyn Publisher>,
}

impl PodLabeller {
    pub(super) async fn run(&self, mut wanted: watch::Receiver<Wanted>, stop: &CancellationToken) {
        let mut waits: BTreeMap<Origin, (Vec<PodLabel>, Instant)> = BTreeMap::new();
        let mut refused: BTreeMap<Origin, String> = BTreeMap::new();
        loop {
            let Wanted(labels) = wanted.borrow_and_update().clone();
            waits.retain(|origin, _| labels.contains_key(origin));
            refused.retain(|origin, _| labels.contains_key(origin));
            let now = Instant::now();
            let is_due = |(origin, labels): &(&Origin, &Vec<PodLabel>)| {
                let waits = waits.get(*origin);
                !labels.is_empty() && waits.is_none_or(|(about, until)| about != *labels || *until <= now)
            };
            let due: Vec<(Origin, Vec<PodLabel>)> = labels
                .iter()
                .filter(is_due)
                .map(|(origin, labels)| (origin.clone(), labels.clone()))
                .collect();
            if !due.is_empty() {
                let work = self.label_documents(due);
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = work => ended,
                };
                for (origin, about, outcome) in ended {
                    let again = match outcome {
                        Ok(()) => {
                            if refused.remove(&origin).is_some() {
                                info!(%origin, "pods of {origin} are labelled again");
                            }
                            RETRY
                        }
                        Err(LabelError::Unsupported) => RETRY_REFUSED,
                        Err(why @ LabelError::Forbidden(_)) => {
                            if refused.insert(origin.clone(), why.to_string()).as_ref() != Some(&why.to_string()) {
                                warn!(%origin, %why, "failed to label pods of {origin}: {why}");
                            }
                            RETRY_REFUSED
                        }
                        Err(why @ (LabelError::Gone | LabelError::Failed(_))) => {
                            debug!(%origin, %why, "failed to label a pod of {origin}, will retry: {why}");
                            RETRY
                        }
                    };
                    waits.insert(origin, (about, Instant::now() + again));
                }
            }
            let next = waits
                .iter()
                .filter(|(origin, _)| labels.get(*origin).is_some_and(|labels| !labels.is_empty()))
                .map(|(_, (_, until))| *until)
                .min();
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed_or_pending(wanted.changed()) => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn label_documents(&self, due: Vec<(Origin, Vec<PodLabel>)>) -> Vec<Labelled> {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "labels wait: this member cannot prove that it leads: {why}");
            let wait = |(origin, labels)| (origin, labels, Err(LabelError::Failed(why.to_string())));
            return due.into_iter().map(wait).collect();
        }
        let writes = due.into_iter().map(|(origin, labels)| async move {
            let outcome = self.label_all(&origin, &labels).await;
            (origin, labels, outcome)
        });
        futures::stream::iter(writes).buffer_unordered(WRITERS).collect().await
    }

    /// Writes the labels in their order. The new primary is labelled only after the old primary has lost its label.
    async fn label_all(&self, origin: &Origin, labels: &[PodLabel]) -> Result<(), LabelError> {
        let mut worst = Ok(());
        for label in labels {
            let written = tokio::time::timeout(WRITE_DEADLINE, self.publisher.label(origin, label)).await;
            let Ok(written) = written else {
                return Err(LabelError::Failed(format!("not within {} s", WRITE_DEADLINE.as_secs())));
            };
            match written {
                Ok(()) => {
                    let role = label.role.map_or("none", crate::domain::declared::PodRole::as_str);
                    info!(%origin, pod = %label.pod, role, "labelled pod {} as {role}", label.pod);
                }
                Err(LabelError::Gone) => {}
                Err(why @ (LabelError::Forbidden(_) | LabelError::Unsupported)) => return Err(why),
                Err(why) if label.ends_primary => return Err(why),
                Err(why) => worst = Err(why),
            }
        }
        worst
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "pod_labels_tests.rs"]
mod tests;
