//! This member's opinion of a suspect, from probes that begin after the question arrives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use crate::domain::analysis::{self, SuspectHistory};
use crate::domain::finding::{Opinion, OpinionVerdict};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Observation, ProbeFailure};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

use crate::app::observation::dial_slots::{DialSlot, DialSlots, OPINION_DIALS};
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::position_history::PositionHistory;
use crate::app::ports::{Clock, OpinionSource, ProbeConnection, Prober, Question, Target};

/// The most replicas that are probed for one opinion. More would add nothing about the suspect, and each costs a connection.
const MAX_PROBED: usize = 64;

/// Answers questions about suspects with this member's own probes.
pub struct OpinionResponder {
    instance_cache: Arc<InstanceCache>,
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
    name: String,
    data_center: String,
    position_history: Arc<PositionHistory>,
    /// Of attempts to servers that are known to be silent. The clusters take turns.
    silent_dials: Arc<DialSlots<ClusterId>>,
}

impl OpinionResponder {
    /// A responder for the member of this name, in this data centre (empty: unknown), with the last known positions of primaries.
    pub fn new(
        instance_cache: Arc<InstanceCache>,
        prober: Arc<dyn Prober>,
        clock: Arc<dyn Clock>,
        name: String,
        data_center: String,
        position_history: Arc<PositionHistory>,
    ) -> Self {
        Self {
            instance_cache,
            prober,
            clock,
            name,
            data_center,
            position_history,
            silent_dials: DialSlots::new(OPINION_DIALS),
        }
    }

    /// Waits for the turn of an attempt to a server that is known to be silent: when a data centre is silent, opinions about
    /// its servers do not keep those about a server that refuses connections waiting.
    async fn slot(&self, cluster: &ClusterId, key: &InstanceKey) -> Option<DialSlot<ClusterId>> {
        let is_silent = self.instance_cache.read(key, |tracked| {
            tracked.instance.failure.as_ref().is_some_and(ProbeFailure::is_silence)
        });
        if is_silent == Some(true) {
            self.silent_dials.acquire(cluster.clone()).await
        } else {
            None
        }
    }

    /// What this member knows in addition to the probes of an opinion that began at `begun`.
    fn suspect_history(&self, question: &Question, begun: MonotonicTime) -> SuspectHistory {
        let failing = self
            .instance_cache
            .get(&question.suspect)
            .and_then(|tracked| tracked.failing_since);
        let since = failing.map_or(begun, |failing| failing.min(begun));
        let received = |key: &&InstanceKey| {
            let received_after = self.instance_cache.read(key, |tracked| tracked.received_after);
            received_after.flatten().is_some_and(|after| after >= since)
        };
        SuspectHistory {
            receiving: question.replicas.iter().filter(received).cloned().collect(),
            aliases: self.instance_cache.aliases_of(&question.suspect),
        }
    }

    /// The executed set that this member last observed on the suspect, in this process or in an earlier one. Only for the identity that the
    /// replicas of the suspect name as their source: the address may have belonged to another server.
    fn last_executed(&self, suspect: &InstanceKey, observations: &[Observation]) -> Option<GtidSet> {
        let sources: BTreeSet<Identity> = observations
            .iter()
            .filter(|observation| observation.key != *suspect)
            .filter_map(|observation| {
                let facts = observation.outcome.as_ref().ok()?;
                let channel = facts.managed_channel()?;
                match &channel.source_uuid {
                    Some(uuid) if !uuid.is_empty() => Some(Identity::ServerUuid(uuid.to_lowercase())),
                    _ if facts.version.flavour.is_mariadb() => Some(Identity::ServerId(channel.source_server_id)),
                    _ => None,
                }
            })
            .collect();
        let cached = self
            .instance_cache
            .get(suspect)
            .and_then(|tracked| tracked.instance.facts);
        let cached = cached.map(|facts| (facts.identity, facts.executed));
        let kept = || {
            let position = self.position_history.last(suspect)?;
            Some((position.identity, position.executed))
        };
        cached
            .or_else(kept)
            .filter(|(identity, _)| sources.contains(identity))
            .map(|(_, executed)| executed)
    }

    fn origin(&self, question: &Question) -> Origin {
        std::iter::once(&question.suspect)
            .chain(&question.replicas)
            .find_map(|key| self.instance_cache.get(key))
            .map_or(Origin::Api, |tracked| tracked.origin)
    }
}

#[async_trait]
impl OpinionSource for OpinionResponder {
    async fn opinion(&self, question: Question) -> Opinion {
        let begun = self.clock.monotonic();
        // Part of the deadline is left for the way back.
        let deadline = Duration::from_millis(question.millis.saturating_mul(4) / 5);
        let fallback = self.origin(&question);
        let cluster = &question.cluster;
        let probed = std::iter::once((&question.suspect, ProbeConnection::Fresh)).chain(
            question
                .replicas
                .iter()
                .take(MAX_PROBED)
                .map(|key| (key, ProbeConnection::Kept)),
        );
        let probes = probed.map(|(key, approach)| {
            let origin = self
                .instance_cache
                .get(key)
                .map_or_else(|| fallback.clone(), |tracked| tracked.origin);
            let target = Target {
                instance: key.clone(),
                origin,
            };
            async move {
                let slot = self.slot(cluster, key).await;
                let begun = self.clock.monotonic();
                let mut observation = self.prober.probe(&target, approach, deadline).await;
                drop(slot);
                self.instance_cache.record(&observation, begun, self.clock.monotonic());
                // A stalled server that no longer answers still counts as stalled.
                let known = self
                    .instance_cache
                    .get(key)
                    .and_then(|tracked| tracked.instance.failure);
                if observation.outcome == Err(ProbeFailure::NoAnswer) && known == Some(ProbeFailure::Stalled) {
                    observation.outcome = Err(ProbeFailure::Stalled);
                }
                observation
            }
        });
        let observations = join_all(probes).await;
        let ended = self.clock.monotonic();
        let took = ended.millis_since(begun);
        let is_silent = observations.iter().any(|observation| {
            observation.key == question.suspect && observation.outcome.as_ref().is_err_and(ProbeFailure::is_silence)
        });
        let delayed = self.instance_cache.delays().delayed_since(begun, ended);
        let verdict = if took > question.millis.saturating_mul(3) {
            OpinionVerdict::Abstains(format!(
                "its own clock was late: {took} ms for probes of {} ms",
                question.millis
            ))
        } else if is_silent && delayed > 0 && took.saturating_sub(delayed) < question.millis / 3 {
            OpinionVerdict::Abstains(format!(
                "it was busy for {delayed} of {took} ms: it may have read an answer too late"
            ))
        } else {
            let known = self.suspect_history(&question, begun);
            analysis::verdict(&question.suspect, &question.replicas, &observations, &known)
        };
        let remembered = matches!(verdict, OpinionVerdict::Dead)
            .then(|| self.last_executed(&question.suspect, &observations))
            .flatten();
        Opinion {
            member: 0,
            name: self.name.clone(),
            at: self.clock.wall(),
            millis: took,
            verdict,
            data_center: self.data_center.clone(),
            observations,
            remembered,
        }
    }
}

#[cfg(test)]
#[path = "votes_tests.rs"]
mod tests;
