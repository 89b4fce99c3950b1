//! How servers start. A replica that was read-only and starts writable is made read-only again; with `bootReadOnly: Enforce` servers
//! start read-only, and a primary which has started so is opened again.

use std::sync::Arc;

use tracing::{info, warn};

use crate::app::cluster::view::ClusterView;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::policy::{BootReadOnly, HeldBack};
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind};
use crate::domain::recovery::planner;

use super::RecoveryCoordinator;

/// After somebody worked on a cluster, milliseconds.
const TRY_AGAIN_MILLIS: u64 = 100;
/// An attempt to open the primary again is repeated after this, milliseconds.
const REOPEN_AGAIN_MILLIS: u64 = 30_000;
/// What a server is after its next start is looked at again after this, milliseconds: what it told before the change is a minute old
/// at most, and a server that refuses is not to fill the records.
const ENFORCE_AGAIN_MILLIS: u64 = 300_000;
/// A replica that could not be made read-only is tried again after this, milliseconds.
const HOLD_AGAIN_MILLIS: u64 = 5_000;

impl RecoveryCoordinator {
    /// Takes up what the policies call for. Returns at once; the work goes on in tasks.
    pub fn tend_boots(self: &Arc<Self>, views: &[ClusterView]) {
        let wanting = |view: &&ClusterView| view.policy.boot_read_only != BootReadOnly::Off;
        for view in views.iter().filter(wanting) {
            if !may_act(view) || !self.is_at_rest(view) {
                continue;
            }
            if let Some(plan) = planner::plan_hold(&view.topology, &view.policy) {
                if self.has_not_failed_lately(&plan) {
                    let told = format!(
                        "{} is a replica, was read-only, and has started writable",
                        plan.old_primary
                    );
                    self.tend(view, plan, told);
                }
            } else if let Some(plan) = self.reopening(view) {
                let told = format!("{} has started read-only and is the primary", plan.old_primary);
                self.tend(view, plan, told);
            } else if self.is_rested(view, RecoveryKind::BootReadOnly, ENFORCE_AGAIN_MILLIS)
                && let Some(plan) = planner::plan_boot_read_only(&view.topology, &view.policy)
            {
                let told = format!("{} of the servers boot writable", plan.instances.len());
                self.tend(view, plan, told);
            }
        }
    }

    /// Nobody works on the cluster, every instance was looked at since this process started, and the last try is a little while ago.
    pub(super) fn is_at_rest(&self, view: &ClusterView) -> bool {
        let now = self.context.clock.monotonic();
        let in_flight = self.in_flight();
        let is_rested = |tried: &crate::domain::time::MonotonicTime| now.millis_since(*tried) >= TRY_AGAIN_MILLIS;
        in_flight.is_free(&view.cluster.id, true)
            && in_flight.tried.get(&view.cluster.id).is_none_or(is_rested)
            && is_seen_whole(view)
    }

    fn reopening(&self, view: &ClusterView) -> Option<Plan> {
        if !self.is_rested(view, RecoveryKind::ReopenPrimary, REOPEN_AGAIN_MILLIS) {
            return None;
        }
        let cluster = &view.cluster;
        let is_held = self
            .views
            .state()
            .quarantines
            .values()
            .any(|quarantine| quarantine.cluster == cluster.id);
        let recorded = cluster.primary.as_ref()?;
        match planner::plan_reopen(&view.topology, &view.policy) {
            Ok(plan) => plan.filter(|plan| !is_held && plan.successor_identity == recorded.identity),
            Err(why) => {
                if self.news(&recorded.instance, "reopen", &why, 0) {
                    warn!(instance = %recorded.instance, "{} has started read-only and is not opened again: {why}", recorded.instance);
                }
                None
            }
        }
    }

    /// No recovery of this kind has ended a short while ago.
    pub(super) fn is_rested(&self, view: &ClusterView, kind: RecoveryKind, millis: u64) -> bool {
        let now = self.context.clock.wall();
        let ended = |recovery: &crate::domain::state::Recovery| {
            let is_of_it = recovery.plan.cluster == view.cluster.id && recovery.plan.kind == kind;
            recovery.ended().filter(|_| is_of_it)
        };
        self.views
            .state()
            .recoveries
            .values()
            .filter_map(ended)
            .all(|ended| now.millis_since(ended) >= millis)
    }

    fn has_not_failed_lately(&self, plan: &Plan) -> bool {
        let now = self.context.clock.wall();
        let state = self.views.state();
        let failed = state.recoveries.values().filter(|recovery| {
            let past = &recovery.plan;
            !recovery.is_successful() && (past.kind, &past.old_primary) == (plan.kind, &plan.old_primary)
        });
        failed
            .filter_map(crate::domain::state::Recovery::ended)
            .all(|ended| now.millis_since(ended) >= HOLD_AGAIN_MILLIS)
    }

    pub(super) fn tend(self: &Arc<Self>, view: &ClusterView, plan: Plan, told: String) {
        let Some(busy) = self.occupy(&view.cluster.id, true) else {
            return;
        };
        info!(instance = %plan.old_primary, "{told}");
        let finding = Finding {
            code: plan.code,
            instance: plan.old_primary.clone(),
            cluster: plan.cluster.clone(),
            description: told,
            evidence: Evidence {
                last_check_valid: true,
                is_primary: plan.code == Code::NoWriteableMasterStructureWarning,
                ..Evidence::default()
            },
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let (this, view) = (Arc::clone(self), view.clone());
        self.tracker.spawn(async move {
            let old_primary = plan.old_primary.clone();
            if let Err(why) = this.act(&view, finding, Vec::new(), plan, PlanReport::default()).await {
                warn!(instance = %old_primary, "{old_primary}: what the policy wants was not done: {why}");
            }
            drop(busy);
        });
    }
}

/// Every server was looked at once at least.
pub(super) fn is_seen_whole(view: &ClusterView) -> bool {
    let mut instances = view.topology.instances.values();
    instances.all(|instance| instance.last_checked.is_some())
}

/// A recent failover is no reason to leave a primary closed, anything else that holds recoveries back is.
pub(super) fn may_act(view: &ClusterView) -> bool {
    let is_ours = planner::another_controller(&view.topology).is_none();
    is_ours && matches!(view.policy.held_back, None | Some(HeldBack::RecentRecovery { .. }))
}
