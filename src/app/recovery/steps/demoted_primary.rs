//! The old primary of a takeover as a replica of the new one.

use crate::app::ports::Account;
use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;

/// What a demoted primary needs to connect to its new source.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplicationAccess {
    /// Replication account.
    pub(super) account: Option<Account>,
    /// Whether the connection uses TLS.
    pub(super) tls: bool,
}

/// The old primary of a takeover, when it is pointed at the new one.
#[derive(Clone, Copy, Debug)]
pub struct DemotedPrimary<'a> {
    /// Its address.
    pub instance: &'a InstanceKey,
    /// Whether it starts replicating.
    pub start: bool,
    /// Whether the cluster uses semi-sync.
    pub semi_sync: bool,
    /// All that it had when it was demoted.
    pub position: &'a GtidSet,
}
