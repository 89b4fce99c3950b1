//! Waiting until a server has what it is to have: its own relay log applied, or what another one gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::{Attachment, StepError, StepSession};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;

use super::{Effect, Session, StepExecutor};

/// How long a fed replica may fail to connect to its feeder. A server of the same cluster that answers us and not its sibling for so
/// long has no way there, or no account.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How often a fed replica's receiving thread is looked at while it is waited for.
const LOOK_AT_RECEIVER: Duration = Duration::from_millis(500);

/// How long somebody is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// At most.
    pub deadline: Duration,
    /// Without any progress at most; `None`: progress does not matter.
    pub without_progress: Option<Duration>,
}

impl Patience {
    /// So long whatever happens.
    pub fn of(deadline: Duration) -> Self {
        Self {
            deadline,
            without_progress: None,
        }
    }
}

impl StepExecutor {
    /// Waits until a server has applied everything in `set`.
    pub async fn drain(&mut self, key: &InstanceKey, set: &GtidSet, patience: Patience) -> Effect {
        let step_deadline = self.context.settings.step_deadline;
        let session = match self.session_of(key, step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let delay = self.delay_of(key);
        let applied = apply(&session, set, patience, step_deadline, delay > 0).await;
        match applied {
            Ok(()) if delay > 0 => Effect::Done(format!(
                "{key} has applied all that it received, without its delay of {delay} s"
            )),
            Ok(()) => Effect::Done(format!("{key} has applied all that it received")),
            Err(error) => self.effect_of(key, &error),
        }
    }

    /// How long a server waits on purpose before it applies, seconds, by what it said last.
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

    /// Lets replicas wait so many seconds before they apply, as they did before, side by side. One entry per replica.
    pub async fn delay(
        &mut self,
        replicas: &BTreeMap<InstanceKey, u64>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        let keys = replicas.keys().cloned().collect();
        self.each(&keys, |session| {
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

    /// Waits until replicas that an actor before this one took off GTID, so that they apply without delay, have applied everything, and
    /// lets them go by GTID again. One entry per replica.
    pub async fn finish_applying(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let step_deadline = self.context.settings.step_deadline;
        self.each(replicas, |session| {
            Box::pin(async move {
                session.start_applying(step_deadline).await?;
                session.wait_all_applied(deadline).await?;
                session.delay_by(0, step_deadline).await?;
                Ok(format!("{} has applied all that it received", session.instance()))
            })
        })
        .await
    }

    /// Gives `successor` what `from` has: lets `from` apply all that it received (a server passes on only what it has applied), points
    /// the successor at it, waits until it has `set`, and stops it again whatever came of it. One entry for each of the two.
    pub async fn catch_up_from(
        &mut self,
        successor: &InstanceKey,
        from: &InstanceKey,
        set: &GtidSet,
        patience: Patience,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let begun = Instant::now();
        let drained = self.drain(from, set, patience).await;
        if !matches!(drained, Effect::Done(_)) {
            let not_begun = Effect::NoAnswer(format!("{successor} was not pointed at {from}"));
            return Ok(BTreeMap::from([
                (from.clone(), drained),
                (successor.clone(), not_begun),
            ]));
        }
        let only = BTreeSet::from([successor.clone()]);
        let mut effect = take(self.repoint(from, &only).await?, successor);
        if matches!(effect, Effect::Done(_)) {
            let left = patience.deadline.saturating_sub(begun.elapsed());
            effect = self.await_caught_up(successor, set, left).await;
        }
        if let Effect::Unconfirmed(_) = effect {
            return Err(effect);
        }
        let stopped = take(self.stop_receivers(&only).await?, successor);
        let effect = match (effect, stopped) {
            (Effect::Done(_), Effect::Done(_)) => Effect::Done(format!("{successor} has all that {from} has")),
            (Effect::Done(_), stopped) => stopped,
            (failed, _) => failed,
        };
        Ok(BTreeMap::from([(from.clone(), drained), (successor.clone(), effect)]))
    }

    /// Points a replica that was fed back at the source that it had, receiving or not as it did then.
    pub async fn point_back(&mut self, replica: &InstanceKey, source: &InstanceKey, starts: bool) -> Effect {
        let only = BTreeSet::from([replica.clone()]);
        if starts {
            return match self.repoint(source, &only).await {
                Ok(effects) => take(effects, replica),
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
                // It applied what it had been fed; it goes on with whatever is left.
                Ok(()) => session.start_applying(deadline).await,
                failed => failed,
            }
        };
        match pointed {
            Ok(()) => Effect::Done(format!(
                "{replica} has {source} as its source again, and does not receive"
            )),
            Err(error) => self.effect_of(replica, &error),
        }
    }

    async fn await_caught_up(&mut self, successor: &InstanceKey, set: &GtidSet, deadline: Duration) -> Effect {
        let step_deadline = self.context.settings.step_deadline;
        let session = match self.session_of(successor, step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let begun = Instant::now();
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            let mut session = session.lock().await;
            let waited = session.wait_applied(set, left.min(LOOK_AT_RECEIVER)).await;
            let error = match waited {
                Ok(()) => return Effect::Done(String::new()),
                Err(error) => error,
            };
            let is_over = left <= LOOK_AT_RECEIVER || !matches!(error, StepError::TooSlow { .. });
            let facts = if is_over {
                Err(error)
            } else {
                session.facts(step_deadline).await
            };
            drop(session);
            match facts {
                Ok(facts) => {
                    if let Some(why) = why_not_receiving(&facts, begun.elapsed()) {
                        return Effect::Failed(format!("{successor} {why}"));
                    }
                }
                Err(error) => return self.effect_of(successor, &error),
            }
        }
    }
}

/// Waits in rounds where progress counts, so that one that hangs is given up before the deadline.
/// One that delays on purpose does not from then on.
async fn apply(
    session: &Session,
    set: &GtidSet,
    patience: Patience,
    step_deadline: Duration,
    delays: bool,
) -> Result<(), StepError> {
    let mut session = session.lock().await;
    if !delays {
        session.start_applying(step_deadline).await?;
        return wait(&mut session, set, patience, step_deadline).await;
    }
    session.apply_at_once(step_deadline).await?;
    wait(&mut session, set, patience, step_deadline).await?;
    session.delay_by(0, step_deadline).await
}

async fn wait(
    session: &mut Box<dyn StepSession>,
    set: &GtidSet,
    patience: Patience,
    step_deadline: Duration,
) -> Result<(), StepError> {
    let Some(round) = patience.without_progress else {
        return session.wait_applied(set, patience.deadline).await;
    };
    let begun = Instant::now();
    let mut before = executed(session, step_deadline).await?;
    loop {
        let left = patience.deadline.saturating_sub(begun.elapsed());
        match session.wait_applied(set, left.min(round)).await {
            Err(error @ StepError::TooSlow { .. }) => {
                let now = executed(session, step_deadline).await?;
                if left <= round || now == before {
                    return Err(error);
                }
                before = now;
            }
            over => return over,
        }
    }
}

async fn executed(session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<GtidSet, StepError> {
    Ok(session.facts(deadline).await?.executed)
}

/// Why a replica will not get anything from its source, as far as that can be told after this time.
fn why_not_receiving(facts: &InstanceFacts, after: Duration) -> Option<String> {
    let Some(channel) = facts.managed_channel() else {
        return Some("has no replication channel any more".to_owned());
    };
    let error = &channel.io_error;
    match channel.io {
        ThreadState::Stopped => Some(format!("stopped receiving: error {}: {}", error.number, error.message)),
        ThreadState::Connecting if after >= CONNECT_PATIENCE => Some(format!(
            "cannot connect to {}: error {}: {}",
            channel.source, error.number, error.message
        )),
        ThreadState::Connecting | ThreadState::Running => None,
    }
}

/// The entry of one server.
fn take(mut effects: BTreeMap<InstanceKey, Effect>, key: &InstanceKey) -> Effect {
    effects
        .remove(key)
        .unwrap_or_else(|| Effect::NoAnswer(format!("{key}: no session")))
}
