//! `make chaos SECONDS=600 SEED=n ACTS=name,name`: acts on real servers and members, with writers that remember every acknowledged row,
//! judged all the time and after each act. Needs root or sudo, for network namespaces.
//!
//! The seed determines topologies, acts and pauses; the same seed repeats their order. When something is wrong the topology is given up
//! and its logs are kept, the act is told, and the run goes on with another topology. It fails at its end.

#![expect(clippy::print_stdout, reason = "a campaign is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the demo, which use other parts of it"
)]
mod kit;

mod acts;
mod disturb;
mod predictions;
mod random;
mod rogue;
mod sets;
mod slow_disk;
mod special;
mod stage;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use acts::{Act, Deck};
use kit::program::{number, run_until_stopped};
use kit::replication::Flavour;
use kit::run::scenario;
use kit::topology::Shape;
use random::Random;
use stage::{Counts, READ_ONLY, Stage, WHOLE};

/// How long unless SECONDS says otherwise.
const SECONDS: u64 = 600;
/// How long one topology is used, at most; a run has at least two.
const STAGE: Duration = Duration::from_secs(150);
/// So many recoveries a run of ten minutes must have: a campaign in which nothing happens proves nothing.
const LEAST_RECOVERIES: usize = 15;
/// After so many failed topologies the run ends.
const MOST_FAILURES: usize = 8;
/// A held primary has to be read-only within this after a restart, on a machine that does nothing else.
const TARGET: Duration = Duration::from_millis(300);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    run_until_stopped("chaos", Box::pin(campaign())).await
}

/// What a run saw so far.
#[derive(Default)]
struct Campaign {
    counts: Counts,
    /// How often each kind of act passed and failed.
    acts: BTreeMap<String, (usize, usize)>,
    /// What failed that is no act: a topology that could not be set up, or the verdict at its end.
    other_failures: usize,
}

impl Campaign {
    fn failed(&self) -> usize {
        self.acts.values().map(|(_, failed)| failed).sum::<usize>() + self.other_failures
    }

    fn passed(&self) -> usize {
        self.acts.values().map(|(passed, _)| passed).sum()
    }
}

