//! When a status is to be written.

use std::collections::BTreeMap;

use crate::domain::declared::StatusModel;
use crate::domain::intent::Origin;
use crate::domain::time::MonotonicTime;

/// Changes of lag and texts are gathered for this long, milliseconds: the API server does not get every sample.
const GATHER_MILLIS: u64 = 10_000;
/// An unchanged status is written again after this long, milliseconds. Another group then sees that this one is alive (it waits 90 s), and
/// operators see when the cluster was last observed.
const RENEW_MILLIS: u64 = 60_000;
/// The first wait after a failure, milliseconds; doubled up to [`MAX_RETRY_MILLIS`].
const RETRY_MILLIS: u64 = 1_000;
/// The longest wait after failures, milliseconds.
const MAX_RETRY_MILLIS: u64 = 30_000;

/// A status that was written, and when.
#[derive(Debug)]
struct Written {
    status: StatusModel,
    at: MonotonicTime,
}

/// A status that was not written, and when it is retried.
#[derive(Debug)]
struct Failed {
    status: StatusModel,
    times: u32,
    retry: MonotonicTime,
}

/// The statuses that one leader wrote, and those that failed.
#[derive(Debug, Default)]
pub(super) struct StatusThrottle {
    written: BTreeMap<Origin, Written>,
    failed: BTreeMap<Origin, Failed>,
}

impl StatusThrottle {
    /// Whether the status is to be written now.
    pub(super) fn is_due(&self, origin: &Origin, status: &StatusModel, now: MonotonicTime) -> bool {
        if let Some(failed) = self.failed.get(origin)
            && now < failed.retry
            && !status.differs_in_substance(&failed.status)
        {
            return false;
        }
        let Some(written) = self.written.get(origin) else {
            return true;
        };
        let age = now.millis_since(written.at);
        status.differs_in_substance(&written.status)
            || age >= RENEW_MILLIS
            || (*status != written.status && age >= GATHER_MILLIS)
    }

    /// The status was written.
    pub(super) fn succeeded(&mut self, origin: &Origin, status: StatusModel, now: MonotonicTime) {
        self.failed.remove(origin);
        self.written.insert(origin.clone(), Written { status, at: now });
    }

    /// The status was not written. Returns whether that is to be logged: at the first failure.
    pub(super) fn failed(&mut self, origin: &Origin, status: StatusModel, now: MonotonicTime) -> bool {
        let times = self.failed.get(origin).map_or(0, |failed| failed.times);
        let wait = RETRY_MILLIS.saturating_mul(1 << times.min(5)).min(MAX_RETRY_MILLIS);
        let retry = MonotonicTime(now.0.saturating_add(wait * 1000));
        self.failed.insert(
            origin.clone(),
            Failed {
                status,
                times: times.saturating_add(1),
                retry,
            },
        );
        times == 0
    }

    /// Forgets documents that no longer have a status.
    pub(super) fn keep_only(&mut self, statuses: &BTreeMap<Origin, StatusModel>) {
        self.written.retain(|origin, _| statuses.contains_key(origin));
        self.failed.retain(|origin, _| statuses.contains_key(origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::Document {
            namespace: "db".to_owned(),
            name: "orders".to_owned(),
        }
    }

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime(millis * 1000)
    }

    fn words(text: &str) -> StatusModel {
        StatusModel {
            problem: text.to_owned(),
            ..StatusModel::default()
        }
    }

    fn generation(number: i64) -> StatusModel {
        StatusModel {
            observed_generation: Some(number),
            ..StatusModel::default()
        }
    }

    #[test]
    fn what_matters_is_written_at_once_and_words_after_ten_seconds() {
        let mut throttle = StatusThrottle::default();
        assert!(throttle.is_due(&origin(), &words("a"), at(0)));
        throttle.succeeded(&origin(), words("a"), at(0));
        assert!(!throttle.is_due(&origin(), &words("a"), at(5)));
        assert!(!throttle.is_due(&origin(), &words("b"), at(9_999)));
        assert!(throttle.is_due(&origin(), &words("b"), at(10_000)));
        assert!(throttle.is_due(&origin(), &generation(2), at(1)));
    }

    #[test]
    fn an_unchanged_status_is_renewed_each_minute() {
        let mut throttle = StatusThrottle::default();
        throttle.succeeded(&origin(), words("a"), at(0));
        assert!(!throttle.is_due(&origin(), &words("a"), at(59_999)));
        assert!(throttle.is_due(&origin(), &words("a"), at(60_000)));
    }

    #[test]
    fn after_a_failure_it_waits_unless_something_changes() {
        let mut throttle = StatusThrottle::default();
        assert!(throttle.failed(&origin(), words("a"), at(0)));
        assert!(!throttle.is_due(&origin(), &words("a"), at(999)));
        assert!(throttle.is_due(&origin(), &words("a"), at(1_000)));
        assert!(!throttle.failed(&origin(), words("a"), at(1_000)));
        assert!(!throttle.is_due(&origin(), &words("a"), at(2_999)));
        assert!(throttle.is_due(&origin(), &generation(3), at(1_001)));
        for _ in 0..40 {
            throttle.failed(&origin(), words("a"), at(5_000));
        }
        assert!(throttle.is_due(&origin(), &words("a"), at(35_000)));
    }

    #[test]
    fn documents_that_are_gone_are_forgotten() {
        let mut throttle = StatusThrottle::default();
        throttle.succeeded(&origin(), words("a"), at(0));
        throttle.keep_only(&BTreeMap::new());
        assert!(throttle.is_due(&origin(), &words("a"), at(1)));
    }
}
