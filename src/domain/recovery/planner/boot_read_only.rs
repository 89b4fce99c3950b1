//! The plans for `bootReadOnly: Enforce`: servers that start read-only, and a primary that has started so and is
//! opened again.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::analysis::identity::twin_of;
use crate::domain::analysis::{current_primary, other_writable_tops};
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, HeldBack, Policy};
use crate::domain::recovery::eligibility::why_unreachable;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::step::Step;
use crate::domain::settings::Boot;
use crate::domain::state::LOST_IN_RECOVERY;
use crate::domain::topology::Topology;

/// Makes the next start of every answering server read-only that would be writable; `None` when there is none, or the
/// policy does not ask for it.
pub fn plan_boot_read_only(topology: &Topology, policy: &Policy) -> Option<Plan> {
    if policy.boot_read_only != BootReadOnly::Enforce {
        return None;
    }
    let boots_writable = |instance: &&Instance| {
        instance.valid_facts().is_some_and(|facts| {
            facts.group_name.is_empty()
                && facts
                    .settings
                    .as_ref()
                    .is_some_and(|settings| settings.boot == Boot::Writable)
        }) && !is_downtimed(topology, policy, &instance.key)
            && twin_of(topology, instance).is_none()
    };
    let servers: BTreeSet<InstanceKey> = topology
        .instances
        .values()
        .filter(boots_writable)
        .map(|instance| instance.key.clone())
        .collect();
    let first = topology.get(servers.first()?)?;
    let facts = first.valid_facts()?;
    Some(Plan {
        old_primary_identity: None,
        position: GtidSet::empty(facts.version.flavour),
        instances: servers.clone(),
        steps: vec![Step::PersistReadOnly { servers }],
        ..Plan::of_one(
            RecoveryKind::BootReadOnly,
            Code::BootsWritable,
            &topology.cluster,
            &first.key,
            facts,
        )
    })
}

/// Makes a replica read-only that takes writes since its last start and took none before it; one at a time, `None`
/// when there is none. A replica that was writable before stays as it is, and so does every replica while no primary
/// takes writes.
pub fn plan_replica_read_only(topology: &Topology, policy: &Policy) -> Option<Plan> {
    if policy.boot_read_only == BootReadOnly::Off {
        return None;
    }
    let is_it = |instance: &&Instance| {
        // A downtime of a recovery says that the server was left behind, and none that it may take writes.
        instance.reopened_by_start
            && !is_downtimed_by_a_person(topology, policy, &instance.key)
            && !policy.quarantined.contains(&instance.key)
            && check_replica_read_only(topology, &instance.key).is_ok()
    };
    let replica = topology.instances.values().find(is_it)?;
    Some(Plan {
        // It is a replica and stays one: no server is quarantined.
        old_primary_identity: None,
        steps: vec![Step::Fence {
            old_primary: replica.key.clone(),
        }],
        ..Plan::of_one(
            RecoveryKind::BootReadOnly,
            Code::BootsWritable,
            &topology.cluster,
            &replica.key,
            replica.valid_facts()?,
        )
    })
}

fn is_downtimed_by_a_person(topology: &Topology, policy: &Policy, key: &InstanceKey) -> bool {
    policy.downtimes.iter().any(|(downtimed, downtime)| {
        topology.resolve(downtimed) == topology.resolve(key)
            && !matches!(downtime, HeldBack::Downtimed { reason, .. } if reason == LOST_IN_RECOVERY)
    })
}

/// Whether a server is a writable replica of a primary that takes writes itself, and no co-primary of it.
///
/// # Errors
/// What speaks against making it read-only.
pub(in crate::domain::recovery) fn check_replica_read_only(
    topology: &Topology,
    key: &InstanceKey,
) -> Result<(), String> {
    let replica = topology.get(key).ok_or_else(|| format!("{key} is not in the view"))?;
    let facts = replica
        .valid_facts()
        .ok_or_else(|| format!("{key}: {}", why_unreachable(replica)))?;
    if !facts.is_writable() {
        return Err(format!("{key} takes no writes"));
    }
    check_single(topology, replica, facts)?;
    let primary = current_primary(topology).ok_or("the view does not show which server is the primary")?;
    let takes_writes = |instance: &Instance| instance.valid_facts().is_some_and(InstanceFacts::is_writable);
    if primary == *key || !topology.get(&primary).is_some_and(takes_writes) {
        return Err(format!(
            "no other server of the cluster is a writable primary than {key}"
        ));
    }
    let is_below = |upper: &InstanceKey, lower: &InstanceKey| {
        let mut below = topology.descendants_of(upper).into_iter();
        below.any(|instance| instance.key == *lower)
    };
    let is_replica = is_below(&primary, key) || follows_no_primary(topology, replica);
    if !is_replica || is_below(key, &primary) {
        return Err(format!("{key} is no replica of {primary}, or a co-primary"));
    }
    Ok(())
}

