//! Waiting for a condition, with a deadline and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short beside every time that is measured, long beside what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Looks until there is something to see, for at most `limit`. A look that fails is one that saw nothing: its reason is in the error
/// when the deadline comes.
pub(crate) async fn until<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let mut reason = String::from("not so");
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left.max(LOOK_EVERY), look()).await {
            Ok(Ok(Some(seen))) => return Ok(seen),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => reason = format!("{error:#}"),
            Err(_) => reason = format!("the last look did not end; before it: {reason}"),
        }
        if begun.elapsed() >= limit {
            bail!("waited {:.1} s for: {what}. Last seen: {reason}", limit.as_secs_f64());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Watches that something stays so for the whole of `period`: the look fails as soon as it does not. This is how a test shows that
/// something does *not* happen.
pub(crate) async fn throughout(period: Duration, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < period {
        look().await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
