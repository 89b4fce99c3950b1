//! Builds the status of a document from the view of its cluster.

use std::collections::BTreeMap;

use crate::domain::cluster_view::JudgedFinding;
use crate::domain::explain::{Explanation, explain};
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, ThreadState};
use crate::domain::intent::{Intent, IntentDetails, IntentKind, Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::state::{Phase, Quarantine, QuarantineState, Recovery, State};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use super::ClusterView;
use super::commands::other_owner;
use super::conditions;
use super::document::DeclaredCluster;
use super::incident_id;
use super::requests::{self, FORCE_ANNOTATION};
use super::status::{
    DowntimeEnd, DowntimeOrigin, DowntimePhase, DowntimeStatus, InstanceStatus, LastRecovery, PrimaryStatus,
    Promotable, RecoveryPhase, RecoveryStatus, Role, StatusModel,
};

/// The clusters that the seeds of a document belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeedMatch<'a> {
    /// The cluster that the document owns.
    pub(super) view: Option<&'a ClusterView>,
    /// The document that owns the cluster of the seeds, when this one owns none.
    pub(super) other_owner: Option<&'a Origin>,
    /// A seed in a cluster that another document owns.
    pub(super) foreign_seed: Option<(&'a InstanceKey, &'a Origin)>,
    /// A seed in another cluster that this document owns too.
    pub(super) second_topology: Option<(&'a InstanceKey, &'a ClusterView)>,
}

fn find<'a>(declared: &'a DeclaredCluster, state: &'a State, views: &'a [ClusterView]) -> SeedMatch<'a> {
    let origin = &declared.document.origin;
    let other_owner = other_owner(declared, state, views);
    let mut found = SeedMatch {
        view: None,
        other_owner,
        foreign_seed: None,
        second_topology: None,
    };
    if other_owner.is_some() {
        return found;
    }
    let mut named: Vec<(&InstanceKey, &ClusterView)> = Vec::new();
    for seed in &declared.document.seeds {
        for view in views
            .iter()
            .filter(|view| view.topology.get(seed).is_some() || view.cluster.instances.contains(seed))
        {
            match &view.cluster.document {
                Some(owner) if owner != origin => found.foreign_seed = found.foreign_seed.or(Some((seed, owner))),
                Some(_) | None => named.push((seed, view)),
            }
        }
    }
    named.sort_by(|(_, a), (_, b)| (a.cluster.created_at, &a.cluster.id).cmp(&(b.cluster.created_at, &b.cluster.id)));
    found.view = named.first().map(|(_, view)| *view);
    found.second_topology = named
        .iter()
        .find(|(_, view)| found.view.is_some_and(|first| first.cluster.id != view.cluster.id))
        .copied();
    found
}

/// The status of one document, and the view of the cluster that it owns.
pub(super) fn status<'a>(
    declared: &'a DeclaredCluster,
    state: &'a State,
    views: &'a [ClusterView],
    now: WallTime,
) -> (StatusModel, Option<&'a ClusterView>) {
    let found = find(declared, state, views);
    let mut model = StatusModel {
        observed_generation: Some(declared.document.generation),
        ..StatusModel::default()
    };
    if let Some(view) = found.view {
        let explanation = explain(&view.topology, &view.policy, [], now);
        model.primary = primary(view);
        model.instances = view
            .topology
            .instances
            .values()
            .map(|instance| InstanceStatus {
                promotable: promotable(&explanation, &instance.key),
                ..describe(instance, view, state, now)
            })
            .collect();
        model.recovery = running(view, state, now).or_else(|| would_block(explanation));
        model.last_recovery = last(&view.cluster.id, state);
    }
    model.takeover = requests::takeover(declared, state, found.view);
    model.force = requests::forced(declared, state);
    model.downtime = downtimes(declared, state, found.view, now);
    model.conditions = conditions::of(declared, &found, &model);
    model.problem = conditions::worst(&model);
    (model, found.view)
}

