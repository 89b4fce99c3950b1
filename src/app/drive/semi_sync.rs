//! The steps that switch semi-sync.

use std::collections::BTreeMap;

use crate::app::hands::Effect;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Step;
use crate::domain::state::Recovery;

use super::{Drive, to_all};

impl Drive<'_> {
    /// Carries one of them out; the caller has sorted them.
    pub(super) async fn switch_semi_sync(&mut self, recovery: &Recovery, step: &Step) -> BTreeMap<InstanceKey, Effect> {
        match step {
            Step::Acknowledge { replicas, on } => self
                .hands
                .acknowledge(replicas, *on)
                .await
                .unwrap_or_else(|effect| to_all(replicas, &effect)),
            Step::AcknowledgeReceived { replicas } => {
                let deadline = self.catch_up().max(self.shop.settings.step_deadline);
                self.hands
                    .acknowledge_received(&recovery.plan.victim, replicas, deadline)
                    .await
                    .unwrap_or_else(|effect| to_all(replicas, &effect))
            }
            _ => BTreeMap::new(),
        }
    }
}
