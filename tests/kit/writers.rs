//! Writers that remember every row that a server acknowledged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::replication::DATABASE;
use super::server::Server;
use super::sql::{Address, Credentials, Session, refusal};
use super::topology::Topology;
use super::wait::until;

/// How long a writer waits for one acknowledgement. Longer than any failover here: a commit that waits for semi-sync is no failure.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(5);
/// How long it waits to be let in. A dead server refuses at once; a stopped or cut one does not answer.
const CONNECT: Duration = Duration::from_millis(400);
/// Between two rounds over all servers when none accepts a write, so that the search does not take the processor from the failover.
const SEARCH_PAUSE: Duration = Duration::from_millis(5);

/// A row that a server acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) writer: usize,
    pub(crate) number: u64,
    /// The place of the server in the list of addresses.
    pub(crate) server: usize,
    pub(crate) at: Instant,
}

/// Running writers.
#[derive(Debug)]
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    rows: Arc<Mutex<Vec<Acknowledged>>>,
}

impl Writers {
    /// Starts so many that never pause, each as an unprivileged user of its own, each knowing every server.
    pub(crate) fn start(topology: &Topology, count: usize) -> Result<Self> {
        Self::start_paced(topology, count, Duration::ZERO)
    }

    /// The same with writers that rest after each row, so that replicas can keep up whatever else the machine does.
    pub(crate) fn start_paced(topology: &Topology, count: usize, rest: Duration) -> Result<Self> {
        let accounts = topology
            .accounts
            .writers
            .get(..count)
            .context("there are not so many accounts for writers")?;
        let (rows, stop) = (Arc::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for (place, account) in accounts.iter().enumerate() {
            let writer = Writer {
                place,
                account: account.clone(),
                servers: topology.addresses(),
                sessions: topology.servers.iter().map(|_| None).collect(),
                last: 0,
                number: 0,
                rest,
                rows: Arc::clone(&rows),
            };
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(writer.write()).await.unwrap_or_default() });
        }
        Ok(Self { tasks, stop, rows })
    }

    /// Every row acknowledged so far.
    pub(crate) fn rows(&self) -> Vec<Acknowledged> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many rows were acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until so many more rows are acknowledged, whoever accepts them.
    pub(crate) async fn progress(&self, more: usize, limit: Duration) -> Result<()> {
        let wanted = self.count() + more;
        until(limit, &format!("{more} more rows to be acknowledged"), async || {
            Ok((self.count() >= wanted).then_some(()))
        })
        .await
    }

    /// Waits for the first row that another server than `before` acknowledged after `since`, and returns it.
    pub(crate) async fn first_elsewhere(&self, before: usize, since: Instant, limit: Duration) -> Result<Acknowledged> {
        let wanted = |row: &&Acknowledged| row.server != before && row.at > since;
        until(limit, "a row acknowledged by another server", async || {
            // The newest rows are at the end, and the first one of interest is among few.
            let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(rows
                .iter()
                .rev()
                .take_while(|row| row.at > since)
                .filter(wanted)
                .last()
                .copied())
        })
        .await
    }

    /// Stops them and returns every row that was acknowledged.
    pub(crate) async fn stop(mut self) -> Vec<Acknowledged> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.rows()
    }
}

/// The acknowledged rows that a server does not have.
pub(crate) async fn missing(rows: &[Acknowledged], server: &Server) -> Result<Vec<Acknowledged>> {
    let mut session = server.session().await?;
    let stored = session
        .rows(&format!("SELECT writer, number FROM {DATABASE}.written"))
        .await?;
    session.close().await;
    let number = |row: &super::sql::Row, column: &str| {
        row.get(column)
            .cloned()
            .flatten()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let stored: BTreeSet<(u64, u64)> = stored
        .iter()
        .filter_map(|row| Some((number(row, "writer")?, number(row, "number")?)))
        .collect();
    ensure!(
        !stored.is_empty() || rows.is_empty(),
        "{} has none of the {} rows",
        server.name(),
        rows.len()
    );
    let missing = |row: &&Acknowledged| !stored.contains(&(u64::try_from(row.writer).unwrap_or(u64::MAX), row.number));
    Ok(rows.iter().filter(missing).copied().collect())
}

/// One writer's state.
struct Writer {
    place: usize,
    account: Credentials,
    servers: Vec<Address>,
    /// One for each server, kept open, so that a promoted server is found by trying to write and not by connecting.
    sessions: Vec<Option<Session>>,
    /// The server that accepted the last row.
    last: usize,
    number: u64,
    rest: Duration,
    rows: Arc<Mutex<Vec<Acknowledged>>>,
}

impl Writer {
    async fn write(mut self) {
        loop {
            let mut accepted = self.try_on(self.last).await;
            for server in 0..self.servers.len() {
                if accepted {
                    break;
                }
                accepted = self.try_on(server).await;
            }
            let pause = if accepted { self.rest } else { SEARCH_PAUSE };
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Tries to write the next row on one server. A number is used once: a row whose outcome is unknown is neither counted nor repeated.
    async fn try_on(&mut self, server: usize) -> bool {
        let (Some(address), Some(slot)) = (self.servers.get(server), self.sessions.get_mut(server)) else {
            return false;
        };
        if slot.is_none() {
            *slot = Session::connect(address, &self.account, CONNECT).await.ok();
        }
        let Some(session) = slot else { return false };
        self.number += 1;
        let sql = format!(
            "INSERT INTO {DATABASE}.written VALUES ({}, {}, '{address}')",
            self.place, self.number
        );
        match session.run_within(&sql, ACKNOWLEDGEMENT).await {
            Ok(()) => {
                let row = Acknowledged {
                    writer: self.place,
                    number: self.number,
                    server,
                    at: Instant::now(),
                };
                self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                self.last = server;
                true
            }
            Err(error) => {
                // A server that is read-only says so, and the session is good for the next try.
                if refusal(&error).is_none() {
                    *slot = None;
                }
                false
            }
        }
    }
}
