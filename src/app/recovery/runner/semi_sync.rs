//! The steps that switch semi-sync.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::recovery::steps::Effect;
use crate::domain::key::InstanceKey;
use crate::domain::state::Recovery;

use super::{Drive, or_all};

impl Drive<'_> {
    /// Lets replicas acknowledge what they received before they acknowledged.
    pub(super) async fn acknowledge_received(
        &mut self,
        recovery: &Recovery,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, Effect> {
        let deadline = self.catch_up().max(self.shop.settings.step_deadline);
        let effects = self
            .hands
            .acknowledge_received(&recovery.plan.victim, replicas, deadline)
            .await;
        or_all(effects, replicas)
    }
}
