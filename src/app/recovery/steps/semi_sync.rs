//! Steps on a primary that answers: which replicas acknowledge its commits, and whether it is writable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::{StepError, StepSession};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::semi_sync::SourceTerms;

use super::{StepEffect, StepExecutor};

/// How long waiting commits may take to proceed.
const COMMITS_RESUME_WITHIN: Duration = Duration::from_secs(2);
/// How often waiting commits are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl StepExecutor {
    /// Makes replicas acknowledge, or not, side by side. One entry per replica.
    pub async fn acknowledge(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        on: bool,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(replicas, move |session| {
            Box::pin(async move {
                session.acknowledge(on, deadline).await?;
                let word = if on { "acknowledges" } else { "no longer acknowledges" };
                Ok(format!("{} {word}", session.instance()))
            })
        })
        .await
    }

    /// Makes commits of servers wait for this number of replicas, or for none, side by side. One entry per server.
    pub async fn set_semi_sync_source(
        &mut self,
        servers: &BTreeSet<InstanceKey>,
        terms: SourceTerms,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(servers, move |session| {
            Box::pin(async move {
                session.wait_for_replicas(terms.wait_for, deadline).await?;
                Ok(format!("commits on {} wait for {}", session.instance(), terms.wait_for))
            })
        })
        .await
    }

    /// Makes commits of servers that become replicas wait for no acknowledgements: their appliers would wait for those of replicas that
    /// they no longer have. A failure only delays such a server, and is logged.
    pub async fn stop_waiting_as_sources(&mut self, servers: &BTreeSet<InstanceKey>) -> Result<(), StepEffect> {
        let deadline = self.context.settings.step_deadline;
        let effects = self
            .on_each(servers, move |session| {
                Box::pin(async move {
                    stop_waiting(session, deadline).await?;
                    Ok(String::new())
                })
            })
            .await?;
        for (server, effect) in effects {
            if !matches!(effect, StepEffect::Done(_)) {
                tracing::info!(instance = %server, "failed to switch semi-sync off on {server}, which becomes a replica: {effect:?}");
            }
        }
        Ok(())
    }

    /// Makes replicas acknowledge what they received before they acknowledged, side by side. One entry per replica.
    /// Each applies all that it has first, which takes most of the time.
    pub async fn acknowledge_received(
        &mut self,
        primary: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let effects = self
            .on_each(replicas, move |session| {
                Box::pin(async move {
                    session.acknowledge_received(deadline).await?;
                    Ok(format!("{} acknowledged what it had received", session.instance()))
                })
            })
            .await?;
        self.wait_until_commits_resume(primary).await;
        Ok(effects)
    }

    /// Waits for a short time until commits are seen to proceed: released sessions count as waiting until each of
    /// them runs again.
    async fn wait_until_commits_resume(&mut self, primary: &InstanceKey) {
        let end = Instant::now() + COMMITS_RESUME_WITHIN;
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
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Makes the present primary writable. The claim is confirmed right before.
    pub async fn make_writable(&mut self, primary: &InstanceKey) -> StepEffect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        if let Err(effect) = self.confirm().await {
            return effect;
        }
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => StepEffect::Done(format!("{primary} is writable")),
            Err(error) => self.effect_of(primary, &error),
        }
    }
}

/// Makes commits of a server that is no primary any more wait for no acknowledgements.
///
/// Commits that wait at that moment complete. Those of clients would be confirmed although no replica has them, so the
/// client sessions end first. When one of them cannot be ended, nothing is changed.
pub(super) async fn stop_waiting(session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<(), StepError> {
    let facts = session.facts(deadline).await?;
    // A replica's waiting commits are those of its applier.
    let are_of_clients = facts.managed_channel().is_none();
    if facts.semi_sync.source_enabled && facts.semi_sync.wait_sessions > 0 && are_of_clients {
        session.kill_clients(deadline).await?;
    }
    session.set_semi_sync_source(false, deadline).await
}

/// Whether the applier of a replica was freed of waiting for acknowledgements.
#[derive(Debug, Default)]
pub(super) struct FreedApplier {
    is_freed: bool,
}

impl FreedApplier {
    /// Lets the applier of a read-only replica go on that waits for acknowledgements as the source of others: of a co-primary that died,
    /// or of replicas that receive no more. What it applies was committed elsewhere, and no client waits for it.
    pub(super) async fn free(
        &mut self,
        session: &mut Box<dyn StepSession>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let facts = session.facts(deadline).await?;
        let waits = facts.semi_sync.source_enabled && facts.semi_sync.wait_sessions > 0;
        if waits && facts.managed_channel().is_some() && !facts.is_writable() {
            let instance = session.instance();
            tracing::info!(instance = %instance, "{instance} applies what it received without semi-sync acknowledgements, since no replica gives them");
            session.set_semi_sync_source(false, deadline).await?;
            self.is_freed = true;
        }
        Ok(())
    }

    /// Puts the setting back, when nothing is left to apply or the wait is given up.
    pub(super) async fn restore(self, session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<(), StepError> {
        if self.is_freed {
            session.set_semi_sync_source(true, deadline).await?;
        }
        Ok(())
    }
}
