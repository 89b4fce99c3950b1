//! A dead primary: fence, stop receivers, choose again, catch up, drain, reconnect, open, repoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::analysis::read_only_bypass;
use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::fencing_proof::{FencingProof, fencing_proof};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::lint::why_loss_not_proved;
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::choose_again_with;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::progress::reconnect::ReconnectTestState;
use crate::domain::recovery::progress::recovery_state::{REPOINT_TRIES, RecoveryState, receivers_stopped_by};
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::replica_state::is_receiver_stopped;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;
use crate::domain::time::WallTime;

/// How often the opening of a committed successor that is not seen is tried before it counts as lost. Each try has its
/// own deadline; three are enough to outlast a broken connection. A successor that answers is tried without an end.
pub const OPEN_TRIES: usize = 3;
/// How often the fence of a primary that an operator declares dead is tried while its outcome is unknown.
const FORCED_FENCE_TRIES: usize = 3;
/// How often a primary that commits nothing is asked to become read-only. Each try ends its client sessions.
const STALLED_FENCE_TRIES: usize = 2;
/// The number of results after which a recovery that has not opened a server aborts, because it makes no progress.
/// The longest possible sequence, with every candidate of a large cluster failing in turn, is shorter.
pub(super) const MAX_RESULTS: usize = 60;

/// How far the replicas of a committed successor are.
pub(super) struct Following {
    /// To be pointed at it still.
    pub(super) pending: BTreeSet<InstanceKey>,
    /// Left behind, those of the plan included.
    pub(super) lost: Vec<Refusal>,
    /// What went wrong.
    pub(super) errors: Vec<String>,
}

