//! The plan that replaces a dead primary with replicas that do not use GTIDs: the choice by file and position in its
//! binary log.
//!
//! Only the readers of the primary's log can be compared ([`crate::domain::recovery::binlog_readers`]). Those that
//! received most of it are ranked as in a choice by GTID ([`crate::domain::recovery::rank`]). What the other readers
//! lack is found in the logs ([`crate::domain::recovery::relay_log_match`]), or by GTID where the servers have GTIDs
//! and only the channels do not use them (MariaDB always has them; MySQL with `gtid_mode=ON`).

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::binlog_readers::{binlog_servers, follows_by_gtid, readers, received_up_to};
use crate::domain::recovery::choice::backup_remark;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::eligibility::{check_promotable_without_gtid, why_no_successor, why_unreachable};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::loss;
use crate::domain::recovery::loss_evidence::LossEvidence;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::co_primary;
use crate::domain::recovery::planner::failover_plan::identity_of;
use crate::domain::recovery::promotion_option::{Candidate, PromotionOption};
use crate::domain::recovery::rank::Ranking;
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::relay_log_match::is_after;
use crate::domain::recovery::replica_state::is_receiver_stopped;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// Whether the replicas of a primary are to be compared by position: they have channels, and none of those that
/// answer uses GTIDs.
pub(in crate::domain::recovery) fn applies(topology: &Topology, old_primary: &InstanceKey) -> bool {
    let mut channels = readers(topology, old_primary)
        .into_iter()
        .filter_map(|replica| replica.valid_facts()?.managed_channel())
        .peekable();
    channels.peek().is_some() && channels.all(|channel| !channel.positioning.is_gtid())
}

