//! Which of the addresses that real servers name are dialled, and what becomes of other addresses of a server when they move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::netns::{LocalAddress, Net};
use crate::kit::replication::Flavour;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::DEADLINE;

/// Addresses are looked at again each minute.
const MOVED: Duration = Duration::from_secs(90);

/// Members with a seed and an account of the configuration: what is asked for through the API has that account.
fn seeded() -> Intent {
    Intent::Configuration(json!({"RecoverMasterClusterFilters": ["*"]}))
}

/// A listener that counts connections and ends each at once.
async fn trap(host: &str) -> Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((host, 0))
        .await
        .context("listen at the stranger's address")?;
    let port = listener.local_addr()?.port();
    let caught = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&caught);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok((port, caught))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_a_replica_names_is_not_dialled_until_a_person_names_it() -> Result<()> {
    scenario("stranger", |run| async move {
        let stranger = LocalAddress::create()?;
        let (port, caught) = trap(&stranger.address).await?;
        let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 1)).await?;
        let replica = topology.server(1)?;
        let channel = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{}', SOURCE_PORT={port}, SOURCE_USER='x' FOR CHANNEL 'stranger'",
            stranger.address
        );
        replica.run(&channel).await?;
        let members = Members::start(&run, &topology, &seeded(), None).await?;
        let address = format!("{}:{port}", stranger.address);
        let leader = members.member(members.leader().await?)?;
        let entry = until(DEADLINE, "the stranger is reported", async || {
            let listed = leader.api().json("undiscovered").await?;
            let mut entries = listed.as_array().into_iter().flatten();
            Ok(entries.find(|entry| text(entry, "/Address") == address).cloned())
        })
        .await?;
        ensure!(key(&entry, "/NamedBy") == replica.address().to_string(), "{entry}");
        ensure!(text(&entry, "/AllowedHostsEntry") == stranger.address, "{entry}");
        let told = members.findings(replica.address()).await?;
        ensure!(told.iter().any(|told| told == "UndiscoveredServers"), "{told:?}");
        // Three members have read the replica several times.
        ensure!(caught.load(Ordering::SeqCst) == 0, "a member dialled the stranger");
        leader
            .api()
            .get(&format!("discover/{}/{port}", stranger.address))
            .await?;
        until(DEADLINE, "the stranger is dialled", async || {
            Ok((caught.load(Ordering::SeqCst) > 0).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_moves_to_another_server_is_that_servers() -> Result<()> {
    scenario("moved-address", |run| async move {
        let net = Net::create()?;
        let topology = Topology::start_in(&run, &Shape::star(Flavour::MySql, 1), &net).await?;
        let (primary, replica) = (topology.server(0)?, topology.server(1)?);
        let port = primary.address().port;
        ensure!(replica.address().port == port, "one address cannot stand for both");
        let moving = net.spare_address();
        net.give(primary.host()?, &moving)?;
        let members = Members::start(&run, &topology, &seeded(), Some(&net)).await?;
        let leader = members.member(members.leader().await?)?;
        let leads_to = async |server: &str, limit| {
            until(limit, &format!("{moving} leads to {server}"), async || {
                let (status, body) = leader.api().get(&format!("instance/{moving}/{port}")).await?;
                ensure!(status == 200, "{status}: {body}");
                let instance: Value = serde_json::from_str(&body)?;
                Ok((key(&instance, "/Key") == server).then_some(()))
            })
            .await
        };
        leader.api().details(&format!("discover/{moving}/{port}")).await?;
        leads_to(&primary.address().to_string(), DEADLINE).await?;
        net.take(primary.host()?, &moving)?;
        net.give(replica.host()?, &moving)?;
        net.announce()?;
        leads_to(&replica.address().to_string(), MOVED).await?;
        ensure!(members.recoveries().await?.is_empty(), "a moved address is no failure");
        Ok(())
    })
    .await
}
