//! How many scenarios of a test program run at a time. It holds for any number of test threads.

use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use tokio::sync::{OnceCell, Semaphore};

use super::run::{Run, carry_out};

/// The most scenarios at a time, however many processors there are: the servers of a scenario take about 1 GB.
const MAX_SLOTS: u32 = 4;

/// One scenario for each processor: it waits most of its time.
fn slots() -> u32 {
    available_parallelism().map_or(1, |count| {
        u32::try_from(count.get()).unwrap_or(MAX_SLOTS).min(MAX_SLOTS)
    })
}

/// Carries out a test's scenario as [`super::run::scenario`] does, while others run too, with servers of the pool ([`super::pool`]).
pub(crate) async fn scenario<T, F: Future<Output = Result<T>>>(
    name: &str,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    with_slots(1, name, play).await
}

/// The same while no other scenario runs. For scenarios that depend on short times, stop processes, cut networks, fill a disk, or run
/// more servers and members than others.
pub(crate) async fn scenario_alone<T, F: Future<Output = Result<T>>>(
    name: &str,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    with_slots(slots(), name, play).await
}

async fn with_slots<T, F: Future<Output = Result<T>>>(
    count: u32,
    name: &str,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    static SLOTS: OnceCell<Semaphore> = OnceCell::const_new();
    let all = SLOTS
        .get_or_init(async || Semaphore::new(usize::try_from(slots()).unwrap_or(1)))
        .await;
    // The semaphore is fair: a scenario that needs all slots gets them when the earlier ones have ended.
    let _held = all.acquire_many(count).await.context("wait for a slot")?;
    carry_out(Run::begin_with_pool(name)?, play).await
}
