//! Whether a replica may be promoted, whatever it holds.

use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::analysis::other_writable_tops;
use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, UnappliedPolicy};
use crate::domain::recovery::refusal::{RefusalReason, excerpt};
use crate::domain::state::LOST_IN_RECOVERY;
use crate::domain::topology::Topology;

/// Parts of a probe without which a server cannot be judged as a successor; other missing parts do not matter for that.
const NEEDED_PARTS: [&str; 5] = ["identity", "variables", "replication status", "channels", "gtid"];

/// Whether a replica may be promoted, but for what others hold: its facts, or the reason why not.
pub(super) fn check_promotable<'a>(
    topology: &Topology,
    old_primary: &InstanceKey,
    replica: &'a Instance,
    policy: &Policy,
) -> Result<&'a InstanceFacts, RefusalReason> {
    let facts = check_promotable_without_gtid(topology, old_primary, replica, policy)?;
    check_gtid(facts)?;
    Ok(facts)
}

/// The same for a replica that does not need GTIDs on its channel.
pub(super) fn check_promotable_without_gtid<'a>(
    topology: &Topology,
    old_primary: &InstanceKey,
    replica: &'a Instance,
    policy: &Policy,
) -> Result<&'a InstanceFacts, RefusalReason> {
    let facts = check_server(topology, replica)?;
    if policy.promotion_rules.get(&replica.key) == Some(&PromotionRule::MustNot) {
        return Err(RefusalReason::MustNot);
    }
    if policy.promotion_ignored.contains(&replica.key) {
        return Err(RefusalReason::Ignored);
    }
    if is_downtimed(topology, policy, &replica.key) && !is_only_lost(topology, policy, &replica.key) {
        return Err(RefusalReason::Downtimed);
    }
    check_geography(topology, old_primary, facts, policy)?;
    check_lag(facts, policy)?;
    Ok(facts)
}

/// Whether others could replicate by GTID from a replica, whether or not it may be promoted: its facts, or the reason
/// why not.
pub(super) fn check_source_by_gtid<'a>(
    topology: &Topology,
    replica: &'a Instance,
) -> Result<&'a InstanceFacts, RefusalReason> {
    let facts = check_server(topology, replica)?;
    check_gtid(facts)?;
    Ok(facts)
}

fn check_gtid(facts: &InstanceFacts) -> Result<(), RefusalReason> {
    let has_gtid_mode = facts.version.flavour.is_mariadb() || facts.gtid_mode == "ON";
    let is_gtid = facts
        .managed_channel()
        .is_some_and(|channel| channel.positioning.is_gtid());
    if is_gtid && has_gtid_mode {
        Ok(())
    } else {
        Err(RefusalReason::NoGtid)
    }
}

/// What every source needs, with GTIDs or without.
fn check_server<'a>(topology: &Topology, replica: &'a Instance) -> Result<&'a InstanceFacts, RefusalReason> {
    let facts = replica
        .valid_facts()
        .ok_or_else(|| RefusalReason::Unreachable(why_unreachable(replica)))?;
    if facts.is_binlog_server() {
        return Err(RefusalReason::BinlogServer);
    }
    check_facts_complete(topology, replica)?;
    if !facts.group_name.is_empty() {
        return Err(RefusalReason::Unknown(format!(
            "member of the replication group {}",
            facts.group_name
        )));
    }
    let channel = facts
        .managed_channel()
        .ok_or_else(|| RefusalReason::Unknown(without_managed_channel(facts)))?;
    if !facts.log_bin {
        return Err(RefusalReason::NoBinlog);
    }
    if !facts.log_replica_updates {
        return Err(RefusalReason::NoReplicaUpdates);
    }
    if channel.filtered {
        return Err(RefusalReason::Filtered);
    }
    if channel.sql_error.number != 0 && channel.sql != ThreadState::Running {
        return Err(RefusalReason::ApplierFailed(format!(
            "error {}: {}",
            channel.sql_error.number, channel.sql_error.message
        )));
    }
    Ok(facts)
}

fn without_managed_channel(facts: &InstanceFacts) -> String {
    let names: Vec<String> = facts
        .other_channels
        .iter()
        .map(|channel| format!("{:?} from {}", channel.name, channel.source))
        .collect();
    if names.is_empty() {
        return "no single replication channel".to_owned();
    }
    format!(
        "none of its replication channels is known to be that of the cluster: {}",
        names.join(", ")
    )
}

