//! Where applications connect: which servers the Services of a document lead to.
//!
//! A projection, never a source. Losing sight of a server withdraws nothing: an application that reaches a primary which ham4db does not
//! see is better off than one that has nobody to ask. A primary is withdrawn when it is known that it is none any more: by the committed
//! opening of another one, or by its own word that it is read-only while it is being replaced.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::instance::{Identity, Instance};
use crate::domain::state::{Cluster, Epoch, Phase, Recovery, State};
use crate::domain::topology::ClusterId;

use super::ClusterView;
use super::document::DeclaredCluster;
use super::reason::Reason;
use super::status::{Condition, ConditionKind, InstanceStatus, Role, StatusModel, Truth};

/// The Services that a document asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredServices {
    /// Name of the one that leads to the primary.
    pub primary: String,
    /// Port of both; the servers' own ports are behind it.
    pub port: u16,
    /// Name of the one that leads to healthy replicas; `None`: there is none.
    #[serde(default)]
    pub replicas: Option<String>,
}

/// Where a Service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Where it leads now: nothing better is known.
    AsItIs,
    /// To these servers, which may be none.
    To(BTreeSet<SocketAddr>),
}

/// One Service as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedService {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// What its servers are: [`Role::Primary`] or [`Role::Replica`].
    pub role: Role,
    /// Where it leads.
    pub lead: Lead,
}

/// All Services of a document as they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Uid of the document, which owns them: they go when it goes.
    pub uid: String,
    /// The cluster that they are about; `None` while none was seen.
    pub cluster: Option<ClusterId>,
    /// The epoch of that cluster. What was published for the same cluster with a higher one is never overwritten.
    pub epoch: Epoch,
    /// The Services; empty when none is asked for: then there must be none.
    pub services: Vec<WantedService>,
    /// An address of the primary that no Service can lead to.
    pub unusable: Option<IpAddr>,
}

/// Where the Service for the primary leads by what stands there; `None` while nothing was ever published.
pub type LeadsTo = Option<BTreeSet<SocketAddr>>;

/// Why Services are not as they must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The source of the documents has no Services.
    #[error("documents come from a folder, where there are no Services")]
    Unsupported,
    /// Something of that name is there and is not this document's.
    #[error("{0}")]
    NameTaken(String),
    /// They may not be read or written.
    #[error("{0}")]
    Forbidden(String),
    /// The API server does not take them.
    #[error("{0}")]
    Refused(String),
    /// A later leader has published with a higher epoch.
    #[error("{0}")]
    Superseded(String),
    /// No answer, or one that says to try again: worth another attempt at once.
    #[error("{0}")]
    Unanswered(String),
}

/// What the Services of a document must be now.
pub(super) fn of(
    declared: &DeclaredCluster,
    state: &State,
    model: &StatusModel,
    view: Option<&ClusterView>,
) -> Publication {
    // The records of one moment: those in the view may be older, and would lead back to a primary that was replaced meanwhile.
    let cluster = view.and_then(|view| state.clusters.get(&view.cluster.id));
    let mut publication = Publication {
        uid: declared.document.uid.clone(),
        cluster: cluster.map(|cluster| cluster.id.clone()),
        epoch: cluster.map_or(0, |cluster| cluster.epoch),
        services: Vec::new(),
        unusable: None,
    };
    let Some(asked) = &declared.services else {
        return publication;
    };
    let seen = view.zip(cluster);
    let primary = seen.map_or(Lead::AsItIs, |(view, cluster)| primary(view, cluster, state));
    let primary = match primary {
        Lead::To(led) if led.iter().any(|at| !is_usable(at.ip())) => {
            publication.unusable = led.first().map(SocketAddr::ip);
            Lead::AsItIs
        }
        lead @ (Lead::AsItIs | Lead::To(_)) => lead,
    };
    publication.services.push(WantedService {
        name: asked.primary.clone(),
        port: asked.port,
        role: Role::Primary,
        lead: primary,
    });
    if let Some(name) = &asked.replicas {
        publication.services.push(WantedService {
            name: name.clone(),
            port: asked.port,
            role: Role::Replica,
            lead: seen.map_or(Lead::AsItIs, |(view, _)| replicas(view, model)),
        });
    }
    publication
}

fn nobody() -> Lead {
    Lead::To(BTreeSet::new())
}

