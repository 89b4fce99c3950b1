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
use crate::domain::time::Wall;
use crate::domain::topology::Topology;

mod boot;
pub(super) mod by_position;
mod co_primary;
mod designated;
mod durability;
mod errant;
mod forced;
mod non_writable;
mod placed;
mod rechoice;
mod rejoin;
mod relocate;
mod semi_sync;
mod silent;
mod successor;
mod takeover;

pub(super) use boot::{check_hold, check_reopen};
pub use boot::{plan_boot_read_only, plan_hold, plan_reopen};
use designated::choose_designated;
pub use durability::plan_durability;
pub use errant::{MOST_INJECTED, plan_errant};
pub use forced::plan_forced;
pub use non_writable::check_non_writable;
pub(super) use placed::check_match;
pub use placed::plan_match;
pub use rechoice::rechoose;
pub(super) use rechoice::{keep_within, moved, not_claimed, rechoose_without};
pub(super) use rejoin::{check_reattach, check_rejoin};
pub use rejoin::{plan_reattach, plan_rejoin};
pub use silent::plan_silent;
pub use successor::{lost_successor, view};
pub(super) use takeover::check_target;
pub use takeover::plan_takeover;

use super::candidate::{Choice, Moment, choose};
use super::plan::{Manner, Order, Plan, PlanReport, RecoveryKind, Step};

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
pub fn plan(finding: &Finding, topology: &Topology, policy: &Policy, now: Wall) -> (Option<Plan>, PlanReport) {
    plan_as_asked(finding, topology, policy, Asked::default(), now)
}

/// [`plan`], with what the members remember of the victim's transactions.
pub fn plan_remembering(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    remembered: Option<GtidSet>,
    now: Wall,
) -> (Option<Plan>, PlanReport) {
    let asked = Asked {
        remembered,
        ..Asked::default()
    };
    plan_as_asked(finding, topology, policy, asked, now)
}

/// What a plan rests on beside picture and policy.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// This one is promoted, or nobody is.
    pub designated: Option<&'a InstanceKey>,
    /// What a person asked for.
    pub order: Option<Order>,
    /// What the members remember of the victim's transactions.
    pub remembered: Option<GtidSet>,
}

