use proptest::prelude::*;

use super::super::pseudo_gtid::{EntryLocation, FindEntry, LastEntry, entry_statement};
use super::*;
use crate::domain::time::WallTime;

/// One transaction as a test writes it: who, and its events beside the first one.
#[derive(Clone, Debug)]
struct Written {
    server_id: u32,
    events: Vec<(&'static str, String)>,
}

fn statement(server_id: u32, text: &str) -> Written {
    Written {
        server_id,
        events: vec![("Query", text.to_owned())],
    }
}

fn rows(server_id: u32, table: &str, kind: &'static str, pieces: usize) -> Written {
    let mut events = vec![
        ("Query", "BEGIN".to_owned()),
        ("Table_map", format!("table_id: {} ({table})", 80 + pieces)),
    ];
    events.extend((0..pieces).map(|_| (kind, "table_id: 91 flags: STMT_END_F".to_owned())));
    events.push(("Xid", format!("COMMIT /* xid={} */", 1000 + pieces)));
    Written { server_id, events }
}

fn entry(seconds: i64) -> Written {
    let own = u64::try_from(seconds).unwrap();
    statement(1, &entry_statement(WallTime(seconds * 1000), 1, own))
}

fn event(file: &str, position: u64, kind: &str, server_id: u32, info: &str) -> LogEvent {
    LogEvent {
        file: file.to_owned(),
        position,
        kind: kind.to_owned(),
        server_id,
        end: position + 40,
        info: info.to_owned(),
    }
}

/// The events of a log that `own` wrote, a new file after every `per_file` transactions.
fn log(name: &str, own: u32, transactions: &[Written], per_file: usize, xid: u64) -> Vec<LogEvent> {
    let mut events = Vec::new();
    for (number, chunk) in transactions.chunks(per_file).enumerate() {
        let file = format!("{name}.{:06}", number + 1);
        let mut position = 4;
        let mut push = |events: &mut Vec<LogEvent>, kind: &str, server_id, info: &str| {
            events.push(event(&file, position, kind, server_id, info));
            position += 40;
        };
        push(&mut events, "Format_desc", own, "Server ver: 9.7.4");
        push(&mut events, "Previous_gtids", own, "");
        for transaction in chunk {
            push(
                &mut events,
                "Anonymous_Gtid",
                transaction.server_id,
                "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'",
            );
            for (kind, info) in &transaction.events {
                let info = if *kind == "Query" && info != "BEGIN" {
                    format!("{info} /* xid={xid} */")
                } else {
                    info.clone()
                };
                push(&mut events, kind, transaction.server_id, &info);
            }
        }
        push(&mut events, "Rotate", own, "next;pos=4");
    }
    events
}

fn files(events: &[LogEvent]) -> Vec<Vec<LogEvent>> {
    events
        .chunk_by(|one, other| one.file == other.file)
        .map(<[LogEvent]>::to_vec)
        .collect()
}

/// What follows the last entry of a log, as a reader of it finds out: the newest file first, then forward from the entry.
fn tail(
    events: &[LogEvent],
    until: Option<&BinlogCoordinates>,
    marks: &PseudoGtidPatterns,
) -> Result<EntryTail, PseudoGtidMatchError> {
    let found = files(events).into_iter().rev().find_map(|file| {
        let mut last = LastEntry::before(marks, until.cloned());
        for event in &file {
            last.take(event);
        }
        last.finish()
    });
    let found = found.ok_or_else(|| PseudoGtidMatchError::NoEntry("the log".to_owned()))?;
    let mut following = TransactionsAfterEntry::before(marks, until.cloned());
    let begin = events
        .iter()
        .position(|event| event.file == found.at.file && event.position == found.at.position);
    for event in &events[begin.unwrap()..] {
        following.take(event)?;
    }
    following.finish(found)
}

fn place(
    events: &[LogEvent],
    tail: &EntryTail,
    marks: &PseudoGtidPatterns,
) -> Result<BinlogCoordinates, PseudoGtidMatchError> {
    let mut begin = None;
    for file in files(events).into_iter().rev() {
        let mut find = FindEntry::new(marks, &tail.entry.text, true);
        for event in &file {
            match find.take(event) {
                EntryLocation::Unknown => {}
                EntryLocation::Earlier => break,
                EntryLocation::Here(at) => {
                    begin = Some(at);
                    break;
                }
            }
        }
    }
    let at = begin.ok_or_else(|| PseudoGtidMatchError::EntryNotFound(tail.entry.text.clone()))?;
    let begin = events
        .iter()
        .position(|event| event.file == at.file && event.position == at.position)
        .unwrap();
    let mut walk = LogComparison::with(tail, marks);
    for event in &events[begin..] {
        if walk.take(event)? {
            break;
        }
    }
    walk.finish()
}

/// Where the transaction with this number begins in a log.
fn begin_of(events: &[LogEvent], number: usize) -> Option<BinlogCoordinates> {
    let begin = events
        .iter()
        .filter(|event| event.kind == "Anonymous_Gtid")
        .nth(number)?;
    Some(BinlogCoordinates {
        file: begin.file.clone(),
        position: begin.position,
    })
}

fn history() -> Vec<Written> {
    vec![
        statement(1, "create table d.t(i int)"),
        entry(10),
        rows(1, "d.t", "Write_rows", 1),
        entry(15),
        statement(1, "use `d`; create table u(i int)"),
        rows(1, "d.t", "Update_rows", 1),
        rows(1, "d.u", "Delete_rows", 1),
    ]
}

#[test]
fn the_one_behind_goes_on_at_the_first_transaction_that_it_has_not() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    for has in 2..all.len() {
        let replica = log("replica-bin", 2, &all[..has], 3, 7);
        let target = log("binlog", 3, &all, 2, 900);
        let tail = tail(&replica, None, &marks).unwrap();
        assert_eq!(place(&target, &tail, &marks).ok(), begin_of(&target, has), "{has}");
    }
}

