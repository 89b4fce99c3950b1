//! The steps on a replication channel, in the orders that lose no relay log.
//!
//! # MariaDB deletes relay log
//! With GTID, MariaDB deletes relay log that was not applied as soon as one thread of a channel is started after both were
//! stopped. So the receiver thread is stopped first. The applier thread is stopped when it has applied everything. Where both
//! threads are found stopped and relay log is left, the applier thread is started by file position, which keeps the relay log
//! ([`Dialect::relay_log_rescue`]). GTID is switched on again afterwards. MySQL keeps its relay log in all these cases.
//!
//! [`Dialect::relay_log_rescue`]: crate::domain::dialect::Dialect::relay_log_rescue

use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, Attachment, StepError, TlsMode};
use crate::domain::dialect::{ChangeSource, SourcePosition, SourceTls};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Channel, InstanceFacts, Positioning, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::quote::{quote_literal, quote_string};

use super::session::{MySqlSession, POLL_INTERVAL, READ_GRACE};
use super::text_row::TextRow;

/// Seconds between a replica's attempts to connect to its source. With the default of 60 it would lag a minute after each restart
/// of the source.
const CONNECT_RETRY: u32 = 1;

/// 0: no limit. MySQL 8.4 gives up after 10 attempts, which at one a second is shorter than a reboot of the source.
const RETRY_COUNT: u32 = 0;

/// The heartbeat period of an idle source. It bounds the age of a replica's view of its source.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// During a wait, the state of the applier thread is read once in this many reads of the executed set.
const READS_PER_STATUS: u32 = 10;

/// How long a replica may take after it connected until its position is the end of its source's log.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
/// A position that does not change for this time is the end of the source's log.
const SETTLED_AFTER: Duration = Duration::from_millis(200);
/// The position of the first event of a binary log.
const FIRST_EVENT_POSITION: u64 = 4;

/// The name of the step in errors.
const BY_POSITION: &str = "connecting by position";

/// Error number of ham4db's own refusals.
const OWN_REFUSAL: u16 = 0;

impl MySqlSession {
    fn is_mariadb(&self) -> bool {
        self.dialect().version().flavour.is_mariadb()
    }

