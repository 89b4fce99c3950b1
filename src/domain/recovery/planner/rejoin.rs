//! The plan that makes a returned primary a replica.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::analysis::identity::twin_of;
use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, OldPrimary, Policy};
use crate::domain::recovery::eligibility::why_unreachable;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::position::purged;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::step::Step;
use crate::domain::state::Quarantine;
use crate::domain::topology::Topology;

/// The plan that makes a returned, quarantined primary a replica of the current one, if the policy asks for it and
/// nothing prevents it. The report's `successor` is the server that it would follow.
pub fn plan_rejoin(quarantine: &Quarantine, topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    reported(rejoin(quarantine, topology, policy))
}

/// The plan that makes a replica, which a recovery left behind, follow the current primary, if the policy asks for it
/// and nothing prevents it.
pub fn plan_reattach(lost: &InstanceKey, topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    reported(reattach(lost, topology, policy))
}

fn reported(made: Result<Plan, String>) -> (Option<Plan>, PlanReport) {
    match made {
        Ok(plan) => (
            Some(plan.clone()),
            PlanReport {
                successor: Some(plan.successor),
                ..PlanReport::default()
            },
        ),
        Err(why) => (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        ),
    }
}

fn rejoin(quarantine: &Quarantine, topology: &Topology, policy: &Policy) -> Result<Plan, String> {
    if policy.old_primary != OldPrimary::Rejoin {
        return Err("oldPrimary is Hold: it stays read-only until an operator decides".to_owned());
    }
    is_allowed(policy)?;
    let returned = topology
        .by_identity(&quarantine.identity)
        .ok_or_else(|| format!("{} ({}) is not in the view", quarantine.instance, quarantine.identity))?;
    let facts = returned
        .valid_facts()
        .ok_or_else(|| format!("{}: {}", returned.key, why_unreachable(returned)))?;
    let primary =
        current_primary(topology).ok_or_else(|| "the view does not show which server is the primary".to_owned())?;
    if primary == returned.key {
        return Err(format!("{primary} is the primary"));
    }
    if topology.source_of(returned) == Some(&primary) {
        return Err(format!("{} replicates from {primary} already", returned.key));
    }
    let source = topology
        .get(&primary)
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    check_twin(topology, returned)?;
    check_rejoin(facts, source).map_err(|why| format!("{}: {why}", returned.key))?;
    // The primary is only read from; claiming it would stand in the way of its own recovery.
    Ok(Plan {
        steps: vec![
            Step::Fence {
                old_primary: returned.key.clone(),
            },
            Step::Repoint {
                successor: primary.clone(),
                replicas: BTreeSet::from([returned.key.clone()]),
            },
        ],
        position: facts.executed.clone(),
        ..Plan::new(
            RecoveryKind::Rejoin,
            Code::QuarantinedPrimaryReturned,
            &topology.cluster,
            (&returned.key, Some(quarantine.identity.clone())),
            (&primary, source),
        )
    })
}

/// What holds back every repair holds back this one, except a recent recovery: that is why there is a server to attach.
fn is_allowed(policy: &Policy) -> Result<(), String> {
    match &policy.held_back {
        None | Some(HeldBack::RecentRecovery { .. }) => Ok(()),
        Some(why) => Err(why.to_string()),
    }
}

fn reattach(lost: &InstanceKey, topology: &Topology, policy: &Policy) -> Result<Plan, String> {
    if policy.old_primary != OldPrimary::Rejoin {
        return Err("oldPrimary is Hold: an operator decides".to_owned());
    }
    is_allowed(policy)?;
    let replica = topology.get(lost).ok_or_else(|| format!("{lost} is not in the view"))?;
    let facts = replica
        .valid_facts()
        .ok_or_else(|| format!("{lost}: {}", why_unreachable(replica)))?;
    let primary =
        current_primary(topology).ok_or_else(|| "the view does not show which server is the primary".to_owned())?;
    let source = topology
        .get(&primary)
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    if primary == replica.key {
        return Err(format!("{primary} is the primary"));
    }
    if topology.source_of(replica) == Some(&primary) {
        return Err(format!("{} replicates from {primary} already", replica.key));
    }
    let source_is_held = topology
        .source_of(replica)
        .is_some_and(|source| policy.quarantined.iter().any(|held| topology.resolve(held) == source));
    if is_receiving(replica) && !source_is_held {
        return Err(format!("{} receives from another source", replica.key));
    }
    if replica.channel().is_none() {
        return Err(format!("{} is no longer a replica", replica.key));
    }
    check_twin(topology, replica)?;
    check_reattach(facts, source).map_err(|why| format!("{}: {why}", replica.key))?;
    Ok(Plan {
        steps: vec![Step::Repoint {
            successor: primary.clone(),
            replicas: BTreeSet::from([replica.key.clone()]),
        }],
        position: facts.executed.clone(),
        ..Plan::new(
            RecoveryKind::Rejoin,
            Code::LostReplicaReturned,
            &topology.cluster,
            (&replica.key, Some(facts.identity.clone())),
            (&primary, source),
        )
    })
}

