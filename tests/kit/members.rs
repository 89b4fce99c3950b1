//! The group of members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use serde_json::{Value, json};

use super::http::{key, text};
use super::manifests::{self, Document};
use super::member::Member;
use super::netns::{Host, Net};
use super::ports::PortLease;
use super::run::Run;
use super::sql::Address;
use super::topology::Topology;
use super::wait::until;

/// Findings that are always there for servers set up as these are: what could be better before something fails.
const ADVICE: [&str; 4] = [
    "BootsWritable",
    "FenceIneffective",
    "UnsafeSettings",
    "UnverifiedServers",
];

/// How many members a group of a test has.
const MEMBERS: usize = 3;
/// How long a group may take to agree on a leader and to know its topology.
const READY: Duration = Duration::from_secs(30);

/// Where members get their clusters from.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    /// A MySQLCluster document with this `spec.recovery`, in a directory.
    Manifests(Value),
    /// Orchestrator's keys: seeds and filters. These keys are added, or win.
    Configuration(Value),
}

impl Intent {
    /// A document with the defaults of `spec.recovery`.
    pub(crate) fn default_document() -> Self {
        Self::Manifests(json!({"mode": "Auto"}))
    }
}

/// The members.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) list: Vec<Member>,
    documents: bool,
    /// The route that answers 200 on a healthy member.
    health: &'static str,
    _leases: Vec<PortLease>,
}

impl Members {
    /// Prepares three members on 127.0.0.1, or each in a network namespace of its own. Nothing runs yet.
    pub(crate) fn prepare(run: &Arc<Run>, topology: &Topology, intent: &Intent, net: Option<&Net>) -> Result<Self> {
        Self::prepare_as("member", run, topology, intent, net)
    }

    /// The same under another name: a second group on the same servers.
    pub(crate) fn prepare_as(
        name: &str,
        run: &Arc<Run>,
        topology: &Topology,
        intent: &Intent,
        net: Option<&Net>,
    ) -> Result<Self> {
        Self::prepare_each(name, run, topology, intent, net, &vec![Value::Null; MEMBERS])
    }

    /// As many members as there are sets of keys, each with one of them.
    pub(crate) fn prepare_each(
        name: &str,
        run: &Arc<Run>,
        topology: &Topology,
        intent: &Intent,
        net: Option<&Net>,
        keys: &[Value],
    ) -> Result<Self> {
        let (places, leases) = places(name, keys.len(), net)?;
        let nodes: Vec<String> = places.iter().map(|(_, raft, _)| raft.to_string()).collect();
        let seed = topology.server(0)?.address().clone();
        let document = match intent {
            Intent::Manifests(recovery) => Some(Document {
                seeds: vec![seed.clone()],
                topology: topology.accounts.topology.clone(),
                replication: topology.accounts.replication.clone(),
                recovery: recovery.clone(),
            }),
            Intent::Configuration(_) => None,
        };
        let mut list = Vec::new();
        for ((number, (api, raft, host)), keys) in (1..).zip(places).zip(keys) {
            let mut configuration = configuration(&api, &raft, &nodes, topology, intent);
            if let (Some(all), Some(keys)) = (configuration.as_object_mut(), keys.as_object()) {
                all.extend(keys.clone());
            }
            list.push(Member::prepare(
                run,
                &format!("{name}{number}"),
                &api,
                host,
                configuration,
                document.as_ref(),
            )?);
        }
        Ok(Self {
            list,
            documents: document.is_some(),
            health: "raft-health",
            _leases: leases,
        })
    }

    /// Prepares and starts three members that look after no server, and waits until they are healthy.
    pub(crate) async fn start_without_servers(run: &Arc<Run>, net: Option<&Net>) -> Result<Self> {
        let (places, leases) = places("member", MEMBERS, net)?;
        let nodes: Vec<String> = places.iter().map(|(_, raft, _)| raft.to_string()).collect();
        let mut list = Vec::new();
        for (number, (api, raft, host)) in (1..).zip(places) {
            let configuration = group_configuration(&api, &raft, &nodes);
            list.push(Member::prepare(
                run,
                &format!("member{number}"),
                &api,
                host,
                configuration,
                None,
            )?);
        }
        let mut members = Self {
            list,
            documents: false,
            health: "raft-health",
            _leases: leases,
        };
        members.launch_all().await?;
        members.healthy(&[0, 1, 2]).await?;
        Ok(members)
    }

    /// Whether they got a document, and so write a status.
    pub(crate) fn have_documents(&self) -> bool {
        self.documents
    }

    /// Prepares and starts them, and waits until they have a leader and have discovered the whole topology.
    pub(crate) async fn start(run: &Arc<Run>, topology: &Topology, intent: &Intent, net: Option<&Net>) -> Result<Self> {
        let mut members = Self::prepare(run, topology, intent, net)?;
        members.launch_all().await?;
        members.knows(topology).await?;
        Ok(members)
    }

