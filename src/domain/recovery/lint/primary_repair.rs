//! What must hold of a plan that repairs a primary which answers.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_replicating;
use crate::domain::analysis::{current_primary, other_writable_tops};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// Only replicas of the primary are switched, each once, on before off, and never so that fewer acknowledge than are
/// waited for.
pub(super) fn check_semi_sync(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let (mut on, mut off): (BTreeSet<&InstanceKey>, BTreeSet<&InstanceKey>) = (BTreeSet::new(), BTreeSet::new());
    let mut has_received = false;
    let is_replica = |key: &InstanceKey| {
        let replica = topology.get(key);
        replica.is_some_and(|replica| topology.source_of(replica) == Some(&plan.old_primary) && is_replicating(replica))
    };
    for step in &plan.steps {
        if let Step::AcknowledgeReceived { replicas } = step {
            for key in replicas.iter().filter(|key| !is_replica(key)) {
                wrong.push(format!("{key} is no replicating replica of {}", plan.old_primary));
            }
            has_received |= !replicas.is_empty();
            continue;
        }
        let Step::Acknowledge {
            replicas,
            on: switch_on,
        } = step
        else {
            wrong.push(format!("`{}` has no place in switching semi-sync", step.describe()));
            continue;
        };
        if *switch_on && !off.is_empty() {
            wrong.push("replicas are switched off before others are switched on".to_owned());
        }
        for key in replicas {
            if !(if *switch_on { &mut on } else { &mut off }).insert(key) {
                wrong.push(format!("{key} is switched twice"));
            }
            if !is_replica(key) {
                wrong.push(format!("{key} is no replicating replica of {}", plan.old_primary));
            }
        }
    }
    if let Some(both) = on.intersection(&off).next() {
        wrong.push(format!("{both} is switched on and off"));
    }
    if on.is_empty() && off.is_empty() && !has_received {
        wrong.push("nothing would be switched".to_owned());
    }
    let Some(facts) = topology.get(&plan.old_primary).and_then(Instance::valid_facts) else {
        wrong.push(format!("{} does not answer", plan.old_primary));
        return;
    };
    let connected = facts.semi_sync.clients.saturating_add(count(on.len()));
    if !off.is_empty() && connected.saturating_sub(count(off.len())) < facts.semi_sync.wait_for_count {
        wrong.push("fewer would acknowledge than are waited for".to_owned());
    }
}

/// Replicas of the primary begin to acknowledge before it waits for them, and stop after it; only the primary is made
/// to wait.
pub(super) fn check_durability(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let primary = &plan.old_primary;
    let recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key));
    if recorded != Some(primary) || current_primary(topology).as_ref() != Some(primary) {
        wrong.push(format!("{primary} is not the recorded primary"));
    }
    let (mut waits_for, mut is_off) = (None, false);
    for step in &plan.steps {
        if let Step::Acknowledge { replicas, on } = step {
            let is_replica = |key: &&InstanceKey| {
                let source = topology.get(key).and_then(|replica| topology.source_of(replica));
                source == Some(primary)
            };
            for key in replicas.iter().filter(|key| !is_replica(key)) {
                wrong.push(format!("{key} is no replica of {primary}"));
            }
            if *on && (waits_for.is_some() || is_off) {
                wrong.push("replicas are switched on after the primary waits for them".to_owned());
            }
            is_off |= !on;
        } else if let Step::SetSemiSyncSource { servers, terms } = step
            && servers.contains(primary)
        {
            if is_off || waits_for.is_some() || servers.len() > 1 {
                wrong.push(format!("{primary} is set too late, twice or with others"));
            }
            waits_for = Some(terms.wait_for);
            let is_stalled = topology.get(primary).is_some_and(|it| it.commit_stall.is_some());
            let before = topology.get(primary).and_then(Instance::valid_facts);
            let is_less = before
                .is_some_and(|facts| facts.semi_sync.source_enabled && terms.wait_for < facts.semi_sync.wait_for_count);
            if is_stalled && is_less {
                wrong.push(format!(
                    "commits of {primary} stall, and those that wait would be confirmed without the replicas that they wait for"
                ));
            }
        } else if !matches!(step, Step::SetSemiSyncSource { terms, .. } if terms.wait_for == 0) {
            wrong.push(format!("`{}` has no place in keeping a policy", step.describe()));
        }
    }
    if plan.steps.is_empty() {
        wrong.push("nothing would be done".to_owned());
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One server is opened, the recorded primary, and it is the only one.
pub(super) fn check_make_writable(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    if !matches!(plan.steps.as_slice(), [Step::MakeWritable { primary }] if *primary == plan.old_primary) {
        wrong.push("only the primary is opened, and nothing else is done".to_owned());
    }
    let recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key));
    if recorded != Some(&plan.old_primary) || current_primary(topology).as_ref() != Some(&plan.old_primary) {
        wrong.push(format!("{} is not the recorded primary", plan.old_primary));
    }
    for other in other_writable_tops(topology, &plan.old_primary) {
        wrong.push(format!(
            "{other} is a writable primary of the cluster: opening {} makes two",
            plan.old_primary
        ));
    }
    let executed = topology
        .get(&plan.old_primary)
        .and_then(Instance::valid_facts)
        .map(|facts| &facts.executed);
    let Some(executed) = executed else {
        wrong.push(format!("{} does not answer", plan.old_primary));
        return;
    };
    let received_transactions = ReceivedTransactions::below(topology, &plan.old_primary);
    for replica in topology.descendants_of(&plan.old_primary) {
        let lacks = received_transactions
            .get(&replica.key)
            .and_then(|holding| received_transactions.missing(&holding.position, executed));
        if lacks.is_some() {
            wrong.push(format!("{} holds what {} lacks", replica.key, plan.old_primary));
        }
    }
}
