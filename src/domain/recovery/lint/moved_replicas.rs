//! What must hold of a plan that gives replicas another source.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// One replica is moved, stopped before anything is compared, to a server that is not below it.
pub(super) fn check_match(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let Plan {
        old_primary, successor, ..
    } = plan;
    let is_as_wanted = matches!(
        plan.steps.as_slice(),
        [
            Step::StopReceivers { replicas: receivers_stopped },
            Step::ApplyAll { replicas: applying },
            Step::Match { successor: matched, replicas: placed },
            Step::RepointAt { successor: source, replicas: moved },
        ] if receivers_stopped.iter().eq([old_primary])
            && applying.iter().eq([old_primary])
            && placed.keys().eq([old_primary])
            && moved.keys().eq([old_primary])
            && [matched, source].iter().all(|key| *key == successor)
    );
    if !is_as_wanted {
        wrong.push(format!(
            "a match is: stop {old_primary}, have it apply everything, compare it with {successor}, and point it there"
        ));
    }
    if current_primary(topology).as_ref() == Some(old_primary) {
        wrong.push(format!("{old_primary} is the primary"));
    }
    if topology
        .descendants_of(old_primary)
        .iter()
        .any(|below| below.key == *successor)
    {
        wrong.push(format!("{successor} gets its changes from {old_primary}"));
    }
}

/// Only replicas that lost the old primary are moved, each once, to a server that has what they have and what they
/// need, and that does not get its changes from them.
pub(super) fn check_relocation(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    if current_primary(topology).as_ref() == Some(&plan.old_primary) {
        wrong.push(format!(
            "{} is the primary, and no intermediate server",
            plan.old_primary
        ));
    }
    let mut moved: BTreeSet<&InstanceKey> = BTreeSet::new();
    let mut halted = Halted::default();
    for step in &plan.steps {
        let Some((successor, replicas)) = step.new_source() else {
            if let Step::StopReceivers { replicas } = step {
                halted.receivers_stopped.extend(replicas);
            } else if let Step::ApplyAll { replicas } = step {
                halted.applied.extend(replicas);
            } else if let Step::Match { successor, replicas } = step {
                halted
                    .matched
                    .extend(replicas.keys().map(|replica| (replica, successor)));
            } else {
                wrong.push(format!(
                    "`{}` has no place where replicas are only moved",
                    step.describe()
                ));
            }
            continue;
        };
        check_source(plan, successor, &moved, topology, wrong);
        let is_placed = matches!(step, Step::RepointAt { .. });
        for replica in replicas {
            if !moved.insert(replica) {
                wrong.push(format!("{replica} would be moved twice"));
            }
            if is_placed && !(halted.receivers_stopped.contains(replica) && halted.applied.contains(replica)) {
                wrong.push(format!(
                    "{replica} would be repointed by position before it stopped and applied what it has"
                ));
            }
            let is_matched = is_placed && halted.matched.contains(&(replica, successor));
            check_replica(plan, replica, successor, is_matched, topology, wrong);
        }
    }
    for replica in halted.receivers_stopped.difference(&moved) {
        wrong.push(format!("{replica} would be stopped, and not moved"));
    }
    if moved.is_empty() {
        wrong.push("nothing would be moved".to_owned());
    }
    for replica in topology
        .replicas_of(&plan.old_primary)
        .filter(|replica| !is_receiving(replica))
    {
        let is_left = plan.lost_replicas.iter().any(|refusal| refusal.instance == replica.key);
        if moved.contains(&replica.key) && is_left {
            wrong.push(format!("{} is both moved and left behind", replica.key));
        }
        let is_group = replica.facts.as_ref().is_some_and(|facts| !facts.group_name.is_empty());
        if !moved.contains(&replica.key) && !is_left && !is_group {
            wrong.push(format!("{} is neither moved nor left behind", replica.key));
        }
    }
}

/// What the steps so far did to replicas that are repointed by position.
#[derive(Default)]
struct Halted<'a> {
    receivers_stopped: BTreeSet<&'a InstanceKey>,
    applied: BTreeSet<&'a InstanceKey>,
    /// With the server that has the log to which theirs were compared.
    matched: BTreeSet<(&'a InstanceKey, &'a InstanceKey)>,
}

fn check_source(
    plan: &Plan,
    source: &InstanceKey,
    moved: &BTreeSet<&InstanceKey>,
    topology: &Topology,
    wrong: &mut Vec<String>,
) {
    if *source == plan.old_primary {
        wrong.push(format!("{source} is the failed server and would be the source again"));
    }
    if !topology.get(source).is_some_and(Instance::is_valid) {
        wrong.push(format!("the source {source} does not answer"));
    }
    let is_below = topology
        .descendants_of(&plan.old_primary)
        .iter()
        .any(|instance| instance.key == *source);
    if is_below && !moved.contains(source) {
        wrong.push(format!(
            "the source {source} gets its changes through {} itself",
            plan.old_primary
        ));
    }
}

fn check_replica(
    plan: &Plan,
    replica: &InstanceKey,
    source: &InstanceKey,
    is_matched: bool,
    topology: &Topology,
    wrong: &mut Vec<String>,
) {
    let Some(instance) = topology.get(replica) else {
        wrong.push(format!("{replica} is not in the view"));
        return;
    };
    if topology.source_of(instance) != Some(topology.resolve(&plan.old_primary)) {
        wrong.push(format!("{replica} does not replicate from {}", plan.old_primary));
    }
    if is_receiving(instance) {
        wrong.push(format!("{replica} receives from {}", plan.old_primary));
    }
    let above = topology.get(source).and_then(Instance::valid_facts);
    let (Some(facts), Some(above)) = (instance.valid_facts(), above) else {
        wrong.push(format!("{replica} and {source} do not both answer"));
        return;
    };
    // Where their logs are compared, these show what GTID sets would.
    if is_matched {
        return;
    }
    if !above.executed.covers(&facts.received()) {
        wrong.push(format!("{replica} holds what {source} lacks"));
    }
    if !above.purged.subtract(&facts.executed).is_empty() {
        wrong.push(format!("{source} has purged what {replica} needs"));
    }
}