#[test]
fn one_that_has_all_goes_on_at_the_end_of_the_last_transaction() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    let target = log("binlog", 3, &all, 100, 900);
    let tail = tail(&log("replica-bin", 2, &all, 2, 7), None, &marks).unwrap();
    let last = target.iter().rev().find(|event| event.kind == "Xid").unwrap();
    let end = BinlogCoordinates {
        file: last.file.clone(),
        position: last.end,
    };
    assert_eq!(place(&target, &tail, &marks), Ok(end));
}

#[test]
fn a_relay_log_counts_up_to_where_it_was_applied() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    let relay = log("relay", 2, &all, 100, 900);
    let target = log("binlog", 3, &all, 100, 900);
    for applied in 4..all.len() {
        let tail = tail(&relay, begin_of(&relay, applied).as_ref(), &marks).unwrap();
        assert_eq!(tail.entry.text, entry(15).events[0].1);
        assert_eq!(place(&target, &tail, &marks).ok(), begin_of(&target, applied));
    }
}

#[test]
fn a_relay_log_that_rotates_within_a_transaction_is_read_as_one() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    let mut relay = log("relay", 2, &all, 100, 900);
    let cut = relay.iter().rposition(|event| event.kind == "Table_map").unwrap();
    for event in &mut relay[cut..] {
        event.file = "relay.000002".to_owned();
    }
    relay.insert(cut, event("relay.000002", 4, "Format_desc", 2, "Server ver: 9.7.4"));
    relay.insert(cut, event("relay.000001", 9000, "Rotate", 2, "relay.000002;pos=4"));
    let tail = tail(&relay, None, &marks).unwrap();
    let target = log("binlog", 3, &all, 100, 900);
    assert!(place(&target, &tail, &marks).is_ok());
}

#[test]
fn one_that_is_ahead_or_has_transactions_of_its_own_is_not_matched() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    let ahead = tail(&log("replica-bin", 2, &all, 100, 7), None, &marks).unwrap();
    let shorter = log("binlog", 3, &all[..5], 100, 900);
    assert_eq!(place(&shorter, &ahead, &marks), Err(PseudoGtidMatchError::Ahead(2)));
    let mut own = all.clone();
    own[5].server_id = 2;
    let own = tail(&log("replica-bin", 2, &own, 100, 7), None, &marks).unwrap();
    let target = log("binlog", 3, &all, 100, 900);
    assert!(matches!(
        place(&target, &own, &marks),
        Err(PseudoGtidMatchError::Differ { number: 2, .. })
    ));
}

