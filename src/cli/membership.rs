//! The members that the group should have: the list of the configuration, or the pods of a StatefulSet.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::adapter::kube::{self, ConfigMapMarker};
use crate::adapter::raft::WantedMember;
use crate::app::ports::BootstrapMarker;
use crate::config::Settings;
use crate::config::settings::{RaftSettings, StatefulSetSettings};

/// The identity of this member, and the members that the group should have.
pub(super) struct Membership {
    /// The name of this member in the group.
    pub(super) name: String,
    /// The members that found the group.
    pub(super) founders: Vec<WantedMember>,
    /// The members that the group should have now; empty while they are unknown.
    pub(super) wanted: watch::Receiver<Vec<WantedMember>>,
    /// The marker that the group was founded.
    pub(super) marker: Option<Arc<dyn BootstrapMarker>>,
}

/// The membership that the configuration describes.
pub(super) fn configured(
    settings: &Settings,
    raft: &RaftSettings,
    client: Option<&kube::Client>,
    stop: &CancellationToken,
) -> Membership {
    let (Some(set), Some(client)) = (&raft.stateful_set, client) else {
        let founders: Vec<WantedMember> = raft
            .nodes
            .iter()
            .map(|node| WantedMember {
                name: node.clone(),
                raft_address: node.clone(),
                http_uri: String::new(),
            })
            .collect();
        return Membership {
            name: raft.advertise.clone(),
            wanted: watch::channel(founders.clone()).1,
            founders,
            marker: None,
        };
    };
    let pods = Pods::new(settings, raft, set);
    let mut replicas = kube::wanted_replicas(client.clone(), &set.namespace, &set.name, stop.child_token());
    let now = *replicas.borrow_and_update();
    let (sender, wanted) = watch::channel(now.map(|count| pods.below(count)).unwrap_or_default());
    let founders = pods.below(set.replicas);
    let name = raft.advertise.split(['.', ':']).next().unwrap_or_default().to_owned();
    let stop = stop.child_token();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = replicas.changed() => if changed.is_err() { return },
            }
            let count = *replicas.borrow_and_update();
            sender.send_replace(count.map(|count| pods.below(count)).unwrap_or_default());
        }
    });
    let marker = ConfigMapMarker::new(client.clone(), set.namespace.clone(), set.name.clone());
    Membership {
        name,
        founders,
        wanted,
        marker: Some(Arc::new(marker)),
    }
}

/// The addresses of the pods of a StatefulSet.
struct Pods {
    name: String,
    domain: String,
    raft_port: String,
    http_port: String,
}

impl Pods {
    fn new(settings: &Settings, raft: &RaftSettings, set: &StatefulSetSettings) -> Self {
        let port = |address: &str| {
            address
                .rsplit_once(':')
                .map(|(_, port)| port.to_owned())
                .unwrap_or_default()
        };
        let domain = match set.cluster_domain.as_str() {
            "" => format!("{}.{}.svc", set.service_name, set.namespace),
            domain => format!("{}.{}.svc.{domain}", set.service_name, set.namespace),
        };
        Self {
            name: set.name.clone(),
            domain,
            raft_port: port(&raft.advertise),
            http_port: port(&settings.http.advertise),
        }
    }

    /// The pods with ordinals below `count`.
    fn below(&self, count: u32) -> Vec<WantedMember> {
        (0..count)
            .map(|ordinal| {
                let name = format!("{}-{ordinal}", self.name);
                let host = format!("{name}.{}", self.domain);
                WantedMember {
                    name,
                    raft_address: format!("{host}:{}", self.raft_port),
                    http_uri: format!("http://{host}:{}", self.http_port),
                }
            })
            .collect()
    }
}
