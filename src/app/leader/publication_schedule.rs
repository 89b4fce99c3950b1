//! When one publisher publishes which cluster again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::published_primary::{PublishedPrimaries, PublishedPrimary, PublishedTarget};
use crate::domain::topology::ClusterId;

use crate::app::recovery::publication_gate::PublicationFailure;

/// How often what is published is compared with what is wanted.
const RECHECK: Duration = Duration::from_mins(1);
/// The first and the longest pause after an attempt without an answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The same after a refusal, which an operator has to resolve.
const RETRY_REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// The schedule of one publisher on one leader.
pub(super) struct PublicationSchedule {
    withdraws: bool,
    term: u64,
    clusters: BTreeMap<ClusterId, Attempts>,
    /// No attempt begins before this.
    not_before: Option<Instant>,
}

#[derive(Default)]
struct Attempts {
    is_running: bool,
    last: Option<Attempt>,
    /// Failed attempts in a row for the same wanted value.
    failures: u32,
}

struct Attempt {
    wanted: PublishedPrimary,
    has_failed: bool,
    round: u64,
    again: Instant,
}

impl Attempts {
    fn due_at(&self, wanted: &PublishedPrimary, round: u64, now: Instant) -> Option<Instant> {
        match &self.last {
            _ if self.is_running => None,
            Some(last) if last.wanted == *wanted && last.round >= round => Some(last.again),
            Some(_) | None => Some(now),
        }
    }
}

impl PublicationSchedule {
    pub(super) fn new(withdraws: bool) -> Self {
        Self {
            withdraws,
            term: 0,
            clusters: BTreeMap::new(),
            not_before: None,
        }
    }

    /// Forgets clusters that are not published any more, and everything in a new term. Returns whether it forgot a cluster.
    pub(super) fn follow(&mut self, term: u64, wanted: &PublishedPrimaries) -> bool {
        let before = self.clusters.len();
        if self.term != term {
            *self = Self {
                term,
                ..Self::new(self.withdraws)
            };
        }
        self.clusters
            .retain(|cluster, _| wanted.published.contains_key(cluster));
        let has_forgotten = self.clusters.len() < before;
        for cluster in wanted.published.keys() {
            self.clusters.entry(cluster.clone()).or_default();
        }
        has_forgotten
    }

    /// Whether a cluster is followed.
    pub(super) fn has(&self, cluster: &ClusterId) -> bool {
        self.clusters.contains_key(cluster)
    }

    /// Whether an attempt of this term for this cluster still counts.
    pub(super) fn is_of(&self, term: u64, cluster: &ClusterId) -> bool {
        self.term == term && self.has(cluster)
    }

    /// Nothing is done for a primary that is being replaced by a publisher that withdraws none.
    fn asks_for_something(&self, wanted: &PublishedPrimary) -> bool {
        self.withdraws || matches!(wanted.target, PublishedTarget::Primary(_))
    }

    /// The clusters for which an attempt is due, `most` at most.
    pub(super) fn due(
        &self,
        wanted: &PublishedPrimaries,
        round: u64,
        now: Instant,
        most: usize,
    ) -> Vec<PublishedPrimary> {
        if self.not_before.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let is_due = |wanted: &&PublishedPrimary| {
            let attempts = self.clusters.get(&wanted.cluster);
            let due = attempts.and_then(|attempts| attempts.due_at(wanted, round, now));
            self.asks_for_something(wanted) && due.is_some_and(|at| at <= now)
        };
        wanted.published.values().filter(is_due).take(most).cloned().collect()
    }

    /// When to look again; clusters beyond the limit of concurrent attempts wait until one ends.
    pub(super) fn next(&self, wanted: &PublishedPrimaries, now: Instant) -> Option<Instant> {
        let later = |wanted: &PublishedPrimary| {
            let at = self.clusters.get(&wanted.cluster)?.due_at(wanted, 0, now)?;
            Some(at.max(self.not_before.unwrap_or(at))).filter(|at| *at > now)
        };
        wanted.published.values().filter_map(later).min()
    }

    pub(super) fn wait_until(&mut self, at: Instant) {
        self.not_before = Some(at);
    }

    pub(super) fn begin(&mut self, cluster: &ClusterId) {
        self.clusters.entry(cluster.clone()).or_default().is_running = true;
    }

