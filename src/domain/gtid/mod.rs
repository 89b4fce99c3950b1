//! Sets of transactions, named by global transaction ids, in MySQL's and MariaDB's form.
//!
//! Pure values: parse, print, union, subtract, contains, compare. Sets are *partially* ordered: two servers may each
//! hold transactions that the other lacks, and `compare` then returns `None`. The planner ranks replicas by these sets,
//! the analysis finds errant transactions with them, and probes parse the strings that servers report.
//!
//! # Mixed flavours
//! An operation on sets of different flavours is a mistake of the caller, since MySQL and MariaDB do not replicate
//! GTIDs to each other. The operations are still total: an empty set of the other flavour is neutral, and any other mix
//! is unrelated (`contains` false, `compare` `None`, `union` and `subtract` return the left set unchanged). A mix can
//! therefore never make a server look more complete than it is.
//! more complete than it is.

mod interval;
pub mod mariadb;
pub mod mysql;

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::mariadb::MariaDbGtidSet;
pub use self::mysql::MySqlGtidSet;
use crate::domain::version::Flavour;

/// A set of transactions of one flavour.
///
/// Serialised with its flavour: `{"mysql": "uuid:1-5"}` or `{"mariadb": "0-1-100"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GtidSet {
    /// Of MySQL or Percona Server.
    #[serde(rename = "mysql")]
    MySql(MySqlGtidSet),
    /// Of MariaDB.
    #[serde(rename = "mariadb")]
    MariaDb(MariaDbGtidSet),
}

/// The server that committed a transaction first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TransactionOrigin {
    /// MySQL names the server by its `server_uuid`, in any case.
    ServerUuid(String),
    /// MariaDB names the server by its `server_id`.
    ServerId(u32),
}

/// Why a text is not a GTID set. The offending part is quoted, cut to 80 characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GtidParseError {
    /// The part before the first colon of a MySQL entry is not a uuid.
    #[error("cannot read GTID set: `{0}` is not a server uuid")]
    Uuid(String),
    /// A part of a MySQL entry is neither an interval within 1 to 2^63 - 2 nor a tag.
    #[error("cannot read GTID set: `{0}` is neither an interval (1, 1-5) nor a tag")]
    Interval(String),
    /// A MySQL uuid or tag is followed by no interval.
    #[error("cannot read GTID set: `{0}` has a uuid or tag without an interval")]
    WithoutInterval(String),
    /// A part of a MariaDB list is not `domain-server-sequence`.
    #[error("cannot read GTID set: `{0}` is not domain-server-sequence (0-1-100) or domain-server-first..last")]
    Gtid(String),
}

impl GtidParseError {
    fn uuid(text: &str) -> Self {
        Self::Uuid(excerpt(text))
    }

    fn interval(text: &str) -> Self {
        Self::Interval(excerpt(text))
    }

    fn without_interval(text: &str) -> Self {
        Self::WithoutInterval(excerpt(text))
    }

    fn gtid(text: &str) -> Self {
        Self::Gtid(excerpt(text))
    }
}

