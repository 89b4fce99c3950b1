//! What the publishers of primaries did last for each cluster, as far as a replacement of a primary, the API and the metrics
//! depend on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::key::InstanceKey;
use crate::domain::topology::ClusterId;

/// The last result of one publisher for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationStatus {
    /// The name under which the cluster is published.
    pub name: String,
    /// The primary to which the publisher leads clients, as far as is known; `None` after a withdrawal.
    pub leads_to: Option<InstanceKey>,
    /// The publisher would withdraw it from there at the start of a replacement.
    pub withdraws: bool,
    /// Why the last attempt failed.
    pub failure: Option<PublicationFailure>,
    /// The last round in which an attempt ended: see [`PublicationGate::request_round`].
    pub round: u64,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationFailure {
    /// Why.
    pub why: String,
    /// The system did not answer: the next attempt may succeed without help.
    pub is_unanswered: bool,
}

/// Statuses by publisher and cluster.
pub type PublicationStatuses = BTreeMap<(String, ClusterId), PublicationStatus>;

/// The results of all publishers on this member; empty where it does not lead or nothing is published. Clones share the value.
#[derive(Clone, Debug)]
pub struct PublicationGate {
    statuses: Arc<watch::Sender<PublicationStatuses>>,
    /// Raised to ask for an attempt for every cluster now.
    rounds: Arc<watch::Sender<u64>>,
    publishers: Arc<Vec<String>>,
}

impl Default for PublicationGate {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl PublicationGate {
    /// The gate of these publishers.
    pub fn of(publishers: Vec<String>) -> Self {
        Self {
            statuses: Arc::default(),
            rounds: Arc::default(),
            publishers: Arc::new(publishers),
        }
    }

    /// The names of the publishers.
    pub fn publishers(&self) -> &[String] {
        &self.publishers
    }

    /// The last results.
    pub fn statuses(&self) -> PublicationStatuses {
        self.statuses.borrow().clone()
    }

    /// Changes the results.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PublicationStatuses)) {
        self.statuses.send_modify(change);
    }

    /// Asks for an attempt for every cluster now, whether something changed or not. Returns the number of the round.
    pub fn request_round(&self) -> u64 {
        let mut round = 0;
        self.rounds.send_modify(|number| {
            *number += 1;
            round = *number;
        });
        round
    }

    /// The number of the last round that was asked for.
    pub(crate) fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Waits until the publishers ended an attempt of this round, or a later one, for all these clusters. Returns `false` when
    /// `deadline` passed.
    pub async fn wait_for_round(&self, round: u64, clusters: &[ClusterId], deadline: Duration) -> bool {
        let is_tried = |statuses: &PublicationStatuses| {
            self.publishers.iter().all(|publisher| {
                clusters.iter().all(|cluster| {
                    let status = statuses.get(&(publisher.clone(), cluster.clone()));
                    status.is_some_and(|status| status.round >= round)
                })
            })
        };
        let mut statuses = self.statuses.subscribe();
        tokio::time::timeout(deadline, statuses.wait_for(is_tried))
            .await
            .is_ok()
    }

    /// Waits until no publisher that withdraws primaries leads clients to the primary of this cluster. Does not wait for a
    /// publisher that was refused: an operator has to help it first. Returns the publishers that may still lead there when
    /// `deadline` passed.
    pub async fn wait_until_withdrawn(&self, cluster: &ClusterId, deadline: Duration) -> Vec<String> {
        let leading = |statuses: &PublicationStatuses| -> Vec<String> {
            let of_cluster = statuses
                .iter()
                .filter(|((_, of), status)| of == cluster && status.withdraws);
            let leads = of_cluster.filter(|(_, status)| {
                let is_refused = status.failure.as_ref().is_some_and(|failure| !failure.is_unanswered);
                status.leads_to.is_some() && !is_refused
            });
            leads.map(|((publisher, _), _)| publisher.clone()).collect()
        };
        let mut statuses = self.statuses.subscribe();
        let is_closed = statuses.wait_for(|statuses| leading(statuses).is_empty());
        if tokio::time::timeout(deadline, is_closed).await.is_ok() {
            return Vec::new();
        }
        leading(&self.statuses.borrow())
    }

