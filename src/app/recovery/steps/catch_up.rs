//! Waits until a server has what it needs: its own relay log applied, or what it receives from another server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::{Attachment, StepError, StepSession};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;

use super::return_watch::Interrupt;
use super::semi_sync::FreedApplier;
use super::wait_limit::WaitLimit;
use super::{Session, StepEffect, StepExecutor};

/// How long a replica that catches up may fail to connect to its source. When a server answers us and its sibling
/// cannot connect for so long, there is no route or no account.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How often the receiver thread of a replica that catches up is checked.
const RECEIVER_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a step that waits for an applier checks whether it is interrupted.
const WAIT_SLICE: Duration = Duration::from_millis(100);
/// In every so many of these checks it is also seen whether the applier waits for acknowledgements.
const FREE_EVERY: u32 = 5;

impl StepExecutor {
    /// Waits until a server has applied everything in `set`.
    pub async fn drain(
        &mut self,
        key: &InstanceKey,
        set: &GtidSet,
        limit: WaitLimit,
        interrupt: &Interrupt,
    ) -> StepEffect {
        let step_deadline = self.context.settings.step_deadline;
        let session = match self.session_of(key, step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let delay = self.delay_of(key);
        let applied = apply_received(&session, set, limit, step_deadline, delay > 0, interrupt).await;
        match applied {
            Ok(()) if delay > 0 => StepEffect::Done(format!(
                "{key} has applied all that it received, without its delay of {delay} s"
            )),
            Ok(()) => StepEffect::Done(format!("{key} has applied all that it received")),
            Err(error) => self.effect_of(key, &error),
        }
    }

    /// The configured delay of a server by its last facts, seconds.
    fn delay_of(&self, key: &InstanceKey) -> u64 {
        let facts = self
            .context
            .instance_cache
            .get(key)
            .and_then(|tracked| tracked.instance.facts);
        facts
            .as_ref()
            .and_then(InstanceFacts::managed_channel)
            .map_or(0, |channel| channel.delay_seconds)
    }

    /// Sets the delays of replicas, seconds, side by side. One entry per replica.
    pub async fn set_delays(
        &mut self,
        replicas: &BTreeMap<InstanceKey, u64>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        let keys = replicas.keys().cloned().collect();
        self.on_each(&keys, |session| {
            let seconds = replicas.get(session.instance()).copied().unwrap_or_default();
            Box::pin(async move {
                session
                    .delay_by(seconds, deadline)
                    .await
                    .map(|()| format!("{} delays by {seconds} s again", session.instance()))
            })
        })
        .await
    }

    /// Waits until replicas have applied everything that an earlier actor took off GTID so that they apply without
    /// delay, and returns them to GTID. One entry per replica.
    pub async fn finish_applying(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let step_deadline = self.context.settings.step_deadline;
        self.on_each(replicas, |session| {
            Box::pin(async move {
                session.start_applier(step_deadline).await?;
                session.wait_all_applied(deadline).await?;
                session.delay_by(0, step_deadline).await?;
                Ok(format!("{} has applied all that it received", session.instance()))
            })
        })
        .await
    }

    /// Makes `successor` receive from `from` what it lacks. First `from` applies all that it received, because a
    /// server passes on only what it has applied. Then the successor replicates from it until it has `set`, and its
    /// receiver is stopped again in any case. One entry for each of the two.
    pub async fn catch_up_from(
        &mut self,
        successor: &InstanceKey,
        from: &InstanceKey,
        set: &GtidSet,
        limit: WaitLimit,
        interrupt: &Interrupt,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let begun = Instant::now();
        let drained = self.drain(from, set, limit, interrupt).await;
        if !matches!(drained, StepEffect::Done(_)) {
            let not_begun = StepEffect::NoAnswer(format!("{successor} was not pointed at {from}"));
            return Ok(BTreeMap::from([
                (from.clone(), drained),
                (successor.clone(), not_begun),
            ]));
        }
        let only = BTreeSet::from([successor.clone()]);
        let mut effect = effect_on(self.repoint(from, &only).await?, successor);
        if matches!(effect, StepEffect::Done(_)) {
            let left = limit.deadline.saturating_sub(begun.elapsed());
            effect = self.wait_until_caught_up(successor, set, left, interrupt).await;
        }
        if let StepEffect::Unconfirmed(_) = effect {
            return Err(effect);
        }
        let stopped = effect_on(self.stop_receivers(&only).await?, successor);
        let effect = match (effect, stopped) {
            (StepEffect::Done(_), StepEffect::Done(_)) => {
                StepEffect::Done(format!("{successor} has all that {from} has"))
            }
            (StepEffect::Done(_), stopped) => stopped,
            (failed, _) => failed,
        };
        Ok(BTreeMap::from([(from.clone(), drained), (successor.clone(), effect)]))
    }

    /// Points a replica that caught up back at its previous source, with its receiver running or stopped as before.
    pub async fn point_back(&mut self, replica: &InstanceKey, source: &InstanceKey, starts: bool) -> StepEffect {
        let only = BTreeSet::from([replica.clone()]);
        if starts {
            return match self.repoint(source, &only).await {
                Ok(effects) => effect_on(effects, replica),
                Err(effect) => effect,
            };
        }
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(replica, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let credentials = self.context.credentials.borrow().clone();
        let account = credentials.get(&self.target(replica).origin);
        let attachment = Attachment {
            account: account.and_then(|credentials| credentials.replication.as_ref()),
            tls: false,
            start: false,
        };
        let pointed = {
            let mut session = session.lock().await;
            match session.attach(source, &attachment, deadline).await {
                // It applied what it received; the applier continues with the rest.
                Ok(()) => session.start_applier(deadline).await,
                failed => failed,
            }
        };
        match pointed {
            Ok(()) => StepEffect::Done(format!(
                "{replica} has {source} as its source again, with its receiver stopped"
            )),
            Err(error) => self.effect_of(replica, &error),
        }
    }

    async fn wait_until_caught_up(
        &mut self,
        successor: &InstanceKey,
        set: &GtidSet,
        deadline: Duration,
        interrupt: &Interrupt,
    ) -> StepEffect {
        let step_deadline = self.context.settings.step_deadline;
        let session = match self.session_of(successor, step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let begun = Instant::now();
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            let mut session = session.lock().await;
            let waited = session.wait_applied(set, left.min(RECEIVER_CHECK_INTERVAL)).await;
            let error = match waited {
                Ok(()) => return StepEffect::Done(String::new()),
                Err(error) => error,
            };
            if interrupt.is_set() {
                return StepEffect::of(&Interrupt::error(successor));
            }
            let is_over = left <= RECEIVER_CHECK_INTERVAL || !matches!(error, StepError::TooSlow { .. });
            let facts = if is_over {
                Err(error)
            } else {
                session.facts(step_deadline).await
            };
            drop(session);
            match facts {
                Ok(facts) => {
                    if let Some(why) = why_not_receiving(&facts, begun.elapsed()) {
                        return StepEffect::Failed(format!("{successor} {why}"));
                    }
                }
                Err(error) => return self.effect_of(successor, &error),
            }
        }
    }
}

/// Starts the applier without delay and waits. A replica that had a delay has none afterwards.
async fn apply_received(
    session: &Session,
    set: &GtidSet,
    limit: WaitLimit,
    step_deadline: Duration,
    delays: bool,
    interrupt: &Interrupt,
) -> Result<(), StepError> {
    let mut session = session.lock().await;
    if !delays {
        session.start_applier(step_deadline).await?;
        return wait_applied_within(&mut session, set, limit, step_deadline, interrupt).await;
    }
    session.apply_without_delay(step_deadline).await?;
    wait_applied_within(&mut session, set, limit, step_deadline, interrupt).await?;
    session.delay_by(0, step_deadline).await
}

async fn wait_applied_within(
    session: &mut Box<dyn StepSession>,
    set: &GtidSet,
    limit: WaitLimit,
    step_deadline: Duration,
    interrupt: &Interrupt,
) -> Result<(), StepError> {
    let mut freed = FreedApplier::default();
    let applied = wait_in_slices(session, set, limit, step_deadline, interrupt, &mut freed).await;
    let restored = freed.restore(session, step_deadline).await;
    applied.and(restored)
}

async fn wait_in_slices(
    session: &mut Box<dyn StepSession>,
    set: &GtidSet,
    limit: WaitLimit,
    step_deadline: Duration,
    interrupt: &Interrupt,
    freed: &mut FreedApplier,
) -> Result<(), StepError> {
    let begun = Instant::now();
    let mut progress = match limit.without_progress {
        Some(round) => Some((round, begun, executed(session, step_deadline).await?)),
        None => None,
    };
    let mut slices: u32 = 0;
    loop {
        let left = limit.deadline.saturating_sub(begun.elapsed());
        let (instance, what) = match session.wait_applied(set, left.min(WAIT_SLICE)).await {
            Err(StepError::TooSlow { instance, what, .. }) => (instance, what),
            over => return over,
        };
        if slices.is_multiple_of(FREE_EVERY) {
            freed.free(session, step_deadline).await?;
        }
        slices += 1;
        if interrupt.is_set() {
            return Err(Interrupt::error(&instance));
        }
        let too_slow = |after: Duration| StepError::TooSlow {
            instance,
            what,
            millis: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        };
        if left <= WAIT_SLICE {
            return Err(too_slow(limit.deadline));
        }
        if let Some((round, since, before)) = &mut progress
            && since.elapsed() >= *round
        {
            let now = executed(session, step_deadline).await?;
            if now == *before {
                return Err(too_slow(*round));
            }
            (*since, *before) = (Instant::now(), now);
        }
    }
}

async fn executed(session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<GtidSet, StepError> {
    Ok(session.facts(deadline).await?.executed)
}

/// Why a replica will not receive anything from its source, as far as its state shows after this time.
fn why_not_receiving(facts: &InstanceFacts, after: Duration) -> Option<String> {
    let Some(channel) = facts.managed_channel() else {
        return Some("has no replication channel any more".to_owned());
    };
    let error = &channel.io_error;
    match channel.io {
        ThreadState::Stopped => Some(format!("stopped receiving: error {}: {}", error.number, error.message)),
        ThreadState::Connecting if after >= CONNECT_DEADLINE => Some(format!(
            "cannot connect to {}: error {}: {}",
            channel.source, error.number, error.message
        )),
        ThreadState::Connecting | ThreadState::Running => None,
    }
}

/// The effect on one server.
fn effect_on(mut effects: BTreeMap<InstanceKey, StepEffect>, key: &InstanceKey) -> StepEffect {
    effects
        .remove(key)
        .unwrap_or_else(|| StepEffect::NoAnswer(format!("{key}: no session")))
}
