//! A dead primary whose replicas know no GTIDs: the choice by file and position in the source's binary log.
//!
//! Only those who read the primary's log count: positions in one and the same log are all that can be compared. These are its direct
//! replicas, and the replicas of its binlog servers, which serve its log as it is. The one that received most is promoted. What the others lack is told from its logs ([`crate::domain::recovery::equivalence`]), or by GTID where the servers have
//! GTIDs and only the channels do not use them (MariaDB always has; MySQL with `gtid_mode=ON`).

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, Policy};
use crate::domain::recovery::eligibility::{judge_without_gtid, why_unreachable};
use crate::domain::recovery::equivalence::is_after;
use crate::domain::recovery::loss;
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind, Refusal, RefusalReason, Step};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::{identity_of, is_receivers_stopped, no_successor_at_all};

/// Whether the replicas of a primary are to be compared by position: they have channels, and none of those that answer uses GTIDs.
pub(in crate::domain::recovery) fn applies(topology: &Topology, old_primary: &InstanceKey) -> bool {
    let mut channels = readers(topology, old_primary)
        .into_iter()
        .filter_map(|replica| replica.valid_facts()?.managed_channel())
        .peekable();
    channels.peek().is_some() && channels.all(|channel| !channel.positioning.is_gtid())
}

/// Those who read this server's binary log, from it or through binlog servers; not these themselves, as they execute nothing.
pub(in crate::domain::recovery) fn readers<'a>(topology: &'a Topology, of: &'a InstanceKey) -> Vec<&'a Instance> {
    let (servers, mut found): (Vec<&Instance>, Vec<&Instance>) =
        topology.replicas_of(of).partition(|replica| is_binlog_server(replica));
    let mut seen: BTreeSet<&InstanceKey> = servers.iter().map(|server| &server.key).collect();
    let mut waiting = servers;
    while let Some(server) = waiting.pop() {
        for replica in topology.replicas_of(&server.key) {
            if !is_binlog_server(replica) {
                found.push(replica);
            } else if seen.insert(&replica.key) {
                waiting.push(replica);
            }
        }
    }
    found
}

/// By its last word: one that is gone still tells what is below it.
pub(in crate::domain::recovery) fn is_binlog_server(instance: &Instance) -> bool {
    instance.facts.as_ref().is_some_and(InstanceFacts::is_binlog_server)
}

/// The binlog servers that serve a server's log, at whatever distance.
fn binlog_servers<'a>(topology: &'a Topology, of: &'a InstanceKey) -> Vec<&'a Instance> {
    let is_served = |instance: &&Instance| {
        let mut above = topology.source_of(instance);
        for _ in 0..topology.instances.len() {
            match above {
                Some(key) if key == of => return true,
                Some(key) => {
                    let next = topology.get(key).filter(|next| is_binlog_server(next));
                    above = next.and_then(|next| topology.source_of(next));
                }
                None => return false,
            }
        }
        false
    };
    topology
        .instances
        .values()
        .filter(|instance| is_binlog_server(instance))
        .filter(is_served)
        .collect()
}

/// The plan, if there is one, and what was considered. `excluded` are servers that are no candidates for a reason of the moment.
pub(in crate::domain::recovery) fn plan_for(
    code: Code,
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    excluded: &BTreeMap<InstanceKey, RefusalReason>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let mut report = PlanReport::default();
    match choose(code, old_primary, topology, policy, excluded, now, &mut report) {
        Ok(plan) => (Some(plan), report),
        Err(why) => {
            report.no_plan = Some(why);
            (None, report)
        }
    }
}

