//! The plan by which errant transactions are dealt with, as a person asked.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::errant::{Remedy, errant_of};
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::plan::{Plan, RecoveryKind, Step};
use crate::domain::topology::Topology;

/// Empty transactions that are injected at most: each is a commit on the primary, with everything that waits for it.
pub const MOST_INJECTED: usize = 1_000;

/// The plan for what a person asked, on a view in which both servers were just asked.
///
/// # Errors
/// Why it cannot, or must not, be done.
pub fn plan_errant(
    instance: &InstanceKey,
    remedy: Remedy,
    topology: &Topology,
    policy: &Policy,
) -> Result<Plan, String> {
    // A person's word stands above filters and pauses; who works on the cluster at the moment does not.
    if let Some(running @ (HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))) = &policy.held_back {
        return Err(running.to_string());
    }
    let primary = current_primary(topology).ok_or_else(|| "the view does not tell who the primary is".to_owned())?;
    let facts = |key: &InstanceKey| {
        topology
            .get(key)
            .and_then(Instance::valid_facts)
            .ok_or_else(|| format!("{key} does not answer"))
    };
    let instance = topology.resolve(instance);
    if *instance == primary {
        return Err(format!("{primary} is the primary"));
    }
    let (own, source) = (facts(instance)?, facts(&primary)?);
    if own.version.flavour.is_mariadb() || source.version.flavour.is_mariadb() {
        return Err(
            "MariaDB's positions have no holes that could be filled or left out: save what matters, then rebuild the \
             server from the primary, or let it go (errant-forget)"
                .to_owned(),
        );
    }
    let errant = errant_of(own, source);
    if errant.is_empty() {
        return Err(format!("{instance} has no errant transactions"));
    }
    let (step, touched) = match remedy {
        Remedy::InjectEmpty => {
            if !source.is_writable() {
                return Err(format!("{primary} is read-only"));
            }
            let count = errant.transaction_count();
            if usize::try_from(count).unwrap_or(usize::MAX) > MOST_INJECTED {
                return Err(format!(
                    "{count} empty transactions are too many, at most {MOST_INJECTED} are injected: reset the server, or rebuild it"
                ));
            }
            let step = Step::InjectEmpty {
                primary: primary.clone(),
                set: errant,
            };
            (step, primary.clone())
        }
        Remedy::Reset => (
            reset(instance, own.executed.subtract(&errant), topology)?,
            instance.clone(),
        ),
    };
    Ok(Plan {
        order: None,
        kind: RecoveryKind::ResolveErrant,
        code: Code::ErrantTransactions,
        cluster: topology.cluster.clone(),
        old_primary: instance.clone(),
        old_primary_identity: Some(own.identity.clone()),
        successor: primary,
        successor_identity: source.identity.clone(),
        position: source.executed.clone(),
        instances: BTreeSet::from([touched]),
        lost_replicas: Vec::new(),
        lost: None,
        remembered: None,
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        steps: vec![step],
    })
}

fn reset(instance: &InstanceKey, keep: GtidSet, topology: &Topology) -> Result<Step, String> {
    if let Some(replica) = topology.replicas_of(instance).next() {
        return Err(format!(
            "{} replicates from {instance}, whose binary logs would be gone: move it first",
            replica.key
        ));
    }
    if topology
        .get(instance)
        .and_then(Instance::valid_facts)
        .is_some_and(crate::domain::instance::InstanceFacts::is_writable)
    {
        return Err(format!("{instance} is writable: make it read-only first"));
    }
    if keep.is_empty() {
        return Err(format!("{instance} has nothing but errant transactions: rebuild it"));
    }
    Ok(Step::ResetGtids {
        instance: instance.clone(),
        keep,
    })
}
