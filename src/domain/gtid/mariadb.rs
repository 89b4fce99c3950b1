//! MariaDB's GTIDs: `domain-server-sequence`, as positions and as binlog states.
//!
//! MariaDB prints no sets. `gtid_slave_pos`, `gtid_current_pos` and `Gtid_IO_Pos` name one GTID
//! per domain, the last one; `gtid_binlog_state` names the last one of every server per domain.
//! Here `0-2-105` stands for the transactions of domain 0 that server 2 wrote with sequence
//! numbers 1 to 105. What a subtraction leaves over begins later and is written
//! `0-2-101..105`, a notation of ours that no server sees ([`MariaDbGtidSet::position`] is what
//! servers get).
//!
//! # What the numbers do not say
//! Sequence numbers count up per *domain*, not per server: after server 2 took over from server 1 at 100, its first
//! transaction is `0-2-101`, and `0-2-1` to `0-2-100` never existed. A set therefore contains more numbers than
//! transactions exist, [`MariaDbGtidSet::transaction_count`] is an upper bound, and [`MariaDbGtidSet::missing_from`]
//! removes the surplus from a difference. A position `0-2-200` implies that all earlier transactions of the domain were
//! received too, from whatever server, although it names server 2 only: [`MariaDbGtidSet::covers`] draws that
//! conclusion, [`MariaDbGtidSet::contains`] does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::interval::Intervals;
use super::{GtidParseError, parse_number};

/// Half-open ranges need one number above the last.
const HIGHEST_SEQUENCE: u64 = u64::MAX - 1;

/// The transactions one server wrote in one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    domain: u32,
    server: u32,
}

/// A set of MariaDB transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MariaDbGtidSet {
    /// No entry is empty, so that equal sets compare equal.
    series: BTreeMap<Series, Intervals>,
}

