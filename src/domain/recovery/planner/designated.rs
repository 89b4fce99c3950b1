//! The choice where somebody is wanted: a person named it, or it is the other co-primary.

use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::candidate::{Choice, ChoiceInputs, Wanted, WantedAs};
use crate::domain::recovery::catch_up::why_not_caught_up;
use crate::domain::recovery::plan::{PlanReport, Refusal, RefusalReason};
use crate::domain::topology::Topology;

use super::choose_successor;

/// How many servers are named that could not feed the wanted one.
const MOST_NAMED: usize = 3;

/// The choice among all, or where [`ChoiceInputs::wanted`] names one that one or nobody.
///
/// Being wanted wins over every preference (data centre, promotion rule, version, ...), and over no rule of safety: one that may
/// not be promoted is not, and one that lacks what another one has is only when it can be fed that first.
pub(super) fn choose_designated(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Choice>, PlanReport) {
    let (choice, mut report) = choose_successor(topology, old_primary, policy, inputs);
    let (Some(choice), Some(wanted)) = (choice.as_ref(), &inputs.wanted) else {
        return (choice, report);
    };
    let Wanted { instance, why } = wanted;
    if choice.successor == *instance {
        return (Some(choice.clone()), report);
    }
    let reason = report
        .refused
        .iter()
        .find(|refusal| refusal.instance == *instance)
        .map(|refusal| &refusal.reason);
    let told = match reason {
        Some(reason @ (RefusalReason::Behind(_) | RefusalReason::Incomparable(_))) => format!(
            "{instance} {why} and cannot be promoted: {reason}{}; {} could be",
            told_not_caught_up(topology, old_primary, instance, inputs),
            choice.successor
        ),
        Some(reason) => format!(
            "{instance} {why} and cannot be promoted: {reason}; {} could be",
            choice.successor
        ),
        None => format!("{instance} {why} and does not replicate from {old_primary}, directly or not"),
    };
    report.successor = None;
    report.no_plan = Some(told);
    (None, report)
}

/// Why it cannot be fed what it lacks.
fn told_not_caught_up(
    topology: &Topology,
    old_primary: &InstanceKey,
    wanted: &InstanceKey,
    inputs: &ChoiceInputs,
) -> String {
    let refused = why_not_caught_up(topology, old_primary, wanted, inputs);
    let told = |refusal: &Refusal| format!(", and cannot be fed from {}: {}", refusal.instance, refusal.reason);
    refused.iter().take(MOST_NAMED).map(told).collect::<Vec<_>>().concat()
}

/// Who is wanted, if somebody is: whom a person named before the other co-primary.
pub(super) fn wanted(
    topology: &Topology,
    named: Option<&InstanceKey>,
    co_primary: Option<&InstanceKey>,
) -> Option<Wanted> {
    let named = named.map(|key| (key, WantedAs::Named));
    let (key, why) = named.or_else(|| co_primary.map(|key| (key, WantedAs::CoPrimary)))?;
    Some(Wanted {
        instance: topology.resolve(key).clone(),
        why,
    })
}
