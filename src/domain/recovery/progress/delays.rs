//! Replicas that delay on purpose and had to apply at once what they alone received.
//!
//! The delay of each is in the plan ([`Plan::prior_states`]), which is committed before anything is touched. So an
//! actor that resumes the recovery sees from the server whether its delay was removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::next_action::{NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::progress::recovery_state::{REPOINT_TRIES, RecoveryState};
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;
use crate::domain::topology::Topology;

/// Those of a plan that do not delay any more, with the seconds by which they did.
pub fn lifted_delays(plan: &Plan, fresh: &Topology) -> BTreeMap<InstanceKey, u64> {
    plan.delays()
        .filter(|(key, seconds)| {
            let facts = fresh.get(key).and_then(Instance::valid_facts);
            let channel = facts.and_then(InstanceFacts::managed_channel);
            channel.is_some_and(|channel| channel.delay_seconds != *seconds)
        })
        .map(|(key, seconds)| (key.clone(), seconds))
        .collect()
}

impl RecoveryState<'_> {
    /// What an actor before this one began: servers that apply their relay log without delay, off GTID. Until that is
    /// done it is unknown what they hold.
    pub(super) fn half_applied(&self) -> Option<NextAction> {
        let off_gtid = |key: &InstanceKey| {
            let facts = self.fresh.get(key).and_then(Instance::valid_facts);
            let channel = facts.and_then(InstanceFacts::managed_channel);
            channel.is_some_and(|channel| channel.delay_seconds == 0 && !channel.positioning.is_gtid())
        };
        let was_tried = |key: &InstanceKey| {
            let results = self.done.iter().filter(|result| {
                matches!(
                    result.step,
                    Step::Drain { .. } | Step::CatchUp { .. } | Step::ApplyAll { .. }
                )
            });
            results
                .flat_map(|result| result.outcomes.keys())
                .any(|done| done == key)
        };
        let replicas: BTreeSet<InstanceKey> = self
            .plan
            .delays()
            .map(|(key, _)| key)
            .filter(|key| off_gtid(key) && !was_tried(key))
            .cloned()
            .collect();
        (!replicas.is_empty()).then_some(NextAction::Run(Step::ApplyAll { replicas }))
    }

    /// The delays that an abort puts back: those that are seen lifted, and those of servers that this actor had apply
    /// something. One that does not answer may have done so, and one that refused may have been stopped for it.
    pub(super) fn delays_to_put_back(&self) -> Vec<Undo> {
        let mut lifted = lifted_delays(self.plan, self.fresh);
        for (key, seconds) in self.plan.delays() {
            let may_be = self.done.iter().any(|result| {
                let (Step::CatchUp { from: one, .. } | Step::Drain { successor: one }) = &result.step else {
                    return false;
                };
                one == key
            });
            if may_be {
                lifted.insert(key.clone(), seconds);
            }
        }
        lifted
            .into_iter()
            .map(|(replica, seconds)| Undo::Delay { replica, seconds })
            .collect()
    }

    /// After the opening: followers that are to get their removed delay again, by another round, and the errors of
    /// those with which that failed too often.
    pub(super) fn still_lifted(&self) -> (BTreeSet<InstanceKey>, Vec<String>) {
        let is_repoint = |step: &Step| matches!(step, Step::Repoint { .. });
        let (mut again, mut given_up) = (BTreeSet::new(), Vec::new());
        for (key, seconds) in lifted_delays(self.plan, self.fresh) {
            match self.last(is_repoint, &key) {
                Some((_, Outcome::Done)) if self.tries(is_repoint, &key) < REPOINT_TRIES => {
                    again.insert(key);
                }
                Some(_) => given_up.push(not_put_back(&key, seconds)),
                None => {}
            }
        }
        (again, given_up)
    }

    /// The errors about servers that lost their delay for a promotion that failed.
    pub(super) fn lifted_for_good(&self) -> Vec<String> {
        let lifted = lifted_delays(self.plan, self.fresh);
        lifted
            .iter()
            .map(|(key, seconds)| not_put_back(key, *seconds))
            .collect()
    }
}

fn not_put_back(key: &InstanceKey, seconds: u64) -> String {
    format!("the delay of {key} ({seconds} s) was removed and could not be set again")
}
