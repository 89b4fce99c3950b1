//! The plan that replaces a dead primary.

use std::collections::BTreeMap;

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::by_position;
use crate::domain::recovery::planner::co_primary;
use crate::domain::recovery::planner::designated_successor::{choose_designated, preferred};
use crate::domain::recovery::planner::failover_plan::{
    FailoverScope, assemble, identity_of, sources_below, with_fencer,
};
use crate::domain::recovery::replica_state::prior_states_below;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// What a plan rests on beside view and policy.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest<'a> {
    /// This server is promoted, or none is.
    pub designated: Option<&'a InstanceKey>,
    /// What a person or a document requested.
    pub manual_request: Option<ManualRequest>,
    /// What the members remember of the old primary's transactions.
    pub remembered: Option<GtidSet>,
}

pub(super) fn plan_dead_primary(
    code: Code,
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    request: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let kind = co_primary::kind_for(code);
    if by_position::applies(topology, old_primary) {
        if kind == RecoveryKind::CoPrimary {
            return PlanReport::without_plan(format!(
                "the replicas of {old_primary} do not use GTIDs: without them no co-primary is replaced"
            ));
        }
        if request.designated.is_some() || request.manual_request.as_ref().is_some_and(|request| request.forced) {
            return PlanReport::without_plan(format!(
                "the replicas of {old_primary} do not use GTIDs: without them no successor can be named, and no living primary can be replaced"
            ));
        }
        let (plan, report) = by_position::plan_by_position(code, old_primary, topology, policy, &BTreeMap::new(), now);
        let manual_request = request.manual_request;
        let plan = plan.map(|plan| with_fencer(Plan { manual_request, ..plan }, policy));
        return (plan, report);
    }
    let only = (kind == RecoveryKind::CoPrimary)
        .then(|| co_primary::only_successor(topology, old_primary, policy))
        .flatten();
    let inputs = ChoiceInputs {
        remembered: request.remembered,
        preferred: preferred(topology, request.designated, only.as_ref()),
        ..ChoiceInputs::at(now)
    };
    let (choice, report) = choose_designated(topology, old_primary, policy, &inputs);
    let plan = choice.and_then(|choice| {
        let instances = topology
            .descendants_of(old_primary)
            .into_iter()
            .map(|instance| instance.key.clone())
            .chain([old_primary.clone()]);
        let scope = FailoverScope {
            kind,
            code,
            old_primary: old_primary.clone(),
            old_primary_identity: identity_of(topology, old_primary),
            instances: instances.collect(),
            sources: sources_below(topology, old_primary),
            prior_states: prior_states_below(topology, old_primary),
            remembered: inputs.remembered.clone(),
            manual_request: request.manual_request,
        };
        assemble(scope, choice, topology)
    });
    (plan.map(|plan| with_fencer(plan, policy)), report)
}
