//! How servers start. A replica that was read-only and starts writable is made read-only again; with `bootReadOnly: Enforce` servers
//! start read-only, and a primary which has started so is opened again.

use std::sync::Arc;

use tracing::{info, warn};

use crate::app::cluster::view::ClusterPicture;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::policy::{BootReadOnly, HeldBack};
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind};
use crate::domain::recovery::planner;

use super::Recoverer;

/// After somebody worked on a cluster, milliseconds.
const TRY_AGAIN_MILLIS: u64 = 100;
/// An attempt to open the primary again is repeated after this, milliseconds.
const REOPEN_AGAIN_MILLIS: u64 = 30_000;
/// What a server is after its next start is looked at again after this, milliseconds: what it told before the change is a minute old
/// at most, and a server that refuses is not to fill the records.
const ENFORCE_AGAIN_MILLIS: u64 = 300_000;
/// A replica that could not be made read-only is tried again after this, milliseconds.
const HOLD_AGAIN_MILLIS: u64 = 5_000;

impl Recoverer {
    /// Takes up what the policies call for. Returns at once; the work goes on in tasks.
    pub fn tend_boots(self: &Arc<Self>, pictures: &[ClusterPicture]) {
        let wanting = |picture: &&ClusterPicture| picture.policy.boot_read_only != BootReadOnly::Off;
        for picture in pictures.iter().filter(wanting) {
            if !may_act(picture) || !self.is_at_rest(picture) {
                continue;
            }
            if let Some(plan) = planner::plan_hold(&picture.topology, &picture.policy) {
                if self.has_not_failed_lately(&plan) {
                    let told = format!("{} is a replica, was read-only, and has started writable", plan.victim);
                    self.tend(picture, plan, told);
                }
            } else if let Some(plan) = self.reopening(picture) {
                let told = format!("{} has started read-only and is the primary", plan.victim);
                self.tend(picture, plan, told);
            } else if self.is_rested(picture, RecoveryKind::BootReadOnly, ENFORCE_AGAIN_MILLIS)
                && let Some(plan) = planner::plan_boot_read_only(&picture.topology, &picture.policy)
            {
                let told = format!("{} of the servers boot writable", plan.instances.len());
                self.tend(picture, plan, told);
            }
        }
    }

    /// Nobody works on the cluster, every instance was looked at since this process started, and the last try is a little while ago.
    pub(super) fn is_at_rest(&self, picture: &ClusterPicture) -> bool {
        let now = self.shop.clock.mono();
        let desk = self.desk();
        let is_rested = |tried: &crate::domain::time::Mono| now.millis_since(*tried) >= TRY_AGAIN_MILLIS;
        desk.is_free(&picture.cluster.id, true)
            && desk.tried.get(&picture.cluster.id).is_none_or(is_rested)
            && is_seen_whole(picture)
    }

    fn reopening(&self, picture: &ClusterPicture) -> Option<Plan> {
        if !self.is_rested(picture, RecoveryKind::ReopenPrimary, REOPEN_AGAIN_MILLIS) {
            return None;
        }
        let cluster = &picture.cluster;
        let is_held = self
            .pictures
            .state()
            .quarantines
            .values()
            .any(|quarantine| quarantine.cluster == cluster.id);
        let recorded = cluster.primary.as_ref()?;
        match planner::plan_reopen(&picture.topology, &picture.policy) {
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
    pub(super) fn is_rested(&self, picture: &ClusterPicture, kind: RecoveryKind, millis: u64) -> bool {
        let now = self.shop.clock.wall();
        let ended = |recovery: &crate::domain::state::Recovery| {
            let is_of_it = recovery.plan.cluster == picture.cluster.id && recovery.plan.kind == kind;
            recovery.ended().filter(|_| is_of_it)
        };
        self.pictures
            .state()
            .recoveries
            .values()
            .filter_map(ended)
            .all(|ended| now.millis_since(ended) >= millis)
    }

    fn has_not_failed_lately(&self, plan: &Plan) -> bool {
        let now = self.shop.clock.wall();
        let state = self.pictures.state();
        let failed = state.recoveries.values().filter(|recovery| {
            let past = &recovery.plan;
            !recovery.is_successful() && (past.kind, &past.victim) == (plan.kind, &plan.victim)
        });
        failed
            .filter_map(crate::domain::state::Recovery::ended)
            .all(|ended| now.millis_since(ended) >= HOLD_AGAIN_MILLIS)
    }

    pub(super) fn tend(self: &Arc<Self>, picture: &ClusterPicture, plan: Plan, told: String) {
        let Some(busy) = self.occupy(&picture.cluster.id, true) else {
            return;
        };
        info!(instance = %plan.victim, "{told}");
        let finding = Finding {
            code: plan.code,
            instance: plan.victim.clone(),
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
        let (this, picture) = (Arc::clone(self), picture.clone());
        self.tracker.spawn(async move {
            let victim = plan.victim.clone();
            if let Err(why) = this
                .act(&picture, finding, Vec::new(), plan, PlanReport::default())
                .await
            {
                warn!(instance = %victim, "{victim}: what the policy wants was not done: {why}");
            }
            drop(busy);
        });
    }
}

/// Every server was looked at once at least.
pub(super) fn is_seen_whole(picture: &ClusterPicture) -> bool {
    let mut instances = picture.topology.instances.values();
    instances.all(|instance| instance.last_checked.is_some())
}

/// A recent failover is no reason to leave a primary closed, anything else that holds recoveries back is.
pub(super) fn may_act(picture: &ClusterPicture) -> bool {
    let is_ours = planner::another_controller(&picture.topology).is_none();
    is_ours && matches!(picture.policy.held_back, None | Some(HeldBack::RecentRecovery { .. }))
}
