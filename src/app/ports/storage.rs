//! The backend of one member: the replicated state, and what the member itself keeps over restarts.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Instance};
use crate::domain::key::InstanceKey;
use crate::domain::state::{Change, MemberId, State};
use crate::domain::time::WallTime;

/// The log position that the stored state stands for. It is written in the same transaction as the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppliedMark {
    /// Uuid of the group; empty before the bootstrap.
    pub group_uuid: String,
    /// History id of the group.
    pub history: String,
    /// The member that the backend belongs to; 0 before the bootstrap.
    pub member: MemberId,
    /// The position as the consensus adapter writes it (raft: last applied log id and membership, as JSON).
    pub position: String,
}

/// The backend could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend {backend}: {what}: {why}")]
pub struct StoreError {
    /// The backend, without secrets.
    pub backend: String,
    /// The operation that failed.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// The replicated state in the backend's tables.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The backend, without secrets.
    fn name(&self) -> String;

    /// Asks a backend that is a server whether it answers. A file always does; its errors show when it is written.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Reads the whole state and its mark.
    async fn load(&self) -> Result<(State, AppliedMark), StoreError>;

    /// Writes the changed records and the mark in one transaction.
    async fn write(&self, state: &State, changes: &BTreeSet<Change>, mark: &AppliedMark) -> Result<(), StoreError>;

    /// Replaces the whole state in one transaction: a snapshot was received, or the backend belonged to another history.
    async fn replace(&self, state: &State, mark: &AppliedMark) -> Result<(), StoreError>;
}

/// The transactions that a primary was last observed to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The address of the primary.
    pub instance: InstanceKey,
    /// The identity of the primary: another server may get the same address later.
    pub identity: Identity,
    /// The transactions that it had executed.
    pub executed: GtidSet,
    /// The time of the observation.
    pub at: WallTime,
}

/// Keeps positions of primaries in this member's backend. They are not part of the replicated state.
#[async_trait]
pub trait PositionStore: Send + Sync {
    /// All kept positions.
    async fn load_positions(&self) -> Result<Vec<Position>, StoreError>;

    /// Writes these positions. Each replaces the position that was kept for its address.
    async fn save_positions(&self, positions: &[Position]) -> Result<(), StoreError>;
}

/// The analysis code of an instance from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalysisChange {
    /// The time of the change.
    pub at: WallTime,
    /// The code from then on.
    pub code: Code,
}

/// Keeps changes of the analysis in this member's backend. They are not part of the replicated state.
#[async_trait]
pub trait ChangeStore: Send + Sync {
    /// All kept changes, oldest first. Codes that this version does not know are left out.
    async fn load_changes(&self) -> Result<Vec<(InstanceKey, AnalysisChange)>, StoreError>;

    /// Adds these changes.
    async fn add_changes(&self, changes: &[(InstanceKey, AnalysisChange)]) -> Result<(), StoreError>;

    /// Drops the changes before this time, except the last change of each instance.
    async fn purge_changes(&self, before: WallTime) -> Result<(), StoreError>;
}

/// A server as it was observed, with what its cluster says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedInstance {
    /// The observation.
    pub instance: Instance,
    /// Name of its cluster.
    pub cluster_name: String,
    /// Alias of its cluster; empty when it has none.
    pub cluster_alias: String,
    /// The address of its source under which that server is known.
    pub source: Option<InstanceKey>,
    /// How many sources are above it.
    pub depth: u32,
    /// Whether it and its source replicate from each other.
    pub is_co_primary: bool,
    /// See [`Topology::ancestry_of`](crate::domain::topology::Topology::ancestry_of).
    pub ancestry: String,
    /// Transactions that it has and should not have; empty when there are none.
    pub errant: String,
}

/// Keeps the observations of all servers in the backend: in orchestrator's table, for whatever reads that, and whole in one of ham4db's.
/// They are written behind: nothing that ham4db decides waits for them or depends on them.
#[async_trait]
pub trait InstanceStore: Send + Sync {
    /// The instances as they were written last. Those that this version cannot read are left out.
    async fn load_instances(&self) -> Result<Vec<Instance>, StoreError>;

    /// Writes these, in transactions of at most `batch` instances.
    async fn save_instances(&self, instances: &[RecordedInstance], batch: usize) -> Result<(), StoreError>;

    /// Deletes what was written of all instances except these. Rows of orchestrator's table that only an orchestrator wrote stay.
    async fn retain_instances(&self, known: &BTreeSet<InstanceKey>) -> Result<(), StoreError>;
}