/// Whether what is known of an answering server is complete enough to judge by, and is about one server.
pub(super) fn check_facts_complete(topology: &Topology, replica: &Instance) -> Result<(), RefusalReason> {
    let facts = replica
        .valid_facts()
        .ok_or_else(|| RefusalReason::Unreachable(why_unreachable(replica)))?;
    if let Some(problem) = facts.problems.iter().find(|problem| is_needed_part(problem)) {
        return Err(RefusalReason::Unknown(problem.clone()));
    }
    let twin = topology.instances.values().find(|other| {
        other.key != replica.key
            && other
                .valid_facts()
                .is_some_and(|other| other.identity == facts.identity)
    });
    if let Some(twin) = twin {
        return Err(RefusalReason::Unknown(format!("{} has the same identity", twin.key)));
    }
    Ok(())
}

/// How far behind a successor may be in time, and in applying. An unknown lag is not a small one.
fn check_lag(facts: &InstanceFacts, policy: &Policy) -> Result<(), RefusalReason> {
    let channel = facts.managed_channel();
    let allowed = policy.max_promotion_lag_seconds;
    if allowed > 0 {
        let limit = format!("FailMasterPromotionOnLagMinutes allows less than {allowed} s");
        match channel.and_then(|channel| channel.lag_seconds) {
            None => return Err(RefusalReason::Lagging(format!("unknown, and {limit}"))),
            Some(lag) if lag >= allowed => return Err(RefusalReason::Lagging(format!("{lag} s, and {limit}"))),
            Some(_) => {}
        }
    }
    if policy.unapplied == UnappliedPolicy::Refuse {
        let left = facts.received().missing_from(&facts.executed);
        if !left.is_empty() && !facts.executed.covers(&facts.received()) {
            return Err(RefusalReason::NotUpToDate(excerpt(&left)));
        }
    }
    Ok(())
}

/// Where it is forbidden to leave a data centre or region, an unknown one is another one.
fn check_geography(
    topology: &Topology,
    old_primary: &InstanceKey,
    facts: &InstanceFacts,
    policy: &Policy,
) -> Result<(), RefusalReason> {
    let home = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
    let checks = [
        (
            policy.prevent_cross_data_center,
            "data centre",
            home.map(|home| home.data_center.as_str()),
            &facts.data_center,
        ),
        (
            policy.prevent_cross_region,
            "region",
            home.map(|home| home.region.as_str()),
            &facts.region,
        ),
    ];
    for (is_forbidden, what, home, own) in checks {
        if !is_forbidden {
            continue;
        }
        let home = home.filter(|home| !home.is_empty());
        match home {
            None => {
                return Err(RefusalReason::Geography(format!(
                    "the {what} of {old_primary} is unknown, and leaving it is forbidden"
                )));
            }
            Some(home) if home != own => {
                let own = if own.is_empty() { "unknown" } else { own };
                return Err(RefusalReason::Geography(format!(
                    "{what} {own}, the failed primary's is {home}"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// It is in downtime because an earlier recovery left it behind: no operator excluded it, and it is judged by what it holds.
fn is_only_lost(topology: &Topology, policy: &Policy, key: &InstanceKey) -> bool {
    policy
        .downtimes
        .iter()
        .filter(|(downtimed, _)| topology.resolve(downtimed) == key)
        .all(|(_, why)| matches!(why, HeldBack::Downtimed { reason, .. } if reason == LOST_IN_RECOVERY))
}

fn is_needed_part(problem: &str) -> bool {
    NEEDED_PARTS.iter().any(|part| problem.starts_with(part))
}

/// How the last probe of an instance failed.
pub(super) fn why_unreachable(instance: &Instance) -> String {
    instance
        .failure
        .as_ref()
        .map_or_else(|| "never seen".to_owned(), ToString::to_string)
}

/// Why no server may succeed a primary: another one is writable, or a replication group chooses for itself.
pub(super) fn why_no_successor(topology: &Topology, old_primary: &InstanceKey) -> Option<String> {
    if let Some(other) = other_writable_tops(topology, old_primary).first() {
        return Some(format!("{other} is a writable primary of the same cluster already"));
    }
    let group = &topology.get(old_primary)?.facts.as_ref()?.group_name;
    (!group.is_empty()).then(|| {
        format!("{old_primary} was a member of the replication group {group}, which chooses its primary itself")
    })
}
