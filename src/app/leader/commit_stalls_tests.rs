use super::*;
use crate::app::cluster::view::of_recorded as view;
use crate::domain::fixture::{Adjust as _, NOW, key, primary, replica};
use crate::domain::policy::RecoveryMode;

fn still_for(millis: i64) -> Instance {
    Instance {
        binlog_unmoved_since: Some(NOW.plus_millis(-millis)),
        ..primary(1, "1:1-9")
    }
}

#[test]
fn only_a_primary_whose_log_stands_still_or_that_does_not_answer_is_looked_at() {
    let suspect = |top: Instance| subject(&view(top, [replica(2, 1, "1:1-9")]), NOW).map(|subject| subject.is_suspect);
    assert_eq!(suspect(still_for(100)), Some(false));
    assert_eq!(suspect(still_for(5000)), Some(true));
    assert_eq!(suspect(still_for(100).failing(ProbeFailure::Stalled)), Some(true));
    assert_eq!(
        suspect(still_for(5000).dead()),
        None,
        "a dead one commits nothing anyway"
    );
    assert_eq!(suspect(still_for(5000).facts(|facts| facts.read_only = true)), None);
    let waits_for_replicas = still_for(5000).facts(|facts| facts.semi_sync.wait_sessions = 1);
    assert_eq!(
        suspect(waits_for_replicas),
        None,
        "others wait behind the one that waits for acknowledgements"
    );
}

#[test]
fn a_row_is_written_only_on_a_primary_that_answers_and_is_the_only_one() {
    let may_write = |view: &ClusterView| subject(view, NOW).is_some_and(|subject| subject.may_write);
    assert!(may_write(&view(still_for(5000), [])));
    assert!(!may_write(&view(still_for(5000).failing(ProbeFailure::Stalled), [])));
    assert!(!may_write(&view(
        still_for(5000).facts(|facts| facts.group_name = "g".to_owned()),
        []
    )));
    let second = [primary(2, "2:1"), replica(3, 2, "2:1")];
    assert!(!may_write(&view(still_for(5000), second)));
    for held_back in [HeldBack::Paused, HeldBack::Mode(RecoveryMode::Off)] {
        let mut paused = view(still_for(5000), []);
        paused.policy.held_back = Some(held_back);
        assert!(!may_write(&paused));
    }
    let mut working = view(still_for(5000), []);
    working.policy.in_recovery.insert(key(1));
    assert!(subject(&working, NOW).is_some(), "a repair works on it");
    let uid = "r1".to_owned();
    working.policy.held_back = Some(HeldBack::RecoveryRuns { uid });
    assert!(subject(&working, NOW).is_none(), "a recovery replaces it");
}
