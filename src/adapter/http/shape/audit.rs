//! `Audit`.

use serde::Serialize;

use crate::domain::state::record::AuditEntry;

use super::{Key, key_or_empty, time_text};

/// An entry of the audit; about all servers: the address is empty.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::adapter::http) struct AuditShape {
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
