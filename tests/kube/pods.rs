//! Pods and nodes of a real API server: who is asked to hand over, and the labels that tell what servers are. No server of MySQL is needed.

use std::collections::BTreeMap;

use ham4db::adapter::kube::PodWatches;
use ham4db::domain::state::{Request, RequestKind, RequestProgress};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::documents::source_with;
use super::leader::DEADLINE;
use super::server::{Server, create, namespace, until};
use super::services::{FIRST, Publishing, SECOND, Shown, THIRD};

const ROLE: &str = "ham4db.io/role";
const CLUSTER: &str = "ham4db.io/cluster";

/// Three servers in pods, each on a node of its own.
struct Inhabited {
    publishing: Publishing,
    pods: Api<Pod>,
    nodes: Api<Node>,
}

impl Inhabited {
    async fn new(follows: PodWatches) -> Self {
        let server = Server::shared();
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        // A controller's work, and none runs here.
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let source = source_with(client.clone(), &namespace, follows);
        let this = Self {
            pods: Api::namespaced(client.clone(), &namespace),
            nodes: Api::all(client.clone()),
            publishing: Publishing::reading(server, client, source, namespace),
        };
        for (name, ip) in [("orders-0", FIRST), ("orders-1", SECOND), ("orders-2", THIRD)] {
            let node = json!({"metadata": {"name": this.node(name)}});
            let node = serde_json::from_value(node).unwrap();
            this.nodes.create(&PostParams::default(), &node).await.unwrap();
            this.make(name, ip).await;
        }
        this
    }

    /// Nodes are in no namespace, and other tests have some too.
    fn node(&self, pod: &str) -> String {
        format!("{pod}-{}", self.publishing.namespace)
    }

