//! What only the leader does: it keeps records, starts repairs and enforces quarantines. It stops as soon as
//! leadership is lost.

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
use cluster_registry::ClusterAliases;

/// How often the leader reconciles when nothing changes: blocks expire, and refused repairs are retried.
const RECONCILE_INTERVAL: Duration = Duration::from_millis(250);

/// How often a follower judges its clusters, so that its history of findings has no gaps when it becomes the leader.
const FOLLOWER_INTERVAL: Duration = Duration::from_secs(1);

/// The loop of the leader, which every member runs.
pub struct Leader {
    /// Leadership, and the replicated state.
    pub consensus: Arc<dyn Consensus>,
    /// The latest observations.
    pub instance_cache: Arc<InstanceCache>,
    /// The views of clusters.
    pub views: ClusterViews,
    /// Aliases of clusters without a document.
    pub aliases: ClusterAliases,
    /// Starts repairs.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// Keeps quarantined servers read-only.
    pub quarantine: Arc<QuarantineEnforcer>,
    /// Runs hooks.
    pub hooks: HookRunner,
}

impl Leader {
    /// Runs until cancelled: waits for leadership, then leads until it is lost.
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
                    () = tokio::time::sleep(FOLLOWER_INTERVAL) => drop(self.views.clusters()),
                }
            }
        }
    }

    async fn lead(&self, leading: CancellationToken) {
        // Decisions need a state with everything that an earlier leader committed.
        while let Err(error) = self.consensus.barrier().await {
            debug!("leadership is not confirmed yet: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut changes = self.instance_cache.changes();
        let mut state = self.consensus.state();
        let mut tick = tokio::time::interval(RECONCILE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            changes.borrow_and_update();
            state.borrow_and_update();
            let clusters = self.views.clusters();
            self.coordinator.reconcile(&clusters);
            self.hooks.start_due(&self.views.state());
            self.quarantine.reconcile(&leading);
            cluster_registry::end_downtimes_of_recovered_replicas(&self.views, &clusters, &self.consensus).await;
            cluster_registry::update_cluster_records(&self.views, &self.aliases, &self.hooks, &self.consensus).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
        }
    }
}
