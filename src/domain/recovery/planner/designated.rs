//! The choice where a person named who is to be promoted.

use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::candidate::{Choice, Moment};
use crate::domain::recovery::plan::{PlanReport, RefusalReason};
use crate::domain::topology::Topology;

use super::choose_successor;

/// The choice among all, or with `wanted` that one or nobody.
///
/// Being asked for wins over every preference (data centre, promotion rule, version, ...), and over no rule of safety: one that may
/// not be promoted, or that lacks what another one has, is not.
pub(super) fn choose_designated(
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
    moment: &Moment,
    wanted: Option<&InstanceKey>,
) -> (Option<Choice>, PlanReport) {
    let Some(wanted) = wanted else {
        return choose_successor(topology, victim, policy, moment);
    };
    let wanted = topology.resolve(wanted);
    let mut without = moment.clone();
    loop {
        let (choice, mut report) = choose_successor(topology, victim, policy, &without);
        let Some(choice) = choice else {
            return (None, report);
        };
        if choice.successor == *wanted {
            return (Some(choice), report);
        }
        let reason = report
            .refused
            .iter()
            .find(|refusal| refusal.instance == *wanted)
            .map(|refusal| refusal.reason.clone());
        let why = match reason {
            // As good as the chosen one: what it holds is the same, so the chosen one may stand back.
            Some(RefusalReason::RankedLower(_)) => {
                let reason = RefusalReason::RankedLower(format!("{wanted} was asked for"));
                without.excluded.insert(choice.successor, reason);
                continue;
            }
            Some(reason) => format!(
                "{wanted} was asked for and cannot be promoted: {reason}; {} could be",
                choice.successor
            ),
            None => format!("{wanted} was asked for and does not replicate from {victim}, directly or not"),
        };
        report.successor = None;
        report.no_plan = Some(why);
        return (None, report);
    }
}
