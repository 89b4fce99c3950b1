//! Servers that are to start read-only, and a primary that has started so and is opened again.

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::planner::{check_reopen_primary, check_replica_read_only};
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

/// How often the opening is tried before the primary is left read-only for an operator to decide.
const OPEN_TRIES: usize = 3;

impl RecoveryState<'_> {
    /// One step on all servers; failures are reported, and the next recovery tries again.
    pub(super) fn boot_read_only(&self) -> NextAction {
        let Some(step) = self.plan.steps.first() else {
            return NextAction::Finish(over(Vec::new()));
        };
        let holds = matches!(step, Step::Fence { .. });
        let Some(result) = self.done.last() else {
            let obsolete = if holds { self.why_not_held() } else { None };
            return obsolete.map_or_else(
                || NextAction::Run(step.clone()),
                |reason| NextAction::Abort {
                    reason,
                    undo: Vec::new(),
                },
            );
        };
        let remains = if holds {
            "still takes writes"
        } else {
            "will still start writable"
        };
        let failed = result
            .outcomes
            .iter()
            .filter(|(_, outcome)| **outcome != Outcome::Done)
            .map(|(key, outcome)| format!("{key} {remains}: {}", outcome.detail()));
        NextAction::Finish(over(failed.collect()))
    }

    /// What changed since a replica was to be made read-only.
    fn why_not_held(&self) -> Option<String> {
        let replica = &self.plan.old_primary;
        let facts = self.fresh.get(replica).and_then(Instance::valid_facts);
        match facts {
            Some(facts) if facts.identity != self.plan.successor_identity => {
                Some(format!("another server answers at {replica} now: {}", facts.identity))
            }
            _ => check_replica_read_only(self.fresh, replica).err(),
        }
    }

    /// Before the Open entry: checks the primary on a session of its own, and compares it with the fresh view.
    pub(super) fn towards_reopening(&self) -> Result<NextAction, String> {
        let primary = &self.plan.successor;
        match self.last(|step| matches!(step, Step::CheckBoot { .. }), primary) {
            None => {
                return Ok(NextAction::Run(Step::CheckBoot {
                    primary: primary.clone(),
                }));
            }
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => return Err(format!("{primary} is not opened again: {}", outcome.detail())),
        }
        let facts = self.primary_facts(primary)?;
        if facts.is_writable() {
            return Ok(NextAction::Finish(over(Vec::new())));
        }
        check_reopen_primary(self.fresh, primary)?;
        let mut plan = self.plan.clone();
        plan.position.clone_from(&facts.executed);
        Ok(NextAction::CommitOpen {
            position: facts.executed.clone(),
            plan: Box::new(plan),
            successor: primary.clone(),
            // It is the old primary itself, and reported that it is read-only.
            fencing_proof: FencingProof::OldPrimaryReadOnly { bypass: None },
        })
    }

    /// After it: only forward. It stays the primary whatever happens.
    pub(super) fn reopen(&self) -> NextAction {
        let primary = &self.plan.successor;
        let is_open = |step: &Step| matches!(step, Step::Open { .. });
        match self.last(is_open, primary) {
            Some((_, Outcome::Done)) => NextAction::Finish(Finish {
                successor: Some((primary.clone(), self.plan.successor_identity.clone())),
                ..over(Vec::new())
            }),
            Some((_, outcome)) if self.tries(is_open, primary) >= OPEN_TRIES => {
                NextAction::Finish(over(vec![format!(
                    "{primary} was not made writable: {}",
                    outcome.detail()
                )]))
            }
            Some(_) | None => NextAction::Run(Step::Open {
                successor: primary.clone(),
            }),
        }
    }

    fn primary_facts(&self, primary: &InstanceKey) -> Result<&InstanceFacts, String> {
        let facts = self
            .fresh
            .get(primary)
            .and_then(Instance::valid_facts)
            .ok_or_else(|| format!("{primary} does not answer"))?;
        if facts.identity != self.plan.successor_identity {
            return Err(format!("another server answers at {primary} now: {}", facts.identity));
        }
        Ok(facts)
    }
}

/// The end of a recovery that replaces no primary.
fn over(errors: Vec<String>) -> Finish {
    Finish {
        successful: errors.is_empty(),
        successor: None,
        lost_replicas: Vec::new(),
        lost: None,
        errors,
    }
}
