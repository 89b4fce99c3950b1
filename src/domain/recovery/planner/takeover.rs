//! The plan that replaces a living primary. Every obstacle is found here, before anything is touched.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::analysis::{current_primary, other_writable_tops};
use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::eligibility::{check_promotable, why_unreachable};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::loss_evidence::LossEvidence;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::failover_plan::events_of;
use crate::domain::recovery::position::{ReceivedTransactions, purged};
use crate::domain::recovery::refusal::{Refusal, RefusalReason, excerpt};
use crate::domain::recovery::replica_state::PriorPrimaryState;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

/// Makes `target`, or without one the best replica, the primary in place of the living one.
///
/// Without `target` and without a request to start the old primary (the form that chooses by itself), the primary
/// must have exactly one replica. The report's `no_plan` names the instance that stands in the way and what would
/// help.
pub fn plan_takeover(
    topology: &Topology,
    policy: &Policy,
    target: Option<&InstanceKey>,
    request: ManualRequest,
) -> (Option<Plan>, PlanReport) {
    let request = ManualRequest {
        designated: target.is_some(),
        ..request
    };
    match prepare(topology, policy, target, request) {
        Ok((plan, report)) => (Some(plan), report),
        Err(why) => PlanReport::without_plan(why),
    }
}

fn prepare(
    topology: &Topology,
    policy: &Policy,
    target: Option<&InstanceKey>,
    request: ManualRequest,
) -> Result<(Plan, PlanReport), String> {
    if let Some(held @ (HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))) = &policy.held_back {
        return Err(held.to_string());
    }
    let primary =
        current_primary(topology).ok_or_else(|| "the view does not show which server is the primary".to_owned())?;
    let own = check_primary(topology, &primary)?;
    let mut report = PlanReport::default();
    let target = match target {
        Some(wanted) => wanted_target(topology, policy, &primary, wanted)?,
        None => some_target(topology, policy, &primary, &request, &mut report)?,
    };
    let facts = target
        .valid_facts()
        .ok_or_else(|| format!("{}: {}", target.key, why_unreachable(target)))?;
    if is_older(own, facts) {
        report.remarks.push(format!(
            "{primary} runs {}, older than {} of its new source: its replication may stop",
            own.version, facts.version
        ));
    }
    let (followers, left_behind) = siblings(topology, policy, &primary, target, facts)?;
    for refusal in &left_behind {
        report.remarks.push(format!(
            "{} is in downtime and is left behind: {}",
            refusal.instance, refusal.reason
        ));
    }
    report.successor = Some(target.key.clone());
    let everybody_else: BTreeSet<InstanceKey> = followers.into_iter().chain([primary.clone()]).collect();
    let mut instances = everybody_else.clone();
    instances.insert(target.key.clone());
    let plan = Plan {
        position: own.executed.clone(),
        instances,
        lost_replicas: left_behind,
        // The successor is opened only when it has everything that the demoted primary has.
        loss_evidence: Some(LossEvidence::OldPrimaryRead),
        steps: vec![
            Step::Demote {
                old_primary: primary.clone(),
            },
            Step::Drain {
                successor: target.key.clone(),
            },
            Step::Open {
                successor: target.key.clone(),
            },
            Step::Repoint {
                successor: target.key.clone(),
                replicas: everybody_else,
            },
        ],
        manual_request: Some(request),
        old_primary_state: Some(PriorPrimaryState::of(own)),
        events: events_of(Code::DeadMaster, topology, &primary, policy),
        ..Plan::new(
            RecoveryKind::Takeover,
            Code::DeadMaster,
            &topology.cluster,
            (&primary, Some(own.identity.clone())),
            (&target.key, facts),
        )
    };
    Ok((plan, report))
}

/// Exactly one primary, which answers and takes writes.
fn check_primary<'a>(topology: &'a Topology, primary: &InstanceKey) -> Result<&'a InstanceFacts, String> {
    let instance = topology
        .get(primary)
        .ok_or_else(|| format!("the primary {primary} was never seen"))?;
    let facts = instance.valid_facts().ok_or_else(|| {
        format!(
            "the primary {primary} does not answer ({}): a takeover needs a living one; recover replaces a dead one",
            why_unreachable(instance)
        )
    })?;
    if let Some(other) = other_writable_tops(topology, primary).first() {
        return Err(format!("{other} is a writable primary beside {primary}"));
    }
    if !facts.group_name.is_empty() {
        return Err(format!(
            "{primary} is a member of the replication group {}, which changes its primary itself",
            facts.group_name
        ));
    }
    if !facts.is_writable() {
        return Err(format!(
            "the primary {primary} is read-only: there is nothing to take over"
        ));
    }
    if !facts.log_bin {
        return Err(format!("{primary}: {}", RefusalReason::NoBinlog));
    }
    Ok(facts)
}

