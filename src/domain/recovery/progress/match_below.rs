//! A replica is put below another server by Pseudo-GTID: freeze, apply, match, point.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::Instance;
use crate::domain::recovery::outcome::{Next, Outcome, Undo};
use crate::domain::recovery::plan::{Place, Step};

use super::{REPOINT_TRIES, RecoveryState};

impl RecoveryState<'_> {
    /// Whatever fails on the way, the replica goes on where it was.
    pub(super) fn put_below(&self) -> Next {
        self.towards_its_place().unwrap_or_else(|reason| Next::Abort {
            reason,
            undo: vec![Undo::StartReceiving {
                replicas: BTreeSet::from([self.plan.old_primary.clone()]),
            }],
        })
    }

    fn towards_its_place(&self) -> Result<Next, String> {
        let (replica, target) = (&self.plan.old_primary, &self.plan.successor);
        let is_pointing = |step: &Step| matches!(step, Step::RepointAt { .. });
        if let Some((_, outcome)) = self.last(is_pointing, replica) {
            if *outcome == Outcome::Done {
                return Ok(Next::Finish(self.finish(true, target, Vec::new(), Vec::new())));
            }
            if self.tries(is_pointing, replica) >= REPOINT_TRIES {
                return Err(format!(
                    "{replica} could not be pointed at {target}: {}",
                    outcome.told()
                ));
            }
        }
        for (key, identity) in [
            (replica, self.plan.old_primary_identity.as_ref()),
            (target, Some(&self.plan.successor_identity)),
        ] {
            let facts = self.fresh.get(key).and_then(Instance::valid_facts);
            let facts = facts.ok_or_else(|| format!("{key} does not answer any more"))?;
            if identity.is_some_and(|identity| *identity != facts.identity) {
                return Err(format!("{key} is not the server that was planned with"));
            }
        }
        let only = BTreeSet::from([replica.clone()]);
        match self.stop_receivers_outcome(replica) {
            None => return Ok(Next::Run(Step::StopReceivers { replicas: only })),
            Some(Outcome::Done) => {}
            Some(outcome) => return Err(format!("{replica} could not be stopped: {}", outcome.told())),
        }
        match self.last(|step| matches!(step, Step::ApplyAll { .. }), replica) {
            None => return Ok(Next::Run(Step::ApplyAll { replicas: only })),
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => return Err(format!("{replica} did not apply what it received: {}", outcome.told())),
        }
        let matched = self.last(|step| matches!(step, Step::Match { .. }), replica);
        let Some((index, outcome)) = matched else {
            let channel = self.fresh.get(replica).and_then(Instance::channel);
            let place = Place {
                after: channel.map(|channel| channel.exec.clone()).unwrap_or_default(),
                found: None,
            };
            return Ok(Next::Run(Step::Match {
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
        let found = found.ok_or_else(|| outcome.told())?;
        Ok(Next::Run(Step::RepointAt {
            successor: target.clone(),
            replicas: BTreeMap::from([(replica.clone(), Some(found))]),
        }))
    }
}