/// Which server takes writes, as far as it is proved.
pub(super) fn primary(view: &ClusterView, cluster: &Cluster, state: &State) -> Lead {
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
        // It is not writable yet, or was not seen to be: nobody else may take writes.
        return view
            .topology
            .get(successor)
            .filter(|instance| instance.is_valid())
            .and_then(|instance| proved(instance, &plan.successor_identity))
            .map_or_else(nobody, |at| Lead::To(BTreeSet::from([at])));
    }
    let Some(recorded) = &cluster.primary else {
        return Lead::AsItIs;
    };
    let is_held = |identity: &Identity| {
        let mut held = state.quarantines.values();
        held.any(|quarantine| quarantine.cluster == cluster.id && quarantine.identity == *identity)
    };
    if is_held(&recorded.identity) {
        return nobody();
    }
    let Some(instance) = view.topology.get(&recorded.instance) else {
        return Lead::AsItIs;
    };
    if replacing.is_some() {
        let is_closed = instance
            .valid_facts()
            .is_some_and(|facts| facts.identity == recorded.identity && !facts.is_writable());
        return if is_closed { nobody() } else { Lead::AsItIs };
    }
    proved(instance, &recorded.identity).map_or(Lead::AsItIs, |at| Lead::To(BTreeSet::from([at])))
}

/// Where the connection went that last proved that this server is `identity` and takes writes.
fn proved(instance: &Instance, identity: &Identity) -> Option<SocketAddr> {
    let facts = instance.facts.as_ref()?;
    let is_proof = facts.identity == *identity && facts.is_writable();
    facts
        .peer
        .filter(|_| is_proof)
        .map(|ip| SocketAddr::new(ip.to_canonical(), instance.key.port))
}

/// The replicas that are healthy and not far behind. A member that sees none of the servers says nothing about any.
fn replicas(view: &ClusterView, model: &StatusModel) -> Lead {
    if !model.instances.iter().any(|instance| instance.answers) {
        return Lead::AsItIs;
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
    Lead::To(model.instances.iter().filter(is_healthy).filter_map(at).collect())
}

/// Whether the API server takes the address as one of an endpoint.
fn is_usable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local)
}

/// The condition before anything is known of what became of the Services.
pub(super) fn condition(declared: &DeclaredCluster) -> Condition {
    match declared.services {
        None => told(Truth::False, Reason::NotAskedFor, "spec.primaryService is not set"),
        Some(_) => told(
            Truth::Unknown,
            Reason::NotPublishedYet,
            "the primary was not seen to take writes yet",
        ),
    }
}

fn told(truth: Truth, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(ConditionKind::PrimaryServicePublished, truth, reason, message)
}

impl Publication {
    /// Writes into a status what became of the last attempt to publish.
    pub fn tell(&self, outcome: &Result<LeadsTo, PublishError>, model: &mut StatusModel) {
        let Some(service) = self.services.iter().find(|service| service.role == Role::Primary) else {
            return;
        };
        let name = &service.name;
        let condition = match (outcome, self.unusable) {
            (Err(PublishError::NameTaken(why)), _) => told(Truth::False, Reason::NameTaken, why),
            (Err(PublishError::Forbidden(why)), _) => told(Truth::False, Reason::ServicesForbidden, why),
            (Err(why @ PublishError::Unsupported), _) => told(Truth::False, Reason::NoServicesHere, why.to_string()),
            (Err(PublishError::Refused(why)), _) => told(Truth::False, Reason::NotWritten, why),
            (Err(PublishError::Superseded(why)), _) => told(Truth::Unknown, Reason::NotWritten, why),
            // While nobody answers, nobody reads this either.
            (Err(PublishError::Unanswered(_)) | Ok(None), None) => return,
            (Err(PublishError::Unanswered(_)) | Ok(_), Some(ip)) => told(
                Truth::False,
                Reason::AddressNotUsable,
                format!("the primary was reached at {ip}, and no Service can lead there"),
            ),
            (Ok(Some(led)), None) => match led.first() {
                Some(at) => told(
                    Truth::True,
                    Reason::Published,
                    format!("Service {name} leads to the primary at {at}"),
                ),
                None => told(
                    Truth::False,
                    Reason::Withdrawn,
                    format!("Service {name} leads to nobody: the primary is being replaced"),
                ),
            },
        };
        model.say(condition);
    }
}
