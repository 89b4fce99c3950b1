//! Pseudo-GTID: statements without effect that are written on the primary repeatedly, each with a unique text, so
//! that the same position can be found in the logs of every server below it.
//!
//! An entry is what orchestrator writes, and reads, too: ``drop view if exists
//! `_pseudo_gtid_`.`_asc:TIME:SERVER:RANDOM` ``. Any other statement serves as well when `PseudoGTIDPattern` matches
//! it. Entries that sort by time are marked, so that files that begin with a later entry do not have to be read.

use regex::Regex;

use crate::domain::instance::{BinlogCoordinates, InstanceFacts};
use crate::domain::recovery::relay_log_match::{LogEvent, is_after};
use crate::domain::time::WallTime;

/// The schema that entries of orchestrator's making name; it need not exist.
const SCHEMA: &str = "_pseudo_gtid_";
/// What marks an entry that sorts by time.
const GROWING: &str = "asc:";

/// How entries are distinguished from other statements.
#[derive(Clone, Debug)]
enum Pattern {
    Text(String),
    Expression(Regex),
}

/// How entries are found in logs, and how much is read at once.
#[derive(Clone, Debug)]
pub struct PseudoGtidPatterns {
    pattern: Pattern,
    /// Entries that hold this text grow; empty: none does.
    growing: String,
    /// Events that hold one of these are not compared.
    skip: Vec<String>,
    /// Events that are read with one statement, at least 1.
    pub chunk: usize,
}

impl PseudoGtidPatterns {
    /// The entries that ham4db and orchestrator write themselves.
    pub fn automatic() -> Self {
        Self {
            pattern: Pattern::Text(format!("drop view if exists `{SCHEMA}`")),
            growing: GROWING.to_owned(),
            skip: Vec::new(),
            chunk: 10_000,
        }
    }

    /// Entries that another program writes: a text that they contain, or a regular expression. `growing` marks
    /// entries that sort by time.
    ///
    /// # Errors
    /// When the expression cannot be read.
    pub fn matching(pattern: &str, is_text: bool, growing: &str) -> Result<Self, regex::Error> {
        let pattern = if is_text {
            Pattern::Text(pattern.to_owned())
        } else {
            Pattern::Expression(Regex::new(pattern)?)
        };
        Ok(Self {
            pattern,
            growing: growing.to_owned(),
            ..Self::automatic()
        })
    }

    /// The same entries, read in pieces of so many events; events that hold one of these texts are not compared.
    #[must_use]
    pub fn reading(self, chunk: usize, skip: &[String]) -> Self {
        Self {
            chunk: chunk.max(1),
            skip: skip.iter().filter(|text| !text.is_empty()).cloned().collect(),
            ..self
        }
    }

    /// The text of an entry; `None` for any other event.
    pub fn entry(&self, event: &LogEvent) -> Option<String> {
        if event.kind != "Query" {
            return None;
        }
        let is_entry = match &self.pattern {
            Pattern::Text(text) => event.info.contains(text),
            Pattern::Expression(expression) => expression.is_match(&event.info),
        };
        is_entry.then(|| statement_of(&event.info).to_owned())
    }

    /// Whether entries like this one grow with time.
    pub fn grows(&self, entry: &str) -> bool {
        !self.growing.is_empty() && entry.contains(&self.growing)
    }

    /// Whether an event is left out of comparisons.
    pub fn skips(&self, event: &LogEvent) -> bool {
        self.skip.iter().any(|text| event.info.contains(text))
    }
}

/// A statement without what the server that lists it adds (MySQL 8.0 and later: the number of its transaction).
pub fn statement_of(info: &str) -> &str {
    info.split(" /* xid=").next().unwrap_or_default().trim()
}

