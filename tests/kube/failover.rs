//! The whole way: documents in a real API server, three members as processes, real servers that die.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ham4db::adapter::kube::Client;
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::kit::http::{key, text};
use super::kit::members::{Intent, Members};
use super::kit::netns::Net;
use super::kit::replication::{DATABASE, Flavour};
use super::kit::run::{self, Run, hand_over};
use super::kit::schedule::{scenario, scenario_alone};
use super::kit::sql::Address;
use super::kit::topology::{Shape, Topology};
use super::kit::wait::{throughout, until};
use super::server::{Server, condition, create, namespace};

/// For everything that has no budget of its own.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Until a new document's seeds are known and its status is written: ten times the budget.
const KNOWN: Duration = Duration::from_secs(20);
/// Until a status says what happened while the API server was away: the longest pause between two attempts to reach it is ten seconds,
/// and then it is read and written.
const CAUGHT_UP: Duration = Duration::from_secs(15);
/// Until a Service leads to a new primary that takes writes: ten times the budget.
const LED: Duration = Duration::from_secs(2);
/// How long it is watched that nothing is done.
const QUIET: Duration = Duration::from_secs(3);

/// The shared API server with the definition, and servers of MySQL, started side by side.
pub(super) async fn backdrop<T>(servers: impl Future<Output = Result<T>>) -> Result<(Arc<Server>, T)> {
    start_both(Server::shared, servers).await
}

/// The same with an API server of the test's own, which it may stop.
async fn backdrop_with_own_server<T>(servers: impl Future<Output = Result<T>>) -> Result<(Arc<Server>, T)> {
    let own = || {
        let server = Server::bare();
        server.apply_definition();
        server
    };
    start_both(own, servers).await
}

async fn start_both<T>(
    server: impl FnOnce() -> Arc<Server> + Send + 'static,
    servers: impl Future<Output = Result<T>>,
) -> Result<(Arc<Server>, T)> {
    let (server, servers) = tokio::join!(tokio::task::spawn_blocking(server), servers);
    Ok((server.context("start an API server")?, servers?))
}

/// Starts three members that read documents from a namespace and are configured with no cluster and no account; waits until they agree
/// on a leader.
async fn members(run: &Arc<Run>, topology: &Topology, server: &Server, namespace: &str) -> Result<Members> {
    members_with(run, topology, server, namespace, &json!({})).await
}

/// The same, with more keys of `Kubernetes`.
pub(super) async fn members_with(
    run: &Arc<Run>,
    topology: &Topology,
    server: &Server,
    namespace: &str,
    more: &Value,
) -> Result<Members> {
    members_as(run, topology, server.kubeconfig(), namespace, more).await
}

/// The same as whom a file says.
pub(super) async fn members_as(
    run: &Arc<Run>,
    topology: &Topology,
    identity: &Path,
    namespace: &str,
    more: &Value,
) -> Result<Members> {
    let mut kubernetes = json!({"Enabled": true, "Namespace": namespace, "WatchNamespaces": [namespace]});
    for (key, value) in more.as_object().into_iter().flatten() {
        kubernetes[key] = value.clone();
    }
    // A copy: members are another user, and the original is readable by its owner only.
    let kubeconfig = run.folder().join("kubeconfig");
    std::fs::copy(identity, &kubeconfig).context("copy the kubeconfig")?;
    hand_over(&kubeconfig)?;
    let intent = Intent::Configuration(json!({
        "DiscoverySeeds": [],
        "MySQLTopologyUser": "", "MySQLTopologyPassword": "",
        "MySQLReplicationUser": "", "MySQLReplicationPassword": "",
        "RecoverMasterClusterFilters": [],
        "Kubernetes": kubernetes,
    }));
    let mut members = Members::prepare(run, topology, &intent, None)?;
    for member in &mut members.list {
        member.set_environment("KUBECONFIG", Some(&kubeconfig.to_string_lossy()));
    }
    members.launch_all().await?;
    members.healthy(&[0, 1, 2]).await?;
    Ok(members)
}

/// Creates a document with the first server as its only seed, and its Secret.
pub(super) async fn declare(
    client: &Client,
    namespace: &str,
    name: &str,
    topology: &Topology,
    spec: Value,
) -> Result<Api<MySQLCluster>> {
    let (account, replication) = (&topology.accounts.topology, &topology.accounts.replication);
    let secret = json!({
        "metadata": {"name": name},
        "stringData": {
            "user": account.user, "password": account.password,
            "replicationUser": replication.user, "replicationPassword": replication.password,
        },
    });
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    secrets
        .create(&PostParams::default(), &serde_json::from_value(secret)?)
        .await?;
    let Address { host, port } = topology.server(0)?.address();
    let mut spec = spec;
    spec["seeds"] = json!([{"host": host, "port": port}]);
    Ok(create(client, namespace, name, &spec).await)
}

