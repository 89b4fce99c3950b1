//! Where applications connect: the servers behind the Services of a document.
//!
//! A projection, never a source of truth. A server that does not answer is not withdrawn: ham4db may not see a primary
//! that applications reach. A primary is withdrawn only on proof that it is no longer the primary: the committed
//! opening of another one, or its own report that it is read-only while it is being replaced.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::instance::{Identity, Instance};
use crate::domain::state::{Cluster, Epoch, Phase, Recovery, State};
use crate::domain::topology::ClusterId;

use super::ClusterView;
use super::document::DeclaredCluster;
use super::reason::Reason;
use super::status::{Condition, ConditionKind, ConditionStatus, InstanceStatus, Role, StatusModel};

/// The Services that a document asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredServices {
    /// Name of the Service for the primary.
    pub primary: String,
    /// Port of both Services; the servers may listen on other ports.
    pub port: u16,
    /// Name of the Service for healthy replicas; `None` when there is none.
    #[serde(default)]
    pub replicas: Option<String>,
}

/// The endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTarget {
    /// The present endpoints stay: nothing better is known.
    Unchanged,
    /// These addresses, which may be none.
    Addresses(BTreeSet<SocketAddr>),
}

/// One Service in its desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedService {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Role of its servers: [`Role::Primary`] or [`Role::Replica`].
    pub role: Role,
    /// Its endpoints.
    pub target: ServiceTarget,
}

/// All Services of a document in their desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Uid of the document, which owns the Services: they are deleted with it.
    pub uid: String,
    /// The cluster of the document; `None` while none was seen.
    pub cluster: Option<ClusterId>,
    /// The epoch of that cluster. Endpoints that were published for the same cluster with a higher epoch are never
    /// overwritten.
    pub epoch: Epoch,
    /// The Services; when the document asks for none, none may exist.
    pub services: Vec<WantedService>,
    /// An address of the primary that a Service cannot use as endpoint.
    pub unusable: Option<IpAddr>,
}

/// The published endpoints of the Service for the primary; `None` while nothing was published.
pub type PublishedAddresses = Option<BTreeSet<SocketAddr>>;

/// Why Services are not in their desired state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The source of the documents has no Services.
    #[error("documents come from a folder, where there are no Services")]
    Unsupported,
    /// An object of that name exists and does not belong to this document.
    #[error("{0}")]
    NameTaken(String),
    /// The permission to read or write Services is missing.
    #[error("{0}")]
    Forbidden(String),
    /// The API server rejects them.
    #[error("{0}")]
    Refused(String),
    /// A later leader published with a higher epoch.
    #[error("{0}")]
    Superseded(String),
    /// No answer, or an answer that asks for a retry.
    #[error("{0}")]
    Unanswered(String),
}

/// The desired state of the Services of a document.
pub(super) fn of(
    declared: &DeclaredCluster,
    state: &State,
    model: &StatusModel,
    view: Option<&ClusterView>,
) -> Publication {
    // The records of one moment: the records in the view may be older, and would publish a primary that was replaced
    // meanwhile.
    let cluster = view.and_then(|view| state.clusters.get(&view.cluster.id));
    let mut publication = Publication {
        uid: declared.document.uid.clone(),
        cluster: cluster.map(|cluster| cluster.id.clone()),
        epoch: cluster.map_or(0, |cluster| cluster.epoch),
        services: Vec::new(),
        unusable: None,
    };
    let Some(requested) = &declared.services else {
        return publication;
    };
    let seen = view.zip(cluster);
    let primary = seen.map_or(ServiceTarget::Unchanged, |(view, cluster)| {
        primary(view, cluster, state)
    });
    let primary = match primary {
        ServiceTarget::Addresses(published) if published.iter().any(|at| !is_usable(at.ip())) => {
            publication.unusable = published.first().map(SocketAddr::ip);
            ServiceTarget::Unchanged
        }
        lead @ (ServiceTarget::Unchanged | ServiceTarget::Addresses(_)) => lead,
    };
    publication.services.push(WantedService {
        name: requested.primary.clone(),
        port: requested.port,
        role: Role::Primary,
        target: primary,
    });
    if let Some(name) = &requested.replicas {
        publication.services.push(WantedService {
            name: name.clone(),
            port: requested.port,
            role: Role::Replica,
            target: seen.map_or(ServiceTarget::Unchanged, |(view, _)| replicas(view, model)),
        });
    }
    publication
}

fn no_addresses() -> ServiceTarget {
    ServiceTarget::Addresses(BTreeSet::new())
}

