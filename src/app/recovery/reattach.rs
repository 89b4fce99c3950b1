//! Servers that a recovery left behind are made replicas again once they are back and hold nothing of their own, by the same policy
//! and the same kind of recovery as a returned primary. Runs on the leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::intent::{Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::policy::OldPrimary;
use crate::domain::recovery::lost;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner;
use crate::domain::state;

use crate::app::cluster::view::ClusterView;
use crate::app::recovery::coordinator::RecoveryCoordinator;

impl RecoveryCoordinator {
    /// Attaches lost replicas that can be attached, one of a cluster at a time. Returns at once; the work goes on in tasks.
    pub fn reattach(self: &Arc<Self>, views: &[ClusterView]) {
        let state = self.views().state();
        if state::lost(&state).next().is_none() {
            return;
        }
        for view in views
            .iter()
            .filter(|view| view.policy.old_primary == OldPrimary::Rejoin)
            .filter(|view| planner::another_controller(&view.topology).is_none())
        {
            let waiting = state::lost(&state).filter_map(|(key, _)| view.topology.get(key));
            for lost in waiting {
                let key = lost.key.clone();
                let is_quarantined = state.quarantines.values().any(|held| {
                    held.cluster == view.cluster.id
                        && lost.facts.as_ref().is_none_or(|facts| facts.identity == held.identity)
                });
                let is_wanted_so = state.intents.values().any(|intent| {
                    intent.origin != Origin::Recovery
                        && matches!(intent.wish, Wish::Downtime { .. })
                        && intent.wish.is_active(self.context().clock.wall())
                        && view.topology.resolve(&intent.instance) == &key
                });
                if is_quarantined || is_wanted_so || !lost.is_valid() || self.rests(&key) {
                    continue;
                }
                self.attach(view, key);
            }
        }
    }

    /// Whether a server is left alone for a while after failed attempts to attach it.
    pub(super) fn rests(&self, instance: &InstanceKey) -> bool {
        let now = self.context().clock.wall();
        lost::rests_until(&self.views().state(), instance).is_some_and(|until| now < until)
    }

    fn attach(self: &Arc<Self>, view: &ClusterView, key: InstanceKey) {
        let (plan, report) = planner::plan_reattach(&key, &view.topology, &view.policy);
        let Some(plan) = plan else {
            let why = report.no_plan.unwrap_or_else(|| String::from("no reason given"));
            if self.news(&key, "reattach", &why, 1000) {
                warn!(instance = %key, "{key} was left behind and is not attached again: {why}");
            }
            return;
        };
        let Some(busy) = self.occupy(&view.cluster.id, true) else {
            return;
        };
        let finding = Finding {
            code: Code::LostReplicaReturned,
            instance: key.clone(),
            cluster: view.cluster.id.clone(),
            description: format!(
                "{key}, which a recovery left behind, is back and holds nothing that the primary lacks"
            ),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: true,
            replicas_downtimed: false,
        };
        info!(instance = %key, "{key} is attached to {} again", plan.successor);
        let (this, view) = (Arc::clone(self), view.clone());
        self.spawn(async move {
            if let Err(why) = this.act(&view, finding, Vec::new(), plan, report).await {
                warn!(instance = %key, "{key} is not attached again: {why}");
            }
            drop(busy);
        });
    }

    /// Carries out a plan that a person asked for, and waits for its end. Returns the uid of its record.
    ///
    /// # Errors
    /// Why it was not claimed, or how it failed.
    pub(crate) async fn carry_out(
        self: &Arc<Self>,
        view: ClusterView,
        finding: Finding,
        plan: Plan,
        report: PlanReport,
    ) -> Result<String, String> {
        let busy = self
            .occupy(&view.cluster.id, true)
            .ok_or_else(|| String::from("a recovery of the cluster runs"))?;
        let before: BTreeSet<String> = self.views().state().recoveries.keys().cloned().collect();
        let (old_primary, kind) = (plan.old_primary.clone(), plan.kind);
        let this = Arc::clone(self);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A task of its own: whoever asked may go away half-way.
        self.spawn(async move {
            let result = this.act(&view, finding, Vec::new(), plan, report).await;
            drop(busy);
            // Nobody may be waiting any more.
            drop(sender.send(result));
        });
        match receiver.await {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return Err(why.to_string()),
            Err(_) => return Err(String::from("it ended badly: see the log")),
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
            .ok_or_else(|| String::from("nothing was recorded"))?;
        if recovery.is_successful() {
            Ok(recovery.uid.clone())
        } else {
            Err(format!("recovery {}: {}", recovery.uid, recovery.errors.join("; ")))
        }
    }
}
