//! The plan that resolves errant transactions, on a manual request.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::errant::{Remedy, errant_of};
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// The largest number of empty transactions that are injected: each is a commit on the primary, with everything that
/// waits for it.
pub const MAX_INJECTED: usize = 1_000;

/// The plan for a request, on a view in which both servers were just probed.
///
/// # Errors
/// Why it cannot, or must not, be done.
pub fn plan_errant(
    instance: &InstanceKey,
    remedy: Remedy,
    topology: &Topology,
    policy: &Policy,
) -> Result<Plan, String> {
    // A manual request overrides filters and pauses, but not a running recovery or another group.
    if let Some(running @ (HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))) = &policy.held_back {
        return Err(running.to_string());
    }
    let primary =
        current_primary(topology).ok_or_else(|| "the view does not show which server is the primary".to_owned())?;
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
            "the GTID positions of MariaDB have no gaps that could be filled or left out: save what matters, then rebuild the \
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
            if usize::try_from(count).unwrap_or(usize::MAX) > MAX_INJECTED {
                return Err(format!(
                    "{count} empty transactions are too many (limit {MAX_INJECTED}): reset the server, or rebuild it"
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
        instances: BTreeSet::from([touched]),
        steps: vec![step],
        ..Plan::new(
            RecoveryKind::ResolveErrant,
            Code::ErrantTransactions,
            &topology.cluster,
            (instance, Some(own.identity.clone())),
            (&primary, source),
        )
    })
}

fn reset(instance: &InstanceKey, keep: GtidSet, topology: &Topology) -> Result<Step, String> {
    if let Some(replica) = topology.replicas_of(instance).next() {
        return Err(format!(
            "{} replicates from {instance}, and the reset removes the binary logs that it needs: relocate it first",
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
