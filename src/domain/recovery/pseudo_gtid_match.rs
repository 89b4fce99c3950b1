//! Comparison of two logs: from the last Pseudo-GTID entry of a replica, transaction by transaction, to the position
//! in another server's binary log at which the replica continues.
//!
//! What follows the entry on both sides must be the same: the server that wrote a transaction first, its statements,
//! and the kinds of row changes of each table. Where files end, how row events are split, table numbers and
//! transaction numbers may differ and do not count. Any other difference ends the search: no position is better than
//! a wrong one.

use crate::domain::instance::BinlogCoordinates;
use crate::domain::recovery::pseudo_gtid::{Entry, PseudoGtidPatterns, begins_transaction, is_before, statement_of};
use crate::domain::recovery::relay_log_match::{LogEvent, MAX_BEHIND};

/// One transaction of a log, with what is the same of it in every log that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Where it begins in the log that was read.
    pub begin: BinlogCoordinates,
    /// Where it ends there, bytes.
    pub end: u64,
    /// `server_id` of the server that wrote it first.
    pub server_id: u32,
    parts: Vec<String>,
    /// Something of it is left out of the comparison.
    is_reduced: bool,
}

impl Transaction {
    fn is_like(&self, other: &Self) -> bool {
        self.server_id == other.server_id && self.parts == other.parts
    }

    /// Nothing of it is to be compared.
    fn is_left_out(&self) -> bool {
        self.is_reduced && self.parts.is_empty()
    }

    fn describe(&self) -> String {
        let first = self.parts.first().map_or("no statement", String::as_str);
        let first: String = first.chars().take(80).collect();
        format!("`{first}` of server {} at {}", self.server_id, self.begin)
    }
}

/// What a replica holds since its last entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryTail {
    /// The entry.
    pub entry: Entry,
    /// What follows, in order.
    pub transactions: Vec<Transaction>,
}

/// Why the comparison of two logs finds no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PseudoGtidMatchError {
    /// The replica has no entry.
    #[error(
        "{0} holds no Pseudo-GTID entry; with AutoPseudoGTID, or what PseudoGTIDPattern describes written on the primary, there will be one"
    )]
    NoEntry(String),
    /// The target has not this entry.
    #[error("the target's binary logs do not hold `{0}`: they were purged, or it is not of the same tree")]
    EntryNotFound(String),
    /// Too much to compare.
    #[error("more than {MAX_BEHIND} transactions follow the last entry")]
    TooFar,
    /// The logs part.
    #[error("after `{entry}`, transaction {number} differs: {here}, on the target {there}")]
    Differ {
        /// From where it was counted.
        entry: String,
        /// Counted from 1.
        number: usize,
        /// What the replica has.
        here: String,
        /// What the target has.
        there: String,
    },
    /// The replica has more than the target.
    #[error("it is ahead of the target: {0} transactions of it are not in the target's binary log")]
    Ahead(usize),
    /// The logs could not be read to the end.
    #[error("reading the logs: {0}")]
    Unreadable(String),
}

/// Cuts a stream of events into transactions.
#[derive(Debug)]
struct TransactionSplitter<'a> {
    marks: &'a PseudoGtidPatterns,
    open: Option<Transaction>,
}

impl<'a> TransactionSplitter<'a> {
    fn new(marks: &'a PseudoGtidPatterns) -> Self {
        Self { marks, open: None }
    }

    /// A transaction that is complete now that the next one begins.
    fn take(&mut self, event: &LogEvent) -> Option<Transaction> {
        if begins_transaction(event) {
            let next = Transaction {
                begin: BinlogCoordinates {
                    file: event.file.clone(),
                    position: event.position,
                },
                end: event.end,
                server_id: event.server_id,
                parts: Vec::new(),
                is_reduced: false,
            };
            return self.open.replace(next).filter(|done| !done.is_left_out());
        }
        let open = self.open.as_mut()?;
        // Headers and ends of files stand between transactions, in relay logs within them.
        if matches!(
            event.kind.as_str(),
            "Rotate" | "Format_desc" | "Previous_gtids" | "Gtid_list" | "Binlog_checkpoint" | "Stop" | "Heartbeat"
        ) {
            return None;
        }
        if open.begin.file == event.file {
            open.end = open.end.max(event.end);
        }
        let part = part(event)?;
        if self.marks.skips(event) {
            open.is_reduced = true;
        } else if !(is_row_change(&part) && open.parts.last() == Some(&part)) {
            open.parts.push(part);
        }
        None
    }

    /// The last transaction, at the end of what is read.
    fn finish(&mut self) -> Option<Transaction> {
        self.open.take().filter(|done| !done.is_left_out())
    }
}

/// Collects what follows an entry, event by event, from the entry's transaction on.
#[derive(Debug)]
pub struct TransactionsAfterEntry<'a> {
    splitter: TransactionSplitter<'a>,
    until: Option<BinlogCoordinates>,
    is_beyond: bool,
    has_begun: bool,
    transactions: Vec<Transaction>,
}

