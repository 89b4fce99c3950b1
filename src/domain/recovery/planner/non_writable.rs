//! The plan that makes a read-only primary writable again.

use crate::domain::analysis::current_primary;
use crate::domain::finding::Finding;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// The plan, and why there is none. The plan names the primary as its own successor.
pub(super) fn plan_non_writable(finding: &Finding, topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    let primary = topology.resolve(&finding.instance);
    let mut report = PlanReport::default();
    let facts = match check_non_writable(primary, topology, policy) {
        Ok(facts) => facts,
        Err(why) => {
            report.no_plan = Some(why);
            return (None, report);
        }
    };
    report.successor = Some(primary.clone());
    let plan = Plan {
        steps: vec![Step::MakeWritable {
            primary: primary.clone(),
        }],
        ..Plan::of_one(
            RecoveryKind::NonWritablePrimary,
            finding.code,
            &topology.cluster,
            primary,
            facts,
        )
    };
    (Some(plan), report)
}

/// What must hold before a read-only primary is opened: it is the recorded one, alone at the top, and lacks nothing
/// that is known of any other server. Every doubt is a reason to leave it: an operator can repair a cluster that
/// takes no writes, but not two primaries.
///
/// A server in quarantine may have been writable when it was last seen, and may hold what was lost with it. Both were
/// considered when this primary was first opened, and the leader keeps the quarantined server read-only.
///
/// # Errors
/// What does not hold.
pub fn check_non_writable<'a>(
    primary: &InstanceKey,
    topology: &'a Topology,
    policy: &Policy,
) -> Result<&'a InstanceFacts, String> {
    let recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key));
    if recorded != Some(primary) || current_primary(topology).as_ref() != Some(primary) {
        return Err(format!("{primary} is not the recorded primary of the cluster"));
    }
    let facts = topology
        .get(primary)
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    if policy.quarantined.contains(primary) {
        return Err(format!("{primary} is in quarantine"));
    }
    if !facts.group_name.is_empty() {
        return Err(format!(
            "{primary} is a member of the replication group {}",
            facts.group_name
        ));
    }
    if !facts.channels.is_empty() || !facts.other_channels.is_empty() {
        return Err(format!("{primary} replicates"));
    }
    let received_transactions = ReceivedTransactions::below(topology, primary);
    for other in topology.instances.values().filter(|other| other.key != *primary) {
        let is_held = policy.quarantined.contains(&other.key);
        let Some(known) = other.facts.as_ref() else {
            return Err(format!("nothing is known of {}", other.key));
        };
        if known.identity == facts.identity {
            return Err(format!("{} has the same identity", other.key));
        }
        // Answering or not: one that was writable when last seen may still be.
        if known.is_writable() && (other.is_valid() || !is_held) {
            return Err(format!("{} is writable, or was when last seen", other.key));
        }
        if is_held {
            continue;
        }
        let held = received_transactions
            .get(&other.key)
            .map_or_else(|| known.received(), |holding| holding.position.clone());
        if let Some(more) = received_transactions.missing(&held, &facts.executed) {
            return Err(format!("{} holds what {primary} lacks: {}", other.key, excerpt(&more)));
        }
    }
    Ok(facts)
}
