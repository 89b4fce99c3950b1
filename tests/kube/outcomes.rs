//! Documents that do not say what their writers mean: real members as the release's account, and real servers.

use anyhow::{Context as _, Result, anyhow, ensure};
use ham4db::adapter::kube::Client;
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::failover::{DEADLINE, backdrop, members_as, members_with, repairs_itself, says, stands};
use super::kit::replication::Flavour;
use super::kit::schedule::scenario;
use super::kit::sql::Address;
use super::kit::topology::{Shape, Topology};
use super::kit::wait::until;
use super::release::{NAMESPACE, Release, SECRET};
use super::server::{create, namespace};

fn seeds(addresses: &[&Address]) -> Value {
    let seeds = addresses.iter().map(|at| json!({"host": at.host, "port": at.port}));
    seeds.collect()
}

/// Creates a document with these seeds, and its Secret where it is not there.
async fn declare(release: &Release, namespace: &str, name: &str, mode: &str, at: &[&Address]) -> Api<MySQLCluster> {
    declare_with(&release.client, namespace, name, mode, at, SECRET).await
}

async fn declare_with(
    client: &Client,
    namespace: &str,
    name: &str,
    mode: &str,
    at: &[&Address],
    secret: &str,
) -> Api<MySQLCluster> {
    let spec = json!({"seeds": seeds(at), "credentialsSecretRef": {"name": secret}, "recovery": {"mode": mode}});
    create(client, namespace, name, &spec).await
}

async fn account(release: &Release, namespace: &str, topology: &Topology) -> Result<()> {
    let account = &topology.accounts.topology;
    store_account(&release.client, namespace, SECRET, &account.user, &account.password).await
}

async fn store_account(client: &Client, namespace: &str, name: &str, user: &str, password: &str) -> Result<()> {
    let secret = json!({"metadata": {"name": name}, "stringData": {"user": user, "password": password}});
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    secrets
        .create(&PostParams::default(), &serde_json::from_value(secret)?)
        .await?;
    Ok(())
}