fn primary(view: &ClusterView) -> Option<PrimaryStatus> {
    view.cluster.primary.as_ref().map(|primary| PrimaryStatus {
        instance: primary.instance.clone(),
        epoch: primary.epoch,
        since: primary.since,
    })
}

fn describe(instance: &Instance, view: &ClusterView, state: &State, now: WallTime) -> InstanceStatus {
    let topology = &view.topology;
    let quarantine = quarantine_of(instance, view, state);
    let role = role(instance, view, quarantine);
    let facts = instance.valid_facts();
    InstanceStatus {
        instance: instance.key.clone(),
        role,
        answers: instance.is_valid(),
        lag_seconds: facts
            .and_then(|_| instance.channel())
            .and_then(|channel| channel.lag_seconds),
        read_only: facts.map(|facts| facts.read_only),
        errant: match (role, quarantine.map(|quarantine| &quarantine.standing)) {
            (_, Some(QuarantineState::Errant { set })) => Some(set.clone()),
            (Role::Replica, _) => errant(instance, view),
            _ => None,
        },
        promotion_rule: promotion_rule(&instance.key, topology, state, now),
        promotable: None,
        downtime: downtime_end(&instance.key, topology, state, now),
        problems: problems(instance, role, quarantine, &view.findings),
    }
}

fn promotable(explanation: &Explanation, instance: &InstanceKey) -> Option<Promotable> {
    explanation.outlook(instance).map(|outlook| Promotable {
        ok: outlook.ok,
        why: if outlook.ok { String::new() } else { outlook.why.clone() },
    })
}

/// The reason that would hold back a recovery that is not needed yet.
fn would_block(explanation: Explanation) -> Option<RecoveryStatus> {
    let old_primary = explanation.primary.filter(|_| !explanation.ready)?;
    Some(RecoveryStatus {
        uid: None,
        phase: RecoveryPhase::WouldBlock,
        failure: Code::NoProblem,
        old_primary,
        // Which server is preferred changes with every transaction, so the status does not show it.
        successor: None,
        blocked_by: explanation.obstacles,
    })
}

fn quarantine_of<'a>(instance: &Instance, view: &ClusterView, state: &'a State) -> Option<&'a Quarantine> {
    state.quarantines.values().find(|quarantine| {
        quarantine.cluster == view.cluster.id
            && match &instance.facts {
                Some(facts) => facts.identity == quarantine.identity,
                None => *view.topology.resolve(&quarantine.instance) == instance.key,
            }
    })
}

fn role(instance: &Instance, view: &ClusterView, quarantine: Option<&Quarantine>) -> Role {
    let recorded = view
        .cluster
        .primary
        .as_ref()
        .map(|primary| view.topology.resolve(&primary.instance));
    if recorded == Some(&instance.key) {
        Role::Primary
    } else if quarantine.is_some() {
        Role::Quarantined
    } else if instance.facts.is_none() {
        Role::Unknown
    } else if instance.source().is_some() {
        Role::Replica
    } else {
        Role::Detached
    }
}

/// The transactions that a replica has and the primary lacks. Transactions that originate at the primary are left out:
/// the replica was probed later and may show more of them.
fn errant(instance: &Instance, view: &ClusterView) -> Option<GtidSet> {
    let primary = view
        .cluster
        .primary
        .as_ref()
        .and_then(|primary| view.topology.get(&primary.instance))?
        .facts
        .as_ref()?;
    let lacks = instance.valid_facts()?.executed.missing_from(&primary.executed);
    let errant = lacks.subtract(&lacks.originating_at(&primary.identity.origin()));
    Some(errant).filter(|errant| !errant.is_empty())
}

/// The active intents for an instance, under any of its addresses.
fn intents_for<'a>(
    key: &'a InstanceKey,
    kind: IntentKind,
    topology: &'a Topology,
    state: &'a State,
    now: WallTime,
) -> impl Iterator<Item = &'a Intent> {
    state
        .intents
        .iter()
        .filter(move |(id, intent)| {
            id.kind == kind && topology.resolve(&id.instance) == key && intent.details.is_active(now)
        })
        .map(|(_, intent)| intent)
}

