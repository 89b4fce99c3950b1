//! Servers that a recovery left behind: in downtime until they replicate again, so that nobody is woken by them and nothing is promoted
//! on them. Orchestrator writes the same downtime, on one member only; here it is an intent like any other.

use std::collections::BTreeSet;

use crate::domain::intent::{Intent, IntentId, IntentKind, Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::apply::Change;
use super::record::State;

/// The reason of such a downtime, as orchestrator writes it.
pub const LOST_IN_RECOVERY: &str = "lost-in-recovery";

/// Who asked for it.
const OWNER: &str = "ham4db";

/// How long it lasts when nothing ends it, milliseconds: a year, as orchestrator has it.
const LOST_MILLIS: i64 = 365 * 24 * 3600 * 1000;

fn id_of(instance: &InstanceKey) -> IntentId {
    IntentId {
        kind: IntentKind::Downtime,
        instance: instance.clone(),
        origin: Origin::Recovery,
    }
}

/// Servers were left behind at `now`.
pub(super) fn lose<'a>(
    state: &mut State,
    instances: impl IntoIterator<Item = &'a InstanceKey>,
    now: WallTime,
    changes: &mut BTreeSet<Change>,
) {
    for instance in instances {
        let intent = Intent {
            instance: instance.clone(),
            origin: Origin::Recovery,
            wish: Wish::Downtime {
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

/// A server is not lost any more.
pub(super) fn regain(state: &mut State, instance: &InstanceKey, changes: &mut BTreeSet<Change>) {
    let id = id_of(instance);
    if state.intents.remove(&id).is_some() {
        changes.insert(Change::Intent(id));
    }
}

/// The servers that recoveries left behind, with the intent that says so.
pub fn lost(state: &State) -> impl Iterator<Item = (&InstanceKey, &IntentId)> {
    state
        .intents
        .iter()
        .filter(|(id, intent)| {
            id.origin == Origin::Recovery && id.kind == IntentKind::Downtime && intent.wish.is_active(state.clock)
        })
        .map(|(id, _)| (&id.instance, id))
}
