//! The one function that decides what comes next.

use crate::domain::instance::Instance;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::{NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::topology_for;
use crate::domain::recovery::progress::reconnect::ReconnectTestState;
use crate::domain::recovery::progress::recovery_state::{Actor, RecoveryState};
use crate::domain::recovery::progress::takeover;
use crate::domain::recovery::step_result::StepResult;
use crate::domain::state::Phase;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// Whether the old primary answers and makes the recovery needless: then [`next`] puts everything back. `fresh` has what
/// it answered.
pub fn is_back(plan: &Plan, done: &[StepResult], fresh: &Topology) -> bool {
    if plan.is_forced() {
        return false;
    }
    let fresh = &*topology_for(plan.code, fresh, &plan.old_primary);
    let recovery_state = RecoveryState {
        plan,
        done,
        fresh,
        actor: Actor::First,
    };
    match plan.kind {
        RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary => recovery_state.has_come_back(),
        RecoveryKind::DeadPrimaryByPosition => recovery_state.answers_by_position(),
        RecoveryKind::Rejoin
        | RecoveryKind::IntermediatePrimary
        | RecoveryKind::GroupMember
        | RecoveryKind::ResolveErrant
        | RecoveryKind::Takeover
        | RecoveryKind::SemiSync
        | RecoveryKind::NonWritablePrimary
        | RecoveryKind::MatchBelow
        | RecoveryKind::BootReadOnly
        | RecoveryKind::ReopenPrimary
        | RecoveryKind::Durability => false,
    }
}

/// [`next_of`], for the actor that claimed the recovery.
pub fn next(
    plan: &Plan,
    phase: &Phase,
    done: &[StepResult],
    fresh: &Topology,
    policy: &Policy,
    now: WallTime,
) -> NextAction {
    next_of(Actor::First, plan, phase, done, fresh, policy, now)
}

/// What comes next for an actor. `policy` and `now` serve the second choice; `now` is the executor's clock.
pub fn next_of(
    actor: Actor,
    plan: &Plan,
    phase: &Phase,
    done: &[StepResult],
    fresh: &Topology,
    policy: &Policy,
    now: WallTime,
) -> NextAction {
    let fresh = &*topology_for(plan.code, fresh, &plan.old_primary);
    let recovery_state = RecoveryState {
        plan,
        done,
        fresh,
        actor,
    };
    if *phase == Phase::Claimed {
        // Whatever the kind: a reconnect test comes before all other steps.
        match recovery_state.partition() {
            Ok(ReconnectTestState::NotPlanned | ReconnectTestState::Passed) => {}
            Ok(ReconnectTestState::Due(test)) => return NextAction::Run(test),
            Err(reason) => return recovery_state.abort(reason),
        }
    }
    match (plan.kind, phase) {
        (_, Phase::Ended { .. }) => NextAction::AlreadyEnded,
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
            recovery_state
                .towards_reopening()
                .unwrap_or_else(|reason| NextAction::Abort {
                    reason,
                    undo: Vec::new(),
                })
        }
        (RecoveryKind::SemiSync | RecoveryKind::Durability, Phase::Claimed | Phase::Opened { .. }) => {
            recovery_state.reconcile_semi_sync(policy)
        }
        (RecoveryKind::NonWritablePrimary, Phase::Claimed | Phase::Opened { .. }) => recovery_state
            .make_writable(policy)
            .unwrap_or_else(|reason| NextAction::Abort {
                reason,
                undo: Vec::new(),
            }),
        (RecoveryKind::ReopenPrimary, Phase::Opened { .. }) => recovery_state.reopen(),
        (RecoveryKind::MatchBelow, Phase::Claimed | Phase::Opened { .. }) => recovery_state.match_below(),
        (RecoveryKind::Rejoin, Phase::Claimed | Phase::Opened { .. }) => {
            recovery_state.rejoin().unwrap_or_else(|reason| NextAction::Abort {
                reason,
                undo: Vec::new(),
            })
        }
        (RecoveryKind::ResolveErrant, Phase::Claimed | Phase::Opened { .. }) => recovery_state
            .resolve_errant()
            .unwrap_or_else(|reason| NextAction::Abort {
                reason,
                undo: Vec::new(),
            }),
    }
}

/// What an abort restores where no step was run yet: hooks took time, and the old primary restarted meanwhile.
pub fn undo_of_restart(plan: &Plan, fresh: &Topology) -> Vec<Undo> {
    let recovery_state = RecoveryState {
        plan,
        done: &[],
        fresh,
        actor: Actor::First,
    };
    let is_closed = plan.kind.replaces_primary() && recovery_state.is_closed_since_planned();
    let reopens = is_closed.then(|| Undo::Reopen {
        old_primary: plan.old_primary.clone(),
    });
    reopens.into_iter().collect()
}

/// Whether an abort leaves the old primary to be opened when it answers again and is read-only: it took writes when the plan was made, an
/// actor before this one may have fenced it, and what became of it is not seen.
pub fn owes_opening(actor: Actor, plan: &Plan, fresh: &Topology) -> bool {
    let is_unseen = !fresh.get(&plan.old_primary).is_some_and(Instance::is_valid);
    let may_be_fenced = actor == Actor::Later && plan.kind.replaces_primary();
    may_be_fenced && is_unseen && plan.old_primary_state.is_some_and(|state| state.writable)
}
