//! Errant transactions are resolved by one step, which is done when the servers show it.

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

/// How often the step is tried.
const TRIES: usize = 3;

impl RecoveryState<'_> {
    /// The step may be repeated: GTIDs that are there are skipped, and a reset sets the same set again.
    pub(super) fn resolve_errant(&self) -> Result<NextAction, String> {
        let Some(step) = self.plan.steps.first() else {
            return Err("the plan has no step".to_owned());
        };
        let (key, identity) = if let Step::ResetGtids { instance, .. } = step {
            (instance, self.plan.old_primary_identity.as_ref())
        } else {
            (&self.plan.successor, Some(&self.plan.successor_identity))
        };
        let is_this = |other: &Step| std::mem::discriminant(other) == std::mem::discriminant(step);
        match self.last(is_this, key) {
            Some((_, Outcome::Done)) => {
                return Ok(NextAction::Finish(Finish {
                    successful: true,
                    successor: None,
                    lost_replicas: Vec::new(),
                    lost: None,
                    errors: Vec::new(),
                }));
            }
            Some((_, outcome)) if self.tries(is_this, key) >= TRIES => {
                return Err(format!("{}: {}", step.describe(), outcome.detail()));
            }
            Some(_) | None => {}
        }
        let facts = self
            .fresh
            .get(key)
            .and_then(Instance::valid_facts)
            .ok_or_else(|| format!("{key} does not answer"))?;
        if Some(&facts.identity) != identity {
            return Err(format!("another server answers at {key} now"));
        }
        check(step, key, facts)?;
        Ok(NextAction::Run(step.clone()))
    }
}

/// What must still hold immediately before the step.
fn check(step: &Step, key: &InstanceKey, facts: &InstanceFacts) -> Result<(), String> {
    let is_writable = facts.is_writable();
    if matches!(step, Step::InjectEmpty { .. }) && !is_writable {
        return Err(format!("{key} is read-only"));
    }
    if let Step::ResetGtids { keep, .. } = step {
        if is_writable {
            return Err(format!("{key} is writable"));
        }
        // An earlier try may have removed the GTIDs only: then the server reports that it has executed nothing.
        if !facts.executed.is_empty() && !facts.executed.contains(keep) {
            return Err(format!("{key} does not hold what it is to keep"));
        }
    }
    Ok(())
}
