//! The plan that replaces a dead primary.

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
    FailoverScope, assemble, events_of, identity_of, sources_below, with_fencer,
};
use crate::domain::recovery::replica_state::{PriorPrimaryState, prior_states_below};
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
        if request.designated.is_some() || request.manual_request.as_ref().is_some_and(|request| request.forced) {
            return PlanReport::without_plan(format!(
                "the replicas of {old_primary} do not use GTIDs: without them no successor can be named, and no living primary can be replaced"
            ));
        }
        let inputs = ChoiceInputs::at(now);
        let (plan, report) = by_position::plan_by_position(code, old_primary, topology, policy, &inputs);
        let manual_request = request.manual_request;
        let old_primary_state = state_of(code, topology, old_primary);
        let events = events_of(code, topology, old_primary, policy);
        let requested = |plan| Plan {
            old_primary_state,
            events,
            manual_request,
            ..plan
        };
        let plan = plan.map(|plan| with_fencer(requested(plan), policy));
        return (plan, report);
    }
    let only = (kind == RecoveryKind::CoPrimary)
        .then(|| co_primary::only_successor(topology, old_primary, policy))
        .flatten();
    let inputs = ChoiceInputs {
        remembered: request.remembered,
        preferred: preferred(topology, request.designated, only.as_ref()),
        succeeds_lost_successor: code == Code::SuccessorLost,
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
            old_primary_state: state_of(code, topology, old_primary),
            events: events_of(code, topology, old_primary, policy),
            remembered: inputs.remembered.clone(),
            manual_request: request.manual_request,
        };
        assemble(scope, choice, topology)
    });
    (plan.map(|plan| with_fencer(plan, policy)), report)
}

/// What an undo restores on the old primary. A lost successor is none that was found read-only: an Open entry says that it is to be opened.
fn state_of(code: Code, topology: &Topology, old_primary: &InstanceKey) -> Option<PriorPrimaryState> {
    (code != Code::SuccessorLost)
        .then(|| PriorPrimaryState::last_seen(topology, old_primary))
        .flatten()
}