/// Whether a server replicates from one that takes no writes, nor does any server above that: from a failed primary
/// that was replaced while this replica was away.
fn follows_no_primary(topology: &Topology, replica: &Instance) -> bool {
    let mut above = BTreeSet::new();
    let mut lower = replica;
    while let Some(source) = topology.source_of(lower) {
        let is_new = above.insert(source);
        let Some(instance) = topology.get(source).filter(|_| is_new) else {
            // Outside the cluster, or a ring.
            return false;
        };
        if instance.valid_facts().is_some_and(InstanceFacts::is_writable) {
            return false;
        }
        lower = instance;
    }
    !above.is_empty()
}

/// Opens the recorded primary again that has started read-only; `Ok(None)` when it has not.
///
/// # Errors
/// What speaks against opening it, in words for the log.
pub fn plan_reopen_primary(topology: &Topology, policy: &Policy) -> Result<Option<Plan>, String> {
    if policy.boot_read_only != BootReadOnly::Enforce {
        return Ok(None);
    }
    let Some(recorded) = &topology.recorded_primary else {
        return Ok(None);
    };
    let Some(primary) = topology.get(recorded) else {
        return Ok(None);
    };
    let Some(facts) = primary.valid_facts().filter(|facts| is_read_only_since_boot(facts)) else {
        return Ok(None);
    };
    if is_downtimed(topology, policy, &primary.key) {
        return Err(format!("{} is in downtime", primary.key));
    }
    check_reopen_primary(topology, &primary.key)?;
    let key = primary.key.clone();
    let code = Code::NoWriteableMasterStructureWarning;
    Ok(Some(Plan {
        // It is not replaced, so it is not to be quarantined.
        old_primary_identity: None,
        steps: vec![
            Step::CheckBoot { primary: key.clone() },
            Step::Open { successor: key.clone() },
        ],
        ..Plan::of_one(RecoveryKind::ReopenPrimary, code, &topology.cluster, &key, facts)
    }))
}

/// Read-only by the settings with which it started. A statement that set it was a decision of an operator or of a recovery.
fn is_read_only_since_boot(facts: &InstanceFacts) -> bool {
    let since_boot = facts
        .settings
        .as_ref()
        .and_then(|settings| settings.read_only_since_boot);
    !facts.is_writable() && since_boot == Some(true)
}

/// No replication group decides about `read_only` of this server, and no other server has its identity.
fn check_single(topology: &Topology, instance: &Instance, facts: &InstanceFacts) -> Result<(), String> {
    if !facts.group_name.is_empty() {
        return Err(format!(
            "{} is a member of the replication group {}",
            instance.key, facts.group_name
        ));
    }
    match twin_of(topology, instance) {
        Some((twin, why)) => Err(format!("{} has the same identity ({why})", twin.key)),
        None => Ok(()),
    }
}

/// Whether a primary that is read-only may be made writable: it is the only possible primary, every other server
/// follows it, and it holds what its replicas received.
///
/// # Errors
/// What speaks against it.
pub(in crate::domain::recovery) fn check_reopen_primary(topology: &Topology, key: &InstanceKey) -> Result<(), String> {
    let primary = topology.get(key).ok_or_else(|| format!("{key} is not in the view"))?;
    let facts = primary
        .valid_facts()
        .ok_or_else(|| format!("{key}: {}", why_unreachable(primary)))?;
    if current_primary(topology).as_ref() != Some(key) {
        return Err(format!("{key} is not the primary"));
    }
    if !facts.channels.is_empty() || !facts.other_channels.is_empty() {
        return Err(format!("{key} replicates"));
    }
    check_single(topology, primary, facts)?;
    if let Some(other) = other_writable_tops(topology, key).first() {
        return Err(format!("{other} is a writable primary of the same cluster"));
    }
    let below = topology.descendants_of(key);
    let stranger = topology
        .instances
        .values()
        .find(|instance| instance.key != *key && !below.iter().any(|replica| replica.key == instance.key));
    if let Some(stranger) = stranger {
        return Err(format!(
            "{} belongs to the cluster and does not replicate from it",
            stranger.key
        ));
    }
    for replica in below {
        let received = replica
            .facts
            .as_ref()
            .ok_or_else(|| format!("what {} holds was never seen", replica.key))?
            .received();
        if !facts.executed.covers(&received) {
            let ahead = received.missing_from(&facts.executed);
            return Err(format!("{} holds what {key} lacks: {}", replica.key, excerpt(&ahead)));
        }
    }
    Ok(())
}
