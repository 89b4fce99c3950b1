//! Limits repeated log lines: waiting for a peer must not fill a disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Minimum time between two equal lines.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// Maximum number of different lines that are remembered; the memory is cleared beyond it.
const REMEMBERED: usize = 256;

/// Remembers when each line was logged.
#[derive(Debug, Default)]
pub(super) struct LogThrottle(Mutex<BTreeMap<String, (Instant, u32)>>);

impl LogThrottle {
    /// `Some` when the line may be logged now, with a note of how often it was suppressed since it was logged last.
    pub(super) fn admit(&self, line: &str) -> Option<String> {
        self.admit_at(line, Instant::now())
    }

    fn admit_at(&self, line: &str, now: Instant) -> Option<String> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() > REMEMBERED {
            logged.clear();
        }
        match logged.get_mut(line) {
            Some((at, suppressed)) if now.duration_since(*at) < REPEAT_AFTER => {
                *suppressed = suppressed.saturating_add(1);
                None
            }
            Some((at, suppressed)) => {
                let note = if *suppressed == 0 {
                    String::new()
                } else {
                    format!(" ({suppressed} more since it was logged last)")
                };
                (*at, *suppressed) = (now, 0);
                Some(note)
            }
            None => {
                logged.insert(line.to_owned(), (now, 0));
                Some(String::new())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_suppressed_and_counted() {
        let throttle = LogThrottle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit_at("a", start).as_deref(), Some(""));
        assert_eq!(throttle.admit_at("a", start + Duration::from_secs(1)), None);
        assert_eq!(
            throttle.admit_at("b", start + Duration::from_secs(1)).as_deref(),
            Some("")
        );
        assert_eq!(
            throttle.admit_at("a", start + Duration::from_secs(31)).as_deref(),
            Some(" (1 more since it was logged last)")
        );
        assert_eq!(
            throttle.admit_at("a", start + Duration::from_secs(62)).as_deref(),
            Some("")
        );
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = LogThrottle::default();
        for number in 0..10 * REMEMBERED {
            throttle.admit(&number.to_string());
        }
        assert!(throttle.0.lock().unwrap().len() <= REMEMBERED + 1);
    }
}
