//! Services that lead to the primary and to the replicas, on a real API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ham4db::adapter::kube::{Client, KubeSource};
use ham4db::domain::cluster_view::ClusterView;
use ham4db::domain::gtid::GtidSet;
use ham4db::domain::instance::{Identity, Instance, InstanceFacts, ProbeFailure};
use ham4db::domain::key::InstanceKey;
use ham4db::domain::policy::Policy;
use ham4db::domain::state::{Cluster, record::RecordedPrimary};
use ham4db::domain::time::WallTime;
use ham4db::domain::topology::{ClusterId, Topology};
use ham4db::domain::version::Flavour;
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use super::documents::source;
use super::leader::{Alone, DEADLINE, origin};
use super::requests::told;
use super::server::{Server, condition, create, namespace, until};

pub(super) const KIND: &str = "PrimaryServicePublished";
pub(super) const FIRST: &str = "192.0.2.1";
pub(super) const SECOND: &str = "192.0.2.2";
pub(super) const THIRD: &str = "192.0.2.3";

/// The loops of a leader over one namespace and a cluster of three servers as the test pleases.
pub(super) struct Publishing {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) leader: Arc<Alone>,
    views: watch::Sender<Arc<Vec<ClusterView>>>,
    _loops: [DropGuard; 2],
    pub(crate) server: Arc<Server>,
}

/// The cluster as it is shown.
pub(super) struct Shown {
    pub(super) primary: &'static str,
    pub(super) epoch: u64,
    /// Servers that do not answer.
    pub(super) silent: &'static [&'static str],
}

fn key(host: &str) -> InstanceKey {
    InstanceKey::new(host, 3306)
}

fn uuid(host: &str) -> String {
    let last = host.bytes().last().unwrap_or_default();
    format!("3e11fa47-71ca-11e1-9e33-c80aa94295{last:02x}")
}

fn instance(host: &'static str, shown: &Shown) -> Instance {
    let executed = GtidSet::parse(Flavour::MySql, &format!("{}:1-100", uuid(FIRST))).unwrap();
    let channels = if host == shown.primary {
        json!([])
    } else {
        json!([{"source": key(shown.primary), "io": "Running", "sql": "Running", "lagSeconds": 0}])
    };
    let mut facts: InstanceFacts = serde_json::from_value(json!({
        "identity": {"serverUuid": uuid(host)},
        "serverId": 1,
        "version": {"flavour": "MySQL", "major": 9, "minor": 7, "patch": 0, "text": "9.7.0"},
        "logBin": true,
        "readOnly": host != shown.primary,
        "executed": executed,
        "purged": GtidSet::empty(Flavour::MySql),
        "channels": channels,
    }))
    .unwrap();
    facts.peer = Some(host.parse().unwrap());
    Instance {
        facts: Some(facts),
        last_seen: Some(WallTime(1)),
        last_checked: Some(WallTime(1)),
        failure: shown.silent.contains(&host).then_some(ProbeFailure::Refused),
        ..Instance::unseen(key(host))
    }
}

impl Publishing {
    pub(crate) async fn on(server: Arc<Server>) -> Self {
        let client = server.client().await;
        let namespace = namespace(&client).await;
        Self::with(server, client.clone(), client, namespace)
    }

    /// `own` is the client of the loops.
    pub(super) fn with(server: Arc<Server>, client: Client, own: Client, namespace: String) -> Self {
        let source = source(own, &namespace);
        Self::reading(server, client, source, namespace)
    }

    pub(super) fn reading(
        server: Arc<Server>,
        client: Client,
        (source, watching): (Arc<KubeSource>, DropGuard),
        namespace: String,
    ) -> Self {
        let leader = Alone::leading("ours");
        let (views, shown) = watch::channel(Arc::default());
        let declaring = leader.declare(source, shown);
        let publishing = Self {
            client,
            namespace,
            leader,
            views,
            _loops: [watching, declaring],
            server,
        };
        publishing.show(&Shown {
            primary: FIRST,
            epoch: 3,
            silent: &[],
        });
        publishing
    }

