//! The plan that gives the replicas of a dead intermediate primary, or of a dead member of a replication group,
//! another source.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::finding::{Code, Finding};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::new_sources::{Moves, assign};
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::failover_plan::identity_of;
use crate::domain::recovery::positioning::{PositioningMethod, positioning};
use crate::domain::recovery::replica_state::PriorReplicaState;
use crate::domain::recovery::step::{EquivalentPosition, Step};
use crate::domain::topology::Topology;

/// The plan, and what was considered. The report's `successor` is the source that most of the replicas get.
pub(super) fn plan_relocation(
    finding: &Finding,
    kind: RecoveryKind,
    topology: &Topology,
    policy: &Policy,
) -> (Option<Plan>, PlanReport) {
    let old_primary = topology.resolve(&finding.instance);
    let mut report = PlanReport::default();
    match check(finding, old_primary, kind, topology) {
        Ok(()) => {}
        Err(why) => {
            report.no_plan = Some(why);
            return (None, report);
        }
    }
    let moves = assign(topology, old_primary, kind, policy);
    report.refused.clone_from(&moves.lost);
    report.remarks.clone_from(&moves.remarks);
    let plan = assemble(finding, old_primary, kind, moves, topology, policy);
    if let Some(plan) = &plan {
        report.successor = Some(plan.successor.clone());
    } else {
        let first = report.refused.first();
        let why = first.map_or_else(String::new, |lost| format!(" ({}: {})", lost.instance, lost.reason));
        report.no_plan = Some(format!("no replica of {old_primary} can follow another server{why}"));
    }
    (plan, report)
}

/// What must hold beyond the code.
fn check(finding: &Finding, old_primary: &InstanceKey, kind: RecoveryKind, topology: &Topology) -> Result<(), String> {
    if current_primary(topology).as_ref() == Some(old_primary) {
        return Err(format!("{old_primary} is the primary of the cluster"));
    }
    let lives = topology.get(old_primary).is_some_and(Instance::is_valid);
    if lives && finding.code != Code::AllIntermediateMasterReplicasFailingToConnectOrDead {
        return Err(format!("{old_primary} answers"));
    }
    let is_member = topology
        .get(old_primary)
        .and_then(|instance| instance.facts.as_ref())
        .is_some_and(|facts| !facts.group_name.is_empty());
    if kind == RecoveryKind::GroupMember && !is_member {
        return Err(format!("{old_primary} is not known as a member of a replication group"));
    }
    match topology.replicas_of(old_primary).find(|replica| is_receiving(replica)) {
        Some(replica) if kind == RecoveryKind::IntermediatePrimary => {
            Err(format!("{} receives from {old_primary}", replica.key))
        }
        _ => Ok(()),
    }
}

fn assemble(
    finding: &Finding,
    old_primary: &InstanceKey,
    kind: RecoveryKind,
    moves: Moves,
    topology: &Topology,
    policy: &Policy,
) -> Option<Plan> {
    let is_moved = |key: &InstanceKey| moves.groups.iter().any(|(_, replicas)| replicas.contains(key));
    let (successor, _) = moves
        .groups
        .iter()
        .rev()
        .max_by_key(|(source, replicas)| (replicas.len(), is_moved(source)))?
        .clone();
    let facts = topology.get(&successor)?.facts.as_ref()?;
    let RelocationSteps {
        steps,
        compared,
        prior_states,
    } = relocation_steps(&moves, topology, policy);
    let moved = moves.groups.iter().flat_map(|(_, replicas)| replicas).cloned();
    // Sources are only read from: claiming them would stand in the way of their own recoveries. Only to compare logs
    // takes a session.
    let instances: BTreeSet<InstanceKey> = moved.chain(compared).chain([old_primary.clone()]).collect();
    Some(Plan {
        instances,
        lost_replicas: moves.lost,
        steps,
        prior_states,
        ..Plan::new(
            kind,
            finding.code,
            &topology.cluster,
            (old_primary, identity_of(topology, old_primary)),
            (&successor, facts),
        )
    })
}

/// What moves replicas, and what has to be known for it.
struct RelocationSteps {
    steps: Vec<Step>,
    /// The sources with logs that are compared.
    compared: Vec<InstanceKey>,
    /// How those were set up that are stopped before they are moved.
    prior_states: BTreeMap<InstanceKey, PriorReplicaState>,
}

/// Those that follow by GTID are pointed elsewhere as they are. The others stop, apply what they have, and are
/// pointed at a position.
fn relocation_steps(moves: &Moves, topology: &Topology, policy: &Policy) -> RelocationSteps {
    let (mut stopped, mut matches, mut points) = (BTreeSet::new(), Vec::new(), Vec::new());
    let (mut compared, mut prior_states) = (Vec::new(), BTreeMap::new());
    for (successor, replicas) in &moves.groups {
        let (mut by_gtid, mut placed, mut matched) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for key in replicas {
            let pair = topology.get(key).zip(topology.get(successor));
            let positioning = pair.and_then(|(replica, source)| positioning(replica, source, policy).ok());
            if let None | Some(PositioningMethod::Gtid) = positioning {
                by_gtid.insert(key.clone());
                continue;
            }
            let channel = topology.get(key).and_then(Instance::channel);
            if positioning == Some(PositioningMethod::PseudoGtid) {
                let after = channel.map(|channel| channel.exec.clone()).unwrap_or_default();
                matched.insert(key.clone(), EquivalentPosition { after, found: None });
            }
            if let Some(prior_state) = channel.and_then(PriorReplicaState::of) {
                prior_states.insert(key.clone(), prior_state);
            }
            stopped.insert(key.clone());
            placed.insert(key.clone(), None);
        }
        let successor = || successor.clone();
        if !matched.is_empty() {
            compared.push(successor());
            matches.push(Step::Match {
                successor: successor(),
                replicas: matched,
            });
        }
        if !by_gtid.is_empty() {
            points.push(Step::Repoint {
                successor: successor(),
                replicas: by_gtid,
            });
        }
        if !placed.is_empty() {
            points.push(Step::RepointAt {
                successor: successor(),
                replicas: placed,
            });
        }
    }
    let mut steps = Vec::new();
    if !stopped.is_empty() {
        steps.push(Step::StopReceivers {
            replicas: stopped.clone(),
        });
        steps.push(Step::ApplyAll { replicas: stopped });
    }
    steps.extend(matches.into_iter().chain(points));
    RelocationSteps {
        steps,
        compared,
        prior_states,
    }
}
