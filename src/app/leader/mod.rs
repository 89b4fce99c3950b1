//! What only the leader does: it keeps records, starts repairs and enforces quarantines. It stops as soon as
//! leadership is lost.

pub mod cluster_registry;
pub mod commit_stalls;
pub mod controller_lock;
pub mod primary_publishing;
pub mod pseudo_gtid_writer;
mod publication_schedule;
pub mod unseen;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::app::cluster::view::{ClusterViews, SeenFailures, rest};
use crate::app::group_clock::correct_state_clock;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use cluster_registry::{ClusterAliases, DescribedGroups, RecordsLock};
use unseen::UnseenInstances;

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
    /// Shared with the API, which splits and merges clusters.
    pub records: RecordsLock,
    /// Starts repairs.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// Keeps quarantined servers read-only.
    pub quarantine: Arc<QuarantineEnforcer>,
    /// Runs hooks.
    pub hooks: HookRunner,
    /// The time of the group.
    pub clock: Arc<dyn Clock>,
    /// Forgets instances that are gone.
    pub unseen: UnseenInstances,
}

impl Leader {
    /// Runs until cancelled: waits for leadership, then leads until it is lost.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut leadership = self.consensus.leadership();
        while !cancel.is_cancelled() {
            let leads = leadership.borrow_and_update().is_leader;
            if leads {
                let leading = cancel.child_token();
                // Also when this loop panics: what it started must not outlive its leadership.
                let _ended = leading.clone().drop_guard();
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
                    () = self.lead() => {}
                    () = self.quarantine.run(&leading) => {}
                }
            } else {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    changed = leadership.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(FOLLOWER_INTERVAL) => drop(self.views.all().await),
                }
            }
        }
    }

    async fn lead(&self) {
        // Decisions need a state with everything that an earlier leader committed.
        while let Err(error) = self.consensus.barrier().await {
            debug!("leadership is not confirmed yet: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::join!(self.reconcile_all(), self.react_to_failures());
    }

    /// Starts recoveries of clusters in which an instance has begun to fail, or something changed since, before the next
    /// pass over all clusters: with thousands of servers a pass takes a while.
    async fn react_to_failures(&self) {
        let mut changes = self.instance_cache.changes();
        let mut seen = SeenFailures::default();
        while changes.changed().await.is_ok() {
            let begun = tokio::time::Instant::now();
            let work = move |views: &ClusterViews| (views.changed_with_failures(&mut seen), seen);
            let (clusters, now_seen) = self.views.off_workers(work).await;
            seen = now_seen;
            self.coordinator.start_recoveries(&clusters);
            rest(begun.elapsed()).await;
        }
    }

    async fn reconcile_all(&self) {
        let mut changes = self.instance_cache.changes();
        let mut state = self.consensus.state();
        let mut tick = tokio::time::interval(RECONCILE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut described = DescribedGroups::default();
        loop {
            changes.borrow_and_update();
            state.borrow_and_update();
            correct_state_clock(self.clock.as_ref(), self.consensus.as_ref()).await;
            let begun = tokio::time::Instant::now();
            let clusters = self.views.all().await;
            self.coordinator.reconcile(&clusters);
            let took = begun.elapsed();
            self.hooks.start_due(&self.views.state());
            cluster_registry::end_downtimes_of_recovered_replicas(&self.views, &clusters, &self.consensus).await;
            cluster_registry::update_cluster_records(
                &self.views,
                &self.aliases,
                &self.hooks,
                &self.consensus,
                &self.records,
                &mut described,
            )
            .await;
            self.unseen.review().await;
            rest(took).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
        }
    }
}