    /// Starts the applier thread of the managed channel, unless it runs.
    pub(super) async fn start_stopped_applier(&mut self, end: Instant) -> Result<(), StepError> {
        let facts = self.read_facts(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        if channel.sql != ThreadState::Stopped {
            return Ok(());
        }
        if channel.sql_error.number != 0 {
            return Err(self.applier_stopped("starting the applier", channel));
        }
        let would_lose_relay_log =
            channel.io == ThreadState::Stopped && channel.positioning.is_gtid() && has_unapplied(&facts, channel);
        let rescue = self
            .dialect()
            .relay_log_rescue(&channel.name, &channel.relay.file, channel.relay.position);
        let statements = match rescue.filter(|_| would_lose_relay_log) {
            Some(statements) => {
                self.rescued = Some(facts.received());
                statements
            }
            None => vec![self.dialect().start_sql_thread(&channel.name)],
        };
        for statement in statements {
            self.send(&statement, end).await?;
        }
        Ok(())
    }

    /// Starts the receiver thread of the managed channel. On MariaDB a stopped applier thread with relay log left is started
    /// first, and GTID is switched on again when the relay log of the channel was rescued.
    pub(super) async fn start_stopped_receiver(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let facts = self.read_facts(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        let are_stopped = channel.io == ThreadState::Stopped && channel.sql == ThreadState::Stopped;
        if self.is_mariadb() && are_stopped && channel.positioning.is_gtid() && has_unapplied(&facts, channel) {
            self.start_stopped_applier(end).await?;
        }
        if self.rescued.is_some() {
            return self
                .replicate_from(&channel.source, None, end.saturating_duration_since(Instant::now()))
                .await;
        }
        let statement = self.dialect().start_io_thread(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    /// Waits until `set` is applied. Fails when the applier thread is stopped before.
    pub(super) async fn wait_until_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let what = "waiting until everything received is applied";
        let mut reads = 0_u32;
        loop {
            if self.has_applied(set, end + READ_GRACE).await? {
                return Ok(());
            }
            if reads.is_multiple_of(READS_PER_STATUS) {
                let channel = self.managed_channel(end + READ_GRACE).await?;
                let stopped = channel
                    .as_ref()
                    .is_none_or(|channel| channel.sql == ThreadState::Stopped);
                // The applier may have applied the rest and stopped between the two reads.
                if stopped && !self.has_applied(set, end + READ_GRACE).await? {
                    return Err(match channel {
                        None => self.refused(what, OWN_REFUSAL, "the server has no replication channel".to_owned()),
                        Some(channel) => self.applier_stopped(what, &channel),
                    });
                }
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.timed_out(what, deadline));
            }
            reads += 1;
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn has_applied(&mut self, set: &GtidSet, end: Instant) -> Result<bool, StepError> {
        let what = "reading what is applied";
        let flavour = self.dialect().version().flavour;
        if let GtidSet::MySql(set) = set {
            let statement = format!(
                "SELECT GTID_SUBSET({}, @@global.gtid_executed)",
                quote_string(&set.to_string())
            );
            let rows = self.send_as(what, &statement, end).await?;
            return Ok(rows
                .first()
                .and_then(TextRow::first)
                .is_some_and(|answer| answer == "1"));
        }
        let statement =
            "SELECT CONCAT_WS(',', NULLIF(@@global.gtid_binlog_state, ''), NULLIF(@@global.gtid_slave_pos, ''))";
        let rows = self.send_as(what, statement, end).await?;
        let text = rows.first().and_then(TextRow::first).unwrap_or_default();
        let applied =
            GtidSet::parse(flavour, &text).map_err(|error| self.refused(what, OWN_REFUSAL, error.to_string()))?;
        Ok(applied.covers(set))
    }

    /// Points the managed channel, or a new default channel, at a source by GTID, and starts it.
    pub(super) async fn replicate_from(
        &mut self,
        source: &InstanceKey,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let attachment = Attachment {
            account,
            tls: false,
            start: true,
        };
        self.attach_channel(source, &attachment, deadline).await
    }

    /// [`replicate_from`](Self::replicate_from), with the options that a former primary needs.
    pub(super) async fn attach_channel(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let account = attachment.account;
        let end = Instant::now() + deadline;
        let facts = self.read_facts(end).await?;
        let channel = facts.managed_channel().cloned();
        let own_name = channel.as_ref().map(|channel| channel.name.clone());
        let name = own_name.unwrap_or_else(|| self.name_of_new_channel());
        let mut position = SourcePosition::Gtid;
        match &channel {
            None => self.continue_from_own_position(&facts, end).await?,
            // A delayed replica has never applied everything. The new source has everything that the replica received. So the
            // relay log may be deleted: its transactions are received again.
            Some(channel)
                if self.is_mariadb()
                    && channel.delay_seconds > 0
                    && channel.positioning.is_gtid()
                    && self.rescued.is_none() =>
            {
                self.stop_channel(&channel.name, end).await?;
            }
            // While GTID is off for the channel, MySQL would delete the relay log too.
            Some(channel) if self.is_mariadb() || self.rescued.is_some() => {
                self.stop_without_loss(channel, end, deadline).await?;
            }
            Some(channel) if channel.positioning == Positioning::AutoPosition => {
                // When the position stays as it is, MySQL keeps the applier thread running and the relay log.
                position = SourcePosition::Keep;
                let statement = self.dialect().stop_io_thread(&channel.name);
                self.send(&statement, end).await?;
            }
            Some(channel) => {
                self.stop_channel(&channel.name, end).await?;
            }
        }
        let tls = match &channel {
            Some(_) => Some(SourceTls::Keep),
            None => attachment.tls.then_some(SourceTls::On),
        };
        self.change_source(&name, source, account, position, tls, attachment.start, end)
            .await?;
        self.rescued = None;
        Ok(())
    }

    /// Points a stopped channel at a source and starts it. `tls` is `None` for a new channel.
    pub(super) async fn change_source_and_start(
        &mut self,
        name: &str,
        source: &InstanceKey,
        account: Option<&Account>,
        position: SourcePosition,
        tls: Option<SourceTls>,
        end: Instant,
    ) -> Result<(), StepError> {
        self.change_source(name, source, account, position, tls, true, end)
            .await
    }

    #[expect(clippy::too_many_arguments, reason = "each is one clause of the statement")]
    async fn change_source(
        &mut self,
        name: &str,
        source: &InstanceKey,
        account: Option<&Account>,
        position: SourcePosition,
        tls: Option<SourceTls>,
        start: bool,
        end: Instant,
    ) -> Result<(), StepError> {
        let change = ChangeSource {
            channel: name,
            host: &source.hostname,
            port: source.port,
            user: account.map(|account| account.user.as_str()),
            password: account.map(|account| account.password.expose_secret()),
            position,
            tls: tls.unwrap_or_else(|| self.tls_of_a_new_channel()),
            connect_retry: Some(CONNECT_RETRY),
            retry_count: Some(RETRY_COUNT),
            heartbeat_period: Some(HEARTBEAT),
        };
        let statement = self.dialect().change_source(&change);
        let changed = self.send_as(&statement.to_string(), statement.expose(), end).await;
        changed.map_err(|error| without_password(error, account))?;
        if !start {
            // The applier thread may run when the channel existed before.
            return self.stop_channel(name, end).await;
        }
        let statement = self.dialect().start_replica(name);
        self.send(&statement, end).await.map(drop)
    }

    fn tls_of_a_new_channel(&self) -> SourceTls {
        match self.tls {
            TlsMode::Off => SourceTls::Off,
            TlsMode::Preferred => SourceTls::Keep,
            TlsMode::Required | TlsMode::Verify => SourceTls::On,
        }
    }

    /// A MariaDB server that was not a replica since it wrote its last transaction has that transaction in its binary log only.
    /// So `gtid_slave_pos` is set to the end of its executed set. Then a transaction that the source lacks stops replication with
    /// error 1236 and is not skipped.
    async fn continue_from_own_position(&mut self, facts: &InstanceFacts, end: Instant) -> Result<(), StepError> {
        let GtidSet::MariaDb(executed) = &facts.executed else {
            return Ok(());
        };
        match self.dialect().set_gtid_slave_position(executed) {
            Some(statement) => self.send(&statement, end).await.map(drop),
            None => Ok(()),
        }
    }

    /// Stops both threads of a channel when everything that was received is applied. When the applier thread stopped with an
    /// error, nothing can be applied: then the relay log is given up, and its transactions are received again from the new source
    /// by GTID.
    pub(super) async fn stop_without_loss(
        &mut self,
        channel: &Channel,
        end: Instant,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let what = "waiting until the relay log is applied, before the source is changed";
        if channel.sql == ThreadState::Stopped && channel.sql_error.number == 0 {
            self.start_stopped_applier(end).await?;
        }
        let statement = self.dialect().stop_io_thread(&channel.name);
        self.send(&statement, end).await?;
        loop {
            let facts = self.read_facts(end + READ_GRACE).await?;
            let Some(now) = facts.managed_channel() else { break };
            let is_applied = match &self.rescued {
                Some(received) => facts.executed.contains(received),
                None => !has_unapplied(&facts, now),
            };
            if is_applied || (now.sql == ThreadState::Stopped && now.sql_error.number != 0) {
                break;
            }
            // Without a retrieved set a transaction that was received in part keeps the two positions different.
            let now = now.clone();
            if self.rescued.is_none()
                && is_judged_by_position(&now)
                && self.is_applier_idle(&now, end).await? == Some(true)
            {
                self.remember_open_transaction(now.exec);
                break;
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.timed_out(what, deadline));
            }
            sleep(POLL_INTERVAL).await;
        }
        self.stop_channel(&channel.name, end).await
    }

    /// Connects the managed channel by position when everything that was received is applied, and then by GTID again.
    ///
    /// When a replica connects, a semi-sync source takes the requested position as acknowledged (`dump_start` in the source's
    /// plugin; by GTID that position is the begin of a file). Measured on MySQL 9.7 and MariaDB 10.11: six commits that waited
    /// for a dead replica ended at once. The alternatives do not work. A waiting transaction that the replica received before it
    /// acknowledges is never acknowledged afterwards. The next transaction would be, but on MariaDB no transaction is written to
    /// the binary log while two groups of commits wait. Switching semi-sync off and on at the source completes commits without an
    /// acknowledgement.
    pub(super) async fn reconnect_by_position(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        self.wait_until_settled(end).await?;
        self.stop_without_loss(&channel, end, deadline).await?;
        let stopped = self.managed_channel(end).await?;
        let applied = stopped
            .map(|channel| channel.exec)
            .filter(|applied| !applied.file.is_empty());
        let Some(applied) = applied else {
            self.start_stopped_receiver(deadline).await?;
            return Err(self.refused(
                BY_POSITION,
                OWN_REFUSAL,
                "the server reports no applied position".to_owned(),
            ));
        };
        let position = SourcePosition::File {
            file: applied.file,
            position: applied.position,
        };
        let tls = Some(SourceTls::Keep);
        let (name, source) = (channel.name.clone(), channel.source.clone());
        let connected = match self
            .change_source_and_start(&name, &source, None, position, tls, end)
            .await
        {
            Ok(()) => self.wait_until_events_requested(end).await,
            Err(error) => Err(error),
        };
        // Switch back to GTID in any case.
        let again = end.max(Instant::now() + READ_GRACE);
        self.stop_without_loss(&channel, again, deadline).await?;
        self.change_source_and_start(&name, &source, None, SourcePosition::Gtid, tls, again)
            .await?;
        connected
    }

    /// Waits up to [`SETTLE_DEADLINE`] until the received and the applied position are equal and do not change. After a
    /// connection by GTID both begin at 4, the first position of a file, and reach the end of the log when the source has skipped
    /// what the replica has.
    async fn wait_until_settled(&mut self, end: Instant) -> Result<(), StepError> {
        let end = end.min(Instant::now() + SETTLE_DEADLINE);
        let mut before = None;
        while Instant::now() + SETTLED_AFTER < end {
            let Some(channel) = self.managed_channel(end + READ_GRACE).await? else {
                return Ok(());
            };
            if channel.sql == ThreadState::Stopped {
                return Ok(());
            }
            let is_caught_up = channel.read == channel.exec && channel.exec.position > FIRST_EVENT_POSITION;
            if is_caught_up && channel.is_receiving() && before.as_ref() == Some(&channel.exec) {
                return Ok(());
            }
            before = Some(channel.exec);
            sleep(SETTLED_AFTER).await;
        }
        Ok(())
    }

    /// Waits until the receiver thread of the managed channel has requested events.
    async fn wait_until_events_requested(&mut self, end: Instant) -> Result<(), StepError> {
        let statement = self.dialect().show_replica_status();
        loop {
            let rows = self.send(statement, end + READ_GRACE).await?;
            let managed = self.name_of_new_channel();
            let is_only = rows.len() == 1;
            let states = rows
                .iter()
                .filter(|row| is_only || row.text_or_empty(&["Channel_Name", "Connection_name"]) == managed)
                .map(|row| row.text_or_empty(&["Replica_IO_State", "Slave_IO_State"]));
            // The state is set after the request was sent: "Waiting for source to send event", "Waiting for master ...",
            // "Queueing source event to the relay log".
            let mut has_requested =
                states.filter(|state| state.contains("to send event") || state.starts_with("Queueing"));
            if has_requested.next().is_some() {
                return Ok(());
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.refused(
                    BY_POSITION,
                    OWN_REFUSAL,
                    "the receiver thread did not connect in time".to_owned(),
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The error for a stopped applier thread, with the reason that the server reports.
    pub(super) fn applier_stopped(&self, what: &str, channel: &Channel) -> StepError {
        let error = &channel.sql_error;
        let message = if error.number == 0 {
            "the applier is stopped".to_owned()
        } else {
            format!("the applier stopped: {}", error.message)
        };
        self.refused(what, u16::try_from(error.number).unwrap_or(u16::MAX), message)
    }
}

/// Whether the channel has relay log that was not applied. The retrieved GTID set decides where it is known. A MariaDB server
/// does not report it after a restart or without GTID; then the received and the applied position in the source's binary log are
/// compared.
pub(super) fn has_unapplied(facts: &InstanceFacts, channel: &Channel) -> bool {
    match &channel.retrieved {
        Some(retrieved) if !retrieved.is_empty() => !facts.executed.contains(retrieved),
        _ => channel.read != channel.exec,
    }
}

/// Whether [`has_unapplied`] compares positions.
fn is_judged_by_position(channel: &Channel) -> bool {
    channel.retrieved.as_ref().is_none_or(GtidSet::is_empty)
}

/// Removes the password from an error: the server quotes a statement that it cannot parse.
fn without_password(error: StepError, account: Option<&Account>) -> StepError {
    let (
        StepError::Refused {
            instance,
            what,
            number,
            mut message,
        },
        Some(account),
    ) = (error.clone(), account)
    else {
        return error;
    };
    let password = account.password.expose_secret();
    if !password.is_empty() {
        message = message
            .replace(&quote_literal(password), "'***'")
            .replace(password, "***");
    }
    StepError::Refused {
        instance,
        what,
        number,
        message,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn a_server_that_quotes_the_statement_gives_no_password_away() {
        let account = Account {
            user: "repl".to_owned(),
            password: SecretString::from("s3c'ret"),
        };
        let refused = |message: &str| StepError::Refused {
            instance: InstanceKey::new("db1", 3306),
            what: "CHANGE MASTER TO MASTER_PASSWORD = '***'".to_owned(),
            number: 1064,
            message: message.to_owned(),
        };
        for message in ["near 'MASTER_PASSWORD = 's3c''ret', X'", "near 's3c'ret' at line 1"] {
            let shown = without_password(refused(message), Some(&account)).to_string();
            assert!(shown.contains("***") && !shown.contains("ret"), "{shown}");
        }
        assert_eq!(without_password(refused("near 'x'"), None), refused("near 'x'"));
    }
}
