//! Headers, requests and answers of the peer RPC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::{LogId, MemberNode, Vote};
use crate::domain::state::MemberId;
use crate::domain::time::WallTime;

/// Header: uuid of the group of the sender.
pub const GROUP_HEADER: &str = "x-ham4db-group";
/// Header: member id of the recipient.
pub const TARGET_HEADER: &str = "x-ham4db-target";
/// Header: member id of the sender, when it has one.
pub const SENDER_HEADER: &str = "x-ham4db-sender";
/// Header: name of the sender.
pub const SENDER_NAME_HEADER: &str = "x-ham4db-sender-name";
/// Header: the group key.
pub const KEY_HEADER: &str = "x-ham4db-key";

/// Answer to `hello`: the member and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The member with its advertised addresses.
    pub node: MemberNode,
    /// Version of the program.
    pub version: String,
    /// Highest command version that it understands.
    pub understands: u32,
    /// Its data center; empty: not known.
    #[serde(default)]
    pub data_center: String,
    /// Its group, when it knows one.
    pub cluster_uuid: Option<String>,
    /// Its id, when it has one.
    pub member: Option<MemberId>,
    /// Its last log entry, when it has one.
    pub last_log: Option<LogId>,
    /// The group of its backend, when the backend belongs to one.
    pub backend_group: Option<String>,
    /// It never was a member of a group: a group may be founded with it.
    pub pristine: bool,
    /// The leader that it knows.
    pub leader: Option<MemberNode>,
    /// Its list of wanted members: names, sorted.
    pub wanted: Vec<String>,
}

/// Request by which the founder assigns an id to a pristine peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// History of the group.
    pub history: String,
    /// The id of the peer.
    pub member: MemberId,
    /// The ids of all founders.
    pub founders: BTreeMap<MemberId, MemberNode>,
}

/// Request of a member to join the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The member with its advertised addresses.
    pub node: MemberNode,
    /// Its former group, when it knows one.
    pub cluster_uuid: Option<String>,
    /// The id that was allocated to it, after it has stored the id durably.
    pub member: Option<MemberId>,
    /// Highest command version that it understands.
    #[serde(default = "first_version")]
    pub understands: u32,
}

/// The command version of a member that reports none in its join request.
fn first_version() -> u32 {
    1
}

/// Answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum JoinAnswer {
    /// A new id. The member stores it and repeats its request with it.
    #[serde(rename_all = "camelCase")]
    Allocated {
        /// Uuid of the group.
        cluster_uuid: String,
        /// History of the group.
        history: String,
        /// The id.
        member: MemberId,
    },
    /// The member will be admitted after it has received the log.
    Pending,
    /// Another member leads.
    NotLeader {
        /// The leader, when it is known.
        leader: Option<MemberNode>,
    },
    /// The member is not admitted.
    Refused {
        /// Reason.
        why: String,
    },
}

/// Answer to `membership`, by a leader that a quorum has just confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum MembershipAnswer {
    /// The members of the committed membership, learners too.
    #[serde(rename_all = "camelCase")]
    Members {
        /// Uuid of the group.
        cluster_uuid: String,
        /// Member ids.
        members: Vec<MemberId>,
    },
    /// This member does not lead.
    NotLeader {
        /// The leader, when it is known.
        leader: Option<MemberNode>,
    },
}

/// Answer to `clock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockAnswer {
    /// The wall clock of the member's machine, not corrected.
    pub at: WallTime,
}

/// Request with a whole snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotTransfer {
    /// The vote of the leader that sends it.
    pub vote: Vote,
    /// The snapshot as JSON.
    pub document: String,
}
