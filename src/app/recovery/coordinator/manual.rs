//! Replacements of a primary that an operator ordered: takeovers, and forced failovers of primaries that the operator
//! declares dead. Filters, switches, blocks and downtimes do not apply; the safety rules do.

use std::sync::Arc;

use tracing::info;

use crate::app::recovery::admission::RecoveryPriority;
use crate::app::recovery::refresh;
use crate::domain::analysis::evidence::evidence;
use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::{Code, Finding};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner;
use crate::domain::topology::ClusterId;

use super::{ClusterReservation, RecoveryCoordinator};

impl RecoveryCoordinator {
    /// Replaces the primary of a cluster: by a takeover, or with [`ManualRequest::forced`] as if it were dead.
    /// Returns the id of the recovery when this member has stopped working on it. Another member may still have to
    /// finish it.
    ///
    /// # Errors
    /// Why the recovery did not begin. Nothing was changed then.
    pub async fn replace_primary(
        self: &Arc<Self>,
        cluster: &ClusterId,
        target: Option<&InstanceKey>,
        order: ManualRequest,
    ) -> Result<String, HeldBack> {
        let Some(reservation) = self.admit_one(RecoveryPriority::unlimited(cluster.clone(), false)) else {
            return Err(HeldBack::RecoveryRuns {
                uid: String::from("of this member"),
            });
        };
        let (this, target) = (Arc::clone(self), target.cloned());
        // A separate task: a recovery whose future is dropped would keep its cluster reserved.
        let task = self
            .tracker
            .spawn(async move { this.run_order(reservation, target, order).await });
        task.await
            .unwrap_or_else(|error| Err(HeldBack::Refused(error.to_string())))
    }

    async fn run_order(
        self: Arc<Self>,
        reservation: ClusterReservation,
        target: Option<InstanceKey>,
        order: ManualRequest,
    ) -> Result<String, HeldBack> {
        let view = self.refreshed_view(&reservation.cluster).await?;
        let (finding, plan, report) = self.plan_order(&view, target.as_ref(), order)?;
        let result = self.claim_and_run(&view, finding, Vec::new(), plan, report).await;
        drop(reservation);
        self.context.instance_cache.notify_changed();
        result
    }

    /// The plan for an order, and the finding that represents the order in the records.
    ///
    /// # Errors
    /// Why there is no plan.
    pub(super) fn plan_order(
        &self,
        view: &ClusterView,
        target: Option<&InstanceKey>,
        order: ManualRequest,
    ) -> Result<(Finding, Plan, PlanReport), HeldBack> {
        let (topology, policy) = (&view.topology, &order.terms(view.policy.clone()));
        let (plan, report) = if order.forced {
            planner::plan_forced_failover(topology, policy, target, order, self.context.clock.wall())
        } else {
            planner::plan_takeover(topology, policy, target, order)
        };
        let Some(plan) = plan else {
            return Err(HeldBack::Refused(
                report.no_plan.unwrap_or_else(|| String::from("no reason given")),
            ));
        };
        let command = plan.manual_request.as_ref().map_or("", |order| order.command.as_str());
        info!(
            "{command}: {} takes over from {} in cluster {}",
            plan.successor, plan.old_primary, view.cluster.name
        );
        let finding = Finding {
            code: Code::DeadMaster,
            instance: plan.old_primary.clone(),
            cluster: plan.cluster.clone(),
            description: format!("{command}: requested by an operator"),
            evidence: evidence(topology, policy, &plan.old_primary),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        Ok((finding, plan, report))
    }

    /// A view of a cluster from probes that begin now.
    pub(super) async fn refreshed_view(&self, cluster: &ClusterId) -> Result<ClusterView, HeldBack> {
        let gone = || HeldBack::Refused(String::from("the cluster is gone"));
        let known = self.views.cluster(cluster).ok_or_else(gone)?.topology;
        refresh::refresh(&self.context, &known.instances.into_keys().collect()).await;
        self.views.cluster(cluster).ok_or_else(gone)
    }
}
