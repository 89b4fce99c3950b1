//! The hands on errant transactions.

use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;

use super::{Effect, StepExecutor};

/// Deadlines of single statements do not fit: up to a thousand commits, each waiting for an acknowledgement, or the removal of logs.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

impl StepExecutor {
    /// Commits empty transactions on the primary.
    pub async fn inject_empty(&mut self, primary: &InstanceKey, set: &GtidSet) -> Effect {
        let session = match self.session_of(primary, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let injected = session.lock().await.inject_empty(set, PATIENCE).await;
        match injected {
            Ok(()) => Effect::Done(format!("{primary} has {} more", set.transaction_count())),
            Err(error) => self.effect_of(primary, &error),
        }
    }

    /// Lets a server forget its binary logs and GTIDs.
    pub async fn reset_gtids(&mut self, instance: &InstanceKey, keep: &GtidSet) -> Effect {
        let session = match self.session_of(instance, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let reset = session.lock().await.reset_gtids(keep, PATIENCE).await;
        match reset {
            Ok(()) => Effect::Done(format!("{instance} has forgotten its errant transactions")),
            Err(error) => self.effect_of(instance, &error),
        }
    }
}
