//! The port `Clock` on tokio's time, so that a test controls the time.

use tokio::time::Instant;

use crate::app::ports::Clock;
use crate::domain::fixture::NOW;
use crate::domain::time::{MonotonicTime, WallTime};

/// A clock that starts at [`NOW`] when it is created.
pub(crate) struct PausedClock {
    begun: Instant,
    wrong_by_millis: i64,
}

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            wrong_by_millis: 0,
        }
    }

    /// The same clock with a wall clock that is ahead by so much.
    pub(crate) fn ahead(&self, millis: i64) -> Self {
        Self {
            begun: self.begun,
            wrong_by_millis: millis,
        }
    }
}

impl Clock for PausedClock {
    fn wall(&self) -> WallTime {
        let elapsed = i64::try_from(self.begun.elapsed().as_millis()).unwrap();
        NOW.plus_millis(elapsed + self.wrong_by_millis)
    }

    fn monotonic(&self) -> MonotonicTime {
        // Never zero: the first moment is a moment too.
        MonotonicTime(u64::try_from(self.begun.elapsed().as_micros()).unwrap() + 1)
    }
}