/// The promotion rule in effect: `must_not` of any origin first, then the rule of a document, then of the API.
fn promotion_rule(key: &InstanceKey, topology: &Topology, state: &State, now: WallTime) -> PromotionRule {
    let rules: BTreeMap<&Origin, PromotionRule> = intents_for(key, IntentKind::Candidate, topology, state, now)
        .filter_map(|intent| match &intent.details {
            IntentDetails::Candidate { rule, .. } => Some((&intent.origin, *rule)),
            IntentDetails::Downtime { .. } => None,
        })
        .collect();
    if rules.values().any(|rule| *rule == PromotionRule::MustNot) {
        return PromotionRule::MustNot;
    }
    let of_document = rules
        .iter()
        .find(|(origin, _)| matches!(origin, Origin::Document { .. }))
        .map(|(_, rule)| *rule);
    of_document
        .or_else(|| rules.values().next().copied())
        .unwrap_or_default()
}

fn downtime_end(key: &InstanceKey, topology: &Topology, state: &State, now: WallTime) -> Option<DowntimeEnd> {
    intents_for(key, IntentKind::Downtime, topology, state, now)
        .filter_map(|intent| match &intent.details {
            IntentDetails::Downtime { until, .. } => Some(until.map_or(DowntimeEnd::Indefinite, DowntimeEnd::At)),
            IntentDetails::Candidate { .. } => None,
        })
        .max()
}

fn problems(
    instance: &Instance,
    role: Role,
    quarantine: Option<&Quarantine>,
    findings: &[JudgedFinding],
) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(failure) = &instance.failure {
        problems.push(format!("does not answer: {failure}"));
    } else if instance.facts.is_none() {
        problems.push("has not answered yet".to_owned());
    }
    if let Some(quarantine) = quarantine {
        problems.push(match &quarantine.standing {
            QuarantineState::Absent => "quarantined: has not answered since it failed".to_owned(),
            QuarantineState::Contained => "quarantined: read-only, without errant transactions".to_owned(),
            QuarantineState::Errant { set } => format!("quarantined: read-only, with errant transactions: {set}"),
            QuarantineState::Unknown { why } => format!("quarantined: read-only, transactions not compared yet: {why}"),
        });
    }
    if role == Role::Detached {
        problems.push("has no source and is not the primary".to_owned());
    }
    if instance.is_valid()
        && let Some(channel) = instance.channel()
    {
        match channel.io {
            ThreadState::Running => {}
            ThreadState::Connecting => problems.push(format!("cannot connect to its source {}", channel.source)),
            ThreadState::Stopped if channel.io_error.number != 0 => {
                problems.push(format!(
                    "receiver thread stopped: error {}: {}",
                    channel.io_error.number, channel.io_error.message
                ));
            }
            ThreadState::Stopped => problems.push("receiver thread is stopped".to_owned()),
        }
        if channel.sql != ThreadState::Running {
            problems.push(if channel.sql_error.number == 0 {
                "applier thread is stopped".to_owned()
            } else {
                format!(
                    "applier thread stopped: error {}: {}",
                    channel.sql_error.number, channel.sql_error.message
                )
            });
        }
    }
    let findings = findings.iter().map(|judged| &judged.finding);
    for finding in findings.filter(|finding| finding.instance == instance.key) {
        if finding.code != Code::NoProblem && !finding.code.is_advice() {
            problems.push(format!("{}: {}", finding.code, finding.description));
        }
        problems.extend(finding.structure.iter().map(|warning| format!("{warning:?}")));
    }
    problems
}

