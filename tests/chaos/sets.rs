//! Printed sets of transactions.

/// How many transactions a printed set has: `uuid:1-3:5` or `0-1-7..9`.
pub(crate) fn lost_transactions(set: &str) -> u64 {
    let span = |first: &str, last: &str| -> u64 {
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => last.saturating_sub(first) + 1,
            _ => 0,
        }
    };
    set.split(',')
        .map(|part| {
            let part = part.trim();
            if part.contains(':') {
                let intervals = part.split(':').skip(1);
                return intervals
                    .map(|interval| {
                        let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
                        span(first, last)
                    })
                    .sum();
            }
            let Some((_, numbers)) = part.rsplit_once('-') else {
                return 0;
            };
            let (first, last) = numbers.split_once("..").unwrap_or((numbers, numbers));
            span(first, last)
        })
        .sum()
}
