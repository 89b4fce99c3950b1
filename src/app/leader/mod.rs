//! What only the leader does: keep records, repair, stand guard. It stops the moment leadership is lost.

pub mod cluster_registry;
pub mod commit_stalls;
pub mod controller_lock;
pub mod pseudo_gtid_writer;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::Consensus;
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use cluster_registry::Aliases;

/// Everything is looked at again after this, whatever changed: expiries, refusals, members that did not agree.
const TICK: Duration = Duration::from_millis(250);

/// A member that does not lead looks at its clusters this often, so that its log of findings has no gaps when it is asked to lead.
const LOOK: Duration = Duration::from_secs(1);

/// The leader's loop on every member.
pub struct Leader {
    /// Agreement.
    pub consensus: Arc<dyn Consensus>,
    /// What is seen.
    pub instance_cache: Arc<InstanceCache>,
    /// ClusterViews of it.
    pub views: ClusterViews,
    /// Aliases of clusters without a document.
    pub aliases: Aliases,
    /// Repairs.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// Guards.
    pub guard: Arc<QuarantineEnforcer>,
    /// Runs the user's commands.
    pub hooks: HookRunner,
}

impl Leader {
    /// Runs until cancelled: waits for leadership, leads until it is lost.
    pub async fn run(self, cancel: CancellationToken) {
        let mut leadership = self.consensus.leadership();
        while !cancel.is_cancelled() {
            let leads = leadership.borrow_and_update().is_leader;
            if leads {
                let leading = cancel.child_token();
                let lost = async {
                    while leadership.borrow_and_update().is_leader {
                        if leadership.changed().await.is_err() {
                            return;
                        }
                    }
                };
                info!("this member leads");
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = lost => info!("this member no longer leads"),
                    () = self.lead(leading.clone()) => {}
                }
                leading.cancel();
            } else {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    changed = leadership.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(LOOK) => drop(self.views.clusters()),
                }
            }
        }
    }

    async fn lead(&self, leading: CancellationToken) {
        // Nothing is judged on a state that may lack what an earlier leader committed.
        while let Err(error) = self.consensus.barrier().await {
            debug!("not yet proved to lead: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut changes = self.instance_cache.changes();
        let mut state = self.consensus.state();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            changes.borrow_and_update();
            state.borrow_and_update();
            let clusters = self.views.clusters();
            self.coordinator.consider(&clusters);
            self.hooks.consider(&self.views.state());
            self.coordinator.tend_requests(&clusters);
            self.coordinator.tend_boots(&clusters);
            self.coordinator.tend_durability(&clusters);
            self.guard.stand(&leading);
            self.coordinator.reattach(&clusters);
            cluster_registry::end_downtimes(&self.views, &clusters, &self.consensus).await;
            cluster_registry::keep_records(&self.views, &self.aliases, &self.hooks, &self.consensus).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
        }
    }
}
