//! Which of several replication channels (MariaDB: connections) of a server is the one that ham4db manages.
//!
//! The managed channel links a server to its cluster, and it is the only channel that steps stop, change or remove.
//! Data that flow in from another cluster come through another channel, which stays as it is: it neither merges the
//! clusters nor keeps the server from being promoted.

use super::instance::{Channel, InstanceFacts};
use super::key::InstanceKey;
use super::state::{Cluster, Phase, Recovery, State};

/// The choice among the channels of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedChannel {
    /// The default channel, otherwise the only one: nothing recorded says more.
    Usual,
    /// The channel with this name, which the server may lack; the default channel has no name.
    Named(String),
    /// None of them.
    Nothing,
}

impl ManagedChannel {
    /// Separates the managed channel from the others.
    pub fn separate(&self, channels: Vec<Channel>) -> (Option<Channel>, Vec<Channel>) {
        let has_default = channels.iter().any(|channel| channel.name.is_empty());
        let is_only = channels.len() == 1;
        let is_managed = |channel: &Channel| match self {
            Self::Usual => channel.name.is_empty() || (is_only && !has_default),
            Self::Named(name) => channel.name == *name,
            Self::Nothing => false,
        };
        let (managed, others): (Vec<Channel>, Vec<Channel>) = channels.into_iter().partition(is_managed);
        (managed.into_iter().next(), others)
    }

    /// Leaves only the managed channel in [`InstanceFacts::channels`].
    pub fn apply(&self, facts: &mut InstanceFacts) {
        let mut all = std::mem::take(&mut facts.channels);
        all.append(&mut facts.other_channels);
        let (managed, others) = self.separate(all);
        facts.channels = managed.into_iter().collect();
        facts.other_channels = others;
    }
}

/// Decides which channel of a server is managed. `resolve` leads from any address of a server to the recorded one.
///
/// - The default channel is, where there is one.
/// - Of named channels it is the one with its source in the recorded cluster of the server, when that is one.
/// - A single named channel with a source that no other cluster has is managed too, since a new source is recorded only
///   when its replicas are linked to it. But it is not on a server that is, was, or is about to be a primary: there the
///   managed channel was removed, and this is the one that was left.
///
/// Several channels that these rules do not tell apart are not managed, and the server is no successor.
pub fn choose(
    state: &State,
    key: &InstanceKey,
    facts: &InstanceFacts,
    resolve: impl Fn(&InstanceKey) -> InstanceKey,
) -> ManagedChannel {
    let channels: Vec<&Channel> = facts.channels.iter().chain(&facts.other_channels).collect();
    if channels.is_empty() || channels.iter().any(|channel| channel.name.is_empty()) {
        return ManagedChannel::Usual;
    }
    let cluster_of = |key: &InstanceKey| {
        let (own, known) = (key, resolve(key));
        let has = |cluster: &&Cluster| cluster.instances.contains(own) || cluster.instances.contains(&known);
        state.clusters.values().find(has)
    };
    let own = cluster_of(key);
    let cluster_of_source = |channel: &Channel| cluster_of(&channel.source);
    let is_inside =
        |channel: &&&Channel| own.is_some() && cluster_of_source(channel).map(|it| &it.id) == own.map(|it| &it.id);
    let mut inside = channels.iter().filter(is_inside);
    match (inside.next(), inside.next()) {
        (Some(only), None) => return ManagedChannel::Named(only.name.clone()),
        (Some(_), Some(_)) => return ManagedChannel::Nothing,
        (None, _) => {}
    }
    let ([only], cluster) = (channels.as_slice(), own) else {
        return ManagedChannel::Nothing;
    };
    let Some(cluster) = cluster else {
        return ManagedChannel::Usual;
    };
    // A server that was recorded before it became a replica is alone in its cluster.
    let is_alone = cluster.instances.len() == 1;
    let is_foreign = cluster_of_source(only).is_some() && !is_alone;
    let lost_its_own = if is_alone {
        is_primary(cluster, key, facts) && facts.is_writable()
    } else {
        is_primary(cluster, key, facts) || is_in_recovery(state, cluster, key, facts)
    };
    if is_foreign || lost_its_own {
        ManagedChannel::Nothing
    } else {
        ManagedChannel::Usual
    }
}

fn is_primary(cluster: &Cluster, key: &InstanceKey, facts: &InstanceFacts) -> bool {
    let recorded = cluster.primary.as_ref();
    recorded.is_some_and(|recorded| recorded.instance == *key || recorded.identity == facts.identity)
}

/// Whether a recovery replaces the server or promotes it, or one has replaced it.
fn is_in_recovery(state: &State, cluster: &Cluster, key: &InstanceKey, facts: &InstanceFacts) -> bool {
    let is_held = state
        .quarantines
        .values()
        .any(|held| held.cluster == cluster.id && held.identity == facts.identity);
    let is_part = |recovery: &Recovery| {
        let opened = match &recovery.phase {
            Phase::Opened { successor, .. } => successor == key,
            Phase::Claimed | Phase::Ended { .. } => false,
        };
        let plan = &recovery.plan;
        plan.cluster == cluster.id
            && recovery.is_active()
            && (opened
                || plan.old_primary == *key
                || plan.successor == *key
                || plan.successor_identity == facts.identity)
    };
    is_held || state.recoveries.values().any(is_part)
}

#[cfg(test)]
#[path = "managed_channel_tests.rs"]
mod tests;
