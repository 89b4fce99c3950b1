//! A primary that answers and commits nothing, detected from repeated reads of its session list.
//!
//! A session in the middle of a commit is normal: every commit takes some milliseconds. A wait is counted from the
//! first read that finds the session in it, as long as each later read finds the session in the same statement. The
//! state of the session shows the cause:
//! - a full disk: the server waits for space when it cannot write its binary log, and retries once a minute. The state
//!   names the disk where the server reports it. `MySQL` 9.7 shows only waiting commits, as in the next case;
//! - storage that does not answer, or a semaphore that is not released: commits wait in their last stage;
//! - a lock of an operator or a backup (`FLUSH TABLES WITH READ LOCK`, `BACKUP STAGE BLOCK_COMMIT`): nothing is broken.
//!
//! Commits that wait for semi-sync replicas have a finding of their own. While some do, other commits wait behind them,
//! and this check does not run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::epoch_row::EpochTable;
use super::quote::quote_string;
use super::time::WallTime;

/// What a session waits for in its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Obstacle {
    /// Free space on a disk.
    DiskSpace,
    /// Storage, or something inside the server: the commit itself.
    Commit,
    /// A lock on all writes that an operator or a backup holds.
    GlobalLock,
    /// Unknown: the canary row of ham4db is not committed.
    Canary,
}

/// Session states as `MySQL` 5.7 to 9.7 and `MariaDB` 10.6 to 11.8 spell them, compared case-insensitively.
const STATES: [(&str, Obstacle); 10] = [
    ("Waiting for disk space", Obstacle::DiskSpace),
    ("waiting for handler commit", Obstacle::Commit),
    ("Commit", Obstacle::Commit),
    ("Commit implicit", Obstacle::Commit),
    ("Writing to binlog", Obstacle::Commit),
    ("Waiting for prior transaction to commit", Obstacle::Commit),
    ("Waiting for global read lock", Obstacle::GlobalLock),
    ("Waiting for commit lock", Obstacle::GlobalLock),
    ("Waiting for backup lock", Obstacle::GlobalLock),
    ("Waiting for backup metadata lock", Obstacle::GlobalLock),
];

/// The list of all these states, quoted, for a statement that selects sessions in one of them.
pub fn quoted_states() -> String {
    let states: Vec<String> = STATES.iter().map(|(state, _)| quote_string(state)).collect();
    states.join(", ")
}

/// The table for canary rows, which the operator creates on every server of every cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryTable(EpochTable);

impl CanaryTable {
    /// Parses `schema.table`.
    ///
    /// # Errors
    /// When the text has any other form.
    pub fn parse(text: &str) -> Result<Self, String> {
        EpochTable::parse(text).map(Self)
    }

    /// The statement that writes the row of a cluster; `written_at` is in milliseconds since 1970.
    pub fn write(&self, cluster: &str, at: WallTime) -> String {
        let (name, cluster, at) = (self.0.quoted(), quote_string(cluster), at.0);
        format!(
            "INSERT INTO {name} (cluster, written_at) VALUES ({cluster}, {at}) ON DUPLICATE KEY UPDATE written_at = {at}"
        )
    }
}

/// One session in one read of the session list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingSession {
    /// Id of the session.
    pub id: u64,
    /// How long its statement has been running, seconds.
    pub seconds: u64,
    /// The state as the server names it.
    pub state: String,
}

/// Why a primary commits nothing, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitStall {
    /// What the commits wait for.
    pub obstacle: Obstacle,
    /// State of the session that has waited longest, as the server names it; empty when no session was seen.
    #[serde(default)]
    pub state: String,
    /// Number of waiting sessions.
    #[serde(default)]
    pub sessions: u32,
    /// How long the first of them has been waiting, whole seconds.
    pub seconds: u64,
}

impl std::fmt::Display for CommitStall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            state,
            sessions,
            seconds,
            ..
        } = self;
        let cause = match self.obstacle {
            Obstacle::DiskSpace => "a disk is full",
            Obstacle::Commit => "its storage is full or does not answer, or a semaphore is not released",
            Obstacle::GlobalLock => "an operator or a backup holds a lock on all writes",
            Obstacle::Canary => {
                return write!(f, "the canary row has not been committed for {seconds} s");
            }
        };
        write!(
            f,
            "{cause}: {sessions} sessions wait, the first for {seconds} s ({state})"
        )
    }
}

/// The reads of the session list of one primary so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitWaitTracker {
    /// When each waiting session was first seen waiting.
    waiting: BTreeMap<u64, WallTime>,
}

