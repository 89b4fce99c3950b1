//! Whether this member may be trusted: a voter that has caught up, with proof of a live quorum.
//!
//! openraft's own state is no such proof: a leader that lost its quorum stays `Leader`, and an isolated follower remembers its leader
//! until its timer fires.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};

use super::member::{RaftIncarnation, Shared};
use super::types::{LogId, MemberNode, TypeConfig};
use crate::app::ports::Health;
use crate::domain::state::MemberId;

/// Between two looks at the leader's API, and the time that one may take.
const API_INTERVAL: Duration = Duration::from_secs(1);

pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// What this member has seen since its start.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    heard: Option<(Instant, MemberId)>,
    /// The first commit index that was seen after the start.
    target: Option<u64>,
    caught_up: bool,
    api: Option<(MemberId, Result<(), String>)>,
}

impl Liveness {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A leader's message arrived.
    pub(super) fn heard(&self, at: Instant, leader: MemberId, commit: Option<LogId>) {
        self.seen(|seen| {
            seen.heard = Some((at, leader));
            seen.target = seen.target.or(commit.map(|commit| commit.index()));
        });
    }

    /// How long ago a leader was heard.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.seen(|seen| seen.heard.map(|(at, _)| now.saturating_duration_since(at)))
    }

    /// Takes note of how far the state has come.
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

/// Whether the member is the only voter, which needs nobody's acknowledgement.
fn is_alone(metrics: &Metrics) -> bool {
    metrics.membership_config.voter_ids().eq([metrics.id])
}

/// How long ago a quorum acknowledged this leader; zero when it is alone.
pub(super) fn quorum_age(metrics: &Metrics) -> Option<Duration> {
    if is_alone(metrics) {
        Some(Duration::ZERO)
    } else {
        metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
    }
}

/// What the verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signs {
    stopped: Option<String>,
    backend: Option<String>,
    place: Place,
    caught_up: bool,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Absent,
    Learner,
    Voter,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Leader {
        quorum_age: Option<Duration>,
    },
    Follower {
        silence: Option<Duration>,
        leader_api: Option<Result<(), String>>,
    },
}

fn judge(signs: &Signs, bound: Duration) -> Result<(), String> {
    if let Some(why) = &signs.stopped {
        return Err(format!("consensus stopped: {why}"));
    }
    if let Some(why) = &signs.backend {
        return Err(format!("the backend takes no writes: {why}"));
    }
    match signs.place {
        Place::Absent | Place::Learner => return Err("joining".to_owned()),
        Place::Voter => {}
    }
    match &signs.role {
        Role::Leader { quorum_age: Some(age) } if *age <= bound => {}
        Role::Leader { quorum_age: Some(age) } => {
            return Err(format!("leader without a quorum for {} ms", age.as_millis()));
        }
        Role::Leader { quorum_age: None } => return Err("leader that no quorum has acknowledged yet".to_owned()),
        Role::Follower { silence: Some(age), .. } if *age > bound => {
            return Err(format!("no leader heard for {} ms", age.as_millis()));
        }
        Role::Follower { silence: None, .. } => return Err("no leader heard since the start".to_owned()),
        Role::Follower { leader_api: None, .. } => return Err("the leader's API was not reached yet".to_owned()),
        Role::Follower {
            leader_api: Some(Err(why)),
            ..
        } => return Err(format!("the leader's API cannot be reached: {why}")),
        Role::Follower {
            leader_api: Some(Ok(())),
            ..
        } => {}
    }
    if signs.caught_up {
        Ok(())
    } else {
        Err("catching up".to_owned())
    }
}

/// The health of this member, as `/api/raft-health` tells it.
pub(super) fn health(shared: &Shared) -> Health {
    let Some(incarnation) = shared.incarnation.load_full() else {
        let why = shared
            .failure()
            .map_or_else(|| shared.situation(), |why| format!("consensus stopped: {why}"));
        return Health::Unhealthy(why);
    };
    let metrics = incarnation.raft.metrics().borrow_watched().clone();
    incarnation.liveness.observe(&metrics);
    let signs = signs(shared, &incarnation, &metrics);
    judge(&signs, shared.settings.timings.quorum_proof).map_or_else(Health::Unhealthy, |()| Health::Healthy)
}

