//! How long a step waits for a replica.

use std::time::Duration;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLimit {
    /// The longest time.
    pub deadline: Duration,
    /// The longest time without progress; `None`: progress does not matter.
    pub without_progress: Option<Duration>,
}

impl WaitLimit {
    /// A fixed time, whatever the progress.
    pub fn of(deadline: Duration) -> Self {
        Self {
            deadline,
            without_progress: None,
        }
    }
}
