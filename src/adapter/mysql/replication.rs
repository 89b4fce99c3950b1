//! The steps on a replication channel, in the orders that lose no relay log.
//!
//! # MariaDB throws relay log away
//! With GTID, MariaDB deletes relay log that was not applied as soon as one thread of a channel is started after both were stopped.
//! So the receiver is stopped first, the applier is left to finish, and only then stopped; and where both are found stopped with
//! something left, the applier is started by file position, which keeps it ([`Dialect::relay_log_rescue`]), and GTID is switched on
//! again when it is done. MySQL keeps its relay log in all of these.
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

use super::session::{LAST_LOOK, LOOK_AGAIN, MySqlSession};
use super::text_row::TextRow;

/// Seconds between a replica's attempts to reach its source. The default of 60 would leave it behind for a minute after a restart of
/// the source.
const CONNECT_RETRY: u32 = 1;

/// For ever: MySQL 8.4 gives up after 10 attempts, which at one a second is a reboot of the source.
const RETRY_COUNT: u32 = 0;

/// How often an idle source says that it is there, so that a replica's view of it is at most this old.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// While something is waited for, the applier's state is looked at once in so many looks at what was applied.
const LOOKS_PER_STATUS: u32 = 10;

/// How long the position of a replica may take to come to the end of its source's log after it connected.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// A position that stays for so long is the end of what the source has.
const STAYS_FOR: Duration = Duration::from_millis(200);
/// Where the events of a binary log begin.
const BEGIN_OF_A_FILE: u64 = 4;

/// As a connection by position is called where it fails.
const BY_POSITION: &str = "connecting by position";

/// Error number of refusals that are ours.
const OURS: u16 = 0;

impl MySqlSession {
    fn is_mariadb(&self) -> bool {
        self.dialect().version().flavour.is_mariadb()
    }

