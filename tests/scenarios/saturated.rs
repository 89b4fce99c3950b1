//! A primary without a free connection that has a door for administrators: it is seen, and can be left in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kit::http::{key, text};
use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::sql::{Address, Session};
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mysql_primary_is_seen_through_its_admin_address_and_handed_over() -> Result<()> {
    scenario_alone("saturated-door-mysql", |run| full(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mariadb_primary_is_seen_through_its_extra_port_and_handed_over() -> Result<()> {
    scenario_alone("saturated-door-mariadb", |run| full(run, Flavour::MariaDb)).await
}

async fn full(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let shape = Shape {
        reserved: true,
        ..Shape::asynchronous(flavour, 2)
    };
    let stage = Stage::set(&run, &shape, &Intent::default_document()).await?;
    let (primary, second) = (stage.address(0)?, stage.address(1)?);
    let server = stage.topology.server(0)?;
    let accounts = &stage.topology.accounts;
    if flavour == Flavour::MySql {
        server
            .run(&format!(
                "GRANT SERVICE_CONNECTION_ADMIN ON *.* TO '{}'@'%'",
                accounts.topology.user
            ))
            .await?;
    }
    let sleeper = accounts.writers.last().context("an account of nobody")?;
    let mut sleepers = Vec::new();
    for _ in 0..20 {
        sleepers.push(Session::connect(&primary, sleeper, DEADLINE).await?);
    }
    let mut root = server.session().await?;
    root.run("SET GLOBAL max_connections = 10").await?;
    // What was open before would go on.
    let rows = root
        .rows(&format!(
            "SELECT ID FROM information_schema.processlist WHERE USER = '{}'",
            accounts.topology.user
        ))
        .await?;
    for row in rows {
        if let Some(Some(id)) = row.get("ID") {
            // It may have ended meanwhile.
            root.run(&format!("KILL {id}")).await.ok();
        }
    }
    root.close().await;
    until(
        DEADLINE,
        "the primary to be seen through its reserved door",
        async || {
            let leader = stage.members.member(stage.members.leader().await?)?;
            let details = leader.api().details("replication-analysis").await?;
            let about = |finding: &&Value| {
                key(finding, "/AnalyzedInstanceKey") == primary.to_string()
                    && text(finding, "/Analysis") == "SaturatedPrimary"
            };
            let found = details
                .as_array()
                .into_iter()
                .flatten()
                .find(about)
                .cloned()
                .unwrap_or_default();
            let told = text(&found, "/Description");
            ensure!(told.contains("through its admin endpoint"), "told is {told:?}");
            ensure!(found.get("LastCheckValid") == Some(&Value::Bool(true)), "{found}");
            Ok(Some(()))
        },
    )
    .await?;
    stage.nothing_is_done(Duration::from_secs(3)).await?;
    let Address { host, port } = &primary;
    let path = format!(
        "graceful-master-takeover-auto/{host}/{port}/{}/{}",
        second.host, second.port
    );
    let leader = stage.members.member(stage.members.leader().await?)?;
    let (code, body) = leader.api().get_within(&path, Duration::from_mins(1)).await?;
    ensure!(code == 200, "{code} {body}");
    ensure!(server.is_read_only().await?, "{primary} takes writes");
    ensure!(
        !stage.topology.server(1)?.is_read_only().await?,
        "{second} takes no writes"
    );
    server.follows(&second, DEADLINE).await?;
    stage.topology.server(2)?.follows(&second, DEADLINE).await?;
    stage.writers.progress(100, DEADLINE).await?;
    until(DEADLINE, "nothing to be found any more", async || {
        let found = stage.members.findings(&second).await?;
        ensure!(found.is_empty(), "found is {found:?}");
        Ok(Some(()))
    })
    .await?;
    drop(sleepers);
    stage.judge(Duration::ZERO).await.map(drop)
}
