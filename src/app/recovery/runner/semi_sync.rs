//! The steps that change semi-sync.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::recovery::steps::StepEffect;
use crate::domain::key::InstanceKey;
use crate::domain::state::Recovery;

use super::{RecoveryRunner, effects_or_same_for_each};

impl RecoveryRunner<'_> {
    /// Makes replicas acknowledge the transactions that they received before they acknowledged.
    pub(super) async fn acknowledge_received(
        &mut self,
        recovery: &Recovery,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let deadline = self.apply_deadline().max(self.context.settings.step_deadline);
        let effects = self
            .step_executor
            .acknowledge_received(&recovery.plan.old_primary, replicas, deadline)
            .await;
        effects_or_same_for_each(effects, replicas)
    }
}
