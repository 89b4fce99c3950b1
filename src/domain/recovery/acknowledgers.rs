//! Which replicas may have acknowledged what a primary confirmed to its clients, and whether enough of them can be
//! compared.
//!
//! A commit that waits for w of N acknowledging replicas is on w of them. Of any N - w + 1 of them at least one has it,
//! so what none of them has was not confirmed. A replica counts as acknowledging while nothing shows that it is
//! not: one that was never seen counts, whatever its promotion rule or delay is.

use std::collections::BTreeSet;

use crate::domain::instance::{Instance, InstanceFacts, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::eligibility::check_facts_complete;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// Parts of a probe without which the semi-sync settings of a server are unknown.
const SEMI_SYNC_PARTS: [&str; 2] = ["variables", "semi-sync status"];
/// How much earlier than it was the start of a process may seem that is in its first second, milliseconds: its age counts as one second.
const FIRST_SECOND_MILLIS: i64 = 1_000;
/// A replica that was not seen for so long before its primary was last seen, milliseconds, was away at that look. The
/// parts of a look at a primary are not of one moment.
const AWAY_MILLIS: i64 = 30_000;
/// How many replicas a reason names.
const MAX_NAMED: usize = 5;

/// Whether a source promises that each transaction that it confirmed to a client is on another server too:
/// `AFTER_SYNC`, so that no client sees it before, it waits for acknowledgements however many replicas are connected,
/// and it has not stopped waiting.
///
/// MySQL manual, "Semisynchronous Replication": with `wait_no_replica` off, the source goes on alone at once when
/// fewer replicas than it waits for are connected.
pub(super) fn promises_no_loss(semi_sync: &SemiSync) -> bool {
    semi_sync.source_enabled
        && semi_sync.source_active
        && semi_sync.after_sync
        && semi_sync.wait_no_replica
        && semi_sync.wait_for_count > 0
}

/// What the last look at a primary shows of the promise that no confirmed transaction is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// It waited for so many acknowledgements.
    Given {
        /// How many.
        wait_for: u32,
    },
    /// Its settings are not known, and replicas are set to acknowledge.
    NotSeen,
    /// It waited for none, or not always.
    None,
}

/// How many of the replicas that may have acknowledged can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quorum {
    /// Compared.
    pub(super) compared: u32,
    /// Known: those that are set to acknowledge, and at least as many as the primary counted.
    pub(super) of: u32,
    /// At least so many must be compared.
    pub(super) needed: u32,
    /// Not compared, with the reason.
    missing: Vec<String>,
}

impl Quorum {
    /// Whether the replicas that were compared have everything that was confirmed.
    pub(super) fn is_reached(&self) -> bool {
        self.compared >= self.needed
    }

    /// Why they may lack something.
    pub(super) fn why_not(&self, old_primary: &InstanceKey) -> String {
        let named: Vec<&str> = self.missing.iter().take(MAX_NAMED).map(String::as_str).collect();
        let missing = if named.is_empty() {
            String::new()
        } else {
            format!(" (not compared: {})", named.join(", "))
        };
        format!(
            "{} of {} semi-sync replicas of {old_primary} are compared, and only {} have everything that it confirmed{missing}",
            self.compared, self.of, self.needed
        )
    }
}

/// The promise of a primary by its last facts.
pub(super) fn promise(topology: &Topology, primary: &InstanceKey) -> Promise {
    let facts = topology.get(primary).and_then(|instance| instance.facts.as_ref());
    match facts {
        Some(facts) if are_settings_known(facts) && promises_no_loss(&facts.semi_sync) => Promise::Given {
            wait_for: facts.semi_sync.wait_for_count,
        },
        Some(facts) if are_settings_known(facts) => Promise::None,
        // Only a primary with acknowledging replicas can wait for them, whatever it was set to.
        Some(_) | None => {
            let is_set = |replica: &Instance| {
                let facts = replica.facts.as_ref();
                facts.is_some_and(|facts| facts.semi_sync.replica_enabled)
            };
            if topology.replicas_of(primary).any(is_set) {
                Promise::NotSeen
            } else {
                Promise::None
            }
        }
    }
}

