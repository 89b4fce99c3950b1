//! The one function that decides what comes next.

use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::topology_for;
use crate::domain::recovery::progress::reconnect::ReconnectTestState;
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::progress::takeover;
use crate::domain::recovery::step_result::StepResult;
use crate::domain::state::Phase;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// What comes next. `policy` and `now` serve the second choice; `now` is the executor's clock.
pub fn next(
    plan: &Plan,
    phase: &Phase,
    done: &[StepResult],
    fresh: &Topology,
    policy: &Policy,
    now: WallTime,
) -> NextAction {
    let fresh = &*topology_for(plan.code, fresh, &plan.old_primary);
    let recovery_state = RecoveryState { plan, done, fresh };
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
