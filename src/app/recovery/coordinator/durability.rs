//! The durability policy: sees to it that primaries and replicas are set as it wants them.

use std::sync::Arc;

use tracing::warn;

use crate::app::cluster::view::ClusterPicture;
use crate::domain::recovery::plan::{RecoveryKind, Step};
use crate::domain::recovery::planner;

use super::Recoverer;
use super::boot_read_only::{is_seen_whole, may_act};

/// What was set is looked at again after this, milliseconds: a server that refuses is not to fill the records, and each member has to
/// have seen what was done before it judges it. A primary that waits for nobody is not left waiting for longer.
const AGAIN_MILLIS: u64 = 10_000;

impl Recoverer {
    /// Takes up what the policies call for. Returns at once; the work goes on in tasks.
    pub fn tend_durability(self: &Arc<Self>, pictures: &[ClusterPicture]) {
        for picture in pictures.iter().filter(|picture| picture.policy.durability.is_kept()) {
            let is_rested = self.is_rested(picture, RecoveryKind::Durability, AGAIN_MILLIS);
            // A locked primary of which nothing else comes is tried again and again meanwhile: that is no reason to wait.
            if !is_rested || !may_act(picture) || !is_seen_whole(picture) {
                continue;
            }
            match planner::plan_durability(&picture.topology, &picture.policy, self.shop.clock.wall()) {
                Ok(Some(plan)) => {
                    let steps: Vec<String> = plan.steps.iter().map(Step::describe).collect();
                    let told = format!("the durability policy is not kept: {}", steps.join("; "));
                    self.tend(picture, plan, told);
                }
                Ok(None) => {}
                Err(why) => {
                    let Some(primary) = &picture.topology.recorded_primary else {
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