/// How many of the replicas that may have acknowledged commits of `old_primary` can be compared now; `None` when it
/// promised nothing.
pub(super) fn quorum(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> Option<Quorum> {
    let seen = topology.get(old_primary).and_then(|instance| instance.last_seen);
    let is_outdated = |seen: Option<WallTime>| match (policy.acks_changed_at, seen) {
        (Some(changed), Some(seen)) => seen <= changed,
        (Some(_), None) => true,
        (None, _) => false,
    };
    // A lower number was possible since it was last seen.
    let wait_for = match promise(topology, old_primary) {
        Promise::None => return None,
        Promise::Given { wait_for } if !is_outdated(seen) => wait_for,
        Promise::Given { .. } | Promise::NotSeen => 1,
    };
    let below = below(topology, old_primary, inputs);
    let may_acknowledge = |replica: &&&Instance| {
        let facts = replica
            .facts
            .as_ref()
            .filter(|facts| are_settings_known(facts) && !is_outdated(replica.last_seen));
        facts.is_none_or(|facts| facts.semi_sync.replica_enabled)
    };
    let candidates: Vec<&Instance> = below.iter().filter(may_acknowledge).copied().collect();
    let acknowledging: Vec<&Instance> = candidates
        .iter()
        .filter(|replica| !was_not_connected(topology, old_primary, replica, &candidates))
        .copied()
        .collect();
    let mut missing = Vec::new();
    for replica in &acknowledging {
        if let Err(why) = check_compared(topology, old_primary, replica, inputs) {
            missing.push(format!("{}: {why}", replica.key));
        }
    }
    let clients = topology
        .get(old_primary)
        .and_then(|instance| instance.facts.as_ref())
        .map_or(0, |facts| facts.semi_sync.clients);
    let compared = count(acknowledging.len() - missing.len());
    let known = count(acknowledging.len());
    if clients > known {
        missing.push(format!("{} that are not known", clients - known));
    }
    let of = known.max(clients);
    Some(Quorum {
        compared,
        of,
        needed: (of + 1).saturating_sub(wait_for),
        missing,
    })
}

/// The direct replicas of the old primary, and those that this recovery has moved.
fn below<'a>(topology: &'a Topology, old_primary: &InstanceKey, inputs: &ChoiceInputs) -> Vec<&'a Instance> {
    let is_below = |replica: &&Instance| {
        replica.key != *old_primary
            && (topology.source_of(replica) == Some(old_primary) || inputs.moved.contains(&replica.key))
    };
    topology.instances.values().filter(is_below).collect()
}

/// Whether a replica was away for long when the primary was last seen, and did not acknowledge then: all connections
/// that the primary listed are those of other replicas, and as many of these acknowledge as it counted.
fn was_not_connected(
    topology: &Topology,
    primary: &InstanceKey,
    replica: &Instance,
    acknowledging: &[&Instance],
) -> bool {
    let Some((facts, seen)) = topology
        .get(primary)
        .and_then(|instance| Some((instance.facts.as_ref()?, instance.last_seen?)))
    else {
        return false;
    };
    let is_away = replica.failure.is_some()
        && replica
            .last_seen
            .is_some_and(|last| last.plus_millis(AWAY_MILLIS) < seen);
    let listed: BTreeSet<&InstanceKey> = facts
        .replicas
        .iter()
        .map(|listed| topology.resolve(&listed.key))
        .collect();
    let is_other = |key: &&InstanceKey| {
        let other = topology.get(key);
        **key != replica.key && other.is_some_and(|other| topology.source_of(other) == Some(primary))
    };
    let others = acknowledging.iter().filter(|other| listed.contains(&other.key)).count();
    is_away
        && facts.problems.is_empty()
        && facts.replicas.iter().all(|listed| listed.reported)
        && listed.iter().all(is_other)
        && count(others) >= facts.semi_sync.clients
}

/// Whether everything that a replica acknowledged is known now.
fn check_compared(
    topology: &Topology,
    old_primary: &InstanceKey,
    replica: &Instance,
    inputs: &ChoiceInputs,
) -> Result<(), String> {
    check_facts_complete(topology, replica).map_err(|reason| reason.to_string())?;
    let is_binlog_server = replica.facts.as_ref().is_some_and(InstanceFacts::is_binlog_server);
    if is_binlog_server {
        return Err("a binlog server".to_owned());
    }
    // A server may drop the relay log that it has when it starts.
    let seen = topology.get(old_primary).and_then(|instance| instance.last_seen);
    // Its age is known in whole seconds, so it seems to have started up to a second later than it did.
    let age = replica.facts.as_ref().map_or(0, |facts| facts.uptime_seconds);
    let slack = if age <= 1 { FIRST_SECOND_MILLIS } else { 0 };
    if let (Some(started), Some(seen)) = (replica.started(), seen)
        && started.plus_millis(slack) >= seen
    {
        return Err(format!("it started after {old_primary} was last seen"));
    }
    let may_receive = topology.source_of(replica) == Some(old_primary);
    match &inputs.receivers_stopped {
        Some(stopped) if may_receive && !stopped.contains(&replica.key) => {
            Err("its receiver is not stopped".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

fn are_settings_known(facts: &InstanceFacts) -> bool {
    !facts
        .problems
        .iter()
        .any(|problem| SEMI_SYNC_PARTS.iter().any(|part| problem.starts_with(part)))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