fn choose(
    code: Code,
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    excluded: &BTreeMap<InstanceKey, RefusalReason>,
    now: WallTime,
    report: &mut PlanReport,
) -> Result<Plan, String> {
    if let Some(why) = no_successor_at_all(topology, old_primary) {
        return Err(why);
    }
    let mut candidates = Vec::new();
    let readers = readers(topology, old_primary);
    for replica in readers.iter().copied() {
        let judged = match excluded.get(&replica.key) {
            Some(reason) => Err(reason.clone()),
            None => judge_without_gtid(topology, old_primary, replica, policy),
        };
        let delay = replica.channel().map_or(0, |channel| channel.delay_seconds);
        match judged {
            Ok(_) if delay > 0 => report.refused.push(refusal(replica, RefusalReason::Delayed(delay))),
            Ok(facts) => candidates.push((replica, facts)),
            Err(reason) => report.refused.push(refusal(replica, reason)),
        }
    }
    let rank = |(replica, facts): &(&Instance, &InstanceFacts)| {
        let rule = policy.promotion_rules.get(&replica.key).copied().unwrap_or_default();
        (
            policy.leaving.get(&replica.key).copied(),
            rule,
            (facts.version.major, facts.version.minor, facts.version.patch),
            replica.key.clone(),
        )
    };
    let best = candidates
        .iter()
        .filter(|one| !candidates.iter().any(|other| is_after(read(other.1), read(one.1))))
        .min_by_key(|candidate| rank(candidate))
        .ok_or_else(|| "no replica can be promoted".to_owned())?;
    let (successor, facts) = *best;
    accept_loss(topology, old_primary, facts, policy, now, report)?;
    let mut followers = BTreeSet::new();
    let mut lost_replicas = Vec::new();
    for replica in readers.iter().filter(|replica| replica.key != successor.key) {
        match obstacle(replica, facts) {
            None => {
                followers.insert(replica.key.clone());
            }
            Some(reason) => lost_replicas.push(refusal(replica, reason)),
        }
        if candidates.iter().any(|(candidate, _)| candidate.key == replica.key) {
            report.refused.push(refusal(
                replica,
                RefusalReason::RankedLower(format!(
                    "{} comes first by position, rule, version and address",
                    successor.key
                )),
            ));
        }
    }
    // What they hold of the old log is of no use to anybody any more; they cannot append another one's to it.
    for server in binlog_servers(topology, old_primary) {
        report.refused.push(refusal(server, RefusalReason::BinlogServer));
        lost_replicas.push(refusal(server, RefusalReason::BinlogServer));
    }
    report.successor = Some(successor.key.clone());
    report.refused.sort_by(|left, right| left.instance.cmp(&right.instance));
    let instances = topology
        .descendants_of(old_primary)
        .into_iter()
        .map(|instance| instance.key.clone())
        .chain([old_primary.clone()]);
    Ok(Plan {
        order: None,
        kind: RecoveryKind::DeadPrimaryByPosition,
        code,
        cluster: topology.cluster.clone(),
        old_primary: old_primary.clone(),
        old_primary_identity: identity_of(topology, old_primary),
        successor: successor.key.clone(),
        successor_identity: facts.identity.clone(),
        position: facts.executed.clone(),
        instances: instances.collect(),
        lost_replicas,
        lost: None,
        steps: steps(old_primary, successor, followers, &readers),
        sources: BTreeMap::new(),
        prior_states: BTreeMap::new(),
        remembered: None,
    })
}

/// The old primary is fenced, its readers stop and apply what they have, the successor opens, and the others follow it.
fn steps(
    old_primary: &InstanceKey,
    successor: &Instance,
    followers: BTreeSet<InstanceKey>,
    readers: &[&Instance],
) -> Vec<Step> {
    let mut applying = followers.clone();
    applying.insert(successor.key.clone());
    let mut steps = vec![Step::Fence {
        old_primary: old_primary.clone(),
    }];
    let receivers_stopped: BTreeSet<InstanceKey> = readers
        .iter()
        .filter(|replica| replica.is_valid() && !is_receivers_stopped(replica))
        .map(|replica| replica.key.clone())
        .collect();
    if !receivers_stopped.is_empty() {
        steps.push(Step::StopReceivers {
            replicas: receivers_stopped,
        });
    }
    steps.extend([
        Step::ApplyAll { replicas: applying },
        Step::Redial {
            old_primary: old_primary.clone(),
        },
        Step::Open {
            successor: successor.key.clone(),
        },
    ]);
    if !followers.is_empty() {
        steps.push(Step::RepointAt {
            successor: successor.key.clone(),
            replicas: followers.into_iter().map(|key| (key, None)).collect(),
        });
    }
    steps
}

