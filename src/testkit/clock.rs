//! The port `Clock` on tokio's time, so that a test controls the time.

use tokio::time::Instant;

use crate::app::ports::Clock;
use crate::domain::fixture::NOW;
use crate::domain::time::{MonotonicTime, WallTime};

/// A clock that starts at [`NOW`] when it is created.
pub(crate) struct PausedClock {
    begun: Instant,
}

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Clock for PausedClock {
    fn wall(&self) -> WallTime {
        NOW.plus_millis(i64::try_from(self.begun.elapsed().as_millis()).unwrap())
    }

    fn monotonic(&self) -> MonotonicTime {
        // Never zero: the first moment is a moment too.
        MonotonicTime(u64::try_from(self.begun.elapsed().as_micros()).unwrap() + 1)
    }
}
