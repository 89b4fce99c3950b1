//! Where `MySQLCluster` documents come from: the Kubernetes API, or a folder of manifests.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use tracing::info;

use crate::adapter::kube;
use crate::adapter::manifests::ManifestDirectory;
use crate::app::ports::cluster_source::ClusterSource;
use crate::app::ports::publisher::Publisher;
use crate::config::Settings;

use super::process::Process;

/// The source of the documents, and where the primaries of their clusters are published.
pub(super) struct Documents {
    pub(super) source: Arc<dyn ClusterSource>,
    pub(super) publisher: Arc<dyn Publisher>,
}

/// A client of the Kubernetes API, where the configuration needs one.
pub(super) async fn connect_kubernetes(settings: &Settings) -> anyhow::Result<Option<kube::Client>> {
    let needed = settings.kubernetes.enabled || settings.raft.as_ref().is_some_and(|raft| raft.stateful_set.is_some());
    if needed {
        Ok(Some(kube::connect().await.context("Kubernetes.Enabled")?))
    } else {
        Ok(None)
    }
}

/// Starts the source of the documents that the configuration names; `None` when it names none.
pub(super) async fn open_documents(
    process: &Process,
    client: Option<&kube::Client>,
) -> anyhow::Result<Option<Documents>> {
    let settings = &process.settings;
    match (&settings.manifests, client.filter(|_| settings.kubernetes.enabled)) {
        (Some(_), Some(_)) => {
            anyhow::bail!("documents have one source: set ManifestsDir (--manifests) or Kubernetes.Enabled, not both")
        }
        (None, None) => Ok(None),
        (Some(folder), None) => {
            let directory = ManifestDirectory::new(folder);
            directory.scan_once().await;
            let read = Arc::clone(&directory);
            process.keep_running("the reading of documents", move |stop| Arc::clone(&read).run(stop));
            info!("documents: folder {}", folder.display());
            Ok(Some(Documents {
                source: Arc::<ManifestDirectory>::clone(&directory),
                publisher: directory,
            }))
        }
        (None, Some(client)) => {
            let scope = scope(settings, client);
            info!("documents: {scope}");
            let follows = kube::PodWatches {
                drains: settings.kubernetes.drain,
                role_labels: settings.kubernetes.pod_role_labels,
            };
            let source = kube::KubeSource::with(client.clone(), scope, follows);
            let read = Arc::clone(&source);
            process.keep_running("the reading of documents", move |stop| Arc::clone(&read).run(stop));
            Ok(Some(Documents {
                source: Arc::<kube::KubeSource>::clone(&source),
                publisher: source,
            }))
        }
    }
}

/// The namespaces to watch: those of the configuration, or the one that this process runs in.
fn scope(settings: &Settings, client: &kube::Client) -> kube::Scope {
    let own = if settings.kubernetes.namespace.is_empty() {
        kube::own_namespace(client).to_owned()
    } else {
        settings.kubernetes.namespace.clone()
    };
    match settings.kubernetes.watch_namespaces.as_slice() {
        [] => kube::Scope::Namespaces(BTreeSet::from([own])),
        names if names.iter().any(|name| name == "*") => kube::Scope::AllNamespaces,
        names => kube::Scope::Namespaces(names.iter().cloned().collect()),
    }
}