fn wanted_target<'a>(
    topology: &'a Topology,
    policy: &Policy,
    primary: &InstanceKey,
    wanted: &InstanceKey,
) -> Result<&'a Instance, String> {
    let wanted = topology.resolve(wanted);
    if wanted == primary {
        return Err(format!("{wanted} is the primary already"));
    }
    let target = topology
        .get(wanted)
        .ok_or_else(|| format!("{wanted} is not in the cluster of {primary}"))?;
    check_target(topology, primary, target, policy)
        .and_then(|facts| check_lag(topology, primary, target, facts, policy))
        .map_err(|reason| {
            let hint = hint(&reason);
            format!("{wanted} cannot take over from {primary}: {reason}{hint}")
        })?;
    Ok(target)
}

fn some_target<'a>(
    topology: &'a Topology,
    policy: &Policy,
    primary: &'a InstanceKey,
    request: &ManualRequest,
    report: &mut PlanReport,
) -> Result<&'a Instance, String> {
    let replicas: Vec<&Instance> = topology.replicas_of(primary).collect();
    if replicas.is_empty() {
        return Err(format!("{primary} has no replica that could take over"));
    }
    if replicas.len() > 1 && !request.starts_old_primary {
        let list = replicas
            .iter()
            .map(|replica| replica.key.to_string())
            .collect::<Vec<_>>();
        return Err(format!(
            "{primary} has {} replicas: name the successor, one of {}, or have it chosen \
             (graceful-master-takeover-auto)",
            replicas.len(),
            list.join(", ")
        ));
    }
    let home = topology
        .get(primary)
        .and_then(|instance| instance.facts.as_ref())
        .map_or("", |facts| facts.data_center.as_str());
    let mut fit = Vec::new();
    for replica in replicas {
        let judged = check_target(topology, primary, replica, policy)
            .and_then(|facts| check_lag(topology, primary, replica, facts, policy).map(|()| facts));
        match judged {
            Ok(facts) => {
                let rule = policy.promotion_rules.get(&replica.key).copied().unwrap_or_default();
                let version = (facts.version.major, facts.version.minor, facts.version.patch);
                let elsewhere = !home.is_empty() && facts.data_center != home;
                let leaving = policy.terminating.get(&replica.key);
                fit.push(((leaving, elsewhere, rule, version, &replica.key), replica));
            }
            Err(reason) => report.refused.push(Refusal {
                instance: replica.key.clone(),
                reason,
            }),
        }
    }
    if let Some((_, best)) = fit.into_iter().min_by(|one, other| one.0.cmp(&other.0)) {
        return Ok(best);
    }
    let reasons: Vec<String> = report
        .refused
        .iter()
        .map(|refusal| format!("{}: {}{}", refusal.instance, refusal.reason, hint(&refusal.reason)))
        .collect();
    Err(format!("no replica of {primary} can take over: {}", reasons.join("; ")))
}

/// Whether a server may take over now: a direct replica that may be promoted, with both threads at work.
pub(in crate::domain::recovery) fn check_target<'a>(
    topology: &Topology,
    primary: &InstanceKey,
    target: &'a Instance,
    policy: &Policy,
) -> Result<&'a InstanceFacts, RefusalReason> {
    let facts = check_promotable(topology, primary, target, policy)?;
    match topology.source_of(target) {
        Some(source) if source == primary => {}
        Some(source) => {
            return Err(RefusalReason::NotReplicating(format!(
                "it replicates from {source}, not from the primary"
            )));
        }
        None => return Err(RefusalReason::NotReplicating("it has no source".to_owned())),
    }
    let channel = facts
        .managed_channel()
        .ok_or_else(|| RefusalReason::Unknown("no single replication channel".to_owned()))?;
    for (what, state, error) in [
        ("receiver", channel.io, &channel.io_error),
        ("applier", channel.sql, &channel.sql_error),
    ] {
        if state != ThreadState::Running {
            let why = if error.number == 0 {
                String::new()
            } else {
                format!(", error {}: {}", error.number, error.message)
            };
            return Err(RefusalReason::NotReplicating(format!(
                "its {what} thread is {state:?}{why}"
            )));
        }
    }
    Ok(facts)
}

