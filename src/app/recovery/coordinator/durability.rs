//! The durability policy: sees to it that primaries and replicas are set as it wants them.

use std::sync::Arc;

use tracing::warn;

use crate::app::cluster::view::ClusterView;
use crate::domain::recovery::plan::{RecoveryKind, Step};
use crate::domain::recovery::planner;

use super::RecoveryCoordinator;
use super::boot_read_only::{is_seen_whole, may_act};

/// What was set is looked at again after this, milliseconds: a server that refuses is not to fill the records, and each member has to
/// have seen what was done before it judges it. A primary that waits for nobody is not left waiting for longer.
const AGAIN_MILLIS: u64 = 10_000;

impl RecoveryCoordinator {
    /// Takes up what the policies call for. Returns at once; the work goes on in tasks.
    pub fn tend_durability(self: &Arc<Self>, views: &[ClusterView]) {
        for view in views.iter().filter(|view| view.policy.durability.is_kept()) {
            let is_rested = self.is_rested(view, RecoveryKind::Durability, AGAIN_MILLIS);
            // A locked primary of which nothing else comes is tried again and again meanwhile: that is no reason to wait.
            if !is_rested || !may_act(view) || !is_seen_whole(view) {
                continue;
            }
            match planner::plan_durability(&view.topology, &view.policy, self.context.clock.wall()) {
                Ok(Some(plan)) => {
                    let steps: Vec<String> = plan.steps.iter().map(Step::describe).collect();
                    let told = format!("the durability policy is not kept: {}", steps.join("; "));
                    self.tend(view, plan, told);
                }
                Ok(None) => {}
                Err(why) => {
                    let Some(primary) = &view.topology.recorded_primary else {
                        continue;
                    };
                    if self.news(primary, "durability", &why, 0) {
                        warn!(instance = %primary, "the durability policy cannot be kept: {why}");
                    }
                }
            }
        }
    }
}
