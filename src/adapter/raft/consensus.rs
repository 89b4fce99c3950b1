//! The port [`Consensus`], implemented on the raft log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState};
use tokio::sync::watch;

use super::context::{MemberContext, RaftIncarnation};
use super::health;
use super::leadership_transfer::start_transfer;
use super::liveness::Metrics;
use super::member::RaftMember;
use super::network::Recipient;
use super::proposals;
use super::types::MemberNode;
use crate::app::ports::{
    Clock as _, Consensus, Health, Leadership, ObservationRequest, ObservationUpdate, Peer, ProposeError, Question,
    Unconfirmed,
};
use crate::app::recovery::claim::check_claim;
use crate::domain::finding::{Opinion, OpinionVerdict};
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, State};

/// Maximum size of an answer with observations. A member sends less, see the port.
const MAX_UPDATE: usize = 16 * 1024 * 1024;

/// Proves by a quorum that this member leads now. Afterwards it has applied all entries that were committed before.
async fn prove_leadership(context: &MemberContext) -> Result<(), Unconfirmed> {
    let no_quorum = |why: String| Err(Unconfirmed::NoQuorum(why));
    if let Some(why) = context.failure() {
        return no_quorum(format!("consensus stopped: {why}"));
    }
    let Some(incarnation) = context.incarnation.load_full() else {
        return no_quorum(context.status());
    };
    let deadline = context.settings.timings.confirm;
    match tokio::time::timeout(deadline, incarnation.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            let leader = proposals::leader_of(context, &incarnation, &forward);
            no_quorum(format!(
                "not the leader{}",
                leader.map(|peer| format!("; {} leads", peer.name)).unwrap_or_default()
            ))
        }
        Ok(Err(error)) => no_quorum(error.to_string()),
        Err(_) => no_quorum(format!("no quorum answered within {} ms", deadline.as_millis())),
    }
}

#[async_trait]
impl Consensus for RaftMember {
    fn me(&self) -> Peer {
        let context = &self.context;
        let id = context
            .identity()
            .and_then(|identity| identity.member)
            .unwrap_or_default();
        let voter = context.incarnation.load_full().is_some_and(|incarnation| {
            incarnation
                .metrics()
                .committed_membership_config
                .voter_ids()
                .any(|voter| voter == id)
        });
        context.node.to_peer(id, voter)
    }

    fn is_raft(&self) -> bool {
        true
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        proposals::propose(&self.context, command).await
    }

    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        prove_leadership(&self.context).await?;
        let state = self.context.state.borrow().clone();
        check_claim(&state, token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        prove_leadership(&self.context).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.context.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.context.state.subscribe()
    }

    fn health(&self) -> Health {
        health::health(&self.context)
    }

    fn peers(&self) -> Vec<Peer> {
        let Some(incarnation) = self.context.incarnation.load_full() else {
            return Vec::new();
        };
        let membership = incarnation.metrics().committed_membership_config;
        let mut peers: Vec<Peer> = membership
            .nodes()
            .map(|(id, node)| {
                let voter = membership.voter_ids().any(|voter| voter == *id);
                self.context.current_address(node).to_peer(*id, voter)
            })
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        peers
    }

    fn silent_voters(&self) -> BTreeSet<String> {
        let Some(incarnation) = self.context.incarnation.load_full() else {
            return BTreeSet::new();
        };
        // A follower sends no heartbeats, so what it knows is from its last term as leader.
        if incarnation.metrics().state != ServerState::Leader {
            return BTreeSet::new();
        }
        let silent = incarnation.reachability.silent();
        let voters = self
            .peers()
            .into_iter()
            .filter(|peer| peer.voter && silent.contains(&peer.id));
        voters.map(|peer| peer.name).collect()
    }

    async fn collect_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion> {
        let Some(incarnation) = self.context.incarnation.load_full() else {
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
                .map(|peer| ask_opinion(&self.context, &incarnation, peer, question, deadline)),
        )
        .await
    }

    async fn fetch_observations(
        &self,
        of: &Peer,
        request: &ObservationRequest,
        deadline: Duration,
    ) -> Result<ObservationUpdate, String> {
        let incarnation = self.context.incarnation.load_full();
        let incarnation = incarnation.ok_or_else(|| self.context.status())?;
        let node = MemberNode {
            name: of.name.clone(),
            raft_address: of.raft_address.clone(),
            http_uri: of.http_uri.clone(),
        };
        let to = Recipient {
            node: &node,
            member: Some(of.id),
        };
        let body = self
            .context
            .dialer
            .call_bytes(
                to,
                "observations",
                request,
                Some(&incarnation.own),
                deadline,
                MAX_UPDATE,
            )
            .await
            .map_err(|error| error.to_string())?;
        let update: ObservationUpdate =
            serde_json::from_slice(&body).map_err(|error| format!("cannot parse the answer: {error}"))?;
        Ok(ObservationUpdate {
            received_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
            ..update
        })
    }

    async fn hand_over(&self, deadline: Duration) {
        let Some(incarnation) = self.context.incarnation.load_full() else {
            return;
        };
        let until = Instant::now() + deadline;
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            let Some(to) = start_transfer(&self.context, &incarnation, &incarnation.metrics()).await else {
                return;
            };
            let own = incarnation.own.member;
            // An attempt takes an election. A target that cannot be reached must not use the whole deadline.
            let attempt_deadline = remaining.min(self.context.settings.timings.election_max * 2);
            let has_moved = |metrics: &Metrics| {
                metrics.state != ServerState::Leader && metrics.current_leader.is_some_and(|leader| leader != own)
            };
            match incarnation
                .raft
                .wait(Some(attempt_deadline))
                .metrics(has_moved, "leadership is handed over")
                .await
            {
                Ok(_) => return,
                Err(error) if Instant::now() >= until => {
                    tracing::warn!(
                        "failed to hand leadership over to member {to} within {} ms: {error}",
                        deadline.as_millis()
                    );
                    return;
                }
                Err(_) => {}
            }
        }
    }
}

async fn ask_opinion(
    context: &MemberContext,
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
    match context
        .dialer
        .call::<_, Opinion>(to, "opinion", &question, Some(&incarnation.own), deadline)
        .await
    {
        // With the id and name of the membership, whatever the peer reports.
        Ok(opinion) => Opinion {
            member: peer.id,
            name: peer.name,
            ..opinion
        },
        Err(error) => Opinion {
            member: peer.id,
            name: peer.name,
            at: context.dependencies.clock.wall(),
            millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            data_center: String::new(),
            verdict: OpinionVerdict::Missing(error.to_string()),
            observations: Vec::new(),
            remembered: None,
        },
    }
}
