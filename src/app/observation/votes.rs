//! This member's opinion of a suspect, from probes begun after it was asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use crate::domain::analysis::{self, OpinionContext};
use crate::domain::finding::{Opinion, Verdict};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Observation, ProbeFailure};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::position_history::PositionHistory;
use crate::app::ports::{Approach, Clock, OpinionSource, Prober, Question, Target};

/// How many replicas are asked for one opinion: more tell nothing new about the suspect, and each costs a connection.
const MAX_ASKED: usize = 64;

/// Looks with this member's own eyes.
pub struct OpinionResponder {
    instance_cache: Arc<InstanceCache>,
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
    name: String,
    data_center: String,
    memory: Arc<PositionHistory>,
}

impl OpinionResponder {
    /// OpinionResponder of the member of this name, in this data centre (empty: not known), with what it remembers of primaries.
    pub fn new(
        instance_cache: Arc<InstanceCache>,
        prober: Arc<dyn Prober>,
        clock: Arc<dyn Clock>,
        name: String,
        data_center: String,
        memory: Arc<PositionHistory>,
    ) -> Self {
        Self {
            instance_cache,
            prober,
            clock,
            name,
            data_center,
            memory,
        }
    }

    /// What this member knows beside the probes of an opinion that it began at this moment.
    fn hindsight(&self, question: &Question, begun: MonotonicTime) -> OpinionContext {
        let failing = self
            .instance_cache
            .get(&question.suspect)
            .and_then(|tracked| tracked.failing_since);
        let since = failing.map_or(begun, |failing| failing.min(begun));
        let received = |key: &&InstanceKey| {
            self.instance_cache
                .get(key)
                .and_then(|tracked| tracked.received_after)
                .is_some_and(|after| after >= since)
        };
        OpinionContext {
            receiving: question.replicas.iter().filter(received).cloned().collect(),
            aliases: self.instance_cache.aliases_of(&question.suspect),
        }
    }

    /// What this member last saw the suspect hold: in this life, or in an earlier one. Of the suspect as its replicas know it only: the
    /// address may have been another server's.
    fn remembered(&self, suspect: &InstanceKey, observations: &[Observation]) -> Option<GtidSet> {
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
        let seen = self
            .instance_cache
            .get(suspect)
            .and_then(|tracked| tracked.instance.facts);
        let seen = seen.map(|facts| (facts.identity, facts.executed));
        let kept = || {
            let position = self.memory.recall(suspect)?;
            Some((position.identity, position.executed))
        };
        seen.or_else(kept)
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
        // Leave a little of the asker's patience for the way back.
        let deadline = Duration::from_millis(question.millis.saturating_mul(4) / 5);
        let fallback = self.origin(&question);
        let asked = std::iter::once((&question.suspect, Approach::Fresh)).chain(
            question
                .replicas
                .iter()
                .take(MAX_ASKED)
                .map(|key| (key, Approach::Kept)),
        );
        let probes = asked.map(|(key, approach)| {
            let origin = self
                .instance_cache
                .get(key)
                .map_or_else(|| fallback.clone(), |tracked| tracked.origin);
            let target = Target {
                instance: key.clone(),
                origin,
            };
            async move {
                let begun = self.clock.monotonic();
                let mut observation = self.prober.probe(&target, approach, deadline).await;
                self.instance_cache.record(&observation, begun, self.clock.monotonic());
                // What silence means depends on what was seen before.
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
        let took = self.clock.monotonic().millis_since(begun);
        let verdict = if took > question.millis.saturating_mul(3) {
            Verdict::Abstains(format!(
                "its own clock was late: {took} ms for a look of {} ms",
                question.millis
            ))
        } else {
            let known = self.hindsight(&question, begun);
            analysis::verdict(&question.suspect, &question.replicas, &observations, &known)
        };
        let remembered = matches!(verdict, Verdict::Dead)
            .then(|| self.remembered(&question.suspect, &observations))
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
