//! A server as a member of a replication group (MySQL Group Replication), by its own word.
//!
//! A group is one node: it chooses its primary itself, and `read_only` inside it is its own business. What is read here comes from
//! `performance_schema.replication_group_members` of the member that was asked.

use serde::{Deserialize, Serialize};

use super::key::InstanceKey;

/// `MEMBER_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupState {
    /// Takes part.
    Online,
    /// Catches up, and takes part afterwards.
    Recovering,
    /// The plugin is loaded and Group Replication is not started: an ordinary server.
    Offline,
    /// It fell out of the group.
    Error,
    /// The others suspect it.
    Unreachable,
    /// A word that is not known here.
    #[default]
    Unknown,
}

impl GroupState {
    /// Reads the server's word.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "ONLINE" => Self::Online,
            "RECOVERING" => Self::Recovering,
            "OFFLINE" => Self::Offline,
            "ERROR" => Self::Error,
            "UNREACHABLE" => Self::Unreachable,
            _ => Self::Unknown,
        }
    }

    /// The server's word; empty when it is not known.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Recovering => "RECOVERING",
            Self::Offline => "OFFLINE",
            Self::Error => "ERROR",
            Self::Unreachable => "UNREACHABLE",
            Self::Unknown => "",
        }
    }
}

/// `MEMBER_ROLE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupRole {
    /// Takes writes: one of them in single-primary mode, all in multi-primary mode.
    Primary,
    /// Takes none.
    Secondary,
    /// Not told.
    #[default]
    Unknown,
}

impl GroupRole {
    /// Reads the server's word. MySQL 5.7 has none.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "PRIMARY" => Self::Primary,
            "SECONDARY" => Self::Secondary,
            _ => Self::Unknown,
        }
    }

    /// The server's word; empty when it is not known.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "PRIMARY",
            Self::Secondary => "SECONDARY",
            Self::Unknown => "",
        }
    }
}

/// A member of a group as another member sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPeer {
    /// `MEMBER_HOST`:`MEMBER_PORT`, which are `report_host` and `report_port` where these are set.
    pub key: InstanceKey,
    /// `MEMBER_ID`, the `server_uuid`, lower case.
    pub uuid: String,
    /// Its state.
    pub state: GroupState,
    /// Its role.
    pub role: GroupRole,
}

/// What a server says of its own membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupMember {
    /// Its state.
    pub state: GroupState,
    /// Its role.
    pub role: GroupRole,
    /// `group_replication_single_primary_mode`.
    pub single_primary: bool,
    /// The members that it sees, itself among them, ordered by address.
    pub members: Vec<GroupPeer>,
}

impl GroupMember {
    /// Whether it takes part and may be written to, by its own word.
    pub fn is_online_primary(&self) -> bool {
        self.state == GroupState::Online && self.role == GroupRole::Primary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_roles_are_the_servers_words_both_ways() {
        for word in ["ONLINE", "RECOVERING", "OFFLINE", "ERROR", "UNREACHABLE"] {
            assert_eq!(GroupState::parse(word).as_str(), word);
            assert_eq!(GroupState::parse(&word.to_lowercase()).as_str(), word);
        }
        for word in ["PRIMARY", "SECONDARY"] {
            assert_eq!(GroupRole::parse(word).as_str(), word);
        }
        assert_eq!(GroupState::parse("BLOCKED"), GroupState::Unknown);
        assert_eq!(GroupRole::parse(""), GroupRole::Unknown);
    }
}
