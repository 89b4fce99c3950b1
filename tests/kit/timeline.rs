//! What was tried when, and what came of it: the pure half of the sampler. Its verdicts only accuse where the samples prove it.

use std::time::{Duration, Instant};

/// What came of one try on one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The write was committed; the member said that it is the leader.
    Yes,
    /// It was refused, with this reason.
    No(String),
    /// Nobody was there, or the answer did not come.
    Unreachable,
}

/// One try.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Which server or member, as a place in their list.
    pub(crate) target: usize,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    pub(crate) outcome: Outcome,
}

/// A time in which a target said yes to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) target: usize,
    /// It was so at this moment at the latest.
    pub(crate) from: Instant,
    /// It was so until this moment at least.
    pub(crate) to: Instant,
}

/// Two targets that said yes at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlap {
    pub(crate) one: Window,
    pub(crate) other: Window,
    /// For at least so long.
    pub(crate) lasted: Duration,
}

/// The windows of every target. A window goes from the answer of its first yes to the sending of its last: what lies before and after is
/// not proven. A single yes is a moment.
pub(crate) fn windows(samples: &[Sample]) -> Vec<Window> {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by_key(|sample| (sample.target, sample.sent));
    let mut windows: Vec<Window> = Vec::new();
    let mut open: Option<Window> = None;
    for sample in sorted {
        let Sample {
            target, sent, answered, ..
        } = *sample;
        let yes = sample.outcome == Outcome::Yes;
        match &mut open {
            Some(window) if yes && window.target == target => window.to = window.to.max(sent),
            _ => {
                windows.extend(open.take());
                open = yes.then_some(Window {
                    target,
                    from: answered,
                    to: answered,
                });
            }
        }
    }
    windows.extend(open);
    windows
}

/// Every pair of windows of two targets that lie over each other, the longest first.
pub(crate) fn overlaps(windows: &[Window]) -> Vec<Overlap> {
    let mut overlaps = Vec::new();
    for (index, one) in windows.iter().enumerate() {
        for other in windows
            .iter()
            .skip(index + 1)
            .filter(|other| other.target != one.target)
        {
            let (from, to) = (one.from.max(other.from), one.to.min(other.to));
            if to > from {
                overlaps.push(Overlap {
                    one: *one,
                    other: *other,
                    lasted: to - from,
                });
            }
        }
    }
    overlaps.sort_by_key(|overlap| std::cmp::Reverse(overlap.lasted));
    overlaps
}
