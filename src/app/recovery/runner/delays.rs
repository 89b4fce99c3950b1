//! Restores the delays of replicas that had to apply at once.

use std::collections::BTreeMap;

use crate::app::recovery::steps::StepEffect;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::progress;
use crate::domain::state::Recovery;
use crate::domain::topology::Topology;

use super::{RecoveryRunner, describe_effects};

impl RecoveryRunner<'_> {
    /// Restores the delays of the replicas that follow the new primary. A delay that cannot be restored is recorded;
    /// the replica follows nevertheless, and the next observation shows it without delay.
    pub(super) async fn restore_delays(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        effects: &mut BTreeMap<InstanceKey, StepEffect>,
    ) {
        let mut lifted = progress::lifted_delays(&recovery.plan, fresh);
        lifted.retain(|key, _| matches!(effects.get(key), Some(StepEffect::Done(_))));
        if lifted.is_empty() {
            return;
        }
        match self.step_executor.set_delays(&lifted).await {
            Ok(delayed) => self.log(describe_effects(&delayed)),
            Err(unconfirmed) => {
                for key in lifted.into_keys() {
                    effects.insert(key, unconfirmed.clone());
                }
            }
        }
    }
}