/// Two servers with one identity cannot be distinguished.
fn check_twin(topology: &Topology, server: &Instance) -> Result<(), String> {
    match twin_of(topology, server) {
        Some((twin, why)) => Err(format!("{} has the same identity as {} ({why})", server.key, twin.key)),
        None => Ok(()),
    }
}

/// Whether a replica that was left behind can follow the primary: what it received and executed is there, what it
/// lacks is not purged, and it replicates by GTID from a server that is not newer.
///
/// # Errors
/// Why not.
pub(in crate::domain::recovery) fn check_reattach(
    replica: &InstanceFacts,
    source: &InstanceFacts,
) -> Result<(), String> {
    let is_mariadb = replica.version.flavour.is_mariadb();
    let is_older = (replica.version.major, replica.version.minor) < (source.version.major, source.version.minor);
    if is_mariadb != source.version.flavour.is_mariadb() || is_older {
        return Err(format!("runs {}, and the primary {}", replica.version, source.version));
    }
    if !is_mariadb && !matches!(replica.gtid_mode.as_str(), "ON" | "ON_PERMISSIVE") {
        return Err("does not replicate by GTID".to_owned());
    }
    let received = replica.received();
    if !source.executed.covers(&received) {
        let own = received.missing_from(&source.executed);
        return Err(format!(
            "holds or has received transactions that the primary lacks: {}",
            excerpt(&own)
        ));
    }
    check_rejoin(replica, source)
}

/// Whether a returned primary can follow the current one: it holds nothing of its own, and what it lacks is still there.
///
/// # Errors
/// Why not.
pub(in crate::domain::recovery) fn check_rejoin(
    returned: &InstanceFacts,
    source: &InstanceFacts,
) -> Result<(), String> {
    if !source.is_writable() {
        return Err("the primary is read-only".to_owned());
    }
    if !source.executed.covers(&returned.executed) {
        let own = returned.executed.missing_from(&source.executed);
        return Err(format!("holds transactions that the primary lacks: {}", excerpt(&own)));
    }
    match purged(source, returned) {
        Some(needed) => Err(format!("the primary has purged what it needs: {}", excerpt(&needed))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{Adjust, key, primary, replica, topology};

    #[test]
    fn a_replica_that_was_left_behind_and_follows_a_held_primary_is_attached_to_the_primary() {
        let held = primary(3, "1:1-90").facts(|facts| facts.read_only = true);
        let behind = |executed: &str| topology([primary(1, "1:1-100"), held.clone(), replica(2, 3, executed)]);
        let mut policy = Policy {
            old_primary: OldPrimary::Rejoin,
            ..Policy::default()
        };
        let why = |tree: &Topology, policy: &Policy| plan_reattach(&key(2), tree, policy).1.no_plan;
        let of_another = why(&behind("1:1-90"), &policy);
        assert!(of_another.is_some_and(|why| why.ends_with("receives from another source")));
        policy.quarantined.insert(key(3));
        let plan = plan_reattach(&key(2), &behind("1:1-90"), &policy)
            .0
            .expect("because it has nothing of its own");
        assert_eq!(plan.successor, key(1));
        // What the held one had alone has reached it: a person decides.
        let errant = why(&behind("1:1-90,3:1-2"), &policy);
        assert!(errant.is_some_and(|why| why.contains("that the primary lacks")));
    }
}
