//! The replicas from which a successor can receive what it lacks.
//!
//! The replica that received most is not always the one to promote: a rule, its data centre or a filter speaks
//! against it. Then the preferred replica first catches up from it, by GTID, and nothing is lost. The replica to
//! catch up from does not have to be eligible. It must answer, log what it replicates, and hold nothing errant:
//! errant transactions would travel to the new primary. If it delays on purpose, it has to apply at once, since a
//! server passes on only what it has applied. It delays again afterwards.

use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::compatibility::can_follow;
use crate::domain::recovery::eligibility::check_source_by_gtid;
use crate::domain::recovery::position::{ReceivedTransactions, ReplicaPosition, purged};
use crate::domain::recovery::promotion_option::{Candidate, CatchUpSource};
use crate::domain::recovery::refusal::{Refusal, RefusalReason, excerpt};
use crate::domain::topology::Topology;

/// All replicas below `old_primary` from which others could catch up.
pub(super) fn catch_up_sources<'a>(
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    received_transactions: &'a ReceivedTransactions,
    inputs: &ChoiceInputs,
) -> Vec<CatchUpSource<'a>> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|instance| check_catch_up_source(topology, instance, received_transactions, inputs).ok())
        .collect()
}

/// Whether others could catch up from a server at all, or why not.
fn check_catch_up_source<'a>(
    topology: &'a Topology,
    instance: &'a Instance,
    received_transactions: &'a ReceivedTransactions,
    inputs: &ChoiceInputs,
) -> Result<CatchUpSource<'a>, RefusalReason> {
    if let Some(reason) = inputs.excluded.get(&instance.key) {
        return Err(reason.clone());
    }
    let facts = check_source_by_gtid(topology, instance)?;
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

/// Why one of two servers cannot catch up from the other one.
fn mismatch(
    catch_up_source: &CatchUpSource<'_>,
    caught_up: &Instance,
    caught_up_facts: &InstanceFacts,
    below: &BTreeSet<&InstanceKey>,
    inputs: &ChoiceInputs,
) -> Option<RefusalReason> {
    let key = &caught_up.key;
    // A server below it receives from it: the two would form a ring without a source.
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
    let failed = || RefusalReason::Unknown("catching up from it failed before".to_owned());
    inputs.not_caught_up.contains(&pair).then(failed)
}

/// The servers that replicate from `key`, directly or not, without those that do so through the old primary only.
fn below<'a>(topology: &'a Topology, key: &'a InstanceKey, old_primary: &'a InstanceKey) -> BTreeSet<&'a InstanceKey> {
    topology
        .descendants_beside(key, old_primary)
        .into_iter()
        .map(|instance| &instance.key)
        .collect()
}

/// The best replica that holds `position` for a candidate to catch up from: one that has applied it already, then one
/// in the same data centre, then the first by address.
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

/// Why a server that lacks something cannot catch up: one reason for each server that has more, ordered by address.
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
            let reason = match check_catch_up_source(topology, other, &received_transactions, inputs) {
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
