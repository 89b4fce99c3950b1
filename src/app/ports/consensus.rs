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

/// Who leads, as this member knows it. For display, proxying and waking loops; never a licence to act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Term.
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

/// Health of this member in its group, as `/api/raft-health` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A voter that has caught up and has fresh proof of a live quorum.
    Healthy,
    /// Not so, with the reason.
    Unhealthy(String),
}

/// Why a command was not, or not certainly, applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead; nothing was proposed.
    #[error("not the leader{}", .0.as_ref().map(|peer| format!("; {} leads", peer.name)).unwrap_or_default())]
    NotLeader(Option<Peer>),
    /// No quorum: nothing was committed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The deadline passed: the command may or may not be committed.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The member is broken and must be restarted.
    #[error("consensus stopped: {0}")]
    Stopped(String),
    /// Members run an older program that would not understand the command; nothing was proposed. Who refuses says it in the log, now and
    /// then: callers that ask again and again need not.
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

/// Agreement among members.
#[async_trait]
pub trait Consensus: Send + Sync {
    /// This member.
    fn me(&self) -> Peer;

    /// Whether a group is running (raft), or this member is alone.
    fn is_raft(&self) -> bool;

    /// Changes the replicated state; returns after this member has applied it.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;

    /// Proves, with a quorum's help, that the claim is current now. Before every effect.
    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed>;

    /// Proves, with a quorum's help, that this member leads now and has applied all that was committed before the call.
    async fn barrier(&self) -> Result<(), Unconfirmed>;

    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// The applied state of this member.
    fn state(&self) -> watch::Receiver<Arc<State>>;

    /// Health of this member.
    fn health(&self) -> Health;

    /// The committed membership, ordered by name.
    fn peers(&self) -> Vec<Peer>;

    /// Asks the other voters for their opinion of a suspect. One entry per other voter: those who did not answer in time say Missing.
    async fn ask_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion>;

    /// StepExecutor leadership to another member, if this one leads.
    async fn hand_over(&self, deadline: Duration);
}

/// A question to the members: what do you see of this suspect and its replicas?
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// In which cluster.
    pub cluster: ClusterId,
    /// The suspect.
    pub suspect: InstanceKey,
    /// Its replicas as the asker knows them.
    pub replicas: BTreeSet<InstanceKey>,
    /// How long the answer may take, milliseconds.
    pub millis: u64,
}

/// Answers questions of other members; `app` implements it, the consensus adapter calls it.
#[async_trait]
pub trait OpinionSource: Send + Sync {
    /// This member's opinion, from probes begun now.
    async fn opinion(&self, question: Question) -> Opinion;
}

/// A record outside of the members that a group was founded; it outlives the loss of the founder's disk.
#[async_trait]
pub trait BootstrapMarker: Send + Sync {
    /// Creates the record with this content if there is none; returns the content that is there now.
    ///
    /// # Errors
    /// When it can neither be created nor read: never taken as "there is none", the bootstrap waits.
    async fn create_or_read(&self, content: &str) -> std::io::Result<String>;
}
