//! When the events of the old primary are enabled on the new one.

use crate::domain::key::InstanceKey;
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

impl RecoveryState<'_> {
    /// The step that enables them, once: after the replicas were pointed at the new primary for the first time, so that it
    /// delays neither writes nor replicas, and before a replica that failed is tried again.
    pub(super) fn events_due(&self, successor: &InstanceKey, all_follow: bool) -> Option<Step> {
        let events = &self.plan.events.as_ref()?.names;
        let is_repoint = |step: &Step| matches!(step, Step::Repoint { .. } | Step::RepointAt { .. });
        let were_pointed = all_follow || self.done.iter().any(|result| is_repoint(&result.step));
        (!events.is_empty() && were_pointed && self.events_outcome(successor).is_none()).then(|| Step::EnableEvents {
            successor: successor.clone(),
            events: events.clone(),
        })
    }

    /// Why events may still be disabled, for the record. The recovery succeeds all the same.
    pub(super) fn events_error(&self, successor: &InstanceKey) -> Option<String> {
        let outcome = self.events_outcome(successor)?;
        (*outcome != Outcome::Done).then(|| format!("not all events are enabled on {successor}: {}", outcome.detail()))
    }

    fn events_outcome(&self, successor: &InstanceKey) -> Option<&Outcome> {
        let is_events = |step: &Step| matches!(step, Step::EnableEvents { .. });
        self.last(is_events, successor).map(|(_, outcome)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::domain::fixture::{key, topology};
    use crate::domain::recovery::plan::Plan;
    use crate::domain::recovery::progress::recovery_state::Actor;
    use crate::domain::recovery::step_result::StepResult;
    use crate::domain::scheduled_events::{EnabledEvents, ScheduledEvent};
    use crate::domain::state::sample;

    fn planned() -> Plan {
        let events = EnabledEvents::of([ScheduledEvent {
            schema: "app".to_owned(),
            name: "tick".to_owned(),
        }]);
        Plan {
            events: Some(events),
            ..sample::plan(1, 1, 2, &[1, 2, 3])
        }
    }

    fn after(step: Step, of: u32, outcome: Outcome) -> StepResult {
        StepResult {
            step,
            outcomes: BTreeMap::from([(key(of), outcome)]),
        }
    }

    fn repointed(outcome: Outcome) -> StepResult {
        let step = Step::Repoint {
            successor: key(2),
            replicas: BTreeSet::from([key(3)]),
        };
        after(step, 3, outcome)
    }

    #[test]
    fn events_are_enabled_once_after_the_first_attempt_to_point_replicas_and_their_failure_is_an_error_of_the_record() {
        let (plan, fresh) = (planned(), topology([]));
        let due = |done: &[StepResult], all_follow: bool| {
            let state = RecoveryState {
                plan: &plan,
                done,
                fresh: &fresh,
                actor: Actor::First,
            };
            (state.events_due(&key(2), all_follow), state.events_error(&key(2)))
        };
        assert_eq!(due(&[], false), (None, None));
        let (step, error) = due(&[repointed(Outcome::NoAnswer("gone".to_owned()))], false);
        let step = step.expect("a replica that fails does not hold it up");
        assert_eq!((step.describe().contains("`app`.`tick`"), error), (true, None));
        assert_eq!(due(&[], true).0, Some(step.clone()));
        let done = [repointed(Outcome::Done), after(step.clone(), 2, Outcome::Done)];
        assert_eq!(due(&done, true), (None, None));
        let done = [after(step, 2, Outcome::Failed("access denied".to_owned()))];
        let (again, error) = due(&done, true);
        assert_eq!(again, None);
        assert!(error.unwrap().ends_with("access denied"));
    }
}