/// [`plan`], as a person asked for it, and with what the members remember.
pub fn plan_as_asked(
    finding: &Finding,
    topology: &Topology,
    policy: &Policy,
    asked: Asked<'_>,
    now: Wall,
) -> (Option<Plan>, PlanReport) {
    let victim = topology.resolve(&finding.instance);
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
    let topology = &*view(finding.code, topology, victim);
    let is_of_two = RecoveryKind::for_code(finding.code) == Some(RecoveryKind::CoPrimary);
    if is_of_two && current_primary(topology).is_some_and(|primary| primary != *victim) {
        // The primary lives on. Who else replicated from the dead one needs another source.
        return relocate::plan_relocation(finding, RecoveryKind::IntermediatePrimary, topology, policy);
    }
    if let Err(why) = check_finding(finding, victim, topology) {
        return no_plan(why);
    }
    plan_for(finding.code, victim, topology, policy, asked, now)
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
pub fn rehearse(topology: &Topology, policy: &Policy, now: Wall) -> (Option<Plan>, PlanReport) {
    match current_primary(topology) {
        Some(primary) => {
            let code = co_primary::death_of(topology, &primary);
            plan_for(code, &primary, topology, policy, Asked::default(), now)
        }
        None => (
            None,
            PlanReport {
                no_plan: Some("the picture does not tell who the primary is".to_owned()),
                ..PlanReport::default()
            },
        ),
    }
}

/// What must hold for a recovery of a dead primary, beyond its code.
fn check_finding(finding: &Finding, victim: &InstanceKey, topology: &Topology) -> Result<(), String> {
    if !finding.code.is_actionable() {
        return Err(format!("no recovery exists for {}", finding.code));
    }
    match current_primary(topology) {
        Some(primary) if primary == *victim => {}
        Some(primary) => return Err(format!("{victim} is not the primary of the cluster, {primary} is")),
        None => {
            return Err(format!(
                "the picture does not tell whether {victim} is the primary of the cluster"
            ));
        }
    }
    if topology.get(victim).is_some_and(Instance::is_valid) {
        return Err(format!("{victim} answers"));
    }
    if let Some(replica) = topology.replicas_of(victim).find(|replica| is_receiving(replica)) {
        return Err(format!("{} receives from {victim}", replica.key));
    }
    Ok(())
}

fn plan_for(
    code: Code,
    victim: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    asked: Asked<'_>,
    now: Wall,
) -> (Option<Plan>, PlanReport) {
    let kind = co_primary::kind_for(code);
    if by_position::applies(topology, victim) {
        if kind == RecoveryKind::CoPrimary {
            return no_plan(format!(
                "the replicas of {victim} do not use GTIDs: without them no co-primary is replaced"
            ));
        }
        if asked.designated.is_some() || asked.order.as_ref().is_some_and(|order| order.forced) {
            return no_plan(format!(
                "the replicas of {victim} do not use GTIDs: without them nobody can be named, and no living primary replaced"
            ));
        }
        let (plan, report) = by_position::plan_for(code, victim, topology, policy, &BTreeMap::new(), now);
        let order = asked.order;
        let plan = plan.map(|plan| with_fencer(Plan { order, ..plan }, policy));
        return (plan, report);
    }
    let only = (kind == RecoveryKind::CoPrimary)
        .then(|| co_primary::only_successor(topology, victim, policy))
        .flatten();
    let moment = Moment {
        remembered: asked.remembered,
        wanted: designated::wanted(topology, asked.designated, only.as_ref()),
        ..Moment::at(now)
    };
    let (choice, report) = choose_designated(topology, victim, policy, &moment);
    let plan = choice.and_then(|choice| {
        let instances = topology
            .descendants_of(victim)
            .into_iter()
            .map(|instance| instance.key.clone())
            .chain([victim.clone()]);
        let frame = Frame {
            kind,
            code,
            victim: victim.clone(),
            victim_identity: identity_of(topology, victim),
            instances: instances.collect(),
            sources: sources_below(topology, victim),
            manners: manners_below(topology, victim),
            remembered: moment.remembered.clone(),
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
        let victim = plan.victim.clone();
        plan.steps.insert(opening, Step::CallFencer { victim });
    }
    plan
}

/// Why nobody may succeed a primary, whoever could: another one is writable, or a replication group chooses for itself.
fn no_successor_at_all(topology: &Topology, victim: &InstanceKey) -> Option<String> {
    if let Some(other) = other_writable_tops(topology, victim).first() {
        return Some(format!("{other} is a writable primary of the same cluster already"));
    }
    let group = &topology.get(victim)?.facts.as_ref()?.group_name;
    (!group.is_empty())
        .then(|| format!("{victim} was a member of the replication group {group}, which chooses its primary itself"))
}

/// The choice, unless opening anybody would make two writable primaries.
fn choose_successor(
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
    moment: &Moment,
) -> (Option<Choice>, PlanReport) {
    if let Some(why) = no_successor_at_all(topology, victim) {
        return (
            None,
            PlanReport {
                no_plan: Some(why),
                ..PlanReport::default()
            },
        );
    }
    choose(topology, victim, policy, moment)
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
    victim: InstanceKey,
    victim_identity: Option<Identity>,
    instances: BTreeSet<InstanceKey>,
    sources: BTreeMap<InstanceKey, InstanceKey>,
    manners: BTreeMap<InstanceKey, Manner>,
    remembered: Option<GtidSet>,
    order: Option<Order>,
}

/// From whom each one below `victim` replicates.
fn sources_below(topology: &Topology, victim: &InstanceKey) -> BTreeMap<InstanceKey, InstanceKey> {
    topology
        .descendants_of(victim)
        .into_iter()
        .filter_map(|replica| Some((replica.key.clone(), topology.source_of(replica)?.clone())))
        .collect()
}

/// How those below `victim` replicate, where that is not simply.
fn manners_below(topology: &Topology, victim: &InstanceKey) -> BTreeMap<InstanceKey, Manner> {
    topology
        .descendants_of(victim)
        .into_iter()
        .filter_map(|replica| {
            let channel = replica.valid_facts()?.managed_channel()?;
            let manner = Manner {
                stopped: channel.io == ThreadState::Stopped,
                delay_seconds: channel.delay_seconds,
            };
            (manner != Manner::default()).then(|| (replica.key.clone(), manner))
        })
        .collect()
}

fn assemble(frame: Frame, choice: Choice, topology: &Topology) -> Option<Plan> {
    let Frame {
        kind,
        code,
        victim,
        victim_identity,
        instances,
        sources,
        manners,
        remembered,
        order,
    } = frame;
    let successor_identity = topology.get(&choice.successor)?.facts.as_ref()?.identity.clone();
    let Choice {
        successor,
        feeder,
        position,
        followers,
        lost_replicas,
        lost,
    } = choice;
    let mut steps = vec![Step::Fence { victim: victim.clone() }];
    let frozen = to_freeze(topology, &victim, &successor, feeder.as_ref());
    if !frozen.is_empty() {
        steps.push(Step::Freeze { replicas: frozen });
    }
    if let Some(from) = feeder {
        steps.push(Step::Feed {
            successor: successor.clone(),
            from,
        });
    }
    steps.push(Step::Drain {
        successor: successor.clone(),
    });
    steps.push(Step::Redial { victim: victim.clone() });
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
        victim,
        victim_identity,
        successor,
        successor_identity,
        position,
        instances,
        lost_replicas,
        lost,
        steps,
        sources,
        manners,
        remembered,
        order,
    })
}

/// Whose receiving thread must be stopped: the answering direct replicas of the victim, and the successor and its feeder wherever
/// they are; no binlog server, which is left alone. One whose thread is stopped already is frozen already; leaving it out also keeps an undo from starting what a person had stopped.
fn to_freeze(
    topology: &Topology,
    victim: &InstanceKey,
    successor: &InstanceKey,
    feeder: Option<&InstanceKey>,
) -> BTreeSet<InstanceKey> {
    topology
        .replicas_of(victim)
        .chain(topology.get(successor))
        .chain(feeder.and_then(|feeder| topology.get(feeder)))
        .filter(|replica| replica.is_valid() && !is_frozen(replica) && !by_position::is_binlog_server(replica))
        .map(|replica| replica.key.clone())
        .collect()
}

/// Whether the receiving thread is seen stopped.
pub(super) fn is_frozen(replica: &Instance) -> bool {
    replica
        .valid_facts()
        .and_then(InstanceFacts::managed_channel)
        .is_some_and(|channel| channel.io == ThreadState::Stopped)
}
