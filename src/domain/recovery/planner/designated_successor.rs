//! The choice where a server is preferred: a manual request named it, or it is the other co-primary.

use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::catch_up::why_not_caught_up;
use crate::domain::recovery::choice::{Choice, choose};
use crate::domain::recovery::choice_inputs::{ChoiceInputs, PreferenceReason, PreferredSuccessor};
use crate::domain::recovery::eligibility::why_no_successor;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::topology::Topology;

/// How many servers are named from which the preferred one cannot catch up.
const MAX_NAMED: usize = 3;

/// The choice among all replicas, or, where [`ChoiceInputs::preferred`] names one, that one or none.
///
/// Being preferred wins over every preference (data centre, promotion rule, version, ...), and over no rule of
/// safety: a server that may not be promoted is not, and one that lacks what another one has is promoted only when it
/// can catch up first.
pub(super) fn choose_designated(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Choice>, PlanReport) {
    let (choice, mut report) = choose_successor(topology, old_primary, policy, inputs);
    let (Some(choice), Some(preferred)) = (choice.as_ref(), &inputs.preferred) else {
        return (choice, report);
    };
    let PreferredSuccessor { instance, why } = preferred;
    if choice.successor == *instance {
        return (Some(choice.clone()), report);
    }
    let reason = report
        .refused
        .iter()
        .find(|refusal| refusal.instance == *instance)
        .map(|refusal| &refusal.reason);
    let text = match reason {
        Some(reason @ (RefusalReason::Behind(_) | RefusalReason::Incomparable(_))) => format!(
            "{instance} {why} and cannot be promoted: {reason}{}; {} could be promoted",
            catch_up_refusals(topology, old_primary, instance, inputs),
            choice.successor
        ),
        Some(reason) => format!(
            "{instance} {why} and cannot be promoted: {reason}; {} could be promoted",
            choice.successor
        ),
        None => format!("{instance} {why} and does not replicate from {old_primary}, directly or not"),
    };
    report.successor = None;
    report.no_plan = Some(text);
    (None, report)
}

/// Why it cannot catch up.
fn catch_up_refusals(
    topology: &Topology,
    old_primary: &InstanceKey,
    preferred: &InstanceKey,
    inputs: &ChoiceInputs,
) -> String {
    let refused = why_not_caught_up(topology, old_primary, preferred, inputs);
    let text = |refusal: &Refusal| format!(", and it cannot catch up from {}: {}", refusal.instance, refusal.reason);
    refused.iter().take(MAX_NAMED).map(text).collect::<Vec<_>>().concat()
}

/// The server that is preferred, if any: one that a manual request named before the other co-primary.
pub(super) fn preferred(
    topology: &Topology,
    named: Option<&InstanceKey>,
    co_primary: Option<&InstanceKey>,
) -> Option<PreferredSuccessor> {
    let named = named.map(|key| (key, PreferenceReason::Named));
    let (key, why) = named.or_else(|| co_primary.map(|key| (key, PreferenceReason::CoPrimary)))?;
    Some(PreferredSuccessor {
        instance: topology.resolve(key).clone(),
        why,
    })
}

/// The choice, unless opening any server would make two writable primaries.
fn choose_successor(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Choice>, PlanReport) {
    if let Some(why) = why_no_successor(topology, old_primary) {
        return (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        );
    }
    choose(topology, old_primary, policy, inputs)
}
