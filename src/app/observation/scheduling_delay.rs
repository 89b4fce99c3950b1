//! How late the tasks of this process run. A probe that a busy process reads too late shows nothing about the server.
//!
//! A task wakes every few milliseconds and records how much later than planned it ran. All tasks wait in the same queues, so a probe was
//! delayed about as much.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::time::MonotonicTime;

use crate::app::ports::Clock;

/// How often the task wakes.
const TICK: Duration = Duration::from_millis(20);
const TICK_MILLIS: u64 = 20;
/// A delay of this length is that of the timer, milliseconds.
const TOLERATED_MILLIS: u64 = 5;
/// For how long delays are kept, milliseconds.
const KEPT_MILLIS: u64 = 10_000;
/// The member is overloaded while its tasks were delayed for at least this share of the last ten seconds, percent, and until it is less
/// than the lower share.
const OVERLOADED_PERCENT: u64 = 50;
const RELAXED_PERCENT: u64 = 25;

/// How late tasks ran in the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// The longest delay, milliseconds.
    pub worst_millis: u64,
    /// For which share of the time tasks waited, percent.
    pub percent: u64,
    /// Whether that is too much to observe servers in time.
    pub is_overloaded: bool,
    /// How many failed probes were discarded since the start, because this process was late.
    pub discarded_probes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Delay {
    at: MonotonicTime,
    millis: u64,
}

#[derive(Debug, Default)]
struct Delays {
    last: Option<MonotonicTime>,
    /// The delays that are long enough to count, oldest first.
    recent: VecDeque<Delay>,
    is_overloaded: bool,
}

impl Delays {
    /// The delays since a time, in sum. A task that is due and has not run yet is delayed too.
    fn since(&self, since: MonotonicTime, now: MonotonicTime) -> u64 {
        self.delays_since(since) + self.pending(now).min(now.millis_since(since))
    }

    fn delays_since(&self, since: MonotonicTime) -> u64 {
        let recorded = self.recent.iter().filter(|delay| delay.at >= since);
        recorded
            .map(|delay| delay.millis.min(delay.at.millis_since(since)))
            .sum()
    }

    fn pending(&self, now: MonotonicTime) -> u64 {
        let waited = self.last.map_or(0, |last| now.millis_since(last));
        let late = waited.saturating_sub(TICK_MILLIS);
        if late > TOLERATED_MILLIS { late } else { 0 }
    }

    fn worst(&self, now: MonotonicTime) -> u64 {
        let recorded = self.recent.iter().map(|delay| delay.millis).max();
        recorded.unwrap_or_default().max(self.pending(now))
    }

    /// The delays of the last ten seconds as a share of them.
    fn percent(&self, now: MonotonicTime) -> u64 {
        let from = MonotonicTime(now.0.saturating_sub(KEPT_MILLIS * 1000));
        self.delays_since(from) * 100 / KEPT_MILLIS + self.pending(now) * 100 / KEPT_MILLIS
    }
}

/// The delays of this process in the last seconds.
#[derive(Debug, Default)]
pub struct SchedulingDelays {
    inner: Mutex<Delays>,
    discarded_probes: AtomicU64,
}

impl SchedulingDelays {
    fn lock(&self) -> MutexGuard<'_, Delays> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures until `stop`.
    pub async fn measure(&self, clock: &dyn Clock, stop: CancellationToken) {
        loop {
            let due = clock.monotonic().0 + TICK_MILLIS * 1000;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            let now = clock.monotonic();
            self.record(now, now.millis_since(MonotonicTime(due)));
        }
    }

    /// Records that a task ran at `at`, `millis` later than planned.
    pub fn record(&self, at: MonotonicTime, millis: u64) {
        let mut inner = self.lock();
        inner.last = Some(at);
        if millis > TOLERATED_MILLIS {
            inner.recent.push_back(Delay { at, millis });
        }
        while inner
            .recent
            .front()
            .is_some_and(|delay| at.millis_since(delay.at) > KEPT_MILLIS)
        {
            inner.recent.pop_front();
        }
        let (percent, worst) = (inner.percent(at), inner.worst(at));
        let is_overloaded = percent
            >= if inner.is_overloaded {
                RELAXED_PERCENT
            } else {
                OVERLOADED_PERCENT
            };
        let was_overloaded = std::mem::replace(&mut inner.is_overloaded, is_overloaded);
        drop(inner);
        match (was_overloaded, is_overloaded) {
            (false, true) => warn!(
                "this member is overloaded: its tasks wait for {percent} % of the time, up to {worst} ms; probes that it reads late are \
                 no failures, and failures are detected later"
            ),
            (true, false) => info!("this member is no longer overloaded"),
            (true, true) | (false, false) => {}
        }
    }

    /// For how long tasks of this process waited since `since`, milliseconds in sum.
    pub fn delayed_since(&self, since: MonotonicTime, now: MonotonicTime) -> u64 {
        self.lock().since(since, now)
    }

    /// Counts a failed probe that was discarded.
    pub fn count_discarded_probe(&self) {
        self.discarded_probes.fetch_add(1, Ordering::Relaxed);
    }

    /// How late tasks run.
    pub fn lateness(&self, now: MonotonicTime) -> Lateness {
        let inner = self.lock();
        Lateness {
            worst_millis: inner.worst(now),
            percent: inner.percent(now),
            is_overloaded: inner.is_overloaded,
            discarded_probes: self.discarded_probes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime(millis * 1000)
    }

    #[test]
    fn a_task_that_has_not_run_yet_is_late_too() {
        let delays = SchedulingDelays::default();
        assert_eq!(delays.delayed_since(at(0), at(900)), 0, "nothing was measured");
        delays.record(at(1000), 1);
        assert_eq!(delays.delayed_since(at(500), at(1015)), 0);
        assert_eq!(delays.delayed_since(at(500), at(1420)), 400);
        delays.record(at(1420), 400);
        assert_eq!(delays.delayed_since(at(500), at(1420)), 400);
        assert_eq!(delays.delayed_since(at(1200), at(1420)), 220, "only what lies behind");
        assert_eq!(delays.delayed_since(at(1421), at(1430)), 0);
    }

    #[test]
    fn overload_begins_and_ends_once() {
        let delays = SchedulingDelays::default();
        let is_overloaded = |now| delays.lateness(at(now)).is_overloaded;
        // Ten seconds in which every task waits for 80 ms.
        for tick in 1..=50 {
            delays.record(at(tick * 100), 80);
        }
        assert!(!is_overloaded(5000), "five seconds may be a burst");
        for tick in 51..=100 {
            delays.record(at(tick * 100), 80);
        }
        assert!(is_overloaded(10_000));
        assert_eq!(delays.lateness(at(10_000)).worst_millis, 80);
        for tick in 1..=400 {
            delays.record(at(10_000 + tick * 20), 0);
        }
        assert!(
            !is_overloaded(18_000),
            "a quarter of the last ten seconds is left at most"
        );
    }
}
