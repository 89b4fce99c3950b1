//! The fence of a primary that answers and commits nothing.

use crate::app::recovery::fence::{KilledCommits, fence_with_hanging_commits};
use crate::domain::key::InstanceKey;

use super::{StepEffect, StepExecutor};

impl StepExecutor {
    /// Makes a primary with hanging commits read-only, and ends its client sessions.
    pub async fn fence_stalled(&mut self, old_primary: &InstanceKey) -> StepEffect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(old_primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let target = self.target(old_primary);
        let identity = self.identity(old_primary);
        let executor = self.context.executor.as_ref();
        let fenced = {
            let mut session = session.lock().await;
            fence_with_hanging_commits(
                executor,
                &mut session,
                &target,
                identity.as_ref(),
                KilledCommits::Wait,
                deadline,
            )
            .await
        };
        match fenced {
            Ok(ended) => StepEffect::Done(format!("{old_primary} is read-only, {ended} client sessions ended")),
            // It may be read-only: an undo makes it writable.
            Err(error) => {
                self.effect_of(old_primary, &error);
                StepEffect::Unknown(error.to_string())
            }
        }
    }
}
