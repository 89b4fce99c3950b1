//! The port [`StateStore`]: the state in a SQLite file.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqliteConnection, SqlitePool};

use crate::app::ports::{AppliedMark, StateStore, StoreError};
use crate::domain::intent::Intent;
use crate::domain::state::record::{
    AuditEntry, Blocked, Cluster, Detection, Document, Group, MemberRecord, Quarantine, Recovery, Seed,
};
use crate::domain::state::{Change, Request, State};
use crate::domain::time::WallTime;

use super::{audit, migrations, projection};

/// How long a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of orchestrator's `AuditPurgeDays`.
const AUDIT_RETENTION: Duration = Duration::from_hours(7 * 24);

/// The replicated state in a SQLite file, with one writer. A power failure may lose the last few transactions, because the file
/// is not synced at every commit. They are applied again from the raft log, which is synced.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    pub(super) pool: SqlitePool,
    name: String,
    audit_retention: Duration,
}

/// The parts of the state that have no record of their own.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    group: Option<Group>,
    clock: WallTime,
    version: u32,
    last_number: u64,
    recoveries_disabled: bool,
    quorum_forced: Option<WallTime>,
    seeds: BTreeSet<Seed>,
}

impl SqliteStore {
    /// Opens the file, creates it when it is missing, and runs the migrations. With `:memory:` the store ends with the process.
    ///
    /// # Errors
    /// When the file cannot be opened or a migration fails.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let name = format!("sqlite {}", path.display());
        let failed = |what: &str, error: &dyn std::fmt::Display| StoreError {
            backend: name.clone(),
            what: what.to_owned(),
            why: error.to_string(),
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|error| failed("create the folder", &error))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| failed("open", &error))?;
        let migrator = Migrator::new(migrations::EmbeddedMigrations)
            .await
            .map_err(|error| failed("read the migrations", &error))?;
        migrator
            .run(&pool)
            .await
            .map_err(|error| failed("run the migrations", &error))?;
        let unused = sqlx::query("SELECT 1 FROM ham4db_meta LIMIT 1")
            .fetch_optional(&pool)
            .await;
        if unused.map_err(|error| failed("read meta", &error))?.is_none() {
            let negated = sqlx::raw_sql(projection::NEGATE_ORCHESTRATOR_IDS).execute(&pool).await;
            negated.map_err(|error| failed("negate the ids of orchestrator's rows", &error))?;
        }
        Ok(Self {
            pool,
            name,
            audit_retention: AUDIT_RETENTION,
        })
    }

    /// Sets the age at which rows of the table `audit` are deleted (`AuditPurgeDays`). They are deleted when the next row is
    /// written. Default: 7 days.
    #[must_use]
    pub fn with_audit_retention(self, audit_retention: Duration) -> Self {
        Self {
            audit_retention,
            ..self
        }
    }

    /// Closes the file. It contains everything that was committed.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A closure that turns an SQL error into the error of an operation.
    pub(super) fn failed<'a>(&'a self, what: &'a str) -> impl Fn(sqlx::Error) -> StoreError + 'a {
        move |error| StoreError {
            backend: self.name.clone(),
            what: what.to_owned(),
            why: error.to_string(),
        }
    }

    /// The error for a body that cannot be parsed.
    pub(super) fn unreadable(&self, what: &str, error: &serde_json::Error) -> StoreError {
        StoreError {
            backend: self.name.clone(),
            what: format!("read {what}"),
            why: error.to_string(),
        }
    }

    /// Reads all objects of a kind, with their ids.
    async fn load_objects<T: DeserializeOwned>(
        &self,
        connection: &mut SqliteConnection,
        kind: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = sqlx::query("SELECT id, body FROM ham4db_object WHERE kind = ? ORDER BY id")
            .bind(kind)
            .fetch_all(connection)
            .await
            .map_err(self.failed("read objects"))?;
        rows.iter()
            .map(|row| {
                let (id, body): (String, String) = (row.get(0), row.get(1));
                let body =
                    serde_json::from_str(&body).map_err(|error| self.unreadable(&format!("{kind} {id}"), &error))?;
                Ok((id, body))
            })
            .collect()
    }

    async fn meta<T: DeserializeOwned + Default>(
        &self,
        connection: &mut SqliteConnection,
        name: &str,
    ) -> Result<T, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT value FROM ham4db_meta WHERE name = ?")
            .bind(name)
            .fetch_optional(connection)
            .await
            .map_err(self.failed("read meta"))?;
        match row {
            None => Ok(T::default()),
            Some((value,)) => serde_json::from_str(&value).map_err(|error| self.unreadable(name, &error)),
        }
    }

    /// Writes what changed, in one transaction. With `everything`, all other rows are deleted.
    async fn save(
        &self,
        state: &State,
        changes: &BTreeSet<Change>,
        mark: &AppliedMark,
        everything: bool,
    ) -> Result<(), StoreError> {
        let failed = self.failed("write the state");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let connection: &mut SqliteConnection = &mut transaction;
        if everything {
            let own = [("ham4db_object", "1"), ("ham4db_intent", "1")];
            for (table, ours) in own.iter().chain(projection::TABLES) {
                let statement = sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE {ours}"));
                sqlx::query(statement)
                    .execute(&mut *connection)
                    .await
                    .map_err(&failed)?;
            }
        }
        for change in changes {
            write_change(connection, state, change).await.map_err(&failed)?;
        }
        projection::write(connection, state, changes).await.map_err(&failed)?;
        audit::write(connection, state, changes, self.audit_retention)
            .await
            .map_err(&failed)?;
        put_meta(connection, "applied", mark).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }
}

