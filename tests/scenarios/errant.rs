//! What only a failed primary, or a replica that was left behind, has; and how it becomes a replica again.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::{DATABASE, Flavour};
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::Writers;
use crate::stage::DEADLINE;

async fn ask(members: &Members, path: &str) -> Result<Value> {
    let leader = members.member(members.leader().await?)?;
    leader.api().json(path).await
}

/// Waits until a server is in downtime because a recovery left it behind, or is not.
async fn is_lost(members: &Members, address: &Address, wanted: bool) -> Result<()> {
    let what = format!(
        "{address} to be {} as lost in a recovery",
        if wanted { "shown" } else { "no longer shown" }
    );
    until(DEADLINE, &what, async || {
        let downtimed = ask(members, "downtimed").await?;
        let is_it = |it: &&Value| {
            text(it, "/DowntimeReason") == "lost-in-recovery"
                && it.pointer("/Key/Port") == Some(&Value::from(address.port))
        };
        let found = downtimed.as_array().into_iter().flatten().any(|it| is_it(&it));
        Ok((found == wanted).then_some(()))
    })
    .await
}

/// Ends the primary after transactions that no replica receives. It boots read-only.
async fn die_with(topology: &mut Topology, sql: &str) -> Result<()> {
    for replica in [1, 2] {
        let stop = Flavour::MySql.thread("STOP", "IO_THREAD");
        topology.server(replica)?.run(&stop).await?;
    }
    topology.server(0)?.run(sql).await?;
    topology.server_mut(0)?.set_boots_read_only()?;
    topology.server_mut(0)?.kill()?;
    for replica in [1, 2] {
        let start = Flavour::MySql.thread("START", "IO_THREAD");
        topology.server(replica)?.run(&start).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_old_primary_has_is_shown_and_injecting_empty_transactions_lets_it_rejoin() -> Result<()> {
    scenario("errant-inject", |run| async move {
        let mut topology = Topology::start(&run, &Shape::asynchronous(Flavour::MySql, 2)).await?;
        let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin"}));
        let members = Members::start(&run, &topology, &intent, None).await?;
        let old = topology.server(0)?.address().clone();
        let sql = format!(
            "CREATE TABLE {DATABASE}.only_here (id INT PRIMARY KEY); INSERT INTO {DATABASE}.only_here VALUES (1), (2)"
        );
        die_with(&mut topology, &sql).await?;
        let primary = topology.only_writable(DEADLINE).await?;
        is_lost(&members, &old, true).await?;
        topology.server_mut(0)?.start_again().await?;

        let path = format!("errant/{}/{}", old.host, old.port);
        let shown = until(DEADLINE, "both errant transactions to be shown", async || {
            let shown = ask(&members, &path).await?;
            // A read that is cut off by the quarantine, which ends sessions, is told as incomplete, and asked for again.
            let complete = shown["decoded"]["incomplete"].is_null();
            let ready = shown["transactions"] == 2 && shown["quarantined"] == true && complete;
            ensure!(ready, "{shown}");
            Ok(Some(shown))
        })
        .await?;
        let decoded = &shown["decoded"]["shown"];
        ensure!(
            text(decoded, "/0/statements/0").contains("CREATE TABLE"),
            "the first is not the statement: {shown}"
        );
        ensure!(
            decoded[1]["tables"] == json!([format!("{DATABASE}.only_here")]),
            "the second does not name its table: {shown}"
        );
        ensure!(
            topology.server(0)?.replica_status().await?.is_none(),
            "it follows although it has transactions of its own"
        );

        let injected = ask(&members, &format!("gtid-errant-inject-empty/{}/{}", old.host, old.port)).await?;
        ensure!(text(&injected, "/Code") == "OK", "{injected}");
        let to = topology.server(primary)?.address().clone();
        topology.server(0)?.follows(&to, DEADLINE).await?;
        is_lost(&members, &old, false).await?;
        let writers = Writers::start(&topology, 1)?;
        writers.progress(50, DEADLINE).await?;
        writers.stop().await;
        topology.caught_up(primary, DEADLINE).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_is_let_forget_its_transactions_rejoins() -> Result<()> {
    scenario("errant-reset", |run| async move {
        let mut topology = Topology::start(&run, &Shape::asynchronous(Flavour::MySql, 2)).await?;
        let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin"}));
        let members = Members::start(&run, &topology, &intent, None).await?;
        let old = topology.server(0)?.address().clone();
        die_with(&mut topology, &format!("CREATE TABLE {DATABASE}.only_here (id INT)")).await?;
        let primary = topology.only_writable(DEADLINE).await?;
        topology.server_mut(0)?.start_again().await?;
        let path = format!("errant/{}/{}", old.host, old.port);
        until(DEADLINE, "the errant transaction to be shown", async || {
            let shown = ask(&members, &path).await?;
            ensure!(shown["transactions"] == 1 && shown["quarantined"] == true, "{shown}");
            Ok(topology.server(0)?.is_read_only().await?.then_some(()))
        })
        .await?;
        let refused = ask(&members, &format!("errant-reset/{}/{}", old.host, old.port)).await;
        ensure!(refused.is_err(), "it was reset without a confirmation");
        ask(
            &members,
            &format!("errant-reset/{}/{}?confirm=data-differs", old.host, old.port),
        )
        .await?;
        let to = topology.server(primary)?.address().clone();
        topology.server(0)?.follows(&to, DEADLINE).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_down_during_a_failover_is_attached_when_it_returns_and_its_downtime_ends() -> Result<()> {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        scenario(&format!("lost-replica-{}", flavour.name()), |run| async move {
            let mut topology = Topology::start(&run, &Shape::asynchronous(flavour, 3)).await?;
            let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin"}));
            let members = Members::start(&run, &topology, &intent, None).await?;
            let lost = topology.server(3)?.address().clone();
            topology.server_mut(3)?.kill()?;
            until(DEADLINE, "the members to see that it is gone", async || {
                let shown = ask(&members, &format!("instance/{}/{}", lost.host, lost.port)).await?;
                Ok((shown["IsLastCheckValid"] == false).then_some(()))
            })
            .await?;
            topology.server_mut(0)?.kill()?;
            let primary = topology.only_writable(DEADLINE).await?;
            is_lost(&members, &lost, true).await?;
            topology.server_mut(3)?.start_again().await?;
            let to = topology.server(primary)?.address().clone();
            topology.server(3)?.follows(&to, DEADLINE).await?;
            is_lost(&members, &lost, false).await
        })
        .await?;
    }
    Ok(())
}
