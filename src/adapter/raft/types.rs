//! The types that openraft is instantiated with.

use serde::{Deserialize, Serialize};

use crate::app::ports::Peer;
use crate::domain::state::{Applied, MemberId, Proposal};

/// A member as the membership entries of the log describe it.
///
/// The address is the one the member was admitted with. Where it lives today is looked up by its name at every dial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberNode {
    /// What `RaftNodes` or the StatefulSet calls it.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API, as `http://host:port`; empty when unknown.
    #[serde(default)]
    pub http_uri: String,
}

impl MemberNode {
    /// The same member as the application's port shows it.
    pub fn to_peer(&self, id: MemberId, voter: bool) -> Peer {
        Peer {
            id,
            name: self.name.clone(),
            raft_address: self.raft_address.clone(),
            http_uri: self.http_uri.clone(),
            voter,
        }
    }
}

openraft::declare_raft_types!(
    /// One leader per term, so that a term alone names a leadership.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = MemberId,
        Node = MemberNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>
);

/// The running consensus module.
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
/// Term, and position in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote, granted or asked for.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A membership with the log id of its entry.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: what it covers, and its JSON text.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Vec<u8>>;
