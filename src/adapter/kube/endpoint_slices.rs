//! Reconciles the `EndpointSlice`s of a Service.
//!
//! A slice has addresses of one family with one port. So a Service has one slice for each family that is needed, and a Service
//! for replicas one for each port too. Slices are annotated with the epoch. A slice that a leader of the same group wrote for the
//! same cluster with a higher epoch is not overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::domain::declared::{
    Observer, Publication, PublishError, PublishedAddresses, Role, ServiceTarget, WantedService,
};

use super::services::{AttemptError, PORT_NAME, ServiceClient};

/// Label: the Service of a slice, as kube-proxy reads it.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Label: the manager of a slice. Controllers do not change the slices of other managers.
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "ham4db.io";
/// Annotation: the uuid of the group that wrote the slice.
const OBSERVER: &str = "ham4db.io/observer";
/// Annotation: the id of the cluster that the epoch belongs to.
const CLUSTER: &str = "ham4db.io/cluster-id";
/// Annotation: the epoch with which the slice was written.
const EPOCH: &str = "ham4db.io/epoch";
/// Limit of the API server for the endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;

/// The name of the Service of a slice.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.meta().labels.as_ref()?.get(SERVICE_LABEL).map(String::as_str)
}

/// The addresses of these slices; `None` when there are no slices.
fn published_addresses(slices: &[&EndpointSlice]) -> PublishedAddresses {
    let all = slices.iter().flat_map(|slice| addresses_of(slice)).collect();
    (!slices.is_empty()).then_some(all)
}

/// The addresses of a slice, with its port.
fn addresses_of(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let port = slice
        .ports
        .iter()
        .flatten()
        .find_map(|port| u16::try_from(port.port?).ok());
    let ips = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    ips.filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, port?)))
        .collect()
}

/// An annotation of a slice.
fn annotation<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    slice.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// The reason why a slice must not be written: a later leader wrote it.
fn superseded(slice: &EndpointSlice, publication: &Publication, observer: &Observer) -> Option<String> {
    let cluster = publication.cluster.as_ref()?;
    let is_of_it = annotation(slice, OBSERVER) == Some(observer.cluster_uuid.as_str())
        && annotation(slice, CLUSTER) == Some(cluster.0.as_str());
    let epoch: u64 = annotation(slice, EPOCH)?.parse().ok()?;
    (is_of_it && epoch > publication.epoch).then(|| {
        format!(
            "EndpointSlice {} was written with epoch {epoch}, a later one than {}",
            slice.name_any(),
            publication.epoch
        )
    })
}

/// Creates, updates and deletes the slices of a Service, and returns the resulting addresses. `present` are its existing slices.
///
/// # Errors
/// When a later leader wrote a slice, or a request fails.
pub(super) async fn reconcile(
    service_client: &ServiceClient<'_>,
    wanted: &WantedService,
    present: &[&EndpointSlice],
    publication: &Publication,
    observer: &Observer,
) -> Result<PublishedAddresses, AttemptError> {
    let (ServiceTarget::Addresses(to), Some(cluster)) = (&wanted.target, &publication.cluster) else {
        return Ok(published_addresses(present));
    };
    if let Some(why) = present
        .iter()
        .find_map(|slice| superseded(slice, publication, observer))
    {
        return Err(AttemptError::Other(PublishError::Superseded(why)));
    }
    let mut slices = needed(wanted, to);
    // An empty slice stores the epoch of the withdrawal. Without slices there is nothing to withdraw.
    if slices.is_empty() {
        let kept = present.iter().map(|slice| (slice.name_any(), BTreeSet::new()));
        slices.extend(kept);
    }
    // First the slices with other addresses are deleted: a short time without an address is better than two primaries.
    for slice in present.iter().filter(|slice| !slices.contains_key(&slice.name_any())) {
        service_client.remove(&service_client.slices, slice).await?;
    }
    let annotations = json!({
        OBSERVER: observer.cluster_uuid, CLUSTER: cluster.0, EPOCH: publication.epoch.to_string(),
    });
    for (name, addresses) in &slices {
        let there = present.iter().find(|slice| slice.name_any() == *name).copied();
        let is_there = there.is_some_and(|slice| {
            addresses_of(slice) == *addresses
                && annotation(slice, EPOCH) == Some(publication.epoch.to_string().as_str())
                && annotation(slice, OBSERVER) == Some(observer.cluster_uuid.as_str())
                && annotation(slice, CLUSTER) == Some(cluster.0.as_str())
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
            "metadata": service_client.metadata(name, wanted.role, &labels, &annotations),
            "endpoints": endpoints,
        });
        if let (Some(first), Some(body)) = (addresses.first(), body.as_object_mut()) {
            let port = json!({"name": PORT_NAME, "port": first.port(), "protocol": "TCP"});
            body.insert("addressType".to_owned(), json!(address_type(first.ip())));
            body.insert("ports".to_owned(), json!([port]));
        }
        service_client.put(&service_client.slices, name, body, there).await?;
    }
    Ok((!slices.is_empty()).then(|| to.clone()))
}

/// The slices for these addresses, by name.
fn needed(wanted: &WantedService, to: &BTreeSet<SocketAddr>) -> BTreeMap<String, BTreeSet<SocketAddr>> {
    let mut slices: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for at in to {
        let family = address_type(at.ip()).to_ascii_lowercase();
        // The name of the primary's slice is independent of the port, so that a change of the primary is one write.
        let name = if wanted.role == Role::Primary {
            format!("{}-{family}", wanted.name)
        } else {
            format!("{}-{family}-{}", wanted.name, at.port())
        };
        slices.entry(name).or_default().insert(*at);
    }
    slices
}

/// The `addressType` of a slice for an address.
fn address_type(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
