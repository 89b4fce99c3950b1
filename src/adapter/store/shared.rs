//! The port [`SharedStore`]: several members on one backend.
//!
//! The statements lock the row of the member first and that of the leader after it, or the version first and the claims after it, so that
//! no two members wait for each other. A database that decides at the commit (Galera) reports a conflict as a deadlock there.
//!
//! A time that is further in the future than it may be in the past was written before the clock of the database was set back: it counts as
//! past.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::app::ports::{
    AppliedMark, Proof, Registered, Registration, RegistrationError, SharedStore, SharedWrite, StoreError,
    TAKE_OVER_SECONDS, VersionedState,
};
use crate::domain::state::{Change, Epoch, State};
use crate::domain::topology::ClusterId;

use super::backend::BackendStore;
use super::database::{DatabaseError, Transaction};
use super::statement::{Row, statement};

/// A process that has not registered itself for so many seconds has given up its name.
const NAME_KEPT_SECONDS: u32 = 10;
/// A member counts as present when it registered itself in so many last seconds.
const PRESENT_SECONDS: u32 = 5;
/// Rows of processes that ended are kept for so many seconds.
const ENDED_KEPT_SECONDS: u32 = 86_400;

/// A conflict with another member decides nothing: the transaction is executed again, so many times.
const TRIES: u32 = 5;

fn conflicts() -> DatabaseError {
    DatabaseError::Unexpected(format!("{TRIES} conflicts with other members, one after the other"))
}

const RENEW_LEADERSHIP: &str =
    "UPDATE active_node SET last_seen_active = CURRENT_TIMESTAMP WHERE anchor = 1 AND hostname = ? AND token = ?";

/// Why a transaction was not committed.
enum NotCommitted {
    /// Another session won.
    Conflict,
    /// The database failed, and whether it was committed may be unknown.
    Failed(DatabaseError),
}

impl From<DatabaseError> for NotCommitted {
    fn from(error: DatabaseError) -> Self {
        if error.is_conflict() {
            Self::Conflict
        } else {
            Self::Failed(error)
        }
    }
}

/// The version of the state. The first caller sets it to 0.
async fn version_of(transaction: &mut Transaction) -> Result<u64, DatabaseError> {
    let read = "SELECT value FROM ham4db_meta WHERE name = 'version'";
    if let Some(row) = transaction.rows(statement(read)).await?.first() {
        return number(row, 0);
    }
    let first = "@INSERT_IGNORE INTO ham4db_meta (name, value) VALUES ('version', '0')";
    transaction.execute(statement(first)).await?;
    Ok(0)
}

async fn register_in(
    transaction: &mut Transaction,
    me: &Registration,
    campaigns: bool,
) -> Result<Option<Registered>, DatabaseError> {
    if !take_name(transaction, me).await? {
        return Ok(None);
    }
    let renewed = statement(RENEW_LEADERSHIP).bind(&me.name).bind(&me.token);
    if transaction.execute(renewed).await? == 0 && campaigns && take_leadership(transaction, me).await? {
        let term = term(transaction).await?.saturating_add(1);
        let written = statement("REPLACE INTO ham4db_meta (name, value) VALUES ('term', ?)").bind(term.to_string());
        transaction.execute(written).await?;
    }
    let leader = format!(
        "SELECT hostname, token FROM active_node WHERE anchor = 1 \
         AND @SECONDS(last_seen_active) BETWEEN @NOW - {TAKE_OVER_SECONDS} AND @NOW + {TAKE_OVER_SECONDS}"
    );
    let leader = transaction.rows(statement(leader)).await?;
    let members = format!(
        "SELECT name, token, http_uri, id FROM ham4db_member WHERE seen_at BETWEEN @NOW - {PRESENT_SECONDS} AND @NOW + {PRESENT_SECONDS} ORDER BY name"
    );
    let members = transaction.rows(statement(members)).await?;
    Ok(Some(Registered {
        members: members.iter().map(registration).collect::<Result<_, _>>()?,
        leader: leader.first().map(|row| (row.text(0), row.text(1))),
        term: term(transaction).await?,
        version: version_of(transaction).await?,
    }))
}

impl BackendStore {
    async fn registered(&self, me: &Registration, campaigns: bool) -> Result<Option<Registered>, NotCommitted> {
        let mut transaction = self.database.begin().await?;
        let Some(registered) = register_in(&mut transaction, me, campaigns).await? else {
            return Ok(None);
        };
        transaction.commit().await?;
        Ok(Some(registered))
    }

