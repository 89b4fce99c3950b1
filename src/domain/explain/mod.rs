//! What would be done if the primary of a cluster failed now, what would be lost, and what prevents it. It is
//! computed continuously by the functions that a recovery uses ([`planner::preview_failover`]), and nothing is
//! touched.
//!
//! API, client, document status and metric use the same result: what it shows before a failure is what ham4db decides
//! in one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::analysis::current_primary;
use super::analysis::evidence::is_receiving;
use super::analysis::startup_grace::startup_grace;
use super::finding::{Code, Finding};
use super::gtid::GtidSet;
use super::instance::Instance;
use super::key::InstanceKey;
use super::policy::{HeldBack, LossPolicy, Policy};
use super::recovery::fencing_proof;
use super::recovery::loss;
use super::recovery::loss_evidence::LossEvidence;
use super::recovery::plan::{Plan, PlanReport};
use super::recovery::planner;
use super::time::WallTime;
use super::topology::Topology;
use crate::domain::recovery::refusal::RefusalReason;
use crate::domain::recovery::refusal::excerpt;

mod text;

/// What would be done about a failure of a cluster's primary, and what prevents it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// Id of the cluster.
    pub cluster: String,
    /// Its name: `host:port` of the primary.
    pub name: String,
    /// Its alias, or the name.
    pub alias: String,
    /// When the view was taken, milliseconds since 1970 UTC.
    pub taken: WallTime,
    /// The current primary, if the view shows one.
    pub primary: Option<InstanceKey>,
    /// If the primary failed now, and the members agreed on it, another server would be made writable.
    pub ready: bool,
    /// Why not, worst first; empty exactly when `ready`.
    pub obstacles: Vec<String>,
    /// The server that would be promoted. There may be one although an obstacle holds the recovery back.
    pub successor: Option<InstanceKey>,
    /// What would be done, in order.
    pub steps: Vec<String>,
    /// What would be lost, as of the last probe.
    pub loss: Loss,
    /// Which proof would allow the opening if the primary no longer answered; empty when no server would be promoted.
    pub fencing: String,
    /// Every other server of the cluster, by address.
    pub replicas: Vec<PromotionOutlook>,
    /// Direct replicas that would be left behind, with the reason.
    pub left_behind: BTreeMap<InstanceKey, String>,
    /// What is not known of the servers: it may change the answer.
    pub unknown: Vec<String>,
    /// What else was weighed.
    pub remarks: Vec<String>,
    /// What is wrong now, and which rule keeps a recovery from it.
    pub findings: Vec<HeldBackFinding>,
}

/// What the successor lacks of what the primary had, as of the last probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Loss {
    /// How many transactions.
    pub transactions: u64,
    /// Which, cut to 200 characters.
    pub set: String,
    /// What proves that nothing that the primary confirms is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Why the loss would be unknown: then `transactions` is a lower bound. `None` where it is proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// The successor receives, so it probably has them by now: it was probed a moment earlier or later than the primary.
    pub arriving: bool,
}

/// Whether one server could be promoted, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionOutlook {
    /// Which.
    pub instance: InstanceKey,
    /// It could be promoted; another one may be preferred.
    pub ok: bool,
    /// Why it is not the one, or why it cannot be; `would be promoted` for the successor.
    pub why: String,
}

/// A finding, and the rule that keeps a recovery from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBackFinding {
    /// On which server.
    pub instance: InstanceKey,
    /// Analysis code.
    pub code: String,
    /// The description of the finding.
    pub description: String,
    /// The rule; `None` when nothing holds a recovery back: it runs, or starts soon.
    pub held_back: Option<String>,
}

