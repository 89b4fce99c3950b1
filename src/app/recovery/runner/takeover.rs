//! What a drive does for a primary that lives: the terms of a takeover, and the last words of one that a person declares dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::key::InstanceKey;
use crate::domain::policy::TakeoverTerms;
use crate::domain::recovery::plan::{RecoveryKind, Step};
use crate::domain::recovery::progress::{self, Next};
use crate::domain::state::{Recovery, request};
use crate::domain::topology::Topology;

use crate::app::recovery::failpoint;
use crate::app::recovery::steps::{Demoted, Effect};

use super::{RecoveryRunner, is_semi_sync, to_all};

/// How long the replicas of a primary that a person declares dead, and that answers, may take to get what it has. Beyond it the loss
/// policy decides.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the opening of a new primary waits for the Service to lead to the old one no longer (design §8).
const WITHDRAWAL: Duration = Duration::from_secs(2);

impl RecoveryRunner<'_> {
    pub(super) fn takeover_terms(&self, recovery: &Recovery) -> TakeoverTerms {
        self.views
            .cluster(&self.token.cluster)
            .map(|view| recovery.plan.terms(view.policy).takeover)
            .unwrap_or_default()
    }

    /// What comes next in a takeover whose document has taken it back. Once the cancellation is committed no Open entry can be.
    pub(super) fn taken_back(&self, recovery: &Recovery) -> Option<Next> {
        request::is_cancelled(&self.views.state(), &recovery.plan)
            .then(|| progress::on_taken_back(&recovery.plan, &recovery.phase))?
    }

    /// A primary that answers and is fenced has nothing more to say: before the replicas stop listening they may hear it out.
    pub(super) async fn stop_receivers_after_last_words(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, Effect> {
        let fenced = fresh
            .get(&recovery.plan.old_primary)
            .and_then(|instance| instance.valid_facts())
            .filter(|facts| !facts.is_writable());
        if let Some(facts) = fenced {
            let set = facts.executed.clone();
            match self.step_executor.await_received(replicas, &set, LAST_WORDS).await {
                Ok(received) => self.say(format!(
                    "{} of {} replicas have received all that {} has",
                    received.len(),
                    replicas.len(),
                    recovery.plan.old_primary
                )),
                Err(effect) => return to_all(replicas, &effect),
            }
        }
        self.step_executor
            .stop_receivers(replicas)
            .await
            .unwrap_or_else(|effect| to_all(replicas, &effect))
    }

    /// Makes the present primary read-only, on the terms of its cluster.
    pub(super) async fn demote(&mut self, recovery: &Recovery, old_primary: &InstanceKey) -> Effect {
        let terms = self.takeover_terms(recovery);
        let effect = self
            .step_executor
            .demote(old_primary, &recovery.plan.successor, terms)
            .await;
        failpoint::reached("after-demote");
        effect
    }

    /// Lets the one that takes over apply all that the old primary has.
    pub(super) async fn let_catch_up(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        successor: &InstanceKey,
    ) -> Effect {
        let set = fresh
            .get(&recovery.plan.old_primary)
            .and_then(|instance| instance.facts.as_ref())
            .map_or_else(|| recovery.plan.position.clone(), |facts| facts.executed.clone());
        let deadline = Duration::from_secs(self.takeover_terms(recovery).lag_seconds);
        let views = self.views;
        let taken_back = || request::is_cancelled(&views.state(), &recovery.plan);
        let effect = self.step_executor.catch_up(successor, &set, deadline, taken_back).await;
        failpoint::reached("after-catch-up");
        effect
    }

    /// Opens the successor; after a takeover not before the Service lets go of the old primary, which is waited for once.
    pub(super) async fn open(&mut self, recovery: &Recovery, fresh: &Topology, successor: &InstanceKey) -> Effect {
        let is_first = !self.done.iter().any(|result| matches!(result.step, Step::Open { .. }));
        if recovery.plan.kind == RecoveryKind::Takeover && is_first {
            self.await_withdrawal().await;
        }
        let semi_sync = is_semi_sync(fresh, &recovery.plan.old_primary, successor);
        let terms = self.durable(recovery, fresh, successor).map(|(terms, _)| terms);
        let effect = self.step_executor.open(successor, semi_sync, terms).await;
        failpoint::reached("after-open-statement");
        effect
    }

    /// Waits until the Service of the primary leads to the old one no longer. The old one is read-only, so it is not worth a long outage.
    async fn await_withdrawal(&mut self) {
        if !self
            .context
            .service_gate
            .to_nobody(&self.token.cluster, WITHDRAWAL)
            .await
        {
            self.say(format!(
                "the Service of the primary was not emptied within {} s: it may lead to the old one for a while",
                WITHDRAWAL.as_secs()
            ));
        }
    }

    /// Points everybody at the new primary, the old one among them.
    pub(super) async fn repoint_all(
        &mut self,
        recovery: &Recovery,
        fresh: &Topology,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
    ) -> BTreeMap<InstanceKey, Effect> {
        let order = recovery.plan.order.as_ref();
        let demoted = Demoted {
            instance: &recovery.plan.old_primary,
            start: order.is_some_and(|order| order.starts_old_primary),
            semi_sync: is_semi_sync(fresh, &recovery.plan.old_primary, successor),
            position: &recovery.plan.position,
        };
        self.step_executor
            .repoint_with(successor, replicas, demoted)
            .await
            .unwrap_or_else(|effect| to_all(replicas, &effect))
    }
}
