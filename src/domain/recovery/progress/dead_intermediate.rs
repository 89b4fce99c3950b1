//! Replicas of a dead intermediate primary get another source, group by group. There is nothing to open: a replica
//! that could not be moved keeps its source, and one that was stopped for it is started there.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{BinlogCoordinates, Channel, Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::new_sources::another_source;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::positioning::{PositioningMethod, positioning};
use crate::domain::recovery::progress::recovery_state::{REPOINT_TRIES, RecoveryState};
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::step::{EquivalentPosition, Step};
use crate::domain::recovery::step_result::Outcome;
use crate::domain::topology::Topology;

/// Where one replica stands.
enum MoveState {
    /// It follows its new source.
    Moved,
    /// It is to be pointed there.
    Due(InstanceKey),
    /// It stays behind.
    Lost(RefusalReason),
}

impl RecoveryState<'_> {
    /// The next group to be moved, or the end.
    pub(super) fn relocate(&self, policy: &Policy) -> NextAction {
        let mut lost = self.plan.lost_replicas.clone();
        let mut moved = BTreeSet::new();
        let mut errors = Vec::new();
        let mut due: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> = BTreeMap::new();
        for step in &self.plan.steps {
            let Some((successor, replicas)) = step.new_source() else {
                continue;
            };
            for replica in replicas {
                match self.move_state(replica, successor, &moved, policy) {
                    MoveState::Moved => {
                        moved.insert(replica.clone());
                    }
                    MoveState::Due(source) => {
                        due.entry(source).or_default().insert(replica.clone());
                    }
                    MoveState::Lost(reason) => {
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
                return NextAction::Run(self.step_towards(successor, replicas, policy));
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
            return NextAction::Run(Step::GoOn { replicas: left });
        }
        let is_better_off = !moved.is_empty();
        NextAction::Finish(Finish {
            successful: is_better_off,
            successor: is_better_off.then(|| (self.plan.successor.clone(), self.plan.successor_identity.clone())),
            lost_replicas: lost,
            lost: None,
            errors,
        })
    }

    fn move_state(
        &self,
        replica: &InstanceKey,
        planned: &InstanceKey,
        moved: &BTreeSet<InstanceKey>,
        policy: &Policy,
    ) -> MoveState {
        if self.results_of(replica).any(|(_, outcome)| *outcome == Outcome::Done) || self.follows(replica, planned) {
            return MoveState::Moved;
        }
        let Some(instance) = self.fresh.get(replica) else {
            return MoveState::Lost(RefusalReason::Unreachable("it is no longer in the view".to_owned()));
        };
        for halt in [
            |step: &Step| matches!(step, Step::StopReceivers { .. }),
            |step: &Step| matches!(step, Step::ApplyAll { .. }),
        ] {
            if let Some((_, outcome)) = self.last(halt, replica).filter(|(_, it)| **it != Outcome::Done) {
                return MoveState::Lost(RefusalReason::ApplierFailed(outcome.detail()));
            }
        }
        let is_spent = |source: &InstanceKey| {
            let has_no_place = self.position_below(replica, source).is_some_and(|place| place.is_err());
            has_no_place || self.results_of(replica).filter(|(to, _)| *to == source).count() >= REPOINT_TRIES
        };
        // The planned source was to be moved itself and was not: below it nothing would be better.
        let is_adrift = self.is_planned_to_move(planned) && !moved.contains(planned);
        let against = match self.fresh.get(planned) {
            None => Some(RefusalReason::Unknown(format!("{planned} is no longer in the view"))),
            Some(_) if is_adrift => Some(RefusalReason::Unknown(format!("{planned} was not moved"))),
            Some(source) => positioning(instance, source, policy).err(),
        };
        if against.is_none() && !is_spent(planned) {
            return MoveState::Due(planned.clone());
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
            return MoveState::Due(other);
        }
        let unplaced = self
            .targets_of(replica)
            .find_map(|to| self.position_below(replica, to)?.err());
        let text = self.results_of(replica).last().map(|(_, outcome)| outcome.detail());
        MoveState::Lost(match (against, unplaced) {
            (Some(reason), _) => reason,
            (None, Some(why)) => RefusalReason::Behind(why),
            (None, None) => RefusalReason::Unreachable(text.unwrap_or_default()),
        })
    }

    /// What is next for replicas that go to one source: by GTID at once; the others stop, apply what they have, and
    /// get a position.
    fn step_towards(&self, source: InstanceKey, replicas: BTreeSet<InstanceKey>, policy: &Policy) -> Step {
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
            } else if let Some(Ok(found)) = self.position_below(&key, &source) {
                places.insert(key, Some(found));
            } else {
                let after = channel.map(|channel| channel.exec.clone()).unwrap_or_default();
                unknown.insert(key, EquivalentPosition { after, found: None });
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
    fn position_below(&self, replica: &InstanceKey, source: &InstanceKey) -> Option<Result<BinlogCoordinates, String>> {
        self.done.iter().rev().find_map(|result| {
            let Step::Match { successor, replicas } = &result.step else {
                return None;
            };
            let outcome = result.outcomes.get(replica).filter(|_| successor == source)?;
            let found = replicas.get(replica)?.found.clone();
            Some(found.ok_or_else(|| outcome.detail()))
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
            let source = compared.or_else(|| Some(result.step.new_source()?.0))?;
            result.outcomes.contains_key(replica).then_some(source)
        })
    }

    /// What came of pointing a replica anywhere, in order.
    fn results_of<'a>(&'a self, replica: &'a InstanceKey) -> impl Iterator<Item = (&'a InstanceKey, &'a Outcome)> {
        self.done.iter().filter_map(move |result| {
            let (successor, _) = result.step.new_source()?;
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
        let mut moved = self.plan.steps.iter().filter_map(Step::new_source);
        moved.any(|(_, replicas)| replicas.contains(key))
    }
}

/// Of replicas that another repair may have stopped, those that are stopped below a source that is neither the old
/// primary of this plan nor its successor: nothing in this plan starts them.
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
