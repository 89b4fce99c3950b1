//! HAProxy in front of three members, with the example files of `deploy/haproxy`, while the leader dies, is cut off, or is restarted.
//! Clients ask through it all the time.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::kit::asker::{Asked, Asker};
use crate::kit::haproxy::{FILES, HaProxy, UpWatch, check, example};
use crate::kit::http::WRITE_TOKEN;
use crate::kit::member::{Member, program};
use crate::kit::members::Members;
use crate::kit::netns::{Net, cut, heal};
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::wait::throughout;
use crate::stage::DEADLINE;

/// How long no client may be without an answer: ten times the time to a new leader, with the five checks that it has to pass.
const GAP: Duration = Duration::from_secs(20);
/// From when on a leader that is cut off may give no answer: when its health reports that, with the time to notice it.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// How many changes of which server is up are printed.
const SHOWN: usize = 20;
/// How many answers each client gets before and after what happens.
const ANSWERS: usize = 30;

/// Members, HAProxy, and its clients.
struct Fronted {
    members: Members,
    proxy: HaProxy,
    watch: UpWatch,
    askers: Vec<Asker>,
}

impl Fronted {
    async fn set(run: &Arc<Run>, net: Option<&Net>) -> Result<Self> {
        let members = Members::start_without_servers(run, net).await?;
        let addresses: Vec<_> = members.list.iter().map(|member| member.address().clone()).collect();
        let proxy = HaProxy::start(run, &addresses).await?;
        let reads = &["check-global-recoveries"];
        let writes = &["disable-global-recoveries", "enable-global-recoveries"];
        let askers = vec![
            Asker::start("reads by the leader", &proxy.leader, reads)?,
            Asker::start("changes by the leader", &proxy.leader, writes)?,
            Asker::start("reads by the leader, /503", &proxy.leader_503, reads)?,
            Asker::start("reads by any member", &proxy.members, reads)?,
            Asker::start("changes by any member", &proxy.members, writes)?,
        ];
        let watch = proxy.watch();
        let fronted = Self {
            members,
            proxy,
            watch,
            askers,
        };
        fronted.goes_on().await?;
        Ok(fronted)
    }

    /// Every client gets answers.
    async fn goes_on(&self) -> Result<()> {
        for asker in &self.askers {
            asker.progress(ANSWERS, DEADLINE).await?;
        }
        Ok(())
    }

    async fn leader(&self) -> Result<usize> {
        self.members.leader().await
    }

    /// Waits until another member leads than the one that did.
    async fn another_leads(&self, before: usize) -> Result<()> {
        let now = self.leader().await?;
        ensure!(now != before, "member {before} leads still");
        self.goes_on().await
    }

    /// Nothing that could have come out of a member that was cut off at `since` is among the answers.
    fn nothing_from(&self, member: &Member, since: Instant) -> Result<()> {
        let raft = name_of(member)?;
        for asker in &self.askers {
            let asked = asker.asked();
            let is_from = |asked: &&Asked| asked.is_good() && asked.member.as_deref() == Some(raft.as_str());
            ensure!(
                asked.iter().any(|asked| is_from(&asked)),
                "{}: {raft} led and gave no answer: the check below would find nothing",
                asker.name
            );
            let changes = asker.name.starts_with("changes");
            let allowed = if changes { since } else { since + SILENT_AFTER };
            if let Some(late) = asked.iter().filter(is_from).find(|asked| asked.begun > allowed) {
                let after = late.begun - since;
                anyhow::bail!("{}: {raft} answered {after:?} after it was cut off", asker.name);
            }
        }
        Ok(())
    }

    /// Ends it, prints what clients saw, and judges it.
    fn end(self, name: &str) -> Result<()> {
        let (looks, changes) = self.watch.end()?;
        ensure!(looks > 100, "HAProxy was asked only {looks} times which servers are up");
        ensure!(changes.len() > 2, "HAProxy saw no change of the leader: {changes:?}");
        let begun = changes.first().map(|(at, _)| *at).context("HAProxy was never asked")?;
        let of_change = |(at, servers): &(Instant, Vec<String>)| {
            let servers = if servers.is_empty() {
                "none".to_owned()
            } else {
                servers.join(" ")
            };
            format!("{servers} from {:.2} s", (*at - begun).as_secs_f64())
        };
        let up: Vec<String> = changes.iter().take(SHOWN).map(of_change).collect();
        let mut lines = vec![format!("up under leader-check: {}", up.join(", "))];
        for asker in &self.askers {
            let (gap, outcomes) = (asker.longest_gap(), asker.outcomes());
            let seconds = gap.as_secs_f64();
            lines.push(format!("{}: longest gap {seconds:.2} s ({outcomes})", asker.name));
            ensure!(gap < GAP, "{}: no answer for {gap:?}", asker.name);
        }
        let next = format!("\nhaproxy, {name}: ");
        let text = format!("haproxy, {name}: {}\n", lines.join(&next));
        // Written past the test harness, which would keep it to itself.
        std::io::stderr().write_all(text.as_bytes()).context("print the gaps")
    }
}

/// What `ham4db-client` prints. It fails when the client does.
async fn client(words: &[&str]) -> Result<String> {
    let program = program()?.with_file_name("ham4db-client");
    let run = tokio::process::Command::new(&program)
        .args(words)
        .env("HAM4DB_API_TOKEN", WRITE_TOKEN)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, run)
        .await
        .context("ham4db-client does not end")?
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ham4db-client failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The name of a member as it is in its answers: its raft address.
fn name_of(member: &Member) -> Result<String> {
    let file = member
        .data()
        .parent()
        .context("a member has a folder")?
        .join("ham4db.conf.json");
    let configuration: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let name = configuration.get("RaftAdvertise").and_then(serde_json::Value::as_str);
    Ok(name.context("a member has a raft address")?.to_owned())
}

