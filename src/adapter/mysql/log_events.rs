//! Reads binary and relay logs through SQL, to find positions in them without GTIDs.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, StepError};
use crate::app::ports::{LogKind, LogRange, LogSource};
use crate::domain::dialect::{SourcePosition, SourceTls};
use crate::domain::instance::{BinlogCoordinates, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::quote::quote_string;
use crate::domain::recovery::relay_log_match::{
    LastBinlogTransactions, LogEvent, RelayLogMatchError, RelayLogTransactions, TransactionShape, number_of,
};

use super::session::{MySqlSession, POLL_INTERVAL, READ_GRACE};
use super::text_row::TextRow;

/// Events of one result: a few megabytes at most.
const EVENTS_PER_PAGE: usize = 5_000;
/// Limit for the files of one log that are read.
const MAX_FILES: u64 = 64;
/// Error number of ham4db's own refusals.
const OWN_REFUSAL: u16 = 0;

/// One position in a binary log, or the reason why it is unknown.
type LocatedPosition = Result<BinlogCoordinates, String>;

impl MySqlSession {
    /// Waits until the applier has applied all complete transactions of the relay log.
    ///
    /// When the source died in the middle of a transaction, the received and the applied position are never equal. So the states
    /// of the applier threads decide. Where they are not visible, the thread that reads the relay log is stopped when it has read
    /// everything: that waits for its workers (MySQL manual, "STOP REPLICA Statement").
    pub(super) async fn apply_everything(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let what = "waiting until everything received is applied";
        self.start_stopped_applier(end + READ_GRACE).await?;
        loop {
            let Some(channel) = self.managed_channel(end + READ_GRACE).await? else {
                return Err(self.refused(what, OWN_REFUSAL, "the server has no replication channel".to_owned()));
            };
            if channel.read == channel.exec {
                return Ok(());
            }
            if channel.sql == ThreadState::Stopped {
                let error = channel.sql_error;
                let number = u16::try_from(error.number).unwrap_or(u16::MAX);
                return Err(self.refused(what, number, format!("the applier stopped: {}", error.message)));
            }
            match self.is_applier_idle(&channel, end + READ_GRACE).await? {
                Some(true) => {
                    self.remember_open_transaction(channel.exec);
                    return Ok(());
                }
                None if self.has_read_all(end + READ_GRACE).await? => {
                    for statement in [
                        self.dialect().stop_sql_thread(&channel.name),
                        self.dialect().start_sql_thread(&channel.name),
                    ] {
                        self.send(&statement, end + READ_GRACE).await?;
                    }
                    return Ok(());
                }
                Some(false) | None => {}
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(self.timed_out(what, deadline));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the thread that reads the relay log has read all of it. Its workers may still apply.
    async fn has_read_all(&mut self, end: Instant) -> Result<bool, StepError> {
        let statement = self.dialect().show_replica_status();
        let rows = self.send(statement, end).await?;
        let mut states =
            (rows.iter()).map(|row| row.text_or_empty(&["Replica_SQL_Running_State", "Slave_SQL_Running_State"]));
        Ok(states.any(|state| state.contains("has read all relay log")))
    }

    /// For each position in the binary log of this server's former source: the position in this server's own binary log at which
    /// a replica continues that has applied the former source's log up to there.
    pub(super) async fn positions_after(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<LocatedPosition>, StepError> {
        let end = Instant::now() + deadline;
        let facts = self.read_facts(end).await?;
        let own = facts.server_id;
        let binlog = facts.binlog.clone();
        let binlog = binlog.ok_or_else(|| {
            self.refused(
                "locating positions",
                OWN_REFUSAL,
                "the server has no binary log".to_owned(),
            )
        })?;
        let channel = facts.managed_channel().cloned();
        let channel = channel.ok_or_else(|| {
            self.refused(
                "locating positions",
                OWN_REFUSAL,
                "the server has no replication channel".to_owned(),
            )
        })?;
        let mut received: Vec<Result<RelayLogTransactions, RelayLogMatchError>> = after
            .iter()
            .map(|from| Ok(RelayLogTransactions::after(from.clone(), own)))
            .collect();
        let first = self.first_relay_log(&channel.name, end).await?;
        for file in files_between(&first, &channel.relay.file) {
            self.for_each_event("RELAYLOG", &file, &channel.name, end, |event| {
                for one in &mut received {
                    let failed = one.as_mut().ok().and_then(|collecting| collecting.take(event).err());
                    if let Some(error) = failed {
                        *one = Err(error);
                    }
                }
            })
            .await?;
        }
        let shapes: Vec<Result<Vec<TransactionShape>, RelayLogMatchError>> = received
            .into_iter()
            .map(|one| one.and_then(RelayLogTransactions::finish))
            .collect();
        let wanted = shapes.iter().flatten().map(Vec::len).max().unwrap_or_default();
        let written = self.last_binlog_transactions(wanted, &binlog.file, end).await?;
        Ok(shapes
            .into_iter()
            .map(|shapes| shapes.and_then(|shapes| written.begin_of(&shapes, own, &binlog)))
            .map(|position| position.map_err(|error| error.to_string()))
            .collect())
    }

    /// The last transactions of the binary log, from as few files as possible.
    async fn last_binlog_transactions(
        &mut self,
        wanted: usize,
        newest: &str,
        end: Instant,
    ) -> Result<LastBinlogTransactions, StepError> {
        let rows = self.send("SHOW BINARY LOGS", end).await?;
        let mut files: Vec<String> = rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect();
        files.retain(|file| number_of(file) <= number_of(newest));
        let mut count = 1;
        loop {
            let mut written = LastBinlogTransactions::new(wanted);
            for file in files.iter().skip(files.len().saturating_sub(count)) {
                self.for_each_event("BINLOG", file, "", end, |event| written.take(event))
                    .await?;
            }
            if written.is_enough() || count >= files.len() {
                return Ok(written);
            }
            count *= 2;
        }
    }

    /// The name of the oldest relay log: the server lists that file when none is named.
    async fn first_relay_log(&mut self, channel: &str, end: Instant) -> Result<String, StepError> {
        let statement = format!("SHOW RELAYLOG EVENTS LIMIT 1{}", self.channel_clause(channel));
        let rows = self.send(&statement, end).await?;
        Ok(rows
            .first()
            .map(|row| row.text_or_empty(&["Log_name"]))
            .unwrap_or_default())
    }

    /// The clause that selects the channel of a relay log.
    fn channel_clause(&self, channel: &str) -> String {
        // MariaDB names the connection before EVENTS, and the default connection has no name.
        if self.dialect().version().flavour.is_mariadb() {
            String::new()
        } else {
            format!(" FOR CHANNEL {}", quote_string(channel))
        }
    }

    /// Reads one file of a log page by page and calls `take` for each event.
    async fn for_each_event(
        &mut self,
        log: &str,
        file: &str,
        channel: &str,
        end: Instant,
        mut take: impl FnMut(&LogEvent),
    ) -> Result<(), StepError> {
        let suffix = if log == "RELAYLOG" {
            self.channel_clause(channel)
        } else {
            String::new()
        };
        let mut from = None;
        loop {
            let begin = from.map_or_else(String::new, |position: u64| format!(" FROM {position}"));
            let statement = format!(
                "SHOW {log} EVENTS IN {}{begin} LIMIT {EVENTS_PER_PAGE}{suffix}",
                quote_string(file)
            );
            let rows = self.send(&statement, end).await?;
            let events: Vec<LogEvent> = rows.iter().map(|row| self.event(row)).collect::<Result<_, _>>()?;
            // A page begins with the last event of the page before: only an event's own row shows where it begins.
            for event in events.iter().skip(usize::from(from.is_some())) {
                take(event);
            }
            match events.last() {
                Some(last) if events.len() == EVENTS_PER_PAGE => from = Some(last.position),
                _ => return Ok(()),
            }
        }
    }

    fn event(&self, row: &TextRow) -> Result<LogEvent, StepError> {
        let unreadable =
            |error: super::text_row::ColumnError| self.refused("reading a log", OWN_REFUSAL, error.to_string());
        Ok(LogEvent {
            file: row.text_or_empty(&["Log_name"]),
            position: row.number(&["Pos"]).map_err(unreadable)?,
            kind: row.text_or_empty(&["Event_type"]),
            server_id: row.number(&["Server_id"]).map_err(unreadable)?,
            end: row.number(&["End_log_pos"]).map_err(unreadable)?,
            info: row.text_or_empty(&["Info"]),
        })
    }

    /// Points the managed channel at a position in a source's binary log, and starts it.
    pub(super) async fn replicate_from_position(
        &mut self,
        source: &InstanceKey,
        start: &BinlogCoordinates,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let channel = self.managed_channel(end).await?;
        let own_name = channel.as_ref().map(|channel| channel.name.clone());
        let name = own_name.unwrap_or_else(|| self.name_of_new_channel());
        if channel.is_some() {
            self.stop_channel(&name, end).await?;
        }
        let position = SourcePosition::File {
            file: start.file.clone(),
            position: start.position,
        };
        let tls = channel.as_ref().map(|_| SourceTls::Keep);
        self.change_source_and_start(&name, source, account, position, tls, end)
            .await
    }
}

#[async_trait]
impl LogSource for MySqlSession {
    async fn log_files(&mut self, log: LogKind, deadline: Duration) -> Result<Vec<String>, StepError> {
        let end = Instant::now() + deadline;
        match log {
            LogKind::Binary => {
                let rows = self.send("SHOW BINARY LOGS", end).await?;
                Ok(rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect())
            }
            LogKind::Relay => {
                let channel = self.managed_channel(end).await?;
                let channel = channel.ok_or_else(|| {
                    self.refused(
                        "listing relay logs",
                        OWN_REFUSAL,
                        "the server has no replication channel".to_owned(),
                    )
                })?;
                let first = self.first_relay_log(&channel.name, end).await?;
                Ok(files_between(&first, &channel.relay.file))
            }
        }
    }

    async fn log_events(&mut self, range: &LogRange<'_>, deadline: Duration) -> Result<Vec<LogEvent>, StepError> {
        let end = Instant::now() + deadline;
        let (name, suffix) = match range.log {
            LogKind::Binary => ("BINLOG", String::new()),
            LogKind::Relay => {
                let channel = self.managed_channel(end).await?;
                let channel = channel.map(|channel| channel.name).unwrap_or_default();
                ("RELAYLOG", self.channel_clause(&channel))
            }
        };
        let LogRange { file, skip, limit, .. } = range;
        let begin = range
            .from
            .map_or_else(String::new, |position| format!(" FROM {position}"));
        let statement = format!(
            "SHOW {name} EVENTS IN {}{begin} LIMIT {skip}, {limit}{suffix}",
            quote_string(file)
        );
        let rows = self.send(&statement, end).await?;
        rows.iter().map(|row| self.event(row)).collect()
    }
}

/// The file names from `first` to `last`, at most [`MAX_FILES`] before `last`. Only `last` when the names have no number.
fn files_between(first: &str, last: &str) -> Vec<String> {
    let (Some((base, digits)), Some((_, end))) = (first.rsplit_once('.'), last.rsplit_once('.')) else {
        return vec![last.to_owned()];
    };
    let (Ok(begin), Ok(end)) = (digits.parse::<u64>(), end.parse::<u64>()) else {
        return vec![last.to_owned()];
    };
    let begin = begin.max(end.saturating_sub(MAX_FILES));
    let width = digits.len();
    let files: BTreeMap<u64, String> = (begin..=end)
        .map(|number| (number, format!("{base}.{number:0width$}")))
        .collect();
    files.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::files_between;

    #[test]
    fn the_files_of_a_log_are_counted() {
        assert_eq!(
            files_between("relay.000009", "relay.000011"),
            ["relay.000009", "relay.000010", "relay.000011"]
        );
        assert_eq!(files_between("", "relay.000001"), ["relay.000001"]);
        assert!(files_between("relay.000001", "relay.999999").len() <= 65);
    }
}
