//! One topology with its members: disturbed, judged, mended, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::acts::Act;
use crate::disturb::Disturbed;
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::netns::Net;
use crate::kit::replication::{Flavour, ReplicaStatus};
use crate::kit::run::Run;
use crate::kit::sampler::Sampler;
use crate::kit::server::Server;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::{Acknowledged, Writers, missing};
use crate::predictions::{Outcomes, Prediction};
use crate::sets::lost_transactions;

/// After everything runs again the cluster is one primary and its replicas within this.
pub(crate) const WHOLE: Duration = Duration::from_secs(90);
/// A server that is not attached by itself for so long is looked at, as a person would.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a primary that returns may take writes: ten times the budget of 0.3 s.
pub(crate) const READ_ONLY: Duration = Duration::from_secs(3);
/// How many write at the same time.
const WRITERS: usize = 2;
/// How long a writer rests after each row: a replica that lags has to apply what it received before it opens, and that is no fault.
const REST: Duration = Duration::from_millis(50);

/// How many of the rows before a failure are looked for afterwards, beside those written meanwhile: they were written on a whole cluster.
const ROWS_BEFORE: usize = 20;

/// What a stage counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acts: usize,
    pub(crate) recoveries: usize,
    pub(crate) rejoined: usize,
    pub(crate) forgotten: usize,
    pub(crate) rebuilt: usize,
    pub(crate) rows: usize,
    pub(crate) lost: usize,
    pub(crate) slowest: Duration,
    /// For how long two servers of one cluster took writes at the same time, at most.
    pub(crate) overlap: Duration,
    /// For how long held primaries took writes after their restarts.
    pub(crate) open_for: Vec<Duration>,
    pub(crate) predictions: Outcomes,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.acts += other.acts;
        self.recoveries += other.recoveries;
        self.rejoined += other.rejoined;
        self.forgotten += other.forgotten;
        self.rebuilt += other.rebuilt;
        self.rows += other.rows;
        self.lost += other.lost;
        self.slowest = self.slowest.max(other.slowest);
        self.overlap = self.overlap.max(other.overlap);
        self.open_for.extend(&other.open_for);
        self.predictions.add(other.predictions);
    }
}

/// What a server took while it was no primary of the cluster: no row of it is promised.
#[derive(Clone, Copy, Debug)]
struct Apart {
    server: usize,
    from: Instant,
    to: Instant,
}

/// A topology in progress.
pub(crate) struct Stage {
    pub(crate) run: Arc<Run>,
    pub(crate) topology: Topology,
    pub(crate) members: Members,
    pub(crate) writers: Writers,
    pub(crate) sampler: Sampler,
    /// The primary of another cluster, once an act has needed it.
    pub(crate) other: Option<Server>,
    shape: Shape,
    apart: Vec<Apart>,
    pub(crate) counts: Counts,
    pub(crate) net: Net,
}

impl Stage {
    pub(crate) async fn set(run: &Arc<Run>, shape: Shape) -> Result<Self> {
        let net = Net::create()?;
        let topology = Topology::start_in(run, &shape, &net).await?;
        let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin", "blockFor": "1s"}));
        let mut members = Members::prepare(run, &topology, &intent, Some(&net))?;
        for member in &mut members.list {
            member.let_clock_jump();
        }
        members.launch_all().await?;
        members.knows(&topology).await?;
        let sampler = Sampler::start(&topology, &members);
        let writers = Writers::start_paced(&topology, WRITERS, REST)?;
        writers.progress(50, WHOLE).await?;
        Ok(Self {
            run: Arc::clone(run),
            topology,
            members,
            writers,
            sampler,
            other: None,
            shape,
            apart: Vec::new(),
            counts: Counts::default(),
            net,
        })
    }

    /// The flavour of all servers.
    pub(crate) fn flavour(&self) -> Flavour {
        self.shape.flavour
    }