#[test]
fn example_files_are_accepted_by_haproxy() -> Result<()> {
    check(&[example(FILES[0])])?;
    check(&FILES.map(example))
}

#[test]
fn a_new_leader_is_up_later_than_the_old_one_is_down_for_certain() -> Result<()> {
    for name in FILES {
        let text = std::fs::read_to_string(example(name))?;
        let backend = text
            .split("\nbackend ")
            .find(|section| section.contains("GET /api/leader-check"))
            .with_context(|| format!("{name} has no backend with leader-check"))?;
        let words: Vec<&str> = backend
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("default-server"))
            .flat_map(str::split_whitespace)
            .collect();
        let number = |key: &str| -> Result<u32> {
            let at = words.iter().position(|word| *word == key);
            let value = at
                .and_then(|at| words.get(at + 1))
                .with_context(|| format!("{name}: no {key}"))?;
            value
                .trim_end_matches("ms")
                .parse()
                .with_context(|| format!("{name}: {key} {value}"))
        };
        let (inter, fastinter) = (number("inter")?, number("fastinter")?);
        ensure!(
            fastinter <= inter,
            "{name}: the next check after a failed one must not come later"
        );
        let down = (1 + 2 * number("fall")?) * inter;
        let up = (number("rise")? - 1) * fastinter;
        ensure!(down < up, "{name}: down after {down} ms, up after {up} ms");
        ensure!(words.contains(&"shutdown-sessions"), "{name}: sessions are kept");
        // With it, a check could take longer than `inter`.
        ensure!(
            !text.lines().any(|line| line.trim().starts_with("timeout check")),
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_a_killed_leader_is_replaced_and_never_two_are_up() -> Result<()> {
    scenario_alone("haproxy-kill", |run| async move {
        let mut fronted = Fronted::set(&run, None).await?;
        let leader = fronted.leader().await?;
        fronted.members.member_mut(leader)?.kill()?;
        // While no member leads, ham4db-client waits for one, behind either frontend.
        for front in [&fronted.proxy.leader, &fronted.proxy.members] {
            let api = front.to_string();
            let printed = client(&["-U", &api, "-c", "disable-global-recoveries"]).await?;
            ensure!(printed == "disabled\n", "ham4db-client printed {printed:?}");
        }
        fronted.another_leads(leader).await?;
        fronted.end("leader killed")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_a_restarted_leader_is_replaced_and_never_two_are_up() -> Result<()> {
    scenario_alone("haproxy-restart", |run| async move {
        let mut fronted = Fronted::set(&run, None).await?;
        for by_signal in [true, false] {
            let leader = fronted.leader().await?;
            let member = fronted.members.member_mut(leader)?;
            if by_signal {
                member.terminate(DEADLINE).await?;
            } else {
                member.kill()?;
            }
            member.launch()?;
            member.serves().await?;
            fronted.goes_on().await?;
            fronted.members.healthy(&[0, 1, 2]).await?;
            fronted.proxy.settles().await?;
        }
        fronted.end("leader restarted")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_members_restarted_one_after_the_other_serve_all_the_time() -> Result<()> {
    scenario_alone("haproxy-upgrade", |run| async move {
        let mut fronted = Fronted::set(&run, None).await?;
        // The leader last, as an upgrade should: then leadership changes once.
        let leader = fronted.leader().await?;
        for index in [(leader + 1) % 3, (leader + 2) % 3, leader] {
            let member = fronted.members.member_mut(index)?;
            member.terminate(DEADLINE).await?;
            member.launch()?;
            member.serves().await?;
            fronted.members.healthy(&[0, 1, 2]).await?;
            fronted.proxy.settles().await?;
        }
        fronted.goes_on().await?;
        fronted.end("rolling upgrade")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_a_leader_without_its_peers_gives_no_answer() -> Result<()> {
    scenario_alone("haproxy-isolated", |run| isolated(run, false)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_a_leader_without_network_gives_no_answer() -> Result<()> {
    scenario_alone("haproxy-no-network", |run| isolated(run, true)).await
}

/// The leader is cut off from its peers, or from them and from HAProxy.
async fn isolated(run: Arc<Run>, from_haproxy_too: bool) -> Result<()> {
    let net = Net::create()?;
    let machine = net.machine();
    let fronted = Fronted::set(&run, Some(&net)).await?;
    let leader = fronted.leader().await?;
    let alone = fronted.members.member(leader)?;
    let hosts = fronted
        .members
        .list
        .iter()
        .map(Member::host)
        .collect::<Result<Vec<_>>>()?;
    for (index, host) in hosts.iter().enumerate() {
        if index != leader {
            cut(alone.host()?, host)?;
        }
    }
    // What comes back while the cuts are made is from before them.
    let cut_off = Instant::now();
    if from_haproxy_too {
        machine.cut(alone.host()?)?;
    }
    fronted.another_leads(leader).await?;
    throughout(2 * SILENT_AFTER, async || fronted.nothing_from(alone, cut_off)).await?;
    for (index, host) in hosts.iter().enumerate() {
        if index != leader {
            heal(alone.host()?, host)?;
        }
    }
    if from_haproxy_too {
        machine.heal(alone.host()?)?;
    }
    fronted.members.healthy(&[0, 1, 2]).await?;
    fronted.goes_on().await?;
    fronted.end(if from_haproxy_too {
        "leader without network"
    } else {
        "leader without its peers"
    })
}
