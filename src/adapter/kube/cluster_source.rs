//! The port [`ClusterSource`]: watches the `MySQLCluster` resources and each Secret that they name, and writes statuses.

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

use crate::app::ports::cluster_source::{ClusterSource, DocumentSet, StatusError};
use crate::app::ports::publisher::Publisher;
use crate::app::ports::{Credentials, CredentialsByOrigin};
use crate::domain::declared::{
    ClusterEvent, Definition, LabelError, Observer, PodLabel, Publication, PublishError, PublishedAddresses,
    SourceContents, StatusModel,
};
use crate::domain::intent::Origin;
use crate::resource::MySQLCluster;

use super::definition::{self, ServedDefinition};
use super::list_watch::list_and_watch;
use super::pods::{self, PodWatches};
use super::watch_cache::{SecretKey, WatchCache, WatchEvent};
use super::{events, services, status};

/// Capacity of the queue of events.
const QUEUE: usize = 1024;

/// The namespaces that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces; needs a `ClusterRole`.
    AllNamespaces,
    /// These namespaces; needs a Role in each.
    Namespaces(BTreeSet<String>),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllNamespaces => f.write_str("MySQLClusters of all namespaces"),
            Self::Namespaces(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(f, "MySQLClusters of the namespaces {} only", names.join(", "))
            }
        }
    }
}

/// The `MySQLCluster` resources of an API server.
pub struct KubeSource {
    client: Client,
    scope: Scope,
    pod_watches: PodWatches,
    documents: watch::Sender<DocumentSet>,
    credentials: watch::Sender<CredentialsByOrigin>,
    /// The schema that the API server applies to statuses; `None` until it was read.
    schema: watch::Sender<Option<Arc<Value>>>,
    /// Notified when a status was refused: the schema may have changed.
    status_refused: Arc<Notify>,
}

impl KubeSource {
    /// Creates a source without contents. [`Self::run`] reads them.
    pub fn new(client: Client, scope: Scope) -> Arc<Self> {
        Self::with(client, scope, PodWatches::default())
    }

    /// Creates a source that also watches pods and nodes, as `pod_watches` says.
    pub fn with(client: Client, scope: Scope, pod_watches: PodWatches) -> Arc<Self> {
        Arc::new(Self {
            client,
            scope,
            pod_watches,
            documents: watch::Sender::default(),
            credentials: watch::Sender::default(),
            schema: watch::Sender::default(),
            status_refused: Arc::default(),
        })
    }

