//! The reconnect test: replicas try to reach the old primary on new connections, while this member probes it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::ports::{ProbeConnection, StepError, StepSession};
use crate::domain::analysis::partition::has_reached_source;
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;

use super::{StepEffect, StepExecutor};

/// How often a restarted receiver thread is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(25);

impl StepExecutor {
    /// Restarts the receiver threads of these replicas side by side, and watches until one of them has reached the
    /// old primary or the time of the test is over. One entry per replica, and one for the old primary: `NoAnswer`
    /// when it did not answer.
    ///
    /// The entry of a replica is `Done` when it could not reach the old primary, and `Failed` when it did. The
    /// threads stay running: a thread that reached its source receives, and another one keeps trying. With
    /// `may_stall`, an old primary that accepts connections and does not answer counts as silent, because it is
    /// replaced for that.
    pub async fn test_reconnect(
        &mut self,
        old_primary: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        may_stall: bool,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let (deadline, window) = (
            self.context.settings.step_deadline,
            self.context.settings.reconnect_window,
        );
        let failed = self.open_sessions(replicas, deadline).await?;
        let sessions: Vec<_> = replicas
            .iter()
            .filter_map(|key| self.session(key).map(|session| (key.clone(), session)))
            .collect();
        let tries = sessions.into_iter().map(|(key, session)| async move {
            let mut session = session.lock().await;
            let result = restart_receiver(&mut session, old_primary, window, deadline).await;
            (key, result)
        });
        let (results, probed) = futures::join!(
            futures::future::join_all(tries),
            self.probe_throughout(old_primary, window)
        );
        let mut results_by_key = Vec::with_capacity(results.len());
        let mut reached = BTreeMap::new();
        for (key, result) in results {
            match result {
                Ok(ReconnectResult::Reached) => {
                    let remark = format!("{key} has reached {old_primary} again");
                    reached.insert(key, StepEffect::Failed(remark));
                }
                Ok(ReconnectResult::NotReached) => {
                    results_by_key.push((key.clone(), Ok(format!("{key} does not reach {old_primary}"))));
                }
                Err(error) => results_by_key.push((key, Err(error))),
            }
        }
        let mut effects = self.collect_effects(&failed, results_by_key);
        effects.extend(reached);
        let answer = match probed.outcome {
            Ok(_) => StepEffect::Done(format!("{old_primary} answers")),
            Err(failure @ ProbeFailure::Stalled) if may_stall => StepEffect::NoAnswer(failure.to_string()),
            Err(failure) if failure.proves_life() => StepEffect::Failed(failure.to_string()),
            Err(failure) => StepEffect::NoAnswer(failure.to_string()),
        };
        effects.insert(old_primary.clone(), answer);
        Ok(effects)
    }

    /// Probes a server with a deadline of `limit`.
    async fn probe_throughout(&self, key: &InstanceKey, limit: Duration) -> Observation {
        let begun = self.context.clock.monotonic();
        let observation = self
            .context
            .prober
            .probe(&self.target(key), ProbeConnection::Fresh, limit)
            .await;
        self.context
            .instance_cache
            .record(&observation, begun, self.context.clock.monotonic());
        observation
    }
}

/// The result of a restarted receiver thread.
enum ReconnectResult {
    Reached,
    NotReached,
}

async fn restart_receiver(
    session: &mut Box<dyn StepSession>,
    old_primary: &InstanceKey,
    window: Duration,
    deadline: Duration,
) -> Result<ReconnectResult, StepError> {
    session.stop_receiver(deadline).await?;
    session.start_receiver(deadline).await?;
    let end = Instant::now() + window;
    loop {
        let facts = session.facts(deadline).await?;
        if has_reached(&facts) {
            return Ok(ReconnectResult::Reached);
        }
        if Instant::now() >= end {
            tracing::debug!(instance = %session.instance(), "its receiver thread does not reach {old_primary}");
            return Ok(ReconnectResult::NotReached);
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// A replica without its channel was reconfigured meanwhile: it does not prove that the old primary is dead.
fn has_reached(facts: &InstanceFacts) -> bool {
    facts.managed_channel().is_none_or(has_reached_source)
}
