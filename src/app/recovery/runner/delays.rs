//! Replicas that had to apply at once wait on purpose again.

use std::collections::BTreeMap;

use crate::app::recovery::steps::Effect;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::progress;
use crate::domain::state::Recovery;
use crate::domain::topology::Topology;

use super::{RecoveryRunner, tell};

impl RecoveryRunner<'_> {
    /// Puts the delays of those back that follow the new primary from now on. One that cannot be put back is told, follows all the same,
    /// and is seen to delay no more by the next look.
    pub(super) async fn delay_again(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        effects: &mut BTreeMap<InstanceKey, Effect>,
    ) {
        let mut lifted = progress::lifted_delays(&recovery.plan, fresh);
        lifted.retain(|key, _| matches!(effects.get(key), Some(Effect::Done(_))));
        if lifted.is_empty() {
            return;
        }
        match self.step_executor.delay(&lifted).await {
            Ok(delayed) => self.say(tell(&delayed)),
            Err(unconfirmed) => {
                for key in lifted.into_keys() {
                    effects.insert(key, unconfirmed.clone());
                }
            }
        }
    }
}
