//! Recoveries that another member began, or an earlier process of this one, and that nobody runs.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::key::InstanceKey;
use crate::domain::state::{Applied, Command, Recovery};

use super::{Busy, RecoveryCoordinator};

/// An unfinished recovery that stopped again is taken over again after this.
const RESUME_AGAIN_MILLIS: u64 = 500;

impl RecoveryCoordinator {
    /// Recoveries that are not over and that no task of this process runs are taken over, whoever held them.
    pub(super) fn resume_unfinished(self: &Arc<Self>) {
        let state = self.views.state();
        // It may have been ended by members that are lost: a person looks first.
        if state.quorum_forced.is_some() {
            return;
        }
        for recovery in state.recoveries.values().filter(|recovery| recovery.is_active()) {
            let looked_at = |key: &InstanceKey| {
                self.context
                    .instance_cache
                    .get(key)
                    .is_none_or(|tracked| tracked.instance.last_checked.is_some())
            };
            if self.views.cluster(&recovery.plan.cluster).is_none() || !recovery.plan.instances.iter().all(looked_at) {
                continue;
            }
            let now = self.context.clock.monotonic();
            let mut in_flight = self.in_flight();
            let rested = in_flight
                .tried
                .get(&recovery.plan.cluster)
                .is_none_or(|tried| now.millis_since(*tried) >= RESUME_AGAIN_MILLIS);
            if in_flight.running.contains(&recovery.uid)
                || !in_flight.is_free(&recovery.plan.cluster, recovery.plan.kind.gives_way())
                || !rested
            {
                continue;
            }
            in_flight.running.insert(recovery.uid.clone());
            drop(in_flight);
            let Some(busy) = self.occupy(&recovery.plan.cluster, recovery.plan.kind.gives_way()) else {
                self.in_flight().running.remove(&recovery.uid);
                continue;
            };
            self.tracker.spawn(Arc::clone(self).resume(busy, recovery.clone()));
        }
    }

    async fn resume(self: Arc<Self>, busy: Busy, recovery: Recovery) {
        let me = self.context.consensus.me();
        info!(
            "taking over recovery {} of {} from {}",
            recovery.uid, recovery.plan.old_primary, recovery.holder_name
        );
        let command = Command::Resume {
            uid: recovery.uid.clone(),
            holder: me.id,
            holder_name: me.name,
            above: recovery.epoch,
        };
        match self.context.consensus.propose(command).await {
            Ok(Applied::Claimed { token }) => self.drive(&token, true).await,
            Ok(other) => warn!("recovery {} was not taken over: {other}", recovery.uid),
            Err(error) => warn!("recovery {} was not taken over: {error}", recovery.uid),
        }
        self.in_flight().running.remove(&recovery.uid);
        drop(busy);
    }
}
