//! Replicas of a dead intermediate primary get another source, group by group. There is nothing to open and nothing to put back: a
//! replica that could not be moved is where it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::outcome::{Finish, Next, Outcome};
use crate::domain::recovery::plan::{Refusal, RefusalReason, Step};
use crate::domain::recovery::relocation::{another_source, obstacle};

use super::{Course, REPOINT_TRIES};

/// Where one replica stands.
enum Standing {
    /// It follows its new source.
    Moved,
    /// It is to be pointed there.
    Due(InstanceKey),
    /// It stays behind.
    Lost(RefusalReason),
}

impl Course<'_> {
    /// The next group to be moved, or the end.
    pub(super) fn relocate(&self, policy: &Policy) -> Next {
        let mut lost = self.plan.lost_replicas.clone();
        let mut moved = BTreeSet::new();
        let mut errors = Vec::new();
        let mut due: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> = BTreeMap::new();
        for step in &self.plan.steps {
            let Step::Repoint { successor, replicas } = step else {
                continue;
            };
            for replica in replicas {
                match self.standing(replica, successor, &moved, policy) {
                    Standing::Moved => {
                        moved.insert(replica.clone());
                    }
                    Standing::Due(source) => {
                        due.entry(source).or_default().insert(replica.clone());
                    }
                    Standing::Lost(reason) => {
                        errors.push(format!("{replica} was not moved: {reason}"));
                        lost.push(Refusal {
                            instance: replica.clone(),
                            reason,
                        });
                    }
                }
            }
            // One that takes the victim's place is moved before those that will follow it.
            if let Some((successor, replicas)) = due.pop_first() {
                return Next::Run(Step::Repoint { successor, replicas });
            }
        }
        let is_better_off = !moved.is_empty();
        Next::Finish(Finish {
            successful: is_better_off,
            successor: is_better_off.then(|| (self.plan.successor.clone(), self.plan.successor_identity.clone())),
            lost_replicas: lost,
            lost: None,
            errors,
        })
    }

    fn standing(
        &self,
        replica: &InstanceKey,
        planned: &InstanceKey,
        moved: &BTreeSet<InstanceKey>,
        policy: &Policy,
    ) -> Standing {
        if self.results_of(replica).any(|(_, outcome)| *outcome == Outcome::Done) || self.follows(replica, planned) {
            return Standing::Moved;
        }
        let Some(instance) = self.fresh.get(replica) else {
            return Standing::Lost(RefusalReason::Unreachable("it is gone".to_owned()));
        };
        let is_spent =
            |source: &InstanceKey| self.results_of(replica).filter(|(to, _)| *to == source).count() >= REPOINT_TRIES;
        // The planned source was to be moved itself and was not: below it nothing would be better.
        let is_adrift = self.is_planned_to_move(planned) && !moved.contains(planned);
        let against = match self.fresh.get(planned) {
            None => Some(RefusalReason::Unknown(format!("{planned} is gone"))),
            Some(_) if is_adrift => Some(RefusalReason::Unknown(format!("{planned} was not moved"))),
            Some(source) => obstacle(instance, source),
        };
        if against.is_none() && !is_spent(planned) {
            return Standing::Due(planned.clone());
        }
        let tried: BTreeSet<InstanceKey> = self
            .results_of(replica)
            .map(|(to, _)| to.clone())
            .filter(|to| is_spent(to))
            .collect();
        // One other source, then it is enough: this must stay short.
        let excluded: BTreeSet<InstanceKey> = tried.iter().cloned().chain([planned.clone()]).collect();
        let other = (tried.len() < 2 && instance.is_valid())
            .then(|| {
                another_source(
                    self.fresh,
                    &self.plan.victim,
                    self.plan.kind,
                    policy,
                    instance,
                    &excluded,
                )
            })
            .flatten();
        if let Some(other) = other {
            return Standing::Due(other);
        }
        let told = self.results_of(replica).last().map(|(_, outcome)| outcome.told());
        Standing::Lost(against.unwrap_or_else(|| RefusalReason::Unreachable(told.unwrap_or_default())))
    }

    /// What came of pointing a replica anywhere, in order.
    fn results_of<'a>(&'a self, replica: &'a InstanceKey) -> impl Iterator<Item = (&'a InstanceKey, &'a Outcome)> {
        self.done.iter().filter_map(move |result| {
            let Step::Repoint { successor, .. } = &result.step else {
                return None;
            };
            Some((successor, result.outcomes.get(replica)?))
        })
    }

    /// It is seen to follow that source with both threads on, as an earlier actor may have left it.
    fn follows(&self, replica: &InstanceKey, source: &InstanceKey) -> bool {
        let Some(instance) = self.fresh.get(replica) else {
            return false;
        };
        let runs = instance
            .valid_facts()
            .and_then(InstanceFacts::managed_channel)
            .is_some_and(|channel| channel.io != ThreadState::Stopped && channel.sql != ThreadState::Stopped);
        runs && self.fresh.source_of(instance) == Some(self.fresh.resolve(source))
    }

    fn is_planned_to_move(&self, key: &InstanceKey) -> bool {
        self.plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::Repoint { replicas, .. } if replicas.contains(key)))
    }
}
