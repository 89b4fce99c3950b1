//! Finding + topology + policy → plan and report. Nothing is touched here, and the executor has nothing left to decide.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::analysis::evidence::is_receiving;
use crate::domain::analysis::startup::startup_grace;
use crate::domain::analysis::{current_primary, is_silent, other_writable_tops};
use crate::domain::finding::{Code, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

mod boot_read_only;
pub(super) mod by_position;
mod co_primary;
mod designated;
mod durability;
mod errant;
mod forced;
mod match_below;
mod non_writable;
mod rechoice;
mod rejoin;
mod relocate;
mod semi_sync;
mod silent;
mod successor;
mod takeover;

pub(super) use boot_read_only::{check_hold, check_reopen};
pub use boot_read_only::{plan_boot_read_only, plan_hold, plan_reopen};
use designated::choose_designated;
pub use durability::plan_durability;
pub use errant::{MOST_INJECTED, plan_errant};
pub use forced::plan_forced;
pub(super) use match_below::check_match;
pub use match_below::plan_match;
pub use non_writable::check_non_writable;
pub use rechoice::rechoose;
pub(super) use rechoice::{keep_within, moved, not_claimed, rechoose_without};
pub(super) use rejoin::{check_reattach, check_rejoin};
pub use rejoin::{plan_reattach, plan_rejoin};
pub use silent::plan_silent;
pub use successor::{lost_successor, view};
pub(super) use takeover::check_target;
pub use takeover::plan_takeover;

use super::candidate::{Choice, ChoiceInputs, choose};
use super::plan::{Order, Plan, PlanReport, PriorReplicaState, RecoveryKind, Step};

/// Why nothing may be done about a finding, whoever could be promoted; `None` when the policy allows it.
///
/// First the finding itself, then the order of the design: global switch, document, filters, running and recent recoveries; last
/// the downtime of the instance, or of all its replicas where the finding is about these.
pub fn held_back(finding: &Finding, topology: &Topology, policy: &Policy) -> Option<HeldBack> {
    let key = topology.resolve(&finding.instance);
    if finding.code == Code::StalledPrimary {
        if let Some(why) = silent::not_yet(key, topology, policy) {
            return Some(why);
        }
    } else if !finding.code.is_actionable() && !is_silent(finding) {
        return Some(HeldBack::NotActionable);
    }
    let downtime = policy
        .downtimes
        .iter()
        .find(|(downtimed, _)| topology.resolve(downtimed) == key)
        .map(|(_, downtime)| downtime);
    let of_replicas = || {
        let first = finding
            .evidence
            .replicas
            .first()
            .filter(|_| finding.replicas_downtimed)?;
        policy.downtimes.get(topology.resolve(first))
    };
    // A primary that is silent or stalled is replaced like a dead one, once it is proved that it is no better.
    let is_by_silence = finding.code == Code::StalledPrimary || is_silent(finding);
    let kind = if is_by_silence {
        Some(RecoveryKind::DeadPrimary)
    } else {
        RecoveryKind::for_code(finding.code)
    };
    let general = match kind {
        Some(RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember) => &policy.held_back_intermediates,
        Some(RecoveryKind::SemiSync | RecoveryKind::NonWritablePrimary) => &policy.held_back_living,
        _ => &policy.held_back,
    };
    let recent = policy
        .recent_repairs
        .iter()
        .find(|recent| Some(recent.kind) == kind && topology.resolve(&recent.instance) == key)
        .map(|recent| HeldBack::RecentRecovery {
            uid: recent.uid.clone(),
            until: recent.until,
        });
    let grace = || startup_grace(topology, key).map(|until| HeldBack::StartupGrace { until });
    let controlled = || another_controller(topology);
    let tested = policy.recent_test.clone().filter(|_| is_by_silence);
    let held = general
        .clone()
        .or_else(|| not_asked_for(finding.code, key, policy))
        .or(tested)
        .or(recent)
        .or_else(|| downtime.or_else(of_replicas).cloned());
    held.or_else(controlled).or_else(grace)
}

/// Another controller owns the primary, or did until that failed: its cluster is not ours to repair.
pub fn another_controller(topology: &Topology) -> Option<HeldBack> {
    let primary = current_primary(topology)?;
    let who = topology.get(&primary)?.another_controller.clone()?;
    Some(HeldBack::OwnedByAnotherGroup(format!(
        "{who} holds the lock on {primary}"
    )))
}

/// The key that would have to be set, where a repair is made only when asked for.
fn not_asked_for(code: Code, key: &InstanceKey, policy: &Policy) -> Option<HeldBack> {
    let (is_asked_for, key) = if code == Code::LockedSemiSyncMaster {
        let is_asked_for =
            policy.recover_locked_semi_sync || policy.enforce_exact_semi_sync || policy.durability.is_kept();
        (is_asked_for, "RecoverLockedSemiSyncMaster")
    } else if code == Code::MasterWithTooManySemiSyncReplicas {
        (policy.enforce_exact_semi_sync, "EnforceExactSemiSyncReplicas")
    } else if code == Code::NoWriteableMasterStructureWarning {
        let is_asked_for = policy.recover_non_writable_primary || policy.booted_read_only.as_ref() == Some(key);
        (is_asked_for, "RecoverNonWriteableMaster")
    } else {
        return None;
    };
    (!is_asked_for).then(|| HeldBack::NotAskedFor { key: key.to_owned() })
}

/// The plan for a finding, if there is one, and what was considered.
///
/// Whether the plan may be carried out is another question ([`held_back`], the members' agreement, [`super::lint::lint`]).
pub fn plan(finding: &Finding, topology: &Topology, policy: &Policy, now: WallTime) -> (Option<Plan>, PlanReport) {
    plan_as_asked(finding, topology, policy, PlanRequest::default(), now)
}

/// [`plan`], with what the members remember of the old primary's transactions.
pub fn plan_remembering(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    remembered: Option<GtidSet>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let asked = PlanRequest {
        remembered,
        ..PlanRequest::default()
    };
    plan_as_asked(finding, topology, policy, asked, now)
}

/// What a plan rests on beside view and policy.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest<'a> {
    /// This one is promoted, or nobody is.
    pub designated: Option<&'a InstanceKey>,
    /// What a person asked for.
    pub order: Option<Order>,
    /// What the members remember of the old primary's transactions.
    pub remembered: Option<GtidSet>,
}

