//! The owner's lock: one group of members acts on a cluster (design §4.15).
//!
//! The session that holds [`OWNER_LOCK`] on a primary also holds a second lock whose name has the group in it. So everybody who may log
//! in can tell whether the owner is of their own group, on both flavours and without any privilege: the same connection holds both.

use super::Dialect;
use crate::domain::quote::quote_string;

/// Held on each primary by the session of the group that acts on its cluster.
pub const OWNER_LOCK: &str = "ham4db.owner";

/// The lock that says which group a holder is of. A name may have 64 characters; a uuid has 36.
fn group_lock(group: &str) -> String {
    format!("ham4db.group.{group}")
}

impl Dialect {
    /// Who holds both locks, and who we are: three connection ids, NULL for a lock that is free.
    pub fn look_at_owner(&self, group: &str) -> String {
        format!(
            "SELECT IS_USED_LOCK({}) AS owner, IS_USED_LOCK({}) AS ours, CONNECTION_ID() AS me",
            quote_string(OWNER_LOCK),
            quote_string(&group_lock(group))
        )
    }

    /// Takes both locks, the group's first: whoever has the owner's lock is known from the first moment on. 1 when both are taken, 0
    /// when somebody else has one of them.
    pub fn take_ownership(&self, group: &str) -> String {
        format!(
            "SELECT IF(GET_LOCK({}, 0) = 1, GET_LOCK({}, 0), 0)",
            quote_string(&group_lock(group)),
            quote_string(OWNER_LOCK)
        )
    }

    /// Whose a connection is: `USER` and `HOST`. Needs the PROCESS privilege for those of other accounts.
    pub fn select_connection(&self, connection_id: u64) -> String {
        format!(
            "SELECT USER, HOST FROM {} WHERE ID = {connection_id}",
            self.processlist()
        )
    }
}
