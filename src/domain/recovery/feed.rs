//! Who can give a successor what it did not receive.
//!
//! The replica that received most is not always the one to promote: a rule, a data centre or a filter speaks against it. Then the
//! one that is wanted is first fed from it, by GTID, and nothing is lost. The feeder need not be eligible itself; it must answer, log
//! what it replicates, and hold nothing errant: errant transactions would travel to the new primary.

use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

use super::candidate::{Moment, purged};
use super::eligibility::judge_source;
use super::position::Holdings;
use super::rank::{Candidate, can_follow};

/// A replica that others could be fed from.
pub(super) struct Feeder<'a> {
    pub(super) instance: &'a Instance,
    pub(super) facts: &'a InstanceFacts,
    pub(super) position: &'a GtidSet,
}

/// All below `victim` that could feed others.
pub(super) fn feeders<'a>(
    topology: &'a Topology,
    victim: &'a InstanceKey,
    holdings: &'a Holdings,
    moment: &Moment,
) -> Vec<Feeder<'a>> {
    topology
        .descendants_of(victim)
        .into_iter()
        .filter(|instance| !moment.excluded.contains_key(&instance.key))
        .filter_map(|instance| {
            let facts = judge_source(topology, instance).ok()?;
            let holding = holdings.get(&instance.key).filter(|holding| holding.errant.is_none())?;
            // A delayed one takes its delay to apply what it holds, and passes on only what it has applied.
            let is_delayed = facts.managed_channel().is_some_and(|channel| channel.delay_seconds > 0);
            (!is_delayed || facts.executed.covers(&holding.position)).then_some(Feeder {
                instance,
                facts,
                position: &holding.position,
            })
        })
        .collect()
}

/// The best of those that hold `position` to feed a candidate from: one that has applied it already, one in the same place, the
/// first by address.
pub(super) fn feeder_for<'f, 'a>(
    feeders: &'f [Feeder<'a>],
    candidate: &Candidate<'_>,
    position: &GtidSet,
    topology: &Topology,
    moment: &Moment,
) -> Option<&'f Feeder<'a>> {
    let below: BTreeSet<&InstanceKey> = topology
        .descendants_of(&candidate.instance.key)
        .into_iter()
        .map(|instance| &instance.key)
        .collect();
    feeders
        .iter()
        .filter(|feeder| feeder.position.covers(position) && position.covers(feeder.position))
        // One below it gets its own from it: the two would form a ring that hangs on nobody.
        .filter(|feeder| feeder.instance.key != candidate.instance.key && !below.contains(&feeder.instance.key))
        .filter(|feeder| can_follow(candidate.facts, feeder.facts) && purged(feeder.facts, candidate.facts).is_none())
        .filter(|feeder| {
            let pair = (candidate.instance.key.clone(), feeder.instance.key.clone());
            !moment.unfed.contains(&pair)
        })
        .min_by_key(|feeder| {
            (
                !feeder.facts.executed.covers(position),
                feeder.facts.data_center != candidate.facts.data_center,
                &feeder.instance.key,
            )
        })
}
