//! Reading binary and relay logs through SQL, for places in them that no GTID names.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, StepError};
use crate::app::ports::{Log, LogSource, Piece};
use crate::domain::dialect::{SourcePosition, SourceTls};
use crate::domain::instance::{BinlogCoordinates, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::quote::quote_string;
use crate::domain::recovery::equivalence::{LastWritten, LogEvent, NoEquivalent, Received, Shape, number_of};

use super::session::{LAST_LOOK, LOOK_AGAIN, MySqlSession};
use super::text_row::TextRow;

/// Events of one answer: some megabytes at most.
const CHUNK: usize = 5_000;
/// Files of one log that are read at most.
const FILES: u64 = 64;
/// Error number of refusals that are ours.
const OURS: u16 = 0;

/// One place, or why it cannot be told.
type Located = Result<BinlogCoordinates, String>;

impl MySqlSession {
    /// Waits until the applier has taken everything out of the relay log, whole transactions at least, and its workers are done.
    ///
    /// Received and applied position never meet when the source died in the middle of a transaction, so the thread's own word counts;
    /// with several workers it says so while they still apply, and stopping the thread waits for them (MySQL manual, "STOP REPLICA
    /// Statement").
    pub(super) async fn apply_everything(&mut self, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let what = "waiting until everything received is applied";
        self.apply_again(end).await?;
        loop {
            let Some(channel) = self.managed_channel(end + LAST_LOOK).await? else {
                return Err(self.refused(what, OURS, "it has no replication channel".to_owned()));
            };
            if channel.read == channel.exec {
                return Ok(());
            }
            if channel.sql == ThreadState::Stopped {
                let error = channel.sql_error;
                let number = u16::try_from(error.number).unwrap_or(u16::MAX);
                return Err(self.refused(what, number, format!("the applier stopped: {}", error.message)));
            }
            let statement = self.dialect().show_replica_status();
            let rows = self.send(statement, end + LAST_LOOK).await?;
            let is_idle = rows.iter().any(|row| {
                row.text_or_empty(&["Replica_SQL_Running_State", "Slave_SQL_Running_State"])
                    .contains("has read all relay log")
            });
            if is_idle {
                let name = channel.name;
                for statement in [
                    self.dialect().stop_sql_thread(&name),
                    self.dialect().start_sql_thread(&name),
                ] {
                    self.send(&statement, end + LAST_LOOK).await?;
                }
                return Ok(());
            }
            if Instant::now() + LOOK_AGAIN >= end {
                return Err(self.too_slow(what, deadline));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Where those go on in this server's binary log who have applied its former source's log up to these places.
    pub(super) async fn places_after(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<Located>, StepError> {
        let end = Instant::now() + deadline;
        let facts = self.facts_until(end).await?;
        let own = facts.server_id;
        let binlog = facts.binlog.clone();
        let binlog = binlog.ok_or_else(|| self.refused("locating", OURS, "it has no binary log".to_owned()))?;
        let channel = facts.managed_channel().cloned();
        let channel =
            channel.ok_or_else(|| self.refused("locating", OURS, "it has no replication channel".to_owned()))?;
        let mut received: Vec<Result<Received, NoEquivalent>> = after
            .iter()
            .map(|from| Ok(Received::after(from.clone(), own)))
            .collect();
        let first = self.first_relay_log(&channel.name, end).await?;
        for file in files_between(&first, &channel.relay.file) {
            self.each_event("RELAYLOG", &file, &channel.name, end, |event| {
                for one in &mut received {
                    let failed = one.as_mut().ok().and_then(|collecting| collecting.take(event).err());
                    if let Some(error) = failed {
                        *one = Err(error);
                    }
                }
            })
            .await?;
        }
        let shapes: Vec<Result<Vec<Shape>, NoEquivalent>> =
            received.into_iter().map(|one| one.and_then(Received::finish)).collect();
        let wanted = shapes.iter().flatten().map(Vec::len).max().unwrap_or_default();
        let written = self.last_written(wanted, &binlog.file, end).await?;
        Ok(shapes
            .into_iter()
            .map(|shapes| shapes.and_then(|shapes| written.begin_of(&shapes, own, &binlog)))
            .map(|place| place.map_err(|error| error.to_string()))
            .collect())
    }

    /// The last transactions of the binary log, reading as few files as it takes.
    async fn last_written(&mut self, wanted: usize, newest: &str, end: Instant) -> Result<LastWritten, StepError> {
        let rows = self.send("SHOW BINARY LOGS", end).await?;
        let mut files: Vec<String> = rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect();
        files.retain(|file| number_of(file) <= number_of(newest));
        let mut count = 1;
        loop {
            let mut written = LastWritten::new(wanted);
            for file in files.iter().skip(files.len().saturating_sub(count)) {
                self.each_event("BINLOG", file, "", end, |event| written.take(event))
                    .await?;
            }
            if written.is_enough() || count >= files.len() {
                return Ok(written);
            }
            count *= 2;
        }
    }

    /// The oldest relay log that is there: what the server lists when no file is named.
    async fn first_relay_log(&mut self, channel: &str, end: Instant) -> Result<String, StepError> {
        let statement = format!("SHOW RELAYLOG EVENTS LIMIT 1{}", self.for_channel(channel));
        let rows = self.send(&statement, end).await?;
        Ok(rows
            .first()
            .map(|row| row.text_or_empty(&["Log_name"]))
            .unwrap_or_default())
    }

    fn for_channel(&self, channel: &str) -> String {
        // MariaDB names the connection before EVENTS; a default one has no name there.
        if self.dialect().version().flavour.is_mariadb() {
            String::new()
        } else {
            format!(" FOR CHANNEL {}", quote_string(channel))
        }
    }

    /// Reads one file of a log in pieces.
    async fn each_event(
        &mut self,
        log: &str,
        file: &str,
        channel: &str,
        end: Instant,
        mut take: impl FnMut(&LogEvent),
    ) -> Result<(), StepError> {
        let suffix = if log == "RELAYLOG" {
            self.for_channel(channel)
        } else {
            String::new()
        };
        let mut from = None;
        loop {
            let begin = from.map_or_else(String::new, |position: u64| format!(" FROM {position}"));
            let statement = format!(
                "SHOW {log} EVENTS IN {}{begin} LIMIT {CHUNK}{suffix}",
                quote_string(file)
            );
            let rows = self.send(&statement, end).await?;
            let events: Vec<LogEvent> = rows.iter().map(|row| self.event(row)).collect::<Result<_, _>>()?;
            // A piece begins with the last event of the one before: where the next one begins is told by itself alone.
            for event in events.iter().skip(usize::from(from.is_some())) {
                take(event);
            }
            match events.last() {
                Some(last) if events.len() == CHUNK => from = Some(last.position),
                _ => return Ok(()),
            }
        }
    }

    fn event(&self, row: &TextRow) -> Result<LogEvent, StepError> {
        let unreadable = |error: super::text_row::ColumnError| self.refused("reading a log", OURS, error.to_string());
        Ok(LogEvent {
            file: row.text_or_empty(&["Log_name"]),
            position: row.number(&["Pos"]).map_err(unreadable)?,
            kind: row.text_or_empty(&["Event_type"]),
            server_id: row.number(&["Server_id"]).map_err(unreadable)?,
            end: row.number(&["End_log_pos"]).map_err(unreadable)?,
            info: row.text_or_empty(&["Info"]),
        })
    }

    /// Points the managed channel at a place in a source's binary log.
    pub(super) async fn point_at_place(
        &mut self,
        source: &InstanceKey,
        place: &BinlogCoordinates,
        account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        let channel = self.managed_channel(end).await?;
        let name = channel.as_ref().map(|channel| channel.name.clone()).unwrap_or_default();
        if channel.is_some() {
            let statement = self.dialect().stop_replica(&name);
            self.send(&statement, end).await?;
        }
        let position = SourcePosition::File {
            file: place.file.clone(),
            position: place.position,
        };
        let tls = channel.as_ref().map(|_| SourceTls::Keep);
        self.change_and_start(&name, source, account, position, tls, end).await
    }
}

#[async_trait]
impl LogSource for MySqlSession {
    async fn log_files(&mut self, log: Log, deadline: Duration) -> Result<Vec<String>, StepError> {
        let end = Instant::now() + deadline;
        match log {
            Log::Binary => {
                let rows = self.send("SHOW BINARY LOGS", end).await?;
                Ok(rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect())
            }
            Log::Relay => {
                let channel = self.managed_channel(end).await?;
                let channel = channel
                    .ok_or_else(|| self.refused("relay logs", OURS, "it has no replication channel".to_owned()))?;
                let first = self.first_relay_log(&channel.name, end).await?;
                Ok(files_between(&first, &channel.relay.file))
            }
        }
    }

    async fn log_events(&mut self, piece: &Piece<'_>, deadline: Duration) -> Result<Vec<LogEvent>, StepError> {
        let end = Instant::now() + deadline;
        let (name, suffix) = match piece.log {
            Log::Binary => ("BINLOG", String::new()),
            Log::Relay => {
                let channel = self.managed_channel(end).await?;
                let channel = channel.map(|channel| channel.name).unwrap_or_default();
                ("RELAYLOG", self.for_channel(&channel))
            }
        };
        let Piece { file, skip, limit, .. } = piece;
        let begin = piece
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

/// The names between two files of a log, both included; bounded. Names that cannot be counted are the two themselves.
fn files_between(first: &str, last: &str) -> Vec<String> {
    let (Some((base, digits)), Some((_, end))) = (first.rsplit_once('.'), last.rsplit_once('.')) else {
        return vec![last.to_owned()];
    };
    let (Ok(begin), Ok(end)) = (digits.parse::<u64>(), end.parse::<u64>()) else {
        return vec![last.to_owned()];
    };
    let begin = begin.max(end.saturating_sub(FILES));
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
