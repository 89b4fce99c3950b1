//! Two groups of members that know nothing of each other look after the same servers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::failover::kill_primary;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::schedule::scenario_alone;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, Stage};

/// Whether a group finds that another one owns a server.
async fn sees_another_controller(group: &Members, instance: &Address) -> Result<bool> {
    let findings = group.findings(instance).await?;
    Ok(findings.iter().any(|code| code == "AnotherController"))
}

async fn the_second_group_leaves_it_to_the_first(flavour: Flavour) -> Result<()> {
    scenario_alone("two-groups", |run| async move {
        let topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
        let mut first = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let owner = "SELECT IS_USED_LOCK('ham4db.owner')";
        until(DEADLINE, "the first group to own the primary", async || {
            let holder = topology.server(0)?.value(owner).await?;
            Ok((!holder.is_empty() && holder != "NULL").then_some(()))
        })
        .await?;
        let mut second = Members::prepare_as("other", &run, &topology, &Intent::Configuration(json!({})), None)?;
        second.launch_all().await?;
        second.knows(&topology).await?;
        let primary = topology.server(0)?.address().clone();
        until(DEADLINE, "the second group to find the first", async || {
            Ok(sees_another_controller(&second, &primary).await?.then_some(()))
        })
        .await?;
        // The first one does not take its own members for strangers, also when another one of them leads.
        let leader = first.leader().await?;
        first.make_leader((leader + 1) % 3).await?;
        throughout(Duration::from_secs(7), async || {
            ensure!(
                !sees_another_controller(&first, &primary).await?,
                "the owner's own members find a stranger"
            );
            Ok(())
        })
        .await?;

        ensure!(
            sees_another_controller(&second, &primary).await?,
            "the second group took over the cluster while the first one changed its leader"
        );

        // Only now: replicas that are far behind would take their time.
        let mut stage = Stage::begin(topology, first).await?;
        let measured = kill_primary(&mut stage.topology, &stage.writers, DEADLINE).await?;
        until(
            DEADLINE,
            "the second group to find the first on the new primary",
            async || Ok(sees_another_controller(&second, &measured.to).await?.then_some(())),
        )
        .await?;
        let recoveries = second.recoveries().await?;
        ensure!(recoveries.is_empty(), "the second group recovered: {recoveries:?}");
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_groups_on_the_same_mysql_servers_one_repairs() -> Result<()> {
    the_second_group_leaves_it_to_the_first(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_groups_on_the_same_mariadb_servers_one_repairs() -> Result<()> {
    the_second_group_leaves_it_to_the_first(Flavour::MariaDb).await
}
