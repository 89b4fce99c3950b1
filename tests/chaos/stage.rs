//! One topology with its members: disturbed, judged, mended, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::acts::Act;
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::netns::{Host, Net, cut, heal};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::sampler::Sampler;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::{Writers, missing};
use crate::slow_disk::SlowDisk;

/// An eligible replica, a quorum of members and nothing that blocks: a server is writable again within this.
const LIVE: Duration = Duration::from_secs(10);
/// After everything runs again the cluster is one primary and its replicas within this.
const WHOLE: Duration = Duration::from_secs(90);
/// A server that is not attached by itself for so long is looked at, as a person would.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a primary that returns may take writes: ten times the budget of 0.3 s.
const READ_ONLY: Duration = Duration::from_secs(3);
/// How many write at the same time.
const WRITERS: usize = 2;
/// How long a writer rests after each row: a replica that lags has to apply what it received before it opens, and that is no fault.
const REST: Duration = Duration::from_millis(50);

/// What an act left to be mended.
#[derive(Debug, Default)]
struct Disturbed {
    killed: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    killed_members: BTreeSet<usize>,
    paused_members: BTreeSet<usize>,
    slow_disk: Option<SlowDisk>,
    cuts: Vec<(Host, Host)>,
    downtimed: Option<Address>,
}

/// What a stage counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acts: usize,
    pub(crate) recoveries: usize,
    pub(crate) rejoined: usize,
    pub(crate) forgotten: usize,
    pub(crate) rebuilt: usize,
    pub(crate) rows: usize,
    pub(crate) lost: usize,
    pub(crate) slowest: Duration,
}

/// A topology in progress.
pub(crate) struct Stage {
    topology: Topology,
    members: Members,
    writers: Writers,
    sampler: Sampler,
    shape: Shape,
    can_take_over: bool,
    pub(crate) counts: Counts,
    _net: Net,
}

impl Stage {
    pub(crate) async fn set(run: &Arc<Run>, shape: Shape) -> Result<Self> {
        let net = Net::create()?;
        let topology = Topology::start_in(run, &shape, &net).await?;
        let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin", "blockFor": "1s"}));
        let members = Members::start(run, &topology, &intent, Some(&net)).await?;
        let leader = members.member(members.leader().await?)?;
        // HEAD on what changes something is refused with 405; a route that is not there answers 404.
        let route = leader.api().url("graceful-master-takeover-auto/nobody");
        let answer = reqwest::Client::new()
            .head(route)
            .send()
            .await
            .context("ask for the takeover")?;
        let can_take_over = answer.status().as_u16() == 405;
        let sampler = Sampler::start(&topology, &members);
        let writers = Writers::start_paced(&topology, WRITERS, REST)?;
        writers.progress(50, WHOLE).await?;
        Ok(Self {
            topology,
            members,
            writers,
            sampler,
            shape,
            can_take_over,
            counts: Counts::default(),
            _net: net,
        })
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.topology.servers.len()
    }

