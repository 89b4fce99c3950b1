//! The plan by which a replica is put below another server by Pseudo-GTID, as a person asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::plan::{Place, Plan, RecoveryKind, Step};
use crate::domain::topology::Topology;

/// The plan, on a view in which both servers were just asked.
///
/// # Errors
/// Why it cannot, or must not, be done, and what to do instead.
pub fn plan_match(
    replica: &InstanceKey,
    target: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
) -> Result<Plan, String> {
    // A person's word stands above filters and pauses; who works on the cluster at the moment does not.
    if let Some(running @ (HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))) = &policy.held_back {
        return Err(running.to_string());
    }
    if !policy.pseudo_gtid {
        return Err(
            "Pseudo-GTID is not configured: set AutoPseudoGTID, or PseudoGTIDPattern for the entries of others"
                .to_owned(),
        );
    }
    let (replica, target) = (topology.resolve(replica), topology.resolve(target));
    if replica == target {
        return Err(format!("{replica} cannot be below itself"));
    }
    let facts = |key: &InstanceKey| {
        let instance = topology
            .get(key)
            .ok_or_else(|| format!("{key} is not in this cluster"))?;
        instance.valid_facts().ok_or_else(|| format!("{key} does not answer"))
    };
    let (own, source) = (facts(replica)?, facts(target)?);
    check_match(replica, own, target, source)?;
    if topology
        .descendants_of(replica)
        .iter()
        .any(|below| below.key == *target)
    {
        return Err(format!("{target} replicates from {replica}, directly or not"));
    }
    let only = BTreeSet::from([replica.clone()]);
    let channel = topology.get(replica).and_then(Instance::channel);
    let place = Place {
        after: channel.map(|channel| channel.exec.clone()).unwrap_or_default(),
        found: None,
    };
    Ok(Plan {
        order: None,
        kind: RecoveryKind::MatchBelow,
        code: Code::NoProblem,
        cluster: topology.cluster.clone(),
        old_primary: replica.clone(),
        old_primary_identity: Some(own.identity.clone()),
        successor: target.clone(),
        successor_identity: source.identity.clone(),
        position: source.executed.clone(),
        instances: BTreeSet::from([replica.clone(), target.clone()]),
        lost_replicas: Vec::new(),
        lost: None,
        remembered: None,
        steps: vec![
            Step::StopReceivers { replicas: only.clone() },
            Step::ApplyAll { replicas: only },
            Step::Match {
                successor: target.clone(),
                replicas: BTreeMap::from([(replica.clone(), place)]),
            },
            Step::RepointAt {
                successor: target.clone(),
                replicas: BTreeMap::from([(replica.clone(), None)]),
            },
        ],
        sources: BTreeMap::new(),
        prior_states: BTreeMap::new(),
    })
}

/// Why a replica's place in a server's log could not be found by Pseudo-GTID, whatever the logs hold.
pub(in crate::domain::recovery) fn check_match(
    replica: &InstanceKey,
    own: &InstanceFacts,
    target: &InstanceKey,
    source: &InstanceFacts,
) -> Result<(), String> {
    check_replica(replica, own)?;
    check_target(replica, own, target, source)
}

fn check_replica(replica: &InstanceKey, own: &InstanceFacts) -> Result<(), String> {
    let channel = own
        .managed_channel()
        .ok_or_else(|| format!("{replica} has no replication channel, or several"))?;
    if own.is_binlog_server() {
        return Err(format!(
            "{replica} is a binlog server: its log is its source's, there is nothing to match"
        ));
    }
    if own.is_group_member() {
        return Err(format!("{replica} is a member of a replication group"));
    }
    if channel.positioning.is_gtid() {
        return Err(format!(
            "{replica} replicates by GTID and would no longer: move it by GTID"
        ));
    }
    if channel.delay_seconds > 0 {
        return Err(format!(
            "{replica} is delayed on purpose by {} s: end the delay first",
            channel.delay_seconds
        ));
    }
    if channel.sql == ThreadState::Stopped && channel.sql_error.number != 0 {
        return Err(format!(
            "the applying thread of {replica} stopped with error {}: {}",
            channel.sql_error.number, channel.sql_error.message
        ));
    }
    Ok(())
}

