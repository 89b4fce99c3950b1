//! Sets of sequence numbers as sorted ranges: the arithmetic that both GTID flavours share.
//!
//! Ranges are half-open, `[start, end)`, sorted, disjoint and never adjacent, so two equal sets
//! have equal representations and every operation is one linear merge. Numbers stay below
//! `u64::MAX`, which the parsers enforce; `end` therefore never overflows.

/// One half-open range of sequence numbers: the first one in it and the first one after it.
pub(super) type Range = (u64, u64);

/// A set of sequence numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<Range>);

impl Intervals {
    /// The set of one range; empty when `start >= end`.
    pub(super) fn of(start: u64, end: u64) -> Self {
        if start < end {
            Self(vec![(start, end)])
        } else {
            Self::default()
        }
    }

    /// Builds the set from ranges in any order, overlapping or not.
    pub(super) fn from_unsorted(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            if start >= end {
                continue;
            }
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The highest number in the set.
    pub(super) fn highest(&self) -> Option<u64> {
        self.0.last().map(|(_, end)| end - 1)
    }

    /// How many numbers the set holds. Ranges are disjoint, so the sum fits in a `u64`.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::from_unsorted(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn subtract(&self, other: &Self) -> Self {
        let mut remainder = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().peekable();
        for &(start, end) in &self.0 {
            let mut from = start;
            while let Some(&&(hole_start, hole_end)) = holes.peek() {
                if hole_start >= end {
                    break;
                }
                if hole_start > from {
                    remainder.push((from, hole_start));
                }
                from = from.max(hole_end);
                // A hole that reaches beyond this range may also cut the next one: keep it.
                if hole_end > end {
                    break;
                }
                holes.next();
            }
            if from < end {
                remainder.push((from, end));
            }
        }
        Self(remainder)
    }

    /// Whether every number of `other` is in the set.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let mut outer = self.0.iter().peekable();
        other.0.iter().all(|&(start, end)| {
            while outer.next_if(|range| range.1 <= start).is_some() {}
            // Ranges are never adjacent, so one range of ours must hold all of theirs.
            outer.peek().is_some_and(|range| range.0 <= start && end <= range.1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[Range]) -> Intervals {
        Intervals::from_unsorted(ranges.to_vec())
    }

    #[test]
    fn ranges_are_sorted_and_merged_when_they_touch_or_overlap() {
        assert_eq!(
            set(&[(11, 19), (1, 6), (6, 8), (3, 4), (9, 9)]).ranges(),
            [(1, 8), (11, 19)]
        );
    }

    #[test]
    fn subtract_cuts_holes_that_span_several_ranges() {
        let table: &[(&[Range], &[Range], &[Range])] = &[
            (&[(1, 10)], &[(3, 5)], &[(1, 3), (5, 10)]),
            (&[(1, 10), (20, 30)], &[(5, 25)], &[(1, 5), (25, 30)]),
            (&[(1, 10), (20, 30)], &[(1, 30)], &[]),
            (&[(1, 10)], &[], &[(1, 10)]),
            (&[(5, 6)], &[(1, 5), (6, 9)], &[(5, 6)]),
            (&[(1, 5), (7, 9)], &[(2, 3), (4, 8)], &[(1, 2), (3, 4), (8, 9)]),
        ];
        for (left, right, wanted) in table {
            assert_eq!(
                set(left).subtract(&set(right)).ranges(),
                *wanted,
                "{left:?} - {right:?}"
            );
        }
    }

    #[test]
    fn contains_needs_every_number() {
        assert!(set(&[(1, 10), (20, 30)]).contains(&set(&[(2, 3), (5, 10), (29, 30)])));
        assert!(!set(&[(1, 10), (20, 30)]).contains(&set(&[(9, 11)])));
        assert!(!set(&[(1, 10)]).contains(&set(&[(1, 10), (20, 21)])));
        assert!(set(&[]).contains(&set(&[])));
        assert_eq!(set(&[(1, 10), (20, 30)]).count(), 19);
        assert_eq!(set(&[(1, 10), (20, 30)]).highest(), Some(29));
    }
}
