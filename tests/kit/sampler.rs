//! Tries to write on every server and asks every member whether it leads, every 20 ms, and keeps what came of it.
//!
//! A write is a real, committed row, as a user's would be: what a server says of its own `read_only` proves nothing. So on a primary that
//! came back the sampler's rows are errant transactions, and belong into what is reported as errant.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::http::Api;
use super::members::Members;
use super::replication::DATABASE;
use super::sql::{Address, Credentials, Session, refusal};
use super::timeline::{Outcome, Sample, overlaps, windows};
use super::topology::Topology;

/// How often each target is tried.
const EVERY: Duration = Duration::from_millis(20);
/// How long one try may take. A commit that waits for an acknowledgement is neither accepted nor refused: it is unknown.
const TRY: Duration = Duration::from_secs(1);

/// A running sampler.
#[derive(Debug)]
pub(crate) struct Sampler {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    servers: Vec<String>,
    members: Vec<String>,
    writes: Samples,
    checks: Samples,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

impl Sampler {
    /// Starts on every server of the topology and every member.
    pub(crate) fn start(topology: &Topology, members: &Members) -> Self {
        Self::start_every(EVERY, topology, members)
    }

    /// The same, with tries on the servers as often as given.
    pub(crate) fn start_every(every: Duration, topology: &Topology, members: &Members) -> Self {
        let apis = members
            .list
            .iter()
            .map(|member| (member.name().to_owned(), member.api().clone()))
            .collect();
        Self::start_at(every, topology, apis)
    }

    /// The same for members that are given by name.
    pub(crate) fn start_on(topology: &Topology, members: Vec<(String, Api)>) -> Self {
        Self::start_at(EVERY, topology, members)
    }

    fn start_at(every: Duration, topology: &Topology, members: Vec<(String, Api)>) -> Self {
        let (writes, checks) = (Samples::default(), Samples::default());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (target, server) in topology.servers.iter().enumerate() {
            let trying = try_writes(
                every,
                target,
                server.address().clone(),
                topology.accounts.sampler.clone(),
                Arc::clone(&writes),
            );
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(trying).await.unwrap_or_default() });
        }
        let mut names = Vec::new();
        for (target, (name, api)) in members.into_iter().enumerate() {
            names.push(name);
            let asking = ask_leader(target, api, Arc::clone(&checks));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(asking).await.unwrap_or_default() });
        }
        let servers = topology.addresses().iter().map(ToString::to_string).collect();
        Self {
            tasks,
            stop,
            servers,
            members: names,
            writes,
            checks,
        }
    }

    /// Stops it.
    pub(crate) async fn stop(mut self) -> Verdict {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.take()
    }

    /// What it saw since its start, or since this was asked for the last time. It goes on.
    pub(crate) fn take(&self) -> Verdict {
        let take = |samples: &Samples| std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
        Verdict {
            servers: self.servers.clone(),
            members: self.members.clone(),
            writes: take(&self.writes),
            checks: take(&self.checks),
        }
    }

    /// How long it took a server that came back after `since` to refuse a write, from its first answer; `None` until it does.
    pub(crate) fn read_only_after(&self, server: usize, since: Instant) -> Option<Duration> {
        read_only_after(
            &self.writes.lock().unwrap_or_else(PoisonError::into_inner),
            server,
            since,
        )
    }

    /// For how long a server that came back after `since` was not seen to refuse writes: from its first answer to its first refusal;
    /// `None` until it refuses one.
    pub(crate) fn open_for(&self, server: usize, since: Instant) -> Option<Duration> {
        let samples = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = || {
            let samples = samples.iter();
            samples.filter(|sample| sample.target == server && sample.sent >= since)
        };
        let answers = of_it().filter(|sample| sample.outcome != Outcome::Unreachable);
        let answered = answers.map(|sample| sample.answered).min()?;
        let refusals = of_it().filter(|sample| matches!(sample.outcome, Outcome::No(_)));
        let refused = refusals.map(|sample| sample.answered).min()?;
        Some(refused - answered)
    }

    /// How many writes a server accepted since a moment.
    pub(crate) fn accepted_since(&self, server: usize, since: Instant) -> usize {
        accepted(
            &self.writes.lock().unwrap_or_else(PoisonError::into_inner),
            server,
            since,
        )
        .count()
    }
}

/// What a sampler saw.
#[derive(Debug)]
pub(crate) struct Verdict {
    servers: Vec<String>,
    members: Vec<String>,
    writes: Vec<Sample>,
    checks: Vec<Sample>,
}

impl Verdict {
    /// Leaves out what certain servers accepted: they were no longer of the cluster.
    pub(crate) fn without(mut self, servers: &std::collections::BTreeSet<usize>) -> Self {
        self.writes.retain(|sample| !servers.contains(&sample.target));
        self
    }

    /// For how long at least two servers accepted writes at the same time, at most.
    pub(crate) fn longest_overlap(&self) -> Duration {
        overlaps(&windows(&self.writes))
            .first()
            .map_or(Duration::ZERO, |worst| worst.lasted)
    }

