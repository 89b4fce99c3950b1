//! Publishes the primaries of all clusters: key-value stores and proxies learn at once when a primary changes, and every minute
//! what they have is compared again.
//!
//! Only the leader publishes, after it proved by a quorum that it leads and has applied everything that was committed. Each
//! publisher has a loop of its own, so that one that does not answer delays no other one; no recovery waits for these loops,
//! except as [`PublicationGate`] says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::declared::PublishError;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::published_primary::{
    HostAddresses, NotPublished, PublishedPrimaries, PublishedPrimary, PublishedTarget, opened_successors,
    published_primaries,
};
use crate::domain::state::State;
use crate::domain::topology::ClusterId;

use crate::app::observation::dns_cache;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::Consensus;
use crate::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use crate::app::recovery::publication_gate::{PublicationFailure, PublicationGate, PublicationStatus};

use super::publication_schedule::PublicationSchedule;

/// The most concurrent attempts of one publisher.
const WRITERS: usize = 8;
/// How long the proof of leadership may take.
const PROOF_DEADLINE: Duration = Duration::from_secs(1);
/// The pause after a failed proof of leadership.
const PROOF_RETRY: Duration = Duration::from_millis(500);
/// How often it is checked whether an opened successor was seen writable.
const OPENED_CHECK: Duration = Duration::from_millis(50);
/// The longest wait between two checks of the due times.
const TICK: Duration = Duration::from_secs(1);
/// How long the host name of a primary may take to be resolved.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(1);
/// How often leftovers are looked for.
const LEFTOVERS_INTERVAL: Duration = Duration::from_mins(1);

/// Publishes primaries while this member leads.
pub struct PrimaryPublishing {
    /// The publishers.
    pub publishers: Vec<Arc<dyn PrimaryPublisher>>,
    /// Leadership, and the replicated state.
    pub consensus: Arc<dyn Consensus>,
    /// The latest observations.
    pub instance_cache: Arc<InstanceCache>,
    /// Where the results are recorded.
    pub gate: PublicationGate,
}

/// A finished attempt.
enum Ended {
    Cluster {
        wanted: PublishedPrimary,
        term: u64,
        round: u64,
        outcome: Result<PublicationChange, PublishError>,
    },
    Leftovers(Result<Vec<String>, PublishError>),
}

