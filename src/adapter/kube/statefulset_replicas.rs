//! Watches `spec.replicas` of a StatefulSet, the wanted number of members.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, Client};
use kube_runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::supervision;

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
    let watched = what.clone();
    let watch_once = move || {
        let sender = sender.clone();
        list_and_watch(api.clone(), config.clone(), watched.clone(), move |change| {
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
        })
    };
    tokio::spawn(async move {
        let what = format!("the watch of {what}");
        tokio::select! {
            () = stop.cancelled() => {}
            () = supervision::keep_running(&what, &stop, watch_once) => {}
        }
    });
    receiver
}