/// Up to where a replica received its source's log.
pub(in crate::domain::recovery) fn read(facts: &InstanceFacts) -> &BinlogCoordinates {
    static NOTHING: BinlogCoordinates = BinlogCoordinates {
        file: String::new(),
        position: 0,
    };
    facts.managed_channel().map_or(&NOTHING, |channel| &channel.read)
}

/// Whether a replica can follow by GTID although its channel does not use it.
pub(in crate::domain::recovery) fn follows_by_gtid(replica: &InstanceFacts, source: &InstanceFacts) -> bool {
    let has_gtid = |facts: &InstanceFacts| match facts.executed {
        GtidSet::MariaDb(_) => true,
        GtidSet::MySql(_) => facts.gtid_mode == "ON",
    };
    has_gtid(replica) && has_gtid(source)
}

fn obstacle(replica: &Instance, source: &InstanceFacts) -> Option<RefusalReason> {
    let Some(facts) = replica.valid_facts() else {
        return Some(RefusalReason::Unreachable(why_unreachable(replica)));
    };
    if facts.managed_channel().is_none() {
        return Some(RefusalReason::Unknown("no single replication channel".to_owned()));
    }
    if is_after(read(facts), read(source)) {
        return Some(RefusalReason::Incomparable(format!(
            "it received up to {}, the successor only up to {}",
            read(facts),
            read(source)
        )));
    }
    let is_older = (facts.version.major, facts.version.minor) < (source.version.major, source.version.minor);
    (facts.version.flavour.is_mariadb() != source.version.flavour.is_mariadb() || is_older)
        .then(|| RefusalReason::Version(format!("{}, and the successor runs {}", facts.version, source.version)))
}

/// Without GTIDs what is lost has no names: only that the primary's log was seen longer than what was received of it.
fn accept_loss(
    topology: &Topology,
    old_primary: &InstanceKey,
    successor: &InstanceFacts,
    policy: &Policy,
    now: WallTime,
    report: &mut PlanReport,
) -> Result<(), String> {
    let instance = topology.get(old_primary);
    let written = instance.and_then(|instance| instance.facts.as_ref()?.binlog.as_ref());
    // A binlog server that has more than its replicas may not get to hand it on any more.
    let served = binlog_servers(topology, old_primary);
    let served = served.into_iter().filter_map(Instance::valid_facts).map(read);
    let ahead = written
        .into_iter()
        .chain(served)
        .filter(|written| is_after(written, read(successor)))
        .reduce(|most, other| if is_after(other, most) { other } else { most });
    let Some(ahead) = ahead else {
        return Ok(());
    };
    let told = format!(
        "{old_primary} had written up to {ahead}, and up to {} was received",
        read(successor)
    );
    let away = instance
        .and_then(|instance| instance.last_seen)
        .map(|seen| now.millis_since(seen));
    match loss::effective(topology, old_primary, policy) {
        LossPolicy::Refuse => Err(format!("transactions would be lost, and lossPolicy is Refuse: {told}")),
        LossPolicy::AllowAfterTimeout if away.is_some_and(|away| away < policy.loss_timeout_millis) => Err(format!(
            "transactions would be lost, and the old primary has {} s to come back (lossTimeout): {told}",
            policy.loss_timeout_millis / 1000
        )),
        LossPolicy::AllowAfterTimeout | LossPolicy::Allow | LossPolicy::Auto => {
            report.remarks.push(format!("transactions are lost: {told}"));
            Ok(())
        }
    }
}

fn refusal(instance: &Instance, reason: RefusalReason) -> Refusal {
    Refusal {
        instance: instance.key.clone(),
        reason,
    }
}
