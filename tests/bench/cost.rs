//! What watching one server costs a member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::{Run, scenario};
use crate::kit::topology::{Shape, Topology};

/// How long processor time is counted, in which nothing happens. Counted in steps of 10 ms, so that over this time and many probes a
/// step is a hundredth of what is measured.
const COUNTED: Duration = Duration::from_secs(30);
/// How many replicas the smaller and the larger topology have.
const REPLICAS: [usize; 2] = [1, 9];

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// Processor seconds a second, of one member, for each topology.
    load: [f64; 2],
    /// Resident bytes of the largest member of the larger topology.
    resident: u64,
}

impl Cost {
    /// For people.
    pub(crate) fn lines(&self) -> String {
        let [small, large] = self.load;
        let [few, many] = REPLICAS;
        // What all members do anyway is in both, and so is the pulse of the primary: the difference is one probe a second for each
        // replica more.
        let replicas = u32::try_from(many - few).map_or(f64::NAN, f64::from);
        let probe = (large - small) / replicas * 1_000.0;
        format!(
            "CPU per probe {probe:.2} ms (budget 0.5): a member takes {:.1} % of a core for {} servers at a 1 s poll, {:.1} % for {}; \
             resident {} MB",
            small * 100.0,
            few + 1,
            large * 100.0,
            many + 1,
            self.resident / 1_000_000
        )
    }
}

/// Counts the processor time of idle members over a small and a larger topology.
pub(crate) async fn of_a_probe(name: &str, flavour: Flavour) -> Result<Cost> {
    let [few, many] = REPLICAS;
    let (small, _) = scenario(name, |run| idle(run, flavour, few)).await?;
    let (large, resident) = scenario(name, |run| idle(run, flavour, many)).await?;
    Ok(Cost {
        load: [small, large],
        resident,
    })
}

/// Processor seconds a second of one member, and the largest one's resident bytes.
async fn idle(run: Arc<Run>, flavour: Flavour, replicas: usize) -> Result<(f64, u64)> {
    let topology = Topology::start(&run, &Shape::star(flavour, replicas)).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let used = || -> Result<f64> {
        let each: Vec<f64> = members
            .list
            .iter()
            .map(|member| member.process()?.cpu_seconds())
            .collect::<Result<_>>()?;
        Ok(each.iter().sum())
    };
    let (begun, before) = (Instant::now(), used()?);
    // What is measured is the passing of this time.
    tokio::time::sleep(COUNTED).await;
    let seconds = begun.elapsed().as_secs_f64();
    let count = u32::try_from(members.list.len()).map(f64::from)?;
    let load = (used()? - before) / seconds / count;
    let resident: Vec<u64> = members
        .list
        .iter()
        .map(|member| member.process()?.resident_bytes())
        .collect::<Result<_>>()?;
    Ok((load, resident.into_iter().max().context("there are members")?))
}
