//! Unfinished recoveries that another member or an earlier process of this member began.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Applied, Command, Recovery};
use crate::domain::topology::ClusterId;

use super::{ClusterReservation, RecoveryCoordinator};
use crate::app::recovery::admission::RecoveryPriority;

/// The pause before an unfinished recovery is resumed again, milliseconds.
const RETRY_RESUME_MILLIS: u64 = 500;

impl RecoveryCoordinator {
    /// Resumes each recovery that is not over and that no task of this process runs.
    pub(super) fn resume_unfinished(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let state = self.views.state();
        // Lost members may have ended it. An operator has to check that first.
        if state.quorum_forced.is_some() {
            return;
        }
        let has_cluster = |id: &ClusterId| views.iter().any(|view| view.cluster.id == *id);
        for recovery in state.recoveries.values().filter(|recovery| recovery.is_active()) {
            let looked_at = |key: &InstanceKey| {
                self.context
                    .instance_cache
                    .read(key, |tracked| tracked.instance.last_checked.is_some())
                    .unwrap_or(true)
            };
            if self.in_flight().running.contains(&recovery.uid)
                || !has_cluster(&recovery.plan.cluster)
                || !recovery.plan.instances.iter().all(looked_at)
            {
                continue;
            }
            let now = self.context.clock.monotonic();
            let mut in_flight = self.in_flight();
            let rested = in_flight
                .last_ended(&recovery.plan.cluster, recovery.plan.kind.gives_way())
                .is_none_or(|ended| now.millis_since(ended) >= RETRY_RESUME_MILLIS);
            if in_flight.running.contains(&recovery.uid)
                || !in_flight.is_free(&recovery.plan.cluster, recovery.plan.kind.gives_way())
                || !rested
            {
                continue;
            }
            in_flight.running.insert(recovery.uid.clone());
            drop(in_flight);
            let plan = &recovery.plan;
            let priority = RecoveryPriority::unlimited(plan.cluster.clone(), plan.kind.gives_way());
            let Some(reservation) = self.admit_one(priority) else {
                self.in_flight().running.remove(&recovery.uid);
                continue;
            };
            self.tracker
                .spawn(Arc::clone(self).resume(reservation, recovery.clone()));
        }
    }

    async fn resume(self: Arc<Self>, reservation: ClusterReservation, recovery: Recovery) {
        let me = self.context.consensus.me();
        info!(
            "resuming recovery {} of {} from {}",
            recovery.uid, recovery.plan.old_primary, recovery.holder_name
        );
        let command = Command::Resume {
            uid: recovery.uid.clone(),
            holder: me.id,
            holder_name: me.name,
            above: recovery.epoch,
        };
        match self.context.consensus.propose(command).await {
            Ok(Applied::Claimed { token }) => self.run_claimed(&token, true).await,
            Ok(other) => warn!("failed to resume recovery {}: {other}", recovery.uid),
            Err(error) => warn!("failed to resume recovery {}: {error}", recovery.uid),
        }
        self.in_flight().running.remove(&recovery.uid);
        drop(reservation);
    }
}