    async fn make(&self, name: &str, ip: &str) {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": self.node(name), "containers": [{"name": "mysql", "image": "mysql:9.7"}]},
        });
        let pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
        // What a kubelet would tell.
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let parameters = PatchParams::default();
        self.pods
            .patch_status(name, &parameters, &Patch::Merge(&status))
            .await
            .unwrap();
    }

    async fn cordon(&self, pod: &str, unschedulable: bool) {
        let patch = json!({"spec": {"unschedulable": unschedulable}});
        let parameters = PatchParams::default();
        let node = self.node(pod);
        self.nodes
            .patch(&node, &parameters, &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    async fn declare(&self, spec: Value) {
        let Publishing { client, namespace, .. } = &self.publishing;
        create(client, namespace, "orders", &spec).await;
    }

    async fn roles(&self) -> BTreeMap<String, String> {
        let pods = self.pods.list(&ListParams::default()).await.unwrap();
        let labelled = pods.iter().filter_map(|pod| {
            let role = pod.labels().get(ROLE)?;
            Some((pod.name_any(), format!("{role} of {}", pod.labels()[CLUSTER])))
        });
        labelled.collect()
    }

    async fn say(&self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> = wanted
            .iter()
            .map(|(pod, role)| ((*pod).to_owned(), format!("{role} of orders")))
            .collect();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let roles = self.roles().await;
            let primaries = roles.values().filter(|role| role.starts_with("primary"));
            assert!(primaries.count() <= 1, "two are called primary: {roles:?}");
            if roles == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{roles:?} and not {wanted:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits for so many handovers on record; answers the last.
    async fn asked(&self, what: &str, count: usize) -> Request {
        let handovers = |request: &&Request| matches!(request.what, RequestKind::Drain { .. });
        let state = self
            .publishing
            .leader
            .until(what, |state| state.requests.values().filter(handovers).count() == count)
            .await;
        let last = state.requests.values().filter(handovers);
        last.max_by_key(|request| (request.seen, request.id.clone()))
            .unwrap()
            .clone()
    }

    async fn uid(&self, pod: &str) -> String {
        self.pods.get(pod).await.unwrap().uid().unwrap()
    }
}

#[tokio::test]
async fn a_cordon_and_an_eviction_of_the_primary_are_asked_about_once_each() {
    let follows = PodWatches {
        drains: true,
        role_labels: false,
    };
    let inhabited = Inhabited::new(follows).await;
    inhabited.declare(json!({"recovery": {"onDrain": "TakeOver"}})).await;
    // A replica's node is nobody's business.
    inhabited.cordon("orders-1", true).await;
    inhabited.cordon("orders-0", true).await;
    let asked = inhabited.asked("the cordon is asked about", 1).await;
    let uid = inhabited.uid("orders-0").await;
    assert!(asked.id.starts_with(&format!("drain-{uid}-c")), "{}", asked.id);
    let RequestKind::Drain { reason, primary, .. } = &asked.what else {
        panic!("{:?}", asked.what);
    };
    assert_eq!(primary.hostname, FIRST);
    let node = inhabited.node("orders-0");
    assert_eq!(
        *reason,
        format!("pod orders-0 is about to terminate: its node {node} is cordoned")
    );
    // Somebody thought better of it.
    inhabited.cordon("orders-0", false).await;
    let over = |request: &Request| matches!(request.progress, RequestProgress::Over { .. });
    let leader = &inhabited.publishing.leader;
    leader
        .until("it is taken back", |state| state.requests.values().all(over))
        .await;
    // As `kubectl drain` does it; there is no kubelet that would end it.
    let evicted = inhabited
        .pods
        .evict("orders-0", &kube::api::EvictParams::default())
        .await;
    evicted.unwrap();
    let asked = inhabited.asked("the eviction is asked about", 2).await;
    assert_eq!(asked.id, format!("drain-{uid}-d-1"));
    assert_eq!(inhabited.roles().await, BTreeMap::new(), "nobody asked for labels");
}

#[tokio::test]
async fn labels_tell_what_servers_are_and_follow_the_primary() {
    let follows = PodWatches {
        drains: false,
        role_labels: true,
    };
    let inhabited = Inhabited::new(follows).await;
    inhabited.declare(json!({})).await;
    let replicas = |primary: &'static str| {
        let role = move |pod| (pod, if pod == primary { "primary" } else { "replica" });
        ["orders-0", "orders-1", "orders-2"].map(role)
    };
    inhabited.say(&replicas("orders-0")).await;
    // Lost from sight, it keeps its label; another one opened, it loses it.
    inhabited.publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[FIRST],
    });
    let after = [
        ("orders-0", "unknown"),
        ("orders-1", "primary"),
        ("orders-2", "replica"),
    ];
    inhabited.say(&after).await;
    inhabited.publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[],
    });
    inhabited.say(&replicas("orders-1")).await;
    // A pod that was made anew under its name is another one: it is labelled once its server was seen, which it is here.
    let at_once = DeleteParams::default().grace_period(0);
    inhabited.pods.delete("orders-2", &at_once).await.unwrap();
    inhabited.make("orders-2", THIRD).await;
    inhabited.say(&replicas("orders-1")).await;
    // What somebody changed is put right.
    let patch = json!({"metadata": {"labels": {ROLE: "primary"}}});
    let parameters = PatchParams::default();
    inhabited
        .pods
        .patch("orders-0", &parameters, &Patch::Merge(&patch))
        .await
        .unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while inhabited.roles().await["orders-0"] != "replica of orders" {
        assert!(tokio::time::Instant::now() < deadline, "it stays primary");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // With the document they go.
    let Publishing { client, namespace, .. } = &inhabited.publishing;
    let documents: Api<ham4db::resource::MySQLCluster> = Api::namespaced(client.clone(), namespace);
    documents.delete("orders", &DeleteParams::default()).await.unwrap();
    inhabited.say(&[]).await;
}

#[tokio::test]
async fn a_document_that_wants_handovers_is_told_when_nobody_looks() {
    let inhabited = Inhabited::new(PodWatches::default()).await;
    inhabited.declare(json!({"recovery": {"onDrain": "TakeOver"}})).await;
    let Publishing { client, namespace, .. } = &inhabited.publishing;
    let documents = Api::namespaced(client.clone(), namespace);
    until(&documents, "orders", "it says that nothing is watched", |document| {
        let status = document.status.as_ref();
        status.is_some_and(|status| {
            let problems = status.instances.iter().flat_map(|instance| &instance.problems);
            problems.clone().any(|problem| problem.contains("drain.enabled"))
        })
    })
    .await;
}
