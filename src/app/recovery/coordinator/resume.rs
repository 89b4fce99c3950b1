//! Recoveries that another member began, or an earlier process of this one, and that nobody runs.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::key::InstanceKey;
use crate::domain::state::{Applied, Command, Recovery};

use super::{Busy, Recoverer};

/// An unfinished recovery that stopped again is taken over again after this.
const RESUME_AGAIN_MILLIS: u64 = 500;

impl Recoverer {
    /// Recoveries that are not over and that no task of this process runs are taken over, whoever held them.
    pub(super) fn resume_unfinished(self: &Arc<Self>) {
        let state = self.pictures.state();
        // It may have been ended by members that are lost: a person looks first.
        if state.quorum_forced.is_some() {
            return;
        }
        for recovery in state.recoveries.values().filter(|recovery| recovery.is_active()) {
            let looked_at = |key: &InstanceKey| {
                self.shop
                    .observatory
                    .get(key)
                    .is_none_or(|tracked| tracked.instance.last_checked.is_some())
            };
            if self.pictures.cluster(&recovery.plan.cluster).is_none() || !recovery.plan.instances.iter().all(looked_at)
            {
                continue;
            }
            let now = self.shop.clock.mono();
            let mut desk = self.desk();
            let rested = desk
                .tried
                .get(&recovery.plan.cluster)
                .is_none_or(|tried| now.millis_since(*tried) >= RESUME_AGAIN_MILLIS);
            if desk.running.contains(&recovery.uid)
                || !desk.is_free(&recovery.plan.cluster, recovery.plan.kind.gives_way())
                || !rested
            {
                continue;
            }
            desk.running.insert(recovery.uid.clone());
            drop(desk);
            let Some(busy) = self.occupy(&recovery.plan.cluster, recovery.plan.kind.gives_way()) else {
                self.desk().running.remove(&recovery.uid);
                continue;
            };
            self.tracker.spawn(Arc::clone(self).resume(busy, recovery.clone()));
        }
    }

    async fn resume(self: Arc<Self>, busy: Busy, recovery: Recovery) {
        let me = self.shop.consensus.me();
        info!(
            "taking over recovery {} of {} from {}",
            recovery.uid, recovery.plan.victim, recovery.holder_name
        );
        let command = Command::Resume {
            uid: recovery.uid.clone(),
            holder: me.id,
            holder_name: me.name,
            above: recovery.epoch,
        };
        match self.shop.consensus.propose(command).await {
            Ok(Applied::Claimed { token }) => self.drive(&token, true).await,
            Ok(other) => warn!("recovery {} was not taken over: {other}", recovery.uid),
            Err(error) => warn!("recovery {} was not taken over: {error}", recovery.uid),
        }
        self.desk().running.remove(&recovery.uid);
        drop(busy);
    }
}
