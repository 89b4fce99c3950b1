//! Whether a primary that was never seen may still be starting: all servers, its replicas included, have just started.

use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::evidence::never_connected_to_source;

/// How long after the start of its replicas a primary may take to start before it counts as failed, milliseconds. A
/// primary that has to recover its redo log takes longer than idle replicas.
const GRACE_MILLIS: i64 = 60_000;

/// How much later than the real start a reported start may be, milliseconds: servers report their uptime in whole
/// seconds, rounded down, and the time since the probe is rounded down too.
const START_PRECISION_MILLIS: i64 = 2_000;

/// Until when a primary that does not answer is not treated as failed because all servers around it have just started;
/// `None` when that is not the case.
///
/// The condition: all answering replicas have started within the last minute, and no server has seen the primary since.
/// This member has not, nor has any of these replicas, which would otherwise report that it tries to *re*connect.
/// Without this proof there is no grace period: the recovery of a dead primary must not wait.
pub fn startup_grace(topology: &Topology, primary: &InstanceKey) -> Option<WallTime> {
    let replicas: Vec<&Instance> = topology
        .replicas_of(primary)
        .filter(|replica| replica.is_valid())
        .collect();
    let starts: Vec<WallTime> = replicas.iter().filter_map(|replica| replica.started()).collect();
    let (first, last) = (*starts.iter().min()?, *starts.iter().max()?);
    let has_just_started = |start: WallTime| start.plus_millis(GRACE_MILLIS) > topology.taken;
    let seen = topology.get(primary).and_then(|instance| instance.last_seen);
    let is_new = starts.len() == replicas.len() && has_just_started(first);
    let was_seen = seen.is_some_and(|seen| seen.plus_millis(START_PRECISION_MILLIS) >= first)
        || !replicas.iter().all(|replica| never_connected_to_source(replica));
    (is_new && !was_seen).then(|| last.plus_millis(GRACE_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};
    use crate::domain::instance::Instance;

    fn restarted(n: u32, seconds_ago: u64, connected_before: bool) -> Instance {
        replica(n, 1, "1:1-100")
            .cut()
            .facts(|facts| facts.uptime_seconds = seconds_ago)
            .channel(|channel| {
                let word = if connected_before { "reconnecting" } else { "connecting" };
                channel.io_error.message = format!("Error {word} to source 'repl@db1:3306'. This was attempt 1/10");
            })
    }

    fn never_seen() -> Instance {
        Instance {
            facts: None,
            last_seen: None,
            ..primary(1, "1:1-100").dead()
        }
    }

    #[test]
    fn a_primary_gets_a_minute_when_all_its_replicas_have_just_started_and_nobody_saw_it() {
        let young = topology([never_seen(), restarted(2, 20, false), restarted(3, 5, false)]);
        assert_eq!(startup_grace(&young, &key(1)), Some(NOW.plus_millis(55_000)));
        let seen_before_the_starts = Instance {
            last_seen: Some(NOW.plus_millis(-22_001)),
            ..primary(1, "1:1-100").dead()
        };
        let young = topology([seen_before_the_starts, restarted(2, 20, false), restarted(3, 5, false)]);
        assert!(startup_grace(&young, &key(1)).is_some());
    }

    #[test]
    fn there_is_no_grace_once_anybody_saw_the_primary_or_a_replica_is_old() {
        let seen = Instance {
            last_seen: Some(NOW.plus_millis(-10_000)),
            ..primary(1, "1:1-100").dead()
        };
        let by_us = topology([seen, restarted(2, 20, false), restarted(3, 5, false)]);
        let seen_in_the_second_of_the_start = Instance {
            last_seen: Some(NOW.plus_millis(-21_900)),
            ..primary(1, "1:1-100").dead()
        };
        let about_then = topology([
            seen_in_the_second_of_the_start,
            restarted(2, 20, false),
            restarted(3, 5, false),
        ]);
        let by_a_replica = topology([never_seen(), restarted(2, 20, false), restarted(3, 5, true)]);
        let old_replica = topology([never_seen(), restarted(2, 3600, false), restarted(3, 5, false)]);
        let a_minute_ago = topology([never_seen(), restarted(2, 60, false), restarted(3, 59, false)]);
        let says_nothing = topology([
            never_seen(),
            restarted(2, 20, false).channel(|channel| channel.io_error.message.clear()),
        ]);
        let nobody_answers = topology([never_seen(), restarted(2, 5, false).dead()]);
        for view in [
            by_us,
            about_then,
            by_a_replica,
            old_replica,
            a_minute_ago,
            says_nothing,
            nobody_answers,
        ] {
            assert_eq!(startup_grace(&view, &key(1)), None, "{view:?}");
        }
    }
}
