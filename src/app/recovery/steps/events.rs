//! Events of the event scheduler: enabled on a new primary, disabled on a demoted one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::key::InstanceKey;
use crate::domain::scheduled_events::{EventsEnabled, ScheduledEvent};

use super::{Session, StepEffect, StepExecutor};

/// How long enabling or disabling all events may take. The end of a recovery waits for it, and each statement may wait for
/// acknowledgements.
const EVENTS_DEADLINE: Duration = Duration::from_secs(3);
/// Number of events with an error that a line of the record names.
const NAMED_FAILURES: usize = 3;

impl StepExecutor {
    /// Enables events of the old primary on the new one. Replicas keep them disabled.
    pub async fn enable_events(&mut self, successor: &InstanceKey, events: &BTreeSet<ScheduledEvent>) -> StepEffect {
        let session = match self.session_of(successor, EVENTS_DEADLINE).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        if let Err(effect) = self.confirm().await {
            return effect;
        }
        let enabled = session.lock().await.enable_events(events, true, EVENTS_DEADLINE).await;
        match enabled {
            Ok(done) if done.failed.is_empty() => StepEffect::Done(describe(successor, &done)),
            Ok(done) => StepEffect::Failed(describe(successor, &done)),
            Err(error) => self.effect_of(successor, &error),
        }
    }

    /// Disables the events of a server that was just made read-only, where it would run them all the same. Returns a remark
    /// for the record.
    pub(super) async fn disable_events(&mut self, old_primary: &InstanceKey, session: &Session) -> String {
        let disabled = session.lock().await.disable_events(EVENTS_DEADLINE).await;
        match disabled {
            Ok(events) if events.is_empty() => String::new(),
            Ok(events) => {
                let count = events.len();
                self.disabled_events.extend(events);
                format!(", {count} events disabled")
            }
            Err(error) => {
                self.effect_of(old_primary, &error);
                format!("; events of accounts that bypass read_only may still write: {error}")
            }
        }
    }

    /// Enables the events again that a demotion disabled, by this actor or the one before it. Returns a remark for the record.
    pub(super) async fn enable_events_again(
        &mut self,
        old_primary: &InstanceKey,
        session: &Session,
        events: &BTreeSet<ScheduledEvent>,
    ) -> String {
        let events: BTreeSet<ScheduledEvent> = events.union(&self.disabled_events).cloned().collect();
        if events.is_empty() {
            return String::new();
        }
        let enabled = session
            .lock()
            .await
            .enable_events(&events, false, EVENTS_DEADLINE)
            .await;
        match enabled {
            Ok(done) if done.enabled == 0 && done.failed.is_empty() => String::new(),
            Ok(done) => format!("; {}", describe(old_primary, &done)),
            Err(error) => {
                self.effect_of(old_primary, &error);
                format!("; its events may still be disabled: {error}")
            }
        }
    }
}

fn describe(instance: &InstanceKey, done: &EventsEnabled) -> String {
    let mut text = format!("{} events enabled on {instance}", done.enabled);
    if done.is_scheduler_off {
        text.push_str("; its event scheduler is off: none runs");
    }
    if !done.failed.is_empty() {
        let named: Vec<String> = done
            .failed
            .iter()
            .take(NAMED_FAILURES)
            .map(|(event, why)| format!("{event}: {why}"))
            .collect();
        let count = done.failed.len();
        text = format!("{text}; {count} could not be enabled: {}", named.join("; "));
    }
    text
}
