//! Repairs of a primary that answers: its acknowledging replicas, and its being read-only. Each step is complete in itself, nothing is
//! put back.

use std::collections::BTreeSet;

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::acknowledging::{acknowledges, acknowledging, waited_for};
use crate::domain::recovery::outcome::{Finish, Next, Outcome};
use crate::domain::recovery::plan::Step;
use crate::domain::recovery::planner::check_non_writable;

use super::Course;

/// How often a statement is tried on one server.
const TRIES: usize = 2;

impl Course<'_> {
    /// Switches replicas on until as many acknowledge as are waited for, then those off that are too many.
    pub(super) fn switch_semi_sync(&self, policy: &Policy) -> Next {
        let mut errors = Vec::new();
        for step in &self.plan.steps {
            let Step::Acknowledge { replicas, on } = step else {
                continue;
            };
            let (pending, failed) = self.switched(replicas, *on);
            if !pending.is_empty() {
                return Next::Run(Step::Acknowledge {
                    replicas: pending,
                    on: *on,
                });
            }
            if failed.is_empty() {
                continue;
            }
            errors.extend(failed);
            if let Some(spare) = on.then(|| self.spare(policy)).flatten() {
                let (pending, failed) = self.switched(&spare, true);
                if !pending.is_empty() {
                    return Next::Run(Step::Acknowledge {
                        replicas: pending,
                        on: true,
                    });
                }
                errors.extend(failed);
            }
            // Nobody is switched off while it is not sure that enough others acknowledge.
            break;
        }
        let wanted = self.primary().and_then(|facts| waited_for(&facts.semi_sync));
        let is_enough = wanted.is_none_or(|wanted| self.count_acknowledging() >= wanted);
        if !is_enough {
            errors.push(format!(
                "{} still waits for more replicas than acknowledge",
                self.plan.victim
            ));
        }
        Next::Finish(self.stays(is_enough, errors))
    }

    /// Of these, who is still to be switched, and what is to be said of those that could not be.
    fn switched(&self, replicas: &BTreeSet<InstanceKey>, wanted: bool) -> (BTreeSet<InstanceKey>, Vec<String>) {
        let (mut pending, mut failed) = (BTreeSet::new(), Vec::new());
        let is_switch = |step: &Step| matches!(step, Step::Acknowledge { on, .. } if *on == wanted);
        for key in replicas {
            match self.last(is_switch, key) {
                Some((_, Outcome::Done)) => {}
                Some((_, outcome)) if self.tries(is_switch, key) >= TRIES => {
                    let word = if wanted { "on" } else { "off" };
                    failed.push(format!("{key}: semi-sync was not switched {word}: {}", outcome.told()));
                }
                _ => {
                    pending.insert(key.clone());
                }
            }
        }
        (pending, failed)
    }

    /// Another replica that was claimed, can acknowledge and was not asked or was asked with room for another try.
    fn spare(&self, policy: &Policy) -> Option<BTreeSet<InstanceKey>> {
        let is_on = |step: &Step| matches!(step, Step::Acknowledge { on: true, .. });
        let found = acknowledging(self.fresh, &self.plan.victim, policy);
        let key = found.ranked.into_iter().find(|key| {
            let is_free = !found.active.contains(key) && self.tries(is_on, key) < TRIES;
            let is_done = matches!(self.last(is_on, key), Some((_, Outcome::Done)));
            is_free && !is_done && self.plan.instances.contains(key)
        })?;
        Some(BTreeSet::from([key]))
    }

    fn primary(&self) -> Option<&InstanceFacts> {
        self.fresh.get(&self.plan.victim).and_then(Instance::valid_facts)
    }

    /// Switched on by this actor, or seen to acknowledge; without those it switched off.
    fn count_acknowledging(&self) -> usize {
        let is_switch = |step: &Step| matches!(step, Step::Acknowledge { .. });
        let is_on = |step: &Step| matches!(step, Step::Acknowledge { on: true, .. });
        let count =
            self.fresh
                .replicas_of(&self.plan.victim)
                .filter(|replica| match self.last(is_switch, &replica.key) {
                    Some((_, Outcome::Done)) => matches!(self.last(is_on, &replica.key), Some((_, Outcome::Done))),
                    _ => acknowledges(replica),
                });
        count.count()
    }

    /// Opens a read-only primary, when what called for it still holds.
    pub(super) fn make_writable(&self, policy: &Policy) -> Result<Next, String> {
        let primary = &self.plan.victim;
        let is_it = |step: &Step| matches!(step, Step::MakeWritable { .. });
        match self.last(is_it, primary) {
            Some((_, Outcome::Done)) => return Ok(Next::Finish(self.stays(true, Vec::new()))),
            Some((_, outcome)) if self.tries(is_it, primary) >= TRIES => {
                return Err(format!("{primary} could not be made writable: {}", outcome.told()));
            }
            _ => {}
        }
        let facts = check_non_writable(primary, self.fresh, policy)?;
        if facts.identity != self.plan.successor_identity {
            return Err(format!("another server stands at {primary}"));
        }
        if facts.is_writable() {
            return Ok(Next::Finish(self.stays(true, Vec::new())));
        }
        Ok(Next::Run(Step::MakeWritable {
            primary: primary.clone(),
        }))
    }

    /// The end of a repair after which the primary is the one that it was.
    fn stays(&self, successful: bool, errors: Vec<String>) -> Finish {
        let primary = (self.plan.successor.clone(), self.plan.successor_identity.clone());
        Finish {
            successful,
            successor: successful.then_some(primary),
            lost_replicas: Vec::new(),
            lost: None,
            errors,
        }
    }
}
