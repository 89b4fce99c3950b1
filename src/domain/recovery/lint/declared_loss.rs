//! A plan declares no loss, or no more than it names, only where that is proved.
//!
//! The rule is counted from the other side than in the choice: a commit that waits for w replicas was confirmed by
//! replicas that were not compared only where there are at least w of them.

use std::collections::BTreeSet;

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::loss_evidence::{LossAcceptance, LossEvidence};
use crate::domain::recovery::plan::Plan;
use crate::domain::topology::Topology;

/// What is wrong with the loss that a plan declares, before any receiver is stopped.
pub(super) fn check(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    if plan.loss_evidence.is_none() {
        wrong.push("the plan does not tell what proves its loss".to_owned());
    }
    wrong.extend(why(plan, topology, Instance::is_valid));
}

/// Why the loss that a plan declares is not proved now that the receivers of `stopped` are stopped: the last check
/// before a server is opened.
pub(in crate::domain::recovery) fn why_loss_not_proved(
    plan: &Plan,
    fresh: &Topology,
    stopped: &BTreeSet<InstanceKey>,
) -> Option<String> {
    why(plan, fresh, |replica| {
        let receives_elsewhere = fresh.source_of(replica) != Some(&plan.old_primary);
        replica.is_valid() && (stopped.contains(&replica.key) || receives_elsewhere)
    })
}

fn why(plan: &Plan, topology: &Topology, is_compared: impl Fn(&Instance) -> bool) -> Option<String> {
    let old_primary = &plan.old_primary;
    let facts = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
    match plan.loss_evidence.as_ref()? {
        LossEvidence::OldPrimaryRead => {
            let is_read_only = |facts: &InstanceFacts| !facts.is_writable();
            let answers = topology.get(old_primary).and_then(Instance::valid_facts);
            (!answers.is_some_and(is_read_only)).then(|| {
                format!("the plan tells what {old_primary} had, and that was not read from a read-only server")
            })
        }
        LossEvidence::Acknowledged { compared, of, needed } => {
            let uncompared = uncompared(plan, topology, facts, is_compared);
            let waited = facts.map_or(0, |facts| {
                let semi_sync = &facts.semi_sync;
                let is_held = semi_sync.source_enabled
                    && semi_sync.source_active
                    && semi_sync.after_sync
                    && semi_sync.wait_no_replica;
                if is_held { semi_sync.wait_for_count } else { 0 }
            });
            if waited == 0 {
                return Some(format!(
                    "the plan relies on acknowledgements, and {old_primary} was not seen to wait for any"
                ));
            }
            if plan.lost.is_some() || compared < needed || compared > of {
                return Some("the plan declares a loss and that there is none".to_owned());
            }
            (uncompared >= waited).then(|| {
                format!(
                    "the plan declares that nothing else is lost, and {uncompared} acknowledging replicas that are not compared are enough to confirm a commit of {old_primary}"
                )
            })
        }
        LossEvidence::Unknown {
            accepted: LossAcceptance::NoPromise,
            ..
        } => {
            let promised = facts.is_some_and(|facts| {
                !facts.version.flavour.is_mariadb() && super::super::acknowledgers::promises_no_loss(&facts.semi_sync)
            });
            (promised && plan.lost.is_none() && uncompared(plan, topology, facts, is_compared) > 0).then(|| {
                format!("no rule accepts that the loss is unknown, and semi-sync of {old_primary} promised that there is none")
            })
        }
        LossEvidence::Unknown { .. } => None,
    }
}

/// How many replicas may have acknowledged and are not compared: those set to it, or never seen, and those that only
/// the primary counted.
fn uncompared(
    plan: &Plan,
    topology: &Topology,
    facts: Option<&InstanceFacts>,
    is_compared: impl Fn(&Instance) -> bool,
) -> u32 {
    let is_below = |replica: &&Instance| {
        let was = plan.sources.get(&replica.key).map(|source| topology.resolve(source));
        let now = topology.source_of(replica);
        replica.key != plan.old_primary && [was, now].contains(&Some(&plan.old_primary))
    };
    let listed = |key: &InstanceKey| {
        let replicas = facts.map(|facts| facts.replicas.as_slice()).unwrap_or_default();
        replicas.iter().any(|replica| topology.resolve(&replica.key) == key)
    };
    let seen = topology.get(&plan.old_primary).and_then(|instance| instance.last_seen);
    let (mut compared, mut others) = (0_u32, 0_u32);
    for replica in topology.instances.values().filter(is_below) {
        let may = replica
            .facts
            .as_ref()
            .is_none_or(|facts| facts.semi_sync.replica_enabled);
        if may && is_compared(replica) {
            compared += 1;
        } else if may && (replica.last_seen >= seen || replica.last_seen.is_none() || listed(&replica.key)) {
            // One that was gone before the primary was last seen, and that it did not list, acknowledged nothing since.
            others += 1;
        }
    }
    let clients = facts.map_or(0, |facts| facts.semi_sync.clients);
    others.max(clients.saturating_sub(compared))
}
