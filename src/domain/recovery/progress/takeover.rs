//! A living primary is replaced: demote, drain until both hold the same, open, repoint all others, the old primary too.
//!
//! Until the Open entry is committed the old primary is the primary: whatever goes wrong, it takes writes again. A
//! new actor that finds no Open entry does not continue what was requested from another member; it undoes it.

use crate::domain::analysis::read_only_bypass;
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::{NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::check_target;
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;
use crate::domain::state::Phase;

/// How often the target is waited for. Once is enough where read-only stops every client; on MariaDB an account with
/// SUPER may write for another moment.
const DRAIN_TRIES: usize = 5;

/// What a new actor does first, where that is not what the one before would have done next.
pub fn on_resume(plan: &Plan, phase: &Phase) -> Option<NextAction> {
    (plan.kind == RecoveryKind::Takeover && *phase == Phase::Claimed).then(|| {
        undo(
            plan,
            "the member that ran the takeover was lost before the new primary was opened".to_owned(),
        )
    })
}

/// What comes next in a takeover that was withdrawn before a server was opened.
pub fn on_withdrawn(plan: &Plan, phase: &Phase) -> Option<NextAction> {
    (plan.kind == RecoveryKind::Takeover && *phase == Phase::Claimed)
        .then(|| undo(plan, "it was cancelled before the new primary was opened".to_owned()))
}

/// The old primary takes writes again, if it did before; no other server was touched.
pub(super) fn undo(plan: &Plan, reason: String) -> NextAction {
    let reopens = plan.may_reopen().then(|| Undo::Reopen {
        old_primary: plan.old_primary.clone(),
    });
    NextAction::Abort {
        reason,
        undo: reopens.into_iter().collect(),
    }
}

impl RecoveryState<'_> {
    /// Before anything is promoted. An error is the reason to put everything back.
    pub(super) fn towards_takeover(&self, policy: &Policy) -> Result<NextAction, String> {
        let (old_primary, successor) = (&self.plan.old_primary, &self.plan.successor);
        match self.last(|step| matches!(step, Step::Demote { .. }), old_primary) {
            None => {
                return Ok(NextAction::Run(Step::Demote {
                    old_primary: old_primary.clone(),
                }));
            }
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => return Err(format!("{old_primary} was not made read-only: {}", outcome.detail())),
        }
        let old = self.facts_of(old_primary)?;
        if self.is_another(old) {
            return Err(format!("another server answers at {old_primary} now"));
        }
        if old.is_writable() {
            return Err(format!(
                "{old_primary} takes writes again: it restarted, or a client made it writable"
            ));
        }
        let target = self.facts_of(successor)?;
        if target.identity != self.plan.successor_identity {
            return Err(format!("another server answers at {successor} now"));
        }
        if let Some(instance) = self.fresh.get(successor) {
            check_target(self.fresh, old_primary, instance, policy)
                .map_err(|reason| format!("{successor} cannot take over any more: {reason}"))?;
        }
        let is_drain = |step: &Step| matches!(step, Step::Drain { .. });
        let drain = NextAction::Run(Step::Drain {
            successor: successor.clone(),
        });
        match self.last(is_drain, successor) {
            None => return Ok(drain),
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => {
                return Err(format!(
                    "{successor} did not apply all that {old_primary} has: {}",
                    outcome.detail()
                ));
            }
        }
        if !target.executed.covers(&old.executed) {
            if self.tries(is_drain, successor) < DRAIN_TRIES {
                return Ok(drain);
            }
            return Err(format!(
                "{old_primary} still takes writes although it is read-only: {successor} lacks {}",
                excerpt(&old.executed.missing_from(&target.executed))
            ));
        }
        if !old.executed.covers(&target.executed) {
            return Err(format!(
                "{successor} holds transactions that {old_primary} lacks: {}",
                excerpt(&target.executed.missing_from(&old.executed))
            ));
        }
        Ok(NextAction::CommitOpen {
            plan: Box::new(Plan {
                position: old.executed.clone(),
                ..self.plan.clone()
            }),
            successor: successor.clone(),
            position: old.executed.clone(),
            fencing_proof: FencingProof::OldPrimaryReadOnly {
                bypass: read_only_bypass(old),
            },
        })
    }

    /// After the Open entry. A new actor does not know what became of the old primary meanwhile, and makes sure first.
    pub(super) fn forward_takeover(&self, successor: &InstanceKey) -> NextAction {
        if self.done.is_empty() {
            return NextAction::Run(Step::Fence {
                old_primary: self.plan.old_primary.clone(),
            });
        }
        self.forward(successor)
    }

    fn facts_of(&self, key: &InstanceKey) -> Result<&InstanceFacts, String> {
        let instance = self
            .fresh
            .get(key)
            .ok_or_else(|| format!("{key} is no longer in the view"))?;
        instance.valid_facts().ok_or_else(|| {
            let why = instance.failure.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{key} no longer answers: {why}")
        })
    }
}

/// Whether the old primary of a takeover follows the new one, so that it is not quarantined.
pub fn old_primary_follows(plan: &Plan, successful: bool, lost: impl Fn(&InstanceKey) -> bool) -> bool {
    plan.kind == RecoveryKind::Takeover && successful && !lost(&plan.old_primary)
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