    /// Does one act, leaves it alone for a while, mends everything, and judges. Returns what is to be told about it.
    pub(crate) async fn play(&mut self, act: Act) -> Result<String> {
        let begun = Instant::now();
        let primary = self.topology.only_writable(WHOLE).await.context("before the act")?;
        if self.shape.semi_sync {
            // Of a primary that goes on without acknowledgements nothing can be promised.
            self.insist(primary, &self.flavour().wait_without_replica(true)).await?;
        }
        let mut disturbed = Disturbed::default();
        let known = self.writers.count().saturating_sub(ROWS_BEFORE);
        let prediction = if act.fails_primary(primary, self.topology.servers.len()) {
            let address = self.topology.server(primary)?.address();
            Some(Prediction::ask(&self.members, address).await?)
        } else {
            None
        };
        let acted = Instant::now();
        let mut told = self.disturb(act, primary, &mut disturbed).await?;
        if let Some(limit) = disturbed.replaced_within {
            let row = self
                .writers
                .first_elsewhere(primary, acted, limit)
                .await
                .with_context(|| format!("liveness: no other server is writable within {} s", limit.as_secs()))?;
            let took = row.at - acted;
            self.counts.slowest = self.counts.slowest.max(took);
            if let Some(prediction) = &prediction {
                let mut rows: Vec<_> = self.writers.rows().into_iter().skip(known).collect();
                rows.retain(|row| row.server == primary);
                let promoted = self.topology.server(row.server)?;
                prediction.judge(&rows, promoted, &mut self.counts.predictions).await?;
            }
            told = format!(
                "{told}, db{} writable after {:.2} s",
                row.server + 1,
                took.as_secs_f64()
            );
        }
        if disturbed.replaced_or_told {
            told = format!("{told}, {}", self.replaced_or_told(primary, acted).await?);
        }
        // What the act does to the cluster, it does in this time: it is what the seed says, and nothing is waited for.
        tokio::time::sleep(act.hold).await;
        let apart = self.mend(disturbed).await.context("mending")?;
        self.whole().await?;
        self.apart.extend(apart.iter().map(|server| Apart {
            server: *server,
            from: begun,
            to: Instant::now(),
        }));
        self.writers.progress(20, WHOLE).await.context("after the act")?;
        self.judge(&apart).await?;
        self.counts.acts += 1;
        Ok(format!(
            "{told}, whole again after {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    /// Holds what was seen since the last act to the invariants. Servers that were apart were no second primaries.
    async fn judge(&mut self, apart: &BTreeSet<usize>) -> Result<()> {
        let verdict = self.sampler.take().without(apart);
        self.counts.overlap = self.counts.overlap.max(verdict.longest_overlap());
        verdict.assert_invariants(READ_ONLY)?;
        for member in &mut self.members.list {
            ensure!(member.is_running()?, "{} ended", member.name());
            let (status, metrics) = member.api().get("../metrics").await?;
            ensure!(status == 200, "the metrics of {} answer {status}", member.name());
            let panics = metrics.lines().find(|line| line.starts_with("ham4db_panics_total "));
            ensure!(
                panics == Some("ham4db_panics_total 0"),
                "{} panicked: {panics:?}",
                member.name()
            );
        }
        let primary = self.topology.only_writable(WHOLE).await?;
        let rows = self.promised(self.writers.rows());
        self.count_lost(&rows, primary).await
    }

    /// The rows but those that a server took while it was apart.
    fn promised(&self, mut rows: Vec<Acknowledged>) -> Vec<Acknowledged> {
        rows.retain(|row| {
            let is_of = |apart: &Apart| apart.server == row.server && (apart.from..=apart.to).contains(&row.at);
            !self.apart.iter().any(is_of)
        });
        rows
    }

    /// That no more acknowledged rows are missing on the primary than recoveries report as lost.
    async fn count_lost(&mut self, rows: &[Acknowledged], primary: usize) -> Result<()> {
        let lost = missing(rows, self.topology.server(primary)?).await?;
        self.counts.rows = rows.len();
        self.counts.lost = lost.len();
        if lost.is_empty() {
            return Ok(());
        }
        let recoveries = self.records().await?;
        if recoveries
            .iter()
            .any(|recovery| text(recovery, "/Loss").starts_with("unknown"))
        {
            return Ok(());
        }
        let sets = recoveries.iter().map(|recovery| text(recovery, "/LostTransactions"));
        let reported: u64 = sets.map(lost_transactions).sum();
        if u64::try_from(lost.len())? > reported {
            bail!(
                "{} of {} acknowledged rows are missing, and {reported} transactions are reported lost; the first: {:?}",
                lost.len(),
                rows.len(),
                lost.first()
            );
        }
        Ok(())
    }

    /// Waits until one server is writable and all others replicate from it, directly or not, and until the members show it as this one
    /// cluster. Helps servers that only a person can help.
    pub(crate) async fn whole(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut helped = BTreeSet::new();
        loop {
            let (problem, apart) = match self.look().await {
                // A server that was built anew gets the whole history first: until then it can replace no primary at once.
                Ok((None, _)) => {
                    let primary = self.topology.only_writable(WHOLE).await?;
                    self.topology.caught_up(primary, WHOLE).await?;
                    return self.is_one_cluster(primary).await;
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

    /// Waits until the leader shows one cluster with all servers and this primary.
    async fn is_one_cluster(&self, primary: usize) -> Result<()> {
        let name = self.topology.server(primary)?.address().to_string();
        let wanted = vec![(name, u64::try_from(self.topology.servers.len())?)];
        until(WHOLE, &format!("the members to show {wanted:?}"), async || {
            let seen = self.clusters().await?;
            ensure!(seen == wanted, "they show {seen:?}");
            Ok(Some(()))
        })
        .await
    }

    /// What keeps the cluster from being whole, and the servers that stand apart, with the primary.
    async fn look(&self) -> Result<(Option<String>, Vec<(usize, usize)>)> {
        let mut writable = Vec::new();
        let mut apart: Vec<(usize, Option<ReplicaStatus>)> = Vec::new();
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
        self.rebuild(server, primary).await
    }

    /// A new server at the address of this one, which replicates from the primary: a copy of it on MySQL, where logs may be purged, and
    /// an empty one on MariaDB, which gets everything by replication.
    pub(crate) async fn rebuild(&mut self, server: usize, primary: usize) -> Result<()> {
        let flavour = self.shape.flavour;
        let source = self.topology.server(primary)?.address().clone();
        let attach = flavour.attach(&source, &self.topology.accounts.replication);
        if flavour == Flavour::MySql {
            // The members know its accounts from the start: it may not be writable for a moment.
            let rebuilt = self.topology.server_mut(server)?;
            let boots_writable = !rebuilt.boots_read_only();
            if boots_writable {
                rebuilt.set_boots_read_only()?;
            }
            let data = rebuilt.discard()?;
            self.topology.server(primary)?.clone_data(&data).await?;
            let rebuilt = self.topology.server_mut(server)?;
            rebuilt.start_again().await?;
            if boots_writable {
                rebuilt.set_boots_writable()?;
            }
        } else {
            let rebuilt = self.topology.server_mut(server)?;
            rebuilt.rebuild().await?;
            // Nothing is known of it to the members until the accounts have come with the replication: no member makes it read-only.
            rebuilt.run(flavour.read_only(true)).await?;
        }
        self.insist(server, &attach).await?;
        self.counts.rebuilt += 1;
        Ok(())
    }

    /// Stops everything and holds what was seen to the invariants.
    pub(crate) async fn end(mut self) -> Result<Counts> {
        let primary = self.topology.only_writable(WHOLE).await?;
        let recoveries = self.records().await?;
        let is = |recovery: &&Value, kind: &str| {
            text(recovery, "/Type") == kind && recovery.get("IsSuccessful") == Some(&Value::Bool(true))
        };
        self.counts.recoveries = recoveries
            .iter()
            .filter(|recovery| is(recovery, "MasterRecovery") && !key(recovery, "/SuccessorKey").is_empty())
            .count();
        self.counts.rejoined = recoveries.iter().filter(|recovery| is(recovery, "Rejoin")).count();
        let rows = std::mem::replace(&mut self.writers, Writers::start(&self.topology, 0)?)
            .stop()
            .await;
        let rows = self.promised(rows);
        self.topology.caught_up(primary, WHOLE).await?;
        self.count_lost(&rows, primary).await?;
        let verdict = self.sampler.stop().await;
        verdict.assert_never_two_writable(READ_ONLY)?;
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

    /// What the leader tells about the cluster, for a stage that failed.
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
        performance_schema: _,
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
