//! The statements of a session that only takeovers need: listing open transactions, killing sessions by id, reading the
//! replication account.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, OpenTransaction, StepError};

use super::session::{MySqlSession, READ_GRACE};

/// Interval between two reads of the open transactions. The server answers from a cache that it refreshes only when it was not
/// read for 100 milliseconds (MySQL manual, "Using `InnoDB` Transaction and Locking Information"): more frequent reads return the
/// same content forever.
const TRANSACTION_POLL_INTERVAL: Duration = Duration::from_millis(150);

/// Error "Unknown thread id": the session has ended already.
const NO_SUCH_THREAD: u16 = 1094;
/// Errors "access denied" for a table, a column or a database.
const ACCESS_DENIED: [u16; 3] = [1142, 1143, 1044];

impl MySqlSession {
    /// Lists the transactions that are open.
    pub(super) async fn open_transactions(&mut self, end: Instant) -> Result<Vec<OpenTransaction>, StepError> {
        let what = "listing open transactions";
        let statement = self.dialect().select_open_transactions();
        let rows = self.send_as(what, statement, end).await?;
        rows.iter()
            .map(|row| {
                Ok(OpenTransaction {
                    session: row
                        .number(&["session"])
                        .map_err(|error| self.refused(what, 0, error.to_string()))?,
                    id: row.text_or_empty(&["id"]),
                })
            })
            .collect()
    }

    /// Kills sessions and waits until their transactions have ended: uncommitted changes are rolled back first, which can take
    /// long.
    pub(super) async fn kill_and_wait(
        &mut self,
        sessions: &BTreeSet<u64>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        for id in sessions {
            let statement = self.dialect().kill(*id);
            match self.send(&statement, end).await {
                Ok(_)
                | Err(StepError::Refused {
                    number: NO_SUCH_THREAD, ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            sleep(TRANSACTION_POLL_INTERVAL).await;
            let open = self.open_transactions(end + READ_GRACE).await?;
            if !open.iter().any(|transaction| sessions.contains(&transaction.session)) {
                return Ok(());
            }
            if Instant::now() + TRANSACTION_POLL_INTERVAL >= end {
                return Err(self.timed_out(
                    "waiting until the transactions of killed sessions are rolled back",
                    deadline,
                ));
            }
        }
    }

    /// The replication account of the managed channel; `None` where the server shows none, or not to this account.
    pub(super) async fn channel_account(&mut self, end: Instant) -> Result<Option<Account>, StepError> {
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(None);
        };
        let Some(statement) = self.dialect().select_replication_account(&channel.name) else {
            return Ok(None);
        };
        let rows = match self.send_as("reading the replication account", &statement, end).await {
            Ok(rows) => rows,
            Err(StepError::Refused { number, .. }) if ACCESS_DENIED.contains(&number) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(rows.first().and_then(|row| {
            let user = row.text_or_empty(&["user"]);
            let password = row.text_or_empty(&["password"]);
            (!user.is_empty() && !password.is_empty()).then(|| Account {
                user,
                password: SecretString::from(password),
            })
        }))
    }
}