/// Explains a cluster. `findings` are those of now, each with what was found out to hold a recovery back.
pub fn explain<'a>(
    topology: &Topology,
    policy: &Policy,
    findings: impl IntoIterator<Item = (&'a Finding, Option<&'a HeldBack>)>,
    now: WallTime,
) -> Explanation {
    let primary = current_primary(topology);
    let preview = FailoverPreview::of(topology, policy, now);
    let mut obstacles: Vec<String> = primary
        .as_ref()
        .map(|primary| held(primary, topology, policy))
        .unwrap_or_default();
    obstacles.extend(preview.obstacle.clone());
    let plan = preview.plan.as_ref();
    let findings: Vec<_> = findings.into_iter().collect();
    // Its first step on the successor would be refused.
    obstacles.extend(findings.iter().filter_map(|(finding, _)| {
        let is_successor = plan.is_some_and(|plan| plan.successor == finding.instance);
        (is_successor && finding.code == Code::MissingPrivileges).then(|| finding.description.clone())
    }));
    Explanation {
        cluster: topology.cluster.0.clone(),
        name: topology.cluster_name.clone(),
        alias: if topology.cluster_alias.is_empty() {
            topology.cluster_name.clone()
        } else {
            topology.cluster_alias.clone()
        },
        taken: topology.taken,
        ready: obstacles.is_empty(),
        obstacles,
        successor: plan.map(|plan| plan.successor.clone()),
        steps: plan
            .map(|plan| plan.steps.iter().map(super::recovery::step::Step::describe).collect())
            .unwrap_or_default(),
        loss: preview.loss(topology, policy, now),
        fencing: plan
            .map(|plan| fencing_proof::predict(plan, topology, policy.acks_changed_at, now).to_string())
            .unwrap_or_default(),
        replicas: outlooks(topology, primary.as_ref(), &preview),
        left_behind: plan
            .map(|plan| {
                let text = |lost: &super::recovery::refusal::Refusal| (lost.instance.clone(), lost.reason.to_string());
                plan.lost_replicas.iter().map(text).collect()
            })
            .unwrap_or_default(),
        unknown: unknown(topology),
        remarks: preview.remarks(topology, policy),
        findings: findings
            .into_iter()
            .filter(|(finding, _)| finding.code != Code::NoProblem || !finding.structure.is_empty())
            .map(|(finding, held_back)| HeldBackFinding {
                instance: finding.instance.clone(),
                code: finding.code.to_string(),
                description: finding.description.clone(),
                held_back: held_back.map(ToString::to_string),
            })
            .collect(),
        primary,
    }
}

impl Explanation {
    /// Whether a server could be promoted; `None` for the primary and for unknown servers.
    pub fn outlook(&self, instance: &InstanceKey) -> Option<&PromotionOutlook> {
        self.replicas.iter().find(|outlook| outlook.instance == *instance)
    }
}

/// What would hold back a recovery of the current primary, whichever server could be promoted.
fn held(primary: &InstanceKey, topology: &Topology, policy: &Policy) -> Vec<String> {
    let downtime = policy
        .downtimes
        .iter()
        .find(|(downtimed, _)| topology.resolve(downtimed) == primary)
        .map(|(_, why)| format!("{primary} is {why}"));
    let general = policy.held_back.as_ref().map(ToString::to_string);
    let controlled = planner::another_controller(topology).map(|why| why.to_string());
    let grace = startup_grace(topology, primary).map(|until| HeldBack::StartupGrace { until }.to_string());
    general
        .into_iter()
        .chain(downtime)
        .chain(controlled)
        .chain(grace)
        .chain(read_only(primary, topology, policy))
        .collect()
}

/// That the current primary takes no writes, and what has to change. A primary in a running recovery is left to that
/// recovery.
fn read_only(primary: &InstanceKey, topology: &Topology, policy: &Policy) -> Option<String> {
    let facts = topology.get(primary)?.valid_facts()?;
    let is_recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key)) == Some(primary);
    if facts.is_writable() || !is_recorded || policy.in_recovery.iter().any(|held| topology.resolve(held) == primary) {
        return None;
    }
    let text = format!("{primary} is read-only: the cluster takes no writes");
    let booted = policy.booted_read_only.as_ref() == Some(primary);
    if !booted && !policy.recover_non_writable_primary {
        return Some(format!(
            "{text}, and RecoverNonWriteableMaster is not set for a primary that was made read-only"
        ));
    }
    Some(match planner::check_non_writable(primary, topology, policy) {
        Ok(_) => format!("{text} until it is made writable again"),
        Err(why) => format!("{text}, and it is not made writable again: {why}"),
    })
}