/// [`plan`], as a person asked for it, and with what the members remember.
pub fn plan_as_asked(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    asked: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let old_primary = topology.resolve(&finding.instance);
    match RecoveryKind::for_code(finding.code) {
        Some(kind @ (RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember)) => {
            return relocate::plan_relocation(finding, kind, topology, policy);
        }
        Some(RecoveryKind::SemiSync) => return semi_sync::plan_semi_sync(finding, topology, policy),
        Some(RecoveryKind::NonWritablePrimary) => return non_writable::plan_non_writable(finding, topology, policy),
        Some(
            RecoveryKind::DeadPrimary
            | RecoveryKind::DeadPrimaryByPosition
            | RecoveryKind::CoPrimary
            | RecoveryKind::Rejoin
            | RecoveryKind::ResolveErrant
            | RecoveryKind::Takeover
            | RecoveryKind::MatchBelow
            | RecoveryKind::BootReadOnly
            | RecoveryKind::ReopenPrimary
            | RecoveryKind::Durability,
        )
        | None => {}
    }
    let topology = &*view(finding.code, topology, old_primary);
    let is_of_two = RecoveryKind::for_code(finding.code) == Some(RecoveryKind::CoPrimary);
    if is_of_two && current_primary(topology).is_some_and(|primary| primary != *old_primary) {
        // The primary lives on. Who else replicated from the dead one needs another source.
        return relocate::plan_relocation(finding, RecoveryKind::IntermediatePrimary, topology, policy);
    }
    if let Err(why) = check_finding(finding, old_primary, topology) {
        return no_plan(why);
    }
    plan_for(finding.code, old_primary, topology, policy, asked, now)
}

/// Nothing, and why.
fn no_plan(why: String) -> (Option<Plan>, PlanReport) {
    (
        None,
        PlanReport {
            no_plan: Some(why),
            ..PlanReport::default()
        },
    )
}

/// What would be done if the present primary died now: shown before anything breaks.
pub fn rehearse(topology: &Topology, policy: &Policy, now: WallTime) -> (Option<Plan>, PlanReport) {
    match current_primary(topology) {
        Some(primary) => {
            let code = co_primary::death_of(topology, &primary);
            plan_for(code, &primary, topology, policy, PlanRequest::default(), now)
        }
        None => (
            None,
            PlanReport {
                no_plan: Some("the view does not tell who the primary is".to_owned()),
                ..PlanReport::default()
            },
        ),
    }
}

