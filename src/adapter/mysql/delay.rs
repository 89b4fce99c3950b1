//! Appliers that wait on purpose (`SOURCE_DELAY`, `MASTER_DELAY`).
//!
//! What a delayed replica alone received can wait no longer when its source is dead. Neither flavour lets the delay be changed while the
//! applier runs, and both delete the relay log when it is changed while both threads are stopped, which they are after a freeze. So the
//! applier goes on by the relay log's own coordinates, for which GTID has to be off until everything is applied.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::ports::StepError;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Channel, ThreadState};

use super::replication::has_unapplied;
use super::session::{LAST_LOOK, LOOK_AGAIN, MySqlSession};

/// As the statements are called where they are refused by us.
const LIFTING: &str = "applying without delay";
const SETTING: &str = "setting the delay";
/// Error number of refusals that are ours.
const OURS: u16 = 0;

impl MySqlSession {
    /// Starts the applier of the managed channel without its delay, if there is anything to apply.
    pub(super) async fn lift_delay(&mut self, end: Instant) -> Result<(), StepError> {
        let facts = self.facts_until(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        if channel.sql == ThreadState::Stopped && channel.sql_error.number != 0 {
            return Err(self.applier_stopped(LIFTING, channel));
        }
        if channel.delay_seconds == 0 || !has_unapplied(&facts, channel) {
            return self.apply_again(end).await;
        }
        for statement in [
            self.dialect().stop_io_thread(&channel.name),
            self.dialect().stop_sql_thread(&channel.name),
        ] {
            self.send(&statement, end).await?;
        }
        self.rescued = Some(facts.received());
        let lifted = self.apply_by_place(end).await;
        if let Err(StepError::Refused { .. }) = lifted {
            self.rescued = None;
            self.wait_as_before(channel, end).await?;
        }
        lifted
    }

    /// With both threads stopped: goes on where the applier stopped, without delay and off GTID.
    async fn apply_by_place(&mut self, end: Instant) -> Result<(), StepError> {
        // It may have applied something until it stopped.
        let Some(stopped) = self.managed_channel(end).await? else {
            return Ok(());
        };
        if stopped.relay.file.is_empty() {
            return Err(self.refused(LIFTING, OURS, "it does not tell its place in the relay log".to_owned()));
        }
        let statements = self
            .dialect()
            .apply_without_delay(&stopped.name, &stopped.relay.file, stopped.relay.position);
        for statement in statements {
            self.send(&statement, end).await?;
        }
        Ok(())
    }

    /// Starts an applier that was stopped for a change which was not made. MariaDB would delete the relay log.
    async fn wait_as_before(&mut self, channel: &Channel, end: Instant) -> Result<(), StepError> {
        if self.dialect().version().flavour.is_mariadb() {
            return Ok(());
        }
        let statement = self.dialect().start_sql_thread(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    /// Lets the applier of the managed channel wait so many seconds from now on, by GTID, once everything received is applied.
    pub(super) async fn set_delay(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        if channel.delay_seconds == seconds && channel.positioning.is_gtid() {
            let is_stopped = channel.sql == ThreadState::Stopped && channel.sql_error.number == 0;
            return if is_stopped {
                self.wait_as_before(&channel, end).await
            } else {
                Ok(())
            };
        }
        let by_gtid_and_receiving = channel.positioning.is_gtid() && channel.io != ThreadState::Stopped;
        let alone = self.dialect().delay_while_receiving(&channel.name, seconds);
        if let Some(statement) = alone.filter(|_| by_gtid_and_receiving && self.rescued.is_none()) {
            // No need to wait: a fresh channel tells nothing of what it received, and positions that never meet.
            for statement in [
                self.dialect().stop_sql_thread(&channel.name),
                statement,
                self.dialect().start_sql_thread(&channel.name),
            ] {
                self.send(&statement, end).await?;
            }
            return Ok(());
        }
        let set = self.change_delay(&channel, seconds, end, deadline).await;
        if set.is_err() && channel.io != ThreadState::Stopped && channel.positioning.is_gtid() {
            let statement = self.dialect().start_replica(&channel.name);
            self.send(&statement, end.max(Instant::now() + LAST_LOOK)).await?;
        }
        set
    }

    async fn change_delay(
        &mut self,
        channel: &Channel,
        seconds: u64,
        end: Instant,
        deadline: Duration,
    ) -> Result<(), StepError> {
        // MySQL goes on telling what it received.
        let is_untold = channel.retrieved.as_ref().is_none_or(GtidSet::is_empty);
        if self.rescued.is_none() && !channel.positioning.is_gtid() && is_untold {
            self.finish_by_place(channel, end, deadline).await?;
        }
        self.stop_without_loss(channel, end, deadline).await?;
        let end = end.max(Instant::now() + LAST_LOOK);
        let stopped = self.facts_until(end).await?;
        let left = match (&self.rescued, stopped.managed_channel()) {
            (Some(received), _) => !stopped.executed.contains(received),
            (None, Some(now)) => has_unapplied(&stopped, now),
            (None, None) => false,
        };
        if let Some(now) = stopped.managed_channel().filter(|_| left) {
            return Err(self.applier_stopped(SETTING, now));
        }
        let mut statements = vec![
            self.dialect().delay_by(&channel.name, seconds),
            self.dialect().start_sql_thread(&channel.name),
        ];
        if channel.io != ThreadState::Stopped {
            statements.push(self.dialect().start_io_thread(&channel.name));
        }
        for statement in statements {
            self.send(&statement, end).await?;
        }
        self.rescued = None;
        Ok(())
    }

    /// Waits until an applier has applied all of its relay log that another actor took off GTID. The positions in the source's log say
    /// nothing: measured on MariaDB 10.11, the change to relay log coordinates sets `Exec_Master_Log_Pos` to what was read. So the applier
    /// has to say that it has read everything; and since it may only have handed it to its workers, it is stopped, which ends no group of
    /// events half-way and forgets those not begun. When the place does not move between two such stops, there was none.
    async fn finish_by_place(&mut self, channel: &Channel, end: Instant, deadline: Duration) -> Result<(), StepError> {
        let mut before = None;
        loop {
            self.apply_again(end).await?;
            self.wait_until_idle(&channel.name, end, deadline).await?;
            let statement = self.dialect().stop_sql_thread(&channel.name);
            self.send(&statement, end + LAST_LOOK).await?;
            let place = self.managed_channel(end + LAST_LOOK).await?.map(|now| now.relay);
            if before.as_ref() == Some(&place) {
                return Ok(());
            }
            before = Some(place);
        }
    }

    async fn wait_until_idle(&mut self, name: &str, end: Instant, deadline: Duration) -> Result<(), StepError> {
        loop {
            let statement = self.dialect().show_replica_status();
            let rows = self.send(statement, end + LAST_LOOK).await?;
            let mut states = rows
                .iter()
                .filter(|row| row.text_or_empty(&["Channel_Name", "Connection_name"]) == name)
                .map(|row| row.text_or_empty(&["Replica_SQL_Running_State", "Slave_SQL_Running_State"]));
            if states.any(|state| state.contains("has read all relay log")) {
                return Ok(());
            }
            if let Some(stopped) = self.managed_channel(end + LAST_LOOK).await?
                && stopped.sql == ThreadState::Stopped
            {
                return Err(self.applier_stopped(SETTING, &stopped));
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(self.too_slow("waiting until everything received is applied", deadline));
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
