//! The steps on a primary that answers: who acknowledges its commits, and its being writable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::key::InstanceKey;
use crate::domain::recovery::durability::SourceTerms;

use super::{Effect, StepExecutor};

/// How long commits may take to go on after they were let go.
const COMMITS_END_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl StepExecutor {
    /// Makes replicas acknowledge, or not, side by side. One entry per replica.
    pub async fn acknowledge(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        on: bool,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(replicas, move |session| {
            Box::pin(async move {
                session.acknowledge(on, deadline).await?;
                let word = if on { "acknowledges" } else { "no longer acknowledges" };
                Ok(format!("{} {word}", session.instance()))
            })
        })
        .await
    }

    /// Makes commits of servers wait for so many replicas, or not at all, side by side. One entry per server.
    pub async fn set_semi_sync_source(
        &mut self,
        servers: &BTreeSet<InstanceKey>,
        terms: SourceTerms,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(servers, move |session| {
            Box::pin(async move {
                session.wait_for_replicas(terms.wait_for, deadline).await?;
                Ok(format!("commits on {} wait for {}", session.instance(), terms.wait_for))
            })
        })
        .await
    }

    /// Lets replicas acknowledge what they received before they acknowledged, side by side. One entry per replica. Each applies all
    /// that it has first, which is what takes its time.
    pub async fn acknowledge_received(
        &mut self,
        primary: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let effects = self
            .each(replicas, move |session| {
                Box::pin(async move {
                    session.acknowledge_received(deadline).await?;
                    Ok(format!("{} acknowledged what it had received", session.instance()))
                })
            })
            .await?;
        self.see_commits_end(primary).await;
        Ok(effects)
    }

    /// Waits a moment until commits are seen to get through: those that are let go count as waiting until each of them runs again.
    async fn see_commits_end(&mut self, primary: &InstanceKey) {
        let end = Instant::now() + COMMITS_END_WITHIN;
        let deadline = self.context.settings.step_deadline;
        let Ok(session) = self.session_of(primary, deadline).await else {
            return;
        };
        let mut session = session.lock().await;
        let mut first = None;
        while Instant::now() < end {
            let Ok(facts) = session.facts(deadline).await else {
                return;
            };
            let place = (facts.binlog, facts.executed);
            if facts.semi_sync.wait_sessions == 0 || first.as_ref().is_some_and(|first| *first != place) {
                return;
            }
            first = first.or(Some(place));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Makes the present primary writable, with the right to act proved right before.
    pub async fn make_writable(&mut self, primary: &InstanceKey) -> Effect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        if let Err(effect) = self.confirmed().await {
            return effect;
        }
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => Effect::Done(format!("{primary} is writable")),
            Err(error) => self.effect_of(primary, &error),
        }
    }
}
