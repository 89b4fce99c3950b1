//! The port [`Consensus`] on the raft log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState};
use tokio::sync::watch;

use super::health::{self, Metrics};
use super::member::{RaftIncarnation, RaftMember, Shared};
use super::membership;
use super::network::Recipient;
use super::types::{MemberNode, TypeConfig};
use crate::app::ports::{Consensus, Health, Leadership, Peer, ProposeError, Question, Unconfirmed};
use crate::app::recovery::claim::check_claim;
use crate::domain::finding::{Opinion, Verdict};
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, Proposal, State};

/// Between two looks whether a leader's lease has come back.
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// Appends a command and waits until this member has applied it.
pub(super) async fn propose(shared: &Shared, command: Command) -> Result<Applied, ProposeError> {
    if let Some(why) = shared.failure() {
        return Err(ProposeError::Stopped(why));
    }
    let Some(incarnation) = shared.incarnation.load_full() else {
        return Err(ProposeError::NotLeader(None));
    };
    let metrics = metrics_of(&incarnation);
    if metrics.state == ServerState::Leader
        && let Some(why) = membership::not_understood(shared, &metrics, &command)
    {
        if let Some(times) = shared.throttle.admit(&why) {
            tracing::warn!("not proposed: {why}{times}");
        }
        return Err(ProposeError::NotUnderstood(why));
    }
    let what = command.name();
    let deadline = shared.settings.timings.propose;
    let written = tokio::time::timeout(deadline, write(shared, &incarnation, command)).await;
    written.unwrap_or_else(|_| {
        Err(ProposeError::OutcomeUnknown(format!(
            "{what} was not committed within {} ms",
            deadline.as_millis()
        )))
    })
}

async fn write(shared: &Shared, incarnation: &RaftIncarnation, command: Command) -> Result<Applied, ProposeError> {
    let proposal = Proposal::new(shared.around.clock.wall(), command);
    // Right after its election a leader has no lease yet: refused before anything was appended, so asking again is safe.
    let give_up = Instant::now() + shared.settings.timings.election_max;
    loop {
        let error = match incarnation.raft.client_write(proposal.clone()).await {
            Ok(response) => return Ok(response.data),
            Err(error) => error,
        };
        if is_lease_lost(&error) && Instant::now() < give_up {
            tokio::time::sleep(LEASE_PAUSE).await;
            continue;
        }
        return Err(refusal(shared, incarnation, error));
    }
}

fn is_lease_lost(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> bool {
    matches!(error, RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) if forward.reason == ForwardReason::LeaseExpired)
}

fn refusal(
    shared: &Shared,
    incarnation: &RaftIncarnation,
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> ProposeError {
    match error {
        RaftError::Fatal(fatal) => ProposeError::Stopped(shared.failure().unwrap_or_else(|| fatal.to_string())),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
            ForwardReason::LeaseExpired => {
                ProposeError::NoQuorum("no quorum has acknowledged this leader lately".to_owned())
            }
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                ProposeError::NotLeader(leader_in(shared, incarnation, &forward))
            }
        },
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => {
            ProposeError::OutcomeUnknown(error.to_string())
        }
        RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::NoQuorum(error.to_string()),
    }
}

fn leader_in(shared: &Shared, incarnation: &RaftIncarnation, forward: &ForwardToLeader<TypeConfig>) -> Option<Peer> {
    let leader = forward.leader_id.filter(|leader| *leader != incarnation.own.member)?;
    membership::peer(shared, &metrics_of(incarnation), leader)
}

fn metrics_of(incarnation: &RaftIncarnation) -> Metrics {
    incarnation.raft.metrics().borrow_watched().clone()
}

/// A quorum's word that this member leads now; it has then applied all that was committed before.
async fn prove_leadership(shared: &Shared) -> Result<(), Unconfirmed> {
    let no_quorum = |why: String| Err(Unconfirmed::NoQuorum(why));
    if let Some(why) = shared.failure() {
        return no_quorum(format!("consensus stopped: {why}"));
    }
    let Some(incarnation) = shared.incarnation.load_full() else {
        return no_quorum(shared.situation());
    };
    let deadline = shared.settings.timings.confirm;
    match tokio::time::timeout(deadline, incarnation.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            let leader = leader_in(shared, &incarnation, &forward);
            no_quorum(format!(
                "not the leader{}",
                leader.map(|peer| format!("; {} leads", peer.name)).unwrap_or_default()
            ))
        }
        Ok(Err(error)) => no_quorum(error.to_string()),
        Err(_) => no_quorum(format!("no quorum answered within {} ms", deadline.as_millis())),
    }
}

