//! The Services of documents: what they must be goes to the source of the documents, from the leader, until it is there.
//!
//! A loop of its own: neither recoveries nor the reconcile wait for it, and a source that does not answer only makes it try again. Each
//! document is one attempt at a time, of bounded length, and what it shall write next replaces what it did not write yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::declared::{LeadsTo, Observer, Publication, PublishError};
use crate::domain::intent::Origin;

use crate::app::ports::cluster_source::ClusterSource;
use crate::app::ports::{Clock, Consensus};

/// Attempts that run side by side.
const WRITERS: usize = 8;
/// The longest that one attempt may take. A connection whose packets are dropped is given up after this, so that a source which is back
/// is met by a fresh one soon.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(2);
/// How soon after an attempt without an answer the next one begins.
const RETRY: Duration = Duration::from_millis(500);
/// The same after a refusal, which a person has to mend.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// What is as it must be is looked at again after so long: somebody may have changed or deleted it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Without any change due times are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// What became of the last attempt for each document, but for those that got no answer.
pub(super) type Outcomes = Arc<BTreeMap<Origin, Result<LeadsTo, PublishError>>>;

/// What must be there, by the word of the leader of which term.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) term: u64,
    pub(super) publications: Arc<BTreeMap<Origin, Publication>>,
}

/// The loop.
pub(super) struct ServicePublisher {
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) source: Arc<dyn ClusterSource>,
    pub(super) clock: Arc<dyn Clock>,
}

/// An attempt that ended.
struct Ended {
    origin: Origin,
    publication: Publication,
    term: u64,
    outcome: Result<LeadsTo, PublishError>,
}

impl ServicePublisher {
    pub(super) async fn run(
        &self,
        mut wanted: watch::Receiver<Wanted>,
        outcomes: &watch::Sender<Outcomes>,
        stop: &CancellationToken,
    ) {
        let mut pace = Pace::default();
        let mut attempts = FuturesUnordered::new();
        loop {
            let Wanted { term, publications } = wanted.borrow_and_update().clone();
            if pace.follow(term, &publications) {
                outcomes.send_modify(|told| {
                    Arc::make_mut(told).retain(|origin, _| pace.documents.contains_key(origin));
                });
            }
            let due = pace.due(&publications, Instant::now(), WRITERS.saturating_sub(attempts.len()));
            if !due.is_empty() {
                match self.observer().await {
                    Some(observer) => {
                        for (origin, publication) in due {
                            pace.begun(&origin);
                            attempts.push(self.attempt(origin, publication, observer.clone(), term));
                        }
                    }
                    None => pace.wait_until(Instant::now() + RETRY),
                }
            }
            let wake = pace.next(&publications, Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = crate::app::declarative::reconciler::or_forever(wanted.changed()) => {}
                Some(ended) = attempts.next(), if !attempts.is_empty() => {
                    if ended.term == pace.term {
                        take_in(ended, &mut pace, outcomes);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// In whose name is written; `None` while this member cannot prove that it leads.
    async fn observer(&self) -> Option<Observer> {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "Services wait: this member cannot prove that it leads");
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

    async fn attempt(&self, origin: Origin, publication: Publication, observer: Observer, term: u64) -> Ended {
        let published = self.source.publish(&origin, &publication, &observer);
        let outcome = tokio::time::timeout(ATTEMPT_DEADLINE, published).await;
        Ended {
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

fn take_in(ended: Ended, pace: &mut Pace, outcomes: &watch::Sender<Outcomes>) {
    let Ended {
        origin,
        publication,
        outcome,
        ..
    } = ended;
    let is_news = pace.ended(&origin, publication, outcome.as_ref().err(), Instant::now());
    match &outcome {
        Ok(_) if is_news => info!(%origin, "its Services are as they must be"),
        Err(why) if is_news => warn!(%origin, %why, "its Services are not as they must be; trying again"),
        Ok(_) | Err(_) => {}
    }
    if !matches!(outcome, Err(PublishError::Unanswered(_))) {
        outcomes.send_if_modified(|told| {
            let is_new = told.get(&origin) != Some(&outcome);
            if is_new {
                Arc::make_mut(told).insert(origin, outcome);
            }
            is_new
        });
    }
}

/// The memory of one leader about what it published.
#[derive(Default)]
struct Pace {
    term: u64,
    documents: BTreeMap<Origin, Standing>,
    /// Nothing begins before this.
    not_before: Option<Instant>,
}

#[derive(Default)]
struct Standing {
    is_running: bool,
    /// What the last attempt was about, whether it failed, and when the next one about the same begins.
    last: Option<(Publication, bool, Instant)>,
}

impl Standing {
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

impl Pace {
    /// Forgets documents that are gone, and everything in a new term. Says whether it did.
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
            let standing = self.documents.get(*origin);
            standing.is_some_and(|standing| standing.due_at(publication, now).is_some_and(|at| at <= now))
        };
        publications
            .iter()
            .filter(is_due)
            .take(most)
            .map(|(origin, publication)| (origin.clone(), publication.clone()))
            .collect()
    }

    /// When to look at due times again; those that were held up by too many others wait for one of them to end.
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

    /// Says whether the outcome is worth a line in the log.
    fn ended(&mut self, origin: &Origin, publication: Publication, why: Option<&PublishError>, now: Instant) -> bool {
        let Some(standing) = self.documents.get_mut(origin) else {
            return false;
        };
        standing.is_running = false;
        let again = match why {
            None | Some(PublishError::Unsupported) => LOOK_AGAIN,
            Some(PublishError::Unanswered(_)) => RETRY,
            Some(
                PublishError::NameTaken(_)
                | PublishError::Forbidden(_)
                | PublishError::Refused(_)
                | PublishError::Superseded(_),
            ) => RETRY_REFUSED,
        };
        // Where nothing is asked for, there may be no right to look for left-over Services, and no need either.
        let is_asked = !publication.services.is_empty();
        let has_failed = why.is_some_and(|why| is_asked || matches!(why, PublishError::Unanswered(_)));
        let had_failed = standing.last.as_ref().is_some_and(|(_, had_failed, _)| *had_failed);
        standing.last = Some((publication, has_failed, now + again));
        is_asked && had_failed != has_failed
    }
}

#[cfg(test)]
#[path = "service_publisher_tests.rs"]
mod tests;