impl PrimaryPublishing {
    /// Runs until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        if self.publishers.is_empty() {
            return cancel.cancelled().await;
        }
        let followed = self.publishers.iter().map(|publisher| self.follow(publisher));
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = join_all(followed) => {}
            () = self.report_left_out() => {}
        }
    }

    fn is_seen_writable(&self, key: &InstanceKey, identity: &Identity) -> bool {
        let proves = |cached: &crate::app::observation::instance_cache::CachedInstance| {
            let facts = cached.instance.valid_facts();
            facts.is_some_and(|facts| facts.identity == *identity && facts.is_writable())
        };
        self.instance_cache.read(key, proves).unwrap_or_default()
    }

    fn wanted(&self, state: &State) -> PublishedPrimaries {
        published_primaries(state, |key, identity| self.is_seen_writable(key, identity))
    }

    /// Logs which clusters are not published, when that changes.
    async fn report_left_out(&self) {
        let mut state = self.consensus.state();
        let mut reported: BTreeMap<ClusterId, NotPublished> = BTreeMap::new();
        loop {
            let present = Arc::clone(&state.borrow_and_update());
            let mut left_out = if self.consensus.leadership().borrow().is_leader {
                self.wanted(&present).left_out
            } else {
                BTreeMap::new()
            };
            left_out.retain(|_, why| *why != NotPublished::NoPrimary);
            for (cluster, why) in &left_out {
                if reported.get(cluster) != Some(why) {
                    warn!(%cluster, "the primary of cluster {cluster} is not published: {why}");
                }
            }
            reported = left_out;
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// The loop of one publisher.
    async fn follow(&self, publisher: &Arc<dyn PrimaryPublisher>) {
        let (mut state, mut leadership) = (self.consensus.state(), self.consensus.leadership());
        let mut rounds = self.gate.rounds();
        let mut schedule = PublicationSchedule::new(publisher.withdraws());
        let mut attempts: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
        let mut leftovers_at = Instant::now() + LEFTOVERS_INTERVAL;
        loop {
            let (term, leads) = {
                let leadership = leadership.borrow_and_update();
                (leadership.term, leadership.is_leader)
            };
            let round = *rounds.borrow_and_update();
            let mut present = Arc::clone(&state.borrow_and_update());
            let mut wanted = if leads {
                self.wanted(&present)
            } else {
                PublishedPrimaries::default()
            };
            self.follow_clusters(publisher, &mut schedule, term, &wanted);
            let free = WRITERS.saturating_sub(attempts.len());
            let is_any_due = !schedule.due(&wanted, round, Instant::now(), free).is_empty();
            if is_any_due || (leads && free > 0 && Instant::now() >= leftovers_at) {
                if let Some(group) = self.proved_group().await {
                    // The proof came with everything that was committed before it.
                    present = Arc::clone(&state.borrow_and_update());
                    wanted = self.wanted(&present);
                    self.follow_clusters(publisher, &mut schedule, term, &wanted);
                    for due in schedule.due(&wanted, round, Instant::now(), free) {
                        schedule.begin(&due.cluster);
                        attempts.push(self.attempt(publisher, due, group.clone(), term, round).boxed());
                    }
                    if Instant::now() >= leftovers_at {
                        leftovers_at = Instant::now() + LEFTOVERS_INTERVAL;
                        attempts.push(Self::remove_leftovers(publisher, group, wanted.clone()).boxed());
                    }
                } else {
                    schedule.wait_until(Instant::now() + PROOF_RETRY);
                    leftovers_at = leftovers_at.max(Instant::now() + PROOF_RETRY);
                }
            }
            let now = Instant::now();
            let tick = if opened_successors(&present).next().is_some() {
                OPENED_CHECK
            } else {
                TICK
            };
            let wake = schedule.next(&wanted, now).map_or(now + tick, |at| at.min(now + tick));
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
                changed = rounds.changed() => if changed.is_err() { return },
                Some(ended) = attempts.next(), if !attempts.is_empty() => {
                    self.record(publisher, ended, &mut schedule);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Forgets the results for clusters that are not published any more.
    fn follow_clusters(
        &self,
        publisher: &Arc<dyn PrimaryPublisher>,
        schedule: &mut PublicationSchedule,
        term: u64,
        wanted: &PublishedPrimaries,
    ) {
        if schedule.follow(term, wanted) {
            let name = publisher.name();
            self.gate.update(|statuses| {
                statuses.retain(|(of, cluster), _| *of != name || schedule.has(cluster));
            });
        }
    }

    /// The uuid of the group, once this member proved that it leads.
    async fn proved_group(&self) -> Option<String> {
        match timeout(PROOF_DEADLINE, self.consensus.barrier()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                debug!("publications wait: this member cannot prove that it leads: {why}");
                return None;
            }
            Err(_) => return None,
        }
        let state = self.consensus.state();
        state.borrow().group.as_ref().map(|group| group.uuid.clone())
    }

    async fn attempt(
        &self,
        publisher: &Arc<dyn PrimaryPublisher>,
        wanted: PublishedPrimary,
        group: String,
        term: u64,
        round: u64,
    ) -> Ended {
        let (primary, is_withdrawal) = match &wanted.target {
            PublishedTarget::Primary(primary) => (primary.clone(), false),
            PublishedTarget::Replacing(primary) => (primary.clone(), true),
        };
        let publication = PrimaryPublication {
            group,
            cluster: wanted.cluster.clone(),
            name: wanted.name.clone(),
            epoch: wanted.epoch,
            addresses: if is_withdrawal {
                None
            } else {
                self.addresses(&primary).await
            },
            primary,
            instances: wanted.instances.clone(),
        };
        let call = if is_withdrawal {
            publisher.withdraw(&publication)
        } else {
            publisher.publish(&publication)
        };
        let outcome = within(publisher.deadline(), call).await;
        Ended::Cluster {
            wanted,
            term,
            round,
            outcome,
        }
    }

    /// The addresses of the host of a primary, by name or else as it was last reached.
    async fn addresses(&self, primary: &InstanceKey) -> Option<HostAddresses> {
        if let Ok(Ok(found)) = timeout(LOOKUP_DEADLINE, dns_cache::addresses(&primary.hostname)).await
            && !found.is_empty()
        {
            return Some(found.into_iter().collect());
        }
        let peer = |cached: &crate::app::observation::instance_cache::CachedInstance| -> Option<IpAddr> {
            cached.instance.facts.as_ref()?.peer
        };
        let peer = self.instance_cache.read(primary, peer)??;
        Some([peer].into_iter().collect())
    }

    async fn remove_leftovers(publisher: &Arc<dyn PrimaryPublisher>, group: String, all: PublishedPrimaries) -> Ended {
        Ended::Leftovers(within(publisher.deadline(), publisher.remove_leftovers(&group, &all)).await)
    }

    fn record(&self, publisher: &Arc<dyn PrimaryPublisher>, ended: Ended, schedule: &mut PublicationSchedule) {
        let to = publisher.name();
        let (wanted, term, round, outcome) = match ended {
            Ended::Cluster {
                wanted,
                term,
                round,
                outcome,
            } => (wanted, term, round, outcome),
            Ended::Leftovers(Ok(names)) => {
                for name in names {
                    info!("removed what was published as {name} at {to}: no cluster has this name now");
                }
                return;
            }
            Ended::Leftovers(Err(why)) => {
                debug!("failed to look for what is left at {to}: {why}");
                return;
            }
        };
        if !schedule.is_of(term, &wanted.cluster) {
            return;
        }
        let failure = outcome.as_ref().err().map(|why| PublicationFailure {
            why: why.to_string(),
            is_unanswered: matches!(why, PublishError::Unanswered(_)),
        });
        let is_news = schedule.end(&wanted, failure.as_ref(), round, Instant::now());
        let name = &wanted.name;
        match (&outcome, &wanted.target) {
            (Err(why), _) if is_news => {
                warn!(
                    publisher = to,
                    "failed to publish the primary of {name} at {to}, will retry: {why}"
                );
            }
            (Ok(change), PublishedTarget::Primary(primary)) if is_news || *change == PublicationChange::Written => {
                info!(
                    publisher = to,
                    epoch = wanted.epoch,
                    "published {primary} as the primary of {name} at {to}"
                );
            }
            (Ok(change), PublishedTarget::Replacing(primary)) if is_news || *change == PublicationChange::Written => {
                info!(
                    publisher = to,
                    epoch = wanted.epoch,
                    "withdrew {primary} as the primary of {name} at {to}"
                );
            }
            (Ok(_) | Err(_), _) => {}
        }
        let withdraws = publisher.withdraws();
        self.gate.update(|statuses| {
            let status = statuses
                .entry((to, wanted.cluster.clone()))
                .or_insert_with(|| PublicationStatus {
                    name: name.clone(),
                    leads_to: None,
                    withdraws,
                    failure: None,
                    round: 0,
                });
            status.name.clone_from(name);
            if failure.is_none() {
                status.leads_to = match &wanted.target {
                    PublishedTarget::Primary(primary) => Some(primary.clone()),
                    PublishedTarget::Replacing(_) => None,
                };
            }
            status.failure = failure;
            status.round = round;
        });
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, PublishError>>) -> Result<T, PublishError> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let seconds = deadline.as_secs();
        Err(PublishError::Unanswered(format!("no answer within {seconds} s")))
    })
}

#[cfg(test)]
#[path = "primary_publishing_tests.rs"]
mod tests;
