//! Whether one server can replicate from another one, by version and binary log format.

use crate::domain::instance::InstanceFacts;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FormatRank {
    Statement,
    Mixed,
    Row,
    Unknown,
}

impl FormatRank {
    pub(super) fn of(facts: &InstanceFacts) -> Self {
        match facts.binlog_format.as_str() {
            "STATEMENT" => Self::Statement,
            "MIXED" => Self::Mixed,
            "ROW" => Self::Row,
            _ => Self::Unknown,
        }
    }

    /// Whether a server that logs in this format can replicate from one that logs in the other: statements can be
    /// logged as rows, rows not as statements. An unknown format is no obstacle: it is what they replicate with
    /// already.
    pub(super) fn can_follow(self, source: Self) -> bool {
        self == Self::Unknown || source == Self::Unknown || self >= source
    }
}

/// Whether a server can replicate from another one, by version and binary log format.
pub(super) fn can_follow(replica: &InstanceFacts, source: &InstanceFacts) -> bool {
    let release = |facts: &InstanceFacts| (facts.version.major, facts.version.minor);
    replica.version.flavour.is_mariadb() == source.version.flavour.is_mariadb()
        && release(replica) >= release(source)
        && FormatRank::of(replica).can_follow(FormatRank::of(source))
}
