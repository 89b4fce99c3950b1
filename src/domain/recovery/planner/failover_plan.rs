//! From the choice of a successor to the plan of a failover.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{EventsPolicy, Policy};
use crate::domain::recovery::binlog_readers::is_binlog_server;
use crate::domain::recovery::choice::Choice;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::replica_state::{PriorPrimaryState, PriorReplicaState, is_receiver_stopped};
use crate::domain::recovery::step::Step;
use crate::domain::scheduled_events::EnabledEvents;
use crate::domain::topology::Topology;

/// The plan, with the configured fencing commands before the opening.
pub(super) fn with_fencer(mut plan: Plan, policy: &Policy) -> Plan {
    let opening = plan.steps.iter().position(|step| matches!(step, Step::Open { .. }));
    if let Some(opening) = opening.filter(|_| policy.fences_outside) {
        let old_primary = plan.old_primary.clone();
        plan.steps.insert(opening, Step::CallFencer { old_primary });
    }
    plan
}

/// The identity of a server: as it reported it, otherwise as its replicas did (they keep the source's uuid, on
/// MariaDB its `server_id`).
pub(super) fn identity_of(topology: &Topology, key: &InstanceKey) -> Option<Identity> {
    if let Some(facts) = topology.get(key).and_then(|instance| instance.facts.as_ref()) {
        return Some(facts.identity.clone());
    }
    let reported: BTreeSet<Identity> = topology
        .replicas_of(key)
        .filter_map(|replica| {
            let is_mariadb = replica.facts.as_ref()?.version.flavour.is_mariadb();
            let channel = replica.channel()?;
            match (&channel.source_uuid, channel.source_server_id) {
                (Some(uuid), _) if !uuid.is_empty() => Some(Identity::ServerUuid(uuid.to_lowercase())),
                (_, id) if is_mariadb && id > 0 => Some(Identity::ServerId(id)),
                _ => None,
            }
        })
        .collect();
    // Two different answers count as none: the address was given to another server meanwhile.
    if reported.len() == 1 {
        reported.into_iter().next()
    } else {
        None
    }
}

/// The events that a new primary enables. A lost successor enabled none: what was enabled before it is still known from the
/// server that it replaced.
pub(super) fn events_of(
    code: Code,
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
) -> Option<EnabledEvents> {
    if policy.events == EventsPolicy::Leave {
        return None;
    }
    let known = |key: &InstanceKey| topology.get(key)?.facts.as_ref()?.settings.as_ref()?.events.clone();
    if code == Code::SuccessorLost {
        let mut servers = topology.instances.keys().filter_map(known);
        return servers
            .find(|events| !events.names.is_empty())
            .or_else(|| known(old_primary));
    }
    known(old_primary)
}

/// What stays the same when the choice is made again.
pub(super) struct FailoverScope {
    pub(super) kind: RecoveryKind,
    pub(super) code: Code,
    pub(super) old_primary: InstanceKey,
    pub(super) old_primary_identity: Option<Identity>,
    pub(super) instances: BTreeSet<InstanceKey>,
    pub(super) sources: BTreeMap<InstanceKey, InstanceKey>,
    pub(super) prior_states: BTreeMap<InstanceKey, PriorReplicaState>,
    pub(super) old_primary_state: Option<PriorPrimaryState>,
    pub(super) events: Option<EnabledEvents>,
    pub(super) remembered: Option<GtidSet>,
    pub(super) manual_request: Option<ManualRequest>,
}

/// The source of each server below `old_primary`.
pub(super) fn sources_below(topology: &Topology, old_primary: &InstanceKey) -> BTreeMap<InstanceKey, InstanceKey> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|replica| Some((replica.key.clone(), topology.source_of(replica)?.clone())))
        .collect()
}

pub(super) fn assemble(scope: FailoverScope, choice: Choice, topology: &Topology) -> Option<Plan> {
    let FailoverScope {
        kind,
        code,
        old_primary,
        old_primary_identity,
        instances,
        sources,
        prior_states,
        old_primary_state,
        events,
        remembered,
        manual_request,
    } = scope;
    let successor_identity = topology.get(&choice.successor)?.facts.as_ref()?.identity.clone();
    let Choice {
        successor,
        catch_up_source,
        position,
        followers,
        lost_replicas,
        lost,
        loss_evidence,
    } = choice;
    let mut steps = vec![Step::Fence {
        old_primary: old_primary.clone(),
    }];
    let receivers_stopped = to_stop_receivers(topology, &old_primary, &successor, catch_up_source.as_ref());
    if !receivers_stopped.is_empty() {
        steps.push(Step::StopReceivers {
            replicas: receivers_stopped,
        });
    }
    if let Some(from) = catch_up_source {
        steps.push(Step::CatchUp {
            successor: successor.clone(),
            from,
        });
    }
    steps.push(Step::Drain {
        successor: successor.clone(),
    });
    steps.push(Step::Redial {
        old_primary: old_primary.clone(),
    });
    steps.push(Step::Open {
        successor: successor.clone(),
    });
    if !followers.is_empty() {
        steps.push(Step::Repoint {
            successor: successor.clone(),
            replicas: followers,
        });
    }
    Some(Plan {
        kind,
        code,
        cluster: topology.cluster.clone(),
        old_primary,
        old_primary_identity,
        successor,
        successor_identity,
        position,
        instances,
        lost_replicas,
        lost,
        loss_evidence: Some(loss_evidence),
        steps,
        sources,
        prior_states,
        old_primary_state,
        events,
        remembered,
        manual_request,
        commits_nothing: false,
    })
}

/// The replicas that must stop their receiver thread: the answering direct replicas of the old primary, the
/// successor, and the replica from which it catches up; no binlog server. A thread that is stopped already is left
/// out, so that an undo does not start it.
fn to_stop_receivers(
    topology: &Topology,
    old_primary: &InstanceKey,
    successor: &InstanceKey,
    catch_up_source: Option<&InstanceKey>,
) -> BTreeSet<InstanceKey> {
    topology
        .replicas_of(old_primary)
        .chain(topology.get(successor))
        .chain(catch_up_source.and_then(|catch_up_source| topology.get(catch_up_source)))
        .filter(|replica| replica.is_valid() && !is_receiver_stopped(replica) && !is_binlog_server(replica))
        .map(|replica| replica.key.clone())
        .collect()
}
