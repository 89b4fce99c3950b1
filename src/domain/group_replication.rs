//! A server as a member of a replication group (MySQL Group Replication), as the server reports it.
//!
//! A group is one node: it chooses its primary itself and manages `read_only` of its members itself. The data come from
//! `performance_schema.replication_group_members` of the probed member.

use serde::{Deserialize, Serialize};

use super::key::InstanceKey;

/// `MEMBER_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupState {
    /// Takes part in the group.
    Online,
    /// Catches up before it takes part.
    Recovering,
    /// The plugin is loaded and Group Replication is not started: an ordinary server.
    Offline,
    /// The member left the group because of an error.
    Error,
    /// The other members suspect that it failed.
    Unreachable,
    /// A value that ham4db does not know.
    #[default]
    Unknown,
}

impl GroupState {
    /// Parses the value of the server.
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

    /// The value of the server; empty when it is unknown.
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
    /// Takes writes: one member in single-primary mode, all members in multi-primary mode.
    Primary,
    /// Takes no writes.
    Secondary,
    /// Not reported.
    #[default]
    Unknown,
}

impl GroupRole {
    /// Parses the value of the server. MySQL 5.7 has none.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "PRIMARY" => Self::Primary,
            "SECONDARY" => Self::Secondary,
            _ => Self::Unknown,
        }
    }

    /// The value of the server; empty when it is unknown.
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

/// What a server reports of its own membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupMember {
    /// Its state.
    pub state: GroupState,
    /// Its role.
    pub role: GroupRole,
    /// `group_replication_single_primary_mode`.
    pub single_primary: bool,
    /// The members that it sees, including itself, ordered by address.
    pub members: Vec<GroupPeer>,
}

impl GroupMember {
    /// Whether the member takes part and is a primary, as it reports itself.
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