impl<'a> TransactionsAfterEntry<'a> {
    /// Before this position, where one is given: what a relay log holds beyond was not applied.
    pub fn before(marks: &'a PseudoGtidPatterns, until: Option<BinlogCoordinates>) -> Self {
        Self {
            splitter: TransactionSplitter::new(marks),
            until,
            is_beyond: false,
            has_begun: false,
            transactions: Vec::new(),
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// [`PseudoGtidMatchError::TooFar`].
    pub fn take(&mut self, event: &LogEvent) -> Result<(), PseudoGtidMatchError> {
        if begins_transaction(event) {
            self.is_beyond = !is_before(event, self.until.as_ref());
        }
        if self.is_beyond {
            return Ok(());
        }
        let done = self.splitter.take(event);
        self.keep(done)
    }

    fn keep(&mut self, done: Option<Transaction>) -> Result<(), PseudoGtidMatchError> {
        let Some(done) = done else { return Ok(()) };
        // The entry itself is the first.
        if !std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        if self.transactions.len() >= MAX_BEHIND {
            return Err(PseudoGtidMatchError::TooFar);
        }
        self.transactions.push(done);
        Ok(())
    }

    /// What follows `entry`.
    ///
    /// # Errors
    /// [`PseudoGtidMatchError::TooFar`].
    pub fn finish(mut self, entry: Entry) -> Result<EntryTail, PseudoGtidMatchError> {
        let last = self.splitter.finish();
        self.keep(last)?;
        Ok(EntryTail {
            entry,
            transactions: self.transactions,
        })
    }
}

/// Walks another server's binary log in step with a replica's tail, event by event, from the same entry's transaction on.
#[derive(Debug)]
pub struct LogComparison<'a> {
    tail: &'a EntryTail,
    splitter: TransactionSplitter<'a>,
    /// Where the transaction ends that was matched last; the entry's own first.
    end: Option<BinlogCoordinates>,
    matched: usize,
    next: Option<BinlogCoordinates>,
}

impl<'a> LogComparison<'a> {
    /// From the beginning of the tail.
    pub fn with(tail: &'a EntryTail, marks: &'a PseudoGtidPatterns) -> Self {
        Self {
            tail,
            splitter: TransactionSplitter::new(marks),
            end: None,
            matched: 0,
            next: None,
        }
    }

    /// The next event; `true` when no more are needed.
    ///
    /// # Errors
    /// [`PseudoGtidMatchError::Differ`].
    pub fn take(&mut self, event: &LogEvent) -> Result<bool, PseudoGtidMatchError> {
        let done = self.splitter.take(event);
        self.compare(done)?;
        Ok(self.next.is_some())
    }

    fn compare(&mut self, done: Option<Transaction>) -> Result<(), PseudoGtidMatchError> {
        let Some(there) = done.filter(|_| self.next.is_none()) else {
            return Ok(());
        };
        let is_entry = self.end.is_none();
        if !is_entry {
            let Some(here) = self.tail.transactions.get(self.matched) else {
                self.next = Some(there.begin);
                return Ok(());
            };
            if !here.is_like(&there) {
                return Err(PseudoGtidMatchError::Differ {
                    entry: self.tail.entry.text.clone(),
                    number: self.matched + 1,
                    here: here.describe(),
                    there: there.describe(),
                });
            }
            self.matched += 1;
        }
        self.end = Some(BinlogCoordinates {
            file: there.begin.file,
            position: there.end,
        });
        Ok(())
    }

    /// Where the replica continues: at the first transaction that it has not, or at the end of the last one that it has.
    ///
    /// # Errors
    /// [`PseudoGtidMatchError::Ahead`], [`PseudoGtidMatchError::Differ`].
    pub fn finish(mut self) -> Result<BinlogCoordinates, PseudoGtidMatchError> {
        let last = self.splitter.finish();
        self.compare(last)?;
        let missing = self.tail.transactions.len() - self.matched;
        if missing > 0 {
            return Err(PseudoGtidMatchError::Ahead(missing));
        }
        self.next
            .or(self.end)
            .ok_or_else(|| PseudoGtidMatchError::EntryNotFound(self.tail.entry.text.clone()))
    }
}

/// What of an event is the same in every log.
fn part(event: &LogEvent) -> Option<String> {
    let kind = event.kind.as_str();
    let rows = [
        ("Write_rows", "rows written"),
        ("Update_rows", "rows updated"),
        ("Delete_rows", "rows deleted"),
    ];
    match kind {
        "Query" => {
            let text = statement_of(&event.info);
            let is_frame = matches!(text, "BEGIN" | "COMMIT");
            (!is_frame).then(|| text.to_owned())
        }
        "Table_map" => event.info.split_once('(').map(|(_, table)| table.to_owned()),
        _ => rows
            .into_iter()
            .find(|(prefix, _)| kind.starts_with(prefix))
            .map(|(_, told)| told.to_owned()),
    }
}

fn is_row_change(part: &str) -> bool {
    matches!(part, "rows written" | "rows updated" | "rows deleted")
}

#[cfg(test)]
#[path = "pseudo_gtid_match_tests.rs"]
mod tests;
