//! The statements of a session about locks of the whole server: those that a change to read-only waits for, and those of backups.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::{LockHolderSession, StepError, StepSession as _};

use super::queries;
use super::session::MySqlSession;
use super::text_row::TextRow;

/// How long before its own deadline a session wants the server to end a statement that waits for a lock.
const LOCK_WAIT_MARGIN: Duration = Duration::from_secs(1);

impl MySqlSession {
    /// Changes `read_only`. A change to read-only waits for running statements that write and for table locks. When this session gives
    /// up while it waits, the statement must not have its effect later: the server ends it.
    pub(super) async fn change_read_only(&mut self, read_only: bool, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        for statement in self.dialect().set_read_only(read_only) {
            if read_only {
                let limit = self
                    .dialect()
                    .set_lock_wait(deadline.saturating_sub(LOCK_WAIT_MARGIN).as_secs());
                // One text costs one round trip. The last result counts, or the first error.
                self.send_as(&statement, &format!("{limit}; {statement}"), end).await?;
            } else {
                self.send(&statement, end).await?;
            }
        }
        Ok(())
    }

    /// The sessions that hold a lock for which a change to read-only waits, or else those that may.
    pub(super) async fn read_only_blockers(
        &mut self,
        waited: Duration,
        end: Instant,
    ) -> Result<Vec<LockHolderSession>, StepError> {
        let what = "listing the sessions that hold locks";
        if self.has_performance_schema() {
            let statement = self.dialect().select_sessions_that_block_read_only();
            match self.send_as(what, &statement, end).await {
                Ok(rows) if !rows.is_empty() => return Ok(holders(&rows, true)),
                // The instrument is off, or the account may not read the table.
                Ok(_) | Err(StepError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let statement = self
            .dialect()
            .select_sessions_that_may_block_read_only(waited.as_secs());
        let statement = queries::processlist_statement(statement, self.has_performance_schema());
        Ok(holders(&self.send_as(what, &statement, end).await?, false))
    }

    /// Kills the sessions of backups that hold their lock, where the server shows them. Returns how many.
    pub(super) async fn kill_backup_locks(&mut self, end: Instant) -> Result<u32, StepError> {
        let Some(statement) = self.dialect().select_sessions_with_backup_lock() else {
            return Ok(0);
        };
        let rows = self.send_as("listing the sessions of backups", statement, end).await?;
        let mut killed = 0;
        for id in rows.iter().filter_map(|row| row.number(&["ID"]).ok()) {
            tracing::info!(instance = %self.instance(), session = id, "ending the session of a backup: it keeps the applier from being stopped");
            let statement = self.dialect().kill(id);
            self.send(&statement, end).await?;
            killed += 1;
        }
        Ok(killed)
    }
}

fn holders(rows: &[TextRow], is_certain: bool) -> Vec<LockHolderSession> {
    rows.iter()
        .filter_map(|row| {
            Some(LockHolderSession {
                id: row.number(&["ID"]).ok()?,
                account: format!("{}@{}", row.text_or_empty(&["USER"]), row.text_or_empty(&["HOST"])),
                seconds: row.optional_number(&["TIME"]).ok().flatten().unwrap_or_default(),
                is_certain,
            })
        })
        .collect()
}