    /// Records and shows the cluster.
    pub(super) fn show(&self, shown: &Shown) {
        let hosts = [FIRST, SECOND, THIRD, shown.primary];
        let instances: BTreeMap<InstanceKey, Instance> = hosts.map(|host| (key(host), instance(host, shown))).into();
        let cluster = Cluster {
            id: ClusterId("cluster-1".to_owned()),
            created_at: WallTime(1),
            name: shown.primary.to_owned(),
            alias: String::new(),
            epoch: shown.epoch,
            instances: instances.keys().cloned().collect(),
            primary: Some(RecordedPrimary {
                instance: key(shown.primary),
                identity: Identity::ServerUuid(uuid(shown.primary)),
                since: WallTime(1),
                epoch: shown.epoch,
                opened_by: None,
                process: None,
            }),
            document: Some(origin(&self.namespace, "orders")),
            split_from: None,
        };
        let topology = Topology {
            cluster: cluster.id.clone(),
            cluster_name: cluster.name.clone(),
            cluster_alias: String::new(),
            recorded_primary: Some(key(shown.primary)),
            taken: WallTime(1),
            instances,
            aliases: BTreeMap::new(),
        };
        self.leader.change(|state| {
            state.clusters.insert(cluster.id.clone(), cluster.clone());
        });
        let view = ClusterView {
            cluster,
            topology,
            policy: Policy {
                reasonable_lag_seconds: 10,
                ..Policy::default()
            },
            findings: Vec::new(),
            automated_recovery: false,
        };
        self.views.send_replace(Arc::new(vec![view]));
    }

