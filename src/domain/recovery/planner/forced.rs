//! The plan that treats the present primary as dead because a person says so.

use crate::domain::analysis::current_primary;
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::plan::{Order, Plan, PlanReport};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::{PlanRequest, no_plan, plan_for};

/// Replaces the present primary, whether it answers or not: `force-master-failover`, and with `designated` `force-master-takeover`.
///
/// Filters, switches, blocks and downtimes are the caller's affair, and do not count here. What a dead primary's replacement must
/// respect is respected: who may be promoted, what may be lost, never two writable primaries.
pub fn plan_forced(
    topology: &Topology,
    policy: &Policy,
    designated: Option<&InstanceKey>,
    order: Order,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let Some(primary) = current_primary(topology) else {
        return no_plan("the view does not tell who the primary is".to_owned());
    };
    if let Some(wanted) = designated {
        let wanted = topology.resolve(wanted);
        let Some(instance) = topology.get(wanted) else {
            return no_plan(format!("{wanted} is not in the cluster of {primary}"));
        };
        match topology.source_of(instance) {
            Some(source) if *source == primary => {}
            Some(source) => {
                return no_plan(format!(
                    "{wanted} replicates from {source}: only a direct replica of the primary {primary} can be named"
                ));
            }
            None => return no_plan(format!("{wanted} does not replicate from the primary {primary}")),
        }
    }
    let order = Order {
        designated: designated.is_some(),
        forced: true,
        ..order
    };
    let asked = PlanRequest {
        designated,
        order: Some(order),
        remembered: None,
    };
    plan_for(Code::DeadMaster, &primary, topology, policy, asked, now)
}
