//! What an act does, and what puts it right again.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::acts::{Act, Kind};
use crate::kit::netns::{Host, cut, heal};
use crate::kit::sql::Address;
use crate::kit::wait::until;
use crate::rogue::Rogue;
use crate::slow_disk::SlowDisk;
use crate::stage::Stage;

/// How long a failed primary may stay without a successor, with an eligible replica, a quorum of members and nothing that blocks.
pub(crate) const LIVE: Duration = Duration::from_secs(10);
/// The same when nothing refuses connections, and the writers wait up to 5 s for an answer.
const LIVE_SILENT: Duration = Duration::from_secs(25);
/// How long a statement is tried on a server whose sessions may be ended.
const STATEMENT: Duration = Duration::from_secs(20);
/// How far a clock jumps, in milliseconds.
const JUMPS: [i64; 5] = [10_800_000, -10_800_000, 40_000, -40_000, 86_400_000];

/// What an act left to be mended.
#[derive(Debug, Default)]
pub(crate) struct Disturbed {
    pub(crate) killed: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    killed_members: BTreeSet<usize>,
    paused_members: BTreeSet<usize>,
    slow_disk: Option<SlowDisk>,
    wrong_clock: Option<usize>,
    cuts: Vec<(Host, Host)>,
    holes: Vec<Host>,
    downtimed: Option<Address>,
    rogue: Option<Rogue>,
    /// The replica with the channel `stranger`.
    pub(crate) channel: Option<usize>,
    /// The replica that reports another address, and its own.
    report_host: Option<(usize, Address)>,
    /// It boots writable for the time of the act.
    pub(crate) boots_writable: Option<usize>,
    /// The replica with the channel `other`.
    pub(crate) second_channel: Option<usize>,
    /// These hold transactions of their own and are built anew.
    pub(crate) rebuilt: BTreeSet<usize>,
    /// These were another cluster for the time of the act: what they took is no second primary.
    pub(crate) apart: BTreeSet<usize>,
    /// The primary has to be replaced within this.
    pub(crate) replaced_within: Option<Duration>,
    /// The primary has to be replaced, or the members have to say why not.
    pub(crate) replaced_or_told: bool,
}

impl Act {
    /// Whether the primary fails in it, and fails alone: then what was predicted has to come.
    pub(crate) fn fails_primary(&self, primary: usize, servers: usize) -> bool {
        match self.kind {
            Kind::KillPrimary
            | Kind::KillPrimaryAndLeader
            | Kind::SlowDiskAndKillPrimary
            | Kind::ClockJumpAndKillPrimary
            | Kind::BlackHolePrimary => true,
            Kind::KillServer => self.one_of(servers) == primary,
            Kind::RestartPrimary
            | Kind::KillPrimaryAndReplica
            | Kind::KillTwoServers
            | Kind::PausePrimary
            | Kind::PauseServer
            | Kind::RestartHeld
            | Kind::KillMember
            | Kind::PauseMember
            | Kind::SlowDisk
            | Kind::ClockJump
            | Kind::CutServers
            | Kind::CutMemberFromServer
            | Kind::CutMembers
            | Kind::BlackHoleServer
            | Kind::BlackHoleDataCenter
            | Kind::RogueSource
            | Kind::RogueReportHost
            | Kind::SplitByHand
            | Kind::SecondChannel
            | Kind::Downtime
            | Kind::Takeover => false,
        }
    }
}

fn db(server: usize) -> String {
    format!("db{}", server + 1)
}

fn member_name(member: usize) -> String {
    format!("member{}", member + 1)
}

