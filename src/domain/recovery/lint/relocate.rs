//! What must hold of a plan that gives replicas another source.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_receiving;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::{Plan, Step};
use crate::domain::topology::Topology;

/// One replica is moved, stopped before anything is compared, to a server that is not below it.
pub(super) fn check_match(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let Plan { victim, successor, .. } = plan;
    let is_as_wanted = matches!(
        plan.steps.as_slice(),
        [
            Step::Freeze { replicas: frozen },
            Step::ApplyAll { replicas: applying },
            Step::Match { successor: matched, replicas: placed },
            Step::RepointAt { successor: source, replicas: moved },
        ] if frozen.iter().eq([victim])
            && applying.iter().eq([victim])
            && placed.keys().eq([victim])
            && moved.keys().eq([victim])
            && [matched, source].iter().all(|key| *key == successor)
    );
    if !is_as_wanted {
        wrong.push(format!(
            "to match is: stop {victim}, let it apply, compare it with {successor}, and point it there"
        ));
    }
    if current_primary(topology).as_ref() == Some(victim) {
        wrong.push(format!("{victim} is the primary"));
    }
    if topology
        .descendants_of(victim)
        .iter()
        .any(|below| below.key == *successor)
    {
        wrong.push(format!("{successor} gets its changes from {victim}"));
    }
}

/// Only replicas that lost the victim are moved, each once, to a server that has what they have and what they need, and that does not
/// get its changes from them.
pub(super) fn check_relocation(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    if current_primary(topology).as_ref() == Some(&plan.victim) {
        wrong.push(format!("{} is the primary, and no intermediate server", plan.victim));
    }
    let mut moved: BTreeSet<&InstanceKey> = BTreeSet::new();
    for step in &plan.steps {
        let Step::Repoint { successor, replicas } = step else {
            wrong.push(format!(
                "`{}` has no place where replicas are only moved",
                step.describe()
            ));
            continue;
        };
        check_source(plan, successor, &moved, topology, wrong);
        for replica in replicas {
            if !moved.insert(replica) {
                wrong.push(format!("{replica} would be moved twice"));
            }
            check_replica(plan, replica, successor, topology, wrong);
        }
    }
    if moved.is_empty() {
        wrong.push("nothing would be moved".to_owned());
    }
    for replica in topology
        .replicas_of(&plan.victim)
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

fn check_source(
    plan: &Plan,
    source: &InstanceKey,
    moved: &BTreeSet<&InstanceKey>,
    topology: &Topology,
    wrong: &mut Vec<String>,
) {
    if *source == plan.victim {
        wrong.push(format!("{source} is the failed server and would be the source again"));
    }
    if !topology.get(source).is_some_and(Instance::is_valid) {
        wrong.push(format!("the source {source} does not answer"));
    }
    let is_below = topology
        .descendants_of(&plan.victim)
        .iter()
        .any(|instance| instance.key == *source);
    if is_below && !moved.contains(source) {
        wrong.push(format!(
            "the source {source} gets its changes through {} itself",
            plan.victim
        ));
    }
}

fn check_replica(
    plan: &Plan,
    replica: &InstanceKey,
    source: &InstanceKey,
    topology: &Topology,
    wrong: &mut Vec<String>,
) {
    let Some(instance) = topology.get(replica) else {
        wrong.push(format!("{replica} is not in the picture"));
        return;
    };
    if topology.source_of(instance) != Some(topology.resolve(&plan.victim)) {
        wrong.push(format!("{replica} does not replicate from {}", plan.victim));
    }
    if is_receiving(instance) {
        wrong.push(format!("{replica} receives from {}", plan.victim));
    }
    let above = topology.get(source).and_then(Instance::valid_facts);
    let (Some(facts), Some(above)) = (instance.valid_facts(), above) else {
        wrong.push(format!("{replica} and {source} do not both answer"));
        return;
    };
    if !above.executed.covers(&facts.received()) {
        wrong.push(format!("{replica} holds what {source} lacks"));
    }
    if !above.purged.subtract(&facts.executed).is_empty() {
        wrong.push(format!("{source} has purged what {replica} needs"));
    }
}
