//! A fleet of real servers at a one-second poll: what watching it costs, and how fast a failover is beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::failover::{count_lost, kill_primary};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::{Run, scenario};
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::Writers;
use crate::times::Times;

/// How many servers one cluster of the fleet has.
const CLUSTER: usize = 3;
/// How long the fleet is watched while nothing happens.
const WATCHED: Duration = Duration::from_secs(30);
/// How often the fleet is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// For every wait.
const DEADLINE: Duration = Duration::from_mins(2);
/// How many primaries are killed, each of another cluster.
const KILLS: usize = 3;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Fleet {
    servers: usize,
    /// Processor seconds a second, of one member.
    load: f64,
    /// Resident bytes of the largest member.
    resident: u64,
    /// The oldest look at a server, of all looks at the whole fleet.
    oldest: Duration,
    failovers: Times,
}

impl Fleet {
    /// For people.
    pub(crate) fn lines(&self) -> String {
        let servers = u32::try_from(self.servers).map_or(f64::NAN, f64::from);
        format!(
            "{} servers at a 1 s poll: a member takes {:.1} % of a core, {:.2} ms a server and second with all it does (budget 0.5 a \
             probe), {} MB resident (budget 60); the oldest look at a server was {:.0} s old (told in whole seconds)\n{}",
            self.servers,
            self.load * 100.0,
            self.load / servers * 1_000.0,
            self.resident / 1_000_000,
            self.oldest.as_secs_f64(),
            self.failovers.row("primary killed -> writable, in the fleet", "1")
        )
    }
}

/// Starts `servers` servers as clusters of three, watches them, and kills some primaries.
pub(crate) async fn watch(name: &str, flavour: Flavour, servers: usize) -> Result<Fleet> {
    scenario(name, |run| measure(run, flavour, servers)).await
}

async fn measure(run: Arc<Run>, flavour: Flavour, servers: usize) -> Result<Fleet> {
    let clusters = servers / CLUSTER;
    ensure!(clusters >= KILLS, "SERVERS must be at least {}", KILLS * CLUSTER);
    let mut fleet = Topology::start_fleet(&run, &Shape::star(flavour, CLUSTER - 1), clusters).await?;
    let seeds: Vec<String> = fleet
        .iter()
        .map(|topology| Ok(topology.server(0)?.address().to_string()))
        .collect::<Result<_>>()?;
    let first = fleet.first().context("the fleet has clusters")?;
    let intent = Intent::Configuration(json!({"DiscoverySeeds": seeds}));
    let members = Members::start(&run, first, &intent, None).await?;
    let wanted: BTreeSet<String> = fleet
        .iter()
        .flat_map(Topology::addresses)
        .map(|address| address.to_string())
        .collect();
    until(DEADLINE, "the leader to have seen the whole fleet", async || {
        let seen = ages(&members).await?;
        ensure!(
            seen.len() == wanted.len(),
            "{} of {} servers are seen",
            seen.len(),
            wanted.len()
        );
        Ok(Some(()))
    })
    .await?;
    let used = || -> Result<f64> {
        let each: Vec<f64> = members
            .list
            .iter()
            .map(|member| member.process()?.cpu_seconds())
            .collect::<Result<_>>()?;
        Ok(each.iter().sum())
    };
    let (begun, before) = (Instant::now(), used()?);
    let mut oldest = Duration::ZERO;
    // What is measured is the passing of this time; a look at the whole fleet every so often costs the leader little.
    let mut looks = tokio::time::interval(LOOK_EVERY);
    while begun.elapsed() < WATCHED {
        looks.tick().await;
        let ages = ages(&members).await?;
        ensure!(
            ages.len() == wanted.len(),
            "{} servers are lost from sight",
            wanted.len() - ages.len()
        );
        oldest = oldest.max(ages.into_iter().max().unwrap_or_default());
    }
    let count = u32::try_from(members.list.len()).map(f64::from)?;
    let load = (used()? - before) / begun.elapsed().as_secs_f64() / count;
    let resident: Vec<u64> = members
        .list
        .iter()
        .map(|member| member.process()?.resident_bytes())
        .collect::<Result<_>>()?;
    let mut failovers = Times::default();
    for topology in fleet.iter_mut().take(KILLS) {
        let writers = Writers::start(topology, 1)?;
        writers.progress(100, DEADLINE).await?;
        let measured = kill_primary(topology, &writers, DEADLINE).await?;
        let (lost, _) = count_lost(topology, writers, measured.successor).await?;
        ensure!(lost == 0, "{lost} acknowledged rows were lost");
        failovers.add(measured.writable_after);
    }
    Ok(Fleet {
        servers: wanted.len(),
        load,
        resident: resident.into_iter().max().context("there are members")?,
        oldest,
        failovers,
    })
}

/// How long ago the leader has looked at each server that answers.
async fn ages(members: &Members) -> Result<Vec<Duration>> {
    let leader = members.member(members.leader().await?)?;
    let instances = leader.api().json("all-instances").await?;
    let ages = instances.as_array().into_iter().flatten().filter_map(|instance| {
        let valid = instance.get("IsLastCheckValid").and_then(Value::as_bool)?;
        let seconds = instance
            .pointer("/SecondsSinceLastSeen/Int64")
            .and_then(Value::as_u64)?;
        valid.then(|| Duration::from_secs(seconds))
    });
    Ok(ages.collect())
}
