//! A primary that is read-only is made writable. The step is complete in itself: nothing is undone.

use crate::domain::policy::Policy;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::planner::check_non_writable;
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

/// How often the statement is tried.
const TRIES: usize = 2;

impl RecoveryState<'_> {
    /// Makes a read-only primary writable, while what called for it still holds. An error is the reason to end the recovery.
    pub(super) fn make_writable(&self, policy: &Policy) -> Result<NextAction, String> {
        let primary = &self.plan.old_primary;
        let is_it = |step: &Step| matches!(step, Step::MakeWritable { .. });
        match self.last(is_it, primary) {
            Some((_, Outcome::Done)) => return Ok(NextAction::Finish(self.finish_unchanged(true, Vec::new()))),
            Some((_, outcome)) if self.tries(is_it, primary) >= TRIES => {
                return Err(format!("failed to make {primary} writable: {}", outcome.detail()));
            }
            _ => {}
        }
        let facts = check_non_writable(primary, self.fresh, policy)?;
        if facts.identity != self.plan.successor_identity {
            return Err(format!("another server answers at {primary}"));
        }
        if facts.is_writable() {
            return Ok(NextAction::Finish(self.finish_unchanged(true, Vec::new())));
        }
        Ok(NextAction::Run(Step::MakeWritable {
            primary: primary.clone(),
        }))
    }
}
