//! Orchestrator's table `audit`, a projection of the audit entries of the state.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::SqliteConnection;

use crate::domain::state::{Change, State};

use super::projection::with_stamps;

/// Writes the entries that changed, and deletes ham4db's entries that are older than `retention` by the state's clock.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    state: &State,
    changes: &BTreeSet<Change>,
    retention: Duration,
) -> Result<(), sqlx::Error> {
    let retention_millis = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let oldest = state.clock.0.saturating_sub(retention_millis);
    let mut has_changed = false;
    for change in changes {
        let Change::Audit(id) = change else { continue };
        has_changed = true;
        let number = i64::try_from(*id).unwrap_or(i64::MAX);
        let query = match state.audit.get(id) {
            None => sqlx::query("DELETE FROM audit WHERE audit_id = ?").bind(number),
            Some(entry) => sqlx::query(with_stamps(
                "REPLACE INTO audit (audit_id, audit_timestamp, audit_type, hostname, port, message, cluster_name) VALUES (?, @STAMP, ?, ?, ?, ?, ?)",
            ))
            .bind(number)
            .bind(entry.at.0)
            .bind(&entry.kind)
            .bind(entry.instance.as_ref().map_or("", |key| key.hostname.as_str()))
            .bind(entry.instance.as_ref().map_or(0, |key| i64::from(key.port)))
            .bind(&entry.message)
            .bind(&entry.cluster_name),
        };
        query.execute(&mut *connection).await?;
    }
    if has_changed {
        sqlx::query(with_stamps(
            "DELETE FROM audit WHERE audit_id > 0 AND audit_timestamp < @STAMP",
        ))
        .bind(oldest)
        .execute(connection)
        .await?;
    }
    Ok(())
}
