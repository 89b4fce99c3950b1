//! The port [`StateStore`]: the state in the tables of a backend.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::ports::{AppliedMark, StateStore, StoreError};
use crate::domain::intent::Intent;
use crate::domain::key::InstanceKey;
use crate::domain::state::record::{
    AuditEntry, Blocked, Cluster, Detection, Document, Group, MemberRecord, Quarantine, Recovery, Seed,
};
use crate::domain::state::{Change, Request, State};
use crate::domain::time::WallTime;

use super::backend::BackendStore;
use super::database::{DatabaseError, Transaction};
use super::statement::{Dialect, Statement, statement};
use super::{audit, projection};

/// The longest id of an object: what the column of MySQL holds.
const MAX_ID: usize = 512;

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
    unseen: BTreeMap<InstanceKey, WallTime>,
}

impl BackendStore {
    /// Reads all objects of a kind, with their ids.
    async fn load_objects<T: DeserializeOwned>(
        &self,
        transaction: &mut Transaction,
        kind: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = transaction
            .rows(statement("SELECT id, body FROM ham4db_object WHERE kind = ? ORDER BY id").bind(kind))
            .await
            .map_err(self.failed("read objects"))?;
        rows.iter()
            .map(|row| {
                let (id, body) = (row.text(0), row.text(1));
                let body =
                    serde_json::from_str(&body).map_err(|error| self.unreadable(&format!("{kind} {id}"), &error))?;
                Ok((id, body))
            })
            .collect()
    }

    async fn meta<T: DeserializeOwned + Default>(
        &self,
        transaction: &mut Transaction,
        name: &str,
    ) -> Result<T, StoreError> {
        let rows = transaction
            .rows(statement("SELECT value FROM ham4db_meta WHERE name = ?").bind(name))
            .await
            .map_err(self.failed("read meta"))?;
        match rows.first() {
            None => Ok(T::default()),
            Some(row) => serde_json::from_str(&row.text(0)).map_err(|error| self.unreadable(name, &error)),
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
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        self.save_in(&mut transaction, state, changes, mark, everything)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// The same in a transaction of the caller.
    pub(super) async fn save_in(
        &self,
        transaction: &mut Transaction,
        state: &State,
        changes: &BTreeSet<Change>,
        mark: &AppliedMark,
        everything: bool,
    ) -> Result<(), DatabaseError> {
        if !everything {
            only_writer(transaction, mark).await?;
        }
        if everything {
            for sql in ["DELETE FROM ham4db_object", "DELETE FROM ham4db_intent"] {
                transaction.execute(statement(sql)).await?;
            }
            projection::delete_all(transaction, self.numbering).await?;
        }
        for change in changes {
            write_change(transaction, state, change).await?;
        }
        projection::write(transaction, state, changes, self.numbering, &self.key_prefix).await?;
        audit::write(transaction, state, changes, self.numbering, self.audit_retention).await?;
        put_meta(transaction, "applied", mark).await
    }

    /// Reads the whole state and its mark in a transaction of the caller.
    pub(super) async fn load_in(&self, transaction: &mut Transaction) -> Result<(State, AppliedMark), StoreError> {
        let meta: Meta = self.meta(transaction, "state").await?;
        let mark: AppliedMark = self.meta(transaction, "applied").await?;
        let mut state = State {
            group: meta.group,
            clock: meta.clock,
            version: meta.version,
            last_number: meta.last_number,
            recoveries_disabled: meta.recoveries_disabled,
            quorum_forced: meta.quorum_forced,
            seeds: meta.seeds,
            unseen: meta.unseen,
            ..State::default()
        };
        for (id, until) in self.load_objects::<WallTime>(transaction, "forgotten").await? {
            if let Ok(key) = id.parse() {
                state.forgotten.insert(key, until);
            }
        }
        state.clusters = self
            .load_objects::<Cluster>(transaction, "cluster")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id.clone(), body))
            .collect();
        state.documents = self
            .load_objects::<Document>(transaction, "document")
            .await?
            .into_iter()
            .map(|(_, body)| (body.origin.clone(), body))
            .collect();
        state.recoveries = self
            .load_objects::<Recovery>(transaction, "recovery")
            .await?
            .into_iter()
            .collect();
        state.quarantines = self
            .load_objects::<Quarantine>(transaction, "quarantine")
            .await?
            .into_iter()
            .collect();
        state.detections = self
            .load_objects::<Detection>(transaction, "detection")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        state.requests = self
            .load_objects::<Request>(transaction, "request")
            .await?
            .into_iter()
            .collect();
        state.blocked = self
            .load_objects::<Blocked>(transaction, "blocked")
            .await?
            .into_iter()
            .map(|(_, body)| (body.instance.clone(), body))
            .collect();
        state.members = self
            .load_objects::<MemberRecord>(transaction, "member")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        state.audit = self
            .load_objects::<AuditEntry>(transaction, "audit")
            .await?
            .into_iter()
            .map(|(_, body)| (body.id, body))
            .collect();
        let rows = transaction
            .rows(statement(
                "SELECT body FROM ham4db_intent ORDER BY kind, host, port, origin",
            ))
            .await
            .map_err(self.failed("read intents"))?;
        for row in rows {
            let intent: Intent =
                serde_json::from_str(&row.text(0)).map_err(|error| self.unreadable("an intent", &error))?;
            state.intents.insert(intent.id(), intent);
        }
        Ok((state, mark))
    }
}