impl Stage {
    /// Does what the act says. Returns what is to be told about it.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of act")]
    pub(crate) async fn disturb(&mut self, act: Act, primary: usize, disturbed: &mut Disturbed) -> Result<String> {
        let (servers, members) = (self.topology.servers.len(), self.members.list.len());
        let name = db(primary);
        // A server that is not the primary.
        let replica = (primary + 1 + act.one_of(servers - 1)) % servers;
        Ok(match act.kind {
            Kind::KillPrimary => {
                self.kill(primary, disturbed)?;
                disturbed.replaced_within = Some(LIVE);
                format!("killed the primary {name}")
            }
            Kind::RestartPrimary => {
                self.topology.server_mut(primary)?.kill()?;
                self.topology.server_mut(primary)?.start_again().await?;
                format!("killed the primary {name} and started it at once")
            }
            Kind::KillPrimaryAndLeader => {
                let leader = self.members.leader().await?;
                self.members.member_mut(leader)?.kill()?;
                disturbed.killed_members.insert(leader);
                self.kill(primary, disturbed)?;
                disturbed.replaced_within = Some(LIVE);
                format!("killed the primary {name} and the leader {}", member_name(leader))
            }
            Kind::KillPrimaryAndReplica => {
                let direct = self.direct_replicas(primary).await?;
                let other = *direct
                    .get(act.one_of(direct.len()))
                    .context("the primary has no replica")?;
                self.kill(primary, disturbed)?;
                self.kill(other, disturbed)?;
                disturbed.replaced_or_told = true;
                format!("killed the primary {name} and its replica {}", db(other))
            }
            Kind::KillTwoServers => {
                let (one, other) = act.two_of(servers);
                self.kill(one, disturbed)?;
                self.kill(other, disturbed)?;
                disturbed.replaced_or_told = disturbed.killed.contains(&primary);
                format!("killed {} and {}, the primary is {name}", db(one), db(other))
            }
            Kind::PausePrimary => {
                self.topology.server(primary)?.pause()?;
                disturbed.paused.insert(primary);
                format!("stopped the primary {name} (SIGSTOP)")
            }
            Kind::KillServer => {
                let server = act.one_of(servers);
                self.kill(server, disturbed)?;
                disturbed.replaced_within = (server == primary).then_some(LIVE);
                format!("killed {}, the primary is {name}", db(server))
            }
            Kind::PauseServer => {
                let server = act.one_of(servers);
                self.topology.server(server)?.pause()?;
                disturbed.paused.insert(server);
                format!("stopped {} (SIGSTOP), the primary is {name}", db(server))
            }
            Kind::RestartHeld => self.restart_held(primary, act, disturbed).await?,
            Kind::KillMember => {
                let member = act.one_of(members);
                self.members.member_mut(member)?.kill()?;
                disturbed.killed_members.insert(member);
                format!("killed {}", member_name(member))
            }
            Kind::PauseMember => {
                let member = act.one_of(members);
                self.members.member(member)?.process()?.signal("STOP")?;
                disturbed.paused_members.insert(member);
                format!("stopped {} (SIGSTOP)", member_name(member))
            }
            Kind::SlowDisk => {
                let member = act.one_of(members);
                disturbed.slow_disk = Some(SlowDisk::of(&self.members.member(member)?.data()).await?);
                format!("slowed the disk of {}", member_name(member))
            }
            Kind::SlowDiskAndKillPrimary => {
                let leader = self.members.leader().await?;
                disturbed.slow_disk = Some(SlowDisk::of(&self.members.member(leader)?.data()).await?);
                self.kill(primary, disturbed)?;
                disturbed.replaced_within = Some(LIVE);
                format!(
                    "slowed the disk of the leader {}, killed the primary {name}",
                    member_name(leader)
                )
            }
            Kind::ClockJump => {
                let member = act.one_of(members);
                let jumped = self.jump(member, act, disturbed)?;
                // Long enough for the clocks to be compared, and for what depends on them to act.
                tokio::time::sleep(Duration::from_secs(3)).await;
                jumped
            }
            Kind::ClockJumpAndKillPrimary => {
                let leader = self.members.leader().await?;
                let jumped = self.jump(leader, act, disturbed)?;
                tokio::time::sleep(act.hold).await;
                self.kill(primary, disturbed)?;
                disturbed.replaced_within = Some(LIVE);
                format!("{jumped}, which led; killed the primary {name}")
            }
            Kind::CutServers => {
                let (one, other) = act.two_of(servers);
                let pair = (self.topology.server(one)?.host()?, self.topology.server(other)?.host()?);
                cut_pair(pair.0, pair.1, disturbed)?;
                format!("cut {} from {}, the primary is {name}", db(one), db(other))
            }
            Kind::CutMemberFromServer => {
                let (member, server) = (act.another_of(members), act.one_of(servers));
                let pair = (
                    self.members.member(member)?.host()?,
                    self.topology.server(server)?.host()?,
                );
                cut_pair(pair.0, pair.1, disturbed)?;
                format!("cut {} from {}, the primary is {name}", member_name(member), db(server))
            }
            Kind::CutMembers => {
                let (one, other) = act.two_of(members);
                let pair = (self.members.member(one)?.host()?, self.members.member(other)?.host()?);
                cut_pair(pair.0, pair.1, disturbed)?;
                format!("cut {} from {}", member_name(one), member_name(other))
            }
            Kind::BlackHolePrimary => {
                self.black_hole(&[primary].into(), &BTreeSet::new(), disturbed)?;
                disturbed.replaced_within = Some(LIVE_SILENT);
                format!("black hole around the primary {name}")
            }
            Kind::BlackHoleServer => {
                self.black_hole(&[replica].into(), &BTreeSet::new(), disturbed)?;
                tokio::time::sleep(Duration::from_secs(4)).await;
                format!("black hole around {}, the primary is {name}", db(replica))
            }
            Kind::BlackHoleDataCenter => {
                let first = act.one_of(servers);
                let inside: BTreeSet<usize> = (0..servers / 2).map(|step| (first + step) % servers).collect();
                let member = act.another_of(members);
                self.black_hole(&inside, &[member].into(), disturbed)?;
                // Longer than a silent partition may take to be noticed.
                tokio::time::sleep(Duration::from_secs(6)).await;
                let names: Vec<String> = inside.iter().map(|server| db(*server)).collect();
                format!(
                    "black hole between {}, {} and the rest, the primary is {name}",
                    names.join(", "),
                    member_name(member)
                )
            }
            Kind::RogueSource => {
                let rogue = self.rogue(act).await?;
                let sql = self.flavour().stranger_channel(&rogue.address);
                self.insist(replica, &sql).await?;
                disturbed.channel = Some(replica);
                self.beside_rogue(rogue, act, primary, disturbed, &format!("a channel of {}", db(replica)))
                    .await?
            }
            Kind::RogueReportHost => {
                let rogue = self.rogue(act).await?;
                let server = self.topology.server_mut(replica)?;
                disturbed.report_host = Some((replica, server.address().clone()));
                server.set_option("report-host", &rogue.address.host)?;
                server.set_option("report-port", &rogue.address.port.to_string())?;
                server.kill()?;
                server.start_again().await?;
                self.beside_rogue(
                    rogue,
                    act,
                    primary,
                    disturbed,
                    &format!("report_host of {}", db(replica)),
                )
                .await?
            }
            Kind::SplitByHand => self.split(primary, act, disturbed).await?,
            Kind::SecondChannel => self.second_channel(primary, act, disturbed).await?,
            Kind::Downtime => {
                let server = act.one_of(servers);
                let address = self.topology.server(server)?.address().clone();
                let path = format!("begin-downtime/{}/{}/chaos/act/1h", address.host, address.port);
                self.ask(&path).await?;
                disturbed.downtimed = Some(address);
                format!("downtime of {}", db(server))
            }
            Kind::Takeover => {
                let address = self.topology.server(primary)?.address().clone();
                let path = format!("graceful-master-takeover-auto/{}:{}", address.host, address.port);
                // One that is refused has to leave everything as it was: that is judged like any other act.
                match self.ask(&path).await {
                    Ok(()) => format!("takeover from {name}"),
                    Err(error) => format!("takeover from {name} was refused ({error:#})"),
                }
            }
        })
    }

