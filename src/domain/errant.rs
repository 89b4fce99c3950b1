//! The content of errant transactions, read from the events of a server's binary logs, as a basis for the
//! decision of an operator.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;
use super::instance::InstanceFacts;
use super::key::InstanceKey;
use super::version::Flavour;

/// Most transactions in a report.
pub const MAX_TRANSACTIONS: usize = 100;
/// Most statements in a report of one transaction.
const MAX_STATEMENTS: usize = 5;
/// Most tables in a report of one transaction.
const MAX_TABLES: usize = 32;
/// Longest statement in a report, characters.
const MAX_STATEMENT_CHARACTERS: usize = 400;

/// One row of `SHOW BINLOG EVENTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinlogEvent {
    /// Position of the event, bytes.
    pub position: u64,
    /// Position of the next event, bytes.
    pub end: u64,
    /// Event type: `Gtid`, `Query`, `Table_map`, ...
    pub kind: String,
    /// Description by the server.
    pub info: String,
}

/// One errant transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrantTransaction {
    /// Its GTID.
    pub gtid: String,
    /// Name of the binary log that holds it.
    pub file: String,
    /// Position in that log, bytes.
    pub position: u64,
    /// Tables that its rows or statements name, at most 32.
    pub tables: BTreeSet<String>,
    /// Its first statements, at most 5; row changes have a statement only when the server logs it.
    pub statements: Vec<String>,
    /// Number of events that change rows.
    pub row_events: u64,
}

/// The errant transactions of a server as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DecodedTransactions {
    /// In the order of the logs, at most [`MAX_TRANSACTIONS`].
    pub shown: Vec<ErrantTransaction>,
    /// Number of transactions that were found, shown or not.
    pub found: u64,
    /// Binary logs that were read.
    pub files: Vec<String>,
    /// Why not all were found: a limit was reached, logs are purged, or a read failed.
    pub incomplete: Option<String>,
}

/// Collects errant transactions from the events of binary logs.
#[derive(Debug)]
pub struct ErrantTransactionDecoder<'a> {
    flavour: Flavour,
    wanted: &'a GtidSet,
    file: String,
    open: Option<ErrantTransaction>,
    shown: Vec<ErrantTransaction>,
    found: u64,
}

impl<'a> ErrantTransactionDecoder<'a> {
    /// A decoder for the transactions in `wanted`.
    pub fn new(flavour: Flavour, wanted: &'a GtidSet) -> Self {
        Self {
            flavour,
            wanted,
            file: String::new(),
            open: None,
            shown: Vec::new(),
            found: 0,
        }
    }

    /// Begins another binary log: the following events belong to it.
    pub fn begin_file(&mut self, file: &str) {
        self.close();
        file.clone_into(&mut self.file);
    }

    /// Adds the next event.
    pub fn take(&mut self, event: &BinlogEvent) {
        if event.kind.starts_with("Gtid") && event.kind != "Gtid_list" {
            self.close();
            self.open = self.gtid(&event.info).map(|gtid| ErrantTransaction {
                gtid,
                file: self.file.clone(),
                position: event.position,
                ..ErrantTransaction::default()
            });
            return;
        }
        let Some(open) = &mut self.open else { return };
        let kind = event.kind.as_str();
        if kind == "Table_map" {
            if let Some(table) = table_of(&event.info)
                && open.tables.len() < MAX_TABLES
            {
                open.tables.insert(table);
            }
        } else if kind == "Rows_query" || kind == "Annotate_rows" {
            add(open, event.info.trim_start_matches('#').trim());
        } else if kind.starts_with("Write_rows")
            || kind.starts_with("Update_rows")
            || kind.starts_with("Delete_rows")
            || kind.starts_with("Update_compressed")
        {
            open.row_events += 1;
        } else if kind.starts_with("Query") {
            let statement = event.info.trim();
            if !matches!(statement, "BEGIN" | "COMMIT") {
                add(open, statement);
            }
        } else if kind == "Transaction_payload" {
            add(open, "(compressed; mysqlbinlog shows it)");
        }
    }

    /// Number of transactions found so far.
    pub fn found(&self) -> u64 {
        self.found + u64::from(self.open.is_some())
    }

    /// The found transactions that are shown, and the number of all that were found.
    pub fn finish(mut self) -> (Vec<ErrantTransaction>, u64) {
        self.close();
        (self.shown, self.found)
    }

