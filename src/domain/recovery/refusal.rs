//! Why a plan does not use an instance, as values that API, command line, status and log print alike.

use serde::{Deserialize, Serialize};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;

/// Longest GTID set printed in a reason, characters: a set may be megabytes long, a reason is read by people.
const EXCERPT: usize = 200;

/// Why an instance was not chosen, or was left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Which.
    pub instance: InstanceKey,
    /// Why; API, command line and status print the same text.
    pub reason: RefusalReason,
}

/// Reasons against an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalReason {
    /// Its last probe failed.
    Unreachable(String),
    /// Binary logging is off.
    NoBinlog,
    /// `log_replica_updates` is off.
    NoReplicaUpdates,
    /// It stores the binary logs of its source and executes nothing.
    BinlogServer,
    /// It filters what it replicates.
    Filtered,
    /// Its promotion rule is `must_not`.
    MustNot,
    /// A hostname filter excludes it.
    Ignored,
    /// It is in downtime.
    Downtimed,
    /// It has transactions that no one else has.
    Errant(String),
    /// Its applier thread stopped with an error.
    ApplierFailed(String),
    /// The channel does not use GTIDs.
    NoGtid,
    /// It delays on purpose, and another one has all that it has.
    Delayed(u64),
    /// It lags more than a promotion may (`FailMasterPromotionOnLagMinutes`).
    Lagging(String),
    /// It has not applied all that it received (`FailMasterPromotionIfSQLThreadNotUpToDate`).
    NotUpToDate(String),
    /// It lacks transactions that another one received.
    Behind(String),
    /// What it has and what another one has are incomparable.
    Incomparable(String),
    /// Another data centre or region, and that is forbidden.
    Geography(String),
    /// It has purged, or the successor has purged, what would be needed.
    Purged(String),
    /// Its version or format is ahead of the others'.
    Version(String),
    /// It would hold as much, and another one ranks better.
    RankedLower(String),
    /// It takes part in another recovery.
    Claimed(String),
    /// Part of its state is unknown.
    Unknown(String),
    /// It does not replicate in the way that a planned change of the primary needs.
    NotReplicating(String),
    /// A backup holds its lock: its applier may not be stopped before the backup has ended.
    BackupLock,
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::NoBinlog => f.write_str("binary logging is off (log_bin)"),
            Self::NoReplicaUpdates => f.write_str("log_replica_updates is off"),
            Self::BinlogServer => f.write_str(
                "is a binlog server: it holds the log of one source and cannot append the log of another; set it up again below the new primary",
            ),
            Self::Filtered => f.write_str("has replication filters"),
            Self::MustNot => f.write_str("promotion rule must_not"),
            Self::Ignored => f.write_str("excluded by PromotionIgnoreHostnameFilters"),
            Self::Downtimed => f.write_str("in downtime"),
            Self::Errant(set) => write!(f, "errant transactions {set}"),
            Self::ApplierFailed(why) => write!(f, "applier thread stopped: {why}"),
            Self::NoGtid => f.write_str("does not replicate by GTID"),
            Self::Delayed(seconds) => write!(f, "delayed on purpose by {seconds} s"),
            Self::Lagging(why) => write!(f, "lag: {why}"),
            Self::NotUpToDate(set) => write!(f, "has received and not applied {set}"),
            Self::Behind(set) => write!(f, "lacks {set}"),
            Self::Incomparable(set) => write!(f, "neither ahead of nor behind the others: lacks {set}"),
            Self::Geography(why) => write!(f, "geography: {why}"),
            Self::Purged(set) => write!(f, "purged and needed: {set}"),
            Self::Version(why) => write!(f, "version: {why}"),
            Self::RankedLower(why) => write!(f, "as good, ranks lower: {why}"),
            Self::Claimed(uid) => write!(f, "takes part in recovery {uid}"),
            Self::Unknown(what) => write!(f, "unknown: {what}"),
            Self::BackupLock => f.write_str("a backup holds its lock"),
            Self::NotReplicating(why) => write!(f, "does not replicate: {why}"),
        }
    }
}

impl Refusal {
    /// A refusal of this instance.
    pub(super) fn of(instance: &Instance, reason: RefusalReason) -> Self {
        Self {
            instance: instance.key.clone(),
            reason,
        }
    }
}

/// A GTID set cut to a length that people read, 200 characters.
pub(crate) fn excerpt(set: &GtidSet) -> String {
    let text = set.to_string();
    if text.chars().count() <= EXCERPT {
        return text;
    }
    let cut: String = text.chars().take(EXCERPT).collect();
    format!("{cut}…")
}
