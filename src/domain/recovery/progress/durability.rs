//! Keeping the durability policy: each step is complete in itself, nothing is put back.

use std::collections::BTreeSet;

use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::durability::SourceTerms;
use crate::domain::recovery::outcome::{Next, Outcome};
use crate::domain::recovery::plan::Step;

use super::RecoveryState;

/// How often a statement is tried on one server.
const TRIES: usize = 2;

impl RecoveryState<'_> {
    /// Switches replicas on, tells the primary how many to wait for, then switches the others off. The primary is never made to wait for
    /// more than acknowledge now, unless the policy is strict.
    pub(super) fn keep_durable(&self, policy: &Policy) -> Next {
        let mut errors = Vec::new();
        for step in &self.plan.steps {
            let next = if let Step::Acknowledge { replicas, on } = step {
                let is_it = |step: &Step| matches!(step, Step::Acknowledge { on: other, .. } if other == on);
                if !on && !errors.is_empty() {
                    // Who was to come in their place may be missing.
                    continue;
                }
                let replicas = self.untried(is_it, replicas, &mut errors);
                (!replicas.is_empty()).then_some(Step::Acknowledge { replicas, on: *on })
            } else if let Step::SetSemiSyncSource { servers, terms } = step {
                let wait_for = if !servers.contains(&self.plan.old_primary) || policy.durability.strict {
                    terms.wait_for
                } else {
                    terms.wait_for.min(self.will_acknowledge())
                };
                if wait_for == 0 && terms.wait_for > 0 {
                    errors.push(format!("nobody acknowledges commits of {}", self.plan.old_primary));
                    continue;
                }
                let is_it = |other: &Step| matches!(other, Step::SetSemiSyncSource { servers: others, .. } if !others.is_disjoint(servers));
                let servers = self.untried(is_it, servers, &mut errors);
                let terms = SourceTerms { wait_for };
                (!servers.is_empty()).then_some(Step::SetSemiSyncSource { servers, terms })
            } else {
                None
            };
            if let Some(step) = next {
                return Next::Run(step);
            }
        }
        Next::Finish(self.stays(errors.is_empty(), errors))
    }

    /// How many acknowledge now, without those that are to be switched off.
    fn will_acknowledge(&self) -> u32 {
        let leaves = |key: &InstanceKey| {
            self.plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::Acknowledge { replicas, on: false } if replicas.contains(key)))
        };
        let replicas = self.fresh.replicas_of(&self.plan.old_primary);
        let staying = replicas.filter(|replica| self.is_acknowledging(&replica.key) && !leaves(&replica.key));
        u32::try_from(staying.count()).unwrap_or(u32::MAX)
    }

    /// Of these, who is to be asked yet; what is to be said of those that could not do it.
    fn untried(
        &self,
        is_it: impl Fn(&Step) -> bool + Copy,
        keys: &BTreeSet<InstanceKey>,
        errors: &mut Vec<String>,
    ) -> BTreeSet<InstanceKey> {
        let mut left = BTreeSet::new();
        for key in keys {
            match self.last(is_it, key) {
                Some((_, Outcome::Done)) => {}
                Some((_, outcome)) if self.tries(is_it, key) >= TRIES => {
                    errors.push(format!("semi-sync of {key} could not be set: {}", outcome.told()));
                }
                _ => drop(left.insert(key.clone())),
            }
        }
        left
    }
}
