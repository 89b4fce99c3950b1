//! Watches `spec.replicas` of a StatefulSet, the wanted number of members.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, Client};
use kube_runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::list_watch::{ObjectChange, list_and_watch};

/// Watches `spec.replicas` of a StatefulSet until `stop`. The value is `None` until it was read. Afterwards it is the last known
/// number, also while the API server does not answer and after the StatefulSet was deleted: members are removed on request only.
pub fn wanted_replicas(
    client: Client,
    namespace: &str,
    statefulset: &str,
    stop: CancellationToken,
) -> watch::Receiver<Option<u32>> {
    let (sender, receiver) = watch::channel(None);
    let api: Api<StatefulSet> = Api::namespaced(client, namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={statefulset}"));
    let what = format!("StatefulSet {namespace}/{statefulset}");
    tokio::spawn(async move {
        let watching = list_and_watch(api, config, what, |change| {
            let set = match change {
                ObjectChange::Listed(mut sets) => sets.pop(),
                ObjectChange::Applied(set) => Some(set),
                ObjectChange::Deleted(_) | ObjectChange::Broken(_) => None,
            };
            if let Some(set) = set {
                // The default of the API server is 1.
                let replicas = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let replicas = u32::try_from(replicas).unwrap_or(0);
                sender.send_if_modified(|present| present.replace(replicas) != Some(replicas));
            }
            !sender.is_closed()
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    });
    receiver
}
