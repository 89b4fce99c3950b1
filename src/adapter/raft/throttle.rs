//! Says the same thing at most every so often: waiting for a peer must not fill a disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line that was said is not said again before this.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// Different lines remembered; beyond this the memory starts anew.
const REMEMBERED: usize = 256;

/// Remembers what was said when.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<BTreeMap<String, (Instant, u32)>>);

impl Throttle {
    /// `Some` when the line may be said now, with how often it was held back since it was said last.
    pub(super) fn admit(&self, line: &str) -> Option<String> {
        self.admit_at(line, Instant::now())
    }

    fn admit_at(&self, line: &str, now: Instant) -> Option<String> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() > REMEMBERED {
            said.clear();
        }
        match said.get_mut(line) {
            Some((at, held_back)) if now.duration_since(*at) < REPEAT_AFTER => {
                *held_back = held_back.saturating_add(1);
                None
            }
            Some((at, held_back)) => {
                let note = if *held_back == 0 {
                    String::new()
                } else {
                    format!(" ({held_back} more since it was said last)")
                };
                (*at, *held_back) = (now, 0);
                Some(note)
            }
            None => {
                said.insert(line.to_owned(), (now, 0));
                Some(String::new())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_held_back_and_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit_at("a", start).as_deref(), Some(""));
        assert_eq!(throttle.admit_at("a", start + Duration::from_secs(1)), None);
        assert_eq!(
            throttle.admit_at("b", start + Duration::from_secs(1)).as_deref(),
            Some("")
        );
        assert_eq!(
            throttle.admit_at("a", start + Duration::from_secs(31)).as_deref(),
            Some(" (1 more since it was said last)")
        );
        assert_eq!(
            throttle.admit_at("a", start + Duration::from_secs(62)).as_deref(),
            Some("")
        );
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..10 * REMEMBERED {
            throttle.admit(&number.to_string());
        }
        assert!(throttle.0.lock().unwrap().len() <= REMEMBERED + 1);
    }
}
