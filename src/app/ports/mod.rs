//! What the use cases need from outside, as traits that adapters implement. There is one file for each outside system.

use crate::domain::time::{MonotonicTime, WallTime};

pub mod cluster_source;
mod consensus;
mod hooks;
mod mysql;
pub mod publisher;
mod storage;

pub use consensus::{
    BootstrapMarker, Consensus, Health, Leadership, OpinionSource, Peer, ProposeError, Question, Unconfirmed,
};
pub use hooks::{HookCall, HookExit, HookResult, Hooks};
pub use mysql::{
    Account, Attachment, BinlogReader, CommitProbe, ControllerLockClient, Credentials, CredentialsByOrigin,
    EntryWriter, Executor, LockHolder, LogKind, LogRange, LogReader, LogSource, OpenTransaction, ProbeConnection,
    Prober, Pulse, StepError, StepSession, Target, TlsMode,
};
pub use storage::{AnalysisChange, AppliedMark, ChangeStore, Position, PositionStore, StateStore, StoreError};

/// The clocks of this machine.
pub trait Clock: Send + Sync {
    /// Wall-clock time, for records and expiry.
    fn wall(&self) -> WallTime;
    /// Monotonic time of this process, for freshness.
    fn monotonic(&self) -> MonotonicTime;
}
