//! Makes servers replicas again that a recovery left behind, when they are back and hold no transactions of their
//! own. The policy and the kind of recovery are those of a returned primary. Runs on the leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::intent::{IntentDetails, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::policy::OldPrimary;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner;
use crate::domain::state;

use crate::app::recovery::admission::RecoveryPriority;
use crate::app::recovery::coordinator::{RecoveryCoordinator, automatic_priority};

impl RecoveryCoordinator {
    /// Starts to reattach lost replicas, one of each cluster at a time. Returns at once; tasks do the work.
    pub(super) fn reattach_lost_replicas(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let state = self.views().state();
        if state::lost_replicas(&state).next().is_none() {
            return;
        }
        for view in views
            .iter()
            .filter(|view| view.policy.old_primary == OldPrimary::Rejoin)
            .filter(|view| planner::another_controller(&view.topology).is_none())
        {
            let waiting = state::lost_replicas(&state).filter_map(|(key, _)| view.topology.get(key));
            for lost in waiting {
                let key = lost.key.clone();
                let is_quarantined = state.quarantines.values().any(|held| {
                    held.cluster == view.cluster.id
                        && lost.facts.as_ref().is_none_or(|facts| facts.identity == held.identity)
                });
                let is_wanted_so = state.intents.values().any(|intent| {
                    intent.origin != Origin::Recovery
                        && matches!(intent.details, IntentDetails::Downtime { .. })
                        && intent.details.is_active(self.context().clock.wall())
                        && view.topology.resolve(&intent.instance) == &key
                });
                if is_quarantined || is_wanted_so || !lost.is_valid() {
                    continue;
                }
                self.reattach(view, key);
            }
        }
    }

    fn reattach(self: &Arc<Self>, view: &ClusterView, key: InstanceKey) {
        let (plan, report) = planner::plan_reattach(&key, &view.topology, &view.policy);
        let Some(plan) = plan else {
            let why = report.no_plan.unwrap_or_else(|| String::from("no reason given"));
            if self.is_report_due(&key, "reattach", &why, 1000) {
                warn!(instance = %key, "cannot reattach {key}, which a recovery left behind: {why}");
            }
            return;
        };
        if self.waits_after_failures(&plan.cluster, plan.kind, &plan.old_primary) {
            return;
        }
        let Some(reservation) = self.admit_one(automatic_priority(view, plan.kind.gives_way())) else {
            return;
        };
        let finding = Finding {
            code: Code::LostReplicaReturned,
            instance: key.clone(),
            cluster: view.cluster.id.clone(),
            description: format!(
                "{key}, which a recovery left behind, returned and holds no transaction that the primary lacks"
            ),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: true,
            replicas_downtimed: false,
        };
        info!(instance = %key, "reattaching {key} to {}", plan.successor);
        let (this, view) = (Arc::clone(self), view.clone());
        self.spawn(async move {
            if let Err(why) = this.claim_and_run(&view, finding, Vec::new(), plan, report).await {
                warn!(instance = %key, "failed to reattach {key}: {why}");
            }
            drop(reservation);
        });
    }

    /// Runs a planned repair that an operator ordered, and waits for its end. Returns the id of the recovery.
    ///
    /// # Errors
    /// Why it was not claimed, or how it failed.
    pub(crate) async fn run_ordered_repair(
        self: &Arc<Self>,
        view: ClusterView,
        finding: Finding,
        plan: Plan,
        report: PlanReport,
    ) -> Result<String, String> {
        let priority = RecoveryPriority::unlimited(view.cluster.id.clone(), plan.kind.gives_way());
        let reservation = self
            .admit_one(priority)
            .ok_or_else(|| String::from("a recovery of the cluster is running"))?;
        let before: BTreeSet<String> = self.views().state().recoveries.keys().cloned().collect();
        let (old_primary, kind) = (plan.old_primary.clone(), plan.kind);
        let this = Arc::clone(self);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A separate task: the caller may disconnect meanwhile.
        self.spawn(async move {
            let result = this.claim_and_run(&view, finding, Vec::new(), plan, report).await;
            drop(reservation);
            // The caller may not wait any more.
            drop(sender.send(result));
        });
        match receiver.await {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return Err(why.to_string()),
            Err(_) => {
                return Err(String::from(
                    "the task of the recovery panicked or was cancelled: see the log",
                ));
            }
        }
        let state = self.views().state();
        let recovery = state
            .recoveries
            .values()
            .find(|recovery| {
                !before.contains(&recovery.uid)
                    && recovery.plan.old_primary == old_primary
                    && recovery.plan.kind == kind
            })
            .ok_or_else(|| String::from("no recovery was recorded"))?;
        if recovery.is_successful() {
            Ok(recovery.uid.clone())
        } else {
            Err(format!("recovery {}: {}", recovery.uid, recovery.errors.join("; ")))
        }
    }
}