/// The statement that writes an entry, as orchestrator's: seconds since 1970 and the server's id in eight hexadecimal
/// digits, and sixteen digits that are its own.
pub fn entry_statement(now: WallTime, server_id: u32, own: u64) -> String {
    format!(
        "drop view if exists `{SCHEMA}`.`_{GROWING}{:08x}:{server_id:08x}:{own:016x}`",
        now.0.max(0) / 1000
    )
}

/// Whether entries help on a server: it has a binary log, and neither it nor its replicas can follow by GTID. MariaDB
/// always has GTIDs.
pub fn needs_entries(facts: &InstanceFacts) -> bool {
    facts.log_bin && !facts.version.flavour.is_mariadb() && !matches!(facts.gtid_mode.as_str(), "ON" | "ON_PERMISSIVE")
}

/// An entry, and where its transaction begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its text.
    pub text: String,
    /// In the log that was read.
    pub at: BinlogCoordinates,
}

/// Finds the last entry of one file of a log, event by event.
#[derive(Debug)]
pub struct LastEntry<'a> {
    marks: &'a PseudoGtidPatterns,
    until: Option<BinlogCoordinates>,
    begin: Option<u64>,
    last: Option<Entry>,
}

impl<'a> LastEntry<'a> {
    /// Before this position, where one is given.
    pub fn before(marks: &'a PseudoGtidPatterns, until: Option<BinlogCoordinates>) -> Self {
        Self {
            marks,
            until,
            begin: None,
            last: None,
        }
    }

    /// The next event of the file.
    pub fn take(&mut self, event: &LogEvent) {
        if begins_transaction(event) {
            self.begin = is_before(event, self.until.as_ref()).then_some(event.position);
        } else if let (Some(text), Some(position)) = (self.marks.entry(event), self.begin) {
            let at = BinlogCoordinates {
                file: event.file.clone(),
                position,
            };
            self.last = Some(Entry { text, at });
        }
    }

    /// What was found.
    pub fn finish(self) -> Option<Entry> {
        self.last
    }
}

/// Where an entry can be, after a part of a file was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryLocation {
    /// Further on in this file, or in another one.
    Unknown,
    /// Its transaction begins at this position.
    Here(BinlogCoordinates),
    /// In an earlier file: this one begins with a later entry.
    Earlier,
}

/// Looks for one entry in one file of a log, event by event.
#[derive(Debug)]
pub struct FindEntry<'a> {
    marks: &'a PseudoGtidPatterns,
    wanted: &'a str,
    /// Entries are compared by their text; otherwise all are read.
    by_order: bool,
    begin: u64,
}

impl<'a> FindEntry<'a> {
    /// The one with this text. `by_order`: a file that begins with a later entry is not read to its end.
    pub fn new(marks: &'a PseudoGtidPatterns, wanted: &'a str, by_order: bool) -> Self {
        Self {
            marks,
            wanted,
            by_order: by_order && marks.grows(wanted),
            begin: 0,
        }
    }

    /// The next event of the file.
    pub fn take(&mut self, event: &LogEvent) -> EntryLocation {
        if begins_transaction(event) {
            self.begin = event.position;
        }
        match self.marks.entry(event) {
            Some(text) if text == self.wanted => EntryLocation::Here(BinlogCoordinates {
                file: event.file.clone(),
                position: self.begin,
            }),
            Some(text) if self.by_order && self.marks.grows(&text) && text.as_str() > self.wanted => {
                EntryLocation::Earlier
            }
            Some(_) | None => EntryLocation::Unknown,
        }
    }
}

/// Whether an event begins a transaction: since MySQL 5.7 each one has such an event, with GTIDs or without.
pub fn begins_transaction(event: &LogEvent) -> bool {
    matches!(event.kind.as_str(), "Gtid" | "Anonymous_Gtid" | "Gtid_tagged")
}