    async fn write_in(
        &self,
        version: u64,
        state: &State,
        changes: &BTreeSet<Change>,
        mark: &AppliedMark,
    ) -> Result<(), NotCommitted> {
        let mut transaction = self.database.begin().await?;
        let next = statement("UPDATE ham4db_meta SET value = ? WHERE name = 'version' AND value = ?")
            .bind(version.saturating_add(1).to_string())
            .bind(version.to_string());
        if transaction.execute(next).await? == 0 {
            return Err(NotCommitted::Conflict);
        }
        self.save_in(&mut transaction, state, changes, mark, false).await?;
        for (cluster, epoch) in claims(state, changes) {
            let claim = statement("REPLACE INTO ham4db_claim (cluster, epoch, proofs) VALUES (?, ?, 0)")
                .bind(&cluster.0)
                .bind(epoch);
            transaction.execute(claim).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn prove_in(&self, me: &Registration, proof: &Proof) -> Result<Option<u64>, NotCommitted> {
        let mut transaction = self.database.begin().await?;
        let changed = match proof {
            Proof::Claim { cluster, epoch } => statement(
                "UPDATE ham4db_claim SET proofs = proofs + 1 WHERE cluster = ? AND epoch = ? \
                 AND EXISTS (SELECT 1 FROM ham4db_member WHERE name = ? AND token = ?)",
            )
            .bind(&cluster.0)
            .bind(*epoch)
            .bind(&me.name)
            .bind(&me.token),
            Proof::Leadership => statement(RENEW_LEADERSHIP).bind(&me.name).bind(&me.token),
        };
        if transaction.execute(changed).await? == 0 {
            return Ok(None);
        }
        let version = version_of(&mut transaction).await?;
        transaction.commit().await?;
        Ok(Some(version))
    }
}

/// Takes or keeps the name of a member. Returns whether it is free for this process.
async fn take_name(transaction: &mut Transaction, me: &Registration) -> Result<bool, DatabaseError> {
    let kept = statement("UPDATE ham4db_member SET seen_at = @NOW, id = ?, http_uri = ? WHERE name = ? AND token = ?")
        .bind(me.id)
        .bind(&me.http_uri)
        .bind(&me.name)
        .bind(&me.token);
    if transaction.execute(kept).await? == 0 {
        let given_up = format!(
            "DELETE FROM ham4db_member WHERE name = ? AND seen_at NOT BETWEEN @NOW - {NAME_KEPT_SECONDS} AND @NOW + {NAME_KEPT_SECONDS}"
        );
        transaction.execute(statement(given_up).bind(&me.name)).await?;
        let taken = statement(
            "@INSERT_IGNORE INTO ham4db_member (name, token, id, http_uri, seen_at) VALUES (?, ?, ?, ?, @NOW)",
        )
        .bind(&me.name)
        .bind(&me.token)
        .bind(me.id)
        .bind(&me.http_uri);
        if transaction.execute(taken).await? == 0 {
            return Ok(false);
        }
        for ended in [
            format!("DELETE FROM ham4db_member WHERE seen_at < @NOW - {ENDED_KEPT_SECONDS}"),
            format!("DELETE FROM node_health WHERE @SECONDS(last_seen_active) < @NOW - {ENDED_KEPT_SECONDS}"),
        ] {
            transaction.execute(statement(ended)).await?;
        }
    }
    // Orchestrator's table of the same: other programs read it.
    let shown = statement(
        "UPDATE node_health SET last_seen_active = CURRENT_TIMESTAMP, incrementing_indicator = incrementing_indicator + 1 \
         WHERE hostname = ? AND token = ?",
    )
    .bind(&me.name)
    .bind(&me.token);
    if transaction.execute(shown).await? == 0 {
        let first = statement(
            "@INSERT_IGNORE INTO node_health (hostname, token, last_seen_active, first_seen_active, app_version, incrementing_indicator) \
             VALUES (?, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, ?, 1)",
        )
        .bind(&me.name)
        .bind(&me.token)
        .bind(env!("CARGO_PKG_VERSION"));
        transaction.execute(first).await?;
    }
    Ok(true)
}

/// Takes the leadership when it is free. Returns whether it was.
async fn take_leadership(transaction: &mut Transaction, me: &Registration) -> Result<bool, DatabaseError> {
    let over = format!(
        "UPDATE active_node SET hostname = ?, token = ?, first_seen_active = CURRENT_TIMESTAMP, last_seen_active = CURRENT_TIMESTAMP \
         WHERE anchor = 1 AND @SECONDS(last_seen_active) NOT BETWEEN @NOW - {TAKE_OVER_SECONDS} AND @NOW + {TAKE_OVER_SECONDS}"
    );
    let over = statement(over).bind(&me.name).bind(&me.token);
    if transaction.execute(over).await? > 0 {
        return Ok(true);
    }
    let first = statement(
        "@INSERT_IGNORE INTO active_node (anchor, hostname, token, first_seen_active, last_seen_active) \
         VALUES (1, ?, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )
    .bind(&me.name)
    .bind(&me.token);
    Ok(transaction.execute(first).await? > 0)
}

async fn term(transaction: &mut Transaction) -> Result<u64, DatabaseError> {
    let rows = transaction
        .rows(statement("SELECT value FROM ham4db_meta WHERE name = 'term'"))
        .await?;
    rows.first().map_or(Ok(0), |row| number(row, 0))
}

fn number(row: &Row, column: usize) -> Result<u64, DatabaseError> {
    let number = row.integer(column).and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| DatabaseError::Unexpected(format!("`{}` is no number", row.text(column))))
}

fn registration(row: &Row) -> Result<Registration, DatabaseError> {
    Ok(Registration {
        name: row.text(0),
        token: row.text(1),
        http_uri: row.text(2),
        id: number(row, 3)?,
    })
}

/// The epochs of the clusters that these changes are about. Each of them conflicts with a proof of another member.
fn claims(state: &State, changes: &BTreeSet<Change>) -> BTreeMap<ClusterId, Epoch> {
    let cluster_of = |change: &Change| match change {
        Change::Cluster(id) => Some(id.clone()),
        Change::Recovery(uid) => state.recoveries.get(uid).map(|recovery| recovery.plan.cluster.clone()),
        Change::Meta
        | Change::Seeds
        | Change::Forgotten(_)
        | Change::Document(_)
        | Change::Request(_)
        | Change::Quarantine(_)
        | Change::Detection(_)
        | Change::Blocked(_)
        | Change::Member(_)
        | Change::Audit(_)
        | Change::Intent(_) => None,
    };
    let clusters = changes.iter().filter_map(cluster_of);
    let epoch_of = |id: &ClusterId| state.clusters.get(id).map(|cluster| cluster.epoch);
    clusters
        .filter_map(|id| epoch_of(&id).map(|epoch| (id, epoch)))
        .collect()
}

#[async_trait]
impl SharedStore for BackendStore {
    async fn load_versioned(&self) -> Result<VersionedState, StoreError> {
        let failed = self.failed("read the state");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let version = version_of(&mut transaction).await.map_err(&failed)?;
        let (state, mark) = self.load_in(&mut transaction).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(VersionedState { version, state, mark })
    }

    async fn register(&self, me: &Registration, campaigns: bool) -> Result<Registered, RegistrationError> {
        let what = "register this member";
        for _ in 0..TRIES {
            match self.registered(me, campaigns).await {
                Ok(Some(registered)) => return Ok(registered),
                Ok(None) => return Err(RegistrationError::NameInUse(me.name.clone())),
                Err(NotCommitted::Conflict) => {}
                Err(NotCommitted::Failed(error)) => return Err(self.failed(what)(error).into()),
            }
        }
        Err(self.failed(what)(conflicts()).into())
    }

    async fn resign(&self, me: &Registration) -> Result<(), StoreError> {
        let resigned = statement("DELETE FROM active_node WHERE anchor = 1 AND hostname = ? AND token = ?")
            .bind(&me.name)
            .bind(&me.token);
        let resigned = self.database.execute(resigned).await;
        resigned.map(drop).map_err(self.failed("give up the leadership"))
    }

    async fn write_at(
        &self,
        version: u64,
        state: &State,
        changes: &BTreeSet<Change>,
        mark: &AppliedMark,
    ) -> Result<SharedWrite, StoreError> {
        match self.write_in(version, state, changes, mark).await {
            Ok(()) => Ok(SharedWrite::Written),
            Err(NotCommitted::Conflict) => Ok(SharedWrite::Outdated),
            Err(NotCommitted::Failed(error)) => Err(self.failed("write the state")(error)),
        }
    }

    async fn prove(&self, me: &Registration, proof: &Proof) -> Result<Option<u64>, StoreError> {
        for _ in 0..TRIES {
            match self.prove_in(me, proof).await {
                Ok(proved) => return Ok(proved),
                Err(NotCommitted::Conflict) => {}
                Err(NotCommitted::Failed(error)) => return Err(self.failed("prove a claim")(error)),
            }
        }
        Err(self.failed("prove a claim")(conflicts()))
    }
}
