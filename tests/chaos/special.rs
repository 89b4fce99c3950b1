//! The acts that take more than one blow: restarts of a held primary, a cluster that a person splits, a second replication channel.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::acts::Act;
use crate::disturb::{Disturbed, LIVE};
use crate::kit::channels::{also_replicate, no_longer_replicate, still_replicates};
use crate::kit::http::text;
use crate::kit::replication::DATABASE;
use crate::kit::server::{Server, ServerOptions, ensure_servers};
use crate::kit::wait::until;
use crate::stage::{READ_ONLY, Stage, WHOLE};

/// How often a held server is killed and started again in one act.
const RESTARTS: u32 = 3;
/// How long a split may take to be recorded, on a busy machine. Its budget is 15 s.
const SPLIT: Duration = Duration::from_secs(30);
/// So long after a cluster is whole no server of it is in quarantine: reviews are a second apart.
const REVIEWED: Duration = Duration::from_secs(4);
/// The number of the server of another cluster.
const OTHER: u32 = 90;

impl Stage {
    /// Fails the primary, lets it return with a transaction of its own, so that it is held, and restarts it in different phases of what
    /// members do once a second.
    pub(crate) async fn restart_held(&mut self, primary: usize, act: Act, disturbed: &mut Disturbed) -> Result<String> {
        let begun = Instant::now();
        self.topology.server_mut(primary)?.kill()?;
        let successor = self.writers.first_elsewhere(primary, begun, LIVE).await;
        let successor = successor.context("liveness: no other server is writable")?.server;
        if self.topology.server(primary)?.boots_read_only() {
            self.topology.server_mut(primary)?.set_boots_writable()?;
            disturbed.boots_writable = Some(primary);
        }
        // Nobody reaches it until it has a transaction of its own.
        self.black_hole(&[primary].into(), &BTreeSet::new(), disturbed)?;
        self.topology.server_mut(primary)?.start_again().await?;
        let number = self.counts.acts + 1;
        let sql = format!("INSERT IGNORE INTO {DATABASE}.sampled VALUES ('held', {number})");
        self.insist(primary, &sql).await?;
        self.heal_all(disturbed)?;
        self.is_held(primary).await?;
        let mut open_for = Vec::new();
        for round in 0..RESTARTS {
            // Not a wait for anything: it moves the kill to another phase of each second.
            tokio::time::sleep(act.hold.mul_f64(0.37 * f64::from(round))).await;
            self.topology.server_mut(primary)?.kill()?;
            let started = Instant::now();
            self.topology.server_mut(primary)?.launch()?;
            let lasted = until(WHOLE, "the held primary to refuse a write", async || {
                Ok(self.sampler.open_for(primary, started))
            })
            .await?;
            ensure!(
                lasted <= READ_ONLY,
                "db{} was held and took writes for {lasted:.2?} after its restart; the target is 0.3 s, allowed are {READ_ONLY:?}",
                primary + 1
            );
            open_for.push(lasted);
        }
        self.is_held(primary).await?;
        let told = format!(
            "db{} failed, db{} replaced it; held and restarted it was open for {open_for:.2?}",
            primary + 1,
            successor + 1
        );
        self.counts.open_for.extend(open_for);
        Ok(told)
    }

    async fn is_held(&self, server: usize) -> Result<()> {
        until(WHOLE, "the returned primary to be read-only", async || {
            Ok(self.topology.server(server)?.is_read_only().await?.then_some(()))
        })
        .await
    }

    /// Makes a replica a writable primary of its own with one replica: they have to be recorded as another cluster.
    pub(crate) async fn split(&mut self, primary: usize, act: Act, disturbed: &mut Disturbed) -> Result<String> {
        let flavour = self.flavour();
        let servers = self.topology.servers.len();
        let (head, follower) = act.two_of(servers - 1);
        let (head, follower) = ((primary + 1 + head) % servers, (primary + 1 + follower) % servers);
        let half = BTreeSet::from([head, follower]);
        disturbed.apart.clone_from(&half);
        disturbed.rebuilt.clone_from(&half);
        self.rebuild_errant(primary).await?;
        // A second primary soon after a failover may come from it, unless a person has looked at that.
        self.ask("ack-all-recoveries?comment=chaos").await?;
        // A failed primary that replicates again leaves its quarantine with the next review. One that is moved before stays in it, and
        // what has such a server stays one cluster.
        tokio::time::sleep(REVIEWED).await;
        let account = self.topology.accounts.replication.clone();
        let address = |server: usize| Ok::<_, anyhow::Error>(self.topology.server(server)?.address().clone());
        let (first, second) = (address(primary)?, address(head)?);
        // The others follow the primary, whatever they followed before.
        for server in (0..servers).filter(|server| *server != primary && !half.contains(server)) {
            let status = self.topology.server(server)?.replica_status().await?;
            if status.is_none_or(|status| status.source != first.to_string()) {
                self.insist(server, flavour.detach()).await?;
                self.insist(server, &flavour.attach(&first, &account)).await?;
            }
        }
        // Below the head first, and not before that has everything: else it would have transactions that its head lacks.
        self.insist(follower, flavour.detach()).await?;
        let has = self.topology.server(follower)?.executed().await?;
        self.topology.server(head)?.has_executed(&has, LIVE).await?;
        self.insist(follower, &flavour.attach(&second, &account)).await?;
        self.topology.server(follower)?.follows(&second, LIVE).await?;
        self.insist(head, flavour.detach()).await?;
        self.insist(head, flavour.read_only(false)).await?;
        let split = Instant::now();
        let rest = u64::try_from(servers - half.len())?;
        let mut wanted = vec![(first.to_string(), rest), (second.to_string(), 2)];
        wanted.sort();
        until(
            SPLIT,
            &format!("the clusters {wanted:?} after a split by hand"),
            async || {
                let seen = self.clusters().await?;
                ensure!(seen == wanted, "the clusters are {seen:?}");
                Ok(Some(()))
            },
        )
        .await?;
        let mut told = format!(
            "db{} and db{} were split off; two clusters after {:.1} s",
            head + 1,
            follower + 1,
            split.elapsed().as_secs_f64()
        );
        if act.another_of(2) == 0 {
            // The half that keeps the document is repaired. Writers may go to the other one meanwhile.
            self.kill(primary, disturbed)?;
            let killed = Instant::now();
            let candidates = || (0..servers).filter(|server| *server != primary && !half.contains(server));
            until(LIVE, "a successor in the half of the killed primary", async || {
                for server in candidates() {
                    if !self.topology.server(server)?.is_read_only().await? {
                        return Ok(Some(()));
                    }
                }
                Ok(None)
            })
            .await?;
            let took = killed.elapsed().as_secs_f64();
            told = format!("{told}; db{} was killed and replaced after {took:.2} s", primary + 1);
        }
        Ok(told)
    }

