//! Addresses that are not dialled, in a shape of our own.

use serde::Serialize;

use crate::domain::cluster_view::ClusterView;
use crate::domain::discovery::{NotFollowed, NotFollowedReason};
use crate::domain::key::InstanceKey;

use super::Key;

/// An address that a server names and that is not dialled.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UndiscoveredShape {
    /// The address as the server names it.
    address: String,
    /// The server.
    named_by: Key,
    /// Its cluster.
    cluster_name: String,
    /// Why it is not dialled.
    reason: String,
    /// The entry of `DiscoveryAllowedHosts` that would admit it; empty when none would.
    allowed_hosts_entry: String,
}

impl UndiscoveredShape {
    pub(crate) fn of(view: &ClusterView, named_by: &InstanceKey, entry: &NotFollowed) -> Self {
        let allowed_hosts_entry = match &entry.reason {
            NotFollowedReason::NotAdmitted(entry) => entry.clone(),
            NotFollowedReason::Malformed(_) | NotFollowedReason::TooManyOfServer | NotFollowedReason::TooMany => {
                String::new()
            }
        };
        Self {
            address: entry.address.clone(),
            named_by: Key::from(named_by),
            cluster_name: view.cluster.name.clone(),
            reason: entry.reason.to_string(),
            allowed_hosts_entry,
        }
    }
}
