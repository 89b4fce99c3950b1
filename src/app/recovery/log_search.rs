//! Reading binary and relay logs of servers event by event, and finding places in them by Pseudo-GTID.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::instance::{BinlogCoordinates, InstanceFacts};
use crate::domain::recovery::equivalence::{LogEvent, number_of};
use crate::domain::recovery::matching::{Following, LogComparison, NoMatch, Tail};
use crate::domain::recovery::pseudo_gtid::{Entry, EntryLocation, FindEntry, LastEntry, Marks, begins_transaction};

use crate::app::ports::{Log, LogSource, Piece, StepError};

/// How long one piece of a log may take. A piece that is cut off would break the connection for nothing, so the whole search ends
/// between two pieces.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);
/// Files of one log that are searched at most, the newest ones.
const MOST_FILES: usize = 64;

/// A search through logs with an end.
pub struct Search<'a> {
    /// What entries look like.
    pub marks: &'a Marks,
    /// When it is given up.
    pub end: Instant,
}

/// What a search came to: the server's errors outside, the logs' inside.
type Found<T> = Result<Result<T, NoMatch>, StepError>;

impl Search<'_> {
    /// The last entry of a log, before a place in it where one is given.
    ///
    /// # Errors
    /// The server's.
    pub async fn last_entry(
        &self,
        source: &mut dyn LogSource,
        log: Log,
        until: Option<&BinlogCoordinates>,
    ) -> Found<Entry> {
        let files = source.log_files(log, PIECE_DEADLINE).await?;
        let is_before = |file: &&String| until.is_none_or(|until| number_of(file) <= number_of(&until.file));
        for file in files.iter().rev().filter(is_before).take(MOST_FILES) {
            let mut last = LastEntry::before(self.marks, until.cloned());
            let read = self
                .each(source, log, file, None, &mut |event| {
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
        Ok(Err(NoMatch::NoEntry(log.to_string())))
    }

    /// What a server has since the last entry in one of its logs.
    ///
    /// # Errors
    /// The server's.
    pub async fn tail(&self, source: &mut dyn LogSource, log: Log, until: Option<&BinlogCoordinates>) -> Found<Tail> {
        let entry = match self.last_entry(source, log, until).await? {
            Ok(entry) => entry,
            Err(why) => return Ok(Err(why)),
        };
        let mut following = Following::before(self.marks, until.cloned());
        let mut failed = None;
        let read = self
            .forward(source, log, &entry.at, &mut |event| match following.take(event) {
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

    /// Where in this server's binary log one goes on that has this tail.
    ///
    /// # Errors
    /// The server's.
    pub async fn place(&self, source: &mut dyn LogSource, tail: &Tail) -> Found<BinlogCoordinates> {
        let files = source.log_files(Log::Binary, PIECE_DEADLINE).await?;
        let mut found = self.find(source, &files, &tail.entry.text, true).await?;
        if found == Ok(None) && self.marks.grows(&tail.entry.text) {
            // Clocks of those who wrote them may have differed, and then later entries do not have greater texts.
            found = self.find(source, &files, &tail.entry.text, false).await?;
        }
        let at = match found {
            Ok(Some(at)) => at,
            Ok(None) => return Ok(Err(NoMatch::NotThere(tail.entry.text.clone()))),
            Err(why) => return Ok(Err(why)),
        };
        let mut walk = LogComparison::with(tail, self.marks);
        let mut failed = None;
        let read = self
            .forward(source, Log::Binary, &at, &mut |event| match walk.take(event) {
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
    ) -> Found<Option<BinlogCoordinates>> {
        for file in files.iter().rev().take(MOST_FILES) {
            let mut find = FindEntry::new(self.marks, wanted, by_order);
            let mut here = None;
            let read = self
                .each(source, Log::Binary, file, None, &mut |event| match find.take(event) {
                    EntryLocation::Unknown => ControlFlow::Continue(()),
                    EntryLocation::Earlier => ControlFlow::Break(()),
                    EntryLocation::Here(at) => {
                        here = Some(at);
                        ControlFlow::Break(())
                    }
                })
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

    /// Reads a log from a place to its end, or until `take` has enough.
    async fn forward(
        &self,
        source: &mut dyn LogSource,
        log: Log,
        from: &BinlogCoordinates,
        take: &mut (dyn FnMut(&LogEvent) -> ControlFlow<()> + Send),
    ) -> Found<()> {
        let mut files = source.log_files(log, PIECE_DEADLINE).await?;
        files.retain(|file| number_of(file) >= number_of(&from.file));
        let mut is_enough = false;
        for file in &files {
            let begin = (*file == from.file).then_some(from.position);
            let read = self
                .each(source, log, file, begin, &mut |event| {
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

    /// Reads one file in pieces, or until `take` has enough.
    async fn each(
        &self,
        source: &mut dyn LogSource,
        log: Log,
        file: &str,
        from: Option<u64>,
        take: &mut (dyn FnMut(&LogEvent) -> ControlFlow<()> + Send),
    ) -> Found<()> {
        let limit = self.marks.chunk;
        let (mut from, mut skip) = (from, 0);
        loop {
            if Instant::now() >= self.end {
                return Ok(Err(NoMatch::Unreadable(format!(
                    "{file} was not read to its end in time"
                ))));
            }
            let piece = Piece {
                log,
                file,
                from,
                skip,
                limit,
            };
            let events = source.log_events(&piece, PIECE_DEADLINE).await?;
            // The next piece begins with a transaction: the events of a compressed one have no places of their own to begin at.
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

/// The logs from which it can be told what a server has, with how far each counts: its own binary log when it writes there what it
/// applies, and what it applied of its relay log.
pub fn logs_of(facts: &InstanceFacts) -> Vec<(Log, Option<BinlogCoordinates>)> {
    let channel = facts.managed_channel();
    let writes = facts.log_bin && (facts.log_replica_updates || channel.is_none());
    let relay = channel.map(|channel| (Log::Relay, Some(channel.relay.clone())));
    writes.then_some((Log::Binary, None)).into_iter().chain(relay).collect()
}
