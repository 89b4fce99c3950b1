//! Measured times, and how they are printed.

use std::time::Duration;

/// Times of one kind.
#[derive(Debug, Default)]
pub(crate) struct Times {
    sorted: Vec<Duration>,
}

impl Times {
    /// One more.
    pub(crate) fn add(&mut self, time: Duration) {
        let place = self.sorted.partition_point(|known| *known <= time);
        self.sorted.insert(place, time);
    }

    /// The middle one; of an even number, the mean of the two in the middle.
    fn median(&self) -> Duration {
        let middle = self.sorted.len() / 2;
        let at = |index: usize| self.sorted.get(index).copied().unwrap_or_default();
        if self.sorted.len() % 2 == 1 {
            at(middle)
        } else {
            (at(middle.saturating_sub(1)) + at(middle)) / 2
        }
    }

    /// Nine of ten are not above it.
    fn ninety(&self) -> Duration {
        let place = (self.sorted.len() * 9).div_ceil(10).saturating_sub(1);
        self.sorted.get(place).copied().unwrap_or_default()
    }

    /// A row of the table.
    pub(crate) fn row(&self, what: &str, budget: &str) -> String {
        let max = self.sorted.last().copied().unwrap_or_default();
        format!(
            "{what:54} {:8.3} {:8.3} {:8.3} {:8}   {budget}",
            self.median().as_secs_f64(),
            self.ninety().as_secs_f64(),
            max.as_secs_f64(),
            self.sorted.len()
        )
    }
}
