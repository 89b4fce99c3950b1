//! The second choice, on fresh facts and within what was claimed.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::co_primary;
use crate::domain::recovery::planner::designated_successor::{choose_designated, preferred};
use crate::domain::recovery::planner::failover_plan::{FailoverScope, assemble, identity_of, with_fencer};
use crate::domain::recovery::refusal::RefusalReason;
use crate::domain::recovery::step::Step;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The second verdict, after the receivers were stopped: the same choice on a fresh view, within the instances that
/// were claimed.
///
/// # Errors
/// Why no server may be promoted after all. Nothing is opened yet then, and everything can be undone.
pub fn choose_again(plan: &Plan, fresh: &Topology, policy: &Policy, now: WallTime) -> Result<Plan, String> {
    choose_again_with(plan, fresh, policy, ChoiceInputs::at(now))
}

/// [`choose_again`], with what excludes servers now.
pub(in crate::domain::recovery) fn choose_again_with(
    plan: &Plan,
    fresh: &Topology,
    policy: &Policy,
    mut inputs: ChoiceInputs,
) -> Result<Plan, String> {
    inputs.remembered.clone_from(&plan.remembered);
    inputs.succeeds_lost_successor = plan.code == Code::SuccessorLost;
    inputs.moved = moved(plan, fresh).into_keys().collect();
    inputs.delays = plan.delays().map(|(key, seconds)| (key.clone(), seconds)).collect();
    inputs.excluded.extend(not_claimed(plan, fresh));
    let only = (plan.kind == RecoveryKind::CoPrimary)
        .then(|| co_primary::only_successor(fresh, &plan.old_primary, policy))
        .flatten();
    inputs.preferred = preferred(fresh, plan.designated(), only.as_ref());
    let (choice, report) = choose_designated(fresh, &plan.old_primary, policy, &inputs);
    let scope = FailoverScope {
        kind: plan.kind,
        code: plan.code,
        old_primary: plan.old_primary.clone(),
        old_primary_identity: plan
            .old_primary_identity
            .clone()
            .or_else(|| identity_of(fresh, &plan.old_primary)),
        instances: plan.instances.clone(),
        sources: plan.sources.clone(),
        prior_states: plan.prior_states.clone(),
        old_primary_state: plan.old_primary_state,
        events: plan.events.clone(),
        remembered: plan.remembered.clone(),
        manual_request: plan.manual_request.clone(),
    };
    let mut again = choice
        .and_then(|choice| assemble(scope, choice, fresh))
        .ok_or_else(|| {
            report
                .no_plan
                .unwrap_or_else(|| "no replica can be promoted".to_owned())
        })?;
    again.commits_nothing = plan.commits_nothing;
    keep_within(&mut again.steps, &plan.instances);
    Ok(with_fencer(again, policy))
}

/// Answering instances of a plan that replicate from another one of it than they did when it was made, with their
/// source then.
pub(in crate::domain::recovery) fn moved(plan: &Plan, fresh: &Topology) -> BTreeMap<InstanceKey, InstanceKey> {
    plan.sources
        .iter()
        .filter(|(key, before)| {
            fresh
                .get(key)
                .filter(|replica| replica.is_valid())
                .and_then(|replica| fresh.source_of(replica))
                .is_some_and(|now| now != fresh.resolve(before) && plan.instances.contains(now))
        })
        .map(|(key, before)| (key.clone(), before.clone()))
        .collect()
}

/// Servers below the old primary that the recovery did not claim: they came after it, and it may not touch them.
pub(in crate::domain::recovery) fn not_claimed(plan: &Plan, fresh: &Topology) -> BTreeMap<InstanceKey, RefusalReason> {
    fresh
        .descendants_of(&plan.old_primary)
        .into_iter()
        .filter(|instance| !plan.instances.contains(&instance.key))
        .map(|instance| {
            let reason = RefusalReason::Unknown("not claimed by this recovery".to_owned());
            (instance.key.clone(), reason)
        })
        .collect()
}

/// Takes what was not claimed out of the steps.
pub(in crate::domain::recovery) fn keep_within(steps: &mut Vec<Step>, instances: &BTreeSet<InstanceKey>) {
    steps.retain_mut(|step| match step {
        Step::ReconnectTest { replicas, .. }
        | Step::StopReceivers { replicas }
        | Step::Repoint { replicas, .. }
        | Step::Acknowledge { replicas, .. }
        | Step::GoOn { replicas }
        | Step::AcknowledgeReceived { replicas }
        | Step::ApplyAll { replicas } => {
            replicas.retain(|key| instances.contains(key));
            !replicas.is_empty()
        }
        Step::RepointAt { replicas, .. } => {
            replicas.retain(|key, _| instances.contains(key));
            !replicas.is_empty()
        }
        Step::PersistReadOnly { servers } | Step::SetSemiSyncSource { servers, .. } => {
            servers.retain(|key| instances.contains(key));
            !servers.is_empty()
        }
        Step::Fence { .. }
        | Step::CatchUp { .. }
        | Step::Demote { .. }
        | Step::Drain { .. }
        | Step::Redial { .. }
        | Step::CallFencer { .. }
        | Step::Open { .. }
        | Step::EnableEvents { .. }
        | Step::Locate { .. }
        | Step::Match { .. }
        | Step::InjectEmpty { .. }
        | Step::ResetGtids { .. }
        | Step::MakeWritable { .. }
        | Step::CheckBoot { .. } => true,
    });
}
