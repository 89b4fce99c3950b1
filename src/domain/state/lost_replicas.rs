//! Replicas that a recovery left behind. They are in downtime until they replicate again, so that they cause no alert
//! and are not promoted. Orchestrator writes the same downtime on one member only; ham4db records it as an intent.

use std::collections::BTreeSet;

use crate::domain::intent::{Intent, IntentDetails, IntentId, IntentKind, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::apply::Change;
use super::record::State;

/// Reason of such a downtime, with orchestrator's text.
pub const LOST_IN_RECOVERY: &str = "lost-in-recovery";

/// Owner of such a downtime.
const OWNER: &str = "ham4db";

/// Longest duration of such a downtime, milliseconds: a year, as in orchestrator.
const LOST_MILLIS: i64 = 365 * 24 * 3600 * 1000;

fn id_of(instance: &InstanceKey) -> IntentId {
    IntentId {
        kind: IntentKind::Downtime,
        instance: instance.clone(),
        origin: Origin::Recovery,
    }
}

/// Puts replicas that were left behind into downtime at `now`.
pub(super) fn mark_lost<'a>(
    state: &mut State,
    instances: impl IntoIterator<Item = &'a InstanceKey>,
    now: WallTime,
    changes: &mut BTreeSet<Change>,
) {
    for instance in instances {
        let intent = Intent {
            instance: instance.clone(),
            origin: Origin::Recovery,
            details: IntentDetails::Downtime {
                owner: OWNER.to_owned(),
                reason: LOST_IN_RECOVERY.to_owned(),
                since: now,
                until: Some(now.plus_millis(LOST_MILLIS)),
            },
        };
        changes.insert(Change::Intent(intent.id()));
        state.intents.insert(intent.id(), intent);
    }
}

/// Ends the downtime of a replica that is no longer lost.
pub(super) fn clear_lost(state: &mut State, instance: &InstanceKey, changes: &mut BTreeSet<Change>) {
    let id = id_of(instance);
    if state.intents.remove(&id).is_some() {
        changes.insert(Change::Intent(id));
    }
}

/// The replicas that recoveries left behind, with the intent of each.
pub fn lost_replicas(state: &State) -> impl Iterator<Item = (&InstanceKey, &IntentId)> {
    state
        .intents
        .iter()
        .filter(|(id, intent)| {
            id.origin == Origin::Recovery && id.kind == IntentKind::Downtime && intent.details.is_active(state.clock)
        })
        .map(|(id, _)| (&id.instance, id))
}