    /// Does one act, leaves it alone for a while, mends everything, and judges. Returns what is to be told about it.
    pub(crate) async fn play(&mut self, act: Act, hold: Duration) -> Result<String> {
        let begun = Instant::now();
        let primary = self.topology.only_writable(WHOLE).await.context("before the act")?;
        let mut disturbed = Disturbed::default();
        let told = self.disturb(act, primary, &mut disturbed).await?;
        let mut remark = String::new();
        if disturbed.killed.contains(&primary) && disturbed.paused_members.len() + disturbed.killed_members.len() < 2 {
            let row = self
                .writers
                .first_elsewhere(primary, begun, LIVE)
                .await
                .with_context(|| format!("liveness: no other server is writable within {} s", LIVE.as_secs()))?;
            let took = row.at - begun;
            self.counts.slowest = self.counts.slowest.max(took);
            remark = format!(", db{} writable after {:.2} s", row.server + 1, took.as_secs_f64());
        }
        // What the act does to the cluster, it does in this time: it is what the seed says, and nothing is waited for.
        tokio::time::sleep(hold).await;
        self.mend(disturbed).await.context("mending")?;
        self.whole().await?;
        self.writers.progress(20, WHOLE).await.context("after the act")?;
        self.counts.acts += 1;
        Ok(format!(
            "{told}{remark}, whole again after {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    async fn disturb(&mut self, act: Act, primary: usize, disturbed: &mut Disturbed) -> Result<String> {
        let name = format!("db{}", primary + 1);
        match act {
            Act::KillPrimary => {
                self.topology.server_mut(primary)?.kill()?;
                disturbed.killed.insert(primary);
            }
            Act::RestartPrimary => {
                self.topology.server_mut(primary)?.kill()?;
                self.topology.server_mut(primary)?.start_again().await?;
            }
            Act::KillPrimaryAndLeader => {
                let leader = self.members.leader().await?;
                self.members.member_mut(leader)?.kill()?;
                disturbed.killed_members.insert(leader);
                self.topology.server_mut(primary)?.kill()?;
                disturbed.killed.insert(primary);
            }
            Act::PausePrimary => {
                self.topology.server(primary)?.pause()?;
                disturbed.paused.insert(primary);
            }
            Act::KillServer(server) => {
                self.topology.server_mut(server)?.kill()?;
                disturbed.killed.insert(server);
            }
            Act::PauseServer(server) => {
                self.topology.server(server)?.pause()?;
                disturbed.paused.insert(server);
            }
            Act::KillMember(member) => {
                self.members.member_mut(member)?.kill()?;
                disturbed.killed_members.insert(member);
            }
            Act::PauseMember(member) => {
                self.members.member(member)?.process()?.signal("STOP")?;
                disturbed.paused_members.insert(member);
            }
            Act::SlowDisk(member) => {
                disturbed.slow_disk = Some(SlowDisk::of(&self.members.member(member)?.data()).await?);
            }
            Act::SlowDiskAndKillPrimary => {
                let leader = self.members.leader().await?;
                disturbed.slow_disk = Some(SlowDisk::of(&self.members.member(leader)?.data()).await?);
                self.topology.server_mut(primary)?.kill()?;
                disturbed.killed.insert(primary);
            }
            Act::CutServers(one, other) => {
                let pair = (self.topology.server(one)?.host()?, self.topology.server(other)?.host()?);
                cut(pair.0, pair.1)?;
                disturbed.cuts.push((pair.0.clone(), pair.1.clone()));
            }
            Act::CutMemberFromServer(member, server) => {
                let pair = (
                    self.members.member(member)?.host()?,
                    self.topology.server(server)?.host()?,
                );
                cut(pair.0, pair.1)?;
                disturbed.cuts.push((pair.0.clone(), pair.1.clone()));
            }
            Act::CutMembers(one, other) => {
                let pair = (self.members.member(one)?.host()?, self.members.member(other)?.host()?);
                cut(pair.0, pair.1)?;
                disturbed.cuts.push((pair.0.clone(), pair.1.clone()));
            }
            Act::Downtime(server) => {
                let address = self.topology.server(server)?.address().clone();
                self.ask(&format!(
                    "begin-downtime/{}/{}/chaos/act/1h",
                    address.host, address.port
                ))
                .await?;
                disturbed.downtimed = Some(address);
            }
            Act::Takeover if self.can_take_over => {
                let address = self.topology.server(primary)?.address().clone();
                let answer = self
                    .ask(&format!(
                        "graceful-master-takeover-auto/{}:{}",
                        address.host, address.port
                    ))
                    .await;
                // One that is refused has to leave everything as it was: that is judged like any other act.
                return Ok(format!(
                    "{act} from {name}: {}",
                    answer.map_or_else(|error| format!("refused ({error:#})"), |()| "done".to_owned())
                ));
            }
            Act::Takeover => return Ok(format!("{act}: this version has none")),
        }
        Ok(format!("{act} (primary was {name})"))
    }

    async fn ask(&self, path: &str) -> Result<()> {
        let leader = self.members.member(self.members.leader().await?)?;
        let (code, body) = leader.api().get_within(path, Duration::from_secs(40)).await?;
        ensure!(code == 200, "{path}: {code} {body}");
        Ok(())
    }

    async fn mend(&mut self, disturbed: Disturbed) -> Result<()> {
        if let Some(slow_disk) = disturbed.slow_disk {
            slow_disk.mend().await?;
        }
        for (one, other) in &disturbed.cuts {
            heal(one, other)?;
        }
        for server in &disturbed.paused {
            self.topology.server(*server)?.resume()?;
        }
        for member in &disturbed.paused_members {
            self.members.member(*member)?.process()?.signal("CONT")?;
        }
        for server in &disturbed.killed {
            self.topology.server_mut(*server)?.start_again().await?;
        }
        if !disturbed.killed_members.is_empty() {
            self.members.launch_all().await?;
        }
        let all: Vec<usize> = (0..self.members.list.len()).collect();
        self.members.healthy(&all).await?;
        if let Some(address) = disturbed.downtimed {
            self.ask(&format!("end-downtime/{}/{}", address.host, address.port))
                .await?;
        }
        Ok(())
    }

    /// Waits until one server is writable and all others replicate from it, directly or not; helps those that only a person can help.
    async fn whole(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut helped = BTreeSet::new();
        loop {
            let (problem, apart) = match self.look().await {
                // A server that was built anew gets the whole history first: until then it is nobody to promote at once.
                Ok((None, _)) => {
                    let primary = self.topology.only_writable(WHOLE).await?;
                    return self.topology.caught_up(primary, WHOLE).await;
                }
                Ok((Some(problem), apart)) => (problem, apart),
                Err(error) => (format!("{error:#}"), Vec::new()),
            };
            ensure!(
                begun.elapsed() < WHOLE,
                "the cluster is not whole {} s after everything runs again: {problem}",
                WHOLE.as_secs()
            );
            if begun.elapsed() > PATIENCE {
                for (server, primary) in apart {
                    // A second help is a new server: the first was not enough.
                    let again = !helped.insert(server);
                    if !again || begun.elapsed() > 4 * PATIENCE {
                        self.help(server, primary, again).await?;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What keeps the cluster from being whole, and the servers that stand apart, with the primary.
    async fn look(&self) -> Result<(Option<String>, Vec<(usize, usize)>)> {
        let mut writable = Vec::new();
        let mut apart = Vec::new();
        let addresses: BTreeSet<String> = self.topology.addresses().iter().map(ToString::to_string).collect();
        for (index, server) in self.topology.servers.iter().enumerate() {
            let status = server.replica_status().await?;
            if !server.is_read_only().await? {
                writable.push(index);
            } else if !status.as_ref().is_some_and(|status| {
                status.io_thread == "Yes" && status.sql_thread == "Yes" && addresses.contains(&status.source)
            }) {
                apart.push((index, status));
            }
        }
        let [primary] = writable.as_slice() else {
            let names: Vec<String> = writable.iter().map(|index| format!("db{}", index + 1)).collect();
            return Ok((Some(format!("writable are [{}]", names.join(", "))), Vec::new()));
        };
        let problem = apart
            .first()
            .map(|(index, status)| format!("db{} does not replicate: {status:?}", index + 1));
        Ok((problem, apart.into_iter().map(|(index, _)| (index, *primary)).collect()))
    }

    /// What a person does about a server that holds transactions of its own: MySQL is let forget them, MariaDB, or when that does not
    /// help, is built anew from the primary.
    async fn help(&mut self, server: usize, primary: usize, again: bool) -> Result<()> {
        let address = self.topology.server(server)?.address().clone();
        if self.shape.flavour == Flavour::MySql && !again {
            let path = format!("errant-reset/{}/{}?confirm=data-differs", address.host, address.port);
            if self.ask(&path).await.is_ok() {
                self.counts.forgotten += 1;
                return Ok(());
            }
        }
        let source = self.topology.server(primary)?.address().clone();
        let attach = self.shape.flavour.attach(&source, &self.topology.accounts.replication);
        let rebuilt = self.topology.server_mut(server)?;
        rebuilt.rebuild().await?;
        // Nothing is known of it to the members until the accounts have come with the replication: nobody else makes it read-only.
        rebuilt.run(self.shape.flavour.read_only(true)).await?;
        rebuilt.run(&attach).await?;
        self.counts.rebuilt += 1;
        Ok(())
    }

    /// Stops everything and holds what was seen to the invariants.
    pub(crate) async fn end(mut self) -> Result<Counts> {
        let primary = self.topology.only_writable(WHOLE).await?;
        let recoveries = self.records().await?;
        let reported: u64 = recoveries
            .iter()
            .map(|recovery| lost_transactions(text(recovery, "/LostTransactions")))
            .sum();
        let is = |recovery: &&Value, kind: &str| {
            text(recovery, "/Type") == kind && recovery.get("IsSuccessful") == Some(&Value::Bool(true))
        };
        self.counts.recoveries = recoveries
            .iter()
            .filter(|recovery| is(recovery, "MasterRecovery") && !key(recovery, "/SuccessorKey").is_empty())
            .count();
        self.counts.rejoined = recoveries.iter().filter(|recovery| is(recovery, "Rejoin")).count();
        let rows = self.writers.stop().await;
        let verdict = self.sampler.stop().await;
        verdict.assert_invariants(READ_ONLY)?;
        self.topology.caught_up(primary, WHOLE).await?;
        let lost = missing(&rows, self.topology.server(primary)?).await?;
        self.counts.rows = rows.len();
        self.counts.lost = lost.len();
        if u64::try_from(lost.len())? > reported {
            bail!(
                "{} of {} acknowledged rows are missing, and {reported} transactions are reported lost; the first: {:?}",
                lost.len(),
                rows.len(),
                lost.first()
            );
        }
        Ok(self.counts)
    }

    /// All recoveries, page by page.
    async fn records(&self) -> Result<Vec<Value>> {
        let leader = self.members.member(self.members.leader().await?)?;
        let mut all = Vec::new();
        for page in 0.. {
            let shown = leader.api().json(&format!("audit-recovery/{page}")).await?;
            let shown = shown.as_array().cloned().unwrap_or_default();
            if shown.is_empty() {
                break;
            }
            all.extend(shown);
        }
        Ok(all)
    }

    /// The flavour, the number of servers, who follows whom, and whether commits wait.
    pub(crate) fn describe(&self) -> String {
        describe(&self.shape)
    }

    /// Waits for nothing and asks nobody: for a stage that failed.
    pub(crate) async fn explain(&self) -> String {
        let asked = until(Duration::from_secs(3), "an explanation", async || {
            let leader = self
                .members
                .member(self.members.leader_within(Duration::from_secs(2)).await?)?;
            Ok(Some(leader.api().json("explain").await?))
        });
        asked
            .await
            .map_or_else(|error| format!("{error:#}"), |told| told.to_string())
    }
}

/// A shape in words.
pub(crate) fn describe(shape: &Shape) -> String {
    let Shape {
        flavour,
        sources,
        semi_sync,
        reserved: _,
        first: _,
    } = shape;
    let sources: Vec<String> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| format!("db{}<-db{}", source + 1, index + 2))
        .collect();
    let commits = if *semi_sync { "semi-sync" } else { "asynchronous" };
    format!("{flavour}, {commits}, {}", sources.join(" "))
}

/// How many transactions a printed set has: `uuid:1-3:5` or `0-1-7..9`.
fn lost_transactions(set: &str) -> u64 {
    let span = |first: &str, last: &str| -> u64 {
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => last.saturating_sub(first) + 1,
            _ => 0,
        }
    };
    set.split(',')
        .map(|part| {
            let part = part.trim();
            if part.contains(':') {
                let intervals = part.split(':').skip(1);
                return intervals
                    .map(|interval| {
                        let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
                        span(first, last)
                    })
                    .sum();
            }
            let Some((_, numbers)) = part.rsplit_once('-') else {
                return 0;
            };
            let (first, last) = numbers.split_once("..").unwrap_or((numbers, numbers));
            span(first, last)
        })
        .sum()
}
