//! The reconnect test: replicas try anew to reach the old primary, while it is dialled from here too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::ports::{Approach, StepError, StepSession};
use crate::domain::analysis::silence::has_reached_source;
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;

use super::{Effect, StepExecutor};

/// Between two looks at a restarted thread.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

impl StepExecutor {
    /// Restarts the receiving threads of these replicas, side by side, and watches until one of them has reached the old primary, or
    /// the time of the test is over. One entry per replica, and one for the old primary: `NoAnswer` when nothing came from it.
    ///
    /// A replica's entry is `Done` when it could not reach the old primary and `Failed` when it did. The threads are left running: a
    /// thread that reached its source receives, and one that did not goes on trying. With `may_stall` an old primary that accepts
    /// connections and says nothing counts as silent: that is what it is to be replaced for.
    pub async fn test_reconnect(
        &mut self,
        old_primary: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        may_stall: bool,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
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
            let result = try_again(&mut session, old_primary, window, deadline).await;
            (key, result)
        });
        let (results, dialled) = futures::join!(futures::future::join_all(tries), self.dial(old_primary, window));
        let mut results_by_key = Vec::with_capacity(results.len());
        let mut reached = BTreeMap::new();
        for (key, result) in results {
            match result {
                Ok(Try::Reached) => {
                    let told = format!("{key} has reached {old_primary} again");
                    reached.insert(key, Effect::Failed(told));
                }
                Ok(Try::InVain) => {
                    results_by_key.push((key.clone(), Ok(format!("{key} does not reach {old_primary}"))))
                }
                Err(error) => results_by_key.push((key, Err(error))),
            }
        }
        let mut effects = self.settle(&failed, results_by_key);
        effects.extend(reached);
        let answer = match dialled.outcome {
            Ok(_) => Effect::Done(format!("{old_primary} answers")),
            Err(failure @ ProbeFailure::Stalled) if may_stall => Effect::NoAnswer(failure.to_string()),
            Err(failure) if failure.proves_life() => Effect::Failed(failure.to_string()),
            Err(failure) => Effect::NoAnswer(failure.to_string()),
        };
        effects.insert(old_primary.clone(), answer);
        Ok(effects)
    }

    /// Dials a server for the whole of a while.
    async fn dial(&self, key: &InstanceKey, limit: Duration) -> Observation {
        let begun = self.context.clock.monotonic();
        let observation = self
            .context
            .prober
            .probe(&self.target(key), Approach::Fresh, limit)
            .await;
        self.context
            .instance_cache
            .record(&observation, begun, self.context.clock.monotonic());
        observation
    }
}

/// What came of one replica's try.
enum Try {
    Reached,
    InVain,
}

async fn try_again(
    session: &mut Box<dyn StepSession>,
    old_primary: &InstanceKey,
    window: Duration,
    deadline: Duration,
) -> Result<Try, StepError> {
    session.stop_receiving(deadline).await?;
    session.start_receiving(deadline).await?;
    let end = Instant::now() + window;
    loop {
        let facts = session.facts(deadline).await?;
        if has_reached(&facts) {
            return Ok(Try::Reached);
        }
        if Instant::now() >= end {
            tracing::debug!(instance = %session.instance(), "its thread does not reach {old_primary}");
            return Ok(Try::InVain);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// A replica without its channel was set up otherwise meanwhile: whatever it does, it proves nothing about the old primary's death.
fn has_reached(facts: &InstanceFacts) -> bool {
    facts.managed_channel().is_none_or(has_reached_source)
}
