//! `Audit`.

use serde::Serialize;

use crate::domain::state::record::AuditEntry;

use super::{Key, key_or_empty, time_text};

/// An entry of the audit. The address is empty when the entry is about all servers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AuditShape {
    audit_id: u64,
    audit_timestamp: String,
    audit_type: String,
    audit_instance_key: Key,
    message: String,
}

impl From<&AuditEntry> for AuditShape {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            audit_id: entry.id,
            audit_timestamp: time_text(entry.at),
            audit_type: entry.kind.clone(),
            audit_instance_key: key_or_empty(entry.instance.as_ref()),
            message: entry.message.clone(),
        }
    }
}