    /// The same for as many members as there are sets of keys, each with one of them.
    pub(crate) async fn start_each(
        run: &Arc<Run>,
        topology: &Topology,
        intent: &Intent,
        net: Option<&Net>,
        keys: &[Value],
    ) -> Result<Self> {
        let mut members = Self::prepare_each("member", run, topology, intent, net, keys)?;
        members.launch_all().await?;
        members.knows(topology).await?;
        Ok(members)
    }

    /// Starts all that do not run, and waits until their APIs answer.
    pub(crate) async fn launch_all(&mut self) -> Result<()> {
        for member in &mut self.list {
            if !member.is_running()? {
                member.launch()?;
            }
        }
        join_all(self.list.iter_mut().map(Member::serves))
            .await
            .into_iter()
            .collect()
    }

    /// The member at a place, from 0.
    pub(crate) fn member(&self, index: usize) -> Result<&Member> {
        self.list
            .get(index)
            .with_context(|| format!("there is no member {index}"))
    }

    /// The same, to be started or killed.
    pub(crate) fn member_mut(&mut self, index: usize) -> Result<&mut Member> {
        self.list
            .get_mut(index)
            .with_context(|| format!("there is no member {index}"))
    }

    /// Waits for a member that says it is the leader, and returns its place.
    pub(crate) async fn leader(&self) -> Result<usize> {
        self.leader_within(READY).await
    }

    /// The same under another deadline.
    pub(crate) async fn leader_within(&self, limit: Duration) -> Result<usize> {
        until(limit, "a member whose leader-check answers 200", async || {
            self.leader_now().await
        })
        .await
    }

    /// The place of the member that says it is the leader, at this moment.
    pub(crate) async fn leader_now(&self) -> Result<Option<usize>> {
        let limit = Duration::from_millis(500);
        let answers = join_all(
            self.list
                .iter()
                .map(|member| member.api().get_within("leader-check", limit)),
        )
        .await;
        Ok(answers.iter().position(|answer| matches!(answer, Ok((200, _)))))
    }

    /// Sees to it that a certain member leads: others are ended by SIGTERM, which hands leadership on, until it is its turn.
    pub(crate) async fn make_leader(&mut self, index: usize) -> Result<()> {
        let all: Vec<usize> = (0..self.list.len()).collect();
        for _ in 0..20 {
            let leader = self.leader().await?;
            if leader == index {
                return Ok(());
            }
            let member = self.member_mut(leader)?;
            member.terminate(Duration::from_secs(20)).await?;
            self.leader().await?;
            let member = self.member_mut(leader)?;
            member.launch()?;
            member.serves().await?;
            self.healthy(&all).await?;
        }
        bail!(
            "leadership was handed on twenty times, and never to {}",
            self.member(index)?.name()
        )
    }

    /// They are no raft group: their health is that of a member by itself.
    pub(crate) fn without_raft(&mut self) {
        self.health = "health";
    }

