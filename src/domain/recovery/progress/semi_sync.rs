//! The semi-sync settings of a primary that answers and of its replicas. Each step is complete in itself: nothing is undone.

use std::collections::BTreeSet;

use crate::domain::finding::Code;
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::progress::recovery_state::RecoveryState;
use crate::domain::recovery::semi_sync::{SourceTerms, acknowledgements_awaited, acknowledges, semi_sync_replicas};
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

/// How often a statement is tried on one server.
const TRIES: usize = 2;

impl RecoveryState<'_> {
    /// Switches replicas on, sets how many acknowledgements the primary waits for, then switches other replicas off.
    ///
    /// The primary is never made to wait for more replicas than acknowledge now, unless the policy is strict. No
    /// replica is switched off while it is not sure that enough others acknowledge.
    pub(super) fn reconcile_semi_sync(&self, policy: &Policy) -> NextAction {
        let mut errors = Vec::new();
        let mut is_short = false;
        for step in &self.plan.steps {
            let next = if let Step::Acknowledge { replicas, on } = step {
                if !on && is_short {
                    continue;
                }
                let (pending, failed) = self.switched(replicas, *on);
                if pending.is_empty() && !failed.is_empty() {
                    errors.extend(failed);
                    is_short = true;
                    on.then(|| self.spare(policy)).flatten()
                } else {
                    (!pending.is_empty()).then_some(Step::Acknowledge {
                        replicas: pending,
                        on: *on,
                    })
                }
            } else if let Step::AcknowledgeReceived { replicas } = step {
                if is_short {
                    continue;
                }
                self.acknowledge_received(replicas, &mut errors)
            } else if let Step::SetSemiSyncSource { servers, terms } = step {
                let before = errors.len();
                let next = self.set_source(servers, *terms, policy, &mut errors);
                is_short |= errors.len() > before;
                next
            } else {
                None
            };
            if let Some(step) = next {
                return NextAction::Run(step);
            }
        }
        NextAction::Finish(self.reconciled(errors))
    }

    /// The end: under a policy nothing may have failed; otherwise the primary must have as many replicas as it waits for.
    fn reconciled(&self, mut errors: Vec<String>) -> Finish {
        if self.plan.kind == RecoveryKind::Durability {
            return self.finish_unchanged(errors.is_empty(), errors);
        }
        let wanted = self.acknowledgement_count();
        let is_enough = wanted.is_none_or(|wanted| self.count_acknowledging() >= wanted);
        if !is_enough {
            errors.push(format!(
                "commits of {} still wait for more replicas than acknowledge",
                self.plan.old_primary
            ));
        }
        // Commits that wait briefly are normal; only a locked primary must be free of them.
        let is_free = self.plan.code != Code::LockedSemiSyncMaster || !self.is_stuck();
        if !is_free {
            errors.push(format!("commits on {} still wait", self.plan.old_primary));
        }
        self.finish_unchanged(is_enough && is_free, errors)
    }

    /// How many acknowledgements a commit of the primary waits for; `None` when it does not answer or waits for none.
    fn acknowledgement_count(&self) -> Option<usize> {
        self.primary()
            .and_then(|facts| acknowledgements_awaited(&facts.semi_sync))
    }

    /// Commits wait, and none completed since the plan was made. A primary that does not answer is not known to be free.
    fn is_stuck(&self) -> bool {
        let has_moved = |facts: &InstanceFacts| facts.executed != self.plan.position;
        self.primary()
            .is_none_or(|facts| facts.semi_sync.wait_sessions > 0 && !has_moved(facts))
    }

    /// The servers among these on which commits do not wait as they should yet. `errors` gets those on which that failed.
    fn set_source(
        &self,
        servers: &BTreeSet<InstanceKey>,
        terms: SourceTerms,
        policy: &Policy,
        errors: &mut Vec<String>,
    ) -> Option<Step> {
        let wait_for = if !servers.contains(&self.plan.old_primary) || policy.durability.strict {
            terms.wait_for
        } else {
            terms.wait_for.min(self.will_acknowledge())
        };
        if wait_for == 0 && terms.wait_for > 0 {
            errors.push(format!("no replica acknowledges commits of {}", self.plan.old_primary));
            return None;
        }
        let is_it = |other: &Step| matches!(other, Step::SetSemiSyncSource { servers: others, .. } if !others.is_disjoint(servers));
        let (servers, failed) = self.pending(is_it, servers);
        errors.extend(
            failed
                .into_iter()
                .map(|(key, why)| format!("failed to set semi-sync of {key}: {why}")),
        );
        let terms = SourceTerms { wait_for };
        (!servers.is_empty()).then_some(Step::SetSemiSyncSource { servers, terms })
    }

    /// The next replicas to connect by position, while commits still wait: as many at a time as are waited for.
    fn acknowledge_received(&self, replicas: &BTreeSet<InstanceKey>, errors: &mut Vec<String>) -> Option<Step> {
        let is_it = |step: &Step| matches!(step, Step::AcknowledgeReceived { .. });
        let mut left = BTreeSet::new();
        for key in replicas.iter().filter(|key| self.is_acknowledging(key)) {
            match self.last(is_it, key) {
                Some((_, Outcome::Done)) if self.tries(is_it, key) >= TRIES => {}
                Some((_, outcome)) if self.tries(is_it, key) >= TRIES => errors.push(format!(
                    "{key} failed to acknowledge what it received before: {}",
                    outcome.detail()
                )),
                // A replica that did it may have connected before it had received everything.
                _ => drop(left.insert(key.clone())),
            }
        }
        if !self.is_stuck() || left.is_empty() {
            return None;
        }
        // Replicas that tried before come last.
        let (again, fresh): (Vec<_>, Vec<_>) = left.into_iter().partition(|key| self.last(is_it, key).is_some());
        let at_once = self.acknowledgement_count().unwrap_or(1);
        let replicas = fresh.into_iter().chain(again).take(at_once).collect();
        Some(Step::AcknowledgeReceived { replicas })
    }

    /// Of these, the replicas that are still to be switched, and the errors about those that could not be.
    fn switched(&self, replicas: &BTreeSet<InstanceKey>, wanted: bool) -> (BTreeSet<InstanceKey>, Vec<String>) {
        let is_switch = |step: &Step| matches!(step, Step::Acknowledge { on, .. } if *on == wanted);
        let (pending, failed) = self.pending(is_switch, replicas);
        let word = if wanted { "on" } else { "off" };
        let errors = failed
            .into_iter()
            .map(|(key, why)| format!("failed to switch semi-sync {word} on {key}: {why}"));
        (pending, errors.collect())
    }

    /// Of these servers, those on which a step is still to be tried, and those on which it failed too often, with the
    /// last reason.
    fn pending(
        &self,
        is_it: impl Fn(&Step) -> bool + Copy,
        keys: &BTreeSet<InstanceKey>,
    ) -> (BTreeSet<InstanceKey>, Vec<(InstanceKey, String)>) {
        let (mut pending, mut failed) = (BTreeSet::new(), Vec::new());
        for key in keys {
            match self.last(is_it, key) {
                Some((_, Outcome::Done)) => {}
                Some((_, outcome)) if self.tries(is_it, key) >= TRIES => failed.push((key.clone(), outcome.detail())),
                _ => drop(pending.insert(key.clone())),
            }
        }
        (pending, failed)
    }

    /// Another replica that was claimed and can acknowledge, in place of one that could not be switched on. A policy
    /// names its replicas; there the next plan chooses another one.
    fn spare(&self, policy: &Policy) -> Option<Step> {
        if self.plan.kind == RecoveryKind::Durability {
            return None;
        }
        let is_on = |step: &Step| matches!(step, Step::Acknowledge { on: true, .. });
        let found = semi_sync_replicas(self.fresh, &self.plan.old_primary, policy);
        let key = found.ranked.into_iter().find(|key| {
            let is_free = !found.active.contains(key) && self.tries(is_on, key) < TRIES;
            let is_done = matches!(self.last(is_on, key), Some((_, Outcome::Done)));
            is_free && !is_done && self.plan.instances.contains(key)
        })?;
        Some(Step::Acknowledge {
            replicas: BTreeSet::from([key]),
            on: true,
        })
    }

    /// How many replicas are switched on by this actor, or seen to acknowledge, without those that it switched off.
    fn count_acknowledging(&self) -> usize {
        let replicas = self.fresh.replicas_of(&self.plan.old_primary);
        replicas.filter(|replica| self.is_acknowledging(&replica.key)).count()
    }

    /// How many replicas acknowledge now, without those that are to be switched off.
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

    fn is_acknowledging(&self, key: &InstanceKey) -> bool {
        let is_switch = |step: &Step| matches!(step, Step::Acknowledge { .. });
        match self.last(is_switch, key) {
            Some((at, Outcome::Done)) => {
                let step = self.done.get(at).map(|result| &result.step);
                matches!(step, Some(Step::Acknowledge { on: true, .. }))
            }
            _ => self.fresh.get(key).is_some_and(acknowledges),
        }
    }
}
