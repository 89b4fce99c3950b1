//! Limits of the lists that grow over time: the oldest records are dropped first, of recoveries those that nothing depends on.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::topology::ClusterId;

use super::apply::Change;
use super::command::KEEP_RECENT_REPLACEMENTS;
use super::record::{Recovery, State};
use super::{MAX_AUDIT, MAX_BLOCKED, MAX_DETECTIONS, MAX_ERRORS, MAX_FORGOTTEN, MAX_MEMBERS, MAX_RECOVERIES};

/// How long the record of a replacement is kept before other records, milliseconds: a week. Its block lasts an hour by default.
const LONGEST_BLOCK_MILLIS: u64 = 7 * 24 * 3_600_000;

/// Trims every list to its limit. Too many seeds are refused instead, because each was requested.
pub(super) fn trim(state: &mut State, changes: &mut BTreeSet<Change>) {
    while state.detections.len() > MAX_DETECTIONS {
        if let Some((id, _)) = state.detections.pop_first() {
            changes.insert(Change::Detection(id));
        }
    }
    if state.recoveries.len() > MAX_RECOVERIES
        && let Some(uid) = dispensable_recovery(state)
    {
        state.recoveries.remove(&uid);
        changes.insert(Change::Recovery(uid));
    }
    while state.blocked.len() > MAX_BLOCKED {
        let oldest = state
            .blocked
            .values()
            .min_by_key(|blocked| (blocked.at, &blocked.instance));
        let Some(instance) = oldest.map(|blocked| blocked.instance.clone()) else {
            break;
        };
        state.blocked.remove(&instance);
        changes.insert(Change::Blocked(instance));
    }
    while state.forgotten.len() > MAX_FORGOTTEN {
        let first_over = state.forgotten.iter().min_by_key(|(key, until)| (**until, *key));
        let Some(instance) = first_over.map(|(key, _)| InstanceKey::clone(key)) else {
            break;
        };
        state.forgotten.remove(&instance);
        changes.insert(Change::Forgotten(instance));
    }
    while state.audit.len() > MAX_AUDIT {
        if let Some((id, _)) = state.audit.pop_first() {
            changes.insert(Change::Audit(id));
        }
    }
    while state.members.len() > MAX_MEMBERS {
        // Ids only grow: the lowest belongs to the member that joined first.
        if let Some((id, _)) = state.members.pop_first() {
            changes.insert(Change::Member(id));
        }
    }
}

/// The ended recovery that is dropped first. Failed attempts of repairs that a later attempt followed come first, whatever
/// their number: the later attempt keeps their count. Then the oldest of the others. Replacements of a primary that may block
/// the next one come last.
fn dispensable_recovery(state: &State) -> Option<String> {
    let ended = state.recoveries.values().filter(|recovery| !recovery.is_active());
    if state.version < KEEP_RECENT_REPLACEMENTS {
        return ended
            .min_by_key(|recovery| recovery.id)
            .map(|recovery| recovery.uid.clone());
    }
    let mut last_attempts: BTreeMap<(&ClusterId, RecoveryKind, &InstanceKey), u64> = BTreeMap::new();
    for recovery in state.recoveries.values() {
        let last = last_attempts.entry(repair_of(recovery)).or_default();
        *last = recovery.id.max(*last);
    }
    let is_superseded = |recovery: &Recovery| {
        !recovery.plan.kind.replaces_primary()
            && !recovery.is_successful()
            && last_attempts.get(&repair_of(recovery)) > Some(&recovery.id)
    };
    ended
        .min_by_key(|recovery| (may_block(state, recovery), !is_superseded(recovery), recovery.id))
        .map(|recovery| recovery.uid.clone())
}

fn repair_of(recovery: &Recovery) -> (&ClusterId, RecoveryKind, &InstanceKey) {
    let plan = &recovery.plan;
    (&plan.cluster, plan.kind, &plan.old_primary)
}

/// Whether a recovery may block the next replacement of the primary. How long it does is in the configuration of each member,
/// which the state does not know: a block that lasts longer than a week may end early.
fn may_block(state: &State, recovery: &Recovery) -> bool {
    let cluster = state.clusters.get(&recovery.plan.cluster);
    let document = cluster.and_then(|cluster| state.documents.get(cluster.document.as_ref()?));
    let millis = document
        .map_or(0, |document| document.block_millis)
        .max(LONGEST_BLOCK_MILLIS);
    recovery.plan.kind.replaces_primary()
        && recovery.successor().is_some()
        && recovery.acknowledged.is_none()
        && recovery
            .ended()
            .is_some_and(|ended| state.clock.millis_since(ended) < millis)
}

/// Adds errors to the record of a recovery up to the limit.
pub(super) fn add_errors(recovery: &mut Recovery, errors: impl IntoIterator<Item = String>) {
    let room = MAX_ERRORS.saturating_sub(recovery.errors.len());
    recovery.errors.extend(errors.into_iter().take(room));
}
