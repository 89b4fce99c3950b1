//! A replica is moved below another server by Pseudo-GTID: stop its receiver, apply, match, repoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::Instance;
use crate::domain::recovery::next_action::{NextAction, Undo};
use crate::domain::recovery::progress::recovery_state::{REPOINT_TRIES, RecoveryState};
use crate::domain::recovery::step::{EquivalentPosition, Step};
use crate::domain::recovery::step_result::Outcome;

impl RecoveryState<'_> {
    /// If anything fails, the replica continues below its own source.
    pub(super) fn match_below(&self) -> NextAction {
        self.towards_match().unwrap_or_else(|reason| NextAction::Abort {
            reason,
            undo: vec![Undo::StartReceivers {
                replicas: BTreeSet::from([self.plan.old_primary.clone()]),
            }],
        })
    }

    fn towards_match(&self) -> Result<NextAction, String> {
        let (replica, target) = (&self.plan.old_primary, &self.plan.successor);
        let is_pointing = |step: &Step| matches!(step, Step::RepointAt { .. });
        if let Some((_, outcome)) = self.last(is_pointing, replica) {
            if *outcome == Outcome::Done {
                return Ok(NextAction::Finish(self.finish(true, target, Vec::new(), Vec::new())));
            }
            if self.tries(is_pointing, replica) >= REPOINT_TRIES {
                return Err(format!(
                    "{replica} could not be pointed at {target}: {}",
                    outcome.detail()
                ));
            }
        }
        for (key, identity) in [
            (replica, self.plan.old_primary_identity.as_ref()),
            (target, Some(&self.plan.successor_identity)),
        ] {
            let facts = self.fresh.get(key).and_then(Instance::valid_facts);
            let facts = facts.ok_or_else(|| format!("{key} no longer answers"))?;
            if identity.is_some_and(|identity| *identity != facts.identity) {
                return Err(format!("another server answers at {key} now"));
            }
        }
        let only = BTreeSet::from([replica.clone()]);
        match self.stop_receivers_outcome(replica) {
            None => return Ok(NextAction::Run(Step::StopReceivers { replicas: only })),
            Some(Outcome::Done) => {}
            Some(outcome) => return Err(format!("{replica} could not be stopped: {}", outcome.detail())),
        }
        match self.last(|step| matches!(step, Step::ApplyAll { .. }), replica) {
            None => return Ok(NextAction::Run(Step::ApplyAll { replicas: only })),
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => {
                return Err(format!(
                    "{replica} did not apply what it received: {}",
                    outcome.detail()
                ));
            }
        }
        let matched = self.last(|step| matches!(step, Step::Match { .. }), replica);
        let Some((index, outcome)) = matched else {
            let channel = self.fresh.get(replica).and_then(Instance::channel);
            let place = EquivalentPosition {
                after: channel.map(|channel| channel.exec.clone()).unwrap_or_default(),
                found: None,
            };
            return Ok(NextAction::Run(Step::Match {
                successor: target.clone(),
                replicas: BTreeMap::from([(replica.clone(), place)]),
            }));
        };
        let found = self.done.get(index).and_then(|result| {
            let Step::Match { replicas, .. } = &result.step else {
                return None;
            };
            replicas.get(replica)?.found.clone()
        });
        let found = found.ok_or_else(|| outcome.detail())?;
        Ok(NextAction::Run(Step::RepointAt {
            successor: target.clone(),
            replicas: BTreeMap::from([(replica.clone(), Some(found))]),
        }))
    }
}
