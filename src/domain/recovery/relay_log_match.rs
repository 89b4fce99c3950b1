//! Where in one server's binary log another server has to continue, found without GTIDs.
//!
//! Two replicas of a dead source received the same log, one of them more of it. That one has the difference in its
//! relay log, with the
//! *source's* positions, and at the end of its own binary log, with its own positions. So the transactions of the
//! relay log after the position of the other replica are counted, and the same number is counted back from the end of
//! the binary log. Both sequences must be the same, statement by statement and table by table, and the server itself
//! must have written none of them. Otherwise there is no result, which is better than a wrong one.
//!
//! Needs `log_replica_updates` and an applier that keeps the order. Events are those of `SHOW RELAYLOG EVENTS` and
//! `SHOW BINLOG EVENTS` (MySQL manual, "SHOW RELAYLOG EVENTS Statement"; since 5.7 a transaction without GTID begins
//! with `Anonymous_Gtid`).

use std::collections::VecDeque;

use crate::domain::instance::BinlogCoordinates;

/// Transactions that one replica may be behind another one; beyond, restoring it from a backup or a clone is faster.
pub const MAX_BEHIND: usize = 50_000;

/// An event as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// File of the log that is listed.
    pub file: String,
    /// Where in it the event begins, bytes.
    pub position: u64,
    /// `Query`, `Xid`, `Rotate`, ...
    pub kind: String,
    /// `server_id` of the server that wrote it first.
    pub server_id: u32,
    /// Where it ends: in a relay log, in the source's log.
    pub end: u64,
    /// `Info` of the event, as the server lists it.
    pub info: String,
}

/// The part of a transaction that is the same in every log that holds it: its statements, and the tables in which it
/// changes rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionShape {
    parts: Vec<String>,
}

/// Why no position can be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayLogMatchError {
    /// The relay log begins later.
    #[error("the relay log no longer holds what follows {0}")]
    Purged(BinlogCoordinates),
    /// Too much to compare.
    #[error("more than {MAX_BEHIND} transactions lie between")]
    TooFar,
    /// The binary log is shorter than what was applied.
    #[error("the binary log holds {found} transactions of the {wanted} that were received")]
    TooShort {
        /// Received.
        wanted: usize,
        /// Found.
        found: usize,
    },
    /// The end of the binary log holds a transaction that the server wrote itself.
    #[error("its binary log ends with transactions of its own")]
    OwnTransactions,
    /// What was received and what is in the binary log differ.
    #[error("transaction {0} of the relay log and of the binary log differ")]
    Differ(usize),
}

/// Collects from relay logs, event by event, what follows a position in the source's log.
#[derive(Debug)]
pub struct RelayLogTransactions {
    own_server_id: u32,
    from: BinlogCoordinates,
    source_file: Option<String>,
    covers: bool,
    shapes: Vec<TransactionShape>,
    is_inside: bool,
}

impl RelayLogTransactions {
    /// After `from` in the source's log, in the relay logs of the server with this id. `from` is the end of a transaction.
    pub fn after(from: BinlogCoordinates, own_server_id: u32) -> Self {
        Self {
            own_server_id,
            from,
            source_file: None,
            covers: false,
            shapes: Vec::new(),
            is_inside: false,
        }
    }

    /// The next event, in the order of the logs.
    ///
    /// # Errors
    /// [`RelayLogMatchError::TooFar`].
    pub fn take(&mut self, event: &LogEvent) -> Result<(), RelayLogMatchError> {
        if event.kind == "Rotate" {
            if event.server_id != self.own_server_id
                && let Some((file, position)) = event.info.split_once(";pos=")
            {
                let here = BinlogCoordinates {
                    file: file.to_owned(),
                    position: position.parse().unwrap_or(u64::MAX),
                };
                self.covers |= !is_after(&here, &self.from);
                self.source_file = Some(here.file);
            }
            return Ok(());
        }
        let Some(file) = &self.source_file else { return Ok(()) };
        // The relay log's own header events end where nothing of the source ends.
        if event.server_id == self.own_server_id
            && matches!(event.kind.as_str(), "Format_desc" | "Previous_gtids" | "Stop")
        {
            return Ok(());
        }
        let end = BinlogCoordinates {
            file: file.clone(),
            position: event.end,
        };
        if begins_transaction(event) {
            self.is_inside = is_after(&end, &self.from);
            if self.is_inside {
                if self.shapes.len() >= MAX_BEHIND {
                    return Err(RelayLogMatchError::TooFar);
                }
                self.shapes.push(TransactionShape::default());
            }
        } else if self.is_inside
            && let (Some(part), Some(shape)) = (part(event), self.shapes.last_mut())
        {
            shape.parts.push(part);
        }
        Ok(())
    }