    pub(crate) async fn create(&self, services: Value) -> Api<MySQLCluster> {
        let spec = json!({"primaryService": services});
        create(&self.client, &self.namespace, "orders", &spec).await
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The slices of the namespace.
    pub(crate) async fn all_slices(&self) -> Vec<EndpointSlice> {
        self.slices().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until the slices behind a Service lead to these addresses and no other; answers them.
    pub(crate) async fn leads(&self, service: &str, to: &[&str]) -> Vec<EndpointSlice> {
        let wanted: Vec<String> = to.iter().map(|at| (*at).to_owned()).collect();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let mut slices = self.all_slices().await;
            slices.retain(|slice| {
                slice
                    .labels()
                    .get("kubernetes.io/service-name")
                    .is_some_and(|of| of == service)
            });
            let mut led: Vec<String> = slices.iter().flat_map(addresses).collect();
            led.sort();
            if led == wanted && !slices.is_empty() {
                return slices;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{service} leads to {led:?} and not to {to:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the condition has this status and reason.
    pub(crate) async fn says(&self, api: &Api<MySQLCluster>, status: &str, reason: &str) -> MySQLCluster {
        let wanted = (status.to_owned(), reason.to_owned());
        until(api, "orders", reason, |document| {
            condition(document, KIND).as_ref() == Some(&wanted)
        })
        .await
    }
}

fn addresses(slice: &EndpointSlice) -> Vec<String> {
    slice
        .endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect()
}

#[tokio::test]
async fn services_appear_follow_a_change_of_the_primary_and_go_with_the_field() {
    let publishing = Publishing::on(Server::shared()).await;
    let api = publishing
        .create(json!({"port": 3310, "replicasName": "orders-ro"}))
        .await;
    let document = publishing.says(&api, "True", "Published").await;
    let [slice] = publishing.leads("orders-primary", &[FIRST]).await.try_into().unwrap();
    publishing.leads("orders-ro", &[SECOND, THIRD]).await;

    let service = publishing.services().get("orders-primary").await.unwrap();
    let spec = service.spec.as_ref().unwrap();
    let port = &spec.ports.as_ref().unwrap()[0];
    assert_eq!((port.port, port.name.as_deref()), (3310, Some("mysql")));
    assert!(spec.selector.is_none(), "{:?}", spec.selector);
    let there = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((there.port, there.name.as_deref()), (Some(3306), Some("mysql")));
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.annotations()["ham4db.io/observer"], "ours");
    assert_eq!(slice.annotations()["ham4db.io/epoch"], "3");
    assert_eq!(slice.labels()["endpointslice.kubernetes.io/managed-by"], "ham4db.io");
    for owners in [service.owner_references(), slice.owner_references()] {
        assert_eq!(Some(&owners[0].uid), document.metadata.uid.as_ref());
    }

    publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[FIRST],
    });
    let [slice] = publishing.leads("orders-primary", &[SECOND]).await.try_into().unwrap();
    assert_eq!(slice.annotations()["ham4db.io/epoch"], "4");
    publishing.leads("orders-ro", &[THIRD]).await;
    let after = publishing.services().get("orders-primary").await.unwrap();
    assert_eq!(
        after.resource_version(),
        service.resource_version(),
        "its name and address stay"
    );

    // Another name: what had the old one is removed.
    let patch = json!({"spec": {"primaryService": {"name": "orders-db", "replicasName": null}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    publishing.leads("orders-db", &[SECOND]).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while publishing.all_slices().await.len() > 1
        || publishing
            .services()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
            > 1
    {
        assert!(tokio::time::Instant::now() < deadline, "what is not asked for stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let patch = json!({"spec": {"primaryService": null}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    publishing.says(&api, "False", "NotAskedFor").await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !publishing.all_slices().await.is_empty()
        || publishing.services().get_opt("orders-db").await.unwrap().is_some()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it stays without being asked for"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_somebody_changed_or_deleted_is_put_right_and_their_own_additions_stay() {
    let publishing = Publishing::on(Server::shared()).await;
    let api = publishing.create(json!({})).await;
    publishing.says(&api, "True", "Published").await;
    let patch =
        json!({"metadata": {"annotations": {"example.com/note": "kept"}}, "spec": {"selector": {"app": "theirs"}}});
    publishing
        .services()
        .patch("orders-primary", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    publishing
        .slices()
        .delete("orders-primary-ipv4", &DeleteParams::default())
        .await
        .unwrap();
    // The next change is the next look.
    publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[],
    });
    publishing.leads("orders-primary", &[SECOND]).await;
    let service = publishing.services().get("orders-primary").await.unwrap();
    assert!(service.spec.unwrap().selector.is_none());
    assert_eq!(service.metadata.annotations.unwrap()["example.com/note"], "kept");
}

#[tokio::test]
async fn a_primary_in_the_other_family_of_addresses_has_another_slice() {
    const SIXTH: &str = "2001:db8::1";
    let publishing = Publishing::on(Server::shared()).await;
    publishing.create(json!({})).await;
    publishing.leads("orders-primary", &[FIRST]).await;
    publishing.show(&Shown {
        primary: SIXTH,
        epoch: 4,
        silent: &[],
    });
    let [slice] = publishing.leads("orders-primary", &[SIXTH]).await.try_into().unwrap();
    assert_eq!(slice.address_type, "IPv6");
}

#[tokio::test]
async fn losing_sight_withdraws_nothing() {
    let publishing = Publishing::on(Server::shared()).await;
    let api = publishing.create(json!({"replicasName": "orders-ro"})).await;
    publishing.leads("orders-ro", &[SECOND, THIRD]).await;
    publishing.says(&api, "True", "Published").await;
    let before = publishing.leads("orders-primary", &[FIRST]).await;
    publishing.show(&Shown {
        primary: FIRST,
        epoch: 3,
        silent: &[FIRST, THIRD],
    });
    // The replica goes, and with the same write the primary could have gone.
    publishing.leads("orders-ro", &[SECOND]).await;
    let unreachable = ("Unknown".to_owned(), "PrimaryUnreachable".to_owned());
    until(&api, "orders", "the primary is not seen", |document| {
        condition(document, "PrimaryWritable").as_ref() == Some(&unreachable)
    })
    .await;
    let after = publishing.leads("orders-primary", &[FIRST]).await;
    assert_eq!(after[0].resource_version(), before[0].resource_version());
    publishing.says(&api, "True", "Published").await;
}

#[tokio::test]
async fn a_lower_epoch_is_refused() {
    let publishing = Publishing::on(Server::shared()).await;
    let api = publishing.create(json!({})).await;
    publishing.show(&Shown {
        primary: SECOND,
        epoch: 7,
        silent: &[],
    });
    publishing.leads("orders-primary", &[SECOND]).await;
    publishing.show(&Shown {
        primary: FIRST,
        epoch: 5,
        silent: &[],
    });
    publishing.says(&api, "Unknown", "NotWritten").await;
    let [slice] = publishing.leads("orders-primary", &[SECOND]).await.try_into().unwrap();
    assert_eq!(slice.annotations()["ham4db.io/epoch"], "7");
    publishing.show(&Shown {
        primary: FIRST,
        epoch: 8,
        silent: &[],
    });
    publishing.leads("orders-primary", &[FIRST]).await;
}

#[tokio::test]
async fn a_service_of_that_name_which_is_somebody_elses_is_left_alone() {
    let publishing = Publishing::on(Server::shared()).await;
    let theirs =
        json!({"metadata": {"name": "orders-primary"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}});
    let theirs: Service = serde_json::from_value(theirs).unwrap();
    let theirs = publishing
        .services()
        .create(&PostParams::default(), &theirs)
        .await
        .unwrap();
    let api = publishing.create(json!({"replicasName": "orders-ro"})).await;
    publishing.says(&api, "False", "NameTaken").await;
    let events = Api::namespaced(publishing.client.clone(), &publishing.namespace);
    let event = told(&events, "NameTaken").await.remove(0);
    assert!(event.note.unwrap().contains("Service orders-primary in namespace"));
    publishing.leads("orders-ro", &[SECOND, THIRD]).await;
    let after = publishing.services().get("orders-primary").await.unwrap();
    assert_eq!(after.resource_version(), theirs.resource_version());
    let led: Vec<String> = publishing.all_slices().await.iter().flat_map(addresses).collect();
    assert!(!led.contains(&FIRST.to_owned()), "{led:?}");
    publishing
        .services()
        .delete("orders-primary", &DeleteParams::default())
        .await
        .unwrap();
    publishing.leads("orders-primary", &[FIRST]).await;
    publishing.says(&api, "True", "Published").await;
}

#[tokio::test]
async fn without_the_right_to_it_the_condition_has_the_role_and_the_rest_goes_on() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let in_it = |words: &[&str]| {
        let words = [words, &["-n", &namespace]].concat();
        let said = server.kubectl(&words, None);
        assert!(said.ok, "{}", said.text);
        said.text
    };
    in_it(&["create", "serviceaccount", "ham4db"]);
    let verbs = "--verb=get,list,watch,patch,update";
    in_it(&[
        "create",
        "role",
        "controller",
        verbs,
        "--resource=mysqlclusters.ham4db.io,mysqlclusters.ham4db.io/status",
    ]);
    let account = format!("--serviceaccount={namespace}:ham4db");
    in_it(&["create", "rolebinding", "controller", "--role=controller", &account]);
    let token = in_it(&["create", "token", "ham4db"]);
    let own = server.client_of(token.trim()).await;
    let publishing = Publishing::with(server.clone(), client, own, namespace.clone());
    let api = publishing.create(json!({})).await;
    let document = publishing.says(&api, "False", "ServicesForbidden").await;
    let conditions = document.status.unwrap().conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == KIND).unwrap();
    server.apply_grant(&condition.message);
    publishing.leads("orders-primary", &[FIRST]).await;
    publishing.says(&api, "True", "Published").await;
}

#[tokio::test]
async fn what_changed_while_the_api_server_was_away_is_right_after_its_return() {
    let server = Server::bare();
    server.apply_definition();
    let publishing = Publishing::on(server).await;
    publishing.create(json!({})).await;
    publishing.leads("orders-primary", &[FIRST]).await;
    publishing.server.stop_api_server();
    publishing.show(&Shown {
        primary: SECOND,
        epoch: 4,
        silent: &[FIRST],
    });
    publishing.server.start_api_server();
    let back = tokio::time::Instant::now();
    publishing.leads("orders-primary", &[SECOND]).await;
    // Ten times the budget.
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
}
