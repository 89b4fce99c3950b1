//! The log, the vote and the last snapshot, in `raft.db`.
//!
//! SQLite with `synchronous=FULL`: with `NORMAL` a power failure can revert the last commits, and a reverted vote could be granted twice.
//! All writes use one connection, so a vote and the entries after it keep their order. All values are JSON, so that `sqlite3 raft.db`
//! can show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{Membership, OptionalSend, RaftLogReader};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqlitePool};

use super::types::{Entry, LogId, MemberNode, TypeConfig, Vote};
use crate::domain::state::{MemberId, Proposal};

/// File name of the log store within the data directory.
pub const FILE_NAME: &str = "raft.db";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS raft_log (idx INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS raft_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

/// Number of commits after which their slowest percent is checked.
const COMMITS_PER_JUDGEMENT: usize = 200;

/// By how much [`LogStore::force_sole_voter`] raises the term.
const FORCED_QUORUM_GAP: u64 = 1000;

/// The owner of a log: one member id means one log for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogOwner {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// The member.
    pub member: MemberId,
}

/// The log store of one member. Clones share the file.
#[derive(Clone)]
pub struct LogStore {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    commits: Arc<Mutex<Vec<Duration>>>,
    slow_commit: Duration,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens `raft.db` in `directory`, and creates it when it is missing. A warning is logged when commits take longer than `slow_commit`
    /// (a tenth of the election timeout).
    ///
    /// # Errors
    /// When the file cannot be opened, or is not a SQLite database.
    pub async fn open(directory: &Path, slow_commit: Duration) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        // SQLite takes an empty file for a new database, and gives its companions the same mode.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io::Error::other(format!("open {}: {error}", path.display())))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let failed = |error: sqlx::Error| io::Error::other(format!("open {}: {error}", path.display()));
        // Connections are never closed because they are idle or old: the first open after a close replays the WAL.
        let pool = || SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None);
        let writer = pool()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        sqlx::raw_sql(SCHEMA).execute(&writer).await.map_err(failed)?;
        let readers = pool().max_connections(2).connect_with(options).await.map_err(failed)?;
        Ok(Self {
            path,
            writer,
            readers,
            commits: Arc::default(),
            slow_commit,
        })
    }

    /// Closes all connections; SQLite then merges the WAL into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// The owner of this log; `None` for a new file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn owner(&self) -> io::Result<Option<LogOwner>> {
        self.read("stamp").await
    }

    /// Stores the owner of this log. This is done once, before any vote.
    ///
    /// # Errors
    /// When the file cannot be written, or has another owner.
    pub async fn put_owner(&self, owner: &LogOwner) -> io::Result<()> {
        match self.owner().await? {
            Some(present) if present == *owner => Ok(()),
            Some(present) => Err(io::Error::other(format!(
                "{} holds the log of member {} of group {}, not of member {} of group {}",
                self.path.display(),
                present.member,
                present.cluster_uuid,
                owner.member,
                owner.cluster_uuid
            ))),
            None => self.write("stamp", owner).await,
        }
    }

    /// Whether no vote was ever granted and no entry ever stored.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn is_blank(&self) -> io::Result<bool> {
        Ok(self.read::<Vote>("vote").await?.is_none() && self.last_log_id().await?.is_none())
    }

    /// The last entry, or the point up to which entries were purged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let row = sqlx::query("SELECT entry FROM raft_log ORDER BY idx DESC LIMIT 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.failed("read the last entry", error))?;
        match row {
            Some(row) => Ok(Some(self.decode_entry(&row)?.log_id())),
            None => self.read("purged").await,
        }
    }

    /// The point up to which entries were purged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn purged(&self) -> io::Result<Option<LogId>> {
        self.read("purged").await
    }

    /// The text of the last snapshot.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn snapshot(&self) -> io::Result<Option<String>> {
        sqlx::query_scalar("SELECT value FROM raft_meta WHERE name = 'snapshot'")
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.failed("read the snapshot", error))
    }

    /// Replaces the last snapshot.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn put_snapshot(&self, text: &str) -> io::Result<()> {
        self.write_text(&self.writer, "snapshot", text).await
    }

    /// For a group that lost its majority: appends a membership with `survivor` as the only voter, then `proposal`. The term is raised
    /// above the terms of leaders that this member may not know. The write is atomic.
    ///
    /// # Errors
    /// When the file cannot be read or written. The log must not be in use.
    pub async fn force_sole_voter(&self, survivor: (MemberId, MemberNode), proposal: Proposal) -> io::Result<()> {
        let last = self.last_log_id().await?;
        let vote: Option<Vote> = self.read("vote").await?;
        let (last_term, last_index) = last.map_or((0, 0), |last| (last.committed_leader_id().term, last.index()));
        let term = vote.map_or(last_term, |vote| vote.leader_id.term.max(last_term)) + FORCED_QUORUM_GAP;
        let (member, node) = survivor;
        let voters = BTreeMap::from([(member, node)]);
        let membership = Membership::new(vec![BTreeSet::from([member])], voters)
            .map_err(|error| self.failed("make a membership of one", error))?;
        let entries = [
            Entry::new_membership(LogId::new_term_index(term, last_index + 1), membership),
            Entry::new_normal(LogId::new_term_index(term, last_index + 2), proposal),
        ];
        let text = |value: Result<String, serde_json::Error>| value.map_err(|error| self.failed("encode", error));
        let failed = |error| self.failed("force a sole voter", error);
        let vote = text(serde_json::to_string(&Vote::new(term, member)))?;
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        self.write_text(&mut *transaction, "vote", &vote).await?;
        for entry in &entries {
            sqlx::query("INSERT INTO raft_log (idx, entry) VALUES (?, ?)")
                .bind(signed(entry.log_id().index()))
                .bind(text(serde_json::to_string(entry))?)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    fn failed(&self, what: &str, error: impl std::fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {what}: {error}", self.path.display()))
    }

    async fn read<T: DeserializeOwned>(&self, name: &'static str) -> io::Result<Option<T>> {
        let text: Option<String> = sqlx::query_scalar("SELECT value FROM raft_meta WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.failed(name, error))?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.failed(name, error)))
            .transpose()
    }

    async fn write<T: Serialize>(&self, name: &'static str, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(|error| self.failed(name, error))?;
        let began = Instant::now();
        self.write_text(&self.writer, name, &text).await?;
        self.judge(began.elapsed());
        Ok(())
    }

    async fn write_text(&self, to: impl sqlx::SqliteExecutor<'_>, name: &'static str, text: &str) -> io::Result<()> {
        sqlx::query(
            "INSERT INTO raft_meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(text)
        .execute(to)
        .await
        .map_err(|error| self.failed(name, error))?;
        Ok(())
    }

    fn decode_entry(&self, row: &sqlx::sqlite::SqliteRow) -> io::Result<Entry> {
        let text: &str = row.try_get(0).map_err(|error| self.failed("read an entry", error))?;
        serde_json::from_str(text).map_err(|error| {
            super::snapshot::newer_command_in(text).map_or_else(
                || self.failed("cannot parse an entry", error),
                |sentence| self.failed("read an entry", sentence),
            )
        })
    }

    async fn write_entries(&self, entries: &[(i64, String)]) -> io::Result<()> {
        let failed = |error| self.failed("append entries", error);
        let began = Instant::now();
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for (index, text) in entries {
            sqlx::query("INSERT INTO raft_log (idx, entry) VALUES (?, ?)")
                .bind(index)
                .bind(text)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        self.judge(began.elapsed());
        Ok(())
    }

    /// Warns before slow commits come near the election timeout, which would cost leaders their leadership.
    fn judge(&self, took: Duration) {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.push(took);
        if commits.len() < COMMITS_PER_JUDGEMENT {
            return;
        }
        commits.sort_unstable();
        let slowest = commits
            .get(COMMITS_PER_JUDGEMENT * 99 / 100)
            .copied()
            .unwrap_or_default();
        commits.clear();
        if slowest > self.slow_commit {
            tracing::warn!(
                "{}: one commit in a hundred takes {} ms or more, which is over a tenth of the election timeout: \
                 move RaftDataDir to a faster disk or raise the election timeout",
                self.path.display(),
                slowest.as_millis()
            );
        }
    }
}

fn signed(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let before = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let rows = sqlx::query("SELECT entry FROM raft_log WHERE idx >= ? AND idx < ? ORDER BY idx")
            .bind(signed(from))
            .bind(signed(before))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.failed("read entries", error))?;
        rows.iter().map(|row| self.decode_entry(row)).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.read("vote").await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.purged().await?,
            last_log_id: self.last_log_id().await?,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write("vote", vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.write("committed", &committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read::<Option<LogId>>("committed").await?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        for entry in entries {
            let text = serde_json::to_string(&entry).map_err(|error| self.failed("encode an entry", error))?;
            rows.push((signed(entry.log_id().index()), text));
        }
        let written = self.write_entries(&rows).await;
        callback.io_completed(written);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index().saturating_add(1));
        sqlx::query("DELETE FROM raft_log WHERE idx >= ?")
            .bind(signed(from))
            .execute(&self.writer)
            .await
            .map_err(|error| self.failed("truncate the log", error))?;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let failed = |error| self.failed("purge the log", error);
        let text = serde_json::to_string(&upto).map_err(|error| self.failed("encode the purge point", error))?;
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        self.write_text(&mut *transaction, "purged", &text).await?;
        sqlx::query("DELETE FROM raft_log WHERE idx <= ?")
            .bind(signed(upto.index()))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}