impl RecoveryState<'_> {
    /// Before anything is promoted. An error is the reason to put everything back.
    #[expect(
        clippy::too_many_lines,
        reason = "the order of the steps is easier to read in one place"
    )]
    pub(super) fn towards_opening(&self, policy: &Policy, now: WallTime) -> Result<NextAction, String> {
        let old_primary = &self.plan.old_primary;
        if self.done.len() >= MAX_RESULTS {
            return Err(format!("no progress after {MAX_RESULTS} steps"));
        }
        match self.last(|step| matches!(step, Step::Fence { .. }), old_primary) {
            // Connections to it failed for the whole of the test, a moment ago: there is nothing to fence.
            None if self.partition()? == ReconnectTestState::Passed => {}
            None => {
                return Ok(NextAction::Run(Step::Fence {
                    old_primary: old_primary.clone(),
                }));
            }
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) if self.plan.commits_nothing => {
                if let Some(step) = self.fence_without_read_only(outcome, policy)? {
                    return Ok(NextAction::Run(step));
                }
            }
            Some((_, Outcome::Failed(why))) => {
                return Err(format!("{old_primary} answers and could not be made read-only: {why}"));
            }
            // It is alive, or was a moment ago: a primary that an operator declares dead must be known to take no writes.
            Some((_, Outcome::Unknown(why))) if self.plan.is_forced() => {
                if self.tries(|step| matches!(step, Step::Fence { .. }), old_primary) >= FORCED_FENCE_TRIES {
                    return Err(format!("whether {old_primary} takes writes is unknown: {why}"));
                }
                return Ok(NextAction::Run(Step::Fence {
                    old_primary: old_primary.clone(),
                }));
            }
            Some((_, Outcome::NoAnswer(_) | Outcome::Unknown(_))) => {}
        }
        let untouched = |replicas: &BTreeSet<InstanceKey>| -> BTreeSet<InstanceKey> {
            replicas
                .iter()
                .filter(|key| self.stop_receivers_outcome(key).is_none() || self.runs_since_caught_up(key))
                .cloned()
                .collect()
        };
        let planned = untouched(&receivers_stopped_by(self.plan));
        if !planned.is_empty() {
            return Ok(NextAction::Run(Step::StopReceivers { replicas: planned }));
        }
        if let Some(first) = self.half_applied() {
            return Ok(first);
        }
        // A step that waited may have ended because of it, without a result that counts against a replica.
        if !self.plan.is_forced() && self.has_come_back() {
            return Err(came_back(old_primary));
        }
        let inputs = ChoiceInputs {
            excluded: self.excluded(),
            not_caught_up: self.not_caught_up(),
            receivers_stopped: Some(self.stopped()),
            is_old_primary_read: self.is_old_primary_read(),
            ..ChoiceInputs::at(now)
        };
        let plan = choose_again_with(self.plan, self.fresh, policy, inputs)?;
        let more = untouched(&receivers_stopped_by(&plan));
        if !more.is_empty() {
            return Ok(NextAction::Run(Step::StopReceivers { replicas: more }));
        }
        let successor = &plan.successor;
        if !self.is_stopped(successor) {
            return Err(format!("the receiver of {successor} could not be stopped"));
        }
        if !self.plan.is_forced() && self.has_come_back() {
            // The fence reached it. Until that is undone, the recovery itself causes the outage.
            return Err(came_back(old_primary));
        }
        if let Some(step @ Step::CatchUp { from, .. }) =
            plan.steps.iter().find(|step| matches!(step, Step::CatchUp { .. }))
        {
            if !self.is_stopped(from) {
                return Err(format!("the receiver of {from} could not be stopped"));
            }
            return Ok(NextAction::Run(step.clone()));
        }
        let is_drain = |step: &Step| matches!(step, Step::Drain { .. });
        let is_catch_up_from =
            |step: &Step| matches!(step, Step::CatchUp { successor: caught_up, .. } if caught_up == successor);
        let caught_up = self.last(is_catch_up_from, successor).map(|(index, _)| index);
        let drained = self.last(is_drain, successor);
        let Some((drained, Outcome::Done)) =
            drained.filter(|(index, _)| caught_up.is_none_or(|caught_up| caught_up < *index))
        else {
            return Ok(NextAction::Run(Step::Drain {
                successor: successor.clone(),
            }));
        };
        let is_redial = |step: &Step| matches!(step, Step::Redial { .. });
        let (reconnected_at, answer) = match self.last(is_redial, old_primary) {
            Some((index, answer)) if index > drained => (index, answer),
            _ => {
                return Ok(NextAction::Run(Step::Redial {
                    old_primary: old_primary.clone(),
                }));
            }
        };
        match answer {
            Outcome::NoAnswer(_) | Outcome::Unknown(_) => {}
            Outcome::Failed(why) => {
                return Err(format!("{old_primary} answers, and its state could not be read: {why}"));
            }
            Outcome::Done => {
                if let Some(step) = self.judge_returned(reconnected_at)? {
                    return Ok(NextAction::Run(step));
                }
            }
        }
        let (successor, position) = (plan.successor.clone(), plan.position.clone());
        if let Some(why) = why_loss_not_proved(&plan, self.fresh, &self.stopped()) {
            return Err(why);
        }
        let fencing_proof = match self.proof(&plan, policy, now)? {
            Ok(FencingProof::AcceptedByPolicy { why }) if self.plan.commits_nothing => {
                return Err(self.not_fenced(&why));
            }
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

    /// A primary that answers and commits nothing did not confirm that it is read-only and that its sessions ended. The fence is tried
    /// again, then the configured commands fence it. `None` once they did; an error is the reason to give up.
    fn fence_without_read_only(&self, outcome: &Outcome, policy: &Policy) -> Result<Option<Step>, String> {
        let old_primary = self.plan.old_primary.clone();
        if let Outcome::NoAnswer(why) = outcome {
            return Err(format!("{old_primary} no longer answers, and is judged anew: {why}"));
        }
        if self.tries(|step| matches!(step, Step::Fence { .. }), &old_primary) < STALLED_FENCE_TRIES {
            return Ok(Some(Step::Fence { old_primary }));
        }
        if !policy.fences_outside {
            return Err(self.not_fenced(&outcome.detail()));
        }
        match self.last(|step| matches!(step, Step::CallFencer { .. }), &old_primary) {
            None => Ok(Some(Step::CallFencer { old_primary })),
            Some((_, Outcome::Done)) => Ok(None),
            Some((_, outcome)) => Err(self.not_fenced(&outcome.detail())),
        }
    }

    fn not_fenced(&self, why: &str) -> String {
        format!(
            "{} answers and commits nothing, and nothing proves that it takes no more writes: {why}; end the server, or set FencingProcesses",
            self.plan.old_primary
        )
    }

    /// The proof that allows the opening, or the step that gets a better one: configured fencing commands are always
    /// used. An error is the fencer's failure: the old primary may live.
    pub(super) fn proof(
        &self,
        plan: &Plan,
        policy: &Policy,
        now: WallTime,
    ) -> Result<Result<FencingProof, Step>, String> {
        let fencing_proof = fencing_proof(plan, self.done, self.fresh, policy.acks_changed_at, now);
        if !policy.fences_outside || !fencing_proof.is_weak() {
            return Ok(Ok(fencing_proof));
        }
        let old_primary = &plan.old_primary;
        match self.last(|step| matches!(step, Step::CallFencer { .. }), old_primary) {
            None => Ok(Err(Step::CallFencer {
                old_primary: old_primary.clone(),
            })),
            Some((_, outcome)) => Err(format!(
                "nothing proves that {old_primary} takes no writes: {}",
                outcome.detail()
            )),
        }
    }

    /// The old primary answered the redial: a reason to abort, a step to do before the opening, or nothing in the way.
    fn judge_returned(&self, reconnected_at: usize) -> Result<Option<Step>, String> {
        let old_primary = &self.plan.old_primary;
        let facts = self.fresh.get(old_primary).and_then(Instance::valid_facts);
        let facts = facts.ok_or_else(|| format!("{old_primary} answers, and its GTID set was not read"))?;
        if self.is_another(facts) {
            return Ok(None);
        }
        if !self.plan.is_forced() && self.has_come_back() {
            return Err(came_back(old_primary));
        }
        let fencer = self.last(|step| matches!(step, Step::CallFencer { .. }), old_primary);
        if self.plan.commits_nothing && matches!(fencer, Some((_, Outcome::Done))) {
            return Ok(None);
        }
        // Accounts that read_only does not stop may have connected again since it was fenced: their sessions end just before the opening.
        if !facts.is_writable() && read_only_bypass(facts).is_none() {
            return Ok(None);
        }
        match self.last(|step| matches!(step, Step::Fence { .. }), old_primary) {
            Some((index, outcome)) if index > reconnected_at => match outcome {
                Outcome::Done | Outcome::NoAnswer(_) => Ok(None),
                Outcome::Failed(why) | Outcome::Unknown(why) => Err(format!(
                    "{old_primary} is back without all that its replicas received, and could not be made read-only: {why}"
                )),
            },
            _ => Ok(Some(Step::Fence {
                old_primary: old_primary.clone(),
            })),
        }
    }

    /// The old primary answers, is still a primary, and has everything that its stopped replicas received.
    pub(super) fn has_come_back(&self) -> bool {
        let old_primary = &self.plan.old_primary;
        let Some(facts) = self.fresh.get(old_primary).and_then(Instance::valid_facts) else {
            return false;
        };
        let received_transactions = ReceivedTransactions::below(self.fresh, old_primary);
        let mut receivers_stopped = self.plan.instances.iter().filter(|key| self.is_stopped(key));
        let has_all = receivers_stopped.all(|key| {
            received_transactions
                .get(key)
                .is_none_or(|holding| facts.executed.covers(&holding.position))
        });
        // A co-primary replicates from the other one all its life.
        let is_primary = facts.managed_channel().is_none_or(|channel| {
            self.plan.kind == RecoveryKind::CoPrimary
                && self.plan.instances.contains(self.fresh.resolve(&channel.source))
        });
        // A lost successor took no writes yet: it stays the one to open only where another one would lose something.
        let is_wanted = self.plan.code != Code::SuccessorLost || facts.is_writable() || self.plan.lost.is_some();
        !self.is_another(facts) && is_primary && has_all && is_wanted
    }

    /// After the Open entry.
    pub(super) fn forward(&self, successor: &InstanceKey) -> NextAction {
        if let Some(first) = self.opening(successor) {
            return first;
        }
        let is_repoint = |step: &Step| matches!(step, Step::Repoint { .. });
        let mut following = self.following(repointed_by(self.plan), successor, is_repoint);
        if let Some(step) = self.events_due(successor, following.pending.is_empty()) {
            return NextAction::Run(step);
        }
        following.errors.extend(self.events_error(successor));
        if following.pending.is_empty() {
            // Whoever is pointed at the successor is to delay as before, too.
            let (again, given_up) = self.still_lifted();
            following.pending = again;
            following.errors.extend(given_up);
        }
        if following.pending.is_empty() {
            return NextAction::Finish(self.finish(true, successor, following.lost, following.errors));
        }
        NextAction::Run(Step::Repoint {
            successor: successor.clone(),
            replicas: following.pending,
        })
    }

    /// What comes before any replica follows: the committed successor is opened, after a fence where the old primary
    /// is seen writable, or it is lost. `None` once it is open.
    pub(super) fn opening(&self, successor: &InstanceKey) -> Option<NextAction> {
        let is_open = |step: &Step| matches!(step, Step::Open { .. });
        let next = match self.last(is_open, successor) {
            Some((_, Outcome::Done)) => return None,
            Some((_, Outcome::NoAnswer(why) | Outcome::Failed(why) | Outcome::Unknown(why)))
                if self.tries(is_open, successor) >= OPEN_TRIES && self.is_gone(successor) =>
            {
                let mut errors = vec![format!(
                    "SuccessorLost: {successor} was chosen and could not be opened: {why}"
                )];
                errors.extend(self.lifted_for_good());
                NextAction::Finish(self.finish(false, successor, self.plan.lost_replicas.clone(), errors))
            }
            _ if self.must_fence_first() => NextAction::Run(Step::Fence {
                old_primary: self.plan.old_primary.clone(),
            }),
            _ => NextAction::Run(Step::Open {
                successor: successor.clone(),
            }),
        };
        Some(next)
    }

    /// The successor of the plan is not there: nothing answers at its address, or another server does.
    fn is_gone(&self, successor: &InstanceKey) -> bool {
        let Some(instance) = self.fresh.get(successor) else {
            return true;
        };
        match (&instance.failure, instance.valid_facts()) {
            (Some(failure), _) => !failure.proves_life(),
            (None, Some(facts)) => facts.identity != self.plan.successor_identity,
            (None, None) => true,
        }
    }

    /// Which of these follow the successor already, by the steps that count as pointing at it, and which never will.
    pub(super) fn following(
        &self,
        replicas: impl IntoIterator<Item = InstanceKey>,
        successor: &InstanceKey,
        is_repoint: impl Fn(&Step) -> bool + Copy,
    ) -> Following {
        let mut following = Following {
            pending: BTreeSet::new(),
            lost: self.plan.lost_replicas.clone(),
            errors: Vec::new(),
        };
        for replica in replicas {
            match self.last(is_repoint, &replica) {
                Some((_, Outcome::Done)) => {}
                Some((_, outcome)) if self.tries(is_repoint, &replica) >= REPOINT_TRIES => {
                    let text = outcome.detail();
                    let error = format!("{replica} could not be pointed at {successor}: {text}");
                    following.errors.push(error);
                    following.lost.push(Refusal {
                        instance: replica,
                        reason: RefusalReason::Unreachable(text),
                    });
                }
                _ => {
                    following.pending.insert(replica);
                }
            }
        }
        following
    }

    /// The old primary is seen writable, and the last thing done was not an attempt to change that.
    pub(super) fn must_fence_first(&self) -> bool {
        let old_primary = self.fresh.get(&self.plan.old_primary).and_then(Instance::valid_facts);
        let just_tried = self
            .done
            .last()
            .is_some_and(|result| matches!(result.step, Step::Fence { .. }));
        old_primary.is_some_and(|facts| facts.is_writable() && !self.is_another(facts)) && !just_tried
    }

    /// Servers that can no longer be promoted: the receiver was not stopped, so it may still receive, or it could not
    /// apply what it received.
    fn excluded(&self) -> BTreeMap<InstanceKey, RefusalReason> {
        let mut excluded = BTreeMap::new();
        for key in &self.plan.instances {
            if let Some(Outcome::NoAnswer(why) | Outcome::Failed(why) | Outcome::Unknown(why)) =
                self.stop_receivers_outcome(key)
                && !self.is_stopped(key)
            {
                excluded.insert(
                    key.clone(),
                    RefusalReason::Unreachable(format!("its receiver could not be stopped: {why}")),
                );
            }
            if let Some((_, Outcome::NoAnswer(why) | Outcome::Failed(why) | Outcome::Unknown(why))) =
                self.last(|step| matches!(step, Step::Drain { .. }), key)
            {
                excluded.insert(key.clone(), RefusalReason::ApplierFailed(why.clone()));
            }
        }
        excluded
    }

    /// Pairs of successor and source with which catching up failed. When the source failed, no server catches up from it.
    fn not_caught_up(&self) -> BTreeSet<(InstanceKey, InstanceKey)> {
        let mut not_caught_up = BTreeSet::new();
        for result in self.done {
            let Step::CatchUp { successor, from } = &result.step else {
                continue;
            };
            let is_done = |key: &InstanceKey| matches!(result.outcomes.get(key), Some(Outcome::Done));
            if !is_done(from) {
                not_caught_up.extend(self.plan.instances.iter().map(|key| (key.clone(), from.clone())));
            } else if !is_done(successor) {
                not_caught_up.insert((successor.clone(), from.clone()));
            }
        }
        not_caught_up
    }

    /// Catching up broke off, and it may still receive; its receiver was not stopped again since.
    fn runs_since_caught_up(&self, key: &InstanceKey) -> bool {
        let is_stop_receivers = |step: &Step| matches!(step, Step::StopReceivers { .. });
        let is_catch_up_from = |step: &Step| matches!(step, Step::CatchUp { successor, .. } if successor == key);
        let receivers_stopped = self.last(is_stop_receivers, key).map(|(index, _)| index);
        match self.last(is_catch_up_from, key) {
            Some((caught_up, Outcome::NoAnswer(_) | Outcome::Failed(_) | Outcome::Unknown(_))) => {
                receivers_stopped.is_none_or(|receivers_stopped| receivers_stopped < caught_up)
            }
            Some((_, Outcome::Done)) | None => false,
        }
    }

    /// Its receiver was stopped by this actor, or is seen stopped.
    pub(super) fn is_stopped(&self, key: &InstanceKey) -> bool {
        let by_word =
            matches!(self.stop_receivers_outcome(key), Some(Outcome::Done)) && !self.runs_since_caught_up(key);
        by_word || self.fresh.get(key).is_some_and(is_receiver_stopped)
    }

    /// The claimed servers with stopped receivers.
    pub(super) fn stopped(&self) -> BTreeSet<InstanceKey> {
        let stopped = self.plan.instances.iter().filter(|key| self.is_stopped(key));
        stopped.cloned().collect()
    }

    /// A living old primary confirmed that it is read-only for all accounts, and its present facts are from after that.
    /// One that crashed and is back may have lost what it confirmed: what it has proves nothing.
    pub(super) fn is_old_primary_read(&self) -> bool {
        let fence = self.last(|step| matches!(step, Step::Fence { .. }), &self.plan.old_primary);
        let is_final = |facts: &InstanceFacts| facts.super_read_only == Some(true);
        self.plan.is_forced()
            && matches!(fence, Some((_, Outcome::Done)))
            && self.primary().is_some_and(is_final)
            && self.has_come_back()
    }

    pub(super) fn stop_receivers_outcome(&self, key: &InstanceKey) -> Option<&Outcome> {
        self.last(|step| matches!(step, Step::StopReceivers { .. }), key)
            .map(|(_, outcome)| outcome)
    }
}

fn came_back(old_primary: &InstanceKey) -> String {
    format!("came back: {old_primary} answers and has everything that its replicas received")
}

fn repointed_by(plan: &Plan) -> BTreeSet<InstanceKey> {
    plan.steps
        .iter()
        .filter_map(|step| {
            if let Step::Repoint { replicas, .. } = step {
                Some(replicas)
            } else {
                None
            }
        })
        .flatten()
        .cloned()
        .collect()
}