/// What the planner decides about a failure of the current primary.
struct FailoverPreview {
    plan: Option<Plan>,
    report: PlanReport,
    /// Why no server would be promoted.
    obstacle: Option<String>,
    /// The successor receives from the primary now.
    arriving: bool,
}

impl FailoverPreview {
    /// Under load the primary's set is always a little ahead of what its replicas were seen to have. Such a
    /// difference is no loss yet, and must not make the result change with each probe: while the successor receives,
    /// the loss policy is not applied to it. That the loss would be unknown is no matter of probes.
    fn of(topology: &Topology, policy: &Policy, now: WallTime) -> Self {
        let (plan, report) = planner::preview_failover(topology, policy, now);
        let is_arriving = |plan: &Plan| topology.get(&plan.successor).is_some_and(is_receiving);
        if let Some(plan) = plan {
            return Self {
                arriving: is_arriving(&plan),
                plan: Some(plan),
                report,
                obstacle: None,
            };
        }
        let why = report
            .no_plan
            .clone()
            .unwrap_or_else(|| "no replica can be promoted".to_owned());
        let counts = effective_loss(topology, policy);
        let lenient = Policy {
            loss: LossPolicy::Allow,
            ..policy.clone()
        };
        match planner::preview_failover(topology, &lenient, now) {
            (Some(plan), report) if counts != LossPolicy::Allow => {
                let unknown = loss::refused_as_unknown(topology, &plan.old_primary, policy, now);
                let lost = (counts == LossPolicy::Refuse && !is_arriving(&plan)).then_some(why);
                Self {
                    arriving: is_arriving(&plan),
                    obstacle: lost.or(unknown),
                    plan: Some(plan),
                    report,
                }
            }
            (_, _) => Self {
                plan: None,
                report,
                obstacle: Some(why),
                arriving: false,
            },
        }
    }

    fn lost(&self) -> Option<&GtidSet> {
        self.plan.as_ref()?.lost.as_ref()
    }

    fn loss(&self, topology: &Topology, policy: &Policy, now: WallTime) -> Loss {
        let Some(plan) = &self.plan else {
            return Loss::default();
        };
        let evidence = match &plan.loss_evidence {
            // What is on its way is no loss.
            Some(LossEvidence::Unknown { .. }) if self.arriving => {
                loss::outlook(topology, &plan.old_primary, policy, now)
            }
            Some(LossEvidence::Unknown { why, .. }) => Err(why.clone()),
            Some(proof @ (LossEvidence::Acknowledged { .. } | LossEvidence::OldPrimaryRead)) => Ok(proof.clone()),
            None => Err("the plan does not tell what proves its loss".to_owned()),
        };
        let (proof, unknown) = match evidence {
            Ok(proof) => (Some(proof.to_string()), None),
            Err(why) => (None, Some(why)),
        };
        Loss {
            transactions: self.lost().map_or(0, GtidSet::transaction_count),
            set: self.lost().map(excerpt).unwrap_or_default(),
            arriving: self.arriving && self.lost().is_some(),
            proof,
            unknown,
        }
    }

    fn remarks(&self, topology: &Topology, policy: &Policy) -> Vec<String> {
        // What would be lost is reported separately.
        let mut remarks: Vec<String> = self
            .report
            .remarks
            .iter()
            .filter(|remark| !remark.starts_with("lossPolicy"))
            .cloned()
            .collect();
        if effective_loss(topology, policy) == LossPolicy::AllowAfterTimeout {
            remarks.push(format!(
                "lossPolicy is AllowAfterTimeout: unless it is proved that nothing would be lost, the old primary has {} s to return first",
                policy.loss_timeout_millis / 1000
            ));
        }
        if let Some(plan) = &self.plan
            && let Some(events) = plan.events.as_ref().filter(|events| !events.names.is_empty())
        {
            let more = if events.more { "more than " } else { "" };
            remarks.push(format!(
                "{more}{} events that are enabled on {} would be enabled on {}",
                events.names.len(),
                plan.old_primary,
                plan.successor
            ));
        }
        remarks
    }
}

