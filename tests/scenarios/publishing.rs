//! Primaries in key-value stores: what clients find there before and after a failover, and what a store that does not answer costs.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::etcd::Etcd;
use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::hand_over;
use crate::kit::schedule::scenario_alone;
use crate::kit::sql::Address;
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// Waits until etcd has the pairs of a primary. Returns the epoch record.
async fn published(etcd: &Etcd, primary: &Address) -> Result<String> {
    until(DEADLINE, "the pairs of the primary", async || {
        let all = etcd.all().await?;
        let value = |part: &str| {
            all.get(&format!("mysql/master/shop{part}"))
                .cloned()
                .unwrap_or_default()
        };
        let seen = [value(""), value("/hostname"), value("/port"), value("/ipv4")];
        let wanted = [
            primary.to_string(),
            primary.host.clone(),
            primary.port.to_string(),
            primary.host.clone(),
        ];
        ensure!(seen == wanted, "etcd has {all:?}");
        Ok(Some(value("/epoch")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_the_new_primary_in_etcd_while_consul_is_silent() -> Result<()> {
    scenario_alone("publishing", |run| async move {
        let folder = run.subfolder("etcd")?;
        hand_over(&folder)?;
        let etcd = Etcd::start(&folder, None).await?;
        // It accepts connections and never answers.
        let silent = TcpListener::bind("127.0.0.1:0")?;
        let keys = json!({
            "ClusterNameToAlias": { ".": "shop" },
            "EtcdEndpoints": [etcd.endpoint()],
            "ConsulAddress": silent.local_addr()?.to_string(),
            "KVRemoveBeforeFailover": true,
        });
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::Configuration(keys)).await?;
        let first = stage.address(0)?;
        let before = published(&etcd, &first).await?;

        // What somebody changed is repaired, on request as every minute; Consul is named as what failed.
        etcd.put("mysql/master/shop", "elsewhere:3306").await?;
        etcd.delete("mysql/master/shop/port").await?;
        let leader = stage.members.member(stage.members.leader().await?)?;
        let (code, body) = leader
            .api()
            .get_within("submit-masters-to-kv-stores", Duration::from_secs(30))
            .await?;
        ensure!(code == 503 && body.contains("Consul"), "{code}: {body}");
        published(&etcd, &first).await?;

        let measured = stage.fail_over(FAILOVER).await?;
        let after = published(&etcd, &measured.to).await?;
        ensure!(before != after, "the epoch did not change: {after}");
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}
