//! What a member has heard of its leader and of its own progress since its start.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::{Instant as _, ServerState};

use super::types::{LogId, TypeConfig};
use crate::domain::state::MemberId;

/// The metrics of openraft.
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// What this member has seen of leader and log since its start.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<Seen>);

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The last message of a leader.
    pub(super) heard: Option<(Instant, MemberId)>,
    /// The first commit index that was seen after the start.
    pub(super) target: Option<u64>,
    /// Whether the state reached `target`.
    pub(super) caught_up: bool,
    /// The leader that was checked last, and whether its API answered.
    pub(super) api: Option<(MemberId, Result<(), String>)>,
}

impl Liveness {
    /// Reads or changes the facts.
    pub(super) fn seen<T>(&self, access: impl FnOnce(&mut Seen) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a message of a leader.
    pub(super) fn heard(&self, at: Instant, leader: MemberId, commit: Option<LogId>) {
        self.seen(|seen| {
            seen.heard = Some((at, leader));
            seen.target = seen.target.or(commit.map(|commit| commit.index()));
        });
    }

    /// Time since the last message of a leader.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.seen(|seen| seen.heard.map(|(at, _)| now.saturating_duration_since(at)))
    }

    /// Records how far the state has been applied.
    pub(super) fn observe(&self, metrics: &Metrics) {
        let leads = metrics.state == ServerState::Leader && (is_alone(metrics) || metrics.last_quorum_acked.is_some());
        self.seen(|seen| {
            if leads {
                seen.target = seen.target.or(metrics.cluster_committed.map(|commit| commit.index()));
            }
            let applied = metrics.last_applied.map(|applied| applied.index());
            if seen.target.is_some() && applied >= seen.target {
                seen.caught_up = true;
            }
        });
    }
}

/// Whether the member is the only voter, which needs no acknowledgement.
fn is_alone(metrics: &Metrics) -> bool {
    metrics.membership_config.voter_ids().eq([metrics.id])
}

/// Time since a quorum acknowledged this leader; zero when it is the only voter.
pub(super) fn quorum_age(metrics: &Metrics) -> Option<Duration> {
    if is_alone(metrics) {
        Some(Duration::ZERO)
    } else {
        metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catching_up_is_judged_by_the_first_commit_seen() {
        let liveness = Liveness::default();
        let id = |index| LogId::new_term_index(1, index);
        liveness.heard(Instant::now(), 1, Some(id(10)));
        liveness.heard(Instant::now(), 1, Some(id(99)));
        let mut metrics = Metrics::new_initial(2);
        metrics.last_applied = Some(id(9));
        liveness.observe(&metrics);
        assert!(!liveness.seen(|seen| seen.caught_up));
        metrics.last_applied = Some(id(10));
        liveness.observe(&metrics);
        assert!(liveness.seen(|seen| seen.caught_up));
    }
}
