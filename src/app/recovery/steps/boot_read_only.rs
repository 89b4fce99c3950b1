//! What a server is after its next start, and whether it is read-only because of its last one.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;

use super::{Effect, StepExecutor};

impl StepExecutor {
    /// Lets the next start of these servers be read-only, side by side; the running ones stay as they are.
    ///
    /// # Errors
    /// When the right to act is gone.
    pub async fn persist_read_only(
        &mut self,
        servers: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(servers, |session| {
            Box::pin(async move {
                session.set_boot_read_only(deadline).await?;
                Ok(format!("{} boots read-only", session.instance()))
            })
        })
        .await
    }

    /// Done when the server is read-only since its last start, and no statement has touched that since.
    pub async fn check_boot(&mut self, primary: &InstanceKey) -> Effect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let settings = session.lock().await.settings(deadline).await;
        match settings {
            Ok(settings) if settings.read_only_since_boot == Some(true) => {
                Effect::Done(format!("{primary} is read-only since its start"))
            }
            Ok(_) => Effect::Failed(format!("{primary} is not read-only by what it was started with")),
            Err(error) => self.effect_of(primary, &error),
        }
    }
}