/// Waits until a document says that its seeds are wrong in this way, and that a person has to do something; answers the message.
async fn complains(api: &Api<MySQLCluster>, name: &str, reason: &str) -> Result<String> {
    until(DEADLINE, &format!("{name} to say {reason}"), async || {
        let document = api.get(name).await?;
        let wanted = |status: &str| (status.to_owned(), reason.to_owned());
        ensure!(
            stands(&document, "Discovered") == wanted("False")
                && stands(&document, "Ready") == wanted("False")
                && stands(&document, "Stalled") == wanted("True"),
            "{:?}",
            document.status
        );
        let conditions = document.status.map(|status| status.conditions).unwrap_or_default();
        let discovered = conditions.into_iter().find(|condition| condition.type_ == "Discovered");
        Ok(discovered.map(|condition| condition.message))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_of_two_documents_counts_and_each_says_what_is_wrong_with_it() -> Result<()> {
    scenario("kube-outcomes", |run| async move {
        let shape = Shape::asynchronous(Flavour::MySql, 1);
        let (server, topologies) = backdrop(Topology::start_fleet(&run, &shape, 2)).await?;
        let [ours, theirs]: [Topology; 2] = topologies
            .try_into()
            .map_err(|_| anyhow!("there are not two topologies"))?;
        let release = Release::on(server).await;
        let members = members_as(&run, &ours, &release.kubeconfig, NAMESPACE, &json!({})).await?;
        account(&release, NAMESPACE, &ours).await?;
        let (primary, replica) = (ours.server(0)?.address(), ours.server(1)?.address());
        let (another, its_replica) = (theirs.server(0)?.address(), theirs.server(1)?.address());

        // In a namespace that nobody watches.
        let elsewhere = namespace(&release.client).await;
        account(&release, &elsewhere, &ours).await?;
        let unwatched = declare(&release, &elsewhere, "unwatched", "Auto", &[its_replica]).await;

        // Two for one cluster. Times of creation are whole seconds; of the same second the first by its name is older.
        let api = declare(&release, NAMESPACE, "elder", "Auto", &[primary]).await;
        says(&api, "elder", primary, 2, DEADLINE).await?;
        declare(&release, NAMESPACE, "younger", "DetectOnly", &[replica]).await;
        let message = complains(&api, "younger", "OwnedByAnotherDocument").await?;
        ensure!(message.contains("cr:ham4db/elder"), "it says {message}");
        ensure!(repairs_itself(&members, primary).await?, "the older one says Auto");

        // A cluster of its own, and a seed in the other.
        declare(&release, NAMESPACE, "stranger", "Auto", &[another, replica]).await;
        let message = complains(&api, "stranger", "SeedBelongsToAnother").await?;
        ensure!(
            message.contains(&replica.to_string()) && message.contains("cr:ham4db/elder"),
            "it says {message}"
        );
        api.delete("stranger", &DeleteParams::default()).await?;

        // Seeds of two topologies in one.
        let both = json!({"spec": {"seeds": seeds(&[primary, another])}});
        api.patch("elder", &PatchParams::default(), &Patch::Merge(&both))
            .await?;
        let message = complains(&api, "elder", "SeveralTopologies").await?;
        ensure!(message.contains(&another.to_string()), "it says {message}");
        let one = json!({"spec": {"seeds": seeds(&[primary])}});
        api.patch("elder", &PatchParams::default(), &Patch::Merge(&one)).await?;
        says(&api, "elder", primary, 2, DEADLINE).await?;

        // The older one goes.
        api.delete("elder", &DeleteParams::default()).await?;
        says(&api, "younger", primary, 2, DEADLINE).await?;
        ensure!(
            !repairs_itself(&members, primary).await?,
            "the younger one says DetectOnly"
        );

        let left = unwatched.get("unwatched").await?;
        ensure!(left.status.is_none(), "somebody wrote {:?}", left.status);
        let mut said_where = 0;
        for member in &members.list {
            let log = std::fs::read_to_string(run.log(member.name())).context("read a member's log")?;
            ensure!(!log.contains("forbidden"), "{} lacks a right: {log}", member.name());
            ensure!(!log.contains(&elsewhere), "{} looked at {elsewhere}", member.name());
            said_where += usize::from(log.contains("MySQLClusters of the namespaces ham4db only"));
        }
        ensure!(
            said_where == members.list.len(),
            "not everybody says which namespaces are watched"
        );
        ensure!(members.recoveries().await?.is_empty(), "a recovery was begun");
        for topology in [&ours, &theirs] {
            ensure!(
                topology.only_writable(DEADLINE).await? == 0,
                "another server is writable"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_with_a_wrong_password_takes_nothing_from_the_owner_of_the_servers() -> Result<()> {
    scenario("kube-intruder", |run| async move {
        let shape = Shape::asynchronous(Flavour::MySql, 2);
        let (server, mut topology) = backdrop(Topology::start(&run, &shape)).await?;
        let client = server.client().await;
        let namespace = namespace(&client).await;
        let members = members_with(&run, &topology, &server, &namespace, &json!({})).await?;
        let account = &topology.accounts.topology;
        store_account(&client, &namespace, SECRET, &account.user, &account.password).await?;
        store_account(&client, &namespace, "wrong", "ham4db", "not the password").await?;
        let all = [0, 1, 2].map(|index| topology.server(index).map(|server| server.address().clone()));
        let [primary, second, third] = all;
        let (primary, second, third) = (primary?, second?, third?);
        let seeds = [&primary, &second, &third];

        // An older one with a name that comes first: its account never logs in, so it owns nothing.
        declare_with(&client, &namespace, "aaa", "Off", &seeds, "wrong").await;
        let api = declare_with(&client, &namespace, "orders", "Auto", &[&primary], SECRET).await;
        says(&api, "orders", &primary, 3, DEADLINE).await?;
        complains(&api, "aaa", "OwnedByAnotherDocument").await?;
        // And a younger one.
        declare_with(&client, &namespace, "zzz", "Off", &seeds, "wrong").await;
        let message = complains(&api, "zzz", "OwnedByAnotherDocument").await?;
        ensure!(message.contains(&format!("cr:{namespace}/orders")), "it says {message}");
        ensure!(repairs_itself(&members, &primary).await?, "the owner says Auto");

        topology.server_mut(0)?.kill()?;
        let successor = until(DEADLINE, "another primary in the owner's status", async || {
            let status = api.get("orders").await?.status.unwrap_or_default();
            let host = status
                .primary
                .map(|at| (at.host, u16::try_from(at.port).unwrap_or_default()));
            Ok(host.filter(|(host, port)| (host, port) != (&primary.host, &primary.port)))
        })
        .await?;
        ensure!(
            [&second, &third]
                .iter()
                .any(|at| (&at.host, &at.port) == (&successor.0, &successor.1)),
            "{successor:?} was promoted"
        );
        ensure!(members.recoveries().await?.len() == 1, "not one recovery");
        Ok(())
    })
    .await
}