    /// Waits until every publisher leads the clients of this cluster to `primary`. Returns what failed when `deadline` passed.
    pub async fn wait_until_published(
        &self,
        cluster: &ClusterId,
        primary: &InstanceKey,
        deadline: Duration,
    ) -> Vec<String> {
        let missing = |statuses: &PublicationStatuses| -> Vec<String> {
            let why = |publisher: &String| match statuses.get(&(publisher.clone(), cluster.clone())) {
                Some(PublicationStatus {
                    failure: Some(failure), ..
                }) => Some(format!("{publisher}: {}", failure.why)),
                Some(status) if status.leads_to.as_ref() == Some(primary) => None,
                Some(_) | None => Some(format!("{publisher}: {primary} was not published in time")),
            };
            self.publishers.iter().filter_map(why).collect()
        };
        let mut statuses = self.statuses.subscribe();
        let is_published = statuses.wait_for(|statuses| missing(statuses).is_empty());
        if tokio::time::timeout(deadline, is_published).await.is_ok() {
            return Vec::new();
        }
        missing(&self.statuses.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::sample::{cluster_id, key};

    const SOON: Duration = Duration::from_secs(2);

    fn status(leads_to: Option<u32>, withdraws: bool, failure: Option<bool>) -> PublicationStatus {
        PublicationStatus {
            name: "shop".to_owned(),
            leads_to: leads_to.map(key),
            withdraws,
            failure: failure.map(|is_unanswered| PublicationFailure {
                why: "no".to_owned(),
                is_unanswered,
            }),
            round: 0,
        }
    }

    fn gate(statuses: &[(&str, PublicationStatus)]) -> PublicationGate {
        let gate = PublicationGate::of(statuses.iter().map(|(name, _)| (*name).to_owned()).collect());
        for (name, status) in statuses {
            gate.update(|all| {
                all.insert(((*name).to_owned(), cluster_id(1)), status.clone());
            });
        }
        gate
    }

    #[tokio::test(start_paused = true)]
    async fn only_publishers_that_withdraw_and_still_lead_are_waited_for() {
        let begun = tokio::time::Instant::now();
        let no_wait = gate(&[
            ("a", status(None, true, None)),
            ("b", status(Some(1), false, None)),
            ("c", status(Some(1), true, Some(false))),
        ]);
        assert!(no_wait.wait_until_withdrawn(&cluster_id(1), SOON).await.is_empty());
        assert!(
            PublicationGate::default()
                .wait_until_withdrawn(&cluster_id(1), SOON)
                .await
                .is_empty()
        );
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let waits = gate(&[
            ("d", status(Some(1), true, None)),
            ("e", status(Some(1), true, Some(true))),
        ]);
        assert_eq!(waits.wait_until_withdrawn(&cluster_id(1), SOON).await, ["d", "e"]);
        assert_eq!(begun.elapsed(), SOON);
        assert!(waits.wait_until_withdrawn(&cluster_id(2), SOON).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawal_ends_the_wait() {
        let gate = gate(&[("d", status(Some(1), true, None))]);
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.wait_until_withdrawn(&cluster_id(1), SOON).await }
        });
        tokio::time::sleep(SOON / 2).await;
        assert!(!waiting.is_finished());
        gate.update(|all| {
            all.insert(("d".to_owned(), cluster_id(1)), status(None, true, None));
        });
        assert!(waiting.await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn every_publisher_has_to_publish() {
        let both = gate(&[("a", status(Some(2), true, None)), ("b", status(Some(1), true, None))]);
        let missing = both.wait_until_published(&cluster_id(1), &key(2), SOON).await;
        assert_eq!(missing.len(), 1);
        assert!(missing[0].starts_with("b: "), "{missing:?}");
        both.update(|all| {
            all.insert(("b".to_owned(), cluster_id(1)), status(Some(2), true, None));
        });
        assert!(
            both.wait_until_published(&cluster_id(1), &key(2), SOON)
                .await
                .is_empty()
        );
        let unknown = PublicationGate::of(vec!["a".to_owned()]);
        assert_eq!(
            unknown.wait_until_published(&cluster_id(1), &key(2), SOON).await.len(),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_over_when_all_publishers_tried() {
        let gate = gate(&[("a", status(Some(1), true, None))]);
        let round = gate.request_round();
        assert!(!gate.wait_for_round(round, &[cluster_id(1)], SOON).await);
        gate.update(|all| {
            let tried = PublicationStatus {
                round,
                ..status(Some(1), true, Some(true))
            };
            all.insert(("a".to_owned(), cluster_id(1)), tried);
        });
        assert!(gate.wait_for_round(round, &[cluster_id(1)], SOON).await);
    }
}