#[test]
fn another_statement_table_or_kind_of_change_ends_the_search() {
    let (marks, all) = (PseudoGtidPatterns::automatic(), history());
    let here = tail(&log("replica-bin", 2, &all, 100, 7), None, &marks).unwrap();
    for other in [
        statement(1, "use `d`; create table v(i int)"),
        rows(1, "d.other", "Update_rows", 1),
        rows(1, "d.t", "Write_rows", 1),
    ] {
        let mut there = all.clone();
        let at = if other.events[0].0 == "Query" && other.events.len() == 1 {
            4
        } else {
            5
        };
        there[at] = other;
        let found = place(&log("binlog", 3, &there, 100, 900), &here, &marks);
        assert!(matches!(found, Err(PseudoGtidMatchError::Differ { .. })), "{found:?}");
    }
}

#[test]
fn an_entry_that_was_purged_or_never_written_is_told() {
    let marks = PseudoGtidPatterns::automatic();
    let all = history();
    let here = tail(&log("replica-bin", 2, &all[..3], 100, 7), None, &marks).unwrap();
    let purged = log("binlog", 3, &all[3..], 100, 900);
    assert_eq!(
        place(&purged, &here, &marks),
        Err(PseudoGtidMatchError::EntryNotFound(here.entry.text.clone()))
    );
    let none = log("replica-bin", 2, &[statement(1, "create table d.t(i int)")], 100, 7);
    assert!(matches!(
        tail(&none, None, &marks),
        Err(PseudoGtidMatchError::NoEntry(_))
    ));
}

#[test]
fn what_is_to_be_skipped_may_stand_on_one_side_alone() {
    let marks = PseudoGtidPatterns::automatic().reading(10, &["heartbeat".to_owned()]);
    let mut here = history();
    here.insert(5, statement(2, "replace into heartbeat values (1)"));
    let here = tail(&log("replica-bin", 2, &here, 100, 7), None, &marks).unwrap();
    assert!(place(&log("binlog", 3, &history(), 100, 900), &here, &marks).is_ok());
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        (0..4_u8).prop_map(|n| statement(1, &format!("create table d.t{n}(i int)"))),
        (0..3_u8, 1..4_usize).prop_map(|(n, pieces)| rows(1, &format!("d.t{n}"), "Write_rows", pieces)),
        (0..3_u8, 1..4_usize).prop_map(|(n, pieces)| rows(1, &format!("d.t{n}"), "Update_rows", pieces)),
    ]
}

/// The same transactions with row events cut in another way, as a server with another event size writes them.
fn cut_otherwise(all: &[Written]) -> Vec<Written> {
    let otherwise = |one: &Written| {
        let mut one = one.clone();
        if let Some((kind, info)) = one
            .events
            .iter()
            .rev()
            .nth(1)
            .cloned()
            .filter(|(kind, _)| kind.ends_with("rows"))
        {
            let at = one.events.len() - 1;
            one.events.insert(at, (kind, info));
        }
        one
    };
    all.iter().map(otherwise).collect()
}

proptest! {
    /// Whatever the logs look like, a replica goes on exactly behind what it has, or nowhere.
    #[test]
    fn no_transaction_is_lost_or_doubled(
        mut all in prop::collection::vec(written(), 1..40),
        entries in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        has in any::<prop::sample::Index>(),
        here_per_file in 1..9_usize,
        there_per_file in 1..9_usize,
    ) {
        let mut places: Vec<usize> = entries.iter().map(|entry| entry.index(all.len())).collect();
        places.sort_unstable();
        for (number, place) in places.iter().enumerate() {
            all.insert(place + number, entry(i64::try_from(number).unwrap() + 1));
        }
        let has = has.index(all.len() + 1);
        let marks = PseudoGtidPatterns::automatic();
        let replica = log("replica-bin", 2, &all[..has], here_per_file, 7);
        let target = log("binlog", 3, &cut_otherwise(&all), there_per_file, 900);
        match tail(&replica, None, &marks) {
            Err(_) => prop_assert!(has <= places[0]),
            Ok(tail) => {
                let found = place(&target, &tail, &marks);
                if let Some(next) = begin_of(&target, has) {
                    prop_assert_eq!(found, Ok(next));
                } else {
                    let end = found.unwrap();
                    let is_beyond = |event: &LogEvent| {
                        event.kind == "Anonymous_Gtid" && event.file >= end.file && event.position >= end.position
                    };
                    prop_assert!(!target.iter().any(is_beyond));
                }
            }
        }
    }
}
