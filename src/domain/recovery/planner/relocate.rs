//! The plan that gives the replicas of a dead intermediate primary, or of a dead member of a replication group, another source.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::finding::{Code, Finding};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind, Step};
use crate::domain::recovery::relocation::{Moves, assign};
use crate::domain::topology::Topology;

use super::identity_of;

/// The plan, and what was considered. The report's `successor` is the source that most of the replicas get.
pub(super) fn plan_relocation(
    finding: &Finding,
    kind: RecoveryKind,
    topology: &Topology,
    policy: &Policy,
) -> (Option<Plan>, PlanReport) {
    let victim = topology.resolve(&finding.instance);
    let mut report = PlanReport::default();
    match check(finding, victim, kind, topology) {
        Ok(()) => {}
        Err(why) => {
            report.no_plan = Some(why);
            return (None, report);
        }
    }
    let moves = assign(topology, victim, kind, policy);
    report.refused.clone_from(&moves.lost);
    report.remarks.clone_from(&moves.remarks);
    let plan = assemble(finding, victim, kind, moves, topology);
    match &plan {
        Some(plan) => report.successor = Some(plan.successor.clone()),
        None => report.no_plan = Some(format!("no replica of {victim} can follow another server")),
    }
    (plan, report)
}

/// What must hold beyond the code.
fn check(finding: &Finding, victim: &InstanceKey, kind: RecoveryKind, topology: &Topology) -> Result<(), String> {
    if current_primary(topology).as_ref() == Some(victim) {
        return Err(format!("{victim} is the primary of the cluster"));
    }
    let lives = topology.get(victim).is_some_and(Instance::is_valid);
    if lives && finding.code != Code::AllIntermediateMasterReplicasFailingToConnectOrDead {
        return Err(format!("{victim} answers"));
    }
    let is_member = topology
        .get(victim)
        .and_then(|instance| instance.facts.as_ref())
        .is_some_and(|facts| !facts.group_name.is_empty());
    if kind == RecoveryKind::GroupMember && !is_member {
        return Err(format!("{victim} is not known as a member of a replication group"));
    }
    match topology.replicas_of(victim).find(|replica| is_receiving(replica)) {
        Some(replica) if kind == RecoveryKind::IntermediatePrimary => {
            Err(format!("{} receives from {victim}", replica.key))
        }
        _ => Ok(()),
    }
}

fn assemble(
    finding: &Finding,
    victim: &InstanceKey,
    kind: RecoveryKind,
    moves: Moves,
    topology: &Topology,
) -> Option<Plan> {
    let is_moved = |key: &InstanceKey| moves.groups.iter().any(|(_, replicas)| replicas.contains(key));
    let (successor, _) = moves
        .groups
        .iter()
        .rev()
        .max_by_key(|(source, replicas)| (replicas.len(), is_moved(source)))?
        .clone();
    let facts = topology.get(&successor)?.facts.as_ref()?;
    let moved = moves.groups.iter().flat_map(|(_, replicas)| replicas).cloned();
    let instances: BTreeSet<InstanceKey> = moved.chain([victim.clone()]).collect();
    let steps = moves
        .groups
        .into_iter()
        .map(|(successor, replicas)| Step::Repoint { successor, replicas });
    Some(Plan {
        order: None,
        kind,
        code: finding.code,
        cluster: topology.cluster.clone(),
        victim: victim.clone(),
        victim_identity: identity_of(topology, victim),
        successor_identity: facts.identity.clone(),
        position: facts.executed.clone(),
        successor,
        // Sources are only read from: claiming them would stand in the way of their own recoveries.
        instances,
        lost_replicas: moves.lost,
        lost: None,
        steps: steps.collect(),
        sources: std::collections::BTreeMap::new(),
        manners: std::collections::BTreeMap::new(),
        remembered: None,
    })
}