fn check_target(
    replica: &InstanceKey,
    own: &InstanceFacts,
    target: &InstanceKey,
    source: &InstanceFacts,
) -> Result<(), String> {
    if source.is_binlog_server() {
        return Err(format!(
            "{target} is a binlog server: its positions are its source's, so {replica} needs no match"
        ));
    }
    if !source.log_bin {
        return Err(format!("{target} has no binary log (log_bin)"));
    }
    if source.managed_channel().is_some() && !source.log_replica_updates {
        return Err(format!(
            "{target} does not log what it replicates (log_replica_updates)"
        ));
    }
    if own.server_id == source.server_id || own.identity == source.identity {
        return Err(format!("{replica} and {target} have the same server_id or server_uuid"));
    }
    let is_filtered = |facts: &InstanceFacts| facts.managed_channel().is_some_and(|channel| channel.filtered);
    if is_filtered(source) && !is_filtered(own) {
        return Err(format!("{target} filters what it replicates, and {replica} does not"));
    }
    let (have, wanted) = (&own.version, &source.version);
    let is_older = (have.major, have.minor) < (wanted.major, wanted.minor);
    if have.flavour.is_mariadb() != wanted.flavour.is_mariadb() || is_older {
        return Err(format!("{replica} runs {have}, and {target} {wanted}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{Adjust as _, key, primary, replica, topology};
    use crate::domain::instance::Positioning;
    use crate::domain::recovery::lint::lint;

    fn plain(n: u32, source: u32) -> Instance {
        replica(n, source, "")
            .facts(|facts| facts.gtid_mode = "OFF".to_owned())
            .channel(|channel| channel.positioning = Positioning::FilePosition)
    }

    fn policy() -> Policy {
        Policy {
            pseudo_gtid: true,
            ..Policy::default()
        }
    }

    fn tree(change: impl FnOnce(Instance) -> Instance, of_target: impl FnOnce(Instance) -> Instance) -> Topology {
        topology([primary(1, ""), of_target(plain(2, 1)), change(plain(3, 1)), plain(4, 3)])
    }

    #[test]
    fn a_replica_can_be_put_below_a_sibling() {
        let tree = tree(|it| it, |it| it);
        let made = plan_match(&key(3), &key(2), &tree, &policy()).unwrap();
        assert_eq!(lint(&made, &tree), Vec::<String>::new());
        assert_eq!(made.instances, BTreeSet::from([key(2), key(3)]));
        assert!(!made.kind.replaces_primary());
    }

    #[test]
    fn what_speaks_against_it_is_told_before_anything_is_touched() {
        let why = |tree: &Topology, to: u32| plan_match(&key(3), &key(to), tree, &policy()).unwrap_err();
        let same = |it: Instance| it;
        assert!(why(&tree(same, same), 3).contains("itself"));
        assert!(why(&tree(same, same), 4).contains("replicates from"));
        assert!(why(&tree(same, same), 9).contains("not in this cluster"));
        let by_gtid = |it: Instance| it.channel(|channel| channel.positioning = Positioning::AutoPosition);
        assert!(why(&tree(by_gtid, same), 2).contains("by GTID"));
        let delayed = |it: Instance| it.channel(|channel| channel.delay_seconds = 60);
        assert!(why(&tree(delayed, same), 2).contains("delayed"));
        let silent = |it: Instance| it.facts(|facts| facts.log_replica_updates = false);
        assert!(why(&tree(same, silent), 2).contains("log_replica_updates"));
        let filtered = |it: Instance| it.channel(|channel| channel.filtered = true);
        assert!(why(&tree(same, filtered), 2).contains("filters"));
        assert!(why(&tree(same, |it: Instance| it.dead()), 2).contains("does not answer"));
        let off = plan_match(&key(3), &key(2), &tree(same, same), &Policy::default());
        assert!(off.unwrap_err().contains("AutoPseudoGTID"));
    }
}