    /// SIGKILL of a server, which is started again at the end of the act.
    pub(crate) fn kill(&mut self, server: usize, disturbed: &mut Disturbed) -> Result<()> {
        self.topology.server_mut(server)?.kill()?;
        disturbed.killed.insert(server);
        Ok(())
    }

    fn jump(&self, member: usize, act: Act, disturbed: &mut Disturbed) -> Result<String> {
        let by = JUMPS.get(act.another_of(JUMPS.len())).copied().unwrap_or_default();
        let file = self.members.member(member)?.clock_file();
        fs::write(&file, by.to_string()).with_context(|| format!("write {}", file.display()))?;
        disturbed.wrong_clock = Some(member);
        Ok(format!(
            "the clock of {} jumped by {} s",
            member_name(member),
            by / 1000
        ))
    }

    /// Nothing passes between these servers and members, and all others and this machine.
    pub(crate) fn black_hole(
        &self,
        servers: &BTreeSet<usize>,
        members: &BTreeSet<usize>,
        disturbed: &mut Disturbed,
    ) -> Result<()> {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (place, server) in self.topology.servers.iter().enumerate() {
            let side = if servers.contains(&place) {
                &mut inside
            } else {
                &mut outside
            };
            side.push(server.host()?.clone());
        }
        for (place, member) in self.members.list.iter().enumerate() {
            let side = if members.contains(&place) {
                &mut inside
            } else {
                &mut outside
            };
            side.push(member.host()?.clone());
        }
        for host in inside {
            for other in &outside {
                cut_pair(&host, other, disturbed)?;
            }
            self.net.machine().cut(&host)?;
            disturbed.holes.push(host);
        }
        Ok(())
    }

