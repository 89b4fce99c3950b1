//! What a takeover needs of a session beyond the steps of a failover: open transactions, sessions by name, the replication account.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, OpenTransaction, StepError};

use super::session::{LAST_LOOK, MySqlSession};

/// Between two looks at the open transactions. The server answers from a copy that it makes anew only when nobody has read it for 100
/// milliseconds (MySQL manual, "Using `InnoDB` Transaction and Locking Information": the answers come from a cache): who looks more often sees
/// the same view for ever.
const LOOK_AT_TRANSACTIONS: Duration = Duration::from_millis(150);

/// "No such thread": it ended by itself.
const GONE: u16 = 1094;
/// "Access denied" for a table, a column or a database.
const DENIED: [u16; 3] = [1142, 1143, 1044];

impl MySqlSession {
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

    /// Kills, and waits until they are gone: what they had not committed is rolled back first, and that takes its time.
    pub(super) async fn end_sessions(&mut self, sessions: &BTreeSet<u64>, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        for id in sessions {
            let statement = self.dialect().kill(*id);
            match self.send(&statement, end).await {
                Ok(_) | Err(StepError::Refused { number: GONE, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            sleep(LOOK_AT_TRANSACTIONS).await;
            let open = self.open_transactions(end + LAST_LOOK).await?;
            if !open.iter().any(|transaction| sessions.contains(&transaction.session)) {
                return Ok(());
            }
            if Instant::now() + LOOK_AT_TRANSACTIONS >= end {
                return Err(self.too_slow("transactions that were ended are still rolled back", deadline));
            }
        }
    }

    /// `None` where the server shows none, or not to us.
    pub(super) async fn account_of_channel(&mut self, end: Instant) -> Result<Option<Account>, StepError> {
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(None);
        };
        let Some(statement) = self.dialect().select_replication_account(&channel.name) else {
            return Ok(None);
        };
        let rows = match self.send_as("reading the replication account", &statement, end).await {
            Ok(rows) => rows,
            Err(StepError::Refused { number, .. }) if DENIED.contains(&number) => return Ok(None),
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