/// The loss policy that is effective for the current primary.
fn effective_loss(topology: &Topology, policy: &Policy) -> LossPolicy {
    current_primary(topology).map_or(policy.loss, |primary| loss::effective(topology, &primary, policy))
}

/// Whether a reason only means that another server is preferred now.
fn is_preference(reason: &RefusalReason) -> bool {
    match reason {
        RefusalReason::RankedLower(_) | RefusalReason::Behind(_) | RefusalReason::Incomparable(_) => true,
        RefusalReason::Unreachable(_)
        | RefusalReason::NoBinlog
        | RefusalReason::NoReplicaUpdates
        | RefusalReason::BinlogServer
        | RefusalReason::Filtered
        | RefusalReason::MustNot
        | RefusalReason::Ignored
        | RefusalReason::Downtimed
        | RefusalReason::Errant(_)
        | RefusalReason::ApplierFailed(_)
        | RefusalReason::NoGtid
        | RefusalReason::Delayed(_)
        | RefusalReason::Lagging(_)
        | RefusalReason::NotUpToDate(_)
        | RefusalReason::Geography(_)
        | RefusalReason::Purged(_)
        | RefusalReason::Version(_)
        | RefusalReason::Claimed(_)
        | RefusalReason::Unknown(_)
        | RefusalReason::NotReplicating(_)
        | RefusalReason::BackupLock => false,
    }
}

fn outlooks(topology: &Topology, primary: Option<&InstanceKey>, preview: &FailoverPreview) -> Vec<PromotionOutlook> {
    let successor = preview.plan.as_ref().map(|plan| &plan.successor);
    topology
        .instances
        .values()
        .filter(|instance| Some(&instance.key) != primary)
        .map(|instance| {
            let refused = preview
                .report
                .refused
                .iter()
                .find(|refusal| refusal.instance == instance.key);
            let (ok, why) = match refused {
                _ if successor == Some(&instance.key) => (true, "would be promoted".to_owned()),
                Some(refusal) => (is_preference(&refusal.reason), refusal.reason.to_string()),
                None => (false, not_considered(instance, primary, preview)),
            };
            PromotionOutlook {
                instance: instance.key.clone(),
                ok,
                why,
            }
        })
        .collect()
}

fn not_considered(instance: &Instance, primary: Option<&InstanceKey>, preview: &FailoverPreview) -> String {
    match (primary, &preview.obstacle) {
        _ if !instance.is_valid() => RefusalReason::Unreachable(why_unreachable(instance)).to_string(),
        (None, _) => "the view does not show which server is the primary".to_owned(),
        (Some(_), Some(why)) if preview.plan.is_none() && instance.source().is_some() => why.clone(),
        (Some(primary), _) => format!("does not replicate from {primary}, nor from a replica of it"),
    }
}

fn why_unreachable(instance: &Instance) -> String {
    instance
        .failure
        .as_ref()
        .map_or_else(|| "never seen".to_owned(), ToString::to_string)
}

/// Servers that were never seen, and parts of probes that failed.
fn unknown(topology: &Topology) -> Vec<String> {
    let mut unknown = Vec::new();
    for instance in topology.instances.values() {
        match &instance.facts {
            None => unknown.push(format!("{}: {}", instance.key, why_unreachable(instance))),
            Some(facts) => unknown.extend(
                facts
                    .problems
                    .iter()
                    .map(|problem| format!("{}: {problem}", instance.key)),
            ),
        }
    }
    unknown
}

#[cfg(test)]
mod tests;
