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

use super::candidate::{ChoiceInputs, excerpt, purged};
use super::eligibility::judge_source;
use super::plan::{Refusal, RefusalReason};
use super::position::{ReceivedTransactions, ReplicaPosition};
use super::rank::{Candidate, can_follow};

/// A replica that others could be fed from.
pub(super) struct CatchUpSource<'a> {
    pub(super) instance: &'a Instance,
    pub(super) facts: &'a InstanceFacts,
    pub(super) position: &'a GtidSet,
}

/// All below `old_primary` that could feed others.
pub(super) fn catch_up_sources<'a>(
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    received_transactions: &'a ReceivedTransactions,
    inputs: &ChoiceInputs,
) -> Vec<CatchUpSource<'a>> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|instance| judge_catch_up_source(topology, instance, received_transactions, inputs).ok())
        .collect()
}

/// Whether others could be fed from a server at all, or why not.
fn judge_catch_up_source<'a>(
    topology: &'a Topology,
    instance: &'a Instance,
    received_transactions: &'a ReceivedTransactions,
    inputs: &ChoiceInputs,
) -> Result<CatchUpSource<'a>, RefusalReason> {
    if let Some(reason) = inputs.excluded.get(&instance.key) {
        return Err(reason.clone());
    }
    let facts = judge_source(topology, instance)?;
    let never_seen = || RefusalReason::Unknown("never seen".to_owned());
    let holding = received_transactions.get(&instance.key).ok_or_else(never_seen)?;
    if let Some(set) = &holding.errant {
        return Err(RefusalReason::Errant(excerpt(set)));
    }
    Ok(CatchUpSource {
        instance,
        facts,
        position: &holding.position,
    })
}

/// Why one of two servers cannot be fed from the other one.
fn mismatch(
    catch_up_source: &CatchUpSource<'_>,
    caught_up: &Instance,
    caught_up_facts: &InstanceFacts,
    below: &BTreeSet<&InstanceKey>,
    inputs: &ChoiceInputs,
) -> Option<RefusalReason> {
    let key = &caught_up.key;
    // One below it gets its own from it: the two would form a ring that hangs on nobody.
    if below.contains(&catch_up_source.instance.key) {
        return Some(RefusalReason::Unknown(format!("it replicates from {key}")));
    }
    if !can_follow(caught_up_facts, catch_up_source.facts) {
        return Some(RefusalReason::Version(format!(
            "{} with binlog_format {}, and {key} runs {} with {}",
            catch_up_source.facts.version,
            catch_up_source.facts.binlog_format,
            caught_up_facts.version,
            caught_up_facts.binlog_format
        )));
    }
    if let Some(set) = purged(catch_up_source.facts, caught_up_facts) {
        return Some(RefusalReason::Purged(excerpt(&set)));
    }
    let pair = (key.clone(), catch_up_source.instance.key.clone());
    let failed = || RefusalReason::Unknown("that was tried, and failed".to_owned());
    inputs.not_caught_up.contains(&pair).then(failed)
}

/// Who gets what it has from `key`, without those who get it through the old primary only.
fn below<'a>(topology: &'a Topology, key: &'a InstanceKey, old_primary: &'a InstanceKey) -> BTreeSet<&'a InstanceKey> {
    topology
        .descendants_beside(key, old_primary)
        .into_iter()
        .map(|instance| &instance.key)
        .collect()
}

/// The best of those that hold `position` to feed a candidate from: one that has applied it already, one in the same place, the
/// first by address.
pub(super) fn catch_up_source_for<'f, 'a>(
    catch_up_sources: &'f [CatchUpSource<'a>],
    candidate: &Candidate<'_>,
    position: &GtidSet,
    topology: &Topology,
    old_primary: &InstanceKey,
    inputs: &ChoiceInputs,
) -> Option<&'f CatchUpSource<'a>> {
    let below = below(topology, &candidate.instance.key, old_primary);
    catch_up_sources
        .iter()
        .filter(|catch_up_source| {
            catch_up_source.position.covers(position) && position.covers(catch_up_source.position)
        })
        .filter(|catch_up_source| catch_up_source.instance.key != candidate.instance.key)
        .filter(|catch_up_source| {
            mismatch(catch_up_source, candidate.instance, candidate.facts, &below, inputs).is_none()
        })
        .min_by_key(|catch_up_source| {
            (
                !catch_up_source.facts.executed.covers(position),
                catch_up_source.facts.data_center != candidate.facts.data_center,
                &catch_up_source.instance.key,
            )
        })
}

/// Why a server that lacks something is fed from nobody: one reason for each that has more, in the order of their addresses.
pub(super) fn why_not_caught_up(
    topology: &Topology,
    old_primary: &InstanceKey,
    caught_up: &InstanceKey,
    inputs: &ChoiceInputs,
) -> Vec<Refusal> {
    let received_transactions = ReceivedTransactions::remembering(topology, old_primary, inputs.remembered.as_ref());
    let Some(caught_up) = topology.get(caught_up) else {
        return Vec::new();
    };
    let (Some(facts), Some(own)) = (caught_up.valid_facts(), received_transactions.get(&caught_up.key)) else {
        return Vec::new();
    };
    let below = below(topology, &caught_up.key, old_primary);
    let mut refused: Vec<Refusal> = topology
        .descendants_of(old_primary)
        .into_iter()
        .filter(|other| other.key != caught_up.key)
        .filter(|other| {
            let has_more = |holding: &ReplicaPosition| {
                received_transactions
                    .missing(&holding.position, &own.position)
                    .is_some()
            };
            received_transactions.get(&other.key).is_some_and(has_more)
        })
        .filter_map(|other| {
            let reason = match judge_catch_up_source(topology, other, &received_transactions, inputs) {
                Ok(catch_up_source) => mismatch(&catch_up_source, caught_up, facts, &below, inputs)?,
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
