//! The plan for a finding.

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::finding::{Code, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::co_primary;
use crate::domain::recovery::planner::dead_intermediate;
use crate::domain::recovery::planner::dead_primary::{PlanRequest, plan_dead_primary};
use crate::domain::recovery::planner::lost_successor::topology_for;
use crate::domain::recovery::planner::non_writable;
use crate::domain::recovery::planner::semi_sync;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The plan for a finding, if there is one, and what was considered.
///
/// Whether the plan may be carried out is another question ([`held_back`](super::held_back), the members' agreement, [`lint`](mod@crate::domain::recovery::lint)).
pub fn plan(finding: &Finding, topology: &Topology, policy: &Policy, now: WallTime) -> (Option<Plan>, PlanReport) {
    plan_as_requested(finding, topology, policy, PlanRequest::default(), now)
}

/// [`plan`], with what the members remember of the old primary's transactions.
pub fn plan_remembering(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    remembered: Option<GtidSet>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let request = PlanRequest {
        remembered,
        ..PlanRequest::default()
    };
    plan_as_requested(finding, topology, policy, request, now)
}

/// [`plan`], for a manual request, and with what the members remember.
pub fn plan_as_requested(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    request: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let old_primary = topology.resolve(&finding.instance);
    match RecoveryKind::for_code(finding.code) {
        Some(kind @ (RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember)) => {
            return dead_intermediate::plan_relocation(finding, kind, topology, policy);
        }
        Some(RecoveryKind::SemiSync) => return semi_sync::plan_semi_sync(finding, topology, policy),
        Some(RecoveryKind::NonWritablePrimary) => return non_writable::plan_non_writable(finding, topology, policy),
        Some(
            RecoveryKind::DeadPrimary
            | RecoveryKind::DeadPrimaryByPosition
            | RecoveryKind::CoPrimary
            | RecoveryKind::Rejoin
            | RecoveryKind::ResolveErrant
            | RecoveryKind::Takeover
            | RecoveryKind::MatchBelow
            | RecoveryKind::BootReadOnly
            | RecoveryKind::ReopenPrimary
            | RecoveryKind::Durability,
        )
        | None => {}
    }
    let topology = &*topology_for(finding.code, topology, old_primary);
    let is_of_two = RecoveryKind::for_code(finding.code) == Some(RecoveryKind::CoPrimary);
    if is_of_two && current_primary(topology).is_some_and(|primary| primary != *old_primary) {
        // The primary lives on. Who else replicated from the dead one needs another source.
        return dead_intermediate::plan_relocation(finding, RecoveryKind::IntermediatePrimary, topology, policy);
    }
    if let Err(why) = check_finding(finding, old_primary, topology) {
        return PlanReport::without_plan(why);
    }
    let (plan, mut report) = plan_dead_primary(finding.code, old_primary, topology, policy, request, now);
    let lost = plan.as_ref().and_then(|plan| plan.lost.as_ref());
    if let Some(lost) = lost.filter(|_| topology.get(old_primary).is_some_and(Instance::is_valid)) {
        report.no_plan = Some(format!(
            "{old_primary} was chosen, answers, is read-only and has transactions that no other server has: {}; make it \
             writable, or shut it down to have another server chosen",
            excerpt(lost)
        ));
        return (None, report);
    }
    (plan, report)
}

/// The plan for a failure of the current primary now, shown before it fails.
pub fn preview_failover(topology: &Topology, policy: &Policy, now: WallTime) -> (Option<Plan>, PlanReport) {
    match current_primary(topology) {
        Some(primary) => {
            let code = co_primary::death_of(topology, &primary);
            plan_dead_primary(code, &primary, topology, policy, PlanRequest::default(), now)
        }
        None => (
            None,
            PlanReport {
                no_plan: Some("the view does not show which server is the primary".to_owned()),
                ..PlanReport::default()
            },
        ),
    }
}

/// What must hold for a recovery of a dead primary, beyond its code.
fn check_finding(finding: &Finding, old_primary: &InstanceKey, topology: &Topology) -> Result<(), String> {
    if !finding.code.is_actionable() {
        return Err(format!("no recovery exists for {}", finding.code));
    }
    match current_primary(topology) {
        Some(primary) if primary == *old_primary => {}
        Some(primary) => return Err(format!("{old_primary} is not the primary of the cluster, {primary} is")),
        None => {
            return Err(format!(
                "the view does not show whether {old_primary} is the primary of the cluster"
            ));
        }
    }
    // A successor that was chosen and never opened is no primary yet.
    if finding.code != Code::SuccessorLost && topology.get(old_primary).is_some_and(Instance::is_valid) {
        return Err(format!("{old_primary} answers"));
    }
    if let Some(replica) = topology.replicas_of(old_primary).find(|replica| is_receiving(replica)) {
        return Err(format!("{} receives from {old_primary}", replica.key));
    }
    Ok(())
}