#[async_trait]
impl StateStore for BackendStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn check(&self) -> Result<(), StoreError> {
        match self.database.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::MySql => {
                let answer = self.database.rows(statement("SELECT 1")).await;
                answer.map(drop).map_err(self.failed("connect"))
            }
        }
    }

    async fn load(&self) -> Result<(State, AppliedMark), StoreError> {
        let mut transaction = self.database.begin().await.map_err(self.failed("begin"))?;
        self.load_in(&mut transaction).await
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

/// Each member has a backend of its own. Two that write to one would each see the records of the other as its own.
async fn only_writer(transaction: &mut Transaction, mark: &AppliedMark) -> Result<(), DatabaseError> {
    let rows = transaction
        .rows(statement("SELECT value FROM ham4db_meta WHERE name = 'applied'"))
        .await?;
    let stored = rows
        .first()
        .and_then(|row| serde_json::from_str::<AppliedMark>(&row.text(0)).ok());
    match stored {
        Some(stored) if stored.member != 0 && stored.member != mark.member => Err(DatabaseError::Unexpected(format!(
            "member {} writes to it, and this is member {}: give each member a backend of its own",
            stored.member, mark.member
        ))),
        Some(_) | None => Ok(()),
    }
}

async fn write_change(transaction: &mut Transaction, state: &State, change: &Change) -> Result<(), DatabaseError> {
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
                unseen: state.unseen.clone(),
            };
            put_meta(transaction, "state", &meta).await
        }
        Change::Forgotten(key) => put(transaction, "forgotten", &key.to_string(), state.forgotten.get(key)).await,
        Change::Cluster(id) => put(transaction, "cluster", &id.0, state.clusters.get(id)).await,
        Change::Document(origin) => {
            put(
                transaction,
                "document",
                &origin.to_string(),
                state.documents.get(origin),
            )
            .await
        }
        Change::Recovery(uid) => put(transaction, "recovery", uid, state.recoveries.get(uid)).await,
        Change::Quarantine(key) => put(transaction, "quarantine", key, state.quarantines.get(key)).await,
        Change::Detection(id) => put(transaction, "detection", &format!("{id:020}"), state.detections.get(id)).await,
        Change::Request(key) => put(transaction, "request", key, state.requests.get(key)).await,
        Change::Blocked(key) => put(transaction, "blocked", &key.to_string(), state.blocked.get(key)).await,
        Change::Member(id) => put(transaction, "member", &format!("{id:020}"), state.members.get(id)).await,
        Change::Audit(id) => put(transaction, "audit", &format!("{id:020}"), state.audit.get(id)).await,
        Change::Intent(id) => {
            let key = |statement: Statement| {
                statement
                    .bind(id.kind.as_str())
                    .bind(&id.instance.hostname)
                    .bind(id.instance.port)
                    .bind(id.origin.to_string())
            };
            let written = match state.intents.get(id) {
                Some(intent) => key(statement(
                    "REPLACE INTO ham4db_intent (kind, host, port, origin, body) VALUES (?, ?, ?, ?, ?)",
                ))
                .bind(json(intent)?),
                None => key(statement(
                    "DELETE FROM ham4db_intent WHERE kind = ? AND host = ? AND port = ? AND origin = ?",
                )),
            };
            transaction.execute(written).await.map(drop)
        }
    }
}

fn json<T: Serialize>(body: &T) -> Result<String, DatabaseError> {
    serde_json::to_string(body).map_err(|error| DatabaseError::Sql(sqlx::Error::Encode(Box::new(error))))
}

async fn put_meta<T: Serialize>(transaction: &mut Transaction, name: &str, value: &T) -> Result<(), DatabaseError> {
    let written = statement("REPLACE INTO ham4db_meta (name, value) VALUES (?, ?)")
        .bind(name)
        .bind(json(value)?);
    transaction.execute(written).await.map(drop)
}

async fn put<T: Serialize>(
    transaction: &mut Transaction,
    kind: &str,
    id: &str,
    body: Option<&T>,
) -> Result<(), DatabaseError> {
    if id.chars().count() > MAX_ID {
        return Err(DatabaseError::Unexpected(format!(
            "the id of a {kind} has more than {MAX_ID} characters: {id}"
        )));
    }
    let written = match body {
        Some(body) => statement("REPLACE INTO ham4db_object (kind, id, body) VALUES (?, ?, ?)")
            .bind(kind)
            .bind(id)
            .bind(json(body)?),
        None => statement("DELETE FROM ham4db_object WHERE kind = ? AND id = ?")
            .bind(kind)
            .bind(id),
    };
    transaction.execute(written).await.map(drop)
}

#[cfg(test)]
#[path = "state_store_tests.rs"]
mod tests;