/// `HOST:PORT` of `status.primary`; empty when it names none.
fn primary(document: &MySQLCluster) -> String {
    let primary = document.status.as_ref().and_then(|status| status.primary.as_ref());
    primary.map_or_else(String::new, |primary| format!("{}:{}", primary.host, primary.port))
}

/// Status and reason of a condition; empty when there is none.
pub(crate) fn stands(document: &MySQLCluster, kind: &str) -> (String, String) {
    condition(document, kind).unwrap_or_default()
}

/// Waits until a document says that a server is the writable primary of so many instances.
pub(super) async fn says(
    api: &Api<MySQLCluster>,
    name: &str,
    server: &Address,
    instances: usize,
    limit: Duration,
) -> Result<()> {
    let what = format!("the status of {name} to name {server} as its writable primary");
    until(limit, &what, async || {
        let document = api.get(name).await?;
        let shown = document.status.as_ref().map_or(0, |status| status.instances.len());
        ensure!(
            primary(&document) == server.to_string() && stands(&document, "Ready").0 == "True" && shown == instances,
            "{:?}",
            document.status
        );
        Ok(Some(()))
    })
    .await
}

/// What the leader finds about an instance, with why nothing is done about it.
async fn findings(members: &Members, instance: &Address) -> Result<Vec<(String, String)>> {
    let leader = members.member(members.leader().await?)?;
    let found = leader.api().details("replication-analysis").await?;
    let about = |finding: &&Value| key(finding, "/AnalyzedInstanceKey") == instance.to_string();
    let told = |finding: &Value| {
        (
            text(finding, "/Analysis").to_owned(),
            text(finding, "/HeldBack").to_owned(),
        )
    };
    Ok(found.as_array().into_iter().flatten().filter(about).map(told).collect())
}

/// The leader's answer to a path below `/api/`.
async fn asked(members: &Members, path: &str) -> Result<Value> {
    members.member(members.leader().await?)?.api().json(path).await
}

