//! What lasts: the id by which people name a failure that is shown and not repaired.

use crate::domain::key::InstanceKey;
use crate::domain::state::State;
use crate::domain::state::record::Detection;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

/// A failure that nothing is done about is written down again every minute as long as it lasts; two that are further apart than this
/// are two, milliseconds.
const APART_MILLIS: u64 = 150_000;

/// The ids of the failure of `old_primary` that lasts now, oldest first: each time that it was written down gives one, so that the first one
/// may leave the records and the failure can still be named. Empty when none lasts.
pub fn of(state: &State, cluster: &ClusterId, old_primary: &InstanceKey, now: WallTime) -> Vec<String> {
    let mut ids = Vec::new();
    let mut later = now;
    let is_of_it = |detection: &&Detection| {
        detection.finding.cluster == *cluster
            && detection.finding.instance == *old_primary
            && detection.held_back.is_some()
    };
    for detection in state.detections.values().rev().filter(is_of_it) {
        if later.millis_since(detection.at) > APART_MILLIS {
            break;
        }
        later = detection.at;
        ids.push(id(detection));
    }
    ids.reverse();
    ids
}

/// Time and number: numbers alone begin anew in a new group.
fn id(detection: &Detection) -> String {
    format!("{}-{}", detection.at.0, detection.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::HeldBack;
    use crate::domain::state::sample::{cluster_id, finding, key};
    use crate::domain::state::{Command, Proposal, apply};

    fn detect(state: &mut State, at: i64, old_primary: u32, held_back: Option<HeldBack>) {
        let command = Command::Detect {
            finding: Box::new(finding(1, old_primary)),
            member_name: "a".to_owned(),
            held_back,
            hooks: Vec::new(),
        };
        apply(state, &Proposal::new(WallTime(at), command));
    }

    #[test]
    fn a_failure_that_lasts_has_ids_and_one_that_is_over_has_none() {
        let mut state = State::default();
        let now = |state: &State, at: i64| of(state, &cluster_id(1), &key(1), WallTime(at));
        assert_eq!(now(&state, 0), Vec::<String>::new());
        // One before: another incident.
        detect(&mut state, 1_000, 1, Some(HeldBack::Paused));
        detect(&mut state, 500_000, 1, Some(HeldBack::Paused));
        detect(&mut state, 560_000, 1, Some(HeldBack::Paused));
        // Another server's, and one that was repaired.
        detect(&mut state, 570_000, 2, Some(HeldBack::Paused));
        detect(&mut state, 580_000, 1, None);
        assert_eq!(now(&state, 600_000), ["500000-2", "560000-3"]);
        assert_eq!(now(&state, 800_000), Vec::<String>::new());
    }
}