    /// Ends every cut.
    pub(crate) fn heal_all(&self, disturbed: &mut Disturbed) -> Result<()> {
        for (one, other) in std::mem::take(&mut disturbed.cuts) {
            heal(&one, &other)?;
        }
        for host in std::mem::take(&mut disturbed.holes) {
            self.net.machine().heal(&host)?;
        }
        Ok(())
    }

    /// Runs statements as root on a server whose sessions members may end.
    pub(crate) async fn insist(&self, server: usize, sql: &str) -> Result<()> {
        let server = self.topology.server(server)?;
        until(STATEMENT, &format!("{} to take: {sql}", server.name()), async || {
            server.run(sql).await?;
            Ok(Some(()))
        })
        .await
    }

    async fn rogue(&self, act: Act) -> Result<Rogue> {
        Rogue::start(self.net.machine().address(), act.another_of(1 << 10)).await
    }

    /// Waits until a member has dialled it, and in half of the acts kills the primary beside it.
    async fn beside_rogue(
        &mut self,
        rogue: Rogue,
        act: Act,
        primary: usize,
        disturbed: &mut Disturbed,
        named_by: &str,
    ) -> Result<String> {
        let Address { host, port } = &rogue.address;
        // A person who adds it by hand is the worst case: then it is dialled for sure. It is no server, so this is refused.
        let leader = self.members.member(self.members.leader().await?)?;
        let (code, _) = leader
            .api()
            .get_within(&format!("discover/{host}/{port}"), STATEMENT)
            .await?;
        let mut told = format!(
            "rogue server ({}) named by {named_by}, discover answered {code}",
            rogue.says
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        if act.another_of(2) == 0 {
            self.kill(primary, disturbed)?;
            disturbed.replaced_within = Some(LIVE);
            told = format!("{told}, killed the primary {}", db(primary));
        }
        disturbed.rogue = Some(rogue);
        Ok(told)
    }

    /// Sends a request that changes something to the leader.
    pub(crate) async fn ask(&self, path: &str) -> Result<()> {
        let leader = self.members.member(self.members.leader().await?)?;
        let (code, body) = leader.api().get_within(path, Duration::from_secs(40)).await?;
        ensure!(code == 200, "{path}: {code} {body}");
        Ok(())
    }

    /// Ends everything that an act did. Returns the servers that were of no cluster, or of another one, meanwhile.
    pub(crate) async fn mend(&mut self, mut disturbed: Disturbed) -> Result<BTreeSet<usize>> {
        if let Some(slow_disk) = disturbed.slow_disk.take() {
            slow_disk.mend().await?;
        }
        if let Some(member) = disturbed.wrong_clock {
            let file = self.members.member(member)?.clock_file();
            fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        }
        self.heal_all(&mut disturbed)?;
        for server in &disturbed.paused {
            self.topology.server(*server)?.resume()?;
        }
        for member in &disturbed.paused_members {
            self.members.member(*member)?.process()?.signal("CONT")?;
        }
        if let Some(server) = disturbed.boots_writable {
            self.topology.server_mut(server)?.set_boots_read_only()?;
        }
        for server in &disturbed.killed {
            self.topology.server_mut(*server)?.start_again().await?;
        }
        if !disturbed.killed_members.is_empty() {
            self.members.launch_all().await?;
        }
        let all: Vec<usize> = (0..self.members.list.len()).collect();
        self.members.healthy(&all).await?;
        if let Some(address) = &disturbed.downtimed {
            self.ask(&format!("end-downtime/{}/{}", address.host, address.port))
                .await?;
        }
        if let Some(server) = disturbed.channel {
            let sql = self.flavour().remove_channel("stranger");
            self.insist(server, &sql).await?;
        }
        if let Some((server, address)) = &disturbed.report_host {
            let server = self.topology.server_mut(*server)?;
            server.set_option("report-host", &address.host)?;
            server.set_option("report-port", &address.port.to_string())?;
            server.kill()?;
            server.start_again().await?;
        }
        if let Some(rogue) = disturbed.rogue.take() {
            rogue.assert_not_told(&self.topology.accounts.topology.password)?;
            ensure!(rogue.dialled() > 0, "no member dialled the rogue server");
            let Address { host, port } = &rogue.address;
            // It may be unknown to the members, which is as good.
            self.ask(&format!("forget/{host}/{port}")).await.ok();
        }
        if let Some(server) = disturbed.second_channel {
            self.end_second_channel(server, &mut disturbed).await?;
        }
        if !disturbed.rebuilt.is_empty() {
            let primary = self.only_writable_beside(&disturbed.rebuilt).await?;
            for server in &disturbed.rebuilt {
                self.rebuild(*server, primary).await?;
            }
        }
        Ok(disturbed.apart)
    }

    /// The one writable server beside these.
    async fn only_writable_beside(&self, these: &BTreeSet<usize>) -> Result<usize> {
        until(
            crate::stage::WHOLE,
            "one writable server beside those to be built anew",
            async || {
                let mut writable = Vec::new();
                for (place, server) in self.topology.servers.iter().enumerate() {
                    if !these.contains(&place) && !server.is_read_only().await? {
                        writable.push(place);
                    }
                }
                Ok(<[usize; 1]>::try_from(writable).ok().map(|[only]| only))
            },
        )
        .await
    }

    /// The places of the servers that replicate from a server.
    pub(crate) async fn direct_replicas(&self, source: usize) -> Result<Vec<usize>> {
        let address = self.topology.server(source)?.address().to_string();
        let mut direct = Vec::new();
        for (place, server) in self.topology.servers.iter().enumerate() {
            let status = server.replica_status().await?;
            if status.is_some_and(|status| status.source == address) {
                direct.push(place);
            }
        }
        Ok(direct)
    }

    /// Until the primary is replaced, or the leader tells what holds it back. Returns what came of it.
    pub(crate) async fn replaced_or_told(&self, primary: usize, begun: Instant) -> Result<String> {
        let address = self.topology.server(primary)?.address().clone();
        let what = "a successor, or the reason why there is none";
        until(2 * LIVE, what, async || {
            let moment = Duration::from_millis(100);
            if let Ok(row) = self.writers.first_elsewhere(primary, begun, moment).await {
                let took = (row.at - begun).as_secs_f64();
                return Ok(Some(format!("{} writable after {took:.2} s", db(row.server))));
            }
            let leader = self.members.member(self.members.leader().await?)?;
            let told = leader.api().json(&format!("explain/{address}")).await?;
            let obstacles = told.get("obstacles").and_then(Value::as_array).into_iter().flatten();
            // One that runs, or has just ended, is not the end of it.
            let is_passing = |reason: &&str| reason.ends_with("is running") || reason.ends_with("already");
            let first = obstacles.filter_map(Value::as_str).find(|reason| !is_passing(reason));
            Ok(first.map(|reason| format!("held back: {reason}")))
        })
        .await
    }
}

fn cut_pair(one: &Host, other: &Host, disturbed: &mut Disturbed) -> Result<()> {
    cut(one, other)?;
    disturbed.cuts.push((one.clone(), other.clone()));
    Ok(())
}
