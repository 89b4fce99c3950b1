//! A primary that is silent, and alive by nothing but the word of its replicas: the plan of a dead one, with their test before it.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_receiving;
use crate::domain::analysis::silence::is_silence;
use crate::domain::analysis::{current_primary, is_silent};
use crate::domain::finding::{Code, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, StalledPrimary};
use crate::domain::recovery::plan::{Plan, PlanReport, Step};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::{PlanRequest, plan_for};

/// The plan for a silent primary, if there is one, and what was considered. The members must have agreed to the test.
///
/// Every direct replica that says that it receives has to try, the one to be promoted too: a primary that writes nothing looks the
/// same to a replica that still receives and to one that does not, and the one to be promoted may be the only one that does.
pub fn plan_silent(
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
    if let Err(why) = check(finding, old_primary, topology, policy) {
        return refused(why);
    }
    let replicas: BTreeSet<InstanceKey> = topology
        .replicas_of(old_primary)
        .filter(|replica| is_receiving(replica))
        .map(|replica| replica.key.clone())
        .collect();
    if replicas.is_empty() && finding.code != Code::StalledPrimary {
        return refused(format!("no replica says that it receives from {old_primary}"));
    }
    let asked = PlanRequest {
        remembered,
        ..PlanRequest::default()
    };
    let (plan, report) = plan_for(finding.code, old_primary, topology, policy, asked, now);
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

/// Why a stalled primary is not replaced, or not yet. Its last answer tells since when it is stalled.
pub(super) fn not_yet(key: &InstanceKey, topology: &Topology, policy: &Policy) -> Option<HeldBack> {
    if policy.stalled == StalledPrimary::Observe {
        return Some(HeldBack::NotActionable);
    }
    let instance = topology.get(key);
    if let Some(stall) = instance
        .filter(|instance| instance.is_valid())
        .and_then(|instance| instance.commit_stall.as_ref())
    {
        return Some(HeldBack::Waits(format!(
            "it answers, and what answers may still commit: it is replaced when it has ended, or does not answer any more ({stall})"
        )));
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
    if !may_stall && !is_silent(finding) {
        return Err(format!("{} is no finding of silence", finding.code));
    }
    match current_primary(topology) {
        Some(primary) if primary == *old_primary => {}
        Some(primary) => return Err(format!("{old_primary} is not the primary of the cluster, {primary} is")),
        None => {
            return Err(format!(
                "the view does not tell whether {old_primary} is the primary of the cluster"
            ));
        }
    }
    let failure = topology
        .get(old_primary)
        .and_then(|instance: &Instance| instance.failure.as_ref());
    match failure {
        Some(failure) if is_silence(failure) => Ok(()),
        Some(ProbeFailure::Stalled) if may_stall => Ok(()),
        Some(failure) => Err(format!("{old_primary} is not silent: {failure}")),
        None => Err(format!("{old_primary} answers")),
    }
}
