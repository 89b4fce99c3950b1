//! How many members a StatefulSet wants.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, Client};
use kube_runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::follow::{Change, follow};

/// `spec.replicas` of a StatefulSet, followed until `stop`. `None` until it was read; afterwards the last known number, also while
/// the API server is away or the StatefulSet is gone: membership shrinks by somebody's wish, never by an absence.
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
        let following = follow(api, config, what, |change| {
            let set = match change {
                Change::Listed(mut sets) => sets.pop(),
                Change::Applied(set) => Some(set),
                Change::Deleted(_) | Change::Broken(_) => None,
            };
            if let Some(set) = set {
                // The API server fills in 1 where a manifest says nothing.
                let replicas = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let replicas = u32::try_from(replicas).unwrap_or(0);
                sender.send_if_modified(|present| present.replace(replicas) != Some(replicas));
            }
            !sender.is_closed()
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = following => {}
        }
    });
    receiver
}
