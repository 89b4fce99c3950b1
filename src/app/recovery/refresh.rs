//! Probes servers right before a plan is made: what the plan compares has to be as new as the finding.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;

use crate::domain::analysis::current_primary;
use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

use crate::app::ports::{ProbeConnection, Target};
use crate::app::recovery::steps::RecoveryContext;

/// Probes these servers side by side and records the results. Servers that are not watched are left out.
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
            let observation = prober.probe(&target, ProbeConnection::Kept, deadline).await;
            instance_cache.record(&observation, begun, clock.monotonic());
        })
    });
    join_all(asked).await;
}

/// Probes the servers of a topology of which this member knows the latest state from another member. A plan rests on own probes only.
pub(super) async fn refresh_shared(context: &RecoveryContext, topology: &Topology) {
    refresh(context, &observed_by_others(topology.instances.values())).await;
}

/// The instances among these of which another member gave the latest state.
pub(super) fn observed_by_others<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> BTreeSet<InstanceKey> {
    let others = instances.into_iter().filter(|instance| instance.observed_by.is_some());
    others.map(|instance| instance.key.clone()).collect()
}

/// The servers that a repair of one server compares, in two rounds. First its replicas; then the server itself and
/// those that the replicas could replicate from. A source that is probed after its replica is not taken to lack what
/// it received in between.
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
