//! The source of documents: watches the resources, watches the Secrets that they name one by one, writes statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use kube_runtime::watcher;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::app::ports::cluster_source::{
    ClusterEvent, ClusterSource, DocumentSet, LabelError, LeadsTo, Observer, PodLabel, Publication, PublishError, Seen,
    StatusError, StatusModel,
};
use crate::app::ports::{Credentials, CredentialsByOrigin};
use crate::domain::declared::Definition;
use crate::domain::intent::Origin;
use crate::resource::MySQLCluster;

use super::definition::{self, Served};
use super::follow::follow;
use super::model::{Model, SecretKey, WatchEvent};
use super::pods::{self, Follows};
use super::{events, services, status};

/// Events that may wait to be taken in.
const QUEUE: usize = 1024;

/// Which namespaces are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them; needs a `ClusterRole`.
    AllNamespaces,
    /// These; needs a Role in each.
    Namespaces(BTreeSet<String>),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllNamespaces => f.write_str("MySQLClusters of all namespaces"),
            Self::Namespaces(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(
                    f,
                    "MySQLClusters of the namespaces {}, and of no other",
                    names.join(", ")
                )
            }
        }
    }
}

/// The documents of an API server.
pub struct KubeSource {
    client: Client,
    scope: Scope,
    follows: Follows,
    documents: watch::Sender<DocumentSet>,
    credentials: watch::Sender<CredentialsByOrigin>,
    /// The schema by which statuses are served; `None` while it was never read.
    schema: watch::Sender<Option<Arc<Value>>>,
    /// A status was refused: the schema may be another one by now.
    refused: Arc<Notify>,
}

impl KubeSource {
    /// A source that was not read yet. [`Self::run`] reads it.
    pub fn new(client: Client, scope: Scope) -> Arc<Self> {
        Self::with(client, scope, Follows::default())
    }

    /// The same, which also watches what servers run in.
    pub fn with(client: Client, scope: Scope, follows: Follows) -> Arc<Self> {
        Arc::new(Self {
            client,
            scope,
            follows,
            documents: watch::Sender::default(),
            credentials: watch::Sender::default(),
            schema: watch::Sender::default(),
            refused: Arc::default(),
        })
    }

