//! One failover on fresh servers, and what else can be timed on the way.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::kit::failover::{Measured, count_lost, kill_primary, measure};
use crate::kit::members::{Intent, Members};
use crate::kit::netns::{Net, cut};
use crate::kit::replication::Flavour;
use crate::kit::run::{Run, scenario};
use crate::kit::sampler::Sampler;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::Writers;
use crate::phases::Phases;

/// For every wait: a bench that takes longer has failed, not been slow.
const DEADLINE: Duration = Duration::from_mins(1);
/// One writer times the failover without taking the machine from it.
const WRITERS: usize = 1;
/// How many rows are written before the kill.
const ROWS: usize = 200;

/// What one round measured.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) measured: Measured,
    pub(crate) lost: usize,
    /// Where the time of the failover went.
    pub(crate) phases: Phases,
    /// From the start of three members until all serve.
    pub(crate) started: Duration,
    /// From the first answer of the returned primary to its first refusal of a write.
    pub(crate) read_only_after: Duration,
    /// From the kill of the leader to a healthy one.
    pub(crate) leader_after: Duration,
    /// What the servers are set to.
    pub(crate) settings: String,
}

impl Round {
    /// For the list.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; returned, read-only after {:.2} s; leader killed, next after {:.2} s",
            self.measured.line(self.lost),
            self.read_only_after.as_secs_f64(),
            self.leader_after.as_secs_f64()
        )
    }
}

/// A failover, then the return of the failed primary, then the death of the leader.
pub(crate) async fn play(name: &str, flavour: Flavour) -> Result<Round> {
    scenario(name, |run| failover(run, flavour)).await
}

async fn failover(run: Arc<Run>, flavour: Flavour) -> Result<Round> {
    let mut topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    let settings = settings(&topology).await?;
    let mut members = Members::prepare(&run, &topology, &Intent::default_document(), None)?;
    let launched = Instant::now();
    members.launch_all().await?;
    let started = launched.elapsed();
    members.knows(&topology).await?;
    let writers = Writers::start(&topology, WRITERS)?;
    writers.progress(ROWS, DEADLINE).await?;
    let measured = kill_primary(&mut topology, &writers, DEADLINE).await?;
    let killed_at = wall_millis(measured.killed)?;
    let recovery = members.one_recovery(DEADLINE, &measured.from, &measured.to).await?;
    let phases = Phases::of(&members, &recovery, killed_at).await?;
    let (lost, _) = count_lost(&topology, writers, measured.successor).await?;

    let sampler = Sampler::start(&topology, &members);
    let restarted = Instant::now();
    topology.server_mut(0)?.start_again().await?;
    until(DEADLINE, "the returned primary to be read-only", async || {
        Ok(topology.server(0)?.is_read_only().await?.then_some(()))
    })
    .await?;
    // The next try of the sampler is refused: that ends what is measured.
    until(DEADLINE, "the sampler to be refused", async || {
        Ok(sampler.read_only_after(0, restarted).map(drop))
    })
    .await?;
    let read_only_after = sampler
        .stop()
        .await
        .read_only_after(0, restarted)
        .context("the returned primary refused nothing")?;

    let leader = members.leader().await?;
    let killed = members.member_mut(leader)?.kill()?;
    let leader_after = members.acting_leader_after(killed, DEADLINE).await?;
    Ok(Round {
        measured,
        lost,
        phases,
        started,
        read_only_after,
        leader_after,
        settings,
    })
}

/// Leader and primary killed together: from the kill of the primary until another server is writable.
pub(crate) async fn with_leader(name: &str, flavour: Flavour) -> Result<Duration> {
    scenario(name, |run| async move {
        let (mut topology, mut members, writers) = begin(&run, flavour).await?;
        let leader = members.leader().await?;
        members.member_mut(leader)?.kill()?;
        let measured = kill_primary(&mut topology, &writers, DEADLINE).await?;
        writers.stop().await;
        Ok(measured.writable_after)
    })
    .await
}

/// All members and the primary killed, then the members started: from their start until another server is writable.
pub(crate) async fn from_start(name: &str, flavour: Flavour) -> Result<Duration> {
    scenario(name, |run| async move {
        let (mut topology, mut members, writers) = begin(&run, flavour).await?;
        for member in &mut members.list {
            member.kill()?;
        }
        let (from, killed) = (topology.server(0)?.address().clone(), topology.server_mut(0)?.kill()?);
        let launched = Instant::now();
        members.launch_all().await?;
        let measured = measure(&topology, &writers, &from, killed, DEADLINE).await?;
        writers.stop().await;
        Ok((killed + measured.writable_after).saturating_duration_since(launched))
    })
    .await
}

/// The primary's packets vanish, to and from the members and the replicas, with servers at their defaults: from the first cut until
/// another server is writable. Needs root or sudo.
pub(crate) async fn silent(name: &str, flavour: Flavour) -> Result<Duration> {
    scenario(name, |run| async move {
        let net = Net::create()?;
        let topology = Topology::start_in(&run, &Shape::asynchronous(flavour, 2), &net).await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), Some(&net)).await?;
        let writers = Writers::start(&topology, WRITERS)?;
        writers.progress(ROWS, DEADLINE).await?;
        let primary = topology.server(0)?.host()?;
        let since = Instant::now();
        for member in &members.list {
            cut(member.host()?, primary)?;
        }
        for replica in [1, 2] {
            cut(topology.server(replica)?.host()?, primary)?;
        }
        // A writer that still reaches the old primary stays there: the replicas are asked.
        until(DEADLINE, "a replica to be writable", async || {
            for replica in [1, 2] {
                if !topology.server(replica)?.is_read_only().await? {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
        let writable = since.elapsed();
        writers.stop().await;
        Ok(writable)
    })
    .await
}

async fn begin(run: &Arc<Run>, flavour: Flavour) -> Result<(Topology, Members, Writers)> {
    let topology = Topology::start(run, &Shape::star(flavour, 2)).await?;
    let members = Members::start(run, &topology, &Intent::default_document(), None).await?;
    let writers = Writers::start(&topology, WRITERS)?;
    writers.progress(ROWS, DEADLINE).await?;
    Ok((topology, members, writers))
}

/// The wall clock at an instant, milliseconds since 1970.
fn wall_millis(instant: Instant) -> Result<i64> {
    let then = SystemTime::now() - instant.elapsed();
    let since = then.duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
    Ok(i64::try_from(since.as_millis())?)
}

async fn settings(topology: &Topology) -> Result<String> {
    let server = topology.server(0)?;
    let version = server.value("SELECT VERSION()").await?;
    let binlog = server.value("SELECT @@GLOBAL.sync_binlog").await?;
    let flush = server.value("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit").await?;
    Ok(format!(
        "{version}, sync_binlog={binlog}, innodb_flush_log_at_trx_commit={flush}"
    ))
}
