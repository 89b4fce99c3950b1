//! What every scenario has on its stage: servers, members, writers and a sampler; and how it ends: nothing lost, one recovery, never two
//! writable primaries, never two leaders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kit::failover::{Measured, kill_primary, measure};
use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::netns::Net;
use crate::kit::run::Run;
use crate::kit::sampler::{Sampler, Verdict};
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::throughout;
use crate::kit::writers::{Acknowledged, Writers, missing};

/// How many write at the same time.
const WRITERS: usize = 4;
/// How many rows are acknowledged before something breaks.
const ROWS: usize = 300;
/// For everything that has no budget of its own.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How long a failover may take: ten times its budget of 0.30 s.
pub(crate) const FAILOVER: Duration = Duration::from_secs(3);

/// How long a writer rests after each row. Without a rest the servers of two scenarios and their writers took both processors, members
/// missed their heartbeats, and what was measured was the machine.
const REST: Duration = Duration::from_millis(5);

/// A scenario in progress.
pub(crate) struct Stage {
    pub(crate) topology: Topology,
    pub(crate) members: Members,
    pub(crate) writers: Writers,
    pub(crate) sampler: Sampler,
}

impl Stage {
    /// Servers and members on 127.0.0.1, and writers at work.
    pub(crate) async fn set(run: &Arc<Run>, shape: &Shape, intent: &Intent) -> Result<Self> {
        let topology = Topology::start(run, shape).await?;
        let members = Members::start(run, &topology, intent, None).await?;
        Self::begin(topology, members).await
    }

    /// The same with a network namespace for each server and member.
    pub(crate) async fn set_in(run: &Arc<Run>, shape: &Shape, intent: &Intent, net: &Net) -> Result<Self> {
        let topology = Topology::start_in(run, shape, net).await?;
        let members = Members::start(run, &topology, intent, Some(net)).await?;
        Self::begin(topology, members).await
    }

    /// Lets writers and sampler begin.
    pub(crate) async fn begin(topology: Topology, members: Members) -> Result<Self> {
        Self::begin_paced(topology, members, REST).await
    }

    /// The same with another rest. Without GTIDs a place is looked for by hand, and what the writers do matters: a server that lags is
    /// rightly refused to others as their source, and a receiver that is stopped between two rows is not in the middle of one.
    pub(crate) async fn begin_paced(topology: Topology, members: Members, rest: Duration) -> Result<Self> {
        let sampler = Sampler::start(&topology, &members);
        let writers = Writers::start_paced(&topology, WRITERS, rest)?;
        writers.progress(ROWS, DEADLINE).await?;
        Ok(Self {
            topology,
            members,
            writers,
            sampler,
        })
    }

    /// The address of a server.
    pub(crate) fn address(&self, index: usize) -> Result<Address> {
        Ok(self.topology.server(index)?.address().clone())
    }

    /// Kills the primary and waits until another one is writable, in time, and followed by the rest.
    pub(crate) async fn fail_over(&mut self, limit: Duration) -> Result<Measured> {
        let measured = kill_primary(&mut self.topology, &self.writers, DEADLINE).await?;
        in_time(&measured, limit)
    }

    /// The same for a primary that was killed already.
    pub(crate) async fn await_failover(&self, killed: Instant, limit: Duration) -> Result<Measured> {
        let measured = measure(&self.topology, &self.writers, &self.address(0)?, killed, DEADLINE).await?;
        in_time(&measured, limit)
    }

    /// Nothing is repaired for a while: no recovery is begun and no other server takes a row.
    pub(crate) async fn nothing_is_done(&self, period: Duration) -> Result<()> {
        let since = Instant::now();
        throughout(period, async || {
            let recoveries = self.members.recoveries().await?;
            ensure!(
                recoveries.is_empty(),
                "a recovery was begun: {}",
                Value::from(recoveries)
            );
            for index in 1..self.topology.servers.len() {
                ensure!(
                    self.sampler.accepted_since(index, since) == 0,
                    "{} accepts writes",
                    self.topology.server(index)?.address()
                );
            }
            Ok(())
        })
        .await
    }

    /// The end of a failover under semi-sync: rows are written on, none is lost, and there was one recovery.
    pub(crate) async fn end(self, measured: &Measured, bound: Duration) -> Result<()> {
        self.writers.progress(ROWS, DEADLINE).await?;
        self.members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        if self.members.have_documents() {
            let Address { host, port } = &measured.to;
            let follows = |status: &Value| {
                text(status, "/primary/host") == host && status.pointer("/primary/port") == Some(&Value::from(*port))
            };
            self.members
                .status(DEADLINE, "status.primary to follow the failover", follows)
                .await?;
        }
        let (topology, verdict, rows) = self.judge(bound).await?;
        topology.caught_up(measured.successor, DEADLINE).await?;
        let lost = missing(&rows, topology.server(measured.successor)?).await?;
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged rows are lost, the first: {:?}",
            lost.len(),
            rows.len(),
            lost.first()
        );
        let (accepted, _) = verdict.accepted(measured.successor, measured.killed);
        ensure!(accepted > 0, "the sampler never wrote on the new primary");
        Ok(())
    }

    /// Stops writers and sampler, and holds what the sampler saw to the invariants.
    pub(crate) async fn judge(self, bound: Duration) -> Result<(Topology, Verdict, Vec<Acknowledged>)> {
        let rows = self.writers.stop().await;
        let verdict = self.sampler.stop().await;
        verdict.assert_invariants(bound)?;
        Ok((self.topology, verdict, rows))
    }
}

fn in_time(measured: &Measured, limit: Duration) -> Result<Measured> {
    let took = measured.writable_after;
    ensure!(
        took <= limit,
        "writable after {:.2} s, allowed are {:.2} s",
        took.as_secs_f64(),
        limit.as_secs_f64()
    );
    Ok(measured.clone())
}
