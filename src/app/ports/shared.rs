//! A backend that several members share: they elect a leader in it, and change the state in it one after the other.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::domain::state::{Change, Epoch, MemberId, State};
use crate::domain::topology::ClusterId;

use super::storage::{AppliedMark, StateStore, StoreError};

/// A member as it registers itself in the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name, which no other process uses at the same time.
    pub name: String,
    /// A token of the process.
    pub token: String,
    /// Base URI of its API.
    pub http_uri: String,
    /// Its id; 0 before it has one.
    pub id: MemberId,
}

/// What a member finds when it registers itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The members that registered themselves in the last seconds, ordered by name.
    pub members: Vec<Registration>,
    /// Name and token of the leader; `None`: there is none.
    pub leader: Option<(String, String)>,
    /// How often leadership was taken so far.
    pub term: u64,
    /// The version of the state.
    pub version: u64,
}

/// Why a member could not register itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// Another process registered itself with the same name in the last seconds.
    #[error("another process runs as {0}: give each member a name of its own (HTTPAdvertise)")]
    NameInUse(String),
    /// The backend could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The state with its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionedState {
    /// Grows by one with each write.
    pub version: u64,
    /// The state.
    pub state: State,
    /// Group and owner of the backend.
    pub mark: AppliedMark,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedWrite {
    /// It is committed.
    Written,
    /// Another member has changed the state since: nothing was written.
    Outdated,
}

/// What a member proves before it acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No member has claimed the cluster with a higher epoch.
    Claim {
        /// The cluster.
        cluster: ClusterId,
        /// The epoch of the claim.
        epoch: Epoch,
    },
    /// The member leads.
    Leadership,
}

/// The state in a backend that several members share.
///
/// All times are those of the database, in whole seconds.
#[async_trait]
pub trait SharedStore: StateStore {
    /// Reads the state and its version together.
    async fn load_versioned(&self) -> Result<VersionedState, StoreError>;

    /// Registers this process again, and renews its leadership. With `campaigns` it takes the leadership when there is no leader, or
    /// when the leader has not renewed its own for [`TAKE_OVER_SECONDS`].
    async fn register(&self, me: &Registration, campaigns: bool) -> Result<Registered, RegistrationError>;

    /// Gives up the leadership, if this process has it.
    async fn resign(&self, me: &Registration) -> Result<(), StoreError>;

    /// Writes what changed, unless the version of the state is no longer `version`. The next version is one larger.
    async fn write_at(
        &self,
        version: u64,
        state: &State,
        changes: &BTreeSet<Change>,
        mark: &AppliedMark,
    ) -> Result<SharedWrite, StoreError>;

    /// Proves something by a row that is changed, which conflicts with a change by another member, and is judged after the commit.
    /// Returns the version of the state at that moment; `None`: it is not so.
    async fn prove(&self, me: &Registration, proof: &Proof) -> Result<Option<u64>, StoreError>;
}

/// After so many seconds without renewal the leadership may be taken. A leader stops earlier: see the lease in `adapter/shared`.
pub const TAKE_OVER_SECONDS: u32 = 3;
