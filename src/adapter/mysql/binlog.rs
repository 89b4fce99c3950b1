//! Reads errant transactions from a server's binary logs by `SHOW BINLOG EVENTS`, on a connection of its own and within bounds: it is
//! for people who look at a broken server, and must not become a second problem there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::ports::BinlogReader;
use crate::app::ports::{CredentialsByOrigin, Target};
use crate::domain::errant::{BinlogEvent, Decoded, Decoder, previous_gtids};
use crate::domain::gtid::GtidSet;
use crate::domain::quote::quote_string;
use crate::domain::version::Flavour;

use super::connection::{SqlFailure, credentials_of, within};
use super::server_connection::{ProbeSettings, ServerConnection};
use super::text_row::TextRow;

/// Binary logs that are looked into, the newest first.
const MOST_FILES: usize = 16;
/// Events that are asked for at once.
const PAGE: u64 = 2_000;
/// Events that are read altogether: some seconds of the server's time.
const MOST_EVENTS: u64 = 200_000;
/// Within these `Previous_gtids` stands, when it is there.
const HEAD: u64 = 4;

/// Reads binary logs over sqlx.
pub struct MySqlBinlogReader {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
}

impl MySqlBinlogReader {
    /// A reader that takes the accounts from `credentials`.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>, settings: ProbeSettings) -> Self {
        Self {
            credentials,
            settings: Arc::new(settings),
        }
    }
}

#[async_trait]
impl BinlogReader for MySqlBinlogReader {
    async fn decode(&self, target: &Target, wanted: &GtidSet, deadline: Duration) -> Result<Decoded, String> {
        let end = Instant::now() + deadline;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let opened = within(
            &target.instance,
            deadline,
            ServerConnection::open(&target.instance, &credentials, &self.settings),
        )
        .await;
        let mut connection = opened.map_err(|failure| failure.to_string())?;
        let flavour = connection.dialect().version().flavour;
        let mut reading = Reading {
            wanted,
            flavour,
            decoder: Decoder::new(flavour, wanted),
            files: Vec::new(),
            events: 0,
            incomplete: None,
        };
        // What was read until the deadline is worth showing.
        match timeout_at(end, reading.run(&mut connection)).await {
            Ok(Ok(())) => connection.close().await,
            Ok(Err(failure)) => reading.incomplete = Some(failure.into_probe_failure().to_string()),
            Err(_) => reading.incomplete = Some(format!("reading took longer than {} s", deadline.as_secs())),
        }
        let (shown, found) = reading.decoder.finish();
        Ok(Decoded {
            incomplete: reading.incomplete.or_else(|| {
                let all = wanted.transaction_count();
                (found < all).then(|| format!("{found} of {all} are in the binary logs that are there"))
            }),
            shown,
            found,
            files: reading.files,
        })
    }
}

struct Reading<'a> {
    wanted: &'a GtidSet,
    flavour: Flavour,
    decoder: Decoder<'a>,
    files: Vec<String>,
    events: u64,
    incomplete: Option<String>,
}

impl Reading<'_> {
    async fn run(&mut self, connection: &mut ServerConnection) -> Result<(), SqlFailure> {
        let rows = connection.rows("SHOW BINARY LOGS").await?;
        let all: Vec<String> = rows.iter().map(|row| row.text_or_empty(&["Log_name"])).collect();
        // `Previous_gtids` of a log says what all older ones hold: so it is known which logs have the wanted, without reading them.
        let mut wanted_in = Vec::new();
        let mut open = self.wanted.clone();
        for file in all.iter().rev().take(MOST_FILES) {
            let head = events(connection, file, None, HEAD).await?;
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
        if all.len() > MOST_FILES && wanted_in.len() >= MOST_FILES {
            self.incomplete = Some(format!("only the newest {MOST_FILES} binary logs were read"));
        }
        for file in wanted_in.into_iter().rev() {
            if !self.read(connection, &file).await? {
                self.incomplete = Some(format!("only {MOST_EVENTS} events were read, up to {file}"));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads one log to its end; whether the bound allowed that.
    async fn read(&mut self, connection: &mut ServerConnection, file: &str) -> Result<bool, SqlFailure> {
        self.files.push(file.to_owned());
        self.decoder.begin_file(file);
        let mut from = None;
        loop {
            let page = events(connection, file, from, PAGE).await?;
            for event in &page {
                self.decoder.take(event);
            }
            let read = u64::try_from(page.len()).unwrap_or(u64::MAX);
            self.events = self.events.saturating_add(read);
            match page.last() {
                Some(last) if read == PAGE => from = Some(last.end),
                _ => return Ok(true),
            }
            if self.events >= MOST_EVENTS {
                return Ok(false);
            }
        }
    }
}

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