    /// The transactions that follow, in order.
    ///
    /// # Errors
    /// [`RelayLogMatchError::Purged`].
    pub fn finish(self) -> Result<Vec<TransactionShape>, RelayLogMatchError> {
        if self.covers {
            Ok(self.shapes)
        } else {
            Err(RelayLogMatchError::Purged(self.from))
        }
    }
}

/// Keeps the last transactions of a binary log, event by event.
#[derive(Debug)]
pub struct LastBinlogTransactions {
    wanted: usize,
    last: VecDeque<(BinlogCoordinates, u32, TransactionShape)>,
}

impl LastBinlogTransactions {
    /// So many.
    pub fn new(wanted: usize) -> Self {
        Self {
            wanted,
            last: VecDeque::new(),
        }
    }

    /// The next event, in the order of the logs.
    pub fn take(&mut self, event: &LogEvent) {
        if begins_transaction(event) {
            let at = BinlogCoordinates {
                file: event.file.clone(),
                position: event.position,
            };
            self.last.push_back((at, event.server_id, TransactionShape::default()));
            if self.last.len() > self.wanted {
                self.last.pop_front();
            }
        } else if let (Some(part), Some((_, _, shape))) = (part(event), self.last.back_mut()) {
            shape.parts.push(part);
        }
    }

    /// Whether there are as many as wanted, so that no earlier file needs to be read.
    pub fn is_enough(&self) -> bool {
        self.last.len() >= self.wanted
    }

    /// Where the last transactions begin, which are these; `end` is the end of the log, the answer when there are none.
    ///
    /// # Errors
    /// When they are not the same ones, or the server wrote some of them itself.
    pub fn begin_of(
        &self,
        received: &[TransactionShape],
        own_server_id: u32,
        end: &BinlogCoordinates,
    ) -> Result<BinlogCoordinates, RelayLogMatchError> {
        let Some(skipped) = self.last.len().checked_sub(received.len()) else {
            return Err(RelayLogMatchError::TooShort {
                wanted: received.len(),
                found: self.last.len(),
            });
        };
        let mut begin = None;
        for (number, ((at, server_id, shape), wanted)) in self.last.iter().skip(skipped).zip(received).enumerate() {
            if *server_id == own_server_id {
                return Err(RelayLogMatchError::OwnTransactions);
            }
            if shape != wanted {
                return Err(RelayLogMatchError::Differ(number + 1));
            }
            begin.get_or_insert(at);
        }
        Ok(begin.unwrap_or(end).clone())
    }
}

fn begins_transaction(event: &LogEvent) -> bool {
    matches!(event.kind.as_str(), "Gtid" | "Anonymous_Gtid")
}

/// What of an event is the same in every log: a statement without the server's remark behind it, or a table.
fn part(event: &LogEvent) -> Option<String> {
    match event.kind.as_str() {
        "Query" => {
            let text = event.info.split(" /* xid=").next().unwrap_or_default().trim();
            (!matches!(text, "BEGIN" | "COMMIT")).then(|| text.to_owned())
        }
        "Table_map" => event.info.split_once('(').map(|(_, table)| table.to_owned()),
        _ => None,
    }
}

/// Whether one position in a log comes after another. Files count up in their extension, which grows beyond six digits.
pub fn is_after(one: &BinlogCoordinates, other: &BinlogCoordinates) -> bool {
    (number_of(&one.file), one.position) > (number_of(&other.file), other.position)
}

