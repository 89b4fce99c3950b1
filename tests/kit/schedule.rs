//! How many scenarios of a test program run at a time. It holds for any number of test threads.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::{OnceCell, Semaphore};

use super::run::{Run, cache, carry_out};

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

/// What the scenarios of a program share.
struct Schedule {
    slots: Semaphore,
    /// A line for each scenario that ended, in that order: name, slots, seconds, how it ended. A program that is ended for its time leaves
    /// here what took it.
    times: File,
}

impl Schedule {
    fn begin() -> Result<Self> {
        let logs = cache()?.join("logs");
        fs::create_dir_all(&logs)?;
        Ok(Self {
            slots: Semaphore::new(usize::try_from(slots())?),
            times: File::create(logs.join("scenarios.tsv"))?,
        })
    }
}

async fn with_slots<T, F: Future<Output = Result<T>>>(
    count: u32,
    name: &str,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    static SCHEDULE: OnceCell<Schedule> = OnceCell::const_new();
    let schedule = SCHEDULE.get_or_try_init(async || Schedule::begin()).await?;
    // The semaphore is fair: a scenario that needs all slots gets them when the earlier ones have ended.
    let _held = schedule.slots.acquire_many(count).await.context("wait for a slot")?;
    let begun = Instant::now();
    let result = carry_out(Run::begin_with_pool(name)?, play).await;
    let end = if result.is_ok() { "ok" } else { "failed" };
    writeln!(
        &schedule.times,
        "{name}\t{count}\t{:.1}\t{end}",
        begun.elapsed().as_secs_f64()
    )?;
    result
}
