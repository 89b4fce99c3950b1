//! The durability policy: keeps the semi-sync settings of primaries and replicas as the policy requires.

use std::sync::Arc;

use tracing::warn;

use crate::domain::cluster_view::ClusterView;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::planner;
use crate::domain::recovery::step::Step;

use super::RecoveryCoordinator;
use super::boot_read_only::{is_fully_probed, may_repair};

/// The pause between two repairs of the settings, milliseconds. A server that refuses must not fill the records, and
/// each member has to see the changes before it judges them. Commits that wait for missing replicas wait no longer
/// than this.
const RETRY_DURABILITY_MILLIS: u64 = 10_000;

impl RecoveryCoordinator {
    /// Starts the repairs that the durability policy calls for.
    pub(super) fn reconcile_durability(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        for view in views.iter().filter(|view| view.policy.durability.is_kept()) {
            let is_retry_due = self.is_retry_due(view, RecoveryKind::Durability, RETRY_DURABILITY_MILLIS);
            // While commits of a primary wait and no other repair helps, failed attempts repeat. They are no reason
            // to wait here.
            if !is_retry_due || !may_repair(view) || !is_fully_probed(view) {
                continue;
            }
            match planner::plan_durability(&view.topology, &view.policy, self.context.clock.wall()) {
                Ok(Some(plan)) => {
                    let steps: Vec<String> = plan.steps.iter().map(Step::describe).collect();
                    let description = format!("the settings differ from the durability policy: {}", steps.join("; "));
                    self.start_policy_repair(view, plan, description);
                }
                Ok(None) => {}
                Err(why) => {
                    let Some(primary) = &view.topology.recorded_primary else {
                        continue;
                    };
                    if self.is_report_due(primary, "durability", &why, 0) {
                        warn!(instance = %primary, "cannot apply the durability policy: {why}");
                    }
                }
            }
        }
    }
}
