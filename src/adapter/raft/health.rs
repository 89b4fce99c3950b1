//! The health of this member: healthy is a voter that has caught up and has proof of a live quorum.
//!
//! The state of openraft is no such proof: a leader that lost its quorum stays `Leader`, and an isolated follower keeps its leader until
//! its timer fires.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;

use super::context::{MemberContext, RaftIncarnation};
use super::liveness::{Metrics, quorum_age};
use super::types::MemberNode;
use crate::app::ports::Health;
use crate::domain::state::MemberId;

/// Interval between two checks of the leader's API, and the deadline of one.
const API_INTERVAL: Duration = Duration::from_secs(1);

/// The facts from which the health follows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HealthInputs {
    stopped: Option<String>,
    backend: Option<String>,
    voting: VotingStatus,
    caught_up: bool,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VotingStatus {
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

fn judge(inputs: &HealthInputs, bound: Duration) -> Result<(), String> {
    if let Some(why) = &inputs.stopped {
        return Err(format!("consensus stopped: {why}"));
    }
    if let Some(why) = &inputs.backend {
        return Err(format!("the backend takes no writes: {why}"));
    }
    match inputs.voting {
        VotingStatus::Absent | VotingStatus::Learner => return Err("joining".to_owned()),
        VotingStatus::Voter => {}
    }
    match &inputs.role {
        Role::Leader { quorum_age: Some(age) } if *age <= bound => {}
        Role::Leader { quorum_age: Some(age) } => {
            return Err(format!("leader without a quorum for {} ms", age.as_millis()));
        }
        Role::Leader { quorum_age: None } => return Err("leader that is not yet acknowledged by a quorum".to_owned()),
        Role::Follower { silence: Some(age), .. } if *age > bound => {
            return Err(format!("no heartbeat of a leader for {} ms", age.as_millis()));
        }
        Role::Follower { silence: None, .. } => return Err("no heartbeat of a leader since the start".to_owned()),
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
    if inputs.caught_up {
        Ok(())
    } else {
        Err("catching up".to_owned())
    }
}

/// The health of this member, as `/api/raft-health` reports it.
pub(super) fn health(context: &MemberContext) -> Health {
    let Some(incarnation) = context.incarnation.load_full() else {
        let why = context
            .failure()
            .map_or_else(|| context.status(), |why| format!("consensus stopped: {why}"));
        return Health::Unhealthy(why);
    };
    let metrics = incarnation.metrics();
    incarnation.liveness.observe(&metrics);
    let inputs = inputs(context, &incarnation, &metrics);
    judge(&inputs, context.settings.timings.quorum_proof).map_or_else(Health::Unhealthy, |()| Health::Healthy)
}

fn inputs(context: &MemberContext, incarnation: &RaftIncarnation, metrics: &Metrics) -> HealthInputs {
    let membership = &metrics.committed_membership_config;
    let voting = match membership.get_node(&metrics.id) {
        Some(_) if membership.voter_ids().any(|voter| voter == metrics.id) => VotingStatus::Voter,
        Some(_) => VotingStatus::Learner,
        None => VotingStatus::Absent,
    };
    let role = if metrics.state == ServerState::Leader {
        Role::Leader {
            quorum_age: quorum_age(metrics),
        }
    } else {
        incarnation.liveness.seen(|seen| Role::Follower {
            silence: seen.heard.map(|(at, _)| at.elapsed()),
            leader_api: match (&seen.api, seen.heard) {
                (Some((checked, result)), Some((_, leader))) if *checked == leader => Some(result.clone()),
                _ => None,
            },
        })
    };
    HealthInputs {
        stopped: context
            .failure()
            .or_else(|| metrics.running_state.as_ref().err().map(ToString::to_string)),
        backend: incarnation.backend_failure().map(|(_, why)| why),
        voting,
        caught_up: incarnation.liveness.seen(|seen| seen.caught_up),
        role,
    }
}

/// Checks the leader's API while this member follows. A member that cannot reach it cannot serve writes.
pub(super) async fn watch_leader_api(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) {
    loop {
        let leader = incarnation.liveness.seen(|seen| seen.heard.map(|(_, leader)| leader));
        let known = leader
            .filter(|leader| *leader != incarnation.own.member)
            .and_then(|leader| Some((leader, address_of(context, incarnation, leader)?)));
        let Some((leader, node)) = known else {
            tokio::time::sleep(context.settings.timings.heartbeat).await;
            continue;
        };
        let result = context.dialer.reaches_api(&node, &node.http_uri, API_INTERVAL).await;
        let changed = incarnation.liveness.seen(|seen| {
            let entry = Some((leader, result));
            let changed = seen.api.as_ref().is_none_or(|(before, _)| *before != leader);
            seen.api = entry;
            changed
        });
        // The API of a new leader is checked again soon: its listener may open after its election.
        tokio::time::sleep(if changed { API_INTERVAL / 4 } else { API_INTERVAL }).await;
    }
}

fn address_of(context: &MemberContext, incarnation: &RaftIncarnation, member: MemberId) -> Option<MemberNode> {
    let metrics = incarnation.metrics();
    let node = metrics.membership_config.get_node(&member)?;
    Some(context.current_address(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(1500);

    fn follower() -> HealthInputs {
        HealthInputs {
            stopped: None,
            backend: None,
            voting: VotingStatus::Voter,
            caught_up: true,
            role: Role::Follower {
                silence: Some(Duration::from_millis(90)),
                leader_api: Some(Ok(())),
            },
        }
    }

    fn reason(inputs: &HealthInputs) -> String {
        judge(inputs, BOUND).unwrap_err()
    }

    #[test]
    fn voter_with_a_leader_is_healthy() {
        assert_eq!(judge(&follower(), BOUND), Ok(()));
        let leader = HealthInputs {
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
            reason(&HealthInputs {
                role: Role::Leader { quorum_age: late },
                ..follower()
            }),
            "leader without a quorum for 1501 ms"
        );
        let role = Role::Follower {
            silence: late,
            leader_api: Some(Ok(())),
        };
        assert_eq!(
            reason(&HealthInputs { role, ..follower() }),
            "no heartbeat of a leader for 1501 ms"
        );
    }

    #[test]
    fn learner_is_joining() {
        assert_eq!(
            reason(&HealthInputs {
                voting: VotingStatus::Learner,
                ..follower()
            }),
            "joining"
        );
        assert_eq!(
            reason(&HealthInputs {
                voting: VotingStatus::Absent,
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
            reason(&HealthInputs { role, ..follower() }),
            "the leader's API cannot be reached: refused"
        );
        let role = Role::Follower {
            silence: Some(Duration::ZERO),
            leader_api: None,
        };
        assert_eq!(
            reason(&HealthInputs { role, ..follower() }),
            "the leader's API was not reached yet"
        );
    }

    #[test]
    fn member_that_lags_its_own_start_is_catching_up() {
        assert_eq!(
            reason(&HealthInputs {
                caught_up: false,
                ..follower()
            }),
            "catching up"
        );
    }

    #[test]
    fn broken_storage_comes_first() {
        assert!(
            reason(&HealthInputs {
                backend: Some("gone".to_owned()),
                ..follower()
            })
            .contains("gone")
        );
        assert!(
            reason(&HealthInputs {
                stopped: Some("disk".to_owned()),
                ..follower()
            })
            .contains("disk")
        );
    }
}
