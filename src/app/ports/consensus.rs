//! Agreement between members: proposing commands, confirming claims, leadership, opinions of the other members.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::finding::Opinion;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, MemberId, State};
use crate::domain::topology::ClusterId;

use super::observations::{ObservationRequest, ObservationUpdate};

/// The leader, as this member knows it. For display, for forwarding requests and for waking loops; it never authorises an action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// This member believes that it leads.
    pub is_leader: bool,
    /// The leader.
    pub leader: Option<Peer>,
}

/// A member of the committed membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Id.
    pub id: MemberId,
    /// Name.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API, as `http://host:port`.
    pub http_uri: String,
    /// Voter, or learner.
    pub voter: bool,
}

/// Health of this member in its group, as `/api/raft-health` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A voter that has caught up and has fresh proof of a live quorum.
    Healthy,
    /// Not healthy, with the reason.
    Unhealthy(String),
}

/// Why a command was not applied, or may not have been applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead; nothing was proposed.
    #[error("not the leader{}", .0.as_ref().map(|peer| format!("; {} leads", peer.name)).unwrap_or_default())]
    NotLeader(Option<Peer>),
    /// No quorum: nothing was committed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The deadline passed. The command may or may not be committed.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The member cannot continue and must be restarted.
    #[error("consensus stopped: {0}")]
    Stopped(String),
    /// Some members run an older version that does not support the command; nothing was proposed. The adapter that refuses logs it at a
    /// limited rate, so callers that retry do not log it.
    #[error("{0}")]
    NotUnderstood(String),
}

/// Why the right to act could not be proved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// No quorum answered in time.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// A higher epoch exists, the recovery is over, or another member holds it.
    #[error("the claim is not current: {0}")]
    Stale(String),
}

/// The replicated state: proposing commands, confirming claims, membership and leadership.
#[async_trait]
pub trait Consensus: Send + Sync {
    /// This member.
    fn me(&self) -> Peer;

    /// Whether this member is part of a raft group; `false` for a single member.
    fn is_raft(&self) -> bool;

    /// Changes the replicated state. Returns after this member has applied the command.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;

    /// Proves by a quorum that the claim is current now. Called before every effect.
    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed>;

    /// Proves by a quorum that this member leads now, and that it has applied everything that was committed before the call.
    async fn barrier(&self) -> Result<(), Unconfirmed>;

    /// The leader, as this member knows it.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// The applied state of this member.
    fn state(&self) -> watch::Receiver<Arc<State>>;

    /// Health of this member.
    fn health(&self) -> Health;

    /// The committed membership, ordered by name.
    fn peers(&self) -> Vec<Peer>;

    /// The voters, by name, that answer this leader no more; empty on a member that does not lead.
    fn silent_voters(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Asks the other voters for their opinion of a suspect. Returns one opinion for each other voter; the verdict of a voter that did not
    /// answer in time is `Missing`.
    async fn collect_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion>;

    /// Asks another member for what it observed. It may hold its answer back for a fraction of a second.
    ///
    /// # Errors
    /// Why there is no answer: the member is not reached in time, or it does not share its observations.
    async fn fetch_observations(
        &self,
        of: &Peer,
        _request: &ObservationRequest,
        _deadline: Duration,
    ) -> Result<ObservationUpdate, String> {
        Err(format!("{} is no member of a group with this one", of.name))
    }

    /// Hands leadership over to another member, if this one leads.
    async fn hand_over(&self, deadline: Duration);
}

/// A question to the members: what do they observe of this suspect and of its replicas?
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The cluster of the suspect.
    pub cluster: ClusterId,
    /// The suspect.
    pub suspect: InstanceKey,
    /// The replicas of the suspect, as the leader knows them.
    pub replicas: BTreeSet<InstanceKey>,
    /// The deadline for the answer, milliseconds.
    pub millis: u64,
}

/// Answers questions of other members. `app` implements it, the consensus adapter calls it.
#[async_trait]
pub trait OpinionSource: Send + Sync {
    /// The opinion of this member, from probes that begin now.
    async fn opinion(&self, question: Question) -> Opinion;
}

/// A record outside of the members that the group was founded. It survives the loss of the founder's disk.
#[async_trait]
pub trait BootstrapMarker: Send + Sync {
    /// Creates the record with this content unless it exists. Returns its present content.
    ///
    /// # Errors
    /// When the record can neither be created nor read. That never counts as missing: the bootstrap waits.
    async fn create_or_read(&self, content: &str) -> std::io::Result<String>;
}
