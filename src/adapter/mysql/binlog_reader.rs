//! The port [`BinlogReader`]: reads errant transactions from a server's binary logs by `SHOW BINLOG EVENTS`. Each request uses a
//! connection of its own and is bounded in files, events and time, because an operator uses it on servers that already have a
//! problem.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::ports::BinlogReader;
use crate::app::ports::{CredentialsByOrigin, Target};
use crate::domain::errant::{BinlogEvent, DecodedTransactions, ErrantTransactionDecoder, previous_gtids};
use crate::domain::gtid::GtidSet;
use crate::domain::quote::quote_string;
use crate::domain::version::Flavour;

use super::connection::{SqlFailure, credentials_of, with_deadline};
use super::server_connection::{ProbeSettings, ServerConnection};
use super::text_row::TextRow;

/// Limit for the binary logs that are searched, the newest first.
const MAX_FILES: usize = 16;
/// Events of one statement.
const EVENTS_PER_PAGE: u64 = 2_000;
/// Limit for the events of one request: some seconds of the server's time.
const MAX_EVENTS: u64 = 200_000;
/// `Previous_gtids`, when a file has it, is among this many first events.
const HEAD_EVENTS: u64 = 4;

/// Reads binary logs of MySQL and MariaDB servers.
pub struct MySqlBinlogReader {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
}

impl MySqlBinlogReader {
    /// Creates a reader that takes the accounts from `credentials` at each request.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>, settings: ProbeSettings) -> Self {
        Self {
            credentials,
            settings: Arc::new(settings),
        }
    }
}

#[async_trait]
impl BinlogReader for MySqlBinlogReader {
    async fn decode(
        &self,
        target: &Target,
        wanted: &GtidSet,
        deadline: Duration,
    ) -> Result<DecodedTransactions, String> {
        let end = Instant::now() + deadline;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let opened = with_deadline(
            &target.instance,
            deadline,
            ServerConnection::open(&target.instance, &credentials, &self.settings),
        )
        .await;
        let mut connection = opened.map_err(|failure| failure.to_string())?;
        let flavour = connection.dialect().version().flavour;
        let mut scan = BinlogScan {
            wanted,
            flavour,
            decoder: ErrantTransactionDecoder::new(flavour, wanted),
            files: Vec::new(),
            events: 0,
            incomplete: None,
        };
        // A partial result is returned, with the reason.
        match timeout_at(end, scan.run(&mut connection)).await {
            Ok(Ok(())) => connection.close().await,
            Ok(Err(failure)) => scan.incomplete = Some(failure.into_probe_failure().to_string()),
            Err(_) => scan.incomplete = Some(format!("reading took longer than {} s", deadline.as_secs())),
        }
        let (shown, found) = scan.decoder.finish();
        Ok(DecodedTransactions {
            incomplete: scan.incomplete.or_else(|| {
                let all = wanted.transaction_count();
                (found < all).then(|| format!("only {found} of {all} transactions are in the existing binary logs"))
            }),
            shown,
            found,
            files: scan.files,
        })
    }
}

/// One search for transactions in the binary logs of a server.
struct BinlogScan<'a> {
    wanted: &'a GtidSet,
    flavour: Flavour,
    decoder: ErrantTransactionDecoder<'a>,
    files: Vec<String>,
    events: u64,
    incomplete: Option<String>,
}

impl BinlogScan<'_> {
    async fn run(&mut self, connection: &mut ServerConnection) -> Result<(), SqlFailure> {
        let rows = connection.rows("SHOW BINARY LOGS").await?;
        let all: Vec<String> = rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect();
        // `Previous_gtids` of a file lists the transactions of all older files: it shows which files contain the wanted
        // transactions.
        let mut wanted_in = Vec::new();
        let mut open = self.wanted.clone();
        for file in all.iter().rev().take(MAX_FILES) {
            let head = events(connection, file, None, HEAD_EVENTS).await?;
            let older = head.iter().find_map(|event| previous_gtids(self.flavour, event));
            let here = older
                .as_ref()
                .map_or_else(|| open.clone(), |older| open.subtract(older));
            if !here.is_empty() {
                wanted_in.push(file.clone());
            }
            if older.is_some() {
                open = open.subtract(&here);
                if open.is_empty() {
                    break;
                }
            }
        }
        if all.len() > MAX_FILES && wanted_in.len() >= MAX_FILES {
            self.incomplete = Some(format!("only the newest {MAX_FILES} binary logs were read"));
        }
        for file in wanted_in.into_iter().rev() {
            if !self.read_file(connection, &file).await? {
                self.incomplete = Some(format!("only {MAX_EVENTS} events were read, up to {file}"));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads one file. Returns whether the limit of events allowed to read it to its end.
    async fn read_file(&mut self, connection: &mut ServerConnection, file: &str) -> Result<bool, SqlFailure> {
        self.files.push(file.to_owned());
        self.decoder.begin_file(file);
        let mut from = None;
        loop {
            let page = events(connection, file, from, EVENTS_PER_PAGE).await?;
            for event in &page {
                self.decoder.take(event);
            }
            let read = u64::try_from(page.len()).unwrap_or(u64::MAX);
            self.events = self.events.saturating_add(read);
            match page.last() {
                Some(last) if read == EVENTS_PER_PAGE => from = Some(last.end),
                _ => return Ok(true),
            }
            if self.events >= MAX_EVENTS {
                return Ok(false);
            }
        }
    }
}

/// The events of a file, beginning at a position or at the beginning.
async fn events(
    connection: &mut ServerConnection,
    file: &str,
    from: Option<u64>,
    limit: u64,
) -> Result<Vec<BinlogEvent>, SqlFailure> {
    let from = from.map(|position| format!(" FROM {position}")).unwrap_or_default();
    let statement = format!("SHOW BINLOG EVENTS IN {}{from} LIMIT {limit}", quote_string(file));
    let rows = connection.rows(&statement).await?;
    let event = |row: &TextRow| -> Result<BinlogEvent, SqlFailure> {
        Ok(BinlogEvent {
            position: row.number(&["Pos"])?,
            end: row.number(&["End_log_pos"])?,
            kind: row.text_or_empty(&["Event_type"]),
            info: row.text_or_empty(&["Info"]),
        })
    };
    rows.iter().map(event).collect()
}