/// What must hold for a recovery of a dead primary, beyond its code.
fn check_finding(finding: &Finding, old_primary: &InstanceKey, topology: &Topology) -> Result<(), String> {
    if !finding.code.is_actionable() {
        return Err(format!("no recovery exists for {}", finding.code));
    }
    match current_primary(topology) {
        Some(primary) if primary == *old_primary => {}
        Some(primary) => return Err(format!("{old_primary} is not the primary of the cluster, {primary} is")),
        None => {
            return Err(format!(
                "the view does not tell whether {old_primary} is the primary of the cluster"
            ));
        }
    }
    if topology.get(old_primary).is_some_and(Instance::is_valid) {
        return Err(format!("{old_primary} answers"));
    }
    if let Some(replica) = topology.replicas_of(old_primary).find(|replica| is_receiving(replica)) {
        return Err(format!("{} receives from {old_primary}", replica.key));
    }
    Ok(())
}

fn plan_for(
    code: Code,
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    asked: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    let kind = co_primary::kind_for(code);
    if by_position::applies(topology, old_primary) {
        if kind == RecoveryKind::CoPrimary {
            return no_plan(format!(
                "the replicas of {old_primary} do not use GTIDs: without them no co-primary is replaced"
            ));
        }
        if asked.designated.is_some() || asked.order.as_ref().is_some_and(|order| order.forced) {
            return no_plan(format!(
                "the replicas of {old_primary} do not use GTIDs: without them nobody can be named, and no living primary replaced"
            ));
        }
        let (plan, report) = by_position::plan_for(code, old_primary, topology, policy, &BTreeMap::new(), now);
        let order = asked.order;
        let plan = plan.map(|plan| with_fencer(Plan { order, ..plan }, policy));
        return (plan, report);
    }
    let only = (kind == RecoveryKind::CoPrimary)
        .then(|| co_primary::only_successor(topology, old_primary, policy))
        .flatten();
    let inputs = ChoiceInputs {
        remembered: asked.remembered,
        wanted: designated::wanted(topology, asked.designated, only.as_ref()),
        ..ChoiceInputs::at(now)
    };
    let (choice, report) = choose_designated(topology, old_primary, policy, &inputs);
    let plan = choice.and_then(|choice| {
        let instances = topology
            .descendants_of(old_primary)
            .into_iter()
            .map(|instance| instance.key.clone())
            .chain([old_primary.clone()]);
        let frame = Frame {
            kind,
            code,
            old_primary: old_primary.clone(),
            old_primary_identity: identity_of(topology, old_primary),
            instances: instances.collect(),
            sources: sources_below(topology, old_primary),
            prior_states: prior_states_below(topology, old_primary),
            remembered: inputs.remembered.clone(),
            order: asked.order,
        };
        assemble(frame, choice, topology)
    });
    (plan.map(|plan| with_fencer(plan, policy)), report)
}

/// The plan, with the user's own fencer before the opening where there is one.
fn with_fencer(mut plan: Plan, policy: &Policy) -> Plan {
    let opening = plan.steps.iter().position(|step| matches!(step, Step::Open { .. }));
    if let Some(opening) = opening.filter(|_| policy.fences_outside) {
        let old_primary = plan.old_primary.clone();
        plan.steps.insert(opening, Step::CallFencer { old_primary });
    }
    plan
}

/// Why nobody may succeed a primary, whoever could: another one is writable, or a replication group chooses for itself.
fn no_successor_at_all(topology: &Topology, old_primary: &InstanceKey) -> Option<String> {
    if let Some(other) = other_writable_tops(topology, old_primary).first() {
        return Some(format!("{other} is a writable primary of the same cluster already"));
    }
    let group = &topology.get(old_primary)?.facts.as_ref()?.group_name;
    (!group.is_empty()).then(|| {
        format!("{old_primary} was a member of the replication group {group}, which chooses its primary itself")
    })
}

/// The choice, unless opening anybody would make two writable primaries.
fn choose_successor(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Choice>, PlanReport) {
    if let Some(why) = no_successor_at_all(topology, old_primary) {
        return (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        );
    }
    choose(topology, old_primary, policy, inputs)
}

/// Who a server is: by its own word, otherwise by its replicas' (they keep the source's uuid, on MariaDB its `server_id`).
fn identity_of(topology: &Topology, key: &InstanceKey) -> Option<Identity> {
    if let Some(facts) = topology.get(key).and_then(|instance| instance.facts.as_ref()) {
        return Some(facts.identity.clone());
    }
    let told: BTreeSet<Identity> = topology
        .replicas_of(key)
        .filter_map(|replica| {
            let is_mariadb = replica.facts.as_ref()?.version.flavour.is_mariadb();
            let channel = replica.channel()?;
            match (&channel.source_uuid, channel.source_server_id) {
                (Some(uuid), _) if !uuid.is_empty() => Some(Identity::ServerUuid(uuid.to_lowercase())),
                (_, id) if is_mariadb && id > 0 => Some(Identity::ServerId(id)),
                _ => None,
            }
        })
        .collect();
    // Two answers are none: the address was given to another server in between.
    if told.len() == 1 { told.into_iter().next() } else { None }
}

