//! A transaction of which a replica received only a part, because its source died. The rest never arrives.
//!
//! Measured on MySQL 9.7 with the first 20 to 30 MB of a transaction in the relay log: the coordinator reports that it has read all
//! relay log, and a worker holds the open part with its row locks. `STOP REPLICA` then waits for the rest of the transaction, for
//! `rpl_stop_replica_timeout` or 60 s. `KILL` of the coordinator and its workers stops the applier within 0.1 s and rolls the part
//! back, and `STOP REPLICA` takes 20 ms afterwards. The relay log stays. Applier threads belong to an account with `SYSTEM_USER`:
//! without that privilege `KILL` fails with error 1095. By GTID, a receiver that connects to another server makes the coordinator
//! drop the part too. MariaDB 10.11 needs none of that: `STOP SLAVE` takes 50 ms
//! and rolls the part back.
//!
//! Neither `Retrieved_Gtid_Set` nor `Gtid_IO_Pos` contains a transaction that is not complete. The received position does: without
//! GTIDs the received and the applied position are never equal.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::ports::{StepError, StepSession as _};
use crate::domain::instance::{BinlogCoordinates, Channel, InstanceFacts, ThreadState};

use super::queries;
use super::session::{MySqlSession, POLL_INTERVAL, READ_GRACE};

/// For so long each applier thread must be seen waiting until everything complete counts as applied: a worker that has just been
/// handed events still shows its old state until it runs.
const IDLE_FOR: Duration = Duration::from_millis(100);
/// How long the applier may take to stop after it was killed, which includes the rollback of the part that it applied.
const ROLLBACK_DEADLINE: Duration = Duration::from_secs(10);
/// Error "you are not owner of thread".
const NOT_OWNER: u16 = 1095;
/// Error "unknown thread id": the thread has ended already.
const NO_SUCH_THREAD: u16 = 1094;

/// States of applier threads that wait for more relay log: the coordinator or only applier thread of both flavours, the workers of
/// MySQL, and those of MariaDB.
const IDLE_STATES: [&str; 3] = [
    "has read all relay log",
    "Waiting for an event from Coordinator",
    "Waiting for work from SQL thread",
];

/// An applier thread of a channel: its connection id, and what it does.
struct ApplierThread {
    id: u64,
    state: String,
}

impl MySqlSession {
    /// Stops both threads of a channel. Does not wait for the rest of a transaction that was received in part.
    pub(super) async fn stop_channel(&mut self, name: &str, end: Instant) -> Result<(), StepError> {
        self.end_open_transaction(name, end).await?;
        let statement = self.dialect().stop_replica(name);
        self.send(&statement, end).await.map(drop)
    }

    /// Stops both threads of a channel, as [`stop_channel`](Self::stop_channel).
    ///
    /// # Errors
    /// [`StepError::Refused`] with 1095, once in this session, where the account may not end an open transaction. Nothing was stopped
    /// then but the receiver thread.
    pub(super) async fn stop_channel_or_report(&mut self, name: &str, end: Instant) -> Result<(), StepError> {
        if !self.end_open_transaction(name, end).await? {
            return Err(self.refused(
                "ending a transaction that was received in part",
                NOT_OWNER,
                "the account may not kill applier threads: grant SYSTEM_USER".to_owned(),
            ));
        }
        let statement = self.dialect().stop_replica(name);
        self.send(&statement, end).await.map(drop)
    }

