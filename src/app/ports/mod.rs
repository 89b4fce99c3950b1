//! What the use cases need from outside, as traits that adapters implement. There is one file for each outside system.

use crate::domain::clock_skew::ClockComparison;
use crate::domain::time::{MonotonicTime, WallTime};

pub mod cluster_source;
mod consensus;
mod hooks;
mod mysql;
mod observations;
pub mod publisher;
mod shared;
mod storage;

pub use consensus::{
    BootstrapMarker, Consensus, Health, Leadership, OpinionSource, Peer, ProposeError, Question, Unconfirmed,
};
pub use hooks::{HookCall, HookExit, HookResult, Hooks};
pub use mysql::{
    Account, Attachment, BinlogReader, CommitProbe, ControllerLockClient, Credentials, CredentialsByOrigin,
    EntryWriter, Executor, LockHolder, LockHolderSession, LogKind, LogRange, LogReader, LogSource, OpenTransaction,
    ProbeConnection, Prober, Pulse, StepError, StepSession, Target, TlsMode,
};
pub use observations::{
    AssignmentOffer, MAX_ASSIGNED, MAX_OBSERVATION_BYTES, MAX_OBSERVATIONS, ObservationRequest, ObservationSource,
    ObservationUpdate, SharedObservation, SharedOutcome,
};
pub use shared::{
    Proof, Registered, Registration, RegistrationError, SharedStore, SharedWrite, TAKE_OVER_SECONDS, VersionedState,
};
pub use storage::{
    AnalysisChange, AppliedMark, ChangeStore, InstanceStore, Position, PositionStore, RecordedInstance, StateStore,
    StoreError,
};

/// The clocks of this machine.
pub trait Clock: Send + Sync {
    /// Wall-clock time, for records and expiry.
    fn wall(&self) -> WallTime;
    /// Monotonic time of this process, for freshness.
    fn monotonic(&self) -> MonotonicTime;
    /// How the clocks of the members differ. Without other members there is nothing to compare.
    fn comparison(&self) -> ClockComparison {
        ClockComparison::default()
    }
}
