//! Reads binary and relay logs of servers event by event, and finds positions in them by Pseudo-GTID.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::instance::{BinlogCoordinates, InstanceFacts};
use crate::domain::recovery::pseudo_gtid::{
    Entry, EntryLocation, FindEntry, LastEntry, PseudoGtidPatterns, begins_transaction,
};
use crate::domain::recovery::pseudo_gtid_match::{
    EntryTail, LogComparison, PseudoGtidMatchError, TransactionsAfterEntry,
};
use crate::domain::recovery::relay_log_match::{LogEvent, number_of};

use crate::app::ports::{LogKind, LogRange, LogSource, StepError};

/// How long reading one piece of a log may take. Aborting a read would break the connection, so a search ends between
/// two pieces.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);
/// How many files of one log are searched at most, the newest first.
const MAX_FILES: usize = 64;

/// A search through logs with a deadline.
pub struct LogSearch<'a> {
    /// How to recognise Pseudo-GTID entries.
    pub marks: &'a PseudoGtidPatterns,
    /// When the search is given up.
    pub end: Instant,
}

/// The result of a search: the outer error is of the server, the inner one of the log.
type SearchResult<T> = Result<Result<T, PseudoGtidMatchError>, StepError>;

impl LogSearch<'_> {
    /// The last entry of a log, or the last one before `until`.
    ///
    /// # Errors
    /// The error of the server.
    pub async fn last_entry(
        &self,
        source: &mut dyn LogSource,
        log: LogKind,
        until: Option<&BinlogCoordinates>,
    ) -> SearchResult<Entry> {
        let files = source.log_files(log, PIECE_DEADLINE).await?;
        let is_before = |file: &&String| until.is_none_or(|until| number_of(file) <= number_of(&until.file));
        for file in files.iter().rev().filter(is_before).take(MAX_FILES) {
            let mut last = LastEntry::before(self.marks, until.cloned());
            let read = self
                .read_file(source, log, file, None, &mut |event| {
                    last.take(event);
                    ControlFlow::Continue(())
                })
                .await?;
            if let Err(why) = read {
                return Ok(Err(why));
            }
            if let Some(entry) = last.finish() {
                return Ok(Ok(entry));
            }
        }
        Ok(Err(PseudoGtidMatchError::NoEntry(log.to_string())))
    }

    /// What a server has after the last entry in one of its logs.
    ///
    /// # Errors
    /// The error of the server.
    pub async fn tail(
        &self,
        source: &mut dyn LogSource,
        log: LogKind,
        until: Option<&BinlogCoordinates>,
    ) -> SearchResult<EntryTail> {
        let entry = match self.last_entry(source, log, until).await? {
            Ok(entry) => entry,
            Err(why) => return Ok(Err(why)),
        };
        let mut following = TransactionsAfterEntry::before(self.marks, until.cloned());
        let mut failed = None;
        let read = self
            .read_from(source, log, &entry.at, &mut |event| match following.take(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    failed = Some(why);
                    ControlFlow::Break(())
                }
            })
            .await?;
        Ok(match (read, failed) {
            (Err(why), _) | (Ok(()), Some(why)) => Err(why),
            (Ok(()), None) => following.finish(entry),
        })
    }

    /// The position in the binary log of this server at which a replica with this tail continues.
    ///
    /// # Errors
    /// The error of the server.
    pub async fn find_position(&self, source: &mut dyn LogSource, tail: &EntryTail) -> SearchResult<BinlogCoordinates> {
        let files = source.log_files(LogKind::Binary, PIECE_DEADLINE).await?;
        let mut found = self.find(source, &files, &tail.entry.text, true).await?;
        if found == Ok(None) && self.marks.grows(&tail.entry.text) {
            // The clocks of the writers may have differed: then later entries do not have greater texts.
            found = self.find(source, &files, &tail.entry.text, false).await?;
        }
        let at = match found {
            Ok(Some(at)) => at,
            Ok(None) => return Ok(Err(PseudoGtidMatchError::EntryNotFound(tail.entry.text.clone()))),
            Err(why) => return Ok(Err(why)),
        };
        let mut walk = LogComparison::with(tail, self.marks);
        let mut failed = None;
        let read = self
            .read_from(source, LogKind::Binary, &at, &mut |event| match walk.take(event) {
                Ok(false) => ControlFlow::Continue(()),
                Ok(true) => ControlFlow::Break(()),
                Err(why) => {
                    failed = Some(why);
                    ControlFlow::Break(())
                }
            })
            .await?;
        Ok(match (read, failed) {
            (Err(why), _) | (Ok(()), Some(why)) => Err(why),
            (Ok(()), None) => walk.finish(),
        })
    }

    async fn find(
        &self,
        source: &mut dyn LogSource,
        files: &[String],
        wanted: &str,
        by_order: bool,
    ) -> SearchResult<Option<BinlogCoordinates>> {
        for file in files.iter().rev().take(MAX_FILES) {
            let mut find = FindEntry::new(self.marks, wanted, by_order);
            let mut here = None;
            let read = self
                .read_file(
                    source,
                    LogKind::Binary,
                    file,
                    None,
                    &mut |event| match find.take(event) {
                        EntryLocation::Unknown => ControlFlow::Continue(()),
                        EntryLocation::Earlier => ControlFlow::Break(()),
                        EntryLocation::Here(at) => {
                            here = Some(at);
                            ControlFlow::Break(())
                        }
                    },
                )
                .await?;
            if let Err(why) = read {
                return Ok(Err(why));
            }
            if here.is_some() {
                return Ok(Ok(here));
            }
        }
        Ok(Ok(None))
    }

    /// Reads a log from a position to its end, or until `take` breaks.
    async fn read_from(
        &self,
        source: &mut dyn LogSource,
        log: LogKind,
        from: &BinlogCoordinates,
        take: &mut (dyn FnMut(&LogEvent) -> ControlFlow<()> + Send),
    ) -> SearchResult<()> {
        let mut files = source.log_files(log, PIECE_DEADLINE).await?;
        files.retain(|file| number_of(file) >= number_of(&from.file));
        let mut is_enough = false;
        for file in &files {
            let begin = (*file == from.file).then_some(from.position);
            let read = self
                .read_file(source, log, file, begin, &mut |event| {
                    let flow = take(event);
                    is_enough |= flow.is_break();
                    flow
                })
                .await?;
            if read.is_err() || is_enough {
                return Ok(read);
            }
        }
        Ok(Ok(()))
    }

    /// Reads one file in pieces, or until `take` breaks.
    async fn read_file(
        &self,
        source: &mut dyn LogSource,
        log: LogKind,
        file: &str,
        from: Option<u64>,
        take: &mut (dyn FnMut(&LogEvent) -> ControlFlow<()> + Send),
    ) -> SearchResult<()> {
        let limit = self.marks.chunk;
        let (mut from, mut skip) = (from, 0);
        loop {
            if Instant::now() >= self.end {
                return Ok(Err(PseudoGtidMatchError::Unreadable(format!(
                    "{file} was not read to its end before the deadline"
                ))));
            }
            let piece = LogRange {
                log,
                file,
                from,
                skip,
                limit,
            };
            let events = source.log_events(&piece, PIECE_DEADLINE).await?;
            // The next piece begins with a transaction: the events within a compressed transaction have no positions
            // of their own.
            let next = events
                .iter()
                .rposition(begins_transaction)
                .filter(|next| *next > 0 && events.len() >= limit);
            for event in events.iter().take(next.unwrap_or(events.len())) {
                if take(event).is_break() {
                    return Ok(Ok(()));
                }
            }
            match next.and_then(|next| events.get(next)) {
                _ if events.len() < limit => return Ok(Ok(())),
                Some(begin) => (from, skip) = (Some(begin.position), 0),
                None => skip += events.len(),
            }
        }
    }
}

/// The logs that show what a server has, and how far each counts: its binary log when it writes there what it
/// applies, and the applied part of its relay log.
pub fn readable_logs(facts: &InstanceFacts) -> Vec<(LogKind, Option<BinlogCoordinates>)> {
    let channel = facts.managed_channel();
    let writes = facts.log_bin && (facts.log_replica_updates || channel.is_none());
    let relay = channel.map(|channel| (LogKind::Relay, Some(channel.relay.clone())));
    writes
        .then_some((LogKind::Binary, None))
        .into_iter()
        .chain(relay)
        .collect()
}
