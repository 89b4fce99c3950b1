//! MySQL's GTID sets: `uuid:1-5:11-18,uuid2:1-27`, with tags since 8.3: `uuid:1-3:tag:7-9`.
//!
//! A transaction is named by the pair (source uuid, tag) and a number that the source counts up
//! per pair; the untagged series is the one with the empty tag. In the text a tag applies to all
//! intervals after it, up to the next tag or comma.
//!
//! The printed form is the server's own (uuids and tags in lower case and sorted, the untagged
//! intervals of a uuid first, ranges merged) but on one line: the server puts a newline after
//! each comma, which its functions accept and do not need.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::interval::Intervals;
use super::{GtidParseError, parse_number};

/// The highest transaction number of MySQL: its exclusive upper bound is 2^63 - 1.
const HIGHEST_NUMBER: u64 = (1 << 63) - 2;

/// MySQL's limit on the length of a tag.
const LONGEST_TAG: usize = 32;

/// A series of transactions: the uuid of the server that committed them first, and their tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    /// 36 characters, lower case, with dashes.
    uuid: String,
    /// Lower case; empty for transactions without a tag, which also sorts them first.
    tag: String,
}

/// A set of MySQL transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MySqlGtidSet {
    /// No entry is empty, so that equal sets compare equal.
    series: BTreeMap<Series, Intervals>,
}

impl MySqlGtidSet {
    /// Parses a GTID set as a server prints it or as an operator types it: whitespace and newlines around any part,
    /// upper or lower case, any order, overlapping intervals, stray commas, and uuids with or without dashes or in
    /// braces.
    ///
    /// # Errors
    /// Names the first part that is not a uuid, tag or interval. An interval that runs backwards, which the server
    /// silently takes as empty, is refused: no server prints one.
    pub fn parse(text: &str) -> Result<Self, GtidParseError> {
        let mut ranges: BTreeMap<Series, Vec<(u64, u64)>> = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let mut parts = entry.split(':').map(str::trim);
            let uuid = parse_uuid(parts.next().unwrap_or_default())?;
            let mut series = Series {
                uuid,
                tag: String::new(),
            };
            let mut section_is_empty = true;
            let mut is_first = true;
            for part in parts {
                if let Some(tag) = parse_tag(part) {
                    if section_is_empty && !is_first {
                        return Err(GtidParseError::without_interval(entry));
                    }
                    series.tag = tag;
                    section_is_empty = true;
                } else {
                    ranges.entry(series.clone()).or_default().push(parse_interval(part)?);
                    section_is_empty = false;
                }
                is_first = false;
            }
            if section_is_empty {
                return Err(GtidParseError::without_interval(entry));
            }
        }
        let series = ranges
            .into_iter()
            .map(|(series, ranges)| (series, Intervals::from_unsorted(ranges)));
        Ok(Self {
            series: series.collect(),
        })
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
            series.insert(key.clone(), merged);
        }
        Self { series }
    }

    /// The transactions of this set that `other` lacks.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let remainder = self.series.iter().filter_map(|(key, ours)| {
            let left = other
                .series
                .get(key)
                .map_or_else(|| ours.clone(), |theirs| ours.subtract(theirs));
            (!left.is_empty()).then(|| (key.clone(), left))
        });
        Self {
            series: remainder.collect(),
        }
    }

    /// Whether every transaction of `other` is in this set: the server's
    /// `GTID_SUBSET(other, self)`.
    pub fn contains(&self, other: &Self) -> bool {
        other
            .series
            .iter()
            .all(|(key, theirs)| self.series.get(key).is_some_and(|ours| ours.contains(theirs)))
    }

    /// How many transactions the set holds.
    pub fn transaction_count(&self) -> u64 {
        self.series.values().map(Intervals::count).fold(0, u64::saturating_add)
    }

    /// The transactions first committed by the server with this uuid (any case), whatever their
    /// tag.
    #[must_use]
    pub fn originating_at(&self, server_uuid: &str) -> Self {
        let from_there = self
            .series
            .iter()
            .filter(|(key, _)| key.uuid.eq_ignore_ascii_case(server_uuid));
        Self {
            series: from_there
                .map(|(key, intervals)| (key.clone(), intervals.clone()))
                .collect(),
        }
    }

    /// The uuids of all servers that committed transactions of this set, sorted, each once.
    pub fn server_uuids(&self) -> Vec<&str> {
        let mut uuids: Vec<&str> = self.series.keys().map(|key| key.uuid.as_str()).collect();
        uuids.dedup();
        uuids
    }

    /// The transactions one by one, as `GTID_NEXT` takes them, at most `most`.
    pub fn each(&self, most: usize) -> Vec<String> {
        let all = self.series.iter().flat_map(|(key, intervals)| {
            let tag = if key.tag.is_empty() {
                String::new()
            } else {
                format!(":{}", key.tag)
            };
            let numbers = intervals.ranges().iter().flat_map(|&(start, end)| start..end);
            numbers.map(move |number| format!("{}{tag}:{number}", key.uuid))
        });
        all.take(most).collect()
    }

    /// Whether a transaction carries a tag: servers before 8.3 refuse such a set.
    pub fn has_tags(&self) -> bool {
        self.series.keys().any(|key| !key.tag.is_empty())
    }
}

impl fmt::Display for MySqlGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed_uuid = None;
        for (key, intervals) in &self.series {
            if printed_uuid != Some(&key.uuid) {
                let comma = if printed_uuid.is_some() { "," } else { "" };
                write!(f, "{comma}{}", key.uuid)?;
                printed_uuid = Some(&key.uuid);
            }
            if !key.tag.is_empty() {
                write!(f, ":{}", key.tag)?;
            }
            for &(start, end) in intervals.ranges() {
                if end - start == 1 {
                    write!(f, ":{start}")?;
                } else {
                    write!(f, ":{start}-{}", end - 1)?;
                }
            }
        }
        Ok(())
    }
}

impl Serialize for MySqlGtidSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MySqlGtidSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Accepts the three spellings the server accepts: with dashes, without any, and with dashes in
/// braces.
fn parse_uuid(text: &str) -> Result<String, GtidParseError> {
    let refused = || GtidParseError::uuid(text);
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(refused)?,
        None => text,
    };
    let dashes: Vec<usize> = inner.match_indices('-').map(|(at, _)| at).collect();
    let digits: String = inner.chars().filter(|character| *character != '-').collect();
    let dashes_fit = matches!(dashes.as_slice(), [] | [8, 13, 18, 23]);
    if !dashes_fit || digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    let mut uuid = String::with_capacity(36);
    for (index, character) in digits.to_ascii_lowercase().chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(character);
    }
    Ok(uuid)
}

/// A tag starts with a letter or an underscore, so it cannot be mistaken for an interval.
fn parse_tag(text: &str) -> Option<String> {
    let starts_right = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let continues_right = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (starts_right && continues_right && text.len() <= LONGEST_TAG).then(|| text.to_ascii_lowercase())
}

fn parse_interval(text: &str) -> Result<(u64, u64), GtidParseError> {
    let refused = || GtidParseError::interval(text);
    let number = |text: &str| {
        parse_number(text)
            .filter(|number| (1..=HIGHEST_NUMBER).contains(number))
            .ok_or_else(refused)
    };
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (number(start.trim())?, number(end.trim())?),
        None => (number(text)?, number(text)?),
    };
    if start > end {
        return Err(refused());
    }
    Ok((start, end + 1))
}

#[cfg(test)]
#[path = "mysql_tests.rs"]
mod tests;
