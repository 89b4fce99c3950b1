//! Which peers do not answer, told once when it begins and once when it ends: a request goes to each peer many times a second, and a
//! line for each would bury everything else that is told of a failure.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::state::MemberId;

/// A peer is silent when nothing that was sent to it for so long was answered; shorter gaps are a busy machine.
const SILENT_AFTER: Duration = Duration::from_millis(500);

/// What there is to tell of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has not answered for [`SILENT_AFTER`].
    Silent,
    /// It answers again after so long.
    Answers(Duration),
}

/// Since when which peer has not answered, shared by all links of a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach(Arc<Mutex<BTreeMap<MemberId, Silence>>>);

#[derive(Debug)]
struct Silence {
    since: Instant,
    is_told: bool,
}

impl Reach {
    /// Takes in whether a request to a peer was answered at `now`, with a refusal too.
    pub(super) fn note(&self, peer: MemberId, answered: bool, now: Instant) -> Option<Change> {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            let ended = silent.remove(&peer).filter(|silence| silence.is_told)?;
            return Some(Change::Answers(now.duration_since(ended.since)));
        }
        let silence = silent.entry(peer).or_insert(Silence {
            since: now,
            is_told: false,
        });
        let is_new = !silence.is_told && now.duration_since(silence.since) >= SILENT_AFTER;
        silence.is_told |= is_new;
        is_new.then_some(Change::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: MemberId = 2;

    #[test]
    fn a_peer_that_stays_silent_is_told_once_and_its_return_too() {
        let (reach, begun) = (Reach::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        assert_eq!(reach.note(PEER, false, at(0)), None);
        assert_eq!(reach.note(PEER, false, at(499)), None);
        assert_eq!(reach.note(PEER, false, at(500)), Some(Change::Silent));
        assert_eq!(reach.note(PEER, false, at(5_000)), None);
        let away = Duration::from_secs(6);
        assert_eq!(reach.note(PEER, true, at(6_000)), Some(Change::Answers(away)));
        assert_eq!(reach.note(PEER, true, at(6_100)), None);
    }

    #[test]
    fn a_request_now_and_then_that_is_lost_is_not_told() {
        let (reach, begun) = (Reach::default(), Instant::now());
        for round in 0..100 {
            let at = begun + Duration::from_millis(400) * round;
            assert_eq!(reach.note(PEER, round % 2 == 1, at), None);
        }
    }

    #[test]
    fn peers_are_told_apart() {
        let (reach, begun) = (Reach::default(), Instant::now());
        reach.note(PEER, false, begun);
        assert_eq!(reach.note(PEER + 1, true, begun + SILENT_AFTER), None);
        assert_eq!(reach.note(PEER, false, begun + SILENT_AFTER), Some(Change::Silent));
    }
}