    /// Whether all applier threads of a channel wait for more relay log, while its applied position stays the same: then everything
    /// complete is applied. `None` where the threads of the channel cannot be told from others.
    pub(super) async fn is_applier_idle(&mut self, channel: &Channel, end: Instant) -> Result<Option<bool>, StepError> {
        let begun = Instant::now();
        loop {
            let Some(threads) = self.applier_threads(&channel.name, end).await? else {
                return Ok(None);
            };
            if threads.is_empty() || !threads.iter().all(ApplierThread::is_idle) {
                return Ok(Some(false));
            }
            if begun.elapsed() >= IDLE_FOR {
                let now = self.channel_named(&channel.name, end).await?;
                return Ok(Some(now.is_some_and(|now| now.exec == channel.exec)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Remembers that behind this applied position the relay log holds only a part of a transaction.
    pub(super) fn remember_open_transaction(&mut self, after: BinlogCoordinates) {
        self.open_transaction_after = Some(after);
    }

    /// Kills the applier threads of a channel when all that they still can do is to wait for the rest of a transaction. Stops the
    /// receiver thread before. Complete transactions that are not applied keep the applier alive. Returns false when the account may
    /// not kill them, and true from then on.
    async fn end_open_transaction(&mut self, name: &str, end: Instant) -> Result<bool, StepError> {
        if self.dialect().version().flavour.is_mariadb() || !self.may_kill_appliers {
            return Ok(true);
        }
        let Some(channel) = self.channel_named(name, end).await? else {
            return Ok(true);
        };
        if channel.sql == ThreadState::Stopped {
            return Ok(true);
        }
        if channel.io != ThreadState::Stopped {
            let statement = self.dialect().stop_io_thread(name);
            self.send(&statement, end).await?;
        }
        let facts = self.read_facts(end).await?;
        let Some(channel) = facts.channels.iter().find(|channel| channel.name == name) else {
            return Ok(true);
        };
        if channel.read == channel.exec || channel.sql == ThreadState::Stopped {
            return Ok(true);
        }
        if self.has_open_transaction(name, end).await? == Some(false) {
            return Ok(true);
        }
        let is_over = has_only_open_transaction(&facts, channel)
            || self.open_transaction_after.as_ref() == Some(&channel.exec)
            || self.is_applier_idle(channel, end).await? == Some(true);
        let threads = self.applier_threads(name, end).await?;
        let Some(threads) = threads.filter(|_| is_over) else {
            return Ok(true);
        };
        let name = channel.name.clone();
        for thread in threads {
            tracing::info!(
                instance = %self.instance(),
                thread = thread.id,
                "killing an applier thread that waits for the rest of a transaction: {}",
                thread.state
            );
            let statement = self.dialect().kill(thread.id);
            match self.send(&statement, end).await {
                Ok(_)
                | Err(StepError::Refused {
                    number: NO_SUCH_THREAD, ..
                }) => {}
                // The statement that stops the channel ends by itself after a minute.
                Err(StepError::Refused { .. }) => {
                    self.may_kill_appliers = false;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        let stopped_by = end.min(Instant::now() + ROLLBACK_DEADLINE);
        while Instant::now() < stopped_by {
            let now = self.channel_named(&name, end + READ_GRACE).await?;
            if now.is_none_or(|now| now.sql == ThreadState::Stopped) {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(true)
    }

    /// Whether an applier thread of a channel is within a transaction. Where none is, nothing holds up the statement that stops the
    /// channel, and threads that are killed all the same leave a multi-threaded applier that cannot be changed (error 1802). Without
    /// `performance_schema` a thread counts as within a transaction when it has one in the storage engine. `None` where the account may
    /// not read that.
    async fn has_open_transaction(&mut self, channel: &str, end: Instant) -> Result<Option<bool>, StepError> {
        let statement = if self.has_performance_schema() {
            self.dialect().select_applying_threads_of(channel)
        } else {
            let threads = self.applier_threads(channel, end).await?.unwrap_or_default();
            let threads: Vec<u64> = threads.iter().map(|thread| thread.id).collect();
            self.dialect().select_transactions_of(&threads)
        };
        let Some(statement) = statement else {
            return Ok(None);
        };
        let what = "listing the open transactions of the applier";
        match self.send_as(what, &statement, end).await {
            Ok(rows) => Ok(Some(!rows.is_empty())),
            Err(StepError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn channel_named(&mut self, name: &str, end: Instant) -> Result<Option<Channel>, StepError> {
        Ok(self
            .channels(end)
            .await?
            .into_iter()
            .find(|channel| channel.name == name))
    }

    /// The applier threads of a channel. On a server with several channels `performance_schema` is needed to tell them apart, and
    /// MariaDB cannot.
    async fn applier_threads(&mut self, channel: &str, end: Instant) -> Result<Option<Vec<ApplierThread>>, StepError> {
        let statement = self.dialect().show_replica_status();
        // Group Replication has channels of its own.
        let is_only = self.send(statement, end).await?.len() == 1;
        let of_channel = self.dialect().select_applier_threads_of(channel);
        let statement = match of_channel.filter(|_| !is_only) {
            _ if is_only => self.dialect().select_applier_threads(),
            Some(statement) => statement,
            None => return Ok(None),
        };
        let statement = queries::processlist_statement(statement, self.has_performance_schema());
        let rows = match self.send_as("listing the applier threads", &statement, end).await {
            Ok(rows) => rows,
            Err(StepError::Refused { .. }) if !is_only => return Ok(None),
            Err(error) => return Err(error),
        };
        if rows.is_empty() && !is_only {
            return Ok(None);
        }
        let threads = rows.iter().filter_map(|row| {
            Some(ApplierThread {
                id: row.number(&["ID"]).ok()?,
                state: row.text_or_empty(&["STATE"]),
            })
        });
        Ok(Some(threads.collect()))
    }
}

impl ApplierThread {
    fn is_idle(&self) -> bool {
        IDLE_STATES.iter().any(|state| self.state.contains(state))
    }
}

/// By GTID: everything complete that was received is applied, whatever the threads do now.
fn has_only_open_transaction(facts: &InstanceFacts, channel: &Channel) -> bool {
    let received = channel.retrieved.as_ref().filter(|set| !set.is_empty());
    channel.positioning.is_gtid() && received.is_some_and(|set| facts.executed.contains(set))
}