fn signs(shared: &Shared, incarnation: &RaftIncarnation, metrics: &Metrics) -> Signs {
    let membership = &metrics.committed_membership_config;
    let place = match membership.get_node(&metrics.id) {
        Some(_) if membership.voter_ids().any(|voter| voter == metrics.id) => Place::Voter,
        Some(_) => Place::Learner,
        None => Place::Absent,
    };
    let role = if metrics.state == ServerState::Leader {
        Role::Leader {
            quorum_age: quorum_age(metrics),
        }
    } else {
        incarnation.liveness.seen(|seen| Role::Follower {
            silence: seen.heard.map(|(at, _)| at.elapsed()),
            leader_api: match (&seen.api, seen.heard) {
                (Some((asked, result)), Some((_, leader))) if *asked == leader => Some(result.clone()),
                _ => None,
            },
        })
    };
    Signs {
        stopped: shared
            .failure()
            .or_else(|| metrics.running_state.as_ref().err().map(ToString::to_string)),
        backend: incarnation.trouble.since().map(|(_, why)| why),
        place,
        caught_up: incarnation.liveness.seen(|seen| seen.caught_up),
        role,
    }
}

/// Looks, while this member follows, whether the leader's API answers. A member that cannot reach it cannot serve writes.
pub(super) async fn watch_leader_api(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) {
    loop {
        let leader = incarnation.liveness.seen(|seen| seen.heard.map(|(_, leader)| leader));
        let known = leader
            .filter(|leader| *leader != incarnation.own.member)
            .and_then(|leader| Some((leader, address_of(shared, incarnation, leader)?)));
        let Some((leader, node)) = known else {
            tokio::time::sleep(shared.settings.timings.heartbeat).await;
            continue;
        };
        let result = shared.dialer.reaches_api(&node, &node.http_uri, API_INTERVAL).await;
        let changed = incarnation.liveness.seen(|seen| {
            let entry = Some((leader, result));
            let changed = seen.api.as_ref().is_none_or(|(before, _)| *before != leader);
            seen.api = entry;
            changed
        });
        // A new leader is looked at soon once more: its listener may be a moment behind its election.
        tokio::time::sleep(if changed { API_INTERVAL / 4 } else { API_INTERVAL }).await;
    }
}

fn address_of(shared: &Shared, incarnation: &RaftIncarnation, member: MemberId) -> Option<MemberNode> {
    let metrics = incarnation.raft.metrics().borrow_watched().clone();
    let node = metrics.membership_config.get_node(&member)?;
    Some(super::membership::current_address(shared, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(1500);

    fn follower() -> Signs {
        Signs {
            stopped: None,
            backend: None,
            place: Place::Voter,
            caught_up: true,
            role: Role::Follower {
                silence: Some(Duration::from_millis(90)),
                leader_api: Some(Ok(())),
            },
        }
    }

    fn reason(signs: &Signs) -> String {
        judge(signs, BOUND).unwrap_err()
    }

    #[test]
    fn voter_with_a_leader_is_healthy() {
        assert_eq!(judge(&follower(), BOUND), Ok(()));
        let leader = Signs {
            role: Role::Leader {
                quorum_age: Some(Duration::ZERO),
            },
            ..follower()
        };
        assert_eq!(judge(&leader, BOUND), Ok(()));
    }

    #[test]
    fn old_proof_is_none() {
        let late = Some(Duration::from_millis(1501));
        assert_eq!(
            reason(&Signs {
                role: Role::Leader { quorum_age: late },
                ..follower()
            }),
            "leader without a quorum for 1501 ms"
        );
        let role = Role::Follower {
            silence: late,
            leader_api: Some(Ok(())),
        };
        assert_eq!(reason(&Signs { role, ..follower() }), "no leader heard for 1501 ms");
    }

    #[test]
    fn learner_is_joining() {
        assert_eq!(
            reason(&Signs {
                place: Place::Learner,
                ..follower()
            }),
            "joining"
        );
        assert_eq!(
            reason(&Signs {
                place: Place::Absent,
                ..follower()
            }),
            "joining"
        );
    }

    #[test]
    fn leader_whose_api_is_unreachable_does_not_count() {
        let role = Role::Follower {
            silence: Some(Duration::ZERO),
            leader_api: Some(Err("refused".to_owned())),
        };
        assert_eq!(
            reason(&Signs { role, ..follower() }),
            "the leader's API cannot be reached: refused"
        );
        let role = Role::Follower {
            silence: Some(Duration::ZERO),
            leader_api: None,
        };
        assert_eq!(
            reason(&Signs { role, ..follower() }),
            "the leader's API was not reached yet"
        );
    }

    #[test]
    fn member_that_lags_its_own_start_is_catching_up() {
        assert_eq!(
            reason(&Signs {
                caught_up: false,
                ..follower()
            }),
            "catching up"
        );
    }

    #[test]
    fn broken_storage_comes_first() {
        assert!(
            reason(&Signs {
                backend: Some("gone".to_owned()),
                ..follower()
            })
            .contains("gone")
        );
        assert!(
            reason(&Signs {
                stopped: Some("disk".to_owned()),
                ..follower()
            })
            .contains("disk")
        );
    }

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
