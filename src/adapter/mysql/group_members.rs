//! Parses rows of `performance_schema.replication_group_members` into a [`GroupMember`].

use crate::domain::group_replication::{GroupMember, GroupPeer, GroupRole, GroupState};
use crate::domain::key::InstanceKey;

use super::text_row::{ColumnError, TextRow};

/// The membership of the server with this `server_uuid`. MySQL 5.7 reports no roles: there `is_writable` determines the role of
/// this server.
///
/// A server that has loaded the plugin and has not joined a group lists itself as OFFLINE, and without an id before its first
/// start.
pub(super) fn membership(
    uuid: &str,
    rows: &[TextRow],
    single_primary: bool,
    is_writable: bool,
) -> Result<GroupMember, ColumnError> {
    let mut member = GroupMember {
        state: GroupState::Offline,
        single_primary,
        ..GroupMember::default()
    };
    for row in rows {
        let id = row.text_or_empty(&["MEMBER_ID"]).to_ascii_lowercase();
        let state = GroupState::parse(&row.text_or_empty(&["MEMBER_STATE"]));
        let host = row.text_or_empty(&["MEMBER_HOST"]);
        let is_own = id.eq_ignore_ascii_case(uuid);
        let role = match row.optional(&["MEMBER_ROLE"]) {
            Some(role) => GroupRole::parse(&role),
            None if is_own && is_writable => GroupRole::Primary,
            None if is_own => GroupRole::Secondary,
            None => GroupRole::Unknown,
        };
        if is_own {
            (member.state, member.role) = (state, role);
        }
        if !id.is_empty() && !host.is_empty() {
            member.members.push(GroupPeer {
                key: InstanceKey::new(host, row.number(&["MEMBER_PORT"])?),
                uuid: id,
                state,
                role,
            });
        }
    }
    member.members.sort();
    Ok(member)
}
