//! What each server below a primary has received, which part of it is errant, and what is known to be lost.
//!
//! The *position* of a replica is all that it received or executed, without its errant transactions: promotion ranks by it.
//!
//! # Errant
//! A transaction is errant when it was committed first at a server below the primary, and no server outside that
//! server's own branch has it: neither the primary by its last facts, nor any other replica. What was committed first
//! at the primary is never errant, so the transactions that only one replica could still fetch from a dying primary
//! count in its favour; nor is anything that a former primary wrote and that travelled on from it. A branch (a
//! replica with all below it) counts as one, because an intermediate replica passes its errant transactions on.
//!
//! When nothing is known of the primary's set and no other replica was ever seen, there is nothing to compare with,
//! and nothing counts as errant. Nor is what the source of the top committed: of co-primaries each replicates from
//! the other one. MariaDB's positions do not name the servers that wrote before a replica was provisioned; so, while
//! the primary's set is unknown, only a server that names the origin at all can testify that something of that origin
//! is missing elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

/// What one replica holds by its last facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaPosition {
    /// Executed and received.
    pub received: GtidSet,
    /// The errant part, if there is one.
    pub errant: Option<GtidSet>,
    /// Received without the errant part.
    pub position: GtidSet,
}

/// What all descendants of one server hold, answering now or not, and what that server itself was seen to hold.
#[derive(Clone, Debug)]
pub struct ReceivedTransactions {
    /// The top's own, seen or remembered.
    top: Option<GtidSet>,
    origins: Vec<crate::domain::gtid::TransactionOrigin>,
    replicas: BTreeMap<InstanceKey, ReplicaPosition>,
}

struct Branch<'a> {
    facts: &'a InstanceFacts,
    received: GtidSet,
    members: BTreeSet<&'a InstanceKey>,
}

impl ReceivedTransactions {
    /// What is below `top`.
    pub fn below(topology: &Topology, top: &InstanceKey) -> Self {
        Self::remembering(topology, top, None)
    }

    /// What is below `top`, which is also `remembered` to have held this: members remember what they saw of a
    /// primary, whatever the view of this one shows.
    pub fn remembering(topology: &Topology, top: &InstanceKey, remembered: Option<&GtidSet>) -> Self {
        let top_facts = topology.get(top).and_then(|instance| instance.facts.as_ref());
        let branches: BTreeMap<&InstanceKey, Branch<'_>> = topology
            .descendants_of(top)
            .into_iter()
            .filter_map(|replica| {
                let facts = replica.facts.as_ref()?;
                let below = topology
                    .descendants_of(&replica.key)
                    .into_iter()
                    .map(|instance: &Instance| &instance.key);
                let members = below.chain([&replica.key]).collect();
                Some((
                    &replica.key,
                    Branch {
                        facts,
                        received: facts.received(),
                        members,
                    },
                ))
            })
            .collect();
        let top_set = match (top_facts.map(InstanceFacts::received), remembered) {
            (Some(seen), Some(remembered)) => Some(seen.union(remembered)),
            (seen, remembered) => seen.or_else(|| remembered.cloned()),
        };
        let top_source = top_facts
            .and_then(|facts| facts.managed_channel())
            .map(|channel| topology.resolve(&channel.source));
        let top_identity = top_facts.map(|facts| &facts.identity);
        let replicas = branches
            .iter()
            .map(|(key, branch)| {
                let is_above =
                    |other: &&Branch<'_>| other.members.contains(key) && Some(&other.facts.identity) != top_identity;
                let errant = branches
                    .iter()
                    .filter(|(root, _)| Some(**root) != top_source)
                    .map(|(_, branch)| branch)
                    .filter(is_above)
                    .filter_map(|origin| errant_of(origin, &branch.received, top_set.as_ref(), &branches))
                    .reduce(|all, part| all.union(&part));
                let position = errant
                    .as_ref()
                    .map_or_else(|| branch.received.clone(), |errant| branch.received.subtract(errant));
                (
                    (*key).clone(),
                    ReplicaPosition {
                        received: branch.received.clone(),
                        errant,
                        position,
                    },
                )
            })
            .collect();
        let origins = topology
            .instances
            .values()
            .filter_map(|instance| Some(instance.facts.as_ref()?.identity.origin()))
            .collect();
        Self {
            top: top_set,
            origins,
            replicas,
        }
    }

    /// What one replica holds; `None` when it was never seen.
    pub fn get(&self, key: &InstanceKey) -> Option<&ReplicaPosition> {
        self.replicas.get(key)
    }

    /// The errant transactions of a replica, if it has any.
    pub fn errant(&self, key: &InstanceKey) -> Option<&GtidSet> {
        self.replicas.get(key)?.errant.as_ref()
    }

    /// What the top is known to have had and `position` lacks, or `None` when that is nothing: a lower bound of what
    /// is lost when a server with this position takes over. Known from the top's own last facts, and from whatever
    /// any replica got from it.
    pub fn lacking(&self, position: &GtidSet) -> Option<GtidSet> {
        let sets = self
            .top
            .iter()
            .chain(self.replicas.values().map(|holding| &holding.position));
        sets.filter_map(|known| self.missing(known, position))
            .reduce(|all, part| all.union(&part))
    }

    /// What of `known` a server with `position` lacks, or `None` when that is nothing.
    ///
    /// A MariaDB server that was provisioned from a backup does not name the servers that wrote before; what it
    /// covers by later sequence numbers of the same domain is not missing.
    pub fn missing(&self, known: &GtidSet, position: &GtidSet) -> Option<GtidSet> {
        if position.covers(known) {
            return None;
        }
        let mut missing = known.missing_from(position);
        for origin in &self.origins {
            let part = missing.originating_at(origin);
            if !part.is_empty() && position.covers(&part) {
                missing = missing.subtract(&part);
            }
        }
        (!missing.is_empty()).then_some(missing)
    }
}

/// What of `received` was committed first at the root of a branch and is held by no server outside it.
fn errant_of(
    origin: &Branch<'_>,
    received: &GtidSet,
    top: Option<&GtidSet>,
    all: &BTreeMap<&InstanceKey, Branch<'_>>,
) -> Option<GtidSet> {
    let own_origin = origin.facts.identity.origin();
    let mut suspicious = received.originating_at(&own_origin);
    if suspicious.is_empty() {
        return None;
    }
    let outside = all
        .iter()
        .filter(|(key, _)| !origin.members.contains(*key))
        .map(|(_, branch)| &branch.received);
    let names_origin = |set: &&GtidSet| {
        top.is_some() || !origin.facts.version.flavour.is_mariadb() || !set.originating_at(&own_origin).is_empty()
    };
    let mut witnesses = top.into_iter().chain(outside.filter(names_origin)).peekable();
    witnesses.peek()?;
    for witness in witnesses {
        suspicious = suspicious.subtract(witness);
    }
    (!suspicious.is_empty()).then_some(suspicious)
}

/// What the source has purged and the replica has not executed. Received is not enough: pointing a replica at another
/// source drops its relay log.
pub(super) fn purged(source: &InstanceFacts, replica: &InstanceFacts) -> Option<GtidSet> {
    let needed = source.purged.subtract(&replica.executed);
    (!needed.is_empty()).then_some(needed)
}
