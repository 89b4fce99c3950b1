//! The labels of pods: what is not as it must be goes to the source of the documents, from the leader, until the source shows it as it is
//! wanted.
//!
//! A loop of its own, like that of the Services. What was written is seen by the watch that told what was wrong, so nothing is remembered
//! here but when to try again.

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

use crate::app::ports::Consensus;
use crate::app::ports::cluster_source::ClusterSource;

/// Documents that are worked on side by side.
const WRITERS: usize = 8;
/// The longest that one write may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// How soon what is still wrong is written again: the watch may lag behind what was written.
const RETRY: Duration = Duration::from_millis(500);
/// The same after a refusal, which a person has to mend.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// Labels that are not as they must be; nothing on a member that does not lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted(pub(super) Arc<BTreeMap<Origin, Vec<PodLabel>>>);

/// What became of the labels of a document.
type Ended = (Origin, Vec<PodLabel>, Result<(), LabelError>);

/// The loop.
pub(super) struct PodLabeller {
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) source: Arc<dyn ClusterSource>,
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
                let work = self.put_right(due);
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = work => ended,
                };
                for (origin, about, outcome) in ended {
                    let again = match outcome {
                        Ok(()) => {
                            if refused.remove(&origin).is_some() {
                                info!(%origin, "its pods can be labelled again");
                            }
                            RETRY
                        }
                        Err(LabelError::Unsupported) => RETRY_REFUSED,
                        Err(why @ LabelError::Forbidden(_)) => {
                            if refused.insert(origin.clone(), why.to_string()).as_ref() != Some(&why.to_string()) {
                                warn!(%origin, %why, "its pods are not labelled");
                            }
                            RETRY_REFUSED
                        }
                        Err(why @ (LabelError::Gone | LabelError::Failed(_))) => {
                            debug!(%origin, %why, "a pod was not labelled; trying again");
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
                () = crate::app::declarative::reconciler::or_forever(wanted.changed()) => {}
                () = at(next) => {}
            }
        }
    }

    async fn put_right(&self, due: Vec<(Origin, Vec<PodLabel>)>) -> Vec<Ended> {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "labels wait: this member cannot prove that it leads");
            let wait = |(origin, labels)| (origin, labels, Err(LabelError::Failed(why.to_string())));
            return due.into_iter().map(wait).collect();
        }
        let writes = due.into_iter().map(|(origin, labels)| async move {
            let outcome = self.label_all(&origin, &labels).await;
            (origin, labels, outcome)
        });
        futures::stream::iter(writes).buffer_unordered(WRITERS).collect().await
    }

    /// In order. While somebody else may still be called primary, nobody is.
    async fn label_all(&self, origin: &Origin, labels: &[PodLabel]) -> Result<(), LabelError> {
        let mut worst = Ok(());
        for label in labels {
            let written = tokio::time::timeout(WRITE_DEADLINE, self.source.label(origin, label)).await;
            let Ok(written) = written else {
                return Err(LabelError::Failed(format!("not within {} s", WRITE_DEADLINE.as_secs())));
            };
            match written {
                Ok(()) => {
                    let role = label.role.map_or("none", crate::domain::declared::PodRole::as_str);
                    info!(%origin, pod = %label.pod, role, "labelled");
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

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "pod_labels_tests.rs"]
mod tests;