fn running(view: &ClusterView, state: &State, now: WallTime) -> Option<RecoveryStatus> {
    let active = state
        .recoveries
        .values()
        .find(|recovery| recovery.is_active() && recovery.plan.cluster == view.cluster.id);
    if let Some(recovery) = active {
        return Some(RecoveryStatus {
            uid: Some(recovery.uid.clone()),
            phase: if matches!(recovery.phase, Phase::Opened { .. }) {
                RecoveryPhase::Opened
            } else {
                RecoveryPhase::Claimed
            },
            failure: recovery.finding.code,
            old_primary: recovery.plan.old_primary.clone(),
            successor: Some(recovery.successor().unwrap_or(&recovery.plan.successor).clone()),
            blocked_by: Vec::new(),
        });
    }
    let blocked_by = view.held_back_reasons();
    if blocked_by.is_empty() {
        return None;
    }
    let cause = view
        .findings
        .iter()
        .map(|judged| &judged.finding)
        .filter(|finding| finding.code != Code::NoProblem && !finding.code.is_advice())
        .min_by_key(|finding| (!finding.code.is_actionable(), finding.code))?;
    let incident = incident_id::ids_of(state, &view.cluster.id, &cause.instance, now);
    Some(RecoveryStatus {
        uid: incident.into_iter().next(),
        phase: RecoveryPhase::Blocked,
        failure: cause.code,
        old_primary: cause.instance.clone(),
        successor: None,
        blocked_by,
    })
}

fn last(cluster: &ClusterId, state: &State) -> Option<LastRecovery> {
    let ended = |recovery: &&Recovery| recovery.plan.cluster == *cluster && recovery.ended().is_some();
    let recovery = state
        .recoveries
        .values()
        .filter(ended)
        .max_by_key(|recovery| (recovery.ended(), recovery.id))?;
    Some(LastRecovery {
        uid: recovery.uid.clone(),
        failure: recovery.finding.code,
        old_primary: recovery.plan.old_primary.clone(),
        successor: recovery.successor().cloned(),
        started: recovery.started,
        ended: recovery.ended()?,
        successful: recovery.is_successful(),
        lost: recovery.lost.clone().filter(|lost| !lost.is_empty()),
        loss: recovery.loss(),
        fencing: recovery.fencing_proof.as_ref().map(ToString::to_string),
        accepted_via: recovery
            .plan
            .manual_request
            .as_ref()
            .filter(|order| order.accepts_loss)
            .map(|_| FORCE_ANNOTATION.to_owned()),
        acknowledged: recovery.acknowledged.is_some(),
    })
}

fn downtimes(
    declared: &DeclaredCluster,
    state: &State,
    view: Option<&ClusterView>,
    now: WallTime,
) -> Vec<DowntimeStatus> {
    let origin = &declared.document.origin;
    let mut listed: Vec<DowntimeStatus> = declared
        .downtime
        .iter()
        .map(|entry| {
            let id = crate::domain::intent::IntentId {
                kind: IntentKind::Downtime,
                instance: entry.instance.clone(),
                origin: origin.clone(),
            };
            let phase = if entry.is_expired(now) {
                DowntimePhase::Expired
            } else if view.is_some_and(|view| view.topology.get(&entry.instance).is_none()) {
                DowntimePhase::NotFound
            } else if state
                .intents
                .get(&id)
                .is_some_and(|intent| intent.details.is_active(now))
            {
                DowntimePhase::Active
            } else {
                DowntimePhase::Pending
            };
            DowntimeStatus {
                instance: entry.instance.clone(),
                phase,
                origin: DowntimeOrigin::Document,
                owner: entry.owner.clone(),
                until: entry.until,
            }
        })
        .collect();
    if let Some(view) = view {
        for intent in state
            .intents
            .values()
            .filter(|intent| intent.origin != *origin && intent.details.is_active(now))
        {
            if let IntentDetails::Downtime { owner, until, .. } = &intent.details
                && view.topology.get(&intent.instance).is_some()
            {
                listed.push(DowntimeStatus {
                    instance: intent.instance.clone(),
                    phase: DowntimePhase::Active,
                    origin: if intent.origin == Origin::Recovery {
                        DowntimeOrigin::Recovery
                    } else {
                        DowntimeOrigin::Api
                    },
                    owner: owner.clone(),
                    until: *until,
                });
            }
        }
    }
    listed
}