    fn close(&mut self) {
        if let Some(done) = self.open.take() {
            self.found += 1;
            if self.shown.len() < MAX_TRANSACTIONS {
                self.shown.push(done);
            }
        }
    }

    /// The GTID of an event, when it is one of the wanted.
    fn gtid(&self, info: &str) -> Option<String> {
        let named = if self.flavour.is_mariadb() {
            // `BEGIN GTID 0-1-5 cid=7`, `GTID 0-1-6`.
            info.split_whitespace()
                .skip_while(|word| *word != "GTID")
                .nth(1)?
                .to_owned()
        } else {
            // `SET @@SESSION.GTID_NEXT= 'uuid:5'`.
            info.split('\'').nth(1)?.to_owned()
        };
        let text = if self.flavour.is_mariadb() {
            let (_, number) = named.rsplit_once('-')?;
            format!("{named}..{number}")
        } else {
            named.clone()
        };
        let one = GtidSet::parse(self.flavour, &text).ok()?;
        (!one.is_empty() && self.wanted.contains(&one)).then_some(named)
    }
}

/// The table in brackets: `table_id: 96 (shop.orders)`, and on MariaDB `table_id: 18 (shop.orders)`.
fn table_of(info: &str) -> Option<String> {
    let (_, rest) = info.split_once('(')?;
    let (name, _) = rest.rsplit_once(')')?;
    Some(name.to_owned())
}

fn add(transaction: &mut ErrantTransaction, statement: &str) {
    if transaction.statements.len() < MAX_STATEMENTS && !statement.is_empty() {
        let mut text: String = statement.chars().take(MAX_STATEMENT_CHARACTERS).collect();
        if statement.chars().count() > MAX_STATEMENT_CHARACTERS {
            text.push('…');
        }
        transaction.statements.push(text);
    }
}

/// The GTID set in a `Previous_gtids` event of MySQL: all transactions in older logs of the server. `None` for any
/// other event.
pub fn previous_gtids(flavour: Flavour, event: &BinlogEvent) -> Option<GtidSet> {
    (event.kind == "Previous_gtids")
        .then(|| GtidSet::parse(flavour, &event.info).ok())
        .flatten()
}

/// The transactions that `server` has and `primary` lacks. Transactions that originate at the primary are left out,
/// since the two servers were probed at different moments.
pub fn errant_of(server: &InstanceFacts, primary: &InstanceFacts) -> GtidSet {
    let lacks = server.executed.missing_from(&primary.executed);
    lacks.subtract(&lacks.originating_at(&primary.identity.origin()))
}

/// The report of the errant transactions of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrantReport {
    /// The server.
    pub instance: InstanceKey,
    /// The primary that it was compared with.
    pub primary: InstanceKey,
    /// Whether the server is in quarantine.
    pub quarantined: bool,
    /// The GTID set that only this server has.
    pub set: String,
    /// Number of errant transactions; on MariaDB an upper bound.
    pub transactions: u64,
    /// The content of the transactions.
    pub decoded: DecodedTransactions,
    /// The possible remedies with their API routes; a remedy that is not possible has the reason.
    pub remedies: Vec<String>,
}

