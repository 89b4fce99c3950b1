//! The Services of documents: the leader passes them to the publisher until they exist as described.
//!
//! A separate loop: neither recoveries nor the reconcile wait for it, and it retries when the publisher does not answer. Each document has
//! one attempt at a time, with a deadline. A newer publication replaces one that was not written yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::declared::{Observer, Publication, PublishError, PublishedAddresses};
use crate::domain::intent::Origin;

use crate::app::declarative::changed::changed_or_pending;
use crate::app::ports::publisher::Publisher;
use crate::app::ports::{Clock, Consensus};

/// The most concurrent attempts.
const WRITERS: usize = 8;
/// The longest that one attempt may take. A connection that loses its packets is dropped after this, so that the next attempt uses a new
/// connection soon.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(2);
/// How soon an attempt without an answer is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// The same after a refusal, which an operator has to resolve.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// How often correct Services are checked again: they may have been changed or deleted.
const RECHECK: Duration = Duration::from_secs(30);
/// The longest wait between two checks of the due times.
const TICK: Duration = Duration::from_secs(1);

/// The result of the last attempt for each document; attempts without an answer are left out.
pub(super) type PublishOutcomes = Arc<BTreeMap<Origin, Result<PublishedAddresses, PublishError>>>;

/// The publications that a leader wants, with its term.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) term: u64,
    pub(super) publications: Arc<BTreeMap<Origin, Publication>>,
}

/// Publishes Services.
pub(super) struct ServicePublisher {
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) clock: Arc<dyn Clock>,
}

/// A finished attempt.
struct Attempt {
    origin: Origin,
    publication: Publication,
    term: u64,
    outcome: Result<PublishedAddresses, PublishError>,
}

