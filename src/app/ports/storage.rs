//! The backend of one member: the replicated state, and what the member keeps for itself over restarts.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Change, MemberId, State};
use crate::domain::time::WallTime;

/// How far the stored state has come, written in the same transaction as the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppliedMark {
    /// Uuid of the group; empty before the bootstrap.
    pub group_uuid: String,
    /// History id of the group.
    pub history: String,
    /// The member that the backend belongs to; 0 before the bootstrap.
    pub member: MemberId,
    /// The consensus adapter's own position (raft: last applied log id and membership, as JSON).
    pub position: String,
}

/// The backend cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend {backend}: {what}: {why}")]
pub struct StoreError {
    /// Which backend, without secrets.
    pub backend: String,
    /// What was tried.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// The replicated state in the backend's tables.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Reads everything.
    async fn load(&self) -> Result<(State, AppliedMark), StoreError>;

    /// Writes the changed records and the mark in one transaction.
    async fn write(&self, state: &State, changes: &BTreeSet<Change>, mark: &AppliedMark) -> Result<(), StoreError>;

    /// Replaces everything, in one transaction: a snapshot was received, or the backend belonged to another history.
    async fn replace(&self, state: &State, mark: &AppliedMark) -> Result<(), StoreError>;
}

/// What a primary was last seen to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Where.
    pub instance: InstanceKey,
    /// Who: an address may be given to another server.
    pub identity: Identity,
    /// What it had executed.
    pub executed: GtidSet,
    /// When.
    pub at: WallTime,
}

/// Keeps positions on this member's own disk; they are no part of the replicated state.
#[async_trait]
pub trait PositionStore: Send + Sync {
    /// All that is kept.
    async fn load_positions(&self) -> Result<Vec<Position>, StoreError>;

    /// Writes these, each in the place of what was kept for its address.
    async fn save_positions(&self, positions: &[Position]) -> Result<(), StoreError>;
}

/// An instance's code from some moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalysisChange {
    /// Since when.
    pub at: WallTime,
    /// The code.
    pub code: Code,
}

/// Keeps changes on this member's own disk; they are no part of the replicated state.
#[async_trait]
pub trait ChangeStore: Send + Sync {
    /// All that are kept, the oldest first. Codes that this program does not know are left out.
    async fn load_changes(&self) -> Result<Vec<(InstanceKey, AnalysisChange)>, StoreError>;

    /// Adds these.
    async fn add_changes(&self, changes: &[(InstanceKey, AnalysisChange)]) -> Result<(), StoreError>;

    /// Drops changes from before this moment, but of each instance the last.
    async fn purge_changes(&self, before: WallTime) -> Result<(), StoreError>;
}
