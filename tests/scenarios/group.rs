//! Group Replication: a group is one node, which chooses its primary itself. ham4db tells, and looks after the replicas below it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::group::{Group, GroupShape, online, statements_of};
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::schedule::scenario_alone;
use crate::kit::sql::Address;
use crate::kit::topology::Topology;
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, Stage};

/// How long nothing may happen, where nothing should.
const QUIET: Duration = Duration::from_secs(5);
/// How long writers rest after a row: a member that joins has to catch up with them.
const PACE: Duration = Duration::from_millis(50);
/// How long the group may take to put a dead member out and choose another primary, on a busy machine.
const ELECTION: Duration = Duration::from_mins(1);
/// How long ham4db may take to tell of it: ten times a poll.
const NOTICED: Duration = Duration::from_secs(10);

/// The primary of the one cluster, as the leader tells it.
async fn told_primary(members: &Members) -> Result<String> {
    let leader = members.member(members.leader().await?)?;
    let primaries = leader.api().json("masters").await?;
    let primaries = primaries.as_array().cloned().unwrap_or_default();
    ensure!(primaries.len() == 1, "the primaries are {}", Value::from(primaries));
    Ok(primaries
        .first()
        .map(|primary| key(primary, "/Key"))
        .unwrap_or_default())
}

/// Waits until the leader tells of this primary.
async fn is_told(members: &Members, primary: &Address, limit: Duration) -> Result<()> {
    until(limit, &format!("{primary} to be told as the primary"), async || {
        let told = told_primary(members).await?;
        ensure!(told == primary.to_string(), "it is {told}");
        Ok(Some(()))
    })
    .await
}

/// No finding about any of the servers, and no recovery.
async fn nothing_is_wrong(members: &Members, topology: &Topology) -> Result<()> {
    for address in topology.addresses() {
        let found = members.findings(&address).await?;
        ensure!(found.is_empty(), "{address} has the findings {found:?}");
    }
    let recoveries = members.recoveries().await?;
    ensure!(recoveries.is_empty(), "{}", Value::from(recoveries));
    Ok(())
}

/// ham4db never sent a server anything that would change whether it takes writes.
fn is_left_alone(topology: &Topology) -> Result<()> {
    let user = &topology.accounts.topology.user;
    for server in &topology.servers {
        let statements = statements_of(server, user)?;
        ensure!(!statements.is_empty(), "{} was never asked anything", server.name());
        let written = statements.iter().find(|statement| {
            let statement = statement.to_ascii_lowercase();
            ["set global", "set persist"].iter().any(|set| statement.contains(set)) && statement.contains("read_only")
        });
        ensure!(written.is_none(), "{} was sent {written:?}", server.name());
    }
    Ok(())
}