#[async_trait]
impl StateStore for SqliteStore {
    async fn load(&self) -> Result<(State, AppliedMark), StoreError> {
        let mut transaction = self.pool.begin().await.map_err(self.failed("begin"))?;
        let connection: &mut SqliteConnection = &mut transaction;
        let meta: Meta = self.meta(connection, "state").await?;
        let mark: AppliedMark = self.meta(connection, "applied").await?;
        let mut state = State {
            group: meta.group,
            clock: meta.clock,
            version: meta.version,
            last_number: meta.last_number,
            recoveries_disabled: meta.recoveries_disabled,
            quorum_forced: meta.quorum_forced,
            seeds: meta.seeds,
            ..State::default()
        };
        for (id, until) in self.load_objects::<WallTime>(connection, "forgotten").await? {
            if let Ok(key) = id.parse() {
                state.forgotten.insert(key, until);
            }
        }
        state.clusters = self
            .load_objects::<Cluster>(connection, "cluster")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id.clone(), body))
            .collect();
        state.documents = self
            .load_objects::<Document>(connection, "document")
            .await?
            .into_iter()
            .map(|(_, body)| (body.origin.clone(), body))
            .collect();
        state.recoveries = self
            .load_objects::<Recovery>(connection, "recovery")
            .await?
            .into_iter()
            .collect();
        state.quarantines = self
            .load_objects::<Quarantine>(connection, "quarantine")
            .await?
            .into_iter()
            .collect();
        state.detections = self
            .load_objects::<Detection>(connection, "detection")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        state.requests = self
            .load_objects::<Request>(connection, "request")
            .await?
            .into_iter()
            .collect();
        state.blocked = self
            .load_objects::<Blocked>(connection, "blocked")
            .await?
            .into_iter()
            .map(|(_, body)| (body.instance.clone(), body))
            .collect();
        state.members = self
            .load_objects::<MemberRecord>(connection, "member")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        state.audit = self
            .load_objects::<AuditEntry>(connection, "audit")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        let rows = sqlx::query("SELECT body FROM ham4db_intent ORDER BY kind, host, port, origin")
            .fetch_all(&mut *connection)
            .await
            .map_err(self.failed("read intents"))?;
        for row in rows {
            let body: String = row.get(0);
            let intent: Intent = serde_json::from_str(&body).map_err(|error| self.unreadable("an intent", &error))?;
            state.intents.insert(intent.id(), intent);
        }
        Ok((state, mark))
    }

    async fn write(&self, state: &State, changes: &BTreeSet<Change>, mark: &AppliedMark) -> Result<(), StoreError> {
        self.save(state, changes, mark, false).await
    }

    async fn replace(&self, state: &State, mark: &AppliedMark) -> Result<(), StoreError> {
        let mut all = BTreeSet::from([Change::Meta, Change::Seeds]);
        all.extend(state.forgotten.keys().cloned().map(Change::Forgotten));
        all.extend(state.clusters.keys().cloned().map(Change::Cluster));
        all.extend(state.intents.keys().cloned().map(Change::Intent));
        all.extend(state.documents.keys().cloned().map(Change::Document));
        all.extend(state.recoveries.keys().cloned().map(Change::Recovery));
        all.extend(state.quarantines.keys().cloned().map(Change::Quarantine));
        all.extend(state.detections.keys().copied().map(Change::Detection));
        all.extend(state.requests.keys().cloned().map(Change::Request));
        all.extend(state.blocked.keys().cloned().map(Change::Blocked));
        all.extend(state.members.keys().copied().map(Change::Member));
        all.extend(state.audit.keys().copied().map(Change::Audit));
        self.save(state, &all, mark, true).await
    }
}

