//! What comes next in a recovery: a pure function of the plan, the committed phase, what this actor has done, and a fresh view.
//!
//! The executor loops: [`next`] → effect → [`StepResult`] → [`next`]. It decides nothing, so a recovery reads here from top to bottom.
//!
//! # Resuming
//! A new actor starts with no results. In [`Phase::Claimed`] nothing is promoted: it fences, freezes and chooses anew (each of these
//! may be repeated), or puts everything back. In [`Phase::Opened`] the successor may be writable: it only goes forward, and opens the
//! same successor again.
//!
//! # Results
//! One [`StepResult`] per step that was run, in order, none left out; a step over several servers has one outcome for each.
//! The view must be taken after the last result, of all the plan's instances.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::state::Phase;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

mod boot_read_only;
mod by_position;
mod dead_primary;
mod delays;
mod durability;
mod errant;
mod living;
mod match_below;
mod reconnect;
mod rejoin;
mod relocate;
mod takeover;

pub use super::outcome::{Finish, Next, Outcome, StepResult, Undo};
use super::plan::{Plan, RecoveryKind, Refusal, Step};
use super::planner::{moved, view};
pub use delays::lifted_delays;
use reconnect::Silence;
pub use relocate::still_stopped;
pub use takeover::{follows_on, on_resume, on_taken_back};

/// How often a replica is pointed at the successor before it counts as lost.
const REPOINT_TRIES: usize = 2;

/// What comes next. `policy` and `now` serve the second choice; `now` is the executor's clock.
pub fn next(plan: &Plan, phase: &Phase, done: &[StepResult], fresh: &Topology, policy: &Policy, now: WallTime) -> Next {
    let fresh = &*view(plan.code, fresh, &plan.old_primary);
    let recovery_state = RecoveryState { plan, done, fresh };
    if *phase == Phase::Claimed {
        // Whatever the kind: where a test is asked for, nothing comes before it.
        match recovery_state.silence() {
            Ok(Silence::NotAsked | Silence::Proven) => {}
            Ok(Silence::Test(test)) => return Next::Run(test),
            Err(reason) => return recovery_state.abort(reason),
        }
    }
    match (plan.kind, phase) {
        (_, Phase::Ended { .. }) => Next::Over,
        (RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary, Phase::Claimed) => recovery_state
            .towards_opening(policy, now)
            .unwrap_or_else(|reason| recovery_state.abort(reason)),
        (RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary, Phase::Opened { successor, .. }) => {
            recovery_state.forward(successor)
        }
        (RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember, Phase::Claimed | Phase::Opened { .. }) => {
            recovery_state.relocate(policy)
        }
        (RecoveryKind::DeadPrimaryByPosition, Phase::Claimed) => recovery_state
            .towards_opening_by_position(policy, now)
            .unwrap_or_else(|reason| recovery_state.abort(reason)),
        (RecoveryKind::DeadPrimaryByPosition, Phase::Opened { successor, .. }) => {
            recovery_state.forward_by_position(successor)
        }
        (RecoveryKind::Takeover, Phase::Claimed) => recovery_state
            .towards_takeover(policy)
            .unwrap_or_else(|reason| takeover::undo(plan, reason)),
        (RecoveryKind::Takeover, Phase::Opened { successor, .. }) => recovery_state.forward_takeover(successor),
        (RecoveryKind::BootReadOnly, Phase::Claimed | Phase::Opened { .. }) => recovery_state.boot_read_only(),
        (RecoveryKind::ReopenPrimary, Phase::Claimed) => {
            recovery_state.towards_reopening().unwrap_or_else(|reason| Next::Abort {
                reason,
                undo: Vec::new(),
            })
        }
        (RecoveryKind::Durability, Phase::Claimed | Phase::Opened { .. }) => recovery_state.keep_durable(policy),
        (RecoveryKind::SemiSync, Phase::Claimed | Phase::Opened { .. }) => recovery_state.switch_semi_sync(policy),
        (RecoveryKind::NonWritablePrimary, Phase::Claimed | Phase::Opened { .. }) => recovery_state
            .make_writable(policy)
            .unwrap_or_else(|reason| Next::Abort {
                reason,
                undo: Vec::new(),
            }),
        (RecoveryKind::ReopenPrimary, Phase::Opened { .. }) => recovery_state.reopen(),
        (RecoveryKind::MatchBelow, Phase::Claimed | Phase::Opened { .. }) => recovery_state.put_below(),
        (RecoveryKind::Rejoin, Phase::Claimed | Phase::Opened { .. }) => {
            recovery_state.rejoin().unwrap_or_else(|reason| Next::Abort {
                reason,
                undo: Vec::new(),
            })
        }
        (RecoveryKind::ResolveErrant, Phase::Claimed | Phase::Opened { .. }) => {
            recovery_state.resolve_errant().unwrap_or_else(|reason| Next::Abort {
                reason,
                undo: Vec::new(),
            })
        }
    }
}

struct RecoveryState<'a> {
    plan: &'a Plan,
    done: &'a [StepResult],
    fresh: &'a Topology,
}

impl RecoveryState<'_> {
    /// A new server got the address of the old primary: none of this cluster's.
    fn is_another(&self, facts: &InstanceFacts) -> bool {
        self.plan
            .old_primary_identity
            .as_ref()
            .is_some_and(|identity| *identity != facts.identity)
    }

    fn finish(
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

    /// Puts back what this actor or the one before it may have done: the planned freeze counts as done even where no result says so.
    fn abort(&self, reason: String) -> Next {
        let mut undo = Vec::new();
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
        if may_be_fenced {
            undo.push(Undo::Reopen {
                old_primary: self.plan.old_primary.clone(),
            });
        }
        undo.extend(moved.into_iter().map(|(replica, source)| Undo::PointBack {
            starts: !self.was_stopped(&replica),
            replica,
            source,
        }));
        undo.extend(self.delays_to_put_back());
        if !replicas.is_empty() {
            undo.push(Undo::StartReceiving { replicas });
        }
        Next::Abort { reason, undo }
    }

    /// Somebody had stopped its receiving thread before the recovery.
    fn was_stopped(&self, key: &InstanceKey) -> bool {
        self.plan
            .prior_states
            .get(key)
            .is_some_and(|prior_state| prior_state.stopped)
    }

    /// Those that were pointed at another claimed server, by this actor or the one before it, with the source that they had. One that
    /// does not answer counts when this actor fed it.
    fn moved(&self) -> BTreeMap<InstanceKey, InstanceKey> {
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

    /// The latest outcome on one server of the steps of one kind, with its place among the results.
    fn last(&self, is_wanted: impl Fn(&Step) -> bool, key: &InstanceKey) -> Option<(usize, &Outcome)> {
        let mut results = self
            .done
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, result)| is_wanted(&result.step));
        results.find_map(|(index, result)| Some((index, result.outcomes.get(key)?)))
    }

    fn tries(&self, is_wanted: impl Fn(&Step) -> bool, key: &InstanceKey) -> usize {
        self.done
            .iter()
            .filter(|result| is_wanted(&result.step) && result.outcomes.contains_key(key))
            .count()
    }
}

fn receivers_stopped_by(plan: &Plan) -> BTreeSet<InstanceKey> {
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

#[cfg(test)]
mod tests;
