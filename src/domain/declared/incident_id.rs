//! The id by which an operator names a failure that is shown and not repaired.

use crate::domain::key::InstanceKey;
use crate::domain::state::State;
use crate::domain::state::record::Detection;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

/// The detection of a failure that is not repaired is recorded every minute. Two detections further apart than this,
/// milliseconds, belong to two failures.
const MAX_GAP_MILLIS: u64 = 150_000;

/// The ids of the present failure of `old_primary`, oldest first. Each recorded detection gives one id, so that the
/// failure still has a known id after the oldest record is dropped. Empty when there is no present failure.
pub fn ids_of(state: &State, cluster: &ClusterId, old_primary: &InstanceKey, now: WallTime) -> Vec<String> {
    let mut ids = Vec::new();
    let mut later = now;
    let is_of_it = |detection: &&Detection| {
        detection.finding.cluster == *cluster
            && detection.finding.instance == *old_primary
            && detection.held_back.is_some()
    };
    for detection in state.detections.values().rev().filter(is_of_it) {
        if later.millis_since(detection.at) > MAX_GAP_MILLIS {
            break;
        }
        later = detection.at;
        ids.push(id(detection));
    }
    ids.reverse();
    ids
}

/// Time and number: numbers alone start again in a new group.
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
        let command = Command::RecordDetection {
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
        let now = |state: &State, at: i64| ids_of(state, &cluster_id(1), &key(1), WallTime(at));
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
