//! The plan that treats the current primary as dead, on a manual request.

use crate::domain::analysis::current_primary;
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::dead_primary::{PlanRequest, plan_dead_primary};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// Replaces the current primary, whether it answers or not: `force-master-failover`, and with `designated`
/// `force-master-takeover`.
///
/// Filters, switches, blocks and downtimes are judged by the caller and do not count here. The rules for the
/// replacement of a dead primary hold: which servers may be promoted, what may be lost, never two writable primaries.
pub fn plan_forced_failover(
    topology: &Topology,
    policy: &Policy,
    designated: Option<&InstanceKey>,
    request: ManualRequest,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let Some(primary) = current_primary(topology) else {
        return PlanReport::without_plan("the view does not show which server is the primary".to_owned());
    };
    if let Some(wanted) = designated {
        let wanted = topology.resolve(wanted);
        let Some(instance) = topology.get(wanted) else {
            return PlanReport::without_plan(format!("{wanted} is not in the cluster of {primary}"));
        };
        match topology.source_of(instance) {
            Some(source) if *source == primary => {}
            Some(source) => {
                return PlanReport::without_plan(format!(
                    "{wanted} replicates from {source}: only a direct replica of the primary {primary} can be named"
                ));
            }
            None => return PlanReport::without_plan(format!("{wanted} does not replicate from the primary {primary}")),
        }
    }
    let request = ManualRequest {
        designated: designated.is_some(),
        forced: true,
        ..request
    };
    let request = PlanRequest {
        designated,
        manual_request: Some(request),
        remembered: None,
    };
    plan_dead_primary(Code::DeadMaster, &primary, topology, policy, request, now)
}