/// A GTID set may be megabytes long; an error message may not.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Decimal digits only: `str::parse` would also take a leading `+`.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl GtidSet {
    /// The empty set of a flavour.
    pub fn empty(flavour: Flavour) -> Self {
        if flavour.is_mariadb() {
            Self::MariaDb(MariaDbGtidSet::default())
        } else {
            Self::MySql(MySqlGtidSet::default())
        }
    }

    /// Parses the text of a GTID variable of a server of this flavour.
    ///
    /// [`GtidParseError`] with the part that cannot be parsed. A set that cannot be parsed is unknown; it must never be
    /// taken as empty.
    pub fn parse(flavour: Flavour, text: &str) -> Result<Self, GtidParseError> {
        if flavour.is_mariadb() {
            MariaDbGtidSet::parse(text).map(Self::MariaDb)
        } else {
            MySqlGtidSet::parse(text).map(Self::MySql)
        }
    }

    /// Whether the set has no transaction.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MySql(set) => set.is_empty(),
            Self::MariaDb(set) => set.is_empty(),
        }
    }

    /// The transactions in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => Self::MySql(ours.union(theirs)),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => Self::MariaDb(ours.union(theirs)),
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => {
                if self.is_empty() {
                    other.clone()
                } else {
                    self.clone()
                }
            }
        }
    }

    /// The transactions of this set that `other` lacks.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => Self::MySql(ours.subtract(theirs)),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => Self::MariaDb(ours.subtract(theirs)),
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => self.clone(),
        }
    }

    /// Whether every transaction of `other` is in this set.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => ours.contains(theirs),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => ours.contains(theirs),
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => other.is_empty(),
        }
    }

    /// Whether a server with this set lacks nothing of `other`, for ranking replicas by received transactions. The same
    /// as [`contains`](Self::contains) for MySQL, and [`MariaDbGtidSet::covers`] with its limits for MariaDB.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => ours.covers(theirs),
            (Self::MySql(_), _) | (Self::MariaDb(_), Self::MySql(_)) => self.contains(other),
        }
    }

    /// How many transactions the set holds. For MariaDB an upper bound, see
    /// [`MariaDbGtidSet::transaction_count`].
    pub fn transaction_count(&self) -> u64 {
        match self {
            Self::MySql(set) => set.transaction_count(),
            Self::MariaDb(set) => set.transaction_count(),
        }
    }

    /// The transactions of this set that `other` lacks, as a loss that is shown and counted. The same as
    /// [`subtract`](Self::subtract) for MySQL. For MariaDB without the numbers that this set contains only because the
    /// sequence of a server is written from 1 ([`MariaDbGtidSet::missing_from`]).
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => Self::MariaDb(ours.missing_from(theirs)),
            (Self::MySql(_), _) | (Self::MariaDb(_), Self::MySql(_)) => self.subtract(other),
        }
    }

    /// Equal; Greater when this set strictly contains `other`; Less when it is strictly contained; `None` when each set
    /// has transactions that the other lacks.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.contains(other), other.contains(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }

    /// The transactions committed first by the given server: of MySQL by uuid, any tag; of
    /// MariaDB by server id, any domain. An origin of the other flavour gives the empty set.
    #[must_use]
    pub fn originating_at(&self, origin: &TransactionOrigin) -> Self {
        match (self, origin) {
            (Self::MySql(set), TransactionOrigin::ServerUuid(uuid)) => Self::MySql(set.originating_at(uuid)),
            (Self::MariaDb(set), TransactionOrigin::ServerId(id)) => Self::MariaDb(set.originating_at(*id)),
            (Self::MySql(_), TransactionOrigin::ServerId(_)) => Self::MySql(MySqlGtidSet::default()),
            (Self::MariaDb(_), TransactionOrigin::ServerUuid(_)) => Self::MariaDb(MariaDbGtidSet::default()),
        }
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => set.fmt(f),
            Self::MariaDb(set) => set.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn mysql(text: &str) -> GtidSet {
        GtidSet::parse(Flavour::Percona, text).unwrap()
    }

    fn mariadb(text: &str) -> GtidSet {
        GtidSet::parse(Flavour::MariaDb, text).unwrap()
    }

    #[test]
    fn json_carries_the_flavour_and_the_printed_set() {
        let set = mysql(&format!("{UUID}:1-3:4-5"));
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, format!(r#"{{"mysql":"{UUID}:1-5"}}"#));
        assert_eq!(serde_json::from_str::<GtidSet>(&json).unwrap(), set);
        let set = mariadb("0-1-100");
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, r#"{"mariadb":"0-1-100"}"#);
        assert_eq!(serde_json::from_str::<GtidSet>(&json).unwrap(), set);
        assert!(serde_json::from_str::<GtidSet>(r#"{"mariadb":"0-1"}"#).is_err());
    }

    #[test]
    fn compare_tells_ahead_from_behind_from_diverged() {
        let table = [
            ("1-5", "1-5", Some(Ordering::Equal)),
            ("1-6", "1-5", Some(Ordering::Greater)),
            ("1-5", "1-6", Some(Ordering::Less)),
            ("1-5:7", "1-6", None),
        ];
        for (left, right, wanted) in table {
            let (left, right) = (mysql(&format!("{UUID}:{left}")), mysql(&format!("{UUID}:{right}")));
            assert_eq!(left.compare(&right), wanted, "{left} against {right}");
        }
    }

    #[test]
    fn an_empty_set_of_the_other_flavour_is_neutral() {
        let (set, nothing) = (mysql(&format!("{UUID}:1-5")), GtidSet::empty(Flavour::MariaDb));
        assert_eq!(set.union(&nothing), set);
        assert_eq!(nothing.union(&set), set);
        assert_eq!(set.subtract(&nothing), set);
        assert_eq!(set.compare(&nothing), Some(Ordering::Greater));
        assert_eq!(nothing.compare(&set), Some(Ordering::Less));
        assert_eq!(nothing.compare(&GtidSet::empty(Flavour::MySql)), Some(Ordering::Equal));
    }

    #[test]
    fn sets_of_both_flavours_are_unrelated() {
        let (left, right) = (mysql(&format!("{UUID}:1-5")), mariadb("0-1-100"));
        for (left, right) in [(&left, &right), (&right, &left)] {
            assert!(!left.contains(right) && !left.covers(right));
            assert_eq!(left.compare(right), None);
            assert_eq!(&left.union(right), left);
            assert_eq!(&left.subtract(right), left);
            assert_eq!(&left.missing_from(right), left);
        }
    }

    #[test]
    fn originating_at_wants_the_flavours_own_kind_of_origin() {
        let set = mysql(&format!("{UUID}:1-5:tag:7"));
        assert_eq!(
            set.originating_at(&TransactionOrigin::ServerUuid(UUID.to_uppercase())),
            set
        );
        assert!(set.originating_at(&TransactionOrigin::ServerId(1)).is_empty());
        let set = mariadb("0-1-100,1-1-7,0-2-105");
        assert_eq!(
            set.originating_at(&TransactionOrigin::ServerId(1)),
            mariadb("0-1-100,1-1-7")
        );
        assert!(
            set.originating_at(&TransactionOrigin::ServerUuid(UUID.into()))
                .is_empty()
        );
    }

    #[test]
    fn a_huge_bad_text_makes_a_short_error() {
        let error = GtidSet::parse(Flavour::MySql, &"x".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
}
