//! The owner lock: only one group of members acts on a cluster.
//!
//! The session that holds [`OWNER_LOCK`] on a primary also holds a second lock with the group in its name. Every
//! account that can log in can therefore detect, on both flavours and without privileges, whether the owner belongs to
//! its own group: one connection holds both locks.

use super::Dialect;
use crate::domain::quote::quote_string;

/// Held on each primary by a session of the group that acts on its cluster.
pub const OWNER_LOCK: &str = "ham4db.owner";

/// The lock that names the group of a holder. A lock name may have 64 characters; a uuid has 36.
fn group_lock(group: &str) -> String {
    format!("ham4db.group.{group}")
}

impl Dialect {
    /// Selects the holders of both locks and the own connection: three connection ids, NULL for a free lock.
    pub fn select_owner(&self, group: &str) -> String {
        format!(
            "SELECT IS_USED_LOCK({}) AS owner, IS_USED_LOCK({}) AS ours, CONNECTION_ID() AS me",
            quote_string(OWNER_LOCK),
            quote_string(&group_lock(group))
        )
    }

    /// Takes both locks, the lock of the group first, so that the holder of the owner lock is known from the first
    /// moment. 1 when both are taken, 0 when another session holds one of them.
    pub fn acquire_ownership(&self, group: &str) -> String {
        format!(
            "SELECT IF(GET_LOCK({}, 0) = 1, GET_LOCK({}, 0), 0)",
            quote_string(&group_lock(group)),
            quote_string(OWNER_LOCK)
        )
    }

    /// Selects `USER` and `HOST` of a connection. Needs the PROCESS privilege for connections of other accounts.
    pub fn select_connection(&self, connection_id: u64) -> String {
        format!(
            "SELECT USER, HOST FROM {} WHERE ID = {connection_id}",
            self.processlist()
        )
    }
}
