//! A primary that does not answer while its replicas report that they receive from it: the plan of a dead primary,
//! after a reconnect test. One that answers and commits
//! nothing has a plan of its own.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_receiving;
use crate::domain::analysis::partition::is_silent_failure;
use crate::domain::analysis::{current_primary, may_be_partitioned};
use crate::domain::finding::{Code, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, StalledPrimary};
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::dead_primary::{PlanRequest, plan_dead_primary};
use crate::domain::recovery::planner::stalled_commits;
use crate::domain::recovery::step::Step;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The plan for a silent primary, if there is one, and what was considered. The members must have agreed to the test.
///
/// Every direct replica that reports that it receives has to try, the one to be promoted too. While a primary writes
/// nothing, a replica that still receives and one that does not are in the same state, and the one to be promoted may
/// be the only one that receives.
pub fn plan_silent_primary(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    remembered: Option<GtidSet>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let old_primary = topology.resolve(&finding.instance);
    let refused = |why: String| {
        (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        )
    };
    if finding.code == Code::StalledPrimary && stalled_commits::applies(topology, old_primary) {
        if let Some(why) = not_yet(old_primary, topology, policy) {
            return refused(why.to_string());
        }
        return stalled_commits::plan_stalled_commits(old_primary, topology, policy, remembered, now);
    }
    if let Err(why) = check(finding, old_primary, topology, policy) {
        return refused(why);
    }
    let replicas: BTreeSet<InstanceKey> = topology
        .replicas_of(old_primary)
        .filter(|replica| is_receiving(replica))
        .map(|replica| replica.key.clone())
        .collect();
    if replicas.is_empty() && finding.code != Code::StalledPrimary {
        return refused(format!("no replica reports that it receives from {old_primary}"));
    }
    let request = PlanRequest {
        remembered,
        ..PlanRequest::default()
    };
    let (plan, report) = plan_dead_primary(finding.code, old_primary, topology, policy, request, now);
    let plan = plan.map(|mut plan| {
        if !replicas.is_empty() {
            let test = Step::ReconnectTest {
                old_primary: old_primary.clone(),
                replicas,
            };
            plan.steps.insert(0, test);
        }
        plan
    });
    (plan, report)
}

/// Why a stalled primary is not replaced, or not yet. The last answer of one that does not answer shows since when it is
/// stalled.
pub(super) fn not_yet(key: &InstanceKey, topology: &Topology, policy: &Policy) -> Option<HeldBack> {
    if policy.stalled == StalledPrimary::Observe {
        return Some(HeldBack::NotActionable);
    }
    let instance = topology.get(key);
    if let Some(answering) = instance.filter(|_| stalled_commits::applies(topology, key)) {
        return stalled_commits::not_yet(answering, policy);
    }
    let seen = instance.and_then(|instance| instance.last_seen);
    let since = seen.map(|seen| topology.taken.millis_since(seen));
    if since.is_some_and(|since| since >= policy.stalled_timeout_millis) {
        return None;
    }
    Some(HeldBack::Waits(format!(
        "it is replaced when it has been stalled for {} s (StalledPrimarySeconds)",
        policy.stalled_timeout_millis / 1000
    )))
}

fn check(finding: &Finding, old_primary: &InstanceKey, topology: &Topology, policy: &Policy) -> Result<(), String> {
    let may_stall = finding.code == Code::StalledPrimary;
    if may_stall && let Some(why) = not_yet(old_primary, topology, policy) {
        return Err(why.to_string());
    }
    if !may_stall && !may_be_partitioned(finding) {
        return Err(format!("{} does not call for a reconnect test", finding.code));
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
    let failure = topology
        .get(old_primary)
        .and_then(|instance: &Instance| instance.failure.as_ref());
    match failure {
        Some(failure) if is_silent_failure(failure) => Ok(()),
        Some(ProbeFailure::Stalled) if may_stall => Ok(()),
        Some(failure) => Err(format!("{old_primary} is not silent: {failure}")),
        None => Err(format!("{old_primary} answers")),
    }
}