async fn write_change(connection: &mut SqliteConnection, state: &State, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::Meta | Change::Seeds => {
            let meta = Meta {
                group: state.group.clone(),
                clock: state.clock,
                version: state.version,
                last_number: state.last_number,
                recoveries_disabled: state.recoveries_disabled,
                quorum_forced: state.quorum_forced,
                seeds: state.seeds.clone(),
            };
            put_meta(connection, "state", &meta).await
        }
        Change::Forgotten(key) => put(connection, "forgotten", &key.to_string(), state.forgotten.get(key)).await,
        Change::Cluster(id) => put(connection, "cluster", &id.0, state.clusters.get(id)).await,
        Change::Document(origin) => put(connection, "document", &origin.to_string(), state.documents.get(origin)).await,
        Change::Recovery(uid) => put(connection, "recovery", uid, state.recoveries.get(uid)).await,
        Change::Quarantine(key) => put(connection, "quarantine", key, state.quarantines.get(key)).await,
        Change::Detection(id) => put(connection, "detection", &format!("{id:020}"), state.detections.get(id)).await,
        Change::Request(key) => put(connection, "request", key, state.requests.get(key)).await,
        Change::Blocked(key) => put(connection, "blocked", &key.to_string(), state.blocked.get(key)).await,
        Change::Member(id) => put(connection, "member", &format!("{id:020}"), state.members.get(id)).await,
        Change::Audit(id) => put(connection, "audit", &format!("{id:020}"), state.audit.get(id)).await,
        Change::Intent(id) => {
            let row = (
                id.kind.as_str(),
                id.instance.hostname.as_str(),
                i64::from(id.instance.port),
                id.origin.to_string(),
            );
            let query = match state.intents.get(id) {
                Some(intent) => {
                    sqlx::query("REPLACE INTO ham4db_intent (kind, host, port, origin, body) VALUES (?, ?, ?, ?, ?)")
                        .bind(row.0)
                        .bind(row.1)
                        .bind(row.2)
                        .bind(row.3)
                        .bind(json(intent)?)
                }
                None => {
                    sqlx::query("DELETE FROM ham4db_intent WHERE kind = ? AND host = ? AND port = ? AND origin = ?")
                        .bind(row.0)
                        .bind(row.1)
                        .bind(row.2)
                        .bind(row.3)
                }
            };
            query.execute(connection).await.map(drop)
        }
    }
}

fn json<T: Serialize>(body: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(body).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

async fn put_meta<T: Serialize>(connection: &mut SqliteConnection, name: &str, value: &T) -> Result<(), sqlx::Error> {
    sqlx::query("REPLACE INTO ham4db_meta (name, value) VALUES (?, ?)")
        .bind(name)
        .bind(json(value)?)
        .execute(connection)
        .await
        .map(drop)
}

async fn put<T: Serialize>(
    connection: &mut SqliteConnection,
    kind: &str,
    id: &str,
    body: Option<&T>,
) -> Result<(), sqlx::Error> {
    let query = match body {
        Some(body) => sqlx::query("REPLACE INTO ham4db_object (kind, id, body) VALUES (?, ?, ?)")
            .bind(kind)
            .bind(id)
            .bind(json(body)?),
        None => sqlx::query("DELETE FROM ham4db_object WHERE kind = ? AND id = ?")
            .bind(kind)
            .bind(id),
    };
    query.execute(connection).await.map(drop)
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