/// Whether a transaction that begins with this event lies before a position in its log, which is between two. This
/// holds for the beginning of a transaction only: the events of a compressed transaction are all listed at its end.
pub(super) fn is_before(event: &LogEvent, until: Option<&BinlogCoordinates>) -> bool {
    until.is_none_or(|until| {
        let here = BinlogCoordinates {
            file: event.file.clone(),
            position: event.position,
        };
        is_after(until, &here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(position: u64, info: &str) -> LogEvent {
        LogEvent {
            file: "binlog.000007".to_owned(),
            position,
            kind: "Query".to_owned(),
            server_id: 1,
            end: position + 50,
            info: info.to_owned(),
        }
    }

    fn begin(position: u64) -> LogEvent {
        LogEvent {
            kind: "Anonymous_Gtid".to_owned(),
            ..query(position, "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'")
        }
    }

    #[test]
    fn an_entry_is_written_as_orchestrator_writes_it_and_found_again() {
        let statement = entry_statement(WallTime(1_515_890_446_789), 17, 0xc7b8_154f_f5c3_c6d8);
        assert_eq!(
            statement,
            "drop view if exists `_pseudo_gtid_`.`_asc:5a5aa70e:00000011:c7b8154ff5c3c6d8`"
        );
        let marks = PseudoGtidPatterns::automatic();
        let listed = query(100, &format!("{statement} /* xid=8 */"));
        assert_eq!(marks.entry(&listed), Some(statement.clone()));
        assert!(marks.grows(&statement));
        assert_eq!(marks.entry(&query(100, "drop view if exists `d`.`v`")), None);
    }

    #[test]
    fn entries_of_others_are_found_by_text_or_expression() {
        let by_text = PseudoGtidPatterns::matching("meta.mark(", true, "").unwrap();
        assert!(by_text.entry(&query(4, "call meta.mark('x')")).is_some());
        assert!(!by_text.grows("asc:1"));
        let by_expression = PseudoGtidPatterns::matching("drop view if exists .meta.[.].+", false, "asc:").unwrap();
        assert!(
            by_expression
                .entry(&query(4, "drop view if exists `meta`.`m`"))
                .is_some()
        );
        assert!(PseudoGtidPatterns::matching("(", false, "").is_err());
    }

    #[test]
    fn the_last_entry_before_a_place_counts() {
        let marks = PseudoGtidPatterns::automatic();
        let entry = |own| entry_statement(WallTime(1000), 1, own);
        let events = [
            begin(100),
            query(150, &entry(1)),
            begin(300),
            query(350, "create table d.t(i int)"),
            begin(500),
            query(550, &entry(2)),
        ];
        for (until, wanted) in [(None, Some((2, 500))), (Some(500), Some((1, 100))), (Some(100), None)] {
            let until = until.map(|position| BinlogCoordinates {
                file: "binlog.000007".to_owned(),
                position,
            });
            let mut last = LastEntry::before(&marks, until.clone());
            for event in &events {
                last.take(event);
            }
            let found = last.finish().map(|found| (found.text, found.at.position));
            assert_eq!(found, wanted.map(|(own, at)| (entry(own), at)), "{until:?}");
        }
    }

    #[test]
    fn a_file_that_begins_with_a_later_entry_is_left_at_once() {
        let marks = PseudoGtidPatterns::automatic();
        let entry = |seconds: i64| entry_statement(WallTime(seconds * 1000), 1, 9);
        let wanted = entry(20);
        let mut by_order = FindEntry::new(&marks, &wanted, true);
        by_order.take(&begin(100));
        assert_eq!(by_order.take(&query(150, &entry(10))), EntryLocation::Unknown);
        assert_eq!(by_order.take(&query(250, &entry(30))), EntryLocation::Earlier);
        let mut all = FindEntry::new(&marks, &wanted, false);
        assert_eq!(all.take(&query(250, &entry(30))), EntryLocation::Unknown);
        all.take(&begin(400));
        let here = all.take(&query(450, &entry(20)));
        assert!(matches!(here, EntryLocation::Here(at) if at.position == 400));
    }
}