    /// Builds the servers anew that have transactions of their own, as a person does who wants no doubt which server belongs where.
    async fn rebuild_errant(&mut self, primary: usize) -> Result<()> {
        for place in (0..self.topology.servers.len()).filter(|place| *place != primary) {
            let address = self.topology.server(place)?.address().clone();
            let leader = self.members.member(self.members.leader().await?)?;
            let shown = leader
                .api()
                .json(&format!("instance/{}/{}", address.host, address.port))
                .await?;
            if !text(&shown, "/GtidErrant").is_empty() {
                self.rebuild(place, primary).await?;
                self.whole().await?;
            }
        }
        Ok(())
    }

    /// The clusters that the leader shows, each as its name and the number of its servers, in order.
    pub(crate) async fn clusters(&self) -> Result<Vec<(String, u64)>> {
        let leader = self.members.member(self.members.leader().await?)?;
        let infos = leader.api().json("clusters-info").await?;
        let of = |info: &Value| {
            let count = info.get("CountInstances").and_then(Value::as_u64).unwrap_or_default();
            (text(info, "/ClusterName").to_owned(), count)
        };
        let other = self.other.as_ref().map(|other| other.address().to_string());
        let mut all: Vec<(String, u64)> = infos.as_array().into_iter().flatten().map(of).collect();
        all.retain(|(name, _)| Some(name) != other.as_ref());
        all.sort();
        Ok(all)
    }

    /// A replica also replicates from another cluster's primary while its own primary is killed.
    pub(crate) async fn second_channel(
        &mut self,
        primary: usize,
        act: Act,
        disturbed: &mut Disturbed,
    ) -> Result<String> {
        let flavour = self.flavour();
        let servers = self.topology.servers.len();
        let replica = (primary + 1 + act.one_of(servers - 1)) % servers;
        self.start_other().await?;
        let other = self.other.as_ref().context("the other server was started")?;
        disturbed.second_channel = Some(replica);
        let account = &self.topology.accounts.replication;
        also_replicate(flavour, self.topology.server(replica)?, other, account).await?;
        let database = format!("other_{}", self.counts.acts + 1);
        other.run(&format!("CREATE DATABASE {database}")).await?;
        let count = format!("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{database}'");
        until(WHOLE, "the second channel to replicate", async || {
            let server = self.topology.server(replica)?;
            still_replicates(flavour, server, other.address()).await?;
            Ok((server.value(&count).await? == "1").then_some(()))
        })
        .await?;
        // The members see it before the primary fails.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.kill(primary, disturbed)?;
        disturbed.replaced_within = Some(LIVE);
        Ok(format!(
            "db{} also replicates from another cluster; killed the primary db{}",
            replica + 1,
            primary + 1
        ))
    }

    /// The primary of another cluster, which the members may read.
    async fn start_other(&mut self) -> Result<()> {
        if self.other.is_some() {
            return Ok(());
        }
        let flavour = self.flavour();
        let options = ServerOptions {
            flavour,
            number: OTHER,
            semi_sync: false,
            boots_read_only: false,
            performance_schema: false,
            host: Some(self.net.host(&format!("db{OTHER}"))?),
            reserved: false,
            more: Vec::new(),
        };
        let other = Server::start(Arc::clone(&self.run), ensure_servers(flavour)?, options).await?;
        let accounts = self.topology.accounts.create(flavour);
        other.run(&format!("SET SESSION sql_log_bin = 0; {accounts}")).await?;
        self.other = Some(other);
        Ok(())
    }

    /// Looks whether the channel and its source were left alone, and ends the channel.
    pub(crate) async fn end_second_channel(&mut self, replica: usize, disturbed: &mut Disturbed) -> Result<()> {
        let flavour = self.flavour();
        let other = self.other.as_ref().context("there is no other server")?;
        let server = self.topology.server(replica)?;
        // A session for each look: members end those of a returned primary.
        until(LIVE, "the second channel to replicate still", async || {
            still_replicates(flavour, server, other.address()).await.map(Some)
        })
        .await?;
        ensure!(
            !other.is_read_only().await?,
            "the primary of the other cluster is read-only"
        );
        until(LIVE, "the second channel to end", async || {
            no_longer_replicate(flavour, server).await.map(Some)
        })
        .await?;
        let address = other.address();
        self.ask(&format!("forget/{}/{}", address.host, address.port))
            .await
            .ok();
        // What came by the channel is on this server alone, unless it became the primary.
        if server.is_read_only().await? {
            disturbed.rebuilt.insert(replica);
        }
        Ok(())
    }
}