impl ServicePublisher {
    pub(super) async fn run(
        &self,
        mut wanted: watch::Receiver<Wanted>,
        outcomes: &watch::Sender<PublishOutcomes>,
        stop: &CancellationToken,
    ) {
        let mut schedule = PublishSchedule::default();
        let mut attempts = FuturesUnordered::new();
        loop {
            let Wanted { term, publications } = wanted.borrow_and_update().clone();
            if schedule.follow(term, &publications) {
                outcomes.send_modify(|known| {
                    Arc::make_mut(known).retain(|origin, _| schedule.documents.contains_key(origin));
                });
            }
            let due = schedule.due(&publications, Instant::now(), WRITERS.saturating_sub(attempts.len()));
            if !due.is_empty() {
                match self.observer().await {
                    Some(observer) => {
                        for (origin, publication) in due {
                            schedule.begun(&origin);
                            attempts.push(self.attempt(origin, publication, observer.clone(), term));
                        }
                    }
                    None => schedule.wait_until(Instant::now() + RETRY),
                }
            }
            let wake = schedule.next(&publications, Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed_or_pending(wanted.changed()) => {}
                Some(ended) = attempts.next(), if !attempts.is_empty() => {
                    if ended.term == schedule.term {
                        record_outcome(ended, &mut schedule, outcomes);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// The observer that signs what is written; `None` while this member cannot prove that it leads.
    async fn observer(&self) -> Option<Observer> {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "Services wait: this member cannot prove that it leads: {why}");
            return None;
        }
        let state = self.consensus.state();
        let cluster_uuid = state.borrow().group.as_ref().map(|group| group.uuid.clone())?;
        Some(Observer {
            cluster_uuid,
            member: self.consensus.me().name,
            term: self.consensus.leadership().borrow().term,
            renewed: self.clock.wall(),
        })
    }

    async fn attempt(&self, origin: Origin, publication: Publication, observer: Observer, term: u64) -> Attempt {
        let published = self.publisher.publish(&origin, &publication, &observer);
        let outcome = tokio::time::timeout(ATTEMPT_DEADLINE, published).await;
        Attempt {
            outcome: outcome.unwrap_or_else(|_| {
                Err(PublishError::Unanswered(format!(
                    "not within {} s",
                    ATTEMPT_DEADLINE.as_secs()
                )))
            }),
            origin,
            publication,
            term,
        }
    }
}

fn record_outcome(attempt: Attempt, schedule: &mut PublishSchedule, outcomes: &watch::Sender<PublishOutcomes>) {
    let Attempt {
        origin,
        publication,
        outcome,
        ..
    } = attempt;
    let is_news = schedule.ended(&origin, publication, outcome.as_ref().err(), Instant::now());
    match &outcome {
        Ok(_) if is_news => info!(%origin, "reconciled Services of {origin}"),
        Err(why) if is_news => warn!(%origin, %why, "failed to reconcile Services of {origin}, will retry: {why}"),
        Ok(_) | Err(_) => {}
    }
    if !matches!(outcome, Err(PublishError::Unanswered(_))) {
        outcomes.send_if_modified(|known| {
            let is_new = known.get(&origin) != Some(&outcome);
            if is_new {
                Arc::make_mut(known).insert(origin, outcome);
            }
            is_new
        });
    }
}

/// When one leader publishes which document again.
#[derive(Default)]
struct PublishSchedule {
    term: u64,
    documents: BTreeMap<Origin, AttemptState>,
    /// No attempt begins before this.
    not_before: Option<Instant>,
}

#[derive(Default)]
struct AttemptState {
    is_running: bool,
    /// The publication of the last attempt, whether it failed, and when the next attempt with the same publication begins.
    last: Option<(Publication, bool, Instant)>,
}

impl AttemptState {
    fn due_at(&self, publication: &Publication, now: Instant) -> Option<Instant> {
        match &self.last {
            _ if self.is_running => None,
            Some((last, has_failed, again)) if last == publication => {
                (*has_failed || !publication.services.is_empty()).then_some(*again)
            }
            Some(_) | None => Some(now),
        }
    }
}

impl PublishSchedule {
    /// Forgets documents that are gone, and everything in a new term. Returns whether it forgot a document.
    fn follow(&mut self, term: u64, publications: &BTreeMap<Origin, Publication>) -> bool {
        let before = self.documents.len();
        if self.term != term {
            *self = Self {
                term,
                ..Self::default()
            };
        }
        self.documents.retain(|origin, _| publications.contains_key(origin));
        let has_forgotten = self.documents.len() < before;
        for origin in publications.keys() {
            self.documents.entry(origin.clone()).or_default();
        }
        has_forgotten
    }

    fn due(
        &self,
        publications: &BTreeMap<Origin, Publication>,
        now: Instant,
        most: usize,
    ) -> Vec<(Origin, Publication)> {
        if self.not_before.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let is_due = |(origin, publication): &(&Origin, &Publication)| {
            let attempt = self.documents.get(*origin);
            attempt.is_some_and(|attempt| attempt.due_at(publication, now).is_some_and(|at| at <= now))
        };
        publications
            .iter()
            .filter(is_due)
            .take(most)
            .map(|(origin, publication)| (origin.clone(), publication.clone()))
            .collect()
    }

    /// When to check due times again. Documents beyond the limit of concurrent attempts wait until one ends.
    fn next(&self, publications: &BTreeMap<Origin, Publication>, now: Instant) -> Instant {
        let dues = publications.iter().filter_map(|(origin, publication)| {
            let at = self.documents.get(origin)?.due_at(publication, now)?;
            Some(at.max(self.not_before.unwrap_or(at))).filter(|at| *at > now)
        });
        dues.min().unwrap_or(now + TICK).min(now + TICK)
    }

    fn wait_until(&mut self, at: Instant) {
        self.not_before = Some(at);
    }

    fn begun(&mut self, origin: &Origin) {
        self.documents.entry(origin.clone()).or_default().is_running = true;
    }

    /// Returns whether the outcome is to be logged.
    fn ended(&mut self, origin: &Origin, publication: Publication, why: Option<&PublishError>, now: Instant) -> bool {
        let Some(attempt) = self.documents.get_mut(origin) else {
            return false;
        };
        attempt.is_running = false;
        let again = match why {
            None | Some(PublishError::Unsupported) => RECHECK,
            Some(PublishError::Unanswered(_)) => RETRY,
            Some(
                PublishError::NameTaken(_)
                | PublishError::Forbidden(_)
                | PublishError::Refused(_)
                | PublishError::Superseded(_),
            ) => RETRY_REFUSED,
        };
        // Without Services in the publication, a missing right to list left-over Services is no failure.
        let is_asked = !publication.services.is_empty();
        let has_failed = why.is_some_and(|why| is_asked || matches!(why, PublishError::Unanswered(_)));
        let had_failed = attempt.last.as_ref().is_some_and(|(_, had_failed, _)| *had_failed);
        attempt.last = Some((publication, has_failed, now + again));
        is_asked && had_failed != has_failed
    }
}

#[cfg(test)]
#[path = "service_publisher_tests.rs"]
mod tests;
