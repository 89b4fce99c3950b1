//! Parses the parts of a path: addresses, durations, pages.

use std::time::Duration;

use crate::domain::key::InstanceKey;

use super::reply::Failure;

/// Records on one page, as in orchestrator.
pub(super) const PAGE: usize = 20;

/// Parses host and port of a path; 400 when one is invalid.
pub(super) fn instance(host: &str, port: &str) -> Result<InstanceKey, Failure> {
    let number = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Failure::bad_request(format!("Invalid port: {port}")))?;
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(Failure::bad_request("Invalid host: empty"));
    }
    Ok(InstanceKey::new(host, number))
}

/// Parses a duration as `30s`, `10m`, `1h`, `2d` or `1w`; 400 when it is invalid or zero.
pub(super) fn duration(text: &str) -> Result<Duration, Failure> {
    let bad = || {
        Failure::bad_request(format!(
            "Invalid duration: {text}; write a number with s, m, h, d or w, as 10m"
        ))
    };
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds_each: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(bad()),
    };
    let count: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| bad())?;
    let seconds = count
        .checked_mul(seconds_each)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

/// Parses the number of a page, from 0; 400 when it is invalid.
pub(super) fn page(text: &str) -> Result<usize, Failure> {
    text.parse()
        .map_err(|_| Failure::bad_request(format!("Invalid page: {text}")))
}

/// The items of one page.
pub(super) fn paged<T>(items: impl Iterator<Item = T>, page: usize) -> Vec<T> {
    items.skip(page.saturating_mul(PAGE)).take(PAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("10m", Some(600)),
            ("1h", Some(3600)),
            ("2d", Some(172_800)),
            ("1w", Some(604_800)),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in [
            "",
            "10",
            "m",
            "1.5h",
            "0s",
            "-1m",
            "10 m",
            "99999999999999999999w",
            "18446744073709551615w",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
