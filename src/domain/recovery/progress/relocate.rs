//! Replicas of a dead intermediate primary get another source, group by group. There is nothing to open: a replica that could not be
//! moved is where it was, and one that was stopped for it goes on there.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{BinlogCoordinates, Channel, Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::outcome::{Finish, Next, Outcome};
use crate::domain::recovery::plan::{Place, Plan, Refusal, RefusalReason, Step};
use crate::domain::recovery::positioning::{PositioningMethod, positioning};
use crate::domain::recovery::relocation::another_source;
use crate::domain::topology::Topology;

use super::{REPOINT_TRIES, RecoveryState};

/// Where one replica stands.
enum Standing {
    /// It follows its new source.
    Moved,
    /// It is to be pointed there.
    Due(InstanceKey),
    /// It stays behind.
    Lost(RefusalReason),
}

impl RecoveryState<'_> {
    /// The next group to be moved, or the end.
    pub(super) fn relocate(&self, policy: &Policy) -> Next {
        let mut lost = self.plan.lost_replicas.clone();
        let mut moved = BTreeSet::new();
        let mut errors = Vec::new();
        let mut due: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> = BTreeMap::new();
        for step in &self.plan.steps {
            let Some((successor, replicas)) = step.points() else {
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
            // One that takes the old primary's place is moved before those that will follow it.
            if let Some((successor, replicas)) = due.pop_first() {
                return Next::Run(self.towards(successor, replicas, policy));
            }
        }
        let left: BTreeSet<InstanceKey> = lost
            .iter()
            .map(|refusal| &refusal.instance)
            .filter(|key| self.stop_receivers_outcome(key).is_some() && !self.was_stopped(key))
            .filter(|key| self.tries(|step| matches!(step, Step::GoOn { .. }), key) == 0)
            .cloned()
            .collect();
        if !left.is_empty() {
            return Next::Run(Step::GoOn { replicas: left });
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
        for halt in [
            |step: &Step| matches!(step, Step::StopReceivers { .. }),
            |step: &Step| matches!(step, Step::ApplyAll { .. }),
        ] {
            if let Some((_, outcome)) = self.last(halt, replica).filter(|(_, it)| **it != Outcome::Done) {
                return Standing::Lost(RefusalReason::ApplierFailed(outcome.told()));
            }
        }
        let is_spent = |source: &InstanceKey| {
            let has_no_place = self.place_below(replica, source).is_some_and(|place| place.is_err());
            has_no_place || self.results_of(replica).filter(|(to, _)| *to == source).count() >= REPOINT_TRIES
        };
        // The planned source was to be moved itself and was not: below it nothing would be better.
        let is_adrift = self.is_planned_to_move(planned) && !moved.contains(planned);
        let against = match self.fresh.get(planned) {
            None => Some(RefusalReason::Unknown(format!("{planned} is gone"))),
            Some(_) if is_adrift => Some(RefusalReason::Unknown(format!("{planned} was not moved"))),
            Some(source) => positioning(instance, source, policy).err(),
        };
        if against.is_none() && !is_spent(planned) {
            return Standing::Due(planned.clone());
        }
        let tried: BTreeSet<InstanceKey> = self.targets_of(replica).filter(|to| is_spent(to)).cloned().collect();
        // One other source, then it is enough: this must stay short.
        let excluded: BTreeSet<InstanceKey> = tried.iter().cloned().chain([planned.clone()]).collect();
        let other = (tried.len() < 2 && instance.is_valid())
            .then(|| {
                another_source(
                    self.fresh,
                    &self.plan.old_primary,
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
        let unplaced = self
            .targets_of(replica)
            .find_map(|to| self.place_below(replica, to)?.err());
        let told = self.results_of(replica).last().map(|(_, outcome)| outcome.told());
        Standing::Lost(match (against, unplaced) {
            (Some(reason), _) => reason,
            (None, Some(why)) => RefusalReason::Behind(why),
            (None, None) => RefusalReason::Unreachable(told.unwrap_or_default()),
        })
    }

    /// What is next for replicas that go to one source: by GTID at once; the others stop, apply what they have, and get a place.
    fn towards(&self, source: InstanceKey, replicas: BTreeSet<InstanceKey>, policy: &Policy) -> Step {
        let positioning_of = |key: &InstanceKey| {
            let pair = self.fresh.get(key).zip(self.fresh.get(&source));
            pair.and_then(|(replica, source)| positioning(replica, source, policy).ok())
        };
        let (placed, by_gtid): (BTreeSet<_>, BTreeSet<_>) = replicas
            .into_iter()
            .partition(|key| !matches!(positioning_of(key), None | Some(PositioningMethod::Gtid)));
        if !by_gtid.is_empty() {
            return Step::Repoint {
                successor: source,
                replicas: by_gtid,
            };
        }
        let without = |is_wanted: fn(&Step) -> bool| -> BTreeSet<InstanceKey> {
            let is_due = |key: &&InstanceKey| self.last(is_wanted, key).is_none();
            placed.iter().filter(is_due).cloned().collect()
        };
        let running = without(|step| matches!(step, Step::StopReceivers { .. }));
        if !running.is_empty() {
            return Step::StopReceivers { replicas: running };
        }
        let behind = without(|step| matches!(step, Step::ApplyAll { .. }));
        if !behind.is_empty() {
            return Step::ApplyAll { replicas: behind };
        }
        let (mut unknown, mut places) = (BTreeMap::new(), BTreeMap::new());
        for key in placed {
            let channel = self.fresh.get(&key).and_then(Instance::channel);
            if positioning_of(&key) == Some(PositioningMethod::GtidFromNowOn) {
                places.insert(key, None);
            } else if let Some(Ok(found)) = self.place_below(&key, &source) {
                places.insert(key, Some(found));
            } else {
                let after = channel.map(|channel| channel.exec.clone()).unwrap_or_default();
                unknown.insert(key, Place { after, found: None });
            }
        }
        if unknown.is_empty() {
            return Step::RepointAt {
                successor: source,
                replicas: places,
            };
        }
        Step::Match {
            successor: source,
            replicas: unknown,
        }
    }

    /// What the comparison of its logs with a source's came to; `None` before it was made.
    fn place_below(&self, replica: &InstanceKey, source: &InstanceKey) -> Option<Result<BinlogCoordinates, String>> {
        self.done.iter().rev().find_map(|result| {
            let Step::Match { successor, replicas } = &result.step else {
                return None;
            };
            let outcome = result.outcomes.get(replica).filter(|_| successor == source)?;
            let found = replicas.get(replica)?.found.clone();
            Some(found.ok_or_else(|| outcome.told()))
        })
    }

    /// The sources that were tried for a replica.
    fn targets_of<'a>(&'a self, replica: &'a InstanceKey) -> impl Iterator<Item = &'a InstanceKey> {
        self.done.iter().filter_map(move |result| {
            let compared = if let Step::Match { successor, .. } = &result.step {
                Some(successor)
            } else {
                None
            };
            let source = compared.or_else(|| Some(result.step.points()?.0))?;
            result.outcomes.contains_key(replica).then_some(source)
        })
    }

    /// What came of pointing a replica anywhere, in order.
    fn results_of<'a>(&'a self, replica: &'a InstanceKey) -> impl Iterator<Item = (&'a InstanceKey, &'a Outcome)> {
        self.done.iter().filter_map(move |result| {
            let (successor, _) = result.step.points()?;
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
        let mut moved = self.plan.steps.iter().filter_map(Step::points);
        moved.any(|(_, replicas)| replicas.contains(key))
    }
}

/// Of replicas that another repair may have stopped, those that stand still below somebody who is neither the old primary of this plan nor
/// its successor: nothing of this plan makes them go on.
pub fn still_stopped(plan: &Plan, owed: &BTreeSet<InstanceKey>, fresh: &Topology) -> BTreeSet<InstanceKey> {
    let stands_still = |instance: &Instance| {
        let stopped = |channel: &Channel| channel.io == ThreadState::Stopped || channel.sql == ThreadState::Stopped;
        instance
            .valid_facts()
            .and_then(InstanceFacts::managed_channel)
            .is_some_and(stopped)
    };
    let is_elsewhere = |instance: &Instance| {
        let source = fresh.source_of(instance);
        source.is_some_and(|source| *source != plan.old_primary && *source != plan.successor)
    };
    let instances = owed.iter().filter_map(|key| fresh.get(key));
    instances
        .filter(|instance| instance.key != plan.successor && is_elsewhere(instance) && stands_still(instance))
        .map(|instance| instance.key.clone())
        .collect()
}
