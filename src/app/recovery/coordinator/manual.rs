//! What a person asks for: takeovers, and primaries that are declared dead. Filters, switches, blocks and downtimes do not count then;
//! the rules of safety do.

use std::sync::Arc;

use tracing::info;

use crate::app::cluster::view::ClusterView;
use crate::app::recovery::refresh;
use crate::domain::analysis::evidence::evidence;
use crate::domain::finding::{Code, Finding};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::plan::{Order, Plan, PlanReport};
use crate::domain::recovery::planner;
use crate::domain::topology::ClusterId;

use super::{Busy, RecoveryCoordinator};

impl RecoveryCoordinator {
    /// Replaces the primary of a cluster as ordered: by a takeover, or with [`Order::forced`] as if it were dead. Returns the id of the
    /// recovery when this member has done what it could; it may be that another one has to finish it.
    ///
    /// # Errors
    /// What keeps it from being begun. Nothing was touched then.
    pub async fn ordered(
        self: &Arc<Self>,
        cluster: &ClusterId,
        target: Option<&InstanceKey>,
        order: Order,
    ) -> Result<String, HeldBack> {
        let Some(busy) = self.occupy(cluster, false) else {
            return Err(HeldBack::RecoveryRuns {
                uid: String::from("of this member"),
            });
        };
        let (this, target) = (Arc::clone(self), target.cloned());
        // A task of its own: a recovery that is dropped half-way would keep its cluster for ever.
        let task = self.tracker.spawn(async move { this.obey(busy, target, order).await });
        task.await
            .unwrap_or_else(|error| Err(HeldBack::Refused(error.to_string())))
    }

    async fn obey(self: Arc<Self>, busy: Busy, target: Option<InstanceKey>, order: Order) -> Result<String, HeldBack> {
        let view = self.look_closely(&busy.cluster).await?;
        let (finding, plan, report) = self.plan_order(&view, target.as_ref(), order)?;
        let result = self.act(&view, finding, Vec::new(), plan, report).await;
        drop(busy);
        self.context.instance_cache.touch();
        result
    }

    /// The plan for an order on a view, with the finding that stands for it in the records.
    ///
    /// # Errors
    /// What speaks against it.
    pub(super) fn plan_order(
        &self,
        view: &ClusterView,
        target: Option<&InstanceKey>,
        order: Order,
    ) -> Result<(Finding, Plan, PlanReport), HeldBack> {
        let (topology, policy) = (&view.topology, &order.terms(view.policy.clone()));
        let (plan, report) = if order.forced {
            planner::plan_forced(topology, policy, target, order, self.context.clock.wall())
        } else {
            planner::plan_takeover(topology, policy, target, order)
        };
        let Some(plan) = plan else {
            return Err(HeldBack::Refused(
                report.no_plan.unwrap_or_else(|| String::from("no reason given")),
            ));
        };
        let command = plan.order.as_ref().map_or("", |order| order.command.as_str());
        info!(
            "{command}: {} takes over from {} in cluster {}",
            plan.successor, plan.old_primary, view.cluster.name
        );
        let finding = Finding {
            code: Code::DeadMaster,
            instance: plan.old_primary.clone(),
            cluster: plan.cluster.clone(),
            description: format!("{command}: asked for"),
            evidence: evidence(topology, policy, &plan.old_primary),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        Ok((finding, plan, report))
    }

    /// A view of a cluster from probes that begin now.
    pub(super) async fn look_closely(&self, cluster: &ClusterId) -> Result<ClusterView, HeldBack> {
        let gone = || HeldBack::Refused(String::from("the cluster is gone"));
        let known = self.views.cluster(cluster).ok_or_else(gone)?.topology;
        refresh::refresh(&self.context, &known.instances.into_keys().collect()).await;
        self.views.cluster(cluster).ok_or_else(gone)
    }
}