    /// Watches the API server until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (sender, mut events) = mpsc::channel(QUEUE);
        let mut watches = JoinSet::new();
        let mut cache =
            WatchCache::new(self.document_apis().len()).with_pods_and_nodes(self.pod_watches, self.namespaces());
        self.watch_pods_and_nodes(&mut watches, &sender);
        let mut documents = self.watch_documents(&mut watches, &sender);
        let spec_changes = watch::Sender::new(cache.changes());
        watches.spawn(self.clone().watch_definition(spec_changes.subscribe(), sender.clone()));
        let mut secrets: BTreeMap<SecretKey, AbortHandle> = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
                Some(ended) = watches.join_next() => {
                    // Without one of its watches, the source would be silently incomplete: it starts again as a whole.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    continue;
                }
            };
            let Some(event) = event else { return };
            let before = cache.definition().clone();
            let mut warnings = cache.apply(event);
            while let Ok(event) = events.try_recv() {
                warnings.extend(cache.apply(event));
            }
            for warning in warnings {
                warn!("{warning}");
            }
            if *cache.definition() != before && before != Definition::NotReadYet {
                // A watch does not report fields that another definition adds or removes, so all resources are listed again.
                documents.iter().for_each(AbortHandle::abort);
                documents = self.watch_documents(&mut watches, &sender);
            }
            spec_changes
                .send_if_modified(|spec_changes| std::mem::replace(spec_changes, cache.changes()) != cache.changes());
            self.watch_secrets(&cache.secrets_wanted(), &mut secrets, &mut watches, &sender);
            self.publish(cache.contents(), cache.credentials());
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

    /// The namespaces of the scopes, in the order of [`Self::document_apis`]; `None` means all namespaces.
    fn namespaces(&self) -> Vec<Option<String>> {
        match &self.scope {
            Scope::AllNamespaces => vec![None],
            Scope::Namespaces(namespaces) => namespaces.iter().cloned().map(Some).collect(),
        }
    }

    fn watch_pods_and_nodes(&self, watches: &mut JoinSet<()>, sender: &mpsc::Sender<WatchEvent>) {
        if self.pod_watches.drains || self.pod_watches.role_labels {
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
                watches.spawn(forward_changes(api, config, what, tag, sender.clone()));
            }
        }
        if self.pod_watches.drains {
            let api: Api<Node> = Api::all(self.client.clone());
            let config = watcher::Config::default();
            watches.spawn(forward_changes(
                api,
                config,
                "nodes".to_owned(),
                |change| WatchEvent::Nodes(Box::new(change)),
                sender.clone(),
            ));
        }
    }

    fn watch_documents(&self, watches: &mut JoinSet<()>, sender: &mpsc::Sender<WatchEvent>) -> Vec<AbortHandle> {
        let scopes = self.document_apis().into_iter().enumerate();
        let start = |(number, (what, api))| {
            let tag = move |change| WatchEvent::Documents(number, change);
            watches.spawn(forward_changes(
                api,
                watcher::Config::default(),
                what,
                tag,
                sender.clone(),
            ))
        };
        scopes.map(start).collect()
    }

    async fn watch_definition(self: Arc<Self>, spec_changes: watch::Receiver<u64>, sender: mpsc::Sender<WatchEvent>) {
        let (reads, mut waiting) = mpsc::unbounded_channel();
        let forward = async {
            while let Some((number, seen)) = waiting.recv().await {
                let ServedDefinition { definition, schema } = seen;
                self.schema.send_replace(schema);
                if sender
                    .send(WatchEvent::DefinitionRead(number, definition))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        };
        let publish = |number, seen| reads.send((number, seen)).is_ok();
        tokio::select! {
            () = definition::watch_definition(self.client.clone(), spec_changes, self.status_refused.clone(), publish) => {}
            () = forward => {}
        }
    }

    fn watch_secrets(
        &self,
        wanted: &BTreeSet<SecretKey>,
        present: &mut BTreeMap<SecretKey, AbortHandle>,
        watches: &mut JoinSet<()>,
        sender: &mpsc::Sender<WatchEvent>,
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
            // Each Secret is watched by its name, so that a Role can be limited to it.
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
            let about = key.clone();
            let tag = move |change| WatchEvent::Secret(about.clone(), change);
            let handle = watches.spawn(forward_changes(
                api,
                config,
                format!("Secret {namespace}/{name}"),
                tag,
                sender.clone(),
            ));
            present.insert(key.clone(), handle);
        }
    }

    fn publish(&self, seen: SourceContents, credentials: BTreeMap<Origin, Credentials>) {
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

/// Lists and watches an API, and forwards each change as an event. Ends when the receiver is dropped.
async fn forward_changes<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    tag: impl Fn(super::list_watch::ObjectChange<K>) -> WatchEvent,
    sender: mpsc::Sender<WatchEvent>,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let (changes, mut waiting) = mpsc::unbounded_channel();
    let forward = async {
        while let Some(change) = waiting.recv().await {
            if sender.send(tag(change)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = list_and_watch(api, config, what, |change| changes.send(change).is_ok()) => {}
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
            self.status_refused.notify_one();
        }
        written
    }

    async fn record_event(&self, origin: &Origin, event: &ClusterEvent) -> Result<(), StatusError> {
        events::record(&self.client, origin, event).await
    }
}

#[async_trait]
impl Publisher for KubeSource {
    async fn publish(
        &self,
        origin: &Origin,
        publication: &Publication,
        observer: &Observer,
    ) -> Result<PublishedAddresses, PublishError> {
        services::publish(&self.client, origin, publication, observer).await
    }

    async fn label(&self, origin: &Origin, label: &PodLabel) -> Result<(), LabelError> {
        if self.pod_watches.role_labels {
            pods::label(&self.client, origin, label).await
        } else {
            Err(LabelError::Unsupported)
        }
    }
}