/// Asks openraft to hand over to the voter that has received most, of those that stay members if there are any. Returns it, or `None` when
/// there is nobody else or no leadership.
pub(super) async fn start_transfer(shared: &Shared, incarnation: &RaftIncarnation, metrics: &Metrics) -> Option<u64> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let replication = metrics.replication.as_ref()?;
    let others = metrics
        .membership_config
        .voter_ids()
        .filter(|voter| *voter != metrics.id);
    let wanted = shared.wanted();
    let to = others.max_by_key(|voter| {
        let node = metrics.membership_config.get_node(voter);
        let stays = node.is_some_and(|node| wanted.iter().any(|wanted| wanted.name == node.name));
        let received = replication.get(voter).copied().flatten().map(|id| id.index());
        // Among equals the one heard last: a dead voter may have received as much as a living one.
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heartbeat| heartbeat.get(voter).copied().flatten());
        (stays, received, heard)
    })?;
    incarnation.raft.trigger().transfer_leader(to).await.ok()?;
    Some(to)
}

#[async_trait]
impl Consensus for RaftMember {
    fn me(&self) -> Peer {
        let shared = &self.shared;
        let id = shared
            .identity()
            .and_then(|identity| identity.member)
            .unwrap_or_default();
        let voter = shared.incarnation.load_full().is_some_and(|incarnation| {
            metrics_of(&incarnation)
                .committed_membership_config
                .voter_ids()
                .any(|voter| voter == id)
        });
        shared.node.to_peer(id, voter)
    }

    fn is_raft(&self) -> bool {
        true
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        propose(&self.shared, command).await
    }

    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        prove_leadership(&self.shared).await?;
        let state = self.shared.state.borrow().clone();
        check_claim(&state, token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        prove_leadership(&self.shared).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.shared.state.subscribe()
    }

    fn health(&self) -> Health {
        health::health(&self.shared)
    }

    fn peers(&self) -> Vec<Peer> {
        let Some(incarnation) = self.shared.incarnation.load_full() else {
            return Vec::new();
        };
        let membership = metrics_of(&incarnation).committed_membership_config;
        let mut peers: Vec<Peer> = membership
            .nodes()
            .map(|(id, node)| {
                let voter = membership.voter_ids().any(|voter| voter == *id);
                membership::current_address(&self.shared, node).to_peer(*id, voter)
            })
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        peers
    }

    async fn ask_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion> {
        let Some(incarnation) = self.shared.incarnation.load_full() else {
            return Vec::new();
        };
        let voters: Vec<Peer> = self
            .peers()
            .into_iter()
            .filter(|peer| peer.voter && peer.id != incarnation.own.member)
            .collect();
        join_all(
            voters
                .into_iter()
                .map(|peer| ask_one(&self.shared, &incarnation, peer, question, deadline)),
        )
        .await
    }

    async fn hand_over(&self, deadline: Duration) {
        let Some(incarnation) = self.shared.incarnation.load_full() else {
            return;
        };
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(to) = start_transfer(&self.shared, &incarnation, &metrics_of(&incarnation)).await else {
                return;
            };
            let own = incarnation.own.member;
            // One try takes an election; a target that cannot be reached must not cost the whole deadline.
            let patience = left.min(self.shared.settings.timings.election_max * 2);
            let gone = |metrics: &Metrics| {
                metrics.state != ServerState::Leader && metrics.current_leader.is_some_and(|leader| leader != own)
            };
            match incarnation
                .raft
                .wait(Some(patience))
                .metrics(gone, "leadership is handed over")
                .await
            {
                Ok(_) => return,
                Err(error) if Instant::now() >= until => {
                    tracing::warn!(
                        "leadership was not handed over to member {to} within {} ms: {error}",
                        deadline.as_millis()
                    );
                    return;
                }
                Err(_) => {}
            }
        }
    }
}

async fn ask_one(
    shared: &Shared,
    incarnation: &RaftIncarnation,
    peer: Peer,
    question: &Question,
    deadline: Duration,
) -> Opinion {
    let node = MemberNode {
        name: peer.name.clone(),
        raft_address: peer.raft_address,
        http_uri: peer.http_uri,
    };
    let to = Recipient {
        node: &node,
        member: Some(peer.id),
    };
    let began = Instant::now();
    let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    let question = Question {
        millis: question.millis.min(millis),
        ..question.clone()
    };
    match shared
        .dialer
        .call::<_, Opinion>(to, "opinion", &question, Some(&incarnation.own), deadline)
        .await
    {
        // Under the name that the membership gives it, whatever it calls itself.
        Ok(opinion) => Opinion {
            member: peer.id,
            name: peer.name,
            ..opinion
        },
        Err(error) => Opinion {
            member: peer.id,
            name: peer.name,
            at: shared.around.clock.wall(),
            millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            data_center: String::new(),
            verdict: Verdict::Missing(error.to_string()),
            observations: Vec::new(),
            remembered: None,
        },
    }
}
