//! This member's opinion of a suspect, from probes begun after it was asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use crate::domain::analysis;
use crate::domain::finding::{Opinion, Verdict};
use crate::domain::intent::Origin;

use super::observatory::Observatory;
use super::ports::{Approach, Clock, OpinionSource, Prober, Question, Target};

/// How many replicas are asked for one opinion: more tell nothing new about the suspect, and each costs a connection.
const MAX_ASKED: usize = 64;

/// Looks with this member's own eyes.
pub struct Eyes {
    observatory: Arc<Observatory>,
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
    name: String,
}

impl Eyes {
    /// Eyes of the member of this name.
    pub fn new(observatory: Arc<Observatory>, prober: Arc<dyn Prober>, clock: Arc<dyn Clock>, name: String) -> Self {
        Self {
            observatory,
            prober,
            clock,
            name,
        }
    }

    fn origin(&self, question: &Question) -> Origin {
        std::iter::once(&question.suspect)
            .chain(&question.replicas)
            .find_map(|key| self.observatory.get(key))
            .map_or(Origin::Api, |tracked| tracked.origin)
    }
}

#[async_trait]
impl OpinionSource for Eyes {
    async fn opinion(&self, question: Question) -> Opinion {
        let begun = self.clock.mono();
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
                .observatory
                .get(key)
                .map_or_else(|| fallback.clone(), |tracked| tracked.origin);
            let target = Target {
                instance: key.clone(),
                origin,
            };
            async move {
                let begun = self.clock.mono();
                let observation = self.prober.probe(&target, approach, deadline).await;
                self.observatory.record(&observation, begun, self.clock.mono());
                observation
            }
        });
        let observations = join_all(probes).await;
        let took = self.clock.mono().millis_since(begun);
        let verdict = if took > question.millis.saturating_mul(3) {
            Verdict::Abstains(format!(
                "its own clock was late: {took} ms for a look of {} ms",
                question.millis
            ))
        } else {
            analysis::verdict(&question.suspect, &question.replicas, &observations)
        };
        Opinion {
            member: 0,
            name: self.name.clone(),
            at: self.clock.wall(),
            millis: took,
            verdict,
            observations,
        }
    }
}
