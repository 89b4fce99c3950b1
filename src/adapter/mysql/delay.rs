//! Delayed replication (`SOURCE_DELAY`, `MASTER_DELAY`): applies without the delay, and sets the delay.
//!
//! When the source is dead, transactions that only a delayed replica received must be applied at once. Neither flavour allows a
//! change of the delay while the applier thread runs. Both delete the relay log when the delay is changed while both threads are
//! stopped, as they are after the step that stops receivers. So the applier continues by the coordinates in the relay log. GTID
//! is off for the channel until everything is applied.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::ports::StepError;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Channel, ThreadState};

use super::replication::has_unapplied;
use super::session::{MySqlSession, POLL_INTERVAL, READ_GRACE};

/// What is done, for refusals that are ham4db's own.
const APPLYING_WITHOUT_DELAY: &str = "applying without delay";
const SETTING_DELAY: &str = "setting the delay";
/// Error number of ham4db's own refusals.
const OWN_REFUSAL: u16 = 0;

impl MySqlSession {
    /// Starts the applier thread of the managed channel without the delay, when there is anything to apply.
    pub(super) async fn start_applier_without_delay(&mut self, end: Instant) -> Result<(), StepError> {
        let facts = self.read_facts(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        if channel.sql == ThreadState::Stopped && channel.sql_error.number != 0 {
            return Err(self.applier_stopped(APPLYING_WITHOUT_DELAY, channel));
        }
        if channel.delay_seconds == 0 || !has_unapplied(&facts, channel) {
            return self.start_stopped_applier(end).await;
        }
        for statement in [
            self.dialect().stop_io_thread(&channel.name),
            self.dialect().stop_sql_thread(&channel.name),
        ] {
            self.send(&statement, end).await?;
        }
        self.rescued = Some(facts.received());
        let started = self.apply_from_relay_log_position(end).await;
        if let Err(StepError::Refused { .. }) = started {
            self.rescued = None;
            self.restart_unchanged_applier(channel, end).await?;
        }
        started
    }

    /// With both threads stopped: starts the applier thread at its position in the relay log, without delay and without GTID.
    async fn apply_from_relay_log_position(&mut self, end: Instant) -> Result<(), StepError> {
        // The applier may have applied transactions before it stopped.
        let Some(stopped) = self.managed_channel(end).await? else {
            return Ok(());
        };
        if stopped.relay.file.is_empty() {
            return Err(self.refused(
                APPLYING_WITHOUT_DELAY,
                OWN_REFUSAL,
                "the server reports no relay log position".to_owned(),
            ));
        }
        let statements = self
            .dialect()
            .apply_without_delay(&stopped.name, &stopped.relay.file, stopped.relay.position);
        for statement in statements {
            self.send(&statement, end).await?;
        }
        Ok(())
    }

    /// Starts the applier thread that was stopped for a change which was not made. Not on MariaDB, which would delete the relay
    /// log.
    async fn restart_unchanged_applier(&mut self, channel: &Channel, end: Instant) -> Result<(), StepError> {
        if self.dialect().version().flavour.is_mariadb() {
            return Ok(());
        }
        let statement = self.dialect().start_sql_thread(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    /// Sets the delay of the managed channel, by GTID, after everything that was received is applied.
    pub(super) async fn set_delay(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        if channel.delay_seconds == seconds && channel.positioning.is_gtid() {
            let is_stopped = channel.sql == ThreadState::Stopped && channel.sql_error.number == 0;
            return if is_stopped {
                self.restart_unchanged_applier(&channel, end).await
            } else {
                Ok(())
            };
        }
        let by_gtid_and_receiving = channel.positioning.is_gtid() && channel.io != ThreadState::Stopped;
        let alone = self.dialect().delay_while_receiving(&channel.name, seconds);
        if let Some(statement) = alone.filter(|_| by_gtid_and_receiving && self.rescued.is_none()) {
            // Waiting is not needed here. It could be endless: a new channel reports no retrieved set, and its two positions may
            // never be equal.
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
            self.send(&statement, end.max(Instant::now() + READ_GRACE)).await?;
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
        // MySQL still reports the retrieved set without auto-position.
        let has_no_retrieved_set = channel.retrieved.as_ref().is_none_or(GtidSet::is_empty);
        if self.rescued.is_none() && !channel.positioning.is_gtid() && has_no_retrieved_set {
            self.apply_relay_log_by_position(channel, end, deadline).await?;
        }
        self.stop_without_loss(channel, end, deadline).await?;
        let end = end.max(Instant::now() + READ_GRACE);
        let stopped = self.read_facts(end).await?;
        let left = match (&self.rescued, stopped.managed_channel()) {
            (Some(received), _) => !stopped.executed.contains(received),
            (None, Some(now)) => has_unapplied(&stopped, now),
            (None, None) => false,
        };
        if let Some(now) = stopped.managed_channel().filter(|_| left) {
            return Err(self.applier_stopped(SETTING_DELAY, now));
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

    /// Waits until everything in the relay log is applied, on a channel for which another actor switched GTID off. The positions
    /// in the source's binary log prove nothing: measured on MariaDB 10.11, the change to relay log coordinates sets
    /// `Exec_Master_Log_Pos` to the position that was read. So the applier thread must report that it has read everything. It may
    /// only have handed the events to its workers. So it is stopped, which completes started groups of events and discards the
    /// others. When the position is the same after two such stops, nothing is left.
    async fn apply_relay_log_by_position(
        &mut self,
        channel: &Channel,
        end: Instant,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let mut before = None;
        loop {
            self.start_stopped_applier(end).await?;
            self.wait_until_idle(&channel.name, end, deadline).await?;
            // Stopping the thread would wait for the rest of a transaction that was received in part.
            if let Some(idle) = self.managed_channel(end + READ_GRACE).await?
                && !self.dialect().version().flavour.is_mariadb()
                && self.is_applier_idle(&idle, end + READ_GRACE).await? == Some(true)
            {
                self.remember_open_transaction(idle.exec);
                return Ok(());
            }
            let statement = self.dialect().stop_sql_thread(&channel.name);
            self.send(&statement, end + READ_GRACE).await?;
            let position = self.managed_channel(end + READ_GRACE).await?.map(|now| now.relay);
            if before.as_ref() == Some(&position) {
                return Ok(());
            }
            before = Some(position);
        }
    }

    async fn wait_until_idle(&mut self, name: &str, end: Instant, deadline: Duration) -> Result<(), StepError> {
        loop {
            let statement = self.dialect().show_replica_status();
            let rows = self.send(statement, end + READ_GRACE).await?;
            let mut states = rows
                .iter()
                .filter(|row| row.text_or_empty(&["Channel_Name", "Connection_name"]) == name)
                .map(|row| row.text_or_empty(&["Replica_SQL_Running_State", "Slave_SQL_Running_State"]));
            if states.any(|state| state.contains("has read all relay log")) {
                return Ok(());
            }
            if let Some(stopped) = self.managed_channel(end + READ_GRACE).await?
                && stopped.sql == ThreadState::Stopped
            {
                return Err(self.applier_stopped(SETTING_DELAY, &stopped));
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.timed_out("waiting until everything received is applied", deadline));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
