//! Limits of the lists that grow over time: the oldest records are dropped first.

use std::collections::BTreeSet;

use crate::domain::key::InstanceKey;

use super::apply::Change;
use super::record::{Recovery, State};
use super::{MAX_AUDIT, MAX_BLOCKED, MAX_DETECTIONS, MAX_ERRORS, MAX_FORGOTTEN, MAX_MEMBERS, MAX_RECOVERIES};

/// Trims every list to its limit. Too many seeds are refused instead, because each was requested.
pub(super) fn trim(state: &mut State, changes: &mut BTreeSet<Change>) {
    while state.detections.len() > MAX_DETECTIONS {
        if let Some((id, _)) = state.detections.pop_first() {
            changes.insert(Change::Detection(id));
        }
    }
    if state.recoveries.len() > MAX_RECOVERIES {
        let oldest = state
            .recoveries
            .values()
            .filter(|recovery| !recovery.is_active())
            .min_by_key(|recovery| recovery.id);
        if let Some(uid) = oldest.map(|recovery| recovery.uid.clone()) {
            state.recoveries.remove(&uid);
            changes.insert(Change::Recovery(uid));
        }
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

/// Adds errors to the record of a recovery up to the limit.
pub(super) fn add_errors(recovery: &mut Recovery, errors: impl IntoIterator<Item = String>) {
    let room = MAX_ERRORS.saturating_sub(recovery.errors.len());
    recovery.errors.extend(errors.into_iter().take(room));
}
