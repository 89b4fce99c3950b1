//! Primaries in pods whose nodes are drained: real nodes and pods are objects of a real API server here, which is all that ham4db reads of
//! them; the servers are processes at the pods' addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ham4db::adapter::kube::Client;
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::failover::{DEADLINE, backdrop, declare, members_with, says};
use super::kit::netns::Net;
use super::kit::replication::Flavour;
use super::kit::schedule::scenario_alone;
use super::kit::topology::{Shape, Topology};
use super::kit::wait::until;
use super::server::namespace;

/// The pods of the servers, by number.
struct Inhabited {
    nodes: Api<Node>,
    pods: Api<Pod>,
}

impl Inhabited {
    /// A node and a pod for each server of a topology.
    async fn make(client: &Client, namespace: &str, topology: &Topology) -> Result<Self> {
        let this = Self {
            nodes: Api::all(client.clone()),
            pods: Api::namespaced(client.clone(), namespace),
        };
        for (number, address) in topology.addresses().iter().enumerate() {
            let node = json!({"metadata": {"name": format!("n{number}")}});
            this.nodes
                .create(&PostParams::default(), &serde_json::from_value(node)?)
                .await?;
            this.make_pod(number, &address.host).await?;
        }
        Ok(this)
    }

    async fn make_pod(&self, number: usize, ip: &str) -> Result<()> {
        let name = format!("orders-{number}");
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "orders"}},
            "spec": {
                "nodeName": format!("n{number}"),
                "automountServiceAccountToken": false,
                "containers": [{"name": "mysql", "image": "mysql:9.7"}],
            },
        });
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod)?)
            .await?;
        // What a kubelet would tell.
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let patched = self
            .pods
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await;
        patched.map(drop).context("tell the address of a pod")
    }

    async fn cordon(&self, number: usize, unschedulable: bool) -> Result<()> {
        let patch = json!({"spec": {"unschedulable": unschedulable}});
        let name = format!("n{number}");
        self.nodes
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    /// As `kubectl drain` does it.
    async fn evict(&self, number: usize) -> Result<()> {
        self.pods
            .evict(&format!("orders-{number}"), &kube::api::EvictParams::default())
            .await?;
        Ok(())
    }

    async fn roles(&self) -> Result<BTreeMap<String, String>> {
        let pods = self.pods.list(&ListParams::default()).await?;
        let role = |pod: &Pod| {
            let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
            (
                pod.name_any(),
                format!("{} of {}", label("ham4db.io/role"), label("ham4db.io/cluster")),
            )
        };
        Ok(pods.iter().map(role).collect())
    }

    /// Waits until the labels say who is the primary, and that the others are replicas.
    async fn say(&self, primary: usize) -> Result<()> {
        let wanted: BTreeMap<String, String> = (0..3)
            .map(|number| {
                let role = if number == primary { "primary" } else { "replica" };
                (format!("orders-{number}"), format!("{role} of orders"))
            })
            .collect();
        until(DEADLINE, &format!("the labels to be {wanted:?}"), async || {
            let roles = self.roles().await?;
            let primaries = roles.values().filter(|role| role.starts_with("primary")).count();
            ensure!(primaries <= 1, "two pods are called primary: {roles:?}");
            ensure!(roles == wanted, "they are {roles:?}");
            Ok(Some(()))
        })
        .await
    }

    async fn uid(&self, number: usize) -> Result<String> {
        let pod = self.pods.get(&format!("orders-{number}")).await?;
        pod.metadata.uid.context("a pod has a uid")
    }
}

/// Waits until the takeover that the status shows is over and has succeeded; answers its id and message.
async fn succeeded(api: &Api<MySQLCluster>, id: &str) -> Result<()> {
    until(DEADLINE, &format!("the takeover {id} to have succeeded"), async || {
        let status = api.get("orders").await?.status;
        let takeover = status
            .and_then(|status| status.takeover)
            .context("no takeover is shown")?;
        let phase = serde_json::to_value(takeover.phase)?;
        ensure!(
            takeover.request_id.starts_with(id) && phase == json!("Succeeded"),
            "shown is {takeover:?}"
        );
        ensure!(
            takeover.message.contains("is about to terminate"),
            "it does not say why: {}",
            takeover.message
        );
        Ok(Some(()))
    })
    .await
}

async fn reasons_of_events(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), namespace);
    let events = events.list(&ListParams::default()).await?;
    Ok(events
        .iter()
        .map(|event| {
            format!(
                "{}: {}",
                event.reason.clone().unwrap_or_default(),
                event.note.clone().unwrap_or_default()
            )
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_hands_over_before_its_pod_goes_and_labels_follow() -> Result<()> {
    scenario_alone("kube-drain", |run| async move {
        // Pods have addresses of their own; on loopback nobody could tell the servers apart.
        let net = Net::create()?;
        let (server, topology) = backdrop(Topology::start_in(&run, &Shape::star(Flavour::MySql, 2), &net)).await?;
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let account = json!({"metadata": {"name": "default"}});
        // A controller's work, and none runs here.
        drop(
            accounts
                .create(&PostParams::default(), &serde_json::from_value(account)?)
                .await,
        );
        let inhabited = Inhabited::make(&client, &namespace, &topology).await?;
        let more: Value = json!({"Drain": true, "PodRoleLabels": true});
        let _members = members_with(&run, &topology, &server, &namespace, &more).await?;
        let spec = json!({"recovery": {"mode": "Auto", "onDrain": "TakeOver"}});
        let api = declare(&client, &namespace, "orders", &topology, spec).await?;
        let addresses = topology.addresses();
        says(&api, "orders", &addresses[0], 3, DEADLINE).await?;
        inhabited.say(0).await?;

        // A replica's node first: nothing is asked, and it is not who takes over.
        inhabited.cordon(1, true).await?;
        inhabited.cordon(0, true).await?;
        says(&api, "orders", &addresses[2], 3, DEADLINE).await?;
        let first = inhabited.uid(0).await?;
        succeeded(&api, &format!("drain-{first}-c")).await?;
        inhabited.say(2).await?;
        ensure!(topology.only_writable(DEADLINE).await? == 2, "another one is writable");
        topology.server(0)?.follows(&addresses[2], DEADLINE).await?;

        // The new one is evicted, while one node is still cordoned.
        inhabited.cordon(0, false).await?;
        inhabited.evict(2).await?;
        says(&api, "orders", &addresses[0], 3, DEADLINE).await?;
        let second = inhabited.uid(2).await?;
        succeeded(&api, &format!("drain-{second}-d-1")).await?;
        inhabited.say(0).await?;
        ensure!(topology.only_writable(DEADLINE).await? == 0, "another one is writable");
        until(DEADLINE, "an Event to say why", async || {
            let told = reasons_of_events(&client, &namespace).await?;
            let is_it = |note: &String| note.starts_with("TakeoverStarted") && note.contains("its node n0 is cordoned");
            ensure!(told.iter().any(is_it), "told was {told:?}");
            Ok(Some(()))
        })
        .await?;
        // Nobody asks twice.
        super::kit::wait::throughout(Duration::from_secs(3), async || {
            ensure!(topology.only_writable(DEADLINE).await? == 0, "it was taken over again");
            Ok(())
        })
        .await
    })
    .await
}
