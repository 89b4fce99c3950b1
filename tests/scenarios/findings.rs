//! What is found on real servers. No cluster is recovered here: the filters match none.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::DEADLINE;

/// Servers, and members that only look.
struct Cast {
    topology: Topology,
    members: Members,
}

impl Cast {
    /// Runs statements on a server as root.
    async fn on(&self, index: usize, sql: &str) -> Result<()> {
        self.topology.server(index)?.run(sql).await
    }

    /// Lets one server replicate from another.
    async fn attach(&self, index: usize, source: usize) -> Result<()> {
        let source = self.topology.server(source)?.address();
        let account = &self.topology.accounts.replication;
        let server = self.topology.server(index)?;
        server.run(&self.topology.flavour.attach(source, account)).await?;
        server.follows(source, DEADLINE).await
    }

    /// Waits until something is found about a server: an analysis code, or a structure warning.
    async fn shows(&self, index: usize, wanted: &str) -> Result<()> {
        let server = self.topology.server(index)?;
        until(DEADLINE, &format!("{wanted} of {}", server.name()), async || {
            let told = self.told(index).await?;
            ensure!(told.iter().any(|told| told == wanted), "told is {told:?}");
            Ok(Some(()))
        })
        .await
    }

    async fn told(&self, index: usize) -> Result<Vec<String>> {
        let address = self.topology.server(index)?.address().to_string();
        let leader = self.members.member(self.members.leader().await?)?;
        let details = leader.api().details("replication-analysis").await?;
        let about = |finding: &&Value| key(finding, "/AnalyzedInstanceKey") == address;
        let told = details
            .as_array()
            .into_iter()
            .flatten()
            .filter(about)
            .flat_map(|finding| {
                let structure = finding.get("StructureAnalysis").and_then(Value::as_array);
                let structure = structure.into_iter().flatten().filter_map(Value::as_str);
                std::iter::once(text(finding, "/Analysis"))
                    .chain(structure)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            });
        Ok(told.collect())
    }

    /// Nothing was repaired, and every change of the analysis of a server is in the log, in this order.
    async fn ends_with(&self, index: usize, changes: &[&str]) -> Result<()> {
        let recoveries = self.members.recoveries().await?;
        ensure!(
            recoveries.is_empty(),
            "a recovery was begun: {}",
            Value::from(recoveries)
        );
        let address = self.topology.server(index)?.address().to_string();
        let leader = self.members.member(self.members.leader().await?)?;
        let log = leader.api().json("replication-analysis-changelog").await?;
        let of_server = log
            .as_array()
            .and_then(|log| log.iter().find(|entry| key(entry, "/AnalyzedInstanceKey") == address))
            .with_context(|| format!("no changes of {address} in {log}"))?;
        let mut logged = of_server
            .get("Changelog")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        for change in changes {
            ensure!(
                logged.any(|logged| logged.ends_with(&format!("Z;{change}"))),
                "{change} is missing, or out of order, in {of_server}"
            );
        }
        Ok(())
    }
}

