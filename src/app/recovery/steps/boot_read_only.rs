//! Whether servers start read-only, and whether a server is read-only because of its last start.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;

use super::{StepEffect, StepExecutor};

impl StepExecutor {
    /// Makes these servers start read-only next time, side by side. Their running settings do not change.
    ///
    /// # Errors
    /// When the claim could not be confirmed.
    pub async fn persist_read_only(
        &mut self,
        servers: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(servers, |session| {
            Box::pin(async move {
                session.set_boot_read_only(deadline).await?;
                Ok(format!("{} boots read-only", session.instance()))
            })
        })
        .await
    }

    /// Succeeds when the server is read-only since its last start, and no statement has changed that since.
    pub async fn check_boot(&mut self, primary: &InstanceKey) -> StepEffect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let settings = session.lock().await.settings(deadline).await;
        match settings {
            Ok(settings) if settings.read_only_since_boot == Some(true) => {
                StepEffect::Done(format!("{primary} is read-only since its start"))
            }
            Ok(_) => StepEffect::Failed(format!("{primary} is not read-only because of its start")),
            Err(error) => self.effect_of(primary, &error),
        }
    }
}