/// The plan, if there is one, and what was considered.
pub(in crate::domain::recovery) fn plan_by_position(
    code: Code,
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Plan>, PlanReport) {
    let mut report = PlanReport::default();
    match choose(code, old_primary, topology, policy, inputs, &mut report) {
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
    inputs: &ChoiceInputs,
    report: &mut PlanReport,
) -> Result<Plan, String> {
    if let Some(why) = why_no_successor(topology, old_primary) {
        return Err(why);
    }
    let readers = readers(topology, old_primary);
    let candidates = candidates(&readers, topology, old_primary, policy, &inputs.excluded, report);
    let ranking = Ranking::among(topology, old_primary, readers.clone(), policy, inputs);
    let options: Vec<PromotionOption<'_, '_>> = candidates.iter().map(as_it_is).collect();
    let is_behind = |one: &PromotionOption<'_, '_>, other: &PromotionOption<'_, '_>| {
        is_after(
            received_up_to(other.candidate.facts),
            received_up_to(one.candidate.facts),
        )
    };
    let only = is_of_two(code)
        .then(|| co_primary::only_successor(topology, old_primary, policy))
        .flatten();
    let best = match &only {
        Some(only) => options
            .iter()
            .find(|option| option.candidate.instance.key == *only)
            .ok_or_else(|| {
                let why = report.refused.iter().find(|refusal| refusal.instance == *only);
                let why = why.map_or_else(
                    || "it does not replicate from it".to_owned(),
                    |why| why.reason.to_string(),
                );
                format!("{only} is the other co-primary and cannot be promoted: {why}")
            })?,
        None => options
            .iter()
            .filter(|one| !options.iter().any(|other| is_behind(one, other)))
            .min_by_key(|option| ranking.rank(option))
            .ok_or_else(|| "no replica can be promoted".to_owned())?,
    };
    let Candidate {
        instance: successor,
        facts,
        ..
    } = *best.candidate;
    for other in options
        .iter()
        .filter(|other| other.candidate.instance.key != successor.key)
    {
        let reason = if only.is_some() {
            RefusalReason::RankedLower("only the other co-primary may be promoted".to_owned())
        } else if is_behind(other, best) {
            RefusalReason::Behind(format!(
                "what follows {} ({} received up to {})",
                received_up_to(other.candidate.facts),
                successor.key,
                received_up_to(best.candidate.facts)
            ))
        } else {
            RefusalReason::RankedLower(ranking.why_lower(other, best))
        };
        report.refused.push(Refusal::of(other.candidate.instance, reason));
    }
    let ring = is_of_two(code)
        .then(|| own_writes(topology, old_primary, successor, facts, policy))
        .flatten();
    let loss_evidence = accept_loss(topology, old_primary, facts, policy, inputs, report)?;
    let mut followers = BTreeSet::new();
    let mut lost_replicas = Vec::new();
    for replica in readers.iter().filter(|replica| replica.key != successor.key) {
        // By GTID nothing has to be placed.
        let is_placed = |replica: &Instance| replica.valid_facts().is_none_or(|it| !follows_by_gtid(it, facts));
        match obstacle(replica, facts).or_else(|| ring.clone().filter(|_| is_placed(replica))) {
            None => {
                followers.insert(replica.key.clone());
            }
            Some(reason) => lost_replicas.push(Refusal::of(replica, reason)),
        }
    }
    // They hold a part of the old log, and cannot append the log of another server to it.
    for server in binlog_servers(topology, old_primary) {
        report.refused.push(Refusal::of(server, RefusalReason::BinlogServer));
        lost_replicas.push(Refusal::of(server, RefusalReason::BinlogServer));
    }
    report.successor = Some(successor.key.clone());
    if facts.has_backup_lock() {
        report.remarks.push(backup_remark(&successor.key));
    }
    report.refused.sort_by(|left, right| left.instance.cmp(&right.instance));
    let instances = topology
        .descendants_of(old_primary)
        .into_iter()
        .map(|instance| instance.key.clone())
        .chain([old_primary.clone()]);
    Ok(Plan {
        instances: instances.collect(),
        lost_replicas,
        loss_evidence: Some(loss_evidence),
        steps: steps(old_primary, successor, followers, &readers),
        ..Plan::new(
            RecoveryKind::DeadPrimaryByPosition,
            code,
            &topology.cluster,
            (old_primary, identity_of(topology, old_primary)),
            (&successor.key, facts),
        )
    })
}

/// Whether the failed primary replicated from another server that replicated from it.
pub(in crate::domain::recovery) fn is_of_two(code: Code) -> bool {
    RecoveryKind::for_code(code) == Some(RecoveryKind::CoPrimary)
}

/// Why no replica of the dead co-primary can be placed in the log of the other one: that log has transactions of its own
/// between those of the dead one, and which of them the dead one passed on is not known. `None` where it is the log of a
/// read-only server, which the dead one had applied.
fn own_writes(
    topology: &Topology,
    old_primary: &InstanceKey,
    successor: &Instance,
    facts: &InstanceFacts,
    policy: &Policy,
) -> Option<RefusalReason> {
    let dead = topology.get(old_primary)?;
    if topology.source_of(dead) != Some(&successor.key) {
        return None;
    }
    let unknown = |why: String| Some(RefusalReason::Unknown(why));
    if facts.is_writable() {
        return unknown(format!(
            "{} takes writes itself, and which of them {old_primary} passed on is not known without GTIDs",
            successor.key
        ));
    }
    let channel = dead.facts.as_ref().and_then(InstanceFacts::managed_channel);
    let had_all = channel.is_some_and(|channel| {
        let is_running = channel.io == ThreadState::Running && channel.sql == ThreadState::Running;
        is_running
            && channel
                .lag_seconds
                .is_some_and(|lag| lag <= policy.reasonable_lag_seconds)
    });
    if had_all {
        None
    } else {
        unknown(format!(
            "whether {old_primary} had applied all writes of {} is not known without GTIDs",
            successor.key
        ))
    }
}

/// The readers that may be promoted; the others are refused.
fn candidates<'a>(
    readers: &[&'a Instance],
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    excluded: &BTreeMap<InstanceKey, RefusalReason>,
    report: &mut PlanReport,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for replica in readers.iter().copied() {
        let judged = match excluded.get(&replica.key) {
            Some(reason) => Err(reason.clone()),
            None => check_promotable_without_gtid(topology, old_primary, replica, policy),
        };
        let delay = replica.channel().map_or(0, |channel| channel.delay_seconds);
        match judged {
            Ok(_) if delay > 0 => report.refused.push(Refusal::of(replica, RefusalReason::Delayed(delay))),
            Ok(facts) => candidates.push(Candidate {
                instance: replica,
                facts,
                // What was received and not applied cannot be counted without GTIDs.
                position: &facts.executed,
                is_last_resort: false,
            }),
            Err(reason) => report.refused.push(Refusal::of(replica, reason)),
        }
    }
    candidates
}

/// A candidate is promoted with what it received: without GTIDs no replica catches up from another one.
fn as_it_is<'c, 'a>(candidate: &'c Candidate<'a>) -> PromotionOption<'c, 'a> {
    PromotionOption {
        candidate,
        catch_up_source: None,
        position: candidate.position.clone(),
    }
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
        .filter(|replica| replica.is_valid() && !is_receiver_stopped(replica))
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

fn obstacle(replica: &Instance, source: &InstanceFacts) -> Option<RefusalReason> {
    let Some(facts) = replica.valid_facts() else {
        return Some(RefusalReason::Unreachable(why_unreachable(replica)));
    };
    if facts.managed_channel().is_none() {
        return Some(RefusalReason::Unknown("no single replication channel".to_owned()));
    }
    if is_after(received_up_to(facts), received_up_to(source)) {
        return Some(RefusalReason::Incomparable(format!(
            "it received up to {}, the successor only up to {}",
            received_up_to(facts),
            received_up_to(source)
        )));
    }
    let is_older = (facts.version.major, facts.version.minor) < (source.version.major, source.version.minor);
    (facts.version.flavour.is_mariadb() != source.version.flavour.is_mariadb() || is_older)
        .then(|| RefusalReason::Version(format!("{}, and the successor runs {}", facts.version, source.version)))
}

/// Without GTIDs a loss cannot be named: it is only known that more of the primary's log was seen than was received.
fn accept_loss(
    topology: &Topology,
    old_primary: &InstanceKey,
    successor: &InstanceFacts,
    policy: &Policy,
    inputs: &ChoiceInputs,
    report: &mut PlanReport,
) -> Result<LossEvidence, String> {
    let instance = topology.get(old_primary);
    let written = instance.and_then(|instance| instance.facts.as_ref()?.binlog.as_ref());
    // A binlog server that has more than its replicas may not get to hand it on any more.
    let served = binlog_servers(topology, old_primary);
    let read = readers(topology, old_primary);
    let served = served
        .into_iter()
        .chain(read)
        .filter_map(Instance::valid_facts)
        .map(received_up_to);
    let ahead = written
        .into_iter()
        .chain(served)
        .filter(|written| is_after(written, received_up_to(successor)))
        .reduce(|most, other| if is_after(other, most) { other } else { most });
    let known = ahead.map(|ahead| {
        format!(
            "{old_primary} had written up to {ahead}, and up to {} was received",
            received_up_to(successor)
        )
    });
    loss::accept_unnamed(topology, old_primary, policy, known.as_deref(), inputs, report)
}