/// The number of a log file; 0 when it has none.
pub fn number_of(file: &str) -> u64 {
    file.rsplit_once('.')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 2;

    fn at(file: &str, position: u64) -> BinlogCoordinates {
        BinlogCoordinates {
            file: file.to_owned(),
            position,
        }
    }

    fn event(file: &str, position: u64, kind: &str, server_id: u32, end: u64, info: &str) -> LogEvent {
        LogEvent {
            file: file.to_owned(),
            position,
            kind: kind.to_owned(),
            server_id,
            end,
            info: info.to_owned(),
        }
    }

    /// As a MySQL 9.7 replica listed it: a statement, then a row change, behind a header.
    fn relay() -> Vec<LogEvent> {
        let event = |position, kind, server_id, end, info| event("relay.000004", position, kind, server_id, end, info);
        vec![
            event(4, "Format_desc", OWN, 127, "Server ver: 9.7.4"),
            event(127, "Previous_gtids", OWN, 158, ""),
            event(158, "Rotate", 1, 0, "binlog.000002;pos=4"),
            event(202, "Format_desc", 1, 127, "Server ver: 9.7.4"),
            event(369, "Anonymous_Gtid", 1, 235, "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'"),
            event(446, "Query", 1, 339, "create table d.u(i int) /* xid=40 */"),
            event(550, "Anonymous_Gtid", 1, 418, "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'"),
            event(629, "Query", 1, 489, "BEGIN"),
            event(700, "Table_map", 1, 534, "table_id: 109 (d.t)"),
            event(745, "Write_rows", 1, 578, "table_id: 109 flags: STMT_END_F"),
            event(789, "Xid", 1, 609, "COMMIT /* xid=41 */"),
        ]
    }

    fn binlog(second_server: u32, table: &str) -> Vec<LogEvent> {
        let event = |position, kind, server_id, end, info| event("binlog.000001", position, kind, server_id, end, info);
        vec![
            event(2288, "Anonymous_Gtid", 1, 2392, ""),
            event(2392, "Query", 1, 2478, "create table d.u(i int) /* xid=19 */"),
            event(2478, "Anonymous_Gtid", second_server, 2564, ""),
            event(2564, "Query", second_server, 2631, "BEGIN"),
            event(2631, "Table_map", second_server, 2676, table),
            event(2676, "Write_rows", second_server, 2720, ""),
            event(2720, "Xid", second_server, 2751, "COMMIT /* xid=21 */"),
        ]
    }

    fn received(from: BinlogCoordinates) -> Result<Vec<TransactionShape>, RelayLogMatchError> {
        let mut received = RelayLogTransactions::after(from, OWN);
        for event in relay() {
            received.take(&event)?;
        }
        received.finish()
    }

    fn begin(received: &[TransactionShape], events: &[LogEvent]) -> Result<BinlogCoordinates, RelayLogMatchError> {
        let mut written = LastBinlogTransactions::new(received.len());
        for event in events {
            written.take(event);
        }
        written.begin_of(received, OWN, &at("binlog.000001", 2751))
    }

    #[test]
    fn the_one_behind_goes_on_where_the_same_transactions_begin() {
        for (from, wanted) in [(158, 2288), (339, 2478), (609, 2751)] {
            let received = received(at("binlog.000002", from)).unwrap();
            let found = begin(&received, &binlog(1, "table_id: 7 (d.t)"));
            assert_eq!(found, Ok(at("binlog.000001", wanted)), "from {from}");
        }
    }

    #[test]
    fn an_earlier_file_of_the_source_that_is_purged_has_no_answer() {
        let from = at("binlog.000001", 500);
        assert_eq!(received(from.clone()), Err(RelayLogMatchError::Purged(from)));
    }

    #[test]
    fn what_differs_or_was_written_by_the_server_itself_has_no_answer() {
        let both = received(at("binlog.000002", 158)).unwrap();
        assert_eq!(
            begin(&both, &binlog(1, "table_id: 7 (d.other)")),
            Err(RelayLogMatchError::Differ(2))
        );
        assert_eq!(
            begin(&both, &binlog(OWN, "table_id: 7 (d.t)")),
            Err(RelayLogMatchError::OwnTransactions)
        );
        let half = binlog(1, "table_id: 7 (d.t)").split_off(2);
        assert_eq!(
            begin(&both, &half),
            Err(RelayLogMatchError::TooShort { wanted: 2, found: 1 })
        );
    }

    #[test]
    fn files_are_ordered_by_their_number() {
        assert!(is_after(&at("binlog.1000000", 4), &at("binlog.999999", 900)));
        assert!(!is_after(&at("binlog.000001", 4), &at("binlog.000001", 4)));
        assert_eq!(number_of("binlog"), 0);
    }
}
