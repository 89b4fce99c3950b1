//! The steps that switch semi-sync.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::recovery::steps::Effect;
use crate::domain::key::InstanceKey;
use crate::domain::state::Recovery;

use super::{RecoveryRunner, or_all};

impl RecoveryRunner<'_> {
    /// Lets replicas acknowledge what they received before they acknowledged.
    pub(super) async fn acknowledge_received(
        &mut self,
        recovery: &Recovery,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, Effect> {
        let deadline = self.catch_up().max(self.context.settings.step_deadline);
        let effects = self
            .step_executor
            .acknowledge_received(&recovery.plan.old_primary, replicas, deadline)
            .await;
        or_all(effects, replicas)
    }
}
