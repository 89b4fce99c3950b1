//! The types that openraft is instantiated with.

use serde::{Deserialize, Serialize};

use crate::app::ports::Peer;
use crate::domain::state::{Applied, MemberId, Proposal};

/// A member in the membership entries of the log.
///
/// The addresses are those with which the member was admitted. Its present address is looked up by its name for every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberNode {
    /// Its name in `RaftNodes`, or the name of its pod.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API, as `http://host:port`; empty when unknown.
    #[serde(default)]
    pub http_uri: String,
}

impl MemberNode {
    /// The member in the type of the application port.
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
    /// The types of the raft log. There is one leader per term, so that a term alone identifies a leadership.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = MemberId,
        Node = MemberNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>
);

/// Term and index of a log entry.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote, granted or requested.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A membership with the log id of its entry.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// The last entry and the membership that a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: its metadata and its JSON text.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Vec<u8>>;

/// The position in the log up to which the state is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedPosition {
    /// The last applied entry.
    pub last_applied: Option<LogId>,
    /// The last applied membership.
    pub membership: StoredMembership,
}
