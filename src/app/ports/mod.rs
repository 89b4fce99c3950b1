//! What the use cases need from outside, as traits that adapters implement: one file for each outside system.

use crate::domain::time::{MonotonicTime, WallTime};

pub mod cluster_source;
mod consensus;
mod hooks;
mod log_source;
mod mysql;
mod storage;

pub use consensus::{
    BootstrapMarker, Consensus, Health, Leadership, OpinionSource, Peer, ProposeError, Question, Unconfirmed,
};
pub use hooks::{HookCall, HookEnd, HookExit, Hooks};
pub use log_source::{Log, LogReader, LogSource, Piece};
pub use mysql::{
    Account, Approach, Attachment, BinlogReader, CommitProbe, Credentials, CredentialsByOrigin, EntryWriter, Executor,
    OpenTransaction, Owner, OwnerLocks, Prober, Pulse, StepError, StepSession, Target, TlsMode,
};
pub use storage::{AnalysisChange, AppliedMark, ChangeStore, Position, PositionStore, StateStore, StoreError};

/// The clocks of this machine.
pub trait Clock: Send + Sync {
    /// WallTime time, for records and expiry.
    fn wall(&self) -> WallTime;
    /// Monotonic time of this process, for freshness.
    fn monotonic(&self) -> MonotonicTime;
}