async fn campaign() -> Result<()> {
    let seconds = number("SECONDS")?.unwrap_or(SECONDS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
    let seed = number("SEED")?.unwrap_or(clock.as_secs() % 1_000_000);
    let names = std::env::var("ACTS").unwrap_or_default();
    println!(
        "chaos: SECONDS={seconds} SEED={seed}; allowed on a loaded machine: two writable servers for {} s, a held primary open for {} s \
         (target {} s), a cluster whole again within {} s",
        READ_ONLY.as_secs(),
        READ_ONLY.as_secs(),
        TARGET.as_secs_f64(),
        WHOLE.as_secs()
    );
    let begun = Instant::now();
    let whole = Duration::from_secs(seconds);
    let stage = STAGE.min(whole / 2);
    // Two sequences, so that a topology that lasts longer changes no later act.
    let (mut shapes, mut deck) = (Random::new(seed), Deck::new(seed, &names)?);
    let mysql_first = shapes.chance(50);
    let mut campaign = Campaign::default();
    let mut topologies: usize = 0;
    while begun.elapsed() < whole && campaign.failed() < MOST_FAILURES {
        let is_mysql = mysql_first == (topologies.is_multiple_of(2));
        topologies += 1;
        let flavour = if is_mysql { Flavour::MySql } else { Flavour::MariaDb };
        let shape = acts::shape(&mut shapes, flavour);
        let end = (begun.elapsed() + stage).min(whole);
        campaign
            .play(&format!("chaos-{seed}-{topologies}"), shape, &mut deck, begun, end)
            .await;
    }
    campaign.tell(topologies, deck.kinds());
    let failed = campaign.failed();
    println!("{} passed, {failed} failed", campaign.passed());
    ensure!(failed == 0, "SEED={seed} repeats the order of the acts");
    ensure!(
        seconds < SECONDS || !names.is_empty() || campaign.counts.recoveries >= LEAST_RECOVERIES,
        "{} failovers are too few for a run of {seconds} s, {LEAST_RECOVERIES} are wanted",
        campaign.counts.recoveries
    );
    if seconds >= SECONDS && campaign.acts.len() < deck.kinds() {
        bail!(
            "{} of {} kinds of acts were played: the machine is too slow",
            campaign.acts.len(),
            deck.kinds()
        );
    }
    Ok(())
}

impl Campaign {
    /// One topology until `end`, seconds since the campaign begun, or until something is wrong. At least one act is played.
    async fn play(&mut self, name: &str, shape: Shape, deck: &mut Deck, begun: Instant, end: Duration) {
        println!("\n{:6.1}  {}", begun.elapsed().as_secs_f64(), stage::describe(&shape));
        let mut told = false;
        let (campaign, is_told) = (&mut *self, &mut told);
        let outcome = scenario(name, |run| async move {
            let stage = Stage::set(&run, shape).await;
            let result = campaign.on_stage(stage, deck, begun, end, is_told).await;
            if let Err(error) = &result {
                if !*is_told {
                    println!("{:6.1}  FAILED: {}", begun.elapsed().as_secs_f64(), first_of(error));
                    campaign.other_failures += 1;
                }
                println!("        logs are kept in {}", run.kept_logs().display());
                *is_told = true;
            }
            result
        })
        .await;
        if let (Err(error), false) = (outcome, told) {
            println!("{:6.1}  FAILED: {error:#}", begun.elapsed().as_secs_f64());
            self.other_failures += 1;
        }
    }

    async fn on_stage(
        &mut self,
        stage: Result<Stage>,
        deck: &mut Deck,
        begun: Instant,
        end: Duration,
        told: &mut bool,
    ) -> Result<()> {
        let mut stage = stage.context("set up a topology")?;
        loop {
            let act = deck.draw();
            let played = self.act(&mut stage, act, begun).await;
            *told = played.is_err();
            if played.is_err() {
                self.counts.add(&stage.counts);
                return played;
            }
            if begun.elapsed() >= end {
                self.counts.add(&stage.end().await.context("at the end of a topology")?);
                return Ok(());
            }
        }
    }

    /// One act, told in a line.
    async fn act(&mut self, stage: &mut Stage, act: Act, begun: Instant) -> Result<()> {
        let at = begun.elapsed().as_secs_f64();
        let played = stage.play(act).await;
        let (passed, failed) = self.acts.entry(act.kind.to_string()).or_default();
        match &played {
            Ok(told) => {
                *passed += 1;
                println!("{at:6.1}  {}: {told}", act.kind);
            }
            Err(error) => {
                *failed += 1;
                let took = begun.elapsed().as_secs_f64() - at;
                println!("{at:6.1}  {} FAILED after {took:.1} s: {error:#}", act.kind);
                println!("        {}", stage.explain().await);
            }
        }
        played.map(drop)
    }

    fn tell(&self, topologies: usize, kinds: usize) {
        let counts = &self.counts;
        let acts: Vec<String> = self
            .acts
            .iter()
            .map(|(name, (passed, failed))| match failed {
                0 => format!("{name} {passed}"),
                _ => format!("{name} {passed} ({failed} failed)"),
            })
            .collect();
        println!("\n{} of {kinds} kinds of acts: {}", self.acts.len(), acts.join(", "));
        println!(
            "{topologies} topologies, {} failovers, slowest {:.2} s; {} servers rejoined by themselves, {} after forgetting, {} were \
             rebuilt; {} rows acknowledged, {} lost and reported so; two servers took writes at the same time for at most {:.2} s",
            counts.recoveries,
            counts.slowest.as_secs_f64(),
            counts.rejoined,
            counts.forgotten,
            counts.rebuilt,
            counts.rows,
            counts.lost,
            counts.overlap.as_secs_f64()
        );
        if !counts.open_for.is_empty() {
            let mut open_for = counts.open_for.clone();
            open_for.sort();
            let within = open_for.iter().filter(|lasted| **lasted <= TARGET).count();
            println!(
                "held primaries took writes after {} restarts: median {:.2?}, longest {:.2?}, {within} within the target of {TARGET:?}",
                open_for.len(),
                open_for.get(open_for.len() / 2).copied().unwrap_or_default(),
                open_for.last().copied().unwrap_or_default()
            );
        }
        println!("{}", counts.predictions);
    }
}

/// An error without the logs that it may carry.
fn first_of(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