    /// Starts the applier of the managed channel.
    pub(super) async fn apply_again(&mut self, end: Instant) -> Result<(), StepError> {
        let facts = self.facts_until(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        if channel.sql != ThreadState::Stopped {
            return Ok(());
        }
        if channel.sql_error.number != 0 {
            return Err(self.applier_stopped("starting the applier", channel));
        }
        let is_in_danger =
            channel.io == ThreadState::Stopped && channel.positioning.is_gtid() && has_unapplied(&facts, channel);
        let rescue = self
            .dialect()
            .relay_log_rescue(&channel.name, &channel.relay.file, channel.relay.position);
        let statements = match rescue.filter(|_| is_in_danger) {
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

    /// Starts the receiver of the managed channel. On MariaDB an applier that is stopped with something left is started first, and a
    /// channel that was rescued goes back to GTID.
    pub(super) async fn receive_again(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let facts = self.facts_until(end).await?;
        let Some(channel) = facts.managed_channel() else {
            return Ok(());
        };
        let are_stopped = channel.io == ThreadState::Stopped && channel.sql == ThreadState::Stopped;
        if self.is_mariadb() && are_stopped && channel.positioning.is_gtid() && has_unapplied(&facts, channel) {
            self.apply_again(end).await?;
        }
        if self.rescued.is_some() {
            return self
                .point_at(&channel.source, None, end.saturating_duration_since(Instant::now()))
                .await;
        }
        let statement = self.dialect().start_io_thread(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    /// Waits until `set` is applied, or the applier cannot get there.
    pub(super) async fn wait_until_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let what = "waiting until everything received is applied";
        let mut looks = 0_u32;
        loop {
            if self.has_applied(set, end + LAST_LOOK).await? {
                return Ok(());
            }
            if looks.is_multiple_of(LOOKS_PER_STATUS) {
                let channel = self.managed_channel(end + LAST_LOOK).await?;
                let stopped = channel
                    .as_ref()
                    .is_none_or(|channel| channel.sql == ThreadState::Stopped);
                // It may have applied the rest and stopped between the two looks.
                if stopped && !self.has_applied(set, end + LAST_LOOK).await? {
                    return Err(match channel {
                        None => self.refused(what, OURS, "it has no replication channel".to_owned()),
                        Some(channel) => self.applier_stopped(what, &channel),
                    });
                }
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(self.too_slow(what, deadline));
            }
            looks += 1;
            sleep(LOOK_AGAIN).await;
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
        let applied = GtidSet::parse(flavour, &text).map_err(|error| self.refused(what, OURS, error.to_string()))?;
        Ok(applied.covers(set))
    }

    /// Points the managed channel, or a new default one, at a source, and starts it.
    pub(super) async fn point_at(
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
        self.point(source, &attachment, deadline).await
    }

    /// [`point_at`](Self::point_at), with what a server that was a primary needs.
    pub(super) async fn point(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let account = attachment.account;
        let end = Instant::now() + deadline;
        let facts = self.facts_until(end).await?;
        let channel = facts.managed_channel().cloned();
        let name = channel.as_ref().map(|channel| channel.name.clone()).unwrap_or_default();
        let mut position = SourcePosition::Gtid;
        match &channel {
            None => self.continue_from_own_position(&facts, end).await?,
            // Whoever delays has never applied everything. Nobody is pointed at a server that lacks what it received: what it has not
            // applied goes with the relay log, and comes again.
            Some(channel)
                if self.is_mariadb()
                    && channel.delay_seconds > 0
                    && channel.positioning.is_gtid()
                    && self.rescued.is_none() =>
            {
                let statement = self.dialect().stop_replica(&channel.name);
                self.send(&statement, end).await?;
            }
            // Taken off GTID, MySQL's would delete the relay log too.
            Some(channel) if self.is_mariadb() || self.rescued.is_some() => {
                self.stop_without_loss(channel, end, deadline).await?;
            }
            Some(channel) if channel.positioning == Positioning::AutoPosition => {
                // With the position kept as it is, MySQL lets the applier run through, and the relay log stays.
                position = SourcePosition::Keep;
                let statement = self.dialect().stop_io_thread(&channel.name);
                self.send(&statement, end).await?;
            }
            Some(channel) => {
                let statement = self.dialect().stop_replica(&channel.name);
                self.send(&statement, end).await?;
            }
        }
        let tls = match &channel {
            Some(_) => Some(SourceTls::Keep),
            None => attachment.tls.then_some(SourceTls::On),
        };
        self.change(&name, source, account, position, tls, attachment.start, end)
            .await?;
        self.rescued = None;
        Ok(())
    }

    /// Points a stopped channel at a source and starts it. Without `tls` the channel is a new one.
    pub(super) async fn change_and_start(
        &mut self,
        name: &str,
        source: &InstanceKey,
        account: Option<&Account>,
        position: SourcePosition,
        tls: Option<SourceTls>,
        end: Instant,
    ) -> Result<(), StepError> {
        self.change(name, source, account, position, tls, true, end).await
    }

    #[expect(clippy::too_many_arguments, reason = "what one statement says, each once")]
    async fn change(
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
        let statement = if start {
            self.dialect().start_replica(name)
        } else {
            // An applier may run, where the channel was there before.
            self.dialect().stop_replica(name)
        };
        self.send(&statement, end).await.map(drop)
    }

    fn tls_of_a_new_channel(&self) -> SourceTls {
        match self.tls {
            TlsMode::Off => SourceTls::Off,
            TlsMode::Preferred => SourceTls::Keep,
            TlsMode::Required | TlsMode::Verify => SourceTls::On,
        }
    }

    /// A MariaDB server that was never a replica, or not since it was promoted, has its own transactions in its binlog only. Its
    /// position becomes the end of all it has; a transaction of it that the source lacks then stops replication with error 1236
    /// instead of being skipped.
    async fn continue_from_own_position(&mut self, facts: &InstanceFacts, end: Instant) -> Result<(), StepError> {
        let GtidSet::MariaDb(executed) = &facts.executed else {
            return Ok(());
        };
        match self.dialect().set_gtid_slave_position(executed) {
            Some(statement) => self.send(&statement, end).await.map(drop),
            None => Ok(()),
        }
    }

    /// Stops both threads of a MariaDB channel when everything received is applied. With an applier that stopped with an error
    /// nothing can be applied: then the relay log goes, and comes again from the new source by GTID.
    pub(super) async fn stop_without_loss(
        &mut self,
        channel: &Channel,
        end: Instant,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let what = "waiting until the relay log is applied, before the channel is pointed elsewhere";
        if channel.sql == ThreadState::Stopped && channel.sql_error.number == 0 {
            self.apply_again(end).await?;
        }
        let statement = self.dialect().stop_io_thread(&channel.name);
        self.send(&statement, end).await?;
        loop {
            let facts = self.facts_until(end + LAST_LOOK).await?;
            let Some(now) = facts.managed_channel() else { break };
            let is_applied = match &self.rescued {
                Some(received) => facts.executed.contains(received),
                None => !has_unapplied(&facts, now),
            };
            if is_applied || (now.sql == ThreadState::Stopped && now.sql_error.number != 0) {
                break;
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(self.too_slow(what, deadline));
            }
            sleep(LOOK_AGAIN).await;
        }
        let statement = self.dialect().stop_replica(&channel.name);
        self.send(&statement, end).await.map(drop)
    }

    /// Connects the managed channel by position, with everything received applied, and then by GTID again.
    ///
    /// When a replica connects, a semi-sync source takes the position that it asks for as acknowledged (`dump_start` in the source's
    /// plugin; by GTID that is the begin of a file). Measured on MySQL 9.7 and MariaDB 10.11: six commits that waited for a
    /// replica which had died ended at once. Nothing else is as honest: a waiting transaction that the replica received before it
    /// acknowledged is never acknowledged by itself; the next one would be, but on MariaDB no transaction gets into the binary log
    /// while two groups of commits wait; switching the source off and on lets commits through without an acknowledgement.
    pub(super) async fn reconnect_by_position(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let Some(channel) = self.managed_channel(end).await? else {
            return Ok(());
        };
        self.settle(end).await?;
        self.stop_without_loss(&channel, end, deadline).await?;
        let stopped = self.managed_channel(end).await?;
        let place = stopped
            .map(|channel| channel.exec)
            .filter(|place| !place.file.is_empty());
        let Some(place) = place else {
            self.receive_again(deadline).await?;
            return Err(self.refused(BY_POSITION, OURS, "it does not tell its position".to_owned()));
        };
        let position = SourcePosition::File {
            file: place.file,
            position: place.position,
        };
        let tls = Some(SourceTls::Keep);
        let (name, source) = (channel.name.clone(), channel.source.clone());
        let connected = match self.change_and_start(&name, &source, None, position, tls, end).await {
            Ok(()) => self.is_sent_events(end).await,
            Err(error) => Err(error),
        };
        // Whatever came of it: it is to go on by GTID.
        let again = end.max(Instant::now() + LAST_LOOK);
        self.stop_without_loss(&channel, again, deadline).await?;
        self.change_and_start(&name, &source, None, SourcePosition::Gtid, tls, again)
            .await?;
        connected
    }

    /// Waits a while until what was applied and what was received end at one place, and that place stays. After a connection by GTID
    /// both begin at 4, the begin of a file, and come to the end of the log when the source has skipped what the replica has.
    async fn settle(&mut self, end: Instant) -> Result<(), StepError> {
        let end = end.min(Instant::now() + SETTLES_WITHIN);
        let mut before = None;
        while Instant::now() + STAYS_FOR < end {
            let Some(channel) = self.managed_channel(end + LAST_LOOK).await? else {
                return Ok(());
            };
            if channel.sql == ThreadState::Stopped {
                return Ok(());
            }
            let is_at_one = channel.read == channel.exec && channel.exec.position > BEGIN_OF_A_FILE;
            if is_at_one && channel.is_receiving() && before.as_ref() == Some(&channel.exec) {
                return Ok(());
            }
            before = Some(channel.exec);
            sleep(STAYS_FOR).await;
        }
        Ok(())
    }

    /// Waits until the receiver of the managed channel has asked for events.
    async fn is_sent_events(&mut self, end: Instant) -> Result<(), StepError> {
        let statement = self.dialect().show_replica_status();
        loop {
            let rows = self.send(statement, end + LAST_LOOK).await?;
            let states = rows
                .iter()
                .map(|row| row.text_or_empty(&["Replica_IO_State", "Slave_IO_State"]));
            // The state is set after the request was sent: "Waiting for source to send event", "Waiting for master ...",
            // "Queueing source event to the relay log".
            let mut has_asked = states.filter(|state| state.contains("to send event") || state.starts_with("Queueing"));
            if has_asked.next().is_some() {
                return Ok(());
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(self.refused(BY_POSITION, OURS, "it did not connect in time".to_owned()));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

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

/// Whether the channel holds relay log that was not applied. By GTID where it is known what was received; a MariaDB server that was
/// restarted, or does without GTID, does not know it, and then the two positions in the source's binary log tell.
pub(super) fn has_unapplied(facts: &InstanceFacts, channel: &Channel) -> bool {
    match &channel.retrieved {
        Some(retrieved) if !retrieved.is_empty() => !facts.executed.contains(retrieved),
        _ => channel.read != channel.exec,
    }
}

/// The server quotes the statement it cannot parse, with the password in it.
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
