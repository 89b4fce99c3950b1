//! A look at servers right before a plan is made of them: what a plan compares must be as new as what called for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;

use crate::domain::analysis::current_primary;
use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

use crate::app::ports::{Approach, Target};
use crate::app::recovery::steps::RecoveryContext;

/// Asks these servers, side by side, and takes the answers in. Servers that nobody watches are left out.
pub(super) async fn refresh(context: &RecoveryContext, keys: &BTreeSet<InstanceKey>) {
    let asked = keys.iter().filter_map(|key| {
        let origin: Origin = context.instance_cache.get(key)?.origin;
        let target = Target {
            instance: key.clone(),
            origin,
        };
        let (prober, clock, instance_cache) = (
            Arc::clone(&context.prober),
            Arc::clone(&context.clock),
            Arc::clone(&context.instance_cache),
        );
        let deadline = context.settings.opinion_deadline;
        Some(async move {
            let begun = clock.monotonic();
            let observation = prober.probe(&target, Approach::Kept, deadline).await;
            instance_cache.record(&observation, begun, clock.monotonic());
        })
    });
    join_all(asked).await;
}

/// The servers that a repair around one server compares, in the two rounds in which they are to be asked: first its replicas, which
/// nobody feeds, then itself and those that its replicas could follow. A source that is asked after a replica is not taken to lack
/// what it only got in between.
pub(super) fn neighbours(topology: &Topology, about: &InstanceKey) -> [BTreeSet<InstanceKey>; 2] {
    let about = topology.resolve(about);
    let replicas: BTreeSet<InstanceKey> = topology.replicas_of(about).map(|replica| replica.key.clone()).collect();
    let instance = topology.get(about);
    let source = instance.and_then(|instance| topology.source_of(instance)).cloned();
    let source = source.into_iter().chain(current_primary(topology));
    let group = instance
        .and_then(|instance| instance.facts.as_ref())
        .map_or("", |facts| facts.group_name.as_str());
    let is_fellow =
        |other: &&Instance| !group.is_empty() && other.facts.as_ref().is_some_and(|facts| facts.group_name == group);
    let fellows = topology
        .instances
        .values()
        .filter(is_fellow)
        .map(|other| other.key.clone());
    let mut others: BTreeSet<InstanceKey> = [about.clone()].into_iter().chain(fellows).collect();
    for source in source {
        others.extend(topology.replicas_of(&source).map(|sibling| sibling.key.clone()));
        others.insert(source);
    }
    others.retain(|key| !replicas.contains(key));
    [replicas, others]
}
