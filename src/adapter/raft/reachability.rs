//! Detects when a peer stops answering and when it answers again, so that each change is logged once. Peers get many requests a second,
//! and a log line for each would hide all other lines about a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::state::MemberId;

/// A peer is silent when it has answered no request for this long. Shorter gaps occur on a busy machine.
const SILENT_AFTER: Duration = Duration::from_millis(500);

/// A change to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has not answered for [`SILENT_AFTER`].
    Silent,
    /// It answers again, after this time.
    Answers(Duration),
}

/// Since when each silent peer has not answered. All links of a member share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Reachability(Arc<Mutex<BTreeMap<MemberId, Silence>>>);

#[derive(Debug)]
struct Silence {
    since: Instant,
    is_logged: bool,
}

impl Reachability {
    /// Records whether a peer answered a request at `now`; a refusal is an answer. Returns a change to log.
    pub(super) fn note(&self, peer: MemberId, answered: bool, now: Instant) -> Option<Change> {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            let ended = silent.remove(&peer).filter(|silence| silence.is_logged)?;
            return Some(Change::Answers(now.duration_since(ended.since)));
        }
        let silence = silent.entry(peer).or_insert(Silence {
            since: now,
            is_logged: false,
        });
        let is_new = !silence.is_logged && now.duration_since(silence.since) >= SILENT_AFTER;
        silence.is_logged |= is_new;
        is_new.then_some(Change::Silent)
    }

    /// The peers that have not answered for [`SILENT_AFTER`].
    pub(super) fn silent(&self) -> BTreeSet<MemberId> {
        let silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = silent.iter().filter(|(_, silence)| silence.is_logged);
        logged.map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: MemberId = 2;

    #[test]
    fn a_silent_peer_is_reported_once_and_its_return_too() {
        let (reachability, begun) = (Reachability::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        assert_eq!(reachability.note(PEER, false, at(0)), None);
        assert_eq!(reachability.note(PEER, false, at(499)), None);
        assert_eq!(reachability.note(PEER, false, at(500)), Some(Change::Silent));
        assert_eq!(reachability.note(PEER, false, at(5_000)), None);
        let away = Duration::from_secs(6);
        assert_eq!(reachability.note(PEER, true, at(6_000)), Some(Change::Answers(away)));
        assert_eq!(reachability.note(PEER, true, at(6_100)), None);
    }

    #[test]
    fn an_occasional_lost_request_is_not_reported() {
        let (reachability, begun) = (Reachability::default(), Instant::now());
        for round in 0..100 {
            let at = begun + Duration::from_millis(400) * round;
            assert_eq!(reachability.note(PEER, round % 2 == 1, at), None);
        }
    }

    #[test]
    fn peers_are_tracked_separately() {
        let (reachability, begun) = (Reachability::default(), Instant::now());
        reachability.note(PEER, false, begun);
        assert_eq!(reachability.note(PEER + 1, true, begun + SILENT_AFTER), None);
        assert_eq!(
            reachability.note(PEER, false, begun + SILENT_AFTER),
            Some(Change::Silent)
        );
    }
}
