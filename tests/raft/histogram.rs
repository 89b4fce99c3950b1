//! The histogram that openraft counts with.

use base2histogram::{AsciiChart, Histogram};

#[test]
fn numbers_are_counted_by_their_magnitude() {
    let mut counted = Histogram::<()>::new();
    assert_eq!(counted.percentile_stats().p99, 0);
    for value in [0, 1, 2, 3, 1000, u64::MAX] {
        counted.record(value);
    }
    let stats = counted.percentile_stats();
    assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (6, 0, 2, 1 << 63));
    assert_eq!(
        AsciiChart::new().add("values", counted).detailed().to_string(),
        "values: 6 numbers, half from 2, 99 % up to 9223372036854775808\n"
    );
}
