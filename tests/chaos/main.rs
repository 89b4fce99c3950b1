//! `make chaos SECONDS=600 SEED=n`: random acts on real servers and members, with writers that remember every acknowledged row, judged
//! after each act and at the end. Needs root or sudo, for network namespaces.
//!
//! The seed determines topologies, acts and pauses; the same seed repeats them. When something is wrong the run ends there, tells the act
//! and keeps the logs.

#![expect(clippy::print_stdout, reason = "a campaign is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the demo, which use other parts of it"
)]
mod kit;

mod acts;
mod random;
mod slow_disk;
mod stage;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use kit::program::{number, run_until_stopped};
use kit::run::scenario;
use random::Random;
use stage::{Counts, Stage};

/// How long unless SECONDS says otherwise.
const SECONDS: u64 = 600;
/// How long one topology is used, at most; a run has at least two.
const STAGE: Duration = Duration::from_secs(150);
/// So many recoveries a run of ten minutes must have: a campaign in which nothing happens proves nothing.
const LEAST_RECOVERIES: usize = 30;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    run_until_stopped("chaos", Box::pin(campaign())).await
}

async fn campaign() -> Result<()> {
    let seconds = number("SECONDS")?.unwrap_or(SECONDS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
    let seed = number("SEED")?.unwrap_or(clock.as_secs() % 1_000_000);
    println!("chaos: SECONDS={seconds} SEED={seed}");
    let begun = Instant::now();
    let whole = Duration::from_secs(seconds);
    let stage = STAGE.min(whole / 2);
    let mut random = Random::new(seed);
    let mut all = Counts::default();
    let mut number = 0;
    while begun.elapsed() < whole {
        number += 1;
        let end = (begun.elapsed() + stage).min(whole);
        let counts = play(&format!("chaos-{number}"), &mut random, begun, end)
            .await
            .with_context(|| format!("SEED={seed} repeats it"))?;
        all.acts += counts.acts;
        all.recoveries += counts.recoveries;
        all.rejoined += counts.rejoined;
        all.forgotten += counts.forgotten;
        all.rebuilt += counts.rebuilt;
        all.rows += counts.rows;
        all.lost += counts.lost;
        all.slowest = all.slowest.max(counts.slowest);
    }
    println!(
        "\n{} acts on {number} topologies, {} failovers, slowest {:.2} s; {} servers rejoined by themselves, {} after forgetting, {} \
         were rebuilt; {} rows acknowledged, {} lost and reported so",
        all.acts,
        all.recoveries,
        all.slowest.as_secs_f64(),
        all.rejoined,
        all.forgotten,
        all.rebuilt,
        all.rows,
        all.lost
    );
    ensure!(
        seconds < SECONDS || all.recoveries >= LEAST_RECOVERIES,
        "{} failovers are too few for a run of {seconds} s, {LEAST_RECOVERIES} are wanted",
        all.recoveries
    );
    println!("no invariant was broken");
    Ok(())
}

/// One topology until `end`, seconds since the campaign begun. At least one act is played.
async fn play(name: &str, random: &mut Random, begun: Instant, end: Duration) -> Result<Counts> {
    let shape = acts::shape(random);
    println!("\n{:6.1}  {}", begun.elapsed().as_secs_f64(), stage::describe(&shape));
    scenario(name, |run| async move {
        let mut stage = Stage::set(&run, shape).await?;
        loop {
            let (act, hold) = acts::next(random, stage.servers());
            let at = begun.elapsed().as_secs_f64();
            match stage.play(act, hold).await {
                Ok(told) => println!("{at:6.1}  {told}"),
                Err(error) => {
                    println!("{at:6.1}  {act}: BROKEN\n        {}", stage.explain().await);
                    return Err(error.context(format!("{} at {at:.1} s: {act}", stage.describe())));
                }
            }
            if begun.elapsed() >= end {
                return stage.end().await;
            }
        }
    })
    .await
}
