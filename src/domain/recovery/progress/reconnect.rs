//! The test before everything else where replicas report that they receive: whether any of them can reach the old
//! primary again.
//!
//! It holds until the opening: a replica that is seen receiving later ends the recovery as well. A new actor repeats
//! the test, whatever the one before found: the result may have changed, and each part of the test may be repeated.

use crate::domain::analysis::evidence::is_receiving;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};

/// The state of the reconnect test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReconnectTestState {
    /// The plan has no such test.
    NotPlanned,
    /// This step is to be run.
    Due(Step),
    /// No replica reached it.
    Passed,
}

impl RecoveryState<'_> {
    /// Where the test stands. An error is the reason to put everything back.
    pub(super) fn partition(&self) -> Result<ReconnectTestState, String> {
        let is_test = |step: &Step| matches!(step, Step::ReconnectTest { .. });
        let Some(test) = self.plan.steps.iter().find(|step| is_test(step)) else {
            return Ok(ReconnectTestState::NotPlanned);
        };
        let Some(result) = self.done.iter().rev().find(|result| is_test(&result.step)) else {
            return Ok(ReconnectTestState::Due(test.clone()));
        };
        let tried = self.tried(result)?;
        // A replica whose receiver was stopped since can no longer receive, whatever was seen before.
        let receives = |key: &&InstanceKey| !self.is_stopped(key) && self.fresh.get(key).is_some_and(is_receiving);
        match tried.into_iter().find(receives) {
            Some(replica) => Err(reconnected(replica, &self.plan.old_primary)),
            None => Ok(ReconnectTestState::Passed),
        }
    }

    /// The replicas that tried in vain.
    fn tried<'a>(&self, result: &'a StepResult) -> Result<Vec<&'a InstanceKey>, String> {
        let old_primary = &self.plan.old_primary;
        let mut tried = Vec::new();
        for (key, outcome) in &result.outcomes {
            match outcome {
                Outcome::NoAnswer(_) if key == old_primary => {}
                Outcome::Done | Outcome::Failed(_) | Outcome::Unknown(_) if key == old_primary => {
                    return Err(format!("{old_primary} answers again: {}", outcome.detail()));
                }
                Outcome::Done => tried.push(key),
                // One that is not reached any more is left out of it, like one that was not reached before.
                Outcome::NoAnswer(_) => {}
                Outcome::Failed(why) | Outcome::Unknown(why) => {
                    return Err(format!("it is not proved that {old_primary} is gone: {why}"));
                }
            }
        }
        if tried.is_empty() {
            return Err(format!("no replica could try to reach {old_primary}"));
        }
        Ok(tried)
    }
}

fn reconnected(replica: &InstanceKey, old_primary: &InstanceKey) -> String {
    format!("reconnected: {replica} receives from {old_primary} again")
}