/// The place of the only member that takes writes.
async fn writable_of(topology: &Topology, limit: Duration) -> Result<usize> {
    topology.only_writable(limit).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_chooses_another_primary_is_told_and_never_touched() -> Result<()> {
    scenario_alone("group-elects", |run| async move {
        let folder = run.subfolder("told")?;
        let calls = folder.join("calls");
        let call = |list: &str| {
            format!(
                "echo {list} '{{failureType}}' {{failedHost}}:{{failedPort}} {{successorHost}}:{{successorPort}} \
                 {{isSuccessful}} >> '{}'",
                calls.display()
            )
        };
        let mut keys = json!({ "RecoverIntermediateMasterClusterFilters": ["*"] });
        for list in [
            "OnFailureDetection",
            "PreFailover",
            "PostMasterFailover",
            "PostFailover",
        ] {
            keys[format!("{list}Processes")] = json!([call(list)]);
        }
        let shape = GroupShape {
            members: 3,
            single_primary: true,
            replicas: Vec::new(),
        };
        let Group { topology, ports } = Group::start(&run, &shape).await?;
        let members = Members::start(&run, &topology, &Intent::Configuration(keys), None).await?;
        let mut stage = Stage::begin_paced(topology, members, PACE).await?;
        let first = writable_of(&stage.topology, DEADLINE).await?;
        let old = stage.address(first)?;
        is_told(&stage.members, &old, DEADLINE).await?;
        throughout(QUIET, async || nothing_is_wrong(&stage.members, &stage.topology).await).await?;

        stage.topology.server_mut(first)?.kill()?;
        let second = until(ELECTION, "the group to choose another primary", async || {
            for (place, server) in stage.topology.servers.iter().enumerate() {
                if server.is_running() && !server.is_read_only().await? {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        })
        .await?;
        let new = stage.address(second)?;
        is_told(&stage.members, &new, NOTICED).await?;
        let called = until(DEADLINE, "the commands to have been called", async || {
            let called = fs::read_to_string(&calls).unwrap_or_default();
            ensure!(called.lines().count() >= 2, "so far {called:?}");
            Ok(Some(called))
        })
        .await?;
        ensure!(
            called.lines().eq([
                format!("PostMasterFailover GroupPrimaryChanged {old} {new} true"),
                format!("PostFailover GroupPrimaryChanged {old} {new} true"),
            ]),
            "called: {called}"
        );
        let leader = stage.members.member(stage.members.leader().await?)?;
        let detected = leader.api().json("audit-failure-detection").await?;
        let detected = detected.as_array().cloned().unwrap_or_default();
        ensure!(
            detected
                .iter()
                .any(|entry| text(entry, "/AnalysisEntry/Analysis") == "GroupPrimaryChanged"
                    && key(entry, "/SuccessorKey") == new.to_string()),
            "detected: {}",
            Value::from(detected)
        );
        stage.writers.progress(100, DEADLINE).await?;

        // It comes back as a supervisor would start it, joins by itself, and stays what the group makes of it.
        let server = stage.topology.server_mut(first)?;
        server.set_option("loose-group-replication-start-on-boot", "ON")?;
        server.start_again().await?;
        online(stage.topology.server(second)?, 3).await?;
        until(DEADLINE, "nothing to be wrong any more", async || {
            nothing_is_wrong(&stage.members, &stage.topology).await.map(Some)
        })
        .await?;
        throughout(QUIET, async || nothing_is_wrong(&stage.members, &stage.topology).await).await?;
        ensure!(
            told_primary(&stage.members).await? == new.to_string(),
            "it changed once more"
        );
        is_left_alone(&stage.topology)?;
        let (topology, ..) = stage.judge(Duration::ZERO).await?;
        topology.caught_up(second, DEADLINE).await?;
        drop(ports);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_in_which_all_take_writes_is_one_primary() -> Result<()> {
    scenario_alone("group-multi", |run| async move {
        let shape = GroupShape {
            members: 3,
            single_primary: false,
            replicas: Vec::new(),
        };
        let Group { mut topology, ports } = Group::start(&run, &shape).await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        for server in &topology.servers {
            ensure!(!server.is_read_only().await?, "{} takes no writes", server.name());
        }
        let first = until(DEADLINE, "one of them to be told as the primary", async || {
            told_primary(&members).await.map(Some)
        })
        .await?;
        throughout(QUIET, async || nothing_is_wrong(&members, &topology).await).await?;
        // The one that stood for the group dies, and another one stands for it.
        let place = topology
            .servers
            .iter()
            .position(|server| server.address().to_string() == first)
            .context("the primary is none of the members")?;
        topology.server_mut(place)?.kill()?;
        until(DEADLINE, "another one to be told as the primary", async || {
            let told = told_primary(&members).await?;
            Ok((told != first).then_some(()))
        })
        .await?;
        let is_of_group = |status: &Value| {
            let primary = format!("{}:{}", text(status, "/primary/host"), status["primary"]["port"]);
            primary != first
                && topology
                    .addresses()
                    .iter()
                    .any(|address| address.to_string() == primary)
        };
        members
            .status(DEADLINE, "status.primary to be another member", is_of_group)
            .await?;
        throughout(QUIET, async || {
            for server in topology.servers.iter().filter(|server| server.is_running()) {
                ensure!(!server.is_read_only().await?, "{} was closed", server.name());
                let found = members.findings(server.address()).await?;
                ensure!(found.is_empty(), "{} has the findings {found:?}", server.name());
            }
            let recoveries = members.recoveries().await?;
            ensure!(recoveries.is_empty(), "{}", Value::from(recoveries));
            Ok(())
        })
        .await?;
        is_left_alone(&topology)?;
        drop(ports);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_a_dead_group_member_follows_another_member() -> Result<()> {
    scenario_alone("group-replica", |run| async move {
        let shape = GroupShape {
            members: 3,
            single_primary: true,
            replicas: vec![2],
        };
        let Group { topology, ports } = Group::start(&run, &shape).await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let mut stage = Stage::begin_paced(topology, members, PACE).await?;
        let (primary, dead) = (stage.address(0)?, stage.address(2)?);
        is_told(&stage.members, &primary, DEADLINE).await?;
        nothing_is_wrong(&stage.members, &stage.topology).await?;
        stage.topology.server_mut(2)?.kill()?;
        let recovery = until(DEADLINE, "a recovery that is over", async || {
            let recoveries = stage.members.recoveries().await?;
            Ok(recoveries
                .into_iter()
                .find(|recovery| recovery.get("IsActive") == Some(&Value::Bool(false))))
        })
        .await?;
        ensure!(
            recovery.get("IsSuccessful") == Some(&Value::Bool(true))
                && text(&recovery, "/AnalysisEntry/Analysis") == "DeadReplicationGroupMemberWithReplicas"
                && key(&recovery, "/AnalysisEntry/AnalyzedInstanceKey") == dead.to_string(),
            "{recovery}"
        );
        let source = until(DEADLINE, "the replica to have a source that lives", async || {
            let status = stage
                .topology
                .server(3)?
                .replica_status()
                .await?
                .context("it is no replica")?;
            ensure!(status.source != dead.to_string(), "{status:?}");
            Ok(Some(status.source))
        })
        .await?;
        ensure!(
            [stage.address(0)?, stage.address(1)?]
                .iter()
                .any(|member| member.to_string() == source),
            "it follows {source}"
        );
        stage.writers.progress(100, DEADLINE).await?;
        is_told(&stage.members, &primary, DEADLINE).await?;
        is_left_alone(&stage.topology)?;
        let (topology, ..) = stage.judge(Duration::ZERO).await?;
        topology.caught_up(0, DEADLINE).await?;
        drop(ports);
        Ok(())
    })
    .await
}
