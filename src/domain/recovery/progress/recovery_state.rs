//! What the functions of all kinds of recoveries share: the plan, what was done, what is seen, and how everything is
//! put back.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::analysis::other_writable_tops;
use crate::domain::instance::{Instance, InstanceFacts, is_same_process};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::next_action::{Finish, NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::moved;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::refusal::Refusal;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::topology::Topology;

/// How often a replica is pointed at the successor before it counts as lost.
pub(super) const REPOINT_TRIES: usize = 2;

/// What is known of a recovery that runs.
pub(super) struct RecoveryState<'a> {
    pub(super) plan: &'a Plan,
    pub(super) done: &'a [StepResult],
    pub(super) fresh: &'a Topology,
    pub(super) actor: Actor,
}

/// Which actor of a recovery asks what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The one that claimed it. Its results are all that was done.
    First,
    /// A later one. What the actors before it did is not among its results.
    Later,
}

impl RecoveryState<'_> {
    /// A new server got the address of the old primary: none of this cluster's.
    pub(super) fn is_another(&self, facts: &InstanceFacts) -> bool {
        self.plan
            .old_primary_identity
            .as_ref()
            .is_some_and(|identity| *identity != facts.identity)
    }

    pub(super) fn finish(
        &self,
        successful: bool,
        successor: &InstanceKey,
        lost_replicas: Vec<Refusal>,
        errors: Vec<String>,
    ) -> Finish {
        let successor = (successor.clone(), self.plan.successor_identity.clone());
        Finish {
            successful,
            successor: Some(successor),
            lost_replicas,
            lost: self.plan.lost.clone(),
            errors,
        }
    }

    /// The end of a repair after which the primary is the one that it was.
    pub(super) fn finish_unchanged(&self, successful: bool, errors: Vec<String>) -> Finish {
        let primary = (self.plan.successor.clone(), self.plan.successor_identity.clone());
        Finish {
            successful,
            successor: successful.then_some(primary),
            lost_replicas: Vec::new(),
            lost: None,
            errors,
        }
    }

    /// What is known of the old primary, while it answers.
    pub(super) fn primary(&self) -> Option<&InstanceFacts> {
        self.fresh.get(&self.plan.old_primary).and_then(Instance::valid_facts)
    }

    /// Undoes what this actor or the one before it may have done: the planned receivers count as stopped even where
    /// no result shows it.
    pub(super) fn abort(&self, reason: String) -> NextAction {
        let mut undo = Vec::new();
        let mut replicas = receivers_stopped_by(self.plan);
        for result in self.done {
            if let Step::StopReceivers {
                replicas: receivers_stopped,
            } = &result.step
            {
                replicas.extend(receivers_stopped.iter().cloned());
            }
        }
        replicas.remove(&self.plan.old_primary);
        let moved = self.moved();
        replicas.retain(|key| !moved.contains_key(key) && !self.was_stopped(key));
        if self.is_to_reopen() {
            undo.push(Undo::Reopen {
                old_primary: self.plan.old_primary.clone(),
            });
        }
        undo.extend(moved.into_iter().map(|(replica, source)| Undo::RepointBack {
            starts: !self.was_stopped(&replica),
            replica,
            source,
        }));
        undo.extend(self.delays_to_put_back());
        if !replicas.is_empty() {
            undo.push(Undo::StartReceivers { replicas });
        }
        NextAction::Abort { reason, undo }
    }

    /// Whether the old primary took writes before this recovery, and does not now because of it or of a restart.
    fn is_to_reopen(&self) -> bool {
        if !self.plan.may_reopen() {
            return false;
        }
        let fence = self
            .done
            .iter()
            .filter(|result| matches!(result.step, Step::Fence { .. }));
        let may_be_fenced = fence
            .flat_map(|result| result.outcomes.values())
            .any(|outcome| match outcome {
                Outcome::Done | Outcome::Unknown(_) => true,
                Outcome::NoAnswer(_) | Outcome::Failed(_) => false,
            });
        may_be_fenced || self.is_closed_since_planned()
    }

    /// The old primary was writable when the plan was made and is read-only now, without a fence of this actor: an actor before it fenced
    /// it, or it restarted and its configuration says so. A primary that an operator made read-only meanwhile is the same process, and no
    /// earlier actor may have touched it.
    pub(super) fn is_closed_since_planned(&self) -> bool {
        let (Some(before), Some(facts)) = (self.plan.old_primary_state, self.primary()) else {
            return false;
        };
        let has_restarted = facts.started.is_some() && !is_same_process(before.started, facts.started);
        before.writable
            && !facts.is_writable()
            && !self.is_another(facts)
            && (self.actor == Actor::Later || has_restarted)
            && other_writable_tops(self.fresh, &self.plan.old_primary).is_empty()
            && self.lacks_nothing(facts)
    }

    /// The old primary holds everything that its replicas received. Log positions do not show that.
    fn lacks_nothing(&self, facts: &InstanceFacts) -> bool {
        let received_transactions = ReceivedTransactions::below(self.fresh, &self.plan.old_primary);
        let mut replicas = self.plan.instances.iter();
        replicas.all(|key| {
            received_transactions
                .get(key)
                .is_none_or(|holding| facts.executed.covers(&holding.position))
        })
    }

    /// Its receiver thread was stopped before the recovery.
    pub(super) fn was_stopped(&self, key: &InstanceKey) -> bool {
        self.plan
            .prior_states
            .get(key)
            .is_some_and(|prior_state| prior_state.stopped)
    }

    /// Those that were pointed at another claimed server, by this actor or the one before it, with the source that
    /// they had. One that does not answer counts when this actor had it catch up.
    pub(super) fn moved(&self) -> BTreeMap<InstanceKey, InstanceKey> {
        let mut moved = moved(self.plan, self.fresh);
        for result in self.done {
            if let Step::CatchUp { successor, .. } = &result.step
                && let Some(source) = self.plan.sources.get(successor)
                && !self.fresh.get(successor).is_some_and(Instance::is_valid)
            {
                moved.insert(successor.clone(), source.clone());
            }
        }
        moved
    }

    /// The latest outcome on one server of the steps of one kind, with its index among the results.
    pub(super) fn last(&self, is_wanted: impl Fn(&Step) -> bool, key: &InstanceKey) -> Option<(usize, &Outcome)> {
        let mut results = self
            .done
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, result)| is_wanted(&result.step));
        results.find_map(|(index, result)| Some((index, result.outcomes.get(key)?)))
    }

    pub(super) fn tries(&self, is_wanted: impl Fn(&Step) -> bool, key: &InstanceKey) -> usize {
        self.done
            .iter()
            .filter(|result| is_wanted(&result.step) && result.outcomes.contains_key(key))
            .count()
    }
}

pub(super) fn receivers_stopped_by(plan: &Plan) -> BTreeSet<InstanceKey> {
    plan.steps
        .iter()
        .filter_map(|step| {
            if let Step::StopReceivers { replicas } = step {
                Some(replicas)
            } else {
                None
            }
        })
        .flatten()
        .cloned()
        .collect()
}
