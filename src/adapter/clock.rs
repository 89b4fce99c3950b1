//! The clocks of this machine.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::app::ports::Clock;
use crate::domain::time::{MonotonicTime, WallTime};

/// The clocks of the operating system. The monotonic clock starts at 0 when this value is created.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
