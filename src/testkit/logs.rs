//! Binary and relay logs of simulated servers, for topologies without GTIDs. One transaction is a hundred bytes long, and each
//! tenth is a Pseudo-GTID entry. Transactions are numbered across all servers, and logs are ordered by these numbers.

use std::time::Duration;

use async_trait::async_trait;

use crate::app::ports::StepError;
use crate::app::ports::{LogKind, LogRange, LogSource};
use crate::domain::fixture::uuid;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Channel, InstanceFacts, Positioning};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::pseudo_gtid::entry_statement;
use crate::domain::recovery::relay_log_match::LogEvent;
use crate::domain::time::WallTime;

use super::session::SimSession;
use super::world::{Inner, World};

const FILE: &str = "binlog.000001";
const LENGTH: u64 = 100;

/// The end of a log that contains these transactions.
pub(crate) fn end_of(set: &GtidSet) -> BinlogCoordinates {
    BinlogCoordinates {
        file: FILE.to_owned(),
        position: 4 + LENGTH * set.transaction_count(),
    }
}

/// The transactions with the server id of their writer, in order.
fn written(set: &GtidSet) -> Vec<(u32, u64)> {
    let GtidSet::MySql(set) = set else { return Vec::new() };
    let mut all: Vec<(u32, u64)> = set
        .each(100_000)
        .iter()
        .map(|gtid| {
            let (who, number) = gtid.rsplit_once(':').unwrap();
            let server_id = (1..100).find(|n| uuid(*n) == who).unwrap();
            (server_id, number.parse().unwrap())
        })
        .collect();
    all.sort_by_key(|(_, number)| *number);
    all
}

fn events(set: &GtidSet) -> Vec<LogEvent> {
    let mut position = 4;
    let mut events = Vec::new();
    for (server_id, number) in written(set) {
        let info = if number % 10 == 0 {
            entry_statement(WallTime(i64::try_from(number).unwrap() * 1000), server_id, number)
        } else {
            format!("create table d.t{number}(i int)")
        };
        for (kind, info) in [("Anonymous_Gtid", String::new()), ("Query", info)] {
            events.push(LogEvent {
                file: FILE.to_owned(),
                position,
                kind: kind.to_owned(),
                server_id,
                end: position + LENGTH / 2,
                info,
            });
            position += LENGTH / 2;
        }
    }
    events
}

impl World {
    /// From now on relay logs no longer contain what was applied.
    pub(crate) fn relay_logs_are_gone(&self) {
        self.lock().relay_logs_are_gone = true;
    }

    /// No server has GTIDs.
    pub(crate) fn without_gtids(&self) {
        let mut inner = self.lock();
        for server in inner.servers.values_mut() {
            server.facts.gtid_mode = "OFF".to_owned();
            server.facts.log_replica_updates = true;
        }
    }
}

impl Inner {
    fn has_gtids(&self, key: &InstanceKey) -> bool {
        self.servers[key].facts.gtid_mode != "OFF"
    }

    /// The facts of a server, changed to what it reports without GTIDs.
    pub(super) fn by_position(&self, key: &InstanceKey, facts: InstanceFacts) -> InstanceFacts {
        if self.has_gtids(key) {
            return facts;
        }
        let applied = end_of(&facts.executed);
        let channels = facts.channels.iter().cloned().map(|channel| Channel {
            positioning: Positioning::FilePosition,
            read: channel
                .retrieved
                .as_ref()
                .map_or_else(|| applied.clone(), |received| end_of(&facts.executed.union(received))),
            exec: applied.clone(),
            relay: applied.clone(),
            retrieved: None,
            ..channel
        });
        InstanceFacts {
            channels: channels.collect(),
            binlog: Some(applied.clone()),
            ..facts
        }
    }

    /// The positions that relay logs determine: each is the same in every log of the world.
    pub(super) fn located(&self, after: &[BinlogCoordinates]) -> Vec<Result<BinlogCoordinates, String>> {
        let told = |place: &BinlogCoordinates| {
            let gone = || "the relay log no longer holds what follows".to_owned();
            (!self.relay_logs_are_gone).then(|| place.clone()).ok_or_else(gone)
        };
        after.iter().map(told).collect()
    }

    /// Points a replica at a position in its source's log. Any other position than the end of what it has loses or repeats
    /// transactions.
    pub(super) fn goes_on_at(&mut self, key: &InstanceKey, place: &BinlogCoordinates) {
        let wanted = end_of(&self.servers[key].executed);
        if !self.has_gtids(key) && *place != wanted {
            self.violations
                .push(format!("{key} goes on at {place}, not at {wanted}"));
        }
    }
}

#[async_trait]
impl LogSource for SimSession {
    async fn log_files(&mut self, _log: LogKind, deadline: Duration) -> Result<Vec<String>, StepError> {
        self.run("log_files", deadline, |_| vec![FILE.to_owned()]).await
    }

    async fn log_events(&mut self, piece: &LogRange<'_>, deadline: Duration) -> Result<Vec<LogEvent>, StepError> {
        let (from, skip, limit) = (piece.from.unwrap_or_default(), piece.skip, piece.limit);
        let key = self.key();
        self.run("log_events", deadline, |inner| {
            let all = events(&inner.servers[&key].executed);
            let here = all.into_iter().filter(|event| event.position >= from);
            here.skip(skip).take(limit).collect()
        })
        .await
    }
}