/// Whether recoveries of the cluster of a server begin by themselves.
pub(crate) async fn repairs_itself(members: &Members, server: &Address) -> Result<bool> {
    let info = asked(members, &format!("cluster-info/{server}")).await?;
    info["HasAutomatedMasterRecovery"]
        .as_bool()
        .with_context(|| format!("it does not say: {info}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_primary_follows_a_failover() -> Result<()> {
    scenario("kube-failover", |run| async move {
        let (server, mut topology) = backdrop(Topology::start(&run, &Shape::star(Flavour::MySql, 2))).await?;
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let members = members(&run, &topology, &server, &namespace).await?;
        let old = topology.server(0)?.address().clone();
        ensure!(
            asked(&members, "all-instances").await? == json!([]),
            "nobody named a server yet"
        );

        let spec = json!({"recovery": {"mode": "Auto"}});
        let api = declare(&client, &namespace, "orders", &topology, spec).await?;
        // The clock starts here: an API server keeps the first document after a new definition waiting for two seconds.
        until(KNOWN, "the seed to be known and the status to be written", async || {
            let Address { host, port } = &old;
            let seed = asked(&members, &format!("instance/{host}/{port}")).await?;
            ensure!(seed["IsLastCheckValid"] == json!(true), "the seed is {seed}");
            Ok(api.get("orders").await?.status.map(|_| ()))
        })
        .await?;
        members.knows(&topology).await?;
        says(&api, "orders", &old, 3, DEADLINE).await?;

        topology.server_mut(0)?.kill()?;
        let successor = topology.only_writable(DEADLINE).await?;
        let new = topology.server(successor)?.address().clone();
        says(&api, "orders", &new, 3, KNOWN).await?;
        members.one_recovery(DEADLINE, &old, &new).await?;
        let other = topology.server(3 - successor)?;
        other.follows(&new, DEADLINE).await?;
        let document = api.get("orders").await?;
        let last = document.status.and_then(|status| status.last_recovery);
        let last = last.context("the status tells of no recovery")?;
        ensure!(
            last.old_primary == old.to_string() && last.successor == Some(new.to_string()),
            "it tells of {last:?}"
        );
        Ok(())
    })
    .await
}

/// Waits until a Service leads to these servers and nobody else.
async fn leads(client: &Client, namespace: &str, service: &str, to: &[&Address], limit: Duration) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let behind = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut wanted: Vec<String> = to.iter().map(ToString::to_string).collect();
    wanted.sort();
    until(limit, &format!("{service} to lead to {wanted:?}"), async || {
        let mut led: Vec<String> = Vec::new();
        for slice in slices.list(&behind).await? {
            let port = slice
                .ports
                .iter()
                .flatten()
                .find_map(|port| port.port)
                .unwrap_or_default();
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            led.extend(addresses.map(|address| format!("{address}:{port}")));
        }
        led.sort();
        ensure!(led == wanted, "it leads to {led:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the time is for a person who measures")]
async fn services_follow_a_failover() -> Result<()> {
    scenario_alone("kube-services", |run| async move {
        // No Service can lead to loopback, where the servers of the other tests are.
        let net = Net::create()?;
        let (server, mut topology) = backdrop(Topology::start_in(&run, &Shape::star(Flavour::MySql, 2), &net)).await?;
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let _members = members(&run, &topology, &server, &namespace).await?;
        let addresses = topology.addresses();
        let spec = json!({"recovery": {"mode": "Auto"}, "primaryService": {"replicasName": "orders-replicas"}});
        declare(&client, &namespace, "orders", &topology, spec).await?;
        let led = async |service: &str, to: &[&Address], limit| leads(&client, &namespace, service, to, limit).await;
        led("orders-primary", &[&addresses[0]], DEADLINE).await?;
        led("orders-replicas", &[&addresses[1], &addresses[2]], DEADLINE).await?;

        topology.server_mut(0)?.kill()?;
        let successor = topology.only_writable(DEADLINE).await?;
        let opened = std::time::Instant::now();
        led("orders-primary", &[&addresses[successor]], LED).await?;
        println!(
            "led to the new primary {} ms after it was seen to be writable",
            opened.elapsed().as_millis()
        );
        led("orders-replicas", &[&addresses[3 - successor]], DEADLINE).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_server_and_after_a_restart_of_all_members_the_document_still_decides() -> Result<()> {
    // A run for each cluster, as servers are numbered within a run. The first one has all slots for both.
    scenario_alone("kube-outage-auto", |run| {
        Box::pin(run::scenario("kube-outage-detect", |other| {
            Box::pin(outage(run, other))
        }))
    })
    .await
}

async fn outage(run: Arc<Run>, other: Arc<Run>) -> Result<()> {
    let shape = Shape::star(Flavour::MySql, 1);
    let both = async { tokio::try_join!(Topology::start(&run, &shape), Topology::start(&other, &shape)) };
    let (server, (mut repaired, mut watched)) = Box::pin(backdrop_with_own_server(both)).await?;
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let mut members = members(&run, &repaired, &server, &namespace).await?;
    let auto = json!({"recovery": {"mode": "Auto"}});
    let detect_only = json!({"recovery": {"mode": "DetectOnly"}});
    let api = declare(&client, &namespace, "repaired", &repaired, auto).await?;
    declare(&client, &namespace, "watched", &watched, detect_only).await?;
    let addresses = |topology: &Topology| -> Result<(Address, Address)> {
        Ok((
            topology.server(0)?.address().clone(),
            topology.server(1)?.address().clone(),
        ))
    };
    let (old, new) = addresses(&repaired)?;
    let (dead, replica) = addresses(&watched)?;
    says(&api, "repaired", &old, 2, DEADLINE).await?;
    says(&api, "watched", &dead, 2, DEADLINE).await?;

    server.stop_api_server();
    for member in &mut members.list {
        member.kill()?;
    }
    members.launch_all().await?;
    // They ask with the accounts that they remember: nobody tells them any.
    members.knows(&repaired).await?;
    members.knows(&watched).await?;
    repaired.server_mut(0)?.kill()?;
    watched.server_mut(0)?.kill()?;

    repaired.only_writable(DEADLINE).await?;
    until(DEADLINE, "DeadMaster to be shown and held back", async || {
        let found = findings(&members, &dead).await?;
        let wanted = found
            .iter()
            .any(|(code, held_back)| code == "DeadMaster" && held_back.contains("recovery mode is DetectOnly"));
        ensure!(wanted, "found is {found:?}");
        Ok(Some(()))
    })
    .await?;
    throughout(QUIET, async || {
        let left = watched.server(1)?;
        ensure!(left.is_read_only().await?, "{replica} was made writable");
        let status = left.replica_status().await?.context("its source was taken away")?;
        ensure!(
            status.source == dead.to_string() && status.sql_thread == "Yes" && status.io_thread != "No",
            "{replica} was touched: {status:?}"
        );
        Ok(())
    })
    .await?;
    members.one_recovery(DEADLINE, &old, &new).await?;

    server.start_api_server();
    says(&api, "repaired", &new, 2, CAUGHT_UP).await?;
    until(
        CAUGHT_UP,
        "the other document to say that nothing is done",
        async || {
            let document = api.get("watched").await?;
            let (ready, reason) = stands(&document, "Ready");
            let blocked = stands(&document, "RecoveryBlocked");
            ensure!(
                ready != "True" && reason == "PrimaryUnreachable" && primary(&document) == dead.to_string(),
                "{:?}",
                document.status
            );
            ensure!(
                blocked == ("True".to_owned(), "HeldBack".to_owned()),
                "{:?}",
                document.status
            );
            Ok(Some(()))
        },
    )
    .await?;
    says_no_password(&run, &members, &watched)
}

/// The passwords of the second cluster are secrets of another run than the one that the members log in.
fn says_no_password(run: &Run, members: &Members, topology: &Topology) -> Result<()> {
    for member in &members.list {
        let log = std::fs::read_to_string(run.log(member.name())).context("read a member's log")?;
        for account in [&topology.accounts.topology, &topology.accounts.replication] {
            ensure!(
                !log.contains(&account.password),
                "a password is in the log of {}",
                member.name()
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_deleted_while_no_leader_was_there_is_withdrawn_and_mysql_left_alone() -> Result<()> {
    scenario("kube-withdrawn", |run| async move {
        let (server, topology) = backdrop(Topology::start(&run, &Shape::star(Flavour::MySql, 2))).await?;
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let mut members = members(&run, &topology, &server, &namespace).await?;
        let addresses = topology.addresses();
        let entry = |index: usize| json!({"host": addresses[index].host, "port": addresses[index].port});
        let mut downtime = entry(1);
        downtime["owner"] = json!("tester");
        downtime["reason"] = json!("maintenance");
        downtime["indefinite"] = json!(true);
        let mut candidate = entry(2);
        candidate["promotionRule"] = json!("Prefer");
        let spec = json!({"recovery": {"mode": "Auto"}, "downtime": [downtime], "candidates": [candidate]});
        let api = declare(&client, &namespace, "orders", &topology, spec).await?;
        says(&api, "orders", &addresses[0], 3, DEADLINE).await?;
        ensure!(repairs_itself(&members, &addresses[0]).await?, "the document says Auto");
        let shown = asked(&members, "downtimed").await?;
        ensure!(
            key(&shown, "/0/Key") == addresses[1].to_string(),
            "in downtime are {shown}"
        );
        let rules = asked(&members, "bulk-promotion-rules").await?;
        ensure!(
            rules[0]["PromotionRule"] == json!("prefer"),
            "promotion rules are {rules}"
        );

        for member in &mut members.list {
            member.kill()?;
        }
        api.delete("orders", &DeleteParams::default()).await?;
        until(DEADLINE, "the document to be gone: it has no finalizer", async || {
            Ok(api.get_opt("orders").await?.is_none().then_some(()))
        })
        .await?;
        let executed = topology.server(0)?.executed().await?;
        members.launch_all().await?;
        members.healthy(&[0, 1, 2]).await?;
        until(DEADLINE, "what the document asked for to be withdrawn", async || {
            for path in ["downtimed", "bulk-promotion-rules"] {
                let left = asked(&members, path).await?;
                ensure!(left == json!([]), "{path}: {left}");
            }
            ensure!(
                !repairs_itself(&members, &addresses[0]).await?,
                "it would still be repaired"
            );
            Ok(Some(()))
        })
        .await?;

        throughout(QUIET, async || {
            ensure!(
                topology.only_writable(DEADLINE).await? == 0,
                "another server is writable"
            );
            for index in [1, 2] {
                let status = topology.server(index)?.replica_status().await?;
                ensure!(
                    status.as_ref().is_some_and(|status| status.follows(&addresses[0])),
                    "{} was touched: {status:?}",
                    addresses[index]
                );
            }
            let now = topology.server(0)?.executed().await?;
            ensure!(now == executed, "somebody wrote: '{executed}' became '{now}'");
            ensure!(members.recoveries().await?.is_empty(), "a recovery was begun");
            Ok(())
        })
        .await?;
        let row = format!("INSERT INTO {DATABASE}.sampled VALUES ('{}', 1)", addresses[0]);
        topology.server(0)?.run(&row).await?;
        topology.caught_up(0, DEADLINE).await
    })
    .await
}
