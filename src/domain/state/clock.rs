//! The clock of the state: set back when it ran ahead.

use std::collections::BTreeSet;

use crate::domain::intent::IntentDetails;
use crate::domain::time::WallTime;

use super::apply::Change;
use super::record::{Phase, State};
use super::request::RequestProgress;

/// Sets the clock of the state to `now`. What was recorded as later than that was recorded by a clock that was ahead:
/// it counts as recorded now, so that a block lasts its time and no longer. A downtime keeps its length.
pub(super) fn correct(state: &mut State, now: WallTime, changes: &mut BTreeSet<Change>) {
    state.clock = now;
    let late = |at: &mut WallTime| {
        let is_late = *at > now;
        *at = (*at).min(now);
        is_late
    };
    for (id, cluster) in &mut state.clusters {
        let mut changed = late(&mut cluster.created_at);
        if let Some(primary) = &mut cluster.primary {
            changed |= late(&mut primary.since);
        }
        if changed {
            changes.insert(Change::Cluster(id.clone()));
        }
    }
    for (id, intent) in &mut state.intents {
        if let IntentDetails::Downtime { since, until, .. } = &mut intent.details {
            let ahead = i64::try_from(since.millis_since(now)).unwrap_or(i64::MAX);
            if late(since) {
                *until = until.map(|until| until.plus_millis(-ahead));
                changes.insert(Change::Intent(id.clone()));
            }
        }
    }
    for (uid, recovery) in &mut state.recoveries {
        let mut changed = late(&mut recovery.started);
        changed |= match &mut recovery.phase {
            Phase::Claimed => false,
            Phase::Opened { at, .. } | Phase::Ended { at, .. } => late(at),
        };
        if let Some(acknowledged) = &mut recovery.acknowledged {
            changed |= late(&mut acknowledged.at);
        }
        for step in &mut recovery.steps {
            changed |= late(&mut step.at);
        }
        if changed {
            changes.insert(Change::Recovery(uid.clone()));
        }
    }
    for (key, quarantine) in &mut state.quarantines {
        if late(&mut quarantine.since) {
            changes.insert(Change::Quarantine(key.clone()));
        }
    }
    for (id, detection) in &mut state.detections {
        if late(&mut detection.at) {
            changes.insert(Change::Detection(*id));
        }
    }
    for (instance, blocked) in &mut state.blocked {
        if late(&mut blocked.at) {
            changes.insert(Change::Blocked(instance.clone()));
        }
    }
    for (id, entry) in &mut state.audit {
        if late(&mut entry.at) {
            changes.insert(Change::Audit(*id));
        }
    }
    for (key, request) in &mut state.requests {
        let mut changed = late(&mut request.seen);
        if let Some(begun) = &mut request.begun {
            changed |= late(begun);
        }
        if let RequestProgress::Over { at, .. } = &mut request.progress {
            changed |= late(at);
        }
        if changed {
            changes.insert(Change::Request(key.clone()));
        }
    }
    if let Some(at) = &mut state.quorum_forced {
        late(at);
    }
}