async fn play(name: &str, shape: Shape, acts: impl AsyncFnOnce(&mut Cast) -> Result<()>) -> Result<()> {
    scenario(name, |run| async move {
        let intent = Intent::Configuration(json!({
            "RecoverMasterClusterFilters": [],
            "RecoverNonWriteableMaster": true,
            "EnforceExactSemiSyncReplicas": true,
            "ReasonableLockedSemiSyncMasterSeconds": 3,
        }));
        let topology = Topology::start(&run, &shape).await?;
        let members = Members::start(&run, &topology, &intent, None).await?;
        members.knows(&topology).await?;
        let mut cast = Cast { topology, members };
        acts(&mut cast).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_with_mysql_servers_is_found_under_its_name() -> Result<()> {
    let shape = Shape {
        sources: vec![0, 1, 1],
        ..Shape::star(Flavour::MySql, 3)
    };
    play("findings-mysql", shape, async |cast| {
        an_intermediate_dies_and_locks_its_primary(cast).await?;
        the_primary_gets_too_many_replicas_and_a_strange_one(cast).await?;
        replicas_stop(cast).await?;
        a_co_primary_dies(cast).await?;
        cast.ends_with(
            0,
            &[
                "MasterSingleReplicaDead",
                "LockedSemiSyncMasterHypothesis",
                "LockedSemiSyncMaster",
                "NoWriteableMasterStructureWarning",
                "MasterWithTooManySemiSyncReplicas",
                "AllMasterReplicasNotReplicating",
            ],
        )
        .await
    })
    .await
}

/// db2 is the only semi-sync replica of db1 and has two replicas of its own.
async fn an_intermediate_dies_and_locks_its_primary(cast: &mut Cast) -> Result<()> {
    cast.topology.server_mut(1)?.kill()?;
    cast.shows(1, "DeadIntermediateMaster").await?;
    // Until the primary has something to send, it does not notice that its acknowledging replica is gone.
    cast.shows(0, "MasterSingleReplicaDead").await?;
    let mut session = cast.topology.server(0)?.session().await?;
    let commit = tokio::spawn(async move { session.run_within("CREATE DATABASE waited", 2 * DEADLINE).await });
    cast.shows(0, "LockedSemiSyncMasterHypothesis").await?;
    cast.shows(0, "LockedSemiSyncMaster").await?;
    ensure!(!commit.is_finished(), "the primary was not locked");
    cast.on(3, cast.topology.flavour.detach()).await?;
    cast.shows(1, "DeadIntermediateMasterWithSingleReplicaFailingToConnect")
        .await?;
    cast.topology.server_mut(1)?.start_again().await?;
    commit.await.context("wait for the commit")??;
    cast.on(2, "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD").await
}

async fn the_primary_gets_too_many_replicas_and_a_strange_one(cast: &mut Cast) -> Result<()> {
    cast.on(0, cast.topology.flavour.read_only(true)).await?;
    cast.shows(0, "NoWriteableMasterStructureWarning").await?;
    cast.on(0, cast.topology.flavour.read_only(false)).await?;
    cast.attach(3, 0).await?;
    cast.shows(0, "MasterWithTooManySemiSyncReplicas").await?;
    cast.on(0, "SET GLOBAL rpl_semi_sync_source_enabled = OFF").await?;
    cast.on(
        3,
        "SET GLOBAL read_only = OFF; CREATE DATABASE errant; SET GLOBAL super_read_only = ON",
    )
    .await?;
    cast.shows(0, "ErrantGTIDStructureWarning").await?;
    cast.on(3, "SET GLOBAL gtid_mode = ON_PERMISSIVE").await?;
    cast.shows(0, "DifferentGTIDModesStructureWarning").await?;
    cast.on(3, "SET GLOBAL gtid_mode = ON").await
}

async fn replicas_stop(cast: &mut Cast) -> Result<()> {
    cast.on(
        1,
        "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = 'mistyped'; START REPLICA",
    )
    .await?;
    cast.shows(1, "FirstTierReplicaFailingToConnectToMaster").await?;
    cast.on(3, "STOP REPLICA").await?;
    cast.shows(0, "AllMasterReplicasNotReplicating").await?;
    cast.on(2, "STOP REPLICA").await?;
    cast.shows(1, "AllIntermediateMasterReplicasNotReplicating").await?;
    cast.topology.server_mut(3)?.kill()?;
    cast.shows(0, "AllMasterReplicasNotReplicatingOrDead").await?;
    cast.topology.server_mut(1)?.kill()?;
    for index in [1, 3] {
        let server = cast.topology.server_mut(index)?;
        server.stop_logging_what_it_replicates()?;
        server.start_again().await?;
    }
    cast.shows(0, "NoLoggingReplicasStructureWarning").await
}

async fn a_co_primary_dies(cast: &mut Cast) -> Result<()> {
    cast.on(1, cast.topology.flavour.detach()).await?;
    cast.attach(1, 0).await?;
    cast.attach(0, 1).await?;
    until(DEADLINE, "both to be shown as co-primaries", async || {
        let leader = cast.members.member(cast.members.leader().await?)?;
        for index in [0, 1] {
            let address = cast.topology.server(index)?.address();
            let shown = leader
                .api()
                .json(&format!("instance/{}/{}", address.host, address.port))
                .await?;
            ensure!(shown.get("IsCoMaster") == Some(&Value::Bool(true)), "{address} is none");
        }
        Ok(Some(()))
    })
    .await?;
    cast.topology.server_mut(1)?.kill()?;
    cast.shows(1, "DeadCoMaster").await
}
