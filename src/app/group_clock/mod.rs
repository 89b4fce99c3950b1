//! The clock that a member uses: its own, corrected by the clocks of the other members.
//!
//! Downtimes, blocks, deadlines and the times of commands follow this clock. A member with a wrong clock, also the
//! leader, therefore continues to work with the time of the majority. Between two comparisons the time advances with the
//! monotonic clock, so a jump of this machine's clock changes nothing until a majority has confirmed it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::app::ports::{Clock, Consensus};
use crate::domain::clock_skew::{ClockComparison, ClockOffset, ClockReading, is_agreed, majority_time, offsets};
use crate::domain::state::{Command, MemberId};
use crate::domain::time::{MonotonicTime, WallTime};

/// While the own clock differs from the expected time by at most this, it is used as it is.
const SLACK_MILLIS: u64 = 500;
/// How often the own wall clock is compared with the own monotonic clock.
const JUMP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A comparison that is older than this proves no agreement.
const AGREED_FOR_MILLIS: u64 = 10_000;

/// A clock that follows the majority of the group.
pub struct GroupClock {
    own: Arc<dyn Clock>,
    limit_millis: u64,
    state: RwLock<Compared>,
}

/// The latest comparison.
#[derive(Default)]
struct Compared {
    /// The time of the group at a moment of the monotonic clock.
    anchor: Option<(WallTime, MonotonicTime)>,
    /// When the clocks of a majority agreed last.
    agreed: Option<MonotonicTime>,
    /// Whether there are other members to compare with.
    in_group: bool,
    offsets: Vec<ClockOffset>,
    /// The members that were reported as skewed.
    reported: Vec<MemberId>,
}

impl std::fmt::Debug for GroupClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupClock").finish_non_exhaustive()
    }
}

impl GroupClock {
    /// Follows the own clock until it is compared with others.
    pub fn new(own: Arc<dyn Clock>, limit_millis: u64) -> Self {
        Self {
            own,
            limit_millis,
            state: RwLock::default(),
        }
    }

    /// The clock of this machine, not corrected.
    pub fn own(&self) -> &dyn Clock {
        self.own.as_ref()
    }

    /// Other members exist: until their clocks are read, nothing is agreed.
    pub fn expect_comparison(&self) {
        self.write().in_group = true;
    }

    /// Whether a majority was compared at least once.
    pub fn was_compared(&self) -> bool {
        self.read().anchor.is_some()
    }

    /// Records the clocks of the voters, read just now, this member's among them. `earliest` is the clock of the
    /// replicated state: the time of the group at the first comparison when the known clocks disagree.
    pub fn compare(&self, readings: &[ClockReading], voters: usize, earliest: WallTime) {
        let now = self.own.monotonic();
        let present = if self.was_compared() { self.wall() } else { earliest };
        let Some(group) = majority_time(readings, voters, present) else {
            return;
        };
        let fresh = offsets(readings, group);
        let mut state = self.write();
        state.in_group = voters > 1;
        state.anchor = Some((group, now));
        if is_agreed(&fresh, voters, self.limit_millis) {
            state.agreed = Some(now);
        }
        // A member that did not answer keeps its last offset while others are compared.
        state
            .offsets
            .retain(|known| fresh.iter().all(|offset| offset.member != known.member));
        state.offsets.extend(fresh);
        state.offsets.sort_by_key(|offset| offset.member);
        self.report(&mut state);
    }

    /// Forgets the clocks of members that are no longer voters.
    pub fn retain_members(&self, is_voter: impl Fn(MemberId) -> bool) {
        self.write().offsets.retain(|offset| is_voter(offset.member));
    }

    /// Logs each clock that begins or ceases to differ, once.
    fn report(&self, state: &mut Compared) {
        let skewed: Vec<&ClockOffset> = state
            .offsets
            .iter()
            .filter(|offset| offset.is_beyond(self.limit_millis))
            .collect();
        for offset in &skewed {
            if !state.reported.contains(&offset.member) {
                warn!("{offset}; the group continues with the majority's time: correct the clock of that machine");
            }
        }
        for offset in &state.offsets {
            if state.reported.contains(&offset.member) && !offset.is_beyond(self.limit_millis) {
                info!("the clock of member {} agrees with the majority's again", offset.name);
            }
        }
        state.reported = skewed.into_iter().map(|offset| offset.member).collect();
    }

    /// Reports when the clock of this machine jumps. A single member has no other clock to compare with, and follows it.
    pub async fn watch_jumps(self: Arc<Self>, stop: CancellationToken) {
        let mut last = (self.own.wall(), self.own.monotonic());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(JUMP_CHECK_INTERVAL) => {}
            }
            let now = (self.own.wall(), self.own.monotonic());
            if let Some(millis) = jump(last, now, self.limit_millis) {
                let direction = if millis < 0 { "back" } else { "forward" };
                let seconds = millis.unsigned_abs() / 1000;
                warn!("the clock of this machine jumped {direction} by {seconds} s, or the machine was suspended");
            }
            last = now;
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Compared> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Compared> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the wall clock moved more than the monotonic clock, when that is more than the limit.
fn jump(before: (WallTime, MonotonicTime), now: (WallTime, MonotonicTime), limit_millis: u64) -> Option<i64> {
    let expected = i64::try_from(now.1.millis_since(before.1)).unwrap_or(i64::MAX);
    let moved = now.0.0.saturating_sub(before.0.0).saturating_sub(expected);
    (moved.unsigned_abs() > limit_millis).then_some(moved)
}

impl Clock for GroupClock {
    fn wall(&self) -> WallTime {
        let own = self.own.wall();
        let Some((at, since)) = self.read().anchor else {
            return own;
        };
        let elapsed = self.own.monotonic().millis_since(since);
        let expected = at.plus_millis(i64::try_from(elapsed).unwrap_or(i64::MAX));
        if own.0.abs_diff(expected.0) <= SLACK_MILLIS {
            own
        } else {
            expected
        }
    }

    fn monotonic(&self) -> MonotonicTime {
        self.own.monotonic()
    }

    fn comparison(&self) -> ClockComparison {
        let now = self.own.monotonic();
        let state = self.read();
        let is_recent = |at: MonotonicTime| now.millis_since(at) <= AGREED_FOR_MILLIS;
        ClockComparison {
            agreed: !state.in_group || state.agreed.is_some_and(is_recent),
            offsets: state.offsets.clone(),
            limit_millis: self.limit_millis,
        }
    }
}

/// Sets the clock of the replicated state back when it is ahead of a time on which the majority agrees: an earlier
/// leader had a clock that was ahead, and until then nothing that expires by the state's clock would be right.
pub async fn correct_state_clock(clock: &dyn Clock, consensus: &dyn Consensus) {
    let comparison = clock.comparison();
    let ahead_millis = consensus.state().borrow().clock.millis_since(clock.wall());
    if !comparison.agreed || ahead_millis <= comparison.limit_millis {
        return;
    }
    match consensus.propose(Command::CorrectClock { ahead_millis }).await {
        Ok(_) => warn!(
            "the recorded time of the group was {} s ahead of its members' clocks: set back",
            ahead_millis / 1000
        ),
        Err(error) => debug!("the recorded time of the group was not set back, will retry: {error}"),
    }
}

#[cfg(test)]
#[path = "group_clock_tests.rs"]
mod tests;
