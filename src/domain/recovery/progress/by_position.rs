//! A dead primary with replicas that do not use GTIDs: fence, stop receivers, apply, find the positions, reconnect,
//! open, repoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{BinlogCoordinates, Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::binlog_readers::follows_by_gtid;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::lint::why_loss_not_proved;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::{is_of_two, keep_within, not_claimed, plan_by_position};
use crate::domain::recovery::progress::dead_primary::MAX_RESULTS;
use crate::domain::recovery::progress::recovery_state::{RecoveryState, receivers_stopped_by};
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::relay_log_match::is_after;
use crate::domain::recovery::step::{EquivalentPosition, Step};
use crate::domain::recovery::step_result::Outcome;
use crate::domain::time::WallTime;

/// Where each replica continues in the successor's log; `None` is by GTID.
type Places = BTreeMap<InstanceKey, Option<BinlogCoordinates>>;

impl RecoveryState<'_> {
    /// Whether a replica was waited for, so that the old primary had time to return.
    fn has_waited(&self) -> bool {
        let mut done = self.done.iter();
        done.any(|result| matches!(result.step, Step::ApplyAll { .. }))
    }

    /// Before anything is promoted. An error is the reason to put everything back.
    #[expect(
        clippy::too_many_lines,
        reason = "one decision after the other, in the order in which they are taken"
    )]
    pub(super) fn towards_opening_by_position(&self, policy: &Policy, now: WallTime) -> Result<NextAction, String> {
        let old_primary = &self.plan.old_primary;
        if self.done.len() >= MAX_RESULTS {
            return Err(format!("no progress after {MAX_RESULTS} steps"));
        }
        match self.last(|step| matches!(step, Step::Fence { .. }), old_primary) {
            None => {
                return Ok(NextAction::Run(Step::Fence {
                    old_primary: old_primary.clone(),
                }));
            }
            Some((_, Outcome::Failed(why))) => {
                return Err(format!("{old_primary} answers and could not be made read-only: {why}"));
            }
            Some((_, Outcome::Done | Outcome::NoAnswer(_) | Outcome::Unknown(_))) => {}
        }
        let untouched = |replicas: BTreeSet<InstanceKey>| -> BTreeSet<InstanceKey> {
            replicas
                .into_iter()
                .filter(|key| self.stop_receivers_outcome(key).is_none())
                .collect()
        };
        let planned = untouched(receivers_stopped_by(self.plan));
        if !planned.is_empty() {
            return Ok(NextAction::Run(Step::StopReceivers { replicas: planned }));
        }
        if self.has_waited() && !self.plan.is_forced() && self.answers_by_position() {
            return Err(format!("came back: {old_primary} answers"));
        }
        let inputs = ChoiceInputs {
            excluded: self.unfit(),
            receivers_stopped: Some(self.stopped()),
            is_old_primary_read: self.is_old_primary_read(),
            ..ChoiceInputs::at(now)
        };
        let (plan, report) = plan_by_position(self.plan.code, old_primary, self.fresh, policy, &inputs);
        let mut plan = plan.ok_or_else(|| {
            report
                .no_plan
                .unwrap_or_else(|| "no replica can be promoted".to_owned())
        })?;
        plan.instances.clone_from(&self.plan.instances);
        keep_within(&mut plan.steps, &plan.instances);
        plan.old_primary_state = self.plan.old_primary_state;
        plan.events.clone_from(&self.plan.events);
        plan.old_primary_identity = self.plan.old_primary_identity.clone().or(plan.old_primary_identity);
        let more = untouched(receivers_stopped_by(&plan));
        if !more.is_empty() {
            return Ok(NextAction::Run(Step::StopReceivers { replicas: more }));
        }
        let successor = plan.successor.clone();
        if !self.is_stopped(&successor) {
            return Err(format!("the receiver of {successor} could not be stopped"));
        }
        let followers = repointed_by(&plan);
        let is_apply = |step: &Step| matches!(step, Step::ApplyAll { .. });
        let waiting: BTreeSet<InstanceKey> = followers
            .keys()
            .chain([&successor])
            .filter(|key| self.last(is_apply, key).is_none())
            .cloned()
            .collect();
        if !waiting.is_empty() {
            return Ok(NextAction::Run(Step::ApplyAll { replicas: waiting }));
        }
        let (places, lost) = match self.places(&successor, &followers, policy.pseudo_gtid)? {
            Ok(found) => found,
            Err(step) => return Ok(NextAction::Run(step)),
        };
        let applied = self.last(is_apply, &successor).map_or(0, |(index, _)| index);
        let is_redial = |step: &Step| matches!(step, Step::Redial { .. });
        match self.last(is_redial, old_primary) {
            Some((index, Outcome::NoAnswer(_) | Outcome::Unknown(_))) if index > applied => {}
            Some((index, Outcome::Failed(why))) if index > applied => {
                return Err(format!("{old_primary} answers, and its state could not be read: {why}"));
            }
            // Positions do not show whether it still has what its replicas received, so it is assumed to have it.
            Some((index, Outcome::Done)) if index > applied => {
                let facts = self.fresh.get(old_primary).and_then(Instance::valid_facts);
                if facts.is_none_or(|facts| !self.is_another(facts)) {
                    return Err(format!("came back: {old_primary} answers"));
                }
            }
            _ => {
                return Ok(NextAction::Run(Step::Redial {
                    old_primary: old_primary.clone(),
                }));
            }
        }
        for step in &mut plan.steps {
            if let Step::RepointAt { replicas, .. } = step {
                replicas.clone_from(&places);
            }
        }
        plan.lost_replicas.extend(lost);
        let position = plan.position.clone();
        if let Some(why) = why_loss_not_proved(&plan, self.fresh, &self.stopped()) {
            return Err(why);
        }
        let fencing_proof = match self.proof(&plan, policy, now)? {
            Ok(fencing_proof) => fencing_proof,
            Err(step) => return Ok(NextAction::Run(step)),
        };
        Ok(NextAction::CommitOpen {
            plan: Box::new(plan),
            successor,
            position,
            fencing_proof,
        })
    }

    /// The old primary answers and replicates from no server. Positions do not show whether it still has what its
    /// replicas received, so it is assumed to have it.
    pub(super) fn answers_by_position(&self) -> bool {
        let facts = self.fresh.get(&self.plan.old_primary).and_then(Instance::valid_facts);
        // A co-primary replicates from the other one all its life.
        let is_primary = |facts: &InstanceFacts| {
            facts.managed_channel().is_none_or(|channel| {
                is_of_two(self.plan.code) && self.plan.instances.contains(self.fresh.resolve(&channel.source))
            })
        };
        facts.is_some_and(|facts| !self.is_another(facts) && is_primary(facts))
    }

    /// Where each follower continues, and the followers for which that is not known; or the step that finds it.
    fn places(
        &self,
        successor: &InstanceKey,
        followers: &Places,
        pseudo_gtid: bool,
    ) -> Result<Result<(Places, Vec<Refusal>), Step>, String> {
        let facts = |key: &InstanceKey| self.fresh.get(key).and_then(Instance::valid_facts);
        let source = facts(successor).ok_or_else(|| format!("{successor} no longer answers"))?;
        let end = source.binlog.clone();
        let exec = |facts: &InstanceFacts| facts.managed_channel().map(|channel| channel.exec.clone());
        let done = exec(source).ok_or_else(|| format!("{successor} has no replication channel any more"))?;
        let (mut places, mut lost, mut unknown) = (Places::new(), Vec::new(), BTreeMap::new());
        for key in followers.keys() {
            let is_apply = |step: &Step| matches!(step, Step::ApplyAll { .. });
            let refuse = |reason| Refusal {
                instance: key.clone(),
                reason,
            };
            let applied = match self.last(is_apply, key) {
                Some((_, Outcome::Done)) => facts(key).and_then(|facts| Some((facts, exec(facts)?))),
                Some((_, outcome)) => {
                    lost.push(refuse(RefusalReason::ApplierFailed(outcome.detail())));
                    continue;
                }
                None => None,
            };
            let Some((replica, at)) = applied else {
                lost.push(refuse(RefusalReason::Unreachable("it no longer answers".to_owned())));
                continue;
            };
            if is_after(&at, &done) {
                lost.push(refuse(RefusalReason::Incomparable(format!(
                    "it applied up to {at}, the successor up to {done}"
                ))));
            } else if follows_by_gtid(replica, source) {
                places.insert(key.clone(), None);
            } else if at == done && end.is_some() {
                places.insert(key.clone(), end.clone());
            } else {
                unknown.insert(key.clone(), at);
            }
        }
        let (mut to_locate, mut to_match) = (BTreeMap::new(), BTreeMap::new());
        for (key, at) in unknown {
            let by_relay_log = self.search_result(&key, &at, |step| matches!(step, Step::Locate { .. }));
            let by_pseudo_gtid = self.search_result(&key, &at, |step| matches!(step, Step::Match { .. }));
            let place = EquivalentPosition {
                after: at.clone(),
                found: None,
            };
            match (by_relay_log, by_pseudo_gtid) {
                (Some(Ok(place)), _) | (Some(Err(_)), Some(Ok(place))) => {
                    places.insert(key, Some(place));
                }
                (None, _) => {
                    to_locate.insert(key, place);
                }
                (Some(Err(_)), None) if pseudo_gtid => {
                    to_match.insert(key, place);
                }
                (Some(Err(why)), None) => lost.push(left_behind(key, &at, &why)),
                (Some(Err(why)), Some(Err(again))) => {
                    lost.push(left_behind(key, &at, &format!("{why}; by Pseudo-GTID: {again}")));
                }
            }
        }
        let successor = successor.clone();
        Ok(if !to_locate.is_empty() {
            Err(Step::Locate {
                successor,
                replicas: to_locate,
            })
        } else if !to_match.is_empty() {
            Err(Step::Match {
                successor,
                replicas: to_match,
            })
        } else {
            Ok((places, lost))
        })
    }

    /// The result of the search for the position of a server that had applied up to `at`; `None` before the search.
    fn search_result(
        &self,
        key: &InstanceKey,
        at: &BinlogCoordinates,
        is_wanted: impl Fn(&Step) -> bool,
    ) -> Option<Result<BinlogCoordinates, String>> {
        let (index, outcome) = self.last(is_wanted, key)?;
        let (Step::Locate { replicas, .. } | Step::Match { replicas, .. }) = &self.done.get(index)?.step else {
            return None;
        };
        let place = replicas.get(key)?;
        Some(match &place.found {
            Some(found) if place.after == *at => Ok(found.clone()),
            Some(_) | None => Err(outcome.detail()),
        })
    }

    /// After the Open entry.
    pub(super) fn forward_by_position(&self, successor: &InstanceKey) -> NextAction {
        if let Some(first) = self.opening(successor) {
            return first;
        }
        let is_repoint = |step: &Step| matches!(step, Step::RepointAt { .. });
        let mut places = repointed_by(self.plan);
        let mut following = self.following(places.keys().cloned(), successor, is_repoint);
        if let Some(step) = self.events_due(successor, following.pending.is_empty()) {
            return NextAction::Run(step);
        }
        following.errors.extend(self.events_error(successor));
        if following.pending.is_empty() {
            return NextAction::Finish(self.finish(true, successor, following.lost, following.errors));
        }
        places.retain(|key, _| following.pending.contains(key));
        NextAction::Run(Step::RepointAt {
            successor: successor.clone(),
            replicas: places,
        })
    }

    /// Servers that can no longer be promoted: the receiver was not stopped, so it may still receive, or it could not
    /// apply what it received.
    fn unfit(&self) -> BTreeMap<InstanceKey, RefusalReason> {
        let mut unfit = not_claimed(self.plan, self.fresh);
        for key in &self.plan.instances {
            if let Some(outcome) = self
                .stop_receivers_outcome(key)
                .filter(|outcome| **outcome != Outcome::Done)
                && !self.is_stopped(key)
            {
                let why = format!("its receiver could not be stopped: {}", outcome.detail());
                unfit.insert(key.clone(), RefusalReason::Unreachable(why));
            }
            let is_apply = |step: &Step| matches!(step, Step::ApplyAll { .. });
            if let Some((_, outcome)) = self
                .last(is_apply, key)
                .filter(|(_, outcome)| **outcome != Outcome::Done)
            {
                unfit.insert(key.clone(), RefusalReason::ApplierFailed(outcome.detail()));
            }
        }
        unfit
    }
}

fn left_behind(instance: InstanceKey, at: &BinlogCoordinates, why: &str) -> Refusal {
    Refusal {
        instance,
        reason: RefusalReason::Behind(format!("what follows {at} ({why})")),
    }
}

fn repointed_by(plan: &Plan) -> Places {
    let mut places = Places::new();
    for step in &plan.steps {
        if let Step::RepointAt { replicas, .. } = step {
            places.extend(replicas.clone());
        }
    }
    places
}
