//! How servers start. A replica that was read-only and starts writable is made read-only again. With `bootReadOnly:
//! Enforce`, servers start read-only, and a primary that started so is made writable again.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::policy::{BootReadOnly, HeldBack};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner;

use super::{RecoveryCoordinator, automatic_priority};

/// The pause after any repair of a cluster, milliseconds.
const RETRY_MILLIS: u64 = 100;
/// The pause between two attempts to make the primary writable again, milliseconds.
const RETRY_REOPEN_MILLIS: u64 = 30_000;
/// The pause between two attempts to persist `super_read_only`, milliseconds. The settings of a server are read once
/// a minute at most, and a server that refuses must not fill the records.
const RETRY_BOOT_READ_ONLY_MILLIS: u64 = 300_000;

impl RecoveryCoordinator {
    /// Starts the repairs that `bootReadOnly` calls for, one of each cluster at a time.
    pub(super) fn reconcile_boot_read_only(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let wanting = |view: &&Arc<ClusterView>| view.policy.boot_read_only != BootReadOnly::Off;
        for view in views.iter().filter(wanting) {
            if !may_repair(view) || !self.is_ready_for_policy_repair(view) {
                continue;
            }
            let is_due = |plan: &Plan| !self.waits_after_failures(&plan.cluster, plan.kind, &plan.old_primary);
            let hold = planner::plan_replica_read_only(&view.topology, &view.policy).filter(is_due);
            if let Some(plan) = hold {
                let description = format!(
                    "{} is a replica, was read-only, and has started writable",
                    plan.old_primary
                );
                self.start_policy_repair(view, plan, description);
            } else if let Some(plan) = self.plan_reopening(view) {
                let description = format!("{} has started read-only and is the primary", plan.old_primary);
                self.start_policy_repair(view, plan, description);
            } else if self.is_retry_due(view, RecoveryKind::BootReadOnly, RETRY_BOOT_READ_ONLY_MILLIS)
                && let Some(plan) = planner::plan_boot_read_only(&view.topology, &view.policy)
            {
                let description = format!("{} servers are configured to start writable", plan.instances.len());
                self.start_policy_repair(view, plan, description);
            }
        }
    }

    /// Whether a repair that a policy calls for may begin: no repair runs on the cluster, every instance was probed
    /// since this process started, and the last repair ended some time ago.
    pub(super) fn is_ready_for_policy_repair(&self, view: &ClusterView) -> bool {
        let now = self.context.clock.monotonic();
        let in_flight = self.in_flight();
        let is_retry_due = |ended| now.millis_since(ended) >= RETRY_MILLIS;
        in_flight.is_free(&view.cluster.id, true)
            && in_flight.last_ended(&view.cluster.id, true).is_none_or(is_retry_due)
            && is_fully_probed(view)
    }

    fn plan_reopening(&self, view: &ClusterView) -> Option<Plan> {
        if !self.is_retry_due(view, RecoveryKind::ReopenPrimary, RETRY_REOPEN_MILLIS) {
            return None;
        }
        let cluster = &view.cluster;
        let is_quarantined = self
            .views
            .state()
            .quarantines
            .values()
            .any(|quarantine| quarantine.cluster == cluster.id);
        let recorded = cluster.primary.as_ref()?;
        match planner::plan_reopen_primary(&view.topology, &view.policy) {
            Ok(plan) => plan.filter(|plan| !is_quarantined && plan.successor_identity == recorded.identity),
            Err(why) => {
                if self.is_report_due(&recorded.instance, "reopen", &why, 0) {
                    warn!(instance = %recorded.instance, "{} is the primary, started read-only and stays read-only: {why}", recorded.instance);
                }
                None
            }
        }
    }

    /// Whether no recovery of this kind has ended within the last `millis`.
    pub(super) fn is_retry_due(&self, view: &ClusterView, kind: RecoveryKind, millis: u64) -> bool {
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

    /// Starts a repair that a policy calls for, unless its last attempts failed and the next one is not due.
    pub(super) fn start_policy_repair(self: &Arc<Self>, view: &ClusterView, plan: Plan, description: String) {
        if self.waits_after_failures(&plan.cluster, plan.kind, &plan.old_primary) {
            return;
        }
        let Some(reservation) = self.admit_one(automatic_priority(view, plan.kind.gives_way())) else {
            return;
        };
        info!(instance = %plan.old_primary, "{description}");
        let finding = Finding {
            code: plan.code,
            instance: plan.old_primary.clone(),
            cluster: plan.cluster.clone(),
            description,
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
            if let Err(why) = this
                .claim_and_run(&view, finding, Vec::new(), plan, PlanReport::default())
                .await
            {
                warn!(instance = %old_primary, "failed to apply a policy on {old_primary}: {why}");
            }
            drop(reservation);
        });
    }
}

/// Whether every server of the cluster was probed at least once.
pub(super) fn is_fully_probed(view: &ClusterView) -> bool {
    let mut instances = view.topology.instances.values();
    instances.all(|instance| instance.last_checked.is_some())
}

/// Whether policies may change servers of the cluster. A recent failover does not prevent that; anything else that
/// holds recoveries back does.
pub(super) fn may_repair(view: &ClusterView) -> bool {
    let is_ours = planner::another_controller(&view.topology).is_none();
    is_ours && matches!(view.policy.held_back, None | Some(HeldBack::RecentRecovery { .. }))
}
