//! Orchestrator's table `audit`, a projection of the audit entries of the state.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::state::{Change, State};

use super::backend::Numbering;
use super::database::{DatabaseError, Transaction};
use super::statement::statement;

/// Writes the entries that changed, and deletes ham4db's entries that are older than `retention` by the state's clock.
pub(super) async fn write(
    transaction: &mut Transaction,
    state: &State,
    changes: &BTreeSet<Change>,
    numbering: Numbering,
    retention: Duration,
) -> Result<(), DatabaseError> {
    let retention_millis = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let oldest = state.clock.0.saturating_sub(retention_millis);
    let mut has_changed = false;
    for change in changes {
        let Change::Audit(id) = change else { continue };
        has_changed = true;
        let number = numbering.row(*id);
        let written = match state.audit.get(id) {
            None => statement("DELETE FROM audit WHERE audit_id = ?").bind(number),
            Some(entry) => statement(
                "REPLACE INTO audit (audit_id, audit_timestamp, audit_type, hostname, port, message, cluster_name) VALUES (?, @STAMP, ?, ?, ?, ?, ?)",
            )
            .bind(number)
            .bind(entry.at.0)
            .bind(&entry.kind)
            .bind(entry.instance.as_ref().map_or("", |key| key.hostname.as_str()))
            .bind(entry.instance.as_ref().map_or(0, |key| key.port))
            .bind(&entry.message)
            .bind(&entry.cluster_name),
        };
        transaction.execute(written).await?;
    }
    if has_changed {
        let old = statement("DELETE FROM audit WHERE audit_id > ? AND audit_timestamp < @STAMP")
            .bind(numbering.above())
            .bind(oldest);
        transaction.execute(old).await?;
    }
    Ok(())
}
