//! Counts of numbers by their magnitude: what openraft asks of the crate of this name, without that crate's 25 MB of tables.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for 0 and one for each length in bits of an `u64`.
const BUCKETS: usize = 65;

/// How often numbers of each magnitude were recorded. A bucket reaches from a power of two up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing recorded.
    pub fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            slots: PhantomData,
        }
    }

    /// Counts a number.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a number several times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bits = usize::try_from(u64::BITS - value.leading_zeros()).unwrap_or_default();
        if let Some(count) = self.counts.get_mut(bits) {
            *count = count.saturating_add(times);
        }
    }

    /// How many numbers were recorded.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The lower end of the bucket below or in which this many thousandths of the numbers lie; 0 when nothing was recorded.
    fn per_mille(&self, thousandths: u64) -> u64 {
        let wanted = u128::from(self.total()) * u128::from(thousandths);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u128::from(*count) * 1000;
            *count > 0 && seen >= wanted
        });
        match reached {
            None | Some(0) => 0,
            Some(bits) => 1 << (bits - 1),
        }
    }

    /// What part of the numbers lies where.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }
}

/// The number of recorded numbers, and for parts of them the lower end of the bucket in which the part ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// All.
    pub samples: u64,
    /// One in a thousand.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// Half of them.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// All but one in a thousand.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p99, .. } = self;
        write!(f, "{samples} numbers, half from {p50}, 99 % up to {p99}")
    }
}

/// Several histograms as text, a line for each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    rows: Vec<(&'static str, PercentileStats)>,
}

impl AsciiChart {
    /// No lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// One line more.
    #[must_use]
    pub fn add(mut self, name: &'static str, histogram: Histogram) -> Self {
        self.rows.push((name, histogram.percentile_stats()));
        self
    }

    /// The lines.
    #[must_use]
    pub fn detailed(self) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.rows {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}