/// The server that takes writes, as far as that is proved.
pub(super) fn primary(view: &ClusterView, cluster: &Cluster, state: &State) -> ServiceTarget {
    let is_of_it = |recovery: &&Recovery| {
        recovery.is_active() && recovery.plan.cluster == cluster.id && recovery.plan.kind.replaces_primary()
    };
    let replacing = state.recoveries.values().find(is_of_it);
    if let Some(Recovery {
        phase: Phase::Opened { successor, .. },
        plan,
        ..
    }) = replacing
    {
        // The successor is not writable yet, or was not seen writable. No other server may take writes.
        return view
            .topology
            .get(successor)
            .filter(|instance| instance.is_valid())
            .and_then(|instance| proved_address(instance, &plan.successor_identity))
            .map_or_else(no_addresses, |at| ServiceTarget::Addresses(BTreeSet::from([at])));
    }
    let Some(recorded) = &cluster.primary else {
        return ServiceTarget::Unchanged;
    };
    let is_held = |identity: &Identity| {
        let mut held = state.quarantines.values();
        held.any(|quarantine| quarantine.cluster == cluster.id && quarantine.identity == *identity)
    };
    if is_held(&recorded.identity) {
        return no_addresses();
    }
    let Some(instance) = view.topology.get(&recorded.instance) else {
        return ServiceTarget::Unchanged;
    };
    if replacing.is_some() {
        let is_closed = instance
            .valid_facts()
            .is_some_and(|facts| facts.identity == recorded.identity && !facts.is_writable());
        return if is_closed {
            no_addresses()
        } else {
            ServiceTarget::Unchanged
        };
    }
    proved_address(instance, &recorded.identity).map_or(ServiceTarget::Unchanged, |at| {
        ServiceTarget::Addresses(BTreeSet::from([at]))
    })
}

/// The peer address of the connection that last proved that this server is `identity` and takes writes.
fn proved_address(instance: &Instance, identity: &Identity) -> Option<SocketAddr> {
    let facts = instance.facts.as_ref()?;
    let is_proof = facts.identity == *identity && facts.is_writable();
    facts
        .peer
        .filter(|_| is_proof)
        .map(|ip| SocketAddr::new(ip.to_canonical(), instance.key.port))
}

/// The healthy replicas that are not far behind. A member that reaches none of the servers leaves the endpoints
/// unchanged.
fn replicas(view: &ClusterView, model: &StatusModel) -> ServiceTarget {
    if !model.instances.iter().any(|instance| instance.answers) {
        return ServiceTarget::Unchanged;
    }
    let is_healthy = |status: &&InstanceStatus| {
        status.role == Role::Replica
            && status.answers
            && status.problems.is_empty()
            && status.errant.is_none()
            && status.downtime.is_none()
            && status
                .lag_seconds
                .is_some_and(|lag| lag <= view.policy.reasonable_lag_seconds)
    };
    let at = |status: &InstanceStatus| {
        let ip = view.topology.get(&status.instance)?.valid_facts()?.peer?;
        Some(SocketAddr::new(ip.to_canonical(), status.instance.port)).filter(|at| is_usable(at.ip()))
    };
    ServiceTarget::Addresses(model.instances.iter().filter(is_healthy).filter_map(at).collect())
}

/// Whether the API server accepts the address as an endpoint.
fn is_usable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local)
}

/// The condition before the result of a publication is known.
pub(super) fn condition(declared: &DeclaredCluster) -> Condition {
    match declared.services {
        None => condition_of_service(
            ConditionStatus::False,
            Reason::NotAskedFor,
            "spec.primaryService is not set",
        ),
        Some(_) => condition_of_service(
            ConditionStatus::Unknown,
            Reason::NotPublishedYet,
            "the primary has not been seen writable yet",
        ),
    }
}

fn condition_of_service(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(ConditionKind::PrimaryServicePublished, status, reason, message)
}

impl Publication {
    /// Writes the result of the last publication into a status.
    pub fn add_to_status(&self, outcome: &Result<PublishedAddresses, PublishError>, model: &mut StatusModel) {
        let Some(service) = self.services.iter().find(|service| service.role == Role::Primary) else {
            return;
        };
        let name = &service.name;
        let condition = match (outcome, self.unusable) {
            (Err(PublishError::NameTaken(why)), _) => {
                condition_of_service(ConditionStatus::False, Reason::NameTaken, why)
            }
            (Err(PublishError::Forbidden(why)), _) => {
                condition_of_service(ConditionStatus::False, Reason::ServicesForbidden, why)
            }
            (Err(why @ PublishError::Unsupported), _) => {
                condition_of_service(ConditionStatus::False, Reason::NoServicesHere, why.to_string())
            }
            (Err(PublishError::Refused(why)), _) => {
                condition_of_service(ConditionStatus::False, Reason::NotWritten, why)
            }
            (Err(PublishError::Superseded(why)), _) => {
                condition_of_service(ConditionStatus::Unknown, Reason::NotWritten, why)
            }
            // While the API server does not answer, no status can be written either.
            (Err(PublishError::Unanswered(_)) | Ok(None), None) => return,
            (Err(PublishError::Unanswered(_)) | Ok(_), Some(ip)) => condition_of_service(
                ConditionStatus::False,
                Reason::AddressNotUsable,
                format!("the primary was reached at {ip}, which a Service cannot use as endpoint"),
            ),
            (Ok(Some(published)), None) => match published.first() {
                Some(at) => condition_of_service(
                    ConditionStatus::True,
                    Reason::Published,
                    format!("Service {name} has the endpoint {at}, the primary"),
                ),
                None => condition_of_service(
                    ConditionStatus::False,
                    Reason::Withdrawn,
                    format!("Service {name} has no endpoint: the primary is being replaced"),
                ),
            },
        };
        model.set_condition(condition);
    }
}
