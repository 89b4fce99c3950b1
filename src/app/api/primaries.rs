//! What is published of primaries: shown, and published again on request.

use std::time::Duration;

use crate::domain::published_primary::{KeyPrefix, PublishedTarget, pairs, published_primaries};
use crate::domain::state::State;
use crate::domain::topology::ClusterId;

use crate::app::observation::dns_cache;
use crate::app::recovery::publication_gate::PublicationGate;

use super::{ApiError, KeyValue};

/// How long a request waits for all publishers.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(15);
/// How long the host names of all primaries may take to be resolved.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(1);

/// The publications of this member.
#[derive(Clone, Default)]
pub struct PrimaryPublications {
    /// The results of the publishers.
    pub gate: PublicationGate,
    /// The prefix of all keys.
    pub prefix: KeyPrefix,
}

impl PrimaryPublications {
    /// Publishes the primaries of one cluster, or of all, again, and returns the pairs in their order.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] for a cluster that is not published or has no primary now; [`ApiError::Unavailable`] with what
    /// failed.
    pub(super) async fn submit(&self, state: &State, only: Option<&ClusterId>) -> Result<Vec<KeyValue>, ApiError> {
        let all = published_primaries(state, |_, _| false);
        if let Some(cluster) = only {
            if let Some(why) = all.left_out.get(cluster) {
                return Err(ApiError::Conflict(format!("cluster {cluster} is not published: {why}")));
            }
            let target = all.published.get(cluster).map(|published| &published.target);
            if let Some(PublishedTarget::Replacing(primary)) = target {
                return Err(ApiError::Conflict(format!(
                    "{primary} is being replaced; try again after the recovery"
                )));
            }
        }
        let wanted = all.published.into_values().filter(|published| {
            only.is_none_or(|cluster| published.cluster == *cluster)
                && matches!(published.target, PublishedTarget::Primary(_))
        });
        let wanted: Vec<_> = wanted.collect();
        let clusters: Vec<ClusterId> = wanted.iter().map(|published| published.cluster.clone()).collect();
        let round = self.gate.request_round();
        let is_tried = self.gate.wait_for_round(round, &clusters, SUBMIT_DEADLINE).await;
        let mut failures: Vec<String> = Vec::new();
        for ((publisher, cluster), status) in self.gate.statuses() {
            if let Some(failure) = status.failure.filter(|_| clusters.contains(&cluster)) {
                failures.push(format!("{} at {publisher}: {}", status.name, failure.why));
            }
        }
        if !failures.is_empty() {
            return Err(ApiError::Unavailable(format!("not published: {}", failures.join("; "))));
        }
        if !is_tried {
            let seconds = SUBMIT_DEADLINE.as_secs();
            return Err(ApiError::Unavailable(format!(
                "not all primaries were published within {seconds} s"
            )));
        }
        let mut found = Vec::new();
        for published in &wanted {
            if let PublishedTarget::Primary(primary) = &published.target {
                let lookup = tokio::time::timeout(LOOKUP_DEADLINE, dns_cache::addresses(&primary.hostname)).await;
                let addresses = lookup
                    .ok()
                    .and_then(Result::ok)
                    .map(|found| found.into_iter().collect());
                let pairs = pairs(&self.prefix, &published.name, primary, addresses.as_ref());
                found.extend(pairs.into_iter().map(|(key, value)| KeyValue { key, value }));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "primaries_tests.rs"]
mod tests;