    /// Waits until every member in `indices` answers raft-health, or health without raft, with 200.
    pub(crate) async fn healthy(&self, indices: &[usize]) -> Result<()> {
        for index in indices {
            let member = self.member(*index)?;
            until(
                READY,
                &format!("{} of {} to be 200", self.health, member.name()),
                async || {
                    let (code, body) = member.api().get(self.health).await?;
                    ensure!(code == 200, "{code} {body}");
                    Ok(Some(()))
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Waits until a member leads and, as a client would see it, is healthy; returns how long after `since` that was.
    pub(crate) async fn acting_leader_after(&self, since: Instant, limit: Duration) -> Result<Duration> {
        until(limit, "a healthy leader", async || {
            let Some(leader) = self.leader_now().await? else {
                return Ok(None);
            };
            let (code, _) = self.member(leader)?.api().get("raft-health").await?;
            Ok((code == 200).then(|| since.elapsed()))
        })
        .await
    }

    /// Waits until all members are healthy and the leader knows every server of the topology, each freshly seen.
    pub(crate) async fn knows(&self, topology: &Topology) -> Result<()> {
        let all: Vec<usize> = (0..self.list.len()).collect();
        self.healthy(&all).await?;
        let seed = topology.server(0)?.address();
        let wanted: Vec<String> = topology.addresses().iter().map(ToString::to_string).collect();
        until(READY, "the leader to know the topology", async || {
            let leader = self.member(self.leader().await?)?;
            let instances = leader.api().json(&format!("cluster/{seed}")).await?;
            let is_seen = |instance: &Value| instance.get("IsLastCheckValid").and_then(Value::as_bool) == Some(true);
            let known: Vec<String> = instances
                .as_array()
                .into_iter()
                .flatten()
                .filter(|instance| is_seen(instance))
                .map(|instance| key(instance, "/Key"))
                .collect();
            let missing: Vec<&String> = wanted.iter().filter(|address| !known.contains(address)).collect();
            ensure!(missing.is_empty(), "{missing:?} not seen yet by {}", leader.name());
            Ok(Some(()))
        })
        .await
    }

    /// The topology as `ham4db-client -c topology` prints it, from the leader.
    pub(crate) async fn topology_text(&self, hint: &Address) -> Result<String> {
        let leader = self.member(self.leader().await?)?;
        let details = leader.api().details(&format!("topology/{hint}")).await?;
        Ok(details.as_str().context("the topology is no text")?.to_owned())
    }

    /// The recoveries that the leader knows, newest first.
    pub(crate) async fn recoveries(&self) -> Result<Vec<Value>> {
        let leader = self.member(self.leader().await?)?;
        let recoveries = leader.api().json("audit-recovery").await?;
        Ok(recoveries.as_array().cloned().unwrap_or_default())
    }

    /// Waits until there is exactly one failover in the records, successful, from one server to another, and returns it. That a failed
    /// primary became a replica later is a record of its own, and no failover.
    pub(crate) async fn one_recovery(&self, limit: Duration, from: &Address, to: &Address) -> Result<Value> {
        until(limit, "one successful recovery in audit-recovery", async || {
            let mut recoveries = self.recoveries().await?;
            recoveries.retain(|recovery| text(recovery, "/RecoveryType").starts_with("MasterRecovery"));
            ensure!(
                recoveries.len() == 1,
                "{} recoveries: {}",
                recoveries.len(),
                Value::from(recoveries)
            );
            let recovery = recoveries.into_iter().next().unwrap_or_default();
            ensure!(
                recovery.get("IsSuccessful").and_then(Value::as_bool) == Some(true),
                "not successful: {recovery}"
            );
            let (failed, successor) = (
                key(&recovery, "/AnalysisEntry/AnalyzedInstanceKey"),
                key(&recovery, "/SuccessorKey"),
            );
            ensure!(
                failed == from.to_string() && successor == to.to_string(),
                "it is {failed} -> {successor}"
            );
            Ok(Some(recovery))
        })
        .await
    }

    /// The `status` that the leader wrote for the document, when what it says is so; waited for.
    pub(crate) async fn status(&self, limit: Duration, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        until(limit, what, async || {
            let leader = self.member(self.leader().await?)?;
            let status = manifests::status(&leader.manifests())?;
            ensure!(is_so(&status), "the status is {status}");
            Ok(Some(status))
        })
        .await
    }

    /// The analysis codes that the leader finds for an instance, without advice on its settings.
    pub(crate) async fn findings(&self, instance: &Address) -> Result<Vec<String>> {
        let leader = self.member(self.leader().await?)?;
        let details = leader.api().details("replication-analysis").await?;
        let about = |finding: &&Value| key(finding, "/AnalyzedInstanceKey") == instance.to_string();
        let findings = details.as_array().into_iter().flatten().filter(about);
        let codes = findings.map(|finding| text(finding, "/Analysis").to_owned());
        Ok(codes.filter(|code| !ADVICE.contains(&code.as_str())).collect())
    }
}

/// Where a member's API and its peer listener are, and its namespace if it has one.
type Place = (Address, Address, Option<Host>);

/// A place for each member, and the leases of ports of 127.0.0.1.
fn places(name: &str, count: usize, net: Option<&Net>) -> Result<(Vec<Place>, Vec<PortLease>)> {
    let (mut places, mut leases) = (Vec::new(), Vec::new());
    for number in 1..=count {
        places.push(if let Some(net) = net {
            let host = net.host(&format!("{name}{number}"))?;
            let at = |port| Address::new(&host.address, port);
            (at(3000), at(10_008), Some(host))
        } else {
            let mut lease = || -> Result<Address> {
                let lease = PortLease::take()?;
                let address = Address::new("127.0.0.1", lease.port());
                leases.push(lease);
                Ok(address)
            };
            (lease()?, lease()?, None)
        });
    }
    Ok((places, leases))
}

fn group_configuration(api: &Address, raft: &Address, nodes: &[String]) -> Value {
    json!({
        "ListenAddress": api.to_string(),
        "BackendDB": "sqlite",
        "RaftEnabled": true,
        "RaftBind": raft.to_string(),
        "RaftAdvertise": raft.to_string(),
        "RaftNodes": nodes,
        "InstancePollSeconds": 1,
        "MySQLHostnameResolveMethod": "",
        "HostnameResolveMethod": "none",
    })
}

fn configuration(api: &Address, raft: &Address, nodes: &[String], topology: &Topology, intent: &Intent) -> Value {
    let mut configuration = group_configuration(api, raft, nodes);
    if let (Intent::Configuration(more), Some(keys)) = (intent, configuration.as_object_mut()) {
        let accounts = &topology.accounts;
        let seeds: Vec<String> = topology
            .addresses()
            .first()
            .map(ToString::to_string)
            .into_iter()
            .collect();
        let own = json!({
            "DiscoverySeeds": seeds,
            "MySQLTopologyUser": accounts.topology.user,
            "MySQLTopologyPassword": accounts.topology.password,
            "MySQLReplicationUser": accounts.replication.user,
            "MySQLReplicationPassword": accounts.replication.password,
            "RecoverMasterClusterFilters": ["*"],
        });
        for more in [&own, more] {
            keys.extend(more.as_object().cloned().unwrap_or_default());
        }
    }
    configuration
}
