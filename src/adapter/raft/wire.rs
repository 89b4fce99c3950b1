//! What members say to each other: headers, requests and answers of the peer RPC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::{LogId, MemberNode, Vote};
use crate::domain::state::MemberId;

/// Uuid of the group that the sender belongs to.
pub const GROUP_HEADER: &str = "x-ham4db-group";
/// Member id that is meant.
pub const TARGET_HEADER: &str = "x-ham4db-target";
/// Member id of the sender, when it has one.
pub const SENDER_HEADER: &str = "x-ham4db-sender";
/// Name of the sender.
pub const SENDER_NAME_HEADER: &str = "x-ham4db-sender-name";
/// The group key.
pub const KEY_HEADER: &str = "x-ham4db-key";

/// Answer to `hello`: who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The member as it advertises itself.
    pub node: MemberNode,
    /// Version of the program.
    pub version: String,
    /// Highest command version that it understands.
    pub understands: u32,
    /// Data centre that it is in; empty: not known.
    #[serde(default)]
    pub data_center: String,
    /// Its group, when it knows one.
    pub cluster_uuid: Option<String>,
    /// Its id, when it has one.
    pub member: Option<MemberId>,
    /// Its last log entry, when it has one.
    pub last_log: Option<LogId>,
    /// The group that its backend belongs to, when it belongs to one.
    pub backend_group: Option<String>,
    /// It never was a member of anything: a group may be founded with it.
    pub pristine: bool,
    /// The leader as it knows it.
    pub leader: Option<MemberNode>,
    /// Names that it wants as members, sorted.
    pub wanted: Vec<String>,
}

/// The founder gives a pristine peer its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// History of the group.
    pub history: String,
    /// The peer's id.
    pub member: MemberId,
    /// Everybody's id.
    pub founders: BTreeMap<MemberId, MemberNode>,
}

/// A member asks to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// As it advertises itself.
    pub node: MemberNode,
    /// The group it was in before, when it knows.
    pub cluster_uuid: Option<String>,
    /// The id that was allocated to it, once it is stored durably.
    pub member: Option<MemberId>,
    /// Highest command version that it understands.
    #[serde(default = "first_version")]
    pub understands: u32,
}

/// What members understand that do not say it when they ask to be let in.
fn first_version() -> u32 {
    1
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum JoinAnswer {
    /// An id of its own; it stores it and asks again with it.
    #[serde(rename_all = "camelCase")]
    Allocated {
        /// Uuid of the group.
        cluster_uuid: String,
        /// History of the group.
        history: String,
        /// The id.
        member: MemberId,
    },
    /// It will be let in: the log reaches it first.
    Pending,
    /// Another member leads.
    NotLeader {
        /// Who.
        leader: Option<MemberNode>,
    },
    /// Not now.
    Refused {
        /// Why.
        why: String,
    },
}

/// Answer to `membership`, given by a leader that proved just now that it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum MembershipAnswer {
    /// The members of the committed membership, learners too.
    #[serde(rename_all = "camelCase")]
    Members {
        /// Uuid of the group.
        cluster_uuid: String,
        /// Ids.
        members: Vec<MemberId>,
    },
    /// Another member leads, or nobody.
    NotLeader {
        /// Who.
        leader: Option<MemberNode>,
    },
}

/// A whole snapshot on its way to a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotTransfer {
    /// The sending leader's vote.
    pub vote: Vote,
    /// The snapshot's JSON.
    pub document: String,
}