impl MariaDbGtidSet {
    /// Parses a position or binlog state (`0-1-100,0-2-105,1-1-7`) or a remainder printed by [`Display`](fmt::Display)
    /// (`0-2-101..105`), in any order, with whitespace anywhere around the entries. Entries of one server and domain
    /// are united; a sequence of 0 stands for no transaction.
    ///
    /// # Errors
    /// Names the first entry that is not of these forms.
    pub fn parse(text: &str) -> Result<Self, GtidParseError> {
        let mut ranges: BTreeMap<Series, Vec<(u64, u64)>> = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (series, range) = parse_entry(entry).ok_or_else(|| GtidParseError::gtid(entry))?;
            ranges.entry(series).or_default().push(range);
        }
        Ok(Self::from_series(
            ranges
                .into_iter()
                .map(|(series, ranges)| (series, Intervals::from_unsorted(ranges))),
        ))
    }

    /// The set a position stands for: per domain the server and sequence of its last transaction.
    pub fn from_position(position: &BTreeMap<u32, (u32, u64)>) -> Self {
        Self::from_series(position.iter().map(|(&domain, &(server, sequence))| {
            (
                Series { domain, server },
                Intervals::of(1, sequence.min(HIGHEST_SEQUENCE) + 1),
            )
        }))
    }

    /// What a replica has received: the union of what it wrote to its binlog
    /// (`gtid_binlog_state`), applied (`gtid_slave_pos`) and read (`Gtid_IO_Pos`).
    ///
    /// - A replica that was provisioned from a backup has no binlog state for the servers that
    ///   wrote before it was made; its position still implies them. Compare received sets with
    ///   [`covers`](Self::covers).
    /// - `Gtid_IO_Pos` counts transactions that are in the relay log only: they are lost when
    ///   both threads were stopped and one is started again, since MariaDB then deletes the relay
    ///   log. Rank by this set only while the applier runs or after a rescue.
    /// - Empty `Gtid_IO_Pos`, or one of a connection that does not use GTID, adds nothing.
    pub fn received(binlog_state: &Self, slave_pos: &Self, io_pos: &Self) -> Self {
        binlog_state.union(slave_pos).union(io_pos)
    }

    fn from_series(series: impl Iterator<Item = (Series, Intervals)>) -> Self {
        Self {
            series: series.filter(|(_, intervals)| !intervals.is_empty()).collect(),
        }
    }

    /// Whether the set has no transaction.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The transactions in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut series = self.series.clone();
        for (key, theirs) in &other.series {
            let merged = series
                .get(key)
                .map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            series.insert(*key, merged);
        }
        Self { series }
    }

    /// The transactions of this set that `other` does not name.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        Self::from_series(self.series.iter().map(|(key, ours)| {
            (
                *key,
                other
                    .series
                    .get(key)
                    .map_or_else(|| ours.clone(), |theirs| ours.subtract(theirs)),
            )
        }))
    }

    /// Whether this set contains every transaction of `other`: the strict test, for binlog states. Errant transactions
    /// are found with this test, never with [`covers`](Self::covers). On a server that was provisioned from a backup it
    /// errs towards "no": such a server has no entry for the servers that wrote before the backup, so the full history
    /// of a replica looks errant against it. An operator has to look at that, and nothing is lost.
    pub fn contains(&self, other: &Self) -> bool {
        other
            .series
            .iter()
            .all(|(key, theirs)| self.series.get(key).is_some_and(|ours| ours.contains(theirs)))
    }

    /// Whether a server with this set has all of `other` as far as positions can tell:
    /// [`contains`](Self::contains), except that a server `other` names and this set does not
    /// name at all in a domain counts as held when this set is further on in that domain, because
    /// a replica receives a domain in order of its sequence numbers.
    ///
    /// Safe for ranking received sets along one line of replication (which replica is further?). Not safe
    /// for finding errant transactions: what was written on a replica itself, and is missing
    /// here, hides below any later number. Where this set names the server but with a lower
    /// number, the answer stays "no": the two servers then saw different histories.
    pub fn covers(&self, other: &Self) -> bool {
        other.series.iter().all(|(key, theirs)| match self.series.get(key) {
            Some(ours) => ours.contains(theirs),
            None => self.highest_in(key.domain) > theirs.highest(),
        })
    }

    /// The transactions of this set that `other` lacks, without numbers that cannot have been
    /// used: of a server that took over at 100, only those from 101 on.
    ///
    /// Exact as long as each server wrote in one stretch. Where servers took turns, an earlier
    /// stretch is named under the server that wrote after it; in a set that holds two histories
    /// at once, a number both used is counted once.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> Self {
        self.latest_stretches().subtract(other)
    }

    /// Each server's numbers above the highest number of the server that wrote before it.
    fn latest_stretches(&self) -> Self {
        let highest: BTreeSet<(u32, u64)> = self
            .series
            .iter()
            .filter_map(|(key, intervals)| Some((key.domain, intervals.highest()?)))
            .collect();
        Self::from_series(self.series.iter().map(|(key, intervals)| {
            let own = (key.domain, intervals.highest().unwrap_or_default());
            let before = highest
                .range((key.domain, 0)..own)
                .next_back()
                .map_or(0, |(_, sequence)| *sequence);
            (*key, intervals.subtract(&Intervals::of(1, before.saturating_add(1))))
        }))
    }

    /// How many transactions the set names: an upper bound, see the module's comment. A
    /// difference is counted with [`missing_from`](Self::missing_from).
    pub fn transaction_count(&self) -> u64 {
        self.series.values().map(Intervals::count).fold(0, u64::saturating_add)
    }

    /// The transactions written by the server with this `server_id`, in all domains.
    #[must_use]
    pub fn originating_at(&self, server_id: u32) -> Self {
        let from_there = self.series.iter().filter(|(key, _)| key.server == server_id);
        Self {
            series: from_there.map(|(key, intervals)| (*key, intervals.clone())).collect(),
        }
    }

    /// Per domain, the server and sequence of the last transaction: what `gtid_slave_pos` and
    /// `MASTER_GTID_WAIT` take. Where two servers wrote the same number, histories have split;
    /// the higher server id is given.
    pub fn position(&self) -> BTreeMap<u32, (u32, u64)> {
        let mut position: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        for (key, intervals) in &self.series {
            let Some(sequence) = intervals.highest() else {
                continue;
            };
            let last = position.entry(key.domain).or_insert((key.server, sequence));
            if sequence >= last.1 {
                *last = (key.server, sequence);
            }
        }
        position
    }

    /// [`position`](Self::position) as a server reads it: `0-2-105,1-1-7`.
    pub fn position_text(&self) -> String {
        let gtids = self
            .position()
            .into_iter()
            .map(|(domain, (server, sequence))| format!("{domain}-{server}-{sequence}"));
        gtids.collect::<Vec<_>>().join(",")
    }

    fn highest_in(&self, domain: u32) -> Option<u64> {
        let all = Series { domain, server: 0 }..=Series {
            domain,
            server: u32::MAX,
        };
        self.series
            .range(all)
            .filter_map(|(_, intervals)| intervals.highest())
            .max()
    }
}

impl fmt::Display for MariaDbGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (Series { domain, server }, intervals) in &self.series {
            for &(start, end) in intervals.ranges() {
                write!(f, "{comma}{domain}-{server}-")?;
                if start == 1 {
                    write!(f, "{}", end - 1)?;
                } else {
                    write!(f, "{start}..{}", end - 1)?;
                }
                comma = ",";
            }
        }
        Ok(())
    }
}

impl Serialize for MariaDbGtidSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MariaDbGtidSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn parse_entry(entry: &str) -> Option<(Series, (u64, u64))> {
    let mut parts = entry.splitn(3, '-').map(str::trim);
    let mut id = || u32::try_from(parse_number(parts.next()?)?).ok();
    let series = Series {
        domain: id()?,
        server: id()?,
    };
    let sequences = parts.next()?;
    let sequence = |text: &str| parse_number(text.trim()).filter(|number| *number <= HIGHEST_SEQUENCE);
    match sequences.split_once("..") {
        Some((first, last)) => {
            let (first, last) = (sequence(first)?, sequence(last)?);
            (1..=last).contains(&first).then_some((series, (first, last + 1)))
        }
        None => Some((series, (1, sequence(sequences)? + 1))),
    }
}

#[cfg(test)]
#[path = "mariadb_tests.rs"]
mod tests;
