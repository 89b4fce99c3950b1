//! The `EndpointSlice`s behind a Service: which addresses stand in which, and who may write them.
//!
//! A slice holds addresses of one family behind one port, so a Service has one for each family that is needed, and for replicas one for
//! each port as well. Those of the primary are annotated with the epoch: what a leader of the same group wrote about the same cluster with
//! a higher one stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::app::ports::cluster_source::{LeadsTo, Observer, Publication, PublishError};
use crate::domain::declared::{Lead, Role, WantedService};

use super::services::{Failed, PORT_NAME, ServiceClient};

/// The Service that a slice is behind, as kube-proxy reads it.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Whose slice it is: controllers leave those of others alone.
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "ham4db.io";
/// The group that wrote it.
const OBSERVER: &str = "ham4db.io/observer";
/// Which cluster the epoch counts for.
const CLUSTER: &str = "ham4db.io/cluster-id";
/// The epoch with which it was written.
const EPOCH: &str = "ham4db.io/epoch";
/// Addresses of one slice, as the API server bounds it.
const MAX_ENDPOINTS: usize = 1000;

/// The Service that a slice is behind.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.meta().labels.as_ref()?.get(SERVICE_LABEL).map(String::as_str)
}

/// Where these slices lead; `None` without any.
fn led(slices: &[&EndpointSlice]) -> LeadsTo {
    let all = slices.iter().flat_map(|slice| addresses(slice)).collect();
    (!slices.is_empty()).then_some(all)
}

fn addresses(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let port = slice
        .ports
        .iter()
        .flatten()
        .find_map(|port| u16::try_from(port.port?).ok());
    let ips = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    ips.filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, port?)))
        .collect()
}

/// Who wrote a slice, about which cluster, with which epoch.
fn mark<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    slice.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// Why a slice may not be written: a later leader did.
fn superseded(slice: &EndpointSlice, publication: &Publication, observer: &Observer) -> Option<String> {
    let cluster = publication.cluster.as_ref()?;
    let is_of_it = mark(slice, OBSERVER) == Some(observer.cluster_uuid.as_str())
        && mark(slice, CLUSTER) == Some(cluster.0.as_str());
    let epoch: u64 = mark(slice, EPOCH)?.parse().ok()?;
    (is_of_it && epoch > publication.epoch).then(|| {
        format!(
            "EndpointSlice {} was written with epoch {epoch}, and this is {}",
            slice.name_any(),
            publication.epoch
        )
    })
}

/// Leads a Service where it must; answers where it leads then. `present` are its slices.
pub(super) async fn lead(
    service_client: &ServiceClient<'_>,
    wanted: &WantedService,
    present: &[&EndpointSlice],
    publication: &Publication,
    observer: &Observer,
) -> Result<LeadsTo, Failed> {
    let (Lead::To(to), Some(cluster)) = (&wanted.lead, &publication.cluster) else {
        return Ok(led(present));
    };
    if let Some(why) = present
        .iter()
        .find_map(|slice| superseded(slice, publication, observer))
    {
        return Err(Failed::For(PublishError::Superseded(why)));
    }
    let mut slices = needed(wanted, to);
    // A slice without addresses keeps the epoch of the withdrawal; without any slice there is nothing to withdraw.
    if slices.is_empty() {
        let kept = present.iter().map(|slice| (slice.name_any(), BTreeSet::new()));
        slices.extend(kept);
    }
    // First those that lead elsewhere: better nobody for a moment than two primaries.
    for slice in present.iter().filter(|slice| !slices.contains_key(&slice.name_any())) {
        service_client.remove(&service_client.slices, slice).await?;
    }
    let marks = json!({
        OBSERVER: observer.cluster_uuid, CLUSTER: cluster.0, EPOCH: publication.epoch.to_string(),
    });
    for (name, addresses) in &slices {
        let there = present.iter().find(|slice| slice.name_any() == *name).copied();
        let is_there = there.is_some_and(|slice| {
            super::slices::addresses(slice) == *addresses
                && mark(slice, EPOCH) == Some(publication.epoch.to_string().as_str())
                && mark(slice, OBSERVER) == Some(observer.cluster_uuid.as_str())
                && mark(slice, CLUSTER) == Some(cluster.0.as_str())
        });
        if is_there {
            continue;
        }
        let labels = json!({SERVICE_LABEL: wanted.name, MANAGER_LABEL: MANAGER});
        let endpoints: Vec<_> = addresses
            .iter()
            .take(MAX_ENDPOINTS)
            .map(|at| json!({"addresses": [at.ip().to_string()], "conditions": {"ready": true}}))
            .collect();
        let mut body = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": service_client.metadata(name, wanted.role, &labels, &marks),
            "endpoints": endpoints,
        });
        if let (Some(first), Some(body)) = (addresses.first(), body.as_object_mut()) {
            let port = json!({"name": PORT_NAME, "port": first.port(), "protocol": "TCP"});
            body.insert("addressType".to_owned(), json!(family(first.ip())));
            body.insert("ports".to_owned(), json!([port]));
        }
        service_client.put(&service_client.slices, name, body, there).await?;
    }
    Ok((!slices.is_empty()).then(|| to.clone()))
}

/// The slices that are needed for these addresses, by name.
fn needed(wanted: &WantedService, to: &BTreeSet<SocketAddr>) -> BTreeMap<String, BTreeSet<SocketAddr>> {
    let mut slices: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for at in to {
        let family = family(at.ip()).to_ascii_lowercase();
        // The primary is one: its slice stays when its port changes, so that a change of the primary is one write.
        let name = if wanted.role == Role::Primary {
            format!("{}-{family}", wanted.name)
        } else {
            format!("{}-{family}-{}", wanted.name, at.port())
        };
        slices.entry(name).or_default().insert(*at);
    }
    slices
}

/// The family of an address, as a slice names it.
fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
