//! The clocks of this machine.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::app::ports::Clock;
use crate::domain::time::{MonotonicTime, WallTime};

/// The clocks of the operating system. The monotonic clock starts at 0 when this value is created.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
    wrong_by: WrongBy,
}

/// By how much a test makes the wall clock of this process wrong. Only in builds with debug assertions.
#[derive(Debug, Clone)]
enum WrongBy {
    /// By so many milliseconds, 0 unless `HAM4DB_CLOCK_OFFSET_MILLIS` is set.
    Millis(i64),
    /// By the milliseconds in the file of `HAM4DB_CLOCK_OFFSET_FILE`, which is read each time: the clock jumps when the file changes.
    /// 0 while there is no such file.
    File(PathBuf),
}

impl WrongBy {
    fn from_environment() -> Self {
        if !cfg!(debug_assertions) {
            return Self::Millis(0);
        }
        if let Some(file) = std::env::var_os("HAM4DB_CLOCK_OFFSET_FILE") {
            return Self::File(file.into());
        }
        let offset = std::env::var("HAM4DB_CLOCK_OFFSET_MILLIS").ok();
        Self::Millis(offset.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    fn millis(&self) -> i64 {
        match self {
            Self::Millis(millis) => *millis,
            Self::File(file) => {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                text.trim().parse().unwrap_or_default()
            }
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            wrong_by: WrongBy::from_environment(),
        }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).plus_millis(self.wrong_by.millis())
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_jumps_when_its_file_changes() {
        let folder = tempfile::tempdir().expect("because the machine has a folder for temporary files");
        let file = folder.path().join("offset");
        let wrong_by = WrongBy::File(file.clone());
        assert_eq!(wrong_by.millis(), 0, "there is no file");
        for (text, millis) in [("10800000\n", 10_800_000), ("-40000", -40_000), ("", 0)] {
            std::fs::write(&file, text).expect("because the folder is ours");
            assert_eq!(wrong_by.millis(), millis);
        }
    }
}
