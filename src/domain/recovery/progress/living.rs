//! Repairs of a primary that answers: its acknowledging replicas, and its being read-only. Each step is complete in itself, nothing is
//! put back.

use std::collections::BTreeSet;

use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::acknowledging::{acknowledges, acknowledging, waited_for};
use crate::domain::recovery::outcome::{Finish, Next, Outcome};
use crate::domain::recovery::plan::Step;
use crate::domain::recovery::planner::check_non_writable;

use super::RecoveryState;

/// How often a statement is tried on one server.
const TRIES: usize = 2;

impl RecoveryState<'_> {
    /// Switches replicas on until as many acknowledge as are waited for, then those off that are too many.
    pub(super) fn switch_semi_sync(&self, policy: &Policy) -> Next {
        let mut errors = Vec::new();
        for step in &self.plan.steps {
            if let Step::AcknowledgeReceived { replicas } = step {
                if let Some(step) = self.tell_what_was_received(replicas, &mut errors) {
                    return Next::Run(step);
                }
                continue;
            }
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
                self.plan.old_primary
            ));
        }
        // Elsewhere commits wait for a moment, as commits do.
        let is_free = self.plan.code != Code::LockedSemiSyncMaster || !self.is_stuck();
        if !is_free {
            errors.push(format!("commits on {} still wait", self.plan.old_primary));
        }
        Next::Finish(self.stays(is_enough && is_free, errors))
    }

    /// Commits wait, and none got through since the plan was made. One that does not answer is not known to be free.
    fn is_stuck(&self) -> bool {
        let has_moved = |facts: &InstanceFacts| facts.executed != self.plan.position;
        self.primary()
            .is_none_or(|facts| facts.semi_sync.wait_sessions > 0 && !has_moved(facts))
    }

    /// The next replicas to connect by position, while commits still wait: as many at a time as are waited for.
    fn tell_what_was_received(&self, replicas: &BTreeSet<InstanceKey>, errors: &mut Vec<String>) -> Option<Step> {
        let is_it = |step: &Step| matches!(step, Step::AcknowledgeReceived { .. });
        let mut left = BTreeSet::new();
        for key in replicas.iter().filter(|key| self.is_acknowledging(key)) {
            match self.last(is_it, key) {
                Some((_, Outcome::Done)) if self.tries(is_it, key) >= TRIES => {}
                Some((_, outcome)) if self.tries(is_it, key) >= TRIES => errors.push(format!(
                    "{key} could not acknowledge what it received before: {}",
                    outcome.told()
                )),
                // One that did it may have connected before it had read to the end.
                _ => drop(left.insert(key.clone())),
            }
        }
        if !self.is_stuck() || left.is_empty() {
            return None;
        }
        let wanted = self.primary().and_then(|facts| waited_for(&facts.semi_sync));
        // Who was asked comes last.
        let (again, fresh): (Vec<_>, Vec<_>) = left.into_iter().partition(|key| self.last(is_it, key).is_some());
        let replicas = fresh.into_iter().chain(again).take(wanted.unwrap_or(1)).collect();
        Some(Step::AcknowledgeReceived { replicas })
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
        let found = acknowledging(self.fresh, &self.plan.old_primary, policy);
        let key = found.ranked.into_iter().find(|key| {
            let is_free = !found.active.contains(key) && self.tries(is_on, key) < TRIES;
            let is_done = matches!(self.last(is_on, key), Some((_, Outcome::Done)));
            is_free && !is_done && self.plan.instances.contains(key)
        })?;
        Some(BTreeSet::from([key]))
    }

    fn primary(&self) -> Option<&InstanceFacts> {
        self.fresh.get(&self.plan.old_primary).and_then(Instance::valid_facts)
    }

    /// Switched on by this actor, or seen to acknowledge; without those it switched off.
    fn count_acknowledging(&self) -> usize {
        let replicas = self.fresh.replicas_of(&self.plan.old_primary);
        replicas.filter(|replica| self.is_acknowledging(&replica.key)).count()
    }

    pub(super) fn is_acknowledging(&self, key: &InstanceKey) -> bool {
        let is_switch = |step: &Step| matches!(step, Step::Acknowledge { .. });
        match self.last(is_switch, key) {
            Some((at, Outcome::Done)) => {
                let step = self.done.get(at).map(|result| &result.step);
                matches!(step, Some(Step::Acknowledge { on: true, .. }))
            }
            _ => self.fresh.get(key).is_some_and(acknowledges),
        }
    }

    /// Opens a read-only primary, when what called for it still holds.
    pub(super) fn make_writable(&self, policy: &Policy) -> Result<Next, String> {
        let primary = &self.plan.old_primary;
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
    pub(super) fn stays(&self, successful: bool, errors: Vec<String>) -> Finish {
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
