//! The steps on a primary that answers: who acknowledges its commits, and its being writable.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;

use super::{Effect, Hands};

impl Hands {
    /// Makes replicas acknowledge, or not, side by side. One entry per replica.
    pub async fn acknowledge(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        on: bool,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.shop.settings.step_deadline;
        self.each(replicas, move |session| {
            Box::pin(async move {
                session.acknowledge(on, deadline).await?;
                let word = if on { "acknowledges" } else { "no longer acknowledges" };
                Ok(format!("{} {word}", session.instance()))
            })
        })
        .await
    }

    /// Makes the present primary writable, with the right to act proved right before.
    pub async fn make_writable(&mut self, primary: &InstanceKey) -> Effect {
        let deadline = self.shop.settings.step_deadline;
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
