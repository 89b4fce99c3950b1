//! Who can give a successor what it did not receive.
//!
//! The replica that received most is not always the one to promote: a rule, a data centre or a filter speaks against it. Then the
//! one that is wanted is first fed from it, by GTID, and nothing is lost. The feeder need not be eligible itself; it must answer, log
//! what it replicates, and hold nothing errant: errant transactions would travel to the new primary. One that delays on
//! purpose has to apply at once, since a server passes on only what it has applied; it delays again afterwards.

use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

use super::candidate::{Moment, excerpt, purged};
use super::eligibility::judge_source;
use super::plan::{Refusal, RefusalReason};
use super::position::{Holding, Holdings};
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
        .filter_map(|instance| judge_feeder(topology, instance, holdings, moment).ok())
        .collect()
}

/// Whether others could be fed from a server at all, or why not.
fn judge_feeder<'a>(
    topology: &'a Topology,
    instance: &'a Instance,
    holdings: &'a Holdings,
    moment: &Moment,
) -> Result<Feeder<'a>, RefusalReason> {
    if let Some(reason) = moment.excluded.get(&instance.key) {
        return Err(reason.clone());
    }
    let facts = judge_source(topology, instance)?;
    let never_seen = || RefusalReason::Unknown("never seen".to_owned());
    let holding = holdings.get(&instance.key).ok_or_else(never_seen)?;
    if let Some(set) = &holding.errant {
        return Err(RefusalReason::Errant(excerpt(set)));
    }
    Ok(Feeder {
        instance,
        facts,
        position: &holding.position,
    })
}

/// Why one of two servers cannot be fed from the other one.
fn mismatch(
    feeder: &Feeder<'_>,
    fed: &Instance,
    fed_facts: &InstanceFacts,
    below: &BTreeSet<&InstanceKey>,
    moment: &Moment,
) -> Option<RefusalReason> {
    let key = &fed.key;
    // One below it gets its own from it: the two would form a ring that hangs on nobody.
    if below.contains(&feeder.instance.key) {
        return Some(RefusalReason::Unknown(format!("it replicates from {key}")));
    }
    if !can_follow(fed_facts, feeder.facts) {
        return Some(RefusalReason::Version(format!(
            "{} with binlog_format {}, and {key} runs {} with {}",
            feeder.facts.version, feeder.facts.binlog_format, fed_facts.version, fed_facts.binlog_format
        )));
    }
    if let Some(set) = purged(feeder.facts, fed_facts) {
        return Some(RefusalReason::Purged(excerpt(&set)));
    }
    let pair = (key.clone(), feeder.instance.key.clone());
    let failed = || RefusalReason::Unknown("that was tried, and failed".to_owned());
    moment.unfed.contains(&pair).then(failed)
}

/// Who gets what it has from `key`, without those who get it through the victim only.
fn below<'a>(topology: &'a Topology, key: &'a InstanceKey, victim: &'a InstanceKey) -> BTreeSet<&'a InstanceKey> {
    topology
        .descendants_beside(key, victim)
        .into_iter()
        .map(|instance| &instance.key)
        .collect()
}

/// The best of those that hold `position` to feed a candidate from: one that has applied it already, one in the same place, the
/// first by address.
pub(super) fn feeder_for<'f, 'a>(
    feeders: &'f [Feeder<'a>],
    candidate: &Candidate<'_>,
    position: &GtidSet,
    topology: &Topology,
    victim: &InstanceKey,
    moment: &Moment,
) -> Option<&'f Feeder<'a>> {
    let below = below(topology, &candidate.instance.key, victim);
    feeders
        .iter()
        .filter(|feeder| feeder.position.covers(position) && position.covers(feeder.position))
        .filter(|feeder| feeder.instance.key != candidate.instance.key)
        .filter(|feeder| mismatch(feeder, candidate.instance, candidate.facts, &below, moment).is_none())
        .min_by_key(|feeder| {
            (
                !feeder.facts.executed.covers(position),
                feeder.facts.data_center != candidate.facts.data_center,
                &feeder.instance.key,
            )
        })
}

/// Why a server that lacks something is fed from nobody: one reason for each that has more, in the order of their addresses.
pub(super) fn why_not_fed(
    topology: &Topology,
    victim: &InstanceKey,
    fed: &InstanceKey,
    moment: &Moment,
) -> Vec<Refusal> {
    let holdings = Holdings::remembering(topology, victim, moment.remembered.as_ref());
    let Some(fed) = topology.get(fed) else {
        return Vec::new();
    };
    let (Some(facts), Some(own)) = (fed.valid_facts(), holdings.get(&fed.key)) else {
        return Vec::new();
    };
    let below = below(topology, &fed.key, victim);
    let mut refused: Vec<Refusal> = topology
        .descendants_of(victim)
        .into_iter()
        .filter(|other| other.key != fed.key)
        .filter(|other| {
            let has_more = |holding: &Holding| holdings.missing(&holding.position, &own.position).is_some();
            holdings.get(&other.key).is_some_and(has_more)
        })
        .filter_map(|other| {
            let reason = match judge_feeder(topology, other, &holdings, moment) {
                Ok(feeder) => mismatch(&feeder, fed, facts, &below, moment)?,
                Err(reason) => reason,
            };
            Some(Refusal {
                instance: other.key.clone(),
                reason,
            })
        })
        .collect();
    refused.sort_by(|left, right| left.instance.cmp(&right.instance));
    refused
}
