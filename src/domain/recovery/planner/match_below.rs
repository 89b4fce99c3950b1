//! The plan that moves a replica below another server by Pseudo-GTID, on a manual request.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::positioning::check_match;
use crate::domain::recovery::step::{EquivalentPosition, Step};
use crate::domain::topology::Topology;

/// The plan, on a view in which both servers were just probed.
///
/// # Errors
/// Why it cannot, or must not, be done, and what to do instead.
pub fn plan_match(
    replica: &InstanceKey,
    target: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
) -> Result<Plan, String> {
    // A manual request overrides filters and pauses, but not a running recovery or another group.
    if let Some(running @ (HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))) = &policy.held_back {
        return Err(running.to_string());
    }
    if !policy.pseudo_gtid {
        return Err(
            "Pseudo-GTID is not configured: set AutoPseudoGTID, or PseudoGTIDPattern for entries that another program writes"
                .to_owned(),
        );
    }
    let (replica, target) = (topology.resolve(replica), topology.resolve(target));
    if replica == target {
        return Err(format!("{replica} cannot be below itself"));
    }
    let facts = |key: &InstanceKey| {
        let instance = topology
            .get(key)
            .ok_or_else(|| format!("{key} is not in this cluster"))?;
        instance.valid_facts().ok_or_else(|| format!("{key} does not answer"))
    };
    let (own, source) = (facts(replica)?, facts(target)?);
    check_match(replica, own, target, source)?;
    if topology
        .descendants_of(replica)
        .iter()
        .any(|below| below.key == *target)
    {
        return Err(format!("{target} replicates from {replica}, directly or not"));
    }
    let only = BTreeSet::from([replica.clone()]);
    let channel = topology.get(replica).and_then(Instance::channel);
    let place = EquivalentPosition {
        after: channel.map(|channel| channel.exec.clone()).unwrap_or_default(),
        found: None,
    };
    Ok(Plan {
        instances: BTreeSet::from([replica.clone(), target.clone()]),
        steps: vec![
            Step::StopReceivers { replicas: only.clone() },
            Step::ApplyAll { replicas: only },
            Step::Match {
                successor: target.clone(),
                replicas: BTreeMap::from([(replica.clone(), place)]),
            },
            Step::RepointAt {
                successor: target.clone(),
                replicas: BTreeMap::from([(replica.clone(), None)]),
            },
        ],
        ..Plan::new(
            RecoveryKind::MatchBelow,
            Code::NoProblem,
            &topology.cluster,
            (replica, Some(own.identity.clone())),
            (target, source),
        )
    })
}