    /// Returns whether the result is to be logged: it differs from that of the attempt before.
    pub(super) fn end(
        &mut self,
        wanted: &PublishedPrimary,
        failure: Option<&PublicationFailure>,
        round: u64,
        now: Instant,
    ) -> bool {
        let Some(attempts) = self.clusters.get_mut(&wanted.cluster) else {
            return false;
        };
        attempts.is_running = false;
        attempts.failures = if failure.is_some() {
            attempts.failures.saturating_add(1)
        } else {
            0
        };
        let pause = match failure {
            None => RECHECK,
            Some(failure) => {
                let (first, longest) = if failure.is_unanswered { RETRY } else { RETRY_REFUSED };
                let doubled = 1_u32 << attempts.failures.saturating_sub(1).min(10);
                first.saturating_mul(doubled).min(longest)
            }
        };
        let has_failed = failure.is_some();
        let had_failed = attempts.last.as_ref().is_some_and(|last| last.has_failed);
        attempts.last = Some(Attempt {
            wanted: wanted.clone(),
            has_failed,
            round,
            again: now + pause,
        });
        had_failed != has_failed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::state::sample::{cluster_id, key};

    fn wanted(target: PublishedTarget, epoch: u64) -> (PublishedPrimary, PublishedPrimaries) {
        let primary = PublishedPrimary {
            cluster: cluster_id(1),
            name: "shop".to_owned(),
            epoch,
            target,
            instances: BTreeSet::from([key(1)]),
        };
        let all = PublishedPrimaries {
            published: BTreeMap::from([(cluster_id(1), primary.clone())]),
            left_out: BTreeMap::new(),
        };
        (primary, all)
    }

    fn failure(is_unanswered: bool) -> PublicationFailure {
        PublicationFailure {
            why: "no".to_owned(),
            is_unanswered,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_due_at_once_and_the_same_again_after_a_minute() {
        let mut schedule = PublicationSchedule::new(true);
        let (first, all) = wanted(PublishedTarget::Primary(key(1)), 1);
        let now = Instant::now();
        schedule.follow(1, &all);
        assert_eq!(schedule.due(&all, 0, now, 8), std::slice::from_ref(&first));
        schedule.begin(&cluster_id(1));
        assert!(schedule.due(&all, 0, now, 8).is_empty(), "one attempt at a time");
        assert!(
            !schedule.end(&first, None, 0, now),
            "the first success is no change of the result"
        );
        assert!(schedule.due(&all, 0, now, 8).is_empty());
        assert_eq!(schedule.next(&all, now), Some(now + RECHECK));
        assert_eq!(schedule.due(&all, 0, now + RECHECK, 8).len(), 1);
        let (_, changed) = wanted(PublishedTarget::Primary(key(2)), 1);
        assert_eq!(schedule.due(&changed, 0, now, 8).len(), 1);
        assert_eq!(schedule.due(&all, 1, now, 8).len(), 1, "a round was asked for");
        schedule.follow(2, &all);
        assert_eq!(
            schedule.due(&all, 0, now, 8).len(),
            1,
            "a new term publishes everything"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_repeated_with_growing_pauses_and_logged_once() {
        let mut schedule = PublicationSchedule::new(true);
        let (first, all) = wanted(PublishedTarget::Primary(key(1)), 1);
        let now = Instant::now();
        schedule.follow(1, &all);
        let mut pauses = Vec::new();
        for attempt in 0..9 {
            let is_news = schedule.end(&first, Some(&failure(true)), 0, now);
            assert_eq!(is_news, attempt == 0);
            pauses.push(schedule.next(&all, now).unwrap() - now);
        }
        assert_eq!(pauses.first(), Some(&Duration::from_millis(500)));
        assert_eq!(pauses.get(1), Some(&Duration::from_secs(1)));
        assert_eq!(pauses.last(), Some(&Duration::from_secs(30)));
        assert!(schedule.end(&first, None, 0, now));
        assert!(schedule.end(&first, Some(&failure(false)), 0, now));
        assert_eq!(schedule.next(&all, now), Some(now + Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawal_is_asked_of_those_that_do_it() {
        let (_, all) = wanted(PublishedTarget::Replacing(key(1)), 1);
        for withdraws in [true, false] {
            let mut schedule = PublicationSchedule::new(withdraws);
            schedule.follow(1, &all);
            assert_eq!(schedule.due(&all, 0, Instant::now(), 8).len(), usize::from(withdraws));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_limited_and_wait_after_a_failed_proof() {
        let (primary, mut all) = wanted(PublishedTarget::Primary(key(1)), 1);
        for n in 2..20 {
            let other = PublishedPrimary {
                cluster: cluster_id(n),
                ..primary.clone()
            };
            all.published.insert(cluster_id(n), other);
        }
        let mut schedule = PublicationSchedule::new(true);
        schedule.follow(1, &all);
        let now = Instant::now();
        assert_eq!(schedule.due(&all, 0, now, 8).len(), 8);
        schedule.wait_until(now + RECHECK);
        assert!(schedule.due(&all, 0, now, 8).is_empty());
    }
}
