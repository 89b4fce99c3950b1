//! A returned primary becomes a replica, and a replica that was left behind follows again.

use std::collections::BTreeSet;

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::next_action::{Finish, NextAction};
use crate::domain::recovery::planner::{check_reattach, check_rejoin};
use crate::domain::recovery::progress::recovery_state::{REPOINT_TRIES, RecoveryState};
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::Outcome;

impl RecoveryState<'_> {
    /// A returned primary stays read-only whatever happens, and a lost replica had no source that answers: there is
    /// nothing to put back.
    pub(super) fn rejoin(&self) -> Result<NextAction, String> {
        let (returned, primary) = (&self.plan.old_primary, &self.plan.successor);
        // A replica that was left behind is no primary: its clients may read on.
        let is_fenced_first = self.plan.steps.iter().any(|step| matches!(step, Step::Fence { .. }));
        match self.last(|step| matches!(step, Step::Fence { .. }), returned) {
            None if !is_fenced_first => {}
            None => {
                return Ok(NextAction::Run(Step::Fence {
                    old_primary: returned.clone(),
                }));
            }
            Some((_, Outcome::Done)) => {}
            Some((_, outcome)) => return Err(format!("{returned} could not be made read-only: {}", outcome.detail())),
        }
        let is_repoint = |step: &Step| matches!(step, Step::Repoint { .. });
        match self.last(is_repoint, returned) {
            Some((_, Outcome::Done)) => {
                let finish = Finish {
                    successful: true,
                    successor: None,
                    lost_replicas: Vec::new(),
                    lost: None,
                    errors: Vec::new(),
                };
                return Ok(NextAction::Finish(finish));
            }
            Some((_, outcome)) if self.tries(is_repoint, returned) >= REPOINT_TRIES => {
                return Err(format!(
                    "{returned} could not be pointed at {primary}: {}",
                    outcome.detail()
                ));
            }
            _ => {}
        }
        let facts = |key: &InstanceKey| {
            self.fresh
                .get(key)
                .and_then(Instance::valid_facts)
                .ok_or_else(|| format!("{key} does not answer"))
        };
        let (own, source): (&InstanceFacts, &InstanceFacts) = (facts(returned)?, facts(primary)?);
        if self.plan.old_primary_identity.as_ref() != Some(&own.identity)
            || self.plan.successor_identity != source.identity
        {
            return Err("the servers are not those of the plan".to_owned());
        }
        let check = if is_fenced_first { check_rejoin } else { check_reattach };
        check(own, source).map_err(|why| format!("{returned}: {why}"))?;
        Ok(NextAction::Run(Step::Repoint {
            successor: primary.clone(),
            replicas: BTreeSet::from([returned.clone()]),
        }))
    }
}