/// What a plan wants of the target beyond [`check_target`]: it is near, and has nothing of its own.
fn check_lag(
    topology: &Topology,
    primary: &InstanceKey,
    target: &Instance,
    facts: &InstanceFacts,
    policy: &Policy,
) -> Result<(), RefusalReason> {
    let channel = facts
        .managed_channel()
        .ok_or_else(|| RefusalReason::Unknown("no single replication channel".to_owned()))?;
    if channel.delay_seconds > 0 {
        return Err(RefusalReason::Delayed(channel.delay_seconds));
    }
    let allowed = policy.takeover.lag_seconds;
    match channel.lag_seconds {
        None => return Err(RefusalReason::Unknown("its lag".to_owned())),
        Some(lag) if lag > allowed => {
            return Err(RefusalReason::NotReplicating(format!(
                "it lags {lag} s (limit {allowed} s, ReasonableMaintenanceReplicationLagSeconds)"
            )));
        }
        Some(_) => {}
    }
    if facts.has_backup_lock() {
        return Err(RefusalReason::BackupLock);
    }
    if let Some(errant) = ReceivedTransactions::below(topology, primary).errant(&target.key) {
        return Err(RefusalReason::Errant(excerpt(errant)));
    }
    Ok(())
}

/// What would help.
fn hint(reason: &RefusalReason) -> &'static str {
    if let RefusalReason::NotReplicating(why) = reason {
        return if why.starts_with("it replicates from") || why == "it has no source" {
            " (move it below the primary first)"
        } else if why.contains("thread") {
            " (start replication there first)"
        } else {
            ""
        };
    }
    if *reason == RefusalReason::BackupLock {
        " (wait until it has ended, which is seen within a minute)"
    } else if *reason == RefusalReason::MustNot {
        " (set another rule with register-candidate)"
    } else if *reason == RefusalReason::Downtimed {
        " (end-downtime)"
    } else {
        ""
    }
}

fn is_older(one: &InstanceFacts, other: &InstanceFacts) -> bool {
    (one.version.major, one.version.minor) < (other.version.major, other.version.minor)
}

/// The other replicas of the primary: those that will follow the target, and those that cannot and are in downtime.
/// One that cannot and is not in downtime prevents the takeover: it was not declared that it may be left behind.
fn siblings(
    topology: &Topology,
    policy: &Policy,
    primary: &InstanceKey,
    target: &Instance,
    facts: &InstanceFacts,
) -> Result<(BTreeSet<InstanceKey>, Vec<Refusal>), String> {
    let mut followers = BTreeSet::new();
    let mut left_behind = Vec::new();
    for replica in topology
        .replicas_of(primary)
        .filter(|replica| replica.key != target.key)
    {
        let Err(reason) = can_follow(replica, facts) else {
            followers.insert(replica.key.clone());
            continue;
        };
        if !is_downtimed(topology, policy, &replica.key) {
            return Err(format!(
                "{} cannot follow {}: {reason} (repair it, or put it in downtime to leave it behind)",
                replica.key, target.key
            ));
        }
        left_behind.push(Refusal {
            instance: replica.key.clone(),
            reason,
        });
    }
    Ok((followers, left_behind))
}

fn can_follow(replica: &Instance, source: &InstanceFacts) -> Result<(), RefusalReason> {
    let facts = replica
        .valid_facts()
        .ok_or_else(|| RefusalReason::Unreachable(why_unreachable(replica)))?;
    let is_mariadb = facts.version.flavour.is_mariadb();
    let uses_gtid = facts
        .managed_channel()
        .is_some_and(|channel| channel.positioning.is_gtid());
    if !uses_gtid || (!is_mariadb && !matches!(facts.gtid_mode.as_str(), "ON" | "ON_PERMISSIVE")) {
        return Err(RefusalReason::NoGtid);
    }
    if is_mariadb != source.version.flavour.is_mariadb() || is_older(facts, source) {
        return Err(RefusalReason::Version(format!(
            "{}, and the new primary runs {}",
            facts.version, source.version
        )));
    }
    match purged(source, facts) {
        Some(needed) => Err(RefusalReason::Purged(excerpt(&needed))),
        None => Ok(()),
    }
}