    /// What must hold in every scenario: two servers accepted writes at the same time for no longer than `bound`, and no two members
    /// said at the same time that they lead. Also that there was something to judge.
    pub(crate) fn assert_invariants(&self, bound: Duration) -> Result<()> {
        self.assert_never_two_writable(bound)?;
        self.assert_at_most_one_leader()
    }

    /// See [`Verdict::assert_invariants`].
    pub(crate) fn assert_never_two_writable(&self, bound: Duration) -> Result<()> {
        ensure!(
            self.writes.iter().any(|sample| sample.outcome == Outcome::Yes),
            "the sampler never managed to write anywhere"
        );
        match overlaps(&windows(&self.writes)).first() {
            Some(worst) if worst.lasted > bound => bail!(
                "{} and {} both accepted writes for at least {} ms; allowed are {} ms",
                name(&self.servers, worst.one.target),
                name(&self.servers, worst.other.target),
                worst.lasted.as_millis(),
                bound.as_millis()
            ),
            _ => Ok(()),
        }
    }

    /// See [`Verdict::assert_invariants`].
    pub(crate) fn assert_at_most_one_leader(&self) -> Result<()> {
        ensure!(
            self.members.is_empty() || self.checks.iter().any(|sample| sample.outcome == Outcome::Yes),
            "the sampler never saw a leader"
        );
        match overlaps(&windows(&self.checks)).first() {
            Some(worst) => bail!(
                "leader-check of {} and of {} both answered 200 for at least {} ms",
                name(&self.members, worst.one.target),
                name(&self.members, worst.other.target),
                worst.lasted.as_millis()
            ),
            None => Ok(()),
        }
    }

    /// For how long a server that was down accepted writes: from the first accepted after `since` to the last, and how many.
    pub(crate) fn accepted(&self, server: usize, since: Instant) -> (usize, Duration) {
        let times: Vec<Instant> = accepted(&self.writes, server, since)
            .map(|sample| sample.answered)
            .collect();
        let lasted = times
            .iter()
            .max()
            .zip(times.iter().min())
            .map(|(last, first)| *last - *first)
            .unwrap_or_default();
        (times.len(), lasted)
    }

    /// See [`Sampler::read_only_after`].
    pub(crate) fn read_only_after(&self, server: usize, since: Instant) -> Option<Duration> {
        read_only_after(&self.writes, server, since)
    }
}

/// From the first try after `since` that a server answered at all, to its first refusal.
fn read_only_after(samples: &[Sample], server: usize, since: Instant) -> Option<Duration> {
    let mut samples: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.target == server && sample.sent >= since)
        .collect();
    samples.sort_by_key(|sample| sample.sent);
    let answered = samples.iter().find(|sample| sample.outcome != Outcome::Unreachable)?;
    let refused = samples.iter().find(|sample| matches!(sample.outcome, Outcome::No(_)))?;
    Some(refused.answered - answered.sent)
}

fn name(names: &[String], index: usize) -> &str {
    names.get(index).map_or("?", String::as_str)
}

fn accepted(samples: &[Sample], server: usize, since: Instant) -> impl Iterator<Item = &Sample> {
    samples
        .iter()
        .filter(move |sample| sample.target == server && sample.outcome == Outcome::Yes && sample.sent >= since)
}

async fn try_writes(every: Duration, target: usize, address: Address, account: Credentials, samples: Samples) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<Session> = None;
    let mut number: u64 = 0;
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        number += 1;
        let outcome = try_write(&mut session, &address, &account, number).await;
        keep(
            &samples,
            Sample {
                target,
                sent,
                answered: Instant::now(),
                outcome,
            },
        );
    }
}

async fn try_write(session: &mut Option<Session>, address: &Address, account: &Credentials, number: u64) -> Outcome {
    if session.is_none() {
        *session = Session::connect(address, account, TRY).await.ok();
    }
    let Some(open) = session else {
        return Outcome::Unreachable;
    };
    let sql = format!("INSERT INTO {DATABASE}.sampled VALUES ('{address}', {number})");
    match open.run_within(&sql, TRY).await {
        Ok(()) => Outcome::Yes,
        Err(error) => {
            if let Some(code) = refusal(&error) {
                return Outcome::No(code.to_string());
            }
            *session = None;
            Outcome::Unreachable
        }
    }
}

async fn ask_leader(target: usize, api: Api, samples: Samples) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        let outcome = match api.get_within("leader-check", TRY).await {
            Ok((200, _)) => Outcome::Yes,
            Ok((code, _)) => Outcome::No(code.to_string()),
            Err(_) => Outcome::Unreachable,
        };
        keep(
            &samples,
            Sample {
                target,
                sent,
                answered: Instant::now(),
                outcome,
            },
        );
    }
}

fn keep(samples: &Samples, sample: Sample) {
    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
}
