//! The clocks of the members compared: which time the majority has, and which clock differs from it.
//!
//! The time of a group is the median of the clocks of its voters. Where the number of known clocks is even, two values
//! are in the middle: the group keeps its present time while it lies between them. So no single clock moves the time of
//! the group, not even one of two.

use std::fmt;

use super::state::MemberId;
use super::time::WallTime;

/// How far the clock of a member may differ from the time of the majority, milliseconds, unless configured.
pub const DEFAULT_LIMIT_MILLIS: u64 = 5000;

/// The clock of one voter, read at the moment of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The voter.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// What its clock shows now.
    pub at: WallTime,
    /// How far that may be wrong: half of the round trip in which it was read.
    pub uncertainty_millis: u64,
}

/// How far the clock of a voter is ahead of the time of the majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// The voter.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// Milliseconds ahead; negative when it is behind.
    pub millis: i64,
    /// How far `millis` may be wrong.
    pub uncertainty_millis: u64,
}

impl ClockOffset {
    /// Whether the clock is certainly further from the time of the majority than the limit.
    pub fn is_beyond(&self, limit_millis: u64) -> bool {
        self.millis.unsigned_abs() > limit_millis.saturating_add(self.uncertainty_millis)
    }

    /// The offset in seconds, for metrics and JSON.
    pub fn seconds(&self) -> f64 {
        f64::from(i32::try_from(self.millis / 1000).unwrap_or(if self.millis < 0 { i32::MIN } else { i32::MAX }))
            + f64::from(i32::try_from(self.millis % 1000).unwrap_or_default()) / 1000.0
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis.unsigned_abs();
        let direction = if self.millis < 0 { "behind" } else { "ahead of" };
        write!(
            f,
            "ClockSkew: the clock of member {} is {}.{:03} s {direction} the majority's",
            self.name,
            millis / 1000,
            millis % 1000
        )
    }
}

/// The result of a comparison of clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockComparison {
    /// Whether the clocks of a majority of the voters agree with the time that this member uses.
    pub agreed: bool,
    /// The offsets of the voters that were compared, ordered by member.
    pub offsets: Vec<ClockOffset>,
    /// How far a clock may differ, milliseconds.
    pub limit_millis: u64,
}

impl Default for ClockComparison {
    /// A clock without others to compare with.
    fn default() -> Self {
        Self {
            agreed: true,
            offsets: Vec::new(),
            limit_millis: DEFAULT_LIMIT_MILLIS,
        }
    }
}

impl ClockComparison {
    /// The clocks that differ by more than the limit.
    pub fn skewed(&self) -> impl Iterator<Item = &ClockOffset> {
        self.offsets.iter().filter(|offset| offset.is_beyond(self.limit_millis))
    }
}

/// The time of the group from the clocks of its voters; `present` is what it was so far. `None` when the clocks of no
/// majority are known.
pub fn majority_time(readings: &[ClockReading], voters: usize, present: WallTime) -> Option<WallTime> {
    if readings.len() <= voters / 2 {
        return None;
    }
    let mut times: Vec<WallTime> = readings.iter().map(|reading| reading.at).collect();
    times.sort_unstable();
    let lower = *times.get((times.len() - 1) / 2)?;
    let upper = *times.get(times.len() / 2)?;
    Some(present.clamp(lower, upper))
}

/// The offsets of the clocks from the time of the group.
pub fn offsets(readings: &[ClockReading], group: WallTime) -> Vec<ClockOffset> {
    let mut offsets: Vec<ClockOffset> = readings
        .iter()
        .map(|reading| ClockOffset {
            member: reading.member,
            name: reading.name.clone(),
            millis: reading.at.0.saturating_sub(group.0),
            uncertainty_millis: reading.uncertainty_millis,
        })
        .collect();
    offsets.sort_by_key(|offset| offset.member);
    offsets
}

/// Whether a majority of all voters is within the limit.
pub fn is_agreed(offsets: &[ClockOffset], voters: usize, limit_millis: u64) -> bool {
    let near = offsets.iter().filter(|offset| !offset.is_beyond(limit_millis)).count();
    near > voters / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_700_000_000_000);
    const HOURS_3: i64 = 3 * 3_600_000;

    fn readings(ahead: &[i64]) -> Vec<ClockReading> {
        let members = (1..).zip(ahead);
        members
            .map(|(member, millis)| ClockReading {
                member,
                name: format!("m{member}"),
                at: NOW.plus_millis(*millis),
                uncertainty_millis: 1,
            })
            .collect()
    }

    fn time(ahead: &[i64], voters: usize, present: i64) -> Option<i64> {
        majority_time(&readings(ahead), voters, NOW.plus_millis(present)).map(|at| at.0 - NOW.0)
    }

    #[test]
    fn one_clock_of_three_moves_nothing_in_either_direction() {
        assert_eq!(time(&[0, HOURS_3, 2], 3, 0), Some(2));
        assert_eq!(time(&[0, -HOURS_3, 2], 3, 0), Some(0));
        assert_eq!(time(&[HOURS_3, 1, 0, 2, -HOURS_3], 5, 7), Some(1));
    }

    #[test]
    fn one_clock_of_two_keeps_the_present_time() {
        assert_eq!(time(&[HOURS_3, 0], 2, 40), Some(40));
        assert_eq!(time(&[-HOURS_3, 0], 2, -40), Some(-40));
        // The third member is down.
        assert_eq!(time(&[HOURS_3, 0], 3, 5), Some(5));
        // Both clocks are past the present time: the earlier one counts.
        assert_eq!(time(&[HOURS_3, 10], 2, 5), Some(10));
    }

    #[test]
    fn a_minority_says_nothing_about_the_time() {
        assert_eq!(time(&[0], 3, 0), None);
        assert_eq!(time(&[0, 0], 4, 0), None);
        assert_eq!(time(&[0], 1, HOURS_3), Some(0));
    }

    #[test]
    fn only_a_certain_offset_is_a_skew() {
        let offsets = offsets(&readings(&[5000, 5002, -HOURS_3]), NOW);
        let beyond: Vec<u64> = offsets
            .iter()
            .filter(|offset| offset.is_beyond(5000))
            .map(|offset| offset.member)
            .collect();
        assert_eq!(beyond, [2, 3]);
        assert!(!is_agreed(&offsets, 3, 5000));
        assert!(is_agreed(&offsets, 3, 5001));
        assert_eq!(
            offsets.last().map(ToString::to_string).unwrap(),
            "ClockSkew: the clock of member m3 is 10800.000 s behind the majority's"
        );
    }
}
