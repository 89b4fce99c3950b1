//! What a run does with a primary that answers: the terms of a takeover, and the last transactions of a primary that
//! an operator declared dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::key::InstanceKey;
use crate::domain::policy::{EventsPolicy, TakeoverTerms};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::progress::{self};
use crate::domain::recovery::step::Step;
use crate::domain::state::{Recovery, request};
use crate::domain::topology::Topology;

use crate::app::recovery::failpoint;
use crate::app::recovery::steps::{DemotedPrimary, StepEffect};

use super::{RecoveryRunner, is_semi_sync, same_effect_for_each};

/// How long replicas may take to receive the last transactions of a primary that answers and that an operator
/// declared dead. After that the loss policy decides.
const LAST_TRANSACTIONS_WAIT: Duration = Duration::from_secs(2);

/// How long the opening of a new primary waits until the Service no longer leads to the old one.
const WITHDRAWAL_DEADLINE: Duration = Duration::from_secs(2);

impl RecoveryRunner<'_> {
    pub(super) fn takeover_terms(&self, recovery: &Recovery) -> TakeoverTerms {
        self.views
            .cluster(&self.token.cluster)
            .map(|view| recovery.plan.terms(view.policy).takeover)
            .unwrap_or_default()
    }

    /// Whether events of the event scheduler follow the role of the primary.
    fn handles_events(&self) -> bool {
        let view = self.views.cluster(&self.token.cluster);
        view.is_some_and(|view| view.policy.events == EventsPolicy::Enable)
    }

    /// A line for the record where it is unknown which events were enabled on the old primary.
    pub(super) fn log_unknown_events(&mut self, recovery: &Recovery) {
        if recovery.plan.kind.replaces_primary() && recovery.plan.events.is_none() && self.handles_events() {
            self.log(format!(
                "the events of {} were not read: none is enabled on the new primary (grant EVENT, or set PromotedEvents: Leave)",
                recovery.plan.old_primary
            ));
        }
    }

    /// The next action of a takeover that its document has cancelled. Once the cancellation is committed, Open cannot
    /// be.
    pub(super) fn next_if_cancelled(&self, recovery: &Recovery) -> Option<NextAction> {
        request::is_cancelled(&self.views.state(), &recovery.plan)
            .then(|| progress::on_withdrawn(&recovery.plan, &recovery.phase))?
    }

    /// Stops the receivers. When the old primary answers and is fenced, its replicas may receive its last
    /// transactions before.
    pub(super) async fn stop_receivers_after_last_transactions(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let fenced = fresh
            .get(&recovery.plan.old_primary)
            .and_then(|instance| instance.valid_facts())
            .filter(|facts| !facts.is_writable());
        if let Some(facts) = fenced {
            let set = facts.executed.clone();
            match self
                .step_executor
                .wait_until_received(replicas, &set, LAST_TRANSACTIONS_WAIT)
                .await
            {
                Ok(received) => self.log(format!(
                    "{} of {} replicas have received all that {} has",
                    received.len(),
                    replicas.len(),
                    recovery.plan.old_primary
                )),
                Err(effect) => return same_effect_for_each(replicas, &effect),
            }
        }
        self.step_executor
            .stop_receivers(replicas)
            .await
            .unwrap_or_else(|effect| same_effect_for_each(replicas, &effect))
    }

    /// Makes the present primary read-only, by the terms of its cluster.
    pub(super) async fn demote(&mut self, recovery: &Recovery, old_primary: &InstanceKey) -> StepEffect {
        let terms = self.takeover_terms(recovery);
        let effect = self
            .step_executor
            .demote(old_primary, &recovery.plan.successor, terms, self.handles_events())
            .await;
        failpoint::reached("after-demote");
        effect
    }

    /// Waits until the successor has applied everything that the old primary has.
    pub(super) async fn wait_for_successor(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        successor: &InstanceKey,
    ) -> StepEffect {
        let set = fresh
            .get(&recovery.plan.old_primary)
            .and_then(|instance| instance.facts.as_ref())
            .map_or_else(|| recovery.plan.position.clone(), |facts| facts.executed.clone());
        let deadline = Duration::from_secs(self.takeover_terms(recovery).lag_seconds);
        let views = self.views;
        let is_cancelled = || request::is_cancelled(&views.state(), &recovery.plan);
        let effect = self
            .step_executor
            .catch_up(successor, &set, deadline, is_cancelled)
            .await;
        failpoint::reached("after-catch-up");
        effect
    }

    /// Opens the successor. A takeover first waits, once, until the Service no longer leads to the old primary.
    pub(super) async fn open(&mut self, recovery: &Recovery, fresh: &Topology, successor: &InstanceKey) -> StepEffect {
        let is_first = !self.done.iter().any(|result| matches!(result.step, Step::Open { .. }));
        if recovery.plan.kind == RecoveryKind::Takeover && is_first {
            self.wait_for_withdrawal().await;
        }
        let semi_sync = is_semi_sync(fresh, &recovery.plan.old_primary, successor);
        let terms = self
            .durability_terms(recovery, fresh, successor)
            .map(|(terms, _)| terms);
        let effect = self.step_executor.open(successor, semi_sync, terms).await;
        failpoint::reached("after-open-statement");
        effect
    }

    /// Waits until neither the Service of the primary nor a publisher leads to the old one. The old one is read-only, so a long
    /// outage is not worth it.
    async fn wait_for_withdrawal(&mut self) {
        let (context, cluster) = (self.context, &self.token.cluster);
        let (is_empty, leading) = tokio::join!(
            context.service_gate.wait_until_empty(cluster, WITHDRAWAL_DEADLINE),
            context
                .publication_gate
                .wait_until_withdrawn(cluster, WITHDRAWAL_DEADLINE),
        );
        let seconds = WITHDRAWAL_DEADLINE.as_secs();
        if !is_empty {
            self.log(format!(
                "the Service of the primary was not emptied within {seconds} s: it may still lead to the old primary"
            ));
        }
        if !leading.is_empty() {
            self.log(format!(
                "the old primary was not withdrawn within {seconds} s at {}: clients may still be led there",
                leading.join(", ")
            ));
        }
    }

    /// Points all replicas at the new primary, the old primary among them.
    pub(super) async fn repoint_all(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let order = recovery.plan.manual_request.as_ref();
        let demoted = DemotedPrimary {
            instance: &recovery.plan.old_primary,
            start: order.is_some_and(|order| order.starts_old_primary),
            semi_sync: is_semi_sync(fresh, &recovery.plan.old_primary, successor),
            position: &recovery.plan.position,
        };
        self.step_executor
            .repoint_with(successor, replicas, demoted)
            .await
            .unwrap_or_else(|effect| same_effect_for_each(replicas, &effect))
    }
}