impl CommitWaitTracker {
    /// Adds a read of the session list at `now`. Returns the stall when a session has waited for `patience_millis` or
    /// longer.
    ///
    /// Of several causes the one with the longest wait is reported. A full disk is reported before all others, since
    /// the others wait behind it.
    pub fn add(&mut self, sessions: &[WaitingSession], now: WallTime, patience_millis: u64) -> Option<CommitStall> {
        let before = std::mem::take(&mut self.waiting);
        let mut waits: Vec<(Obstacle, WallTime, &WaitingSession)> = Vec::new();
        for session in sessions {
            let Some(obstacle) = obstacle_of(&session.state) else {
                continue;
            };
            // The clock of the session begins again with each statement. It counts whole seconds, so one second is
            // added.
            let of_statement = session.seconds.saturating_add(1).saturating_mul(1000);
            let since = before
                .get(&session.id)
                .copied()
                .filter(|since| now.millis_since(*since) <= of_statement)
                .unwrap_or(now);
            self.waiting.insert(session.id, since);
            waits.push((obstacle, since, session));
        }
        let is_long = |since: WallTime| now.millis_since(since) >= patience_millis;
        let (obstacle, since, first) = waits
            .iter()
            .filter(|(_, since, _)| is_long(*since))
            .min_by_key(|(obstacle, since, session)| (*obstacle != Obstacle::DiskSpace, *since, session.id))?;
        Some(CommitStall {
            obstacle: *obstacle,
            state: first.state.clone(),
            sessions: u32::try_from(waits.len()).unwrap_or(u32::MAX),
            seconds: now.millis_since(*since) / 1000,
        })
    }
}

fn obstacle_of(state: &str) -> Option<Obstacle> {
    STATES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(state.trim()))
        .map(|(_, obstacle)| *obstacle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::NOW;

    const PATIENCE: u64 = 10_000;

    fn session(id: u64, seconds: u64, state: &str) -> WaitingSession {
        WaitingSession {
            id,
            seconds,
            state: state.to_owned(),
        }
    }

    /// One look a second, of which each says what `look` says at that second.
    fn after(seconds: u64, look: impl Fn(u64) -> Vec<WaitingSession>) -> Option<CommitStall> {
        let mut watch = CommitWaitTracker::default();
        let mut last = None;
        for second in 0..=seconds {
            let at = NOW.plus_millis(i64::try_from(second * 1000).unwrap());
            last = watch.add(&look(second), at, PATIENCE);
        }
        last
    }

    #[test]
    fn a_commit_that_stands_for_long_is_a_stall_and_a_short_one_is_none() {
        let look = |second| vec![session(7, second, "waiting for handler commit")];
        assert_eq!(after(9, look), None);
        let stall = after(12, look).unwrap();
        assert_eq!(
            (stall.obstacle, stall.seconds, stall.sessions),
            (Obstacle::Commit, 12, 1)
        );
        assert!(stall.to_string().contains("waiting for handler commit"), "{stall}");
    }

    #[test]
    fn a_session_that_is_met_in_one_commit_after_another_does_not_wait() {
        let busy = |_| vec![session(7, 0, "waiting for handler commit")];
        assert_eq!(after(60, busy), None);
        let now_and_then = |second: u64| {
            let waits = second.is_multiple_of(2);
            waits.then(|| session(7, second, "Commit")).into_iter().collect()
        };
        assert_eq!(after(60, now_and_then), None);
    }

    #[test]
    fn a_long_statement_that_only_now_commits_has_not_waited() {
        let look = |second| vec![session(7, 500 + second, "Commit")];
        assert_eq!(after(5, look), None);
        assert_eq!(after(10, look).map(|stall| stall.seconds), Some(10));
    }

    #[test]
    fn a_canary_row_is_one_row_for_each_cluster() {
        let table = CanaryTable::parse("meta.can`ary").unwrap();
        assert_eq!(
            table.write("it's", WallTime(7)),
            format!(
                "INSERT INTO `meta`.`can``ary` (cluster, written_at) VALUES ({}, 7) ON DUPLICATE KEY UPDATE written_at = 7",
                quote_string("it's")
            )
        );
        assert!(CanaryTable::parse("canary").is_err());
    }

    #[test]
    fn a_full_disk_is_told_before_those_who_wait_behind_it() {
        let look = |second: u64| {
            vec![
                session(3, second, "waiting for handler commit"),
                session(9, second, "Waiting for disk space"),
            ]
        };
        let stall = after(15, look).unwrap();
        assert_eq!((stall.obstacle, stall.sessions), (Obstacle::DiskSpace, 2));
    }

    #[test]
    fn a_lock_on_all_writes_is_told_apart_and_other_waits_are_none() {
        for state in [
            "Waiting for global read lock",
            "Waiting for commit lock",
            "waiting for backup lock",
        ] {
            let stall = after(20, |second| vec![session(1, second, state)]).unwrap();
            assert_eq!(stall.obstacle, Obstacle::GlobalLock, "{state}");
        }
        for state in [
            "updating",
            "Waiting for table metadata lock",
            "Waiting for semi-sync ACK from replica",
            "",
        ] {
            assert_eq!(after(20, |second| vec![session(1, second, state)]), None, "{state}");
        }
    }
}