/// What stays the same when the choice is made again.
struct Frame {
    kind: RecoveryKind,
    code: Code,
    old_primary: InstanceKey,
    old_primary_identity: Option<Identity>,
    instances: BTreeSet<InstanceKey>,
    sources: BTreeMap<InstanceKey, InstanceKey>,
    prior_states: BTreeMap<InstanceKey, PriorReplicaState>,
    remembered: Option<GtidSet>,
    order: Option<Order>,
}

/// From whom each one below `old_primary` replicates.
fn sources_below(topology: &Topology, old_primary: &InstanceKey) -> BTreeMap<InstanceKey, InstanceKey> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|replica| Some((replica.key.clone(), topology.source_of(replica)?.clone())))
        .collect()
}

/// How those below `old_primary` replicate, where that is not simply.
fn prior_states_below(topology: &Topology, old_primary: &InstanceKey) -> BTreeMap<InstanceKey, PriorReplicaState> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|replica| {
            let channel = replica.valid_facts()?.managed_channel()?;
            let prior_state = PriorReplicaState {
                stopped: channel.io == ThreadState::Stopped,
                delay_seconds: channel.delay_seconds,
            };
            (prior_state != PriorReplicaState::default()).then(|| (replica.key.clone(), prior_state))
        })
        .collect()
}

fn assemble(frame: Frame, choice: Choice, topology: &Topology) -> Option<Plan> {
    let Frame {
        kind,
        code,
        old_primary,
        old_primary_identity,
        instances,
        sources,
        prior_states,
        remembered,
        order,
    } = frame;
    let successor_identity = topology.get(&choice.successor)?.facts.as_ref()?.identity.clone();
    let Choice {
        successor,
        catch_up_source,
        position,
        followers,
        lost_replicas,
        lost,
    } = choice;
    let mut steps = vec![Step::Fence {
        old_primary: old_primary.clone(),
    }];
    let receivers_stopped = to_stop_receivers(topology, &old_primary, &successor, catch_up_source.as_ref());
    if !receivers_stopped.is_empty() {
        steps.push(Step::StopReceivers {
            replicas: receivers_stopped,
        });
    }
    if let Some(from) = catch_up_source {
        steps.push(Step::CatchUp {
            successor: successor.clone(),
            from,
        });
    }
    steps.push(Step::Drain {
        successor: successor.clone(),
    });
    steps.push(Step::Redial {
        old_primary: old_primary.clone(),
    });
    steps.push(Step::Open {
        successor: successor.clone(),
    });
    if !followers.is_empty() {
        steps.push(Step::Repoint {
            successor: successor.clone(),
            replicas: followers,
        });
    }
    Some(Plan {
        kind,
        code,
        cluster: topology.cluster.clone(),
        old_primary,
        old_primary_identity,
        successor,
        successor_identity,
        position,
        instances,
        lost_replicas,
        lost,
        steps,
        sources,
        prior_states,
        remembered,
        order,
    })
}

/// Whose receiving thread must be stopped: the answering direct replicas of the old primary, and the successor and its feeder wherever
/// they are; no binlog server, which is left alone. One whose thread is stopped already is frozen already; leaving it out also keeps an undo from starting what a person had stopped.
fn to_stop_receivers(
    topology: &Topology,
    old_primary: &InstanceKey,
    successor: &InstanceKey,
    catch_up_source: Option<&InstanceKey>,
) -> BTreeSet<InstanceKey> {
    topology
        .replicas_of(old_primary)
        .chain(topology.get(successor))
        .chain(catch_up_source.and_then(|catch_up_source| topology.get(catch_up_source)))
        .filter(|replica| {
            replica.is_valid() && !is_receivers_stopped(replica) && !by_position::is_binlog_server(replica)
        })
        .map(|replica| replica.key.clone())
        .collect()
}

/// Whether the receiving thread is seen stopped.
pub(super) fn is_receivers_stopped(replica: &Instance) -> bool {
    replica
        .valid_facts()
        .and_then(InstanceFacts::managed_channel)
        .is_some_and(|channel| channel.io == ThreadState::Stopped)
}