    /// Follows the API server until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (happened, mut events) = mpsc::channel(QUEUE);
        let mut watches = JoinSet::new();
        let mut model = Model::new(self.document_apis().len()).following(self.follows, self.namespaces());
        self.follow_pods_and_nodes(&mut watches, &happened);
        let mut documents = self.follow_documents(&mut watches, &happened);
        let asked = watch::Sender::new(model.changes());
        watches.spawn(self.clone().follow_definition(asked.subscribe(), happened.clone()));
        let mut secrets: BTreeMap<SecretKey, AbortHandle> = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            let Some(event) = event else { return };
            let before = model.definition().clone();
            let mut warnings = model.absorb(event);
            while let Ok(event) = events.try_recv() {
                warnings.extend(model.absorb(event));
            }
            for warning in warnings {
                warn!("{warning}");
            }
            if *model.definition() != before && before != Definition::NotReadYet {
                // Watches tell nothing of what a definition shows or hides: all are listed anew.
                documents.iter().for_each(AbortHandle::abort);
                documents = self.follow_documents(&mut watches, &happened);
            }
            asked.send_if_modified(|asked| std::mem::replace(asked, model.changes()) != model.changes());
            self.follow_secrets(&model.secrets_wanted(), &mut secrets, &mut watches, &happened);
            self.publish(model.seen(), model.credentials());
        }
    }

    fn document_apis(&self) -> Vec<(String, Api<DynamicObject>)> {
        let resource = ApiResource::erase::<MySQLCluster>(&());
        match &self.scope {
            Scope::AllNamespaces => vec![(
                "MySQLCluster in all namespaces".to_owned(),
                Api::all_with(self.client.clone(), &resource),
            )],
            Scope::Namespaces(namespaces) => namespaces
                .iter()
                .map(|namespace| {
                    (
                        format!("MySQLCluster in namespace {namespace}"),
                        Api::namespaced_with(self.client.clone(), namespace, &resource),
                    )
                })
                .collect(),
        }
    }

    /// The namespaces of the scopes, in the order of [`Self::document_apis`]; `None` is all of them.
    fn namespaces(&self) -> Vec<Option<String>> {
        match &self.scope {
            Scope::AllNamespaces => vec![None],
            Scope::Namespaces(namespaces) => namespaces.iter().cloned().map(Some).collect(),
        }
    }

    fn follow_pods_and_nodes(&self, watches: &mut JoinSet<()>, happened: &mpsc::Sender<WatchEvent>) {
        if self.follows.drains || self.follows.role_labels {
            for (number, namespace) in self.namespaces().into_iter().enumerate() {
                let api: Api<Pod> = match &namespace {
                    None => Api::all(self.client.clone()),
                    Some(namespace) => Api::namespaced(self.client.clone(), namespace),
                };
                let what = namespace.map_or_else(
                    || "pods in all namespaces".to_owned(),
                    |namespace| format!("pods in namespace {namespace}"),
                );
                let config = watcher::Config::default().fields(pods::RUNNING);
                let tag = move |change| WatchEvent::Pods(number, Box::new(change));
                watches.spawn(relay(api, config, what, tag, happened.clone()));
            }
        }
        if self.follows.drains {
            let api: Api<Node> = Api::all(self.client.clone());
            let config = watcher::Config::default();
            watches.spawn(relay(
                api,
                config,
                "nodes".to_owned(),
                |change| WatchEvent::Nodes(Box::new(change)),
                happened.clone(),
            ));
        }
    }

    fn follow_documents(&self, watches: &mut JoinSet<()>, happened: &mpsc::Sender<WatchEvent>) -> Vec<AbortHandle> {
        let scopes = self.document_apis().into_iter().enumerate();
        let follow = |(number, (what, api))| {
            let tag = move |change| WatchEvent::Documents(number, change);
            watches.spawn(relay(api, watcher::Config::default(), what, tag, happened.clone()))
        };
        scopes.map(follow).collect()
    }

    async fn follow_definition(self: Arc<Self>, asked: watch::Receiver<u64>, happened: mpsc::Sender<WatchEvent>) {
        let (looks, mut waiting) = mpsc::unbounded_channel();
        let forward = async {
            while let Some((number, seen)) = waiting.recv().await {
                let Served { definition, schema } = seen;
                self.schema.send_replace(schema);
                if happened.send(WatchEvent::Looked(number, definition)).await.is_err() {
                    return;
                }
            }
        };
        let tell = |number, seen| looks.send((number, seen)).is_ok();
        tokio::select! {
            () = definition::follow(self.client.clone(), asked, self.refused.clone(), tell) => {}
            () = forward => {}
        }
    }

    fn follow_secrets(
        &self,
        wanted: &BTreeSet<SecretKey>,
        present: &mut BTreeMap<SecretKey, AbortHandle>,
        watches: &mut JoinSet<()>,
        happened: &mpsc::Sender<WatchEvent>,
    ) {
        present.retain(|key, handle| {
            let keep = wanted.contains(key);
            if !keep {
                handle.abort();
            }
            keep
        });
        while watches.try_join_next().is_some() {}
        for key in wanted {
            if present.contains_key(key) {
                continue;
            }
            let (namespace, name) = key;
            // By its name alone: a Role can then name it, and no other Secret is ever asked for.
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
            let about = key.clone();
            let tag = move |change| WatchEvent::Secret(about.clone(), change);
            let handle = watches.spawn(relay(
                api,
                config,
                format!("Secret {namespace}/{name}"),
                tag,
                happened.clone(),
            ));
            present.insert(key.clone(), handle);
        }
    }

    fn publish(&self, seen: Seen, credentials: BTreeMap<Origin, Credentials>) {
        self.credentials.send_if_modified(|present| {
            let same = present.len() == credentials.len()
                && present
                    .iter()
                    .all(|(origin, ours)| credentials.get(origin).is_some_and(|theirs| theirs.is_same(ours)));
            if !same {
                *present = Arc::new(credentials);
            }
            !same
        });
        self.documents.send_if_modified(|present| {
            let changed = **present != seen;
            if changed {
                *present = Arc::new(seen);
            }
            changed
        });
    }
}

/// Follows an API and sends what happens; ends with its receiver.
async fn relay<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    tag: impl Fn(super::follow::Change<K>) -> WatchEvent,
    happened: mpsc::Sender<WatchEvent>,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let (changes, mut waiting) = mpsc::unbounded_channel();
    let forward = async {
        while let Some(change) = waiting.recv().await {
            if happened.send(tag(change)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = follow(api, config, what, |change| changes.send(change).is_ok()) => {}
        () = forward => {}
    }
}

#[async_trait]
impl ClusterSource for KubeSource {
    fn documents(&self) -> watch::Receiver<DocumentSet> {
        self.documents.subscribe()
    }

    fn credentials(&self) -> watch::Receiver<CredentialsByOrigin> {
        self.credentials.subscribe()
    }

    async fn write_status(
        &self,
        origin: &Origin,
        status: &StatusModel,
        observer: &Observer,
    ) -> Result<(), StatusError> {
        let schema = self.schema.borrow().clone();
        let written = status::write(&self.client, origin, status, observer, schema.as_deref()).await;
        if let Err(StatusError::Failed { .. }) = &written {
            self.refused.notify_one();
        }
        written
    }

    async fn tell(&self, origin: &Origin, notice: &ClusterEvent) -> Result<(), StatusError> {
        events::tell(&self.client, origin, notice).await
    }

    async fn publish(
        &self,
        origin: &Origin,
        publication: &Publication,
        observer: &Observer,
    ) -> Result<LeadsTo, PublishError> {
        services::publish(&self.client, origin, publication, observer).await
    }

    async fn label(&self, origin: &Origin, label: &PodLabel) -> Result<(), LabelError> {
        if self.follows.role_labels {
            pods::label(&self.client, origin, label).await
        } else {
            Err(LabelError::Unsupported)
        }
    }
}