/// A remedy for errant transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Commits empty transactions with the same GTIDs on the primary. Afterwards the GTID sets agree, and the data do
    /// not.
    InjectEmpty,
    /// Removes the GTIDs from the server. Afterwards the GTID sets agree, and the data do not.
    Reset,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn event(position: u64, kind: &str, info: &str) -> BinlogEvent {
        BinlogEvent {
            position,
            end: position + 1,
            kind: kind.to_owned(),
            info: info.to_owned(),
        }
    }

    #[test]
    fn the_events_of_errant_transactions_become_tables_and_statements() {
        let wanted = GtidSet::parse(Flavour::MySql, &format!("{A}:6-7")).unwrap();
        let mut decoder = ErrantTransactionDecoder::new(Flavour::MySql, &wanted);
        decoder.begin_file("binlog.000003");
        let gtid = |number: u64| format!("SET @@SESSION.GTID_NEXT= '{A}:{number}'");
        for event in [
            event(4, "Format_desc", "Server ver: 9.7.0"),
            event(126, "Previous_gtids", &format!("{A}:1-4")),
            event(197, "Gtid", &gtid(5)),
            event(276, "Query", "BEGIN"),
            event(350, "Table_map", "table_id: 95 (shop.customers)"),
            event(400, "Write_rows", "table_id: 95 flags: STMT_END_F"),
            event(440, "Xid", "COMMIT /* xid=20 */"),
            event(471, "Gtid", &gtid(6)),
            event(550, "Query", "BEGIN"),
            event(620, "Rows_query", "# INSERT INTO orders VALUES (1)"),
            event(680, "Table_map", "table_id: 96 (shop.orders)"),
            event(740, "Write_rows", "table_id: 96 flags: STMT_END_F"),
            event(780, "Xid", "COMMIT /* xid=21 */"),
            event(811, "Gtid", &gtid(7)),
            event(890, "Query", "use `shop`; DROP TABLE old_orders"),
        ] {
            decoder.take(&event);
        }
        let (shown, found) = decoder.finish();
        assert_eq!(found, 2);
        assert_eq!(shown[0].gtid, format!("{A}:6"));
        assert_eq!((shown[0].file.as_str(), shown[0].position), ("binlog.000003", 471));
        assert_eq!(shown[0].tables, BTreeSet::from(["shop.orders".to_owned()]));
        assert_eq!(shown[0].statements, ["INSERT INTO orders VALUES (1)"]);
        assert_eq!(shown[0].row_events, 1);
        assert_eq!(shown[1].statements, ["use `shop`; DROP TABLE old_orders"]);
    }

    #[test]
    fn mariadb_names_a_transaction_by_its_beginning() {
        let wanted = GtidSet::parse(Flavour::MariaDb, "0-1-6..7").unwrap();
        let mut decoder = ErrantTransactionDecoder::new(Flavour::MariaDb, &wanted);
        decoder.begin_file("binlog.000001");
        for event in [
            event(300, "Gtid_list", "[0-1-4]"),
            event(340, "Gtid", "BEGIN GTID 0-1-5"),
            event(400, "Annotate_rows", "INSERT INTO a VALUES (5)"),
            event(500, "Gtid", "BEGIN GTID 0-1-6 cid=9"),
            event(560, "Annotate_rows", "INSERT INTO a VALUES (6)"),
            event(600, "Table_map", "table_id: 18 (shop.a)"),
            event(640, "Write_rows_v1", "table_id: 18 flags: STMT_END_F"),
            event(700, "Gtid", "GTID 0-1-7"),
            event(740, "Query", "use `shop`; CREATE TABLE b (id INT)"),
        ] {
            decoder.take(&event);
        }
        let (shown, found) = decoder.finish();
        assert_eq!(found, 2);
        let told: Vec<_> = shown
            .iter()
            .map(|it| (it.gtid.as_str(), it.statements[0].as_str(), it.row_events))
            .collect();
        assert_eq!(
            told,
            [
                ("0-1-6", "INSERT INTO a VALUES (6)", 1),
                ("0-1-7", "use `shop`; CREATE TABLE b (id INT)", 0)
            ]
        );
    }

    #[test]
    fn long_statements_and_many_transactions_are_cut() {
        let wanted = GtidSet::parse(Flavour::MySql, &format!("{A}:1-300")).unwrap();
        let mut decoder = ErrantTransactionDecoder::new(Flavour::MySql, &wanted);
        for number in 1..=300 {
            decoder.take(&event(
                number,
                "Gtid",
                &format!("SET @@SESSION.GTID_NEXT= '{A}:{number}'"),
            ));
            decoder.take(&event(number, "Query", &"ä".repeat(1000)));
        }
        let (shown, found) = decoder.finish();
        assert_eq!((shown.len(), found), (MAX_TRANSACTIONS, 300));
        assert_eq!(shown[0].statements[0].chars().count(), MAX_STATEMENT_CHARACTERS + 1);
    }

    #[test]
    fn what_older_logs_hold_is_read() {
        let told = previous_gtids(Flavour::MySql, &event(1, "Previous_gtids", &format!("{A}:1-4")));
        assert_eq!(told, GtidSet::parse(Flavour::MySql, &format!("{A}:1-4")).ok());
        assert_eq!(previous_gtids(Flavour::MySql, &event(1, "Query", "BEGIN")), None);
    }
}
