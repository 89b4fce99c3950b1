//! Steps that resolve errant transactions.

use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;

use super::{StepEffect, StepExecutor};

/// The usual deadline of a statement is too short: a step may commit a thousand transactions, each with an
/// acknowledgement, or remove many logs.
const DEADLINE: std::time::Duration = std::time::Duration::from_mins(1);

impl StepExecutor {
    /// Commits empty transactions on the primary.
    pub async fn inject_empty(&mut self, primary: &InstanceKey, set: &GtidSet) -> StepEffect {
        let session = match self.session_of(primary, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let injected = session.lock().await.inject_empty(set, DEADLINE).await;
        match injected {
            Ok(()) => StepEffect::Done(format!("{primary} has {} more", set.transaction_count())),
            Err(error) => self.effect_of(primary, &error),
        }
    }

    /// Resets the binary logs and GTIDs of a server.
    pub async fn reset_gtids(&mut self, instance: &InstanceKey, keep: &GtidSet) -> StepEffect {
        let session = match self.session_of(instance, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let reset = session.lock().await.reset_gtids(keep, DEADLINE).await;
        match reset {
            Ok(()) => StepEffect::Done(format!(
                "removed the errant transactions of {instance} from its GTID set"
            )),
            Err(error) => self.effect_of(instance, &error),
        }
    }
}
