//! The plan that makes a returned primary a replica.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::policy::{OldPrimary, Policy};
use crate::domain::recovery::candidate::{excerpt, purged};
use crate::domain::recovery::eligibility::why_unreachable;
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind, Step};
use crate::domain::state::Quarantine;
use crate::domain::topology::Topology;

/// The plan that makes a returned, quarantined primary a replica of the present one, if the policy wants it and nothing speaks
/// against it. The report's `successor` is the server that it would follow.
pub fn plan_rejoin(quarantine: &Quarantine, topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    match rejoin(quarantine, topology, policy) {
        Ok(plan) => (
            Some(plan.clone()),
            PlanReport {
                successor: Some(plan.successor),
                ..PlanReport::default()
            },
        ),
        Err(why) => (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        ),
    }
}

fn rejoin(quarantine: &Quarantine, topology: &Topology, policy: &Policy) -> Result<Plan, String> {
    if policy.old_primary != OldPrimary::Rejoin {
        return Err("oldPrimary is Hold: it stays read-only until a person decides".to_owned());
    }
    let returned = topology.by_identity(&quarantine.identity).ok_or_else(|| {
        format!(
            "{} ({}) is not in the picture",
            quarantine.instance, quarantine.identity
        )
    })?;
    let facts = returned
        .valid_facts()
        .ok_or_else(|| format!("{}: {}", returned.key, why_unreachable(returned)))?;
    let primary = current_primary(topology).ok_or_else(|| "the picture does not tell who the primary is".to_owned())?;
    if primary == returned.key {
        return Err(format!("{primary} is the primary"));
    }
    if topology.source_of(returned) == Some(&primary) {
        return Err(format!("{} replicates from {primary} already", returned.key));
    }
    let source = topology
        .get(&primary)
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    check_rejoin(facts, source).map_err(|why| format!("{}: {why}", returned.key))?;
    Ok(Plan {
        kind: RecoveryKind::Rejoin,
        code: Code::QuarantinedPrimaryReturned,
        cluster: topology.cluster.clone(),
        victim: returned.key.clone(),
        victim_identity: Some(quarantine.identity.clone()),
        successor: primary.clone(),
        successor_identity: source.identity.clone(),
        position: facts.executed.clone(),
        // The primary is only read from; claiming it would stand in the way of its own recovery.
        instances: BTreeSet::from([returned.key.clone()]),
        lost_replicas: Vec::new(),
        lost: None,
        steps: vec![
            Step::Fence {
                victim: returned.key.clone(),
            },
            Step::Repoint {
                successor: primary,
                replicas: BTreeSet::from([returned.key.clone()]),
            },
        ],
        sources: std::collections::BTreeMap::new(),
        remembered: None,
    })
}

/// Whether a returned primary can follow the present one: it holds nothing of its own, and what it lacks is still there.
///
/// # Errors
/// Why not.
pub(in crate::domain::recovery) fn check_rejoin(
    returned: &InstanceFacts,
    source: &InstanceFacts,
) -> Result<(), String> {
    if !source.is_writable() {
        return Err("the primary is read-only".to_owned());
    }
    if !source.executed.covers(&returned.executed) {
        let own = returned.executed.missing_from(&source.executed);
        return Err(format!("holds transactions that the primary lacks: {}", excerpt(&own)));
    }
    match purged(source, returned) {
        Some(needed) => Err(format!("the primary has purged what it needs: {}", excerpt(&needed))),
        None => Ok(()),
    }
}
