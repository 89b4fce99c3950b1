//! What must hold of any plan, checked against the view that it was made from, independently of the planner.
//!
//! It shares no code with the choice beyond the sets themselves, and uses no policy: it checks whether the plan is
//! safe, not whether it is the best one.

use std::collections::BTreeSet;

use crate::domain::analysis::evidence::is_receiving;
use crate::domain::analysis::{current_primary, other_writable_tops};
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner::topology_for;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::replica_state::is_receiver_stopped;
use crate::domain::recovery::step::Step;
use crate::domain::topology::Topology;

mod declared_loss;
mod moved_replicas;
mod primary_repair;

pub(super) use declared_loss::why_loss_not_proved;

/// Everything that is wrong with a plan, each in a sentence; empty when it is sound.
#[must_use = "a plan that fails its check must not be carried out"]
pub fn lint(plan: &Plan, topology: &Topology) -> Vec<String> {
    let topology = &*topology_for(plan.code, topology, &plan.old_primary);
    let mut wrong = Vec::new();
    check_instances(plan, &mut wrong);
    match plan.kind {
        RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary => {
            check_order(plan, &mut wrong);
            check_silence(plan, topology, &mut wrong);
            check_roles(plan, topology, &mut wrong);
            check_stop_receivers(plan, topology, &mut wrong);
            check_catching_up(plan, topology, &mut wrong);
            check_positions(plan, topology, &mut wrong);
            declared_loss::check(plan, topology, &mut wrong);
        }
        RecoveryKind::DeadPrimaryByPosition => {
            check_order(plan, &mut wrong);
            check_silence(plan, topology, &mut wrong);
            check_roles(plan, topology, &mut wrong);
            check_stop_receivers(plan, topology, &mut wrong);
            declared_loss::check(plan, topology, &mut wrong);
        }
        RecoveryKind::Rejoin => check_rejoin(plan, topology, &mut wrong),
        RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember => {
            moved_replicas::check_relocation(plan, topology, &mut wrong);
        }
        RecoveryKind::ResolveErrant => check_errant(plan, topology, &mut wrong),
        RecoveryKind::Takeover => check_takeover(plan, topology, &mut wrong),
        RecoveryKind::SemiSync => primary_repair::check_semi_sync(plan, topology, &mut wrong),
        RecoveryKind::Durability => primary_repair::check_durability(plan, topology, &mut wrong),
        RecoveryKind::NonWritablePrimary => primary_repair::check_make_writable(plan, topology, &mut wrong),
        RecoveryKind::MatchBelow => moved_replicas::check_match(plan, topology, &mut wrong),
        RecoveryKind::BootReadOnly => check_boot_read_only(plan, topology, &mut wrong),
        RecoveryKind::ReopenPrimary => check_reopening(plan, topology, &mut wrong),
    }
    wrong
}

/// The servers that a step touches.
fn touched(step: &Step) -> BTreeSet<&InstanceKey> {
    match step {
        Step::Fence { old_primary }
        | Step::Demote { old_primary }
        | Step::Redial { old_primary }
        | Step::CallFencer { old_primary } => BTreeSet::from([old_primary]),
        Step::Drain { successor }
        | Step::Open { successor }
        | Step::EnableEvents { successor, .. }
        | Step::Locate { successor, .. } => BTreeSet::from([successor]),
        Step::CatchUp { successor, from } => BTreeSet::from([successor, from]),
        Step::ReconnectTest { replicas, .. }
        | Step::StopReceivers { replicas }
        | Step::Repoint { replicas, .. }
        | Step::Acknowledge { replicas, .. }
        | Step::GoOn { replicas }
        | Step::AcknowledgeReceived { replicas }
        | Step::ApplyAll { replicas } => replicas.iter().collect(),
        Step::Match { successor, replicas } => replicas.keys().chain([successor]).collect(),
        Step::RepointAt { replicas, .. } => replicas.keys().collect(),
        Step::InjectEmpty { primary: one, .. }
        | Step::ResetGtids { instance: one, .. }
        | Step::MakeWritable { primary: one } => BTreeSet::from([one]),
        Step::PersistReadOnly { servers } | Step::SetSemiSyncSource { servers, .. } => servers.iter().collect(),
        Step::CheckBoot { primary } => BTreeSet::from([primary]),
    }
}

fn check_instances(plan: &Plan, wrong: &mut Vec<String>) {
    for step in &plan.steps {
        for key in touched(step).into_iter().filter(|key| !plan.instances.contains(*key)) {
            wrong.push(format!(
                "`{}` touches {key}, which the plan does not claim",
                step.describe()
            ));
        }
    }
    if plan.successor == plan.old_primary && !plan.kind.keeps_its_server() {
        wrong.push(format!("{} would succeed itself", plan.old_primary));
    }
}

/// The position of a kind of step in the required order, and its name.
fn place(step: &Step) -> (u8, &'static str) {
    match step {
        Step::ReconnectTest { .. } => (0, "reconnect test"),
        Step::Fence { .. } => (1, "fence"),
        Step::Demote { .. } => (1, "demote"),
        Step::StopReceivers { .. } => (2, "stop receivers"),
        Step::CatchUp { .. } => (3, "catch up"),
        Step::Drain { .. } | Step::ApplyAll { .. } => (4, "drain"),
        Step::Locate { .. } => (5, "locate"),
        Step::Match { .. } => (5, "match"),
        Step::Redial { .. } => (6, "reconnect"),
        Step::CallFencer { .. } => (7, "call fencer"),
        Step::Open { .. } => (8, "open"),
        Step::Repoint { .. } | Step::RepointAt { .. } => (9, "repoint"),
        Step::InjectEmpty { .. } => (10, "inject"),
        Step::ResetGtids { .. } => (11, "reset"),
        Step::Acknowledge { .. } | Step::AcknowledgeReceived { .. } | Step::SetSemiSyncSource { .. } => {
            (12, "semi-sync")
        }
        Step::MakeWritable { .. } => (13, "make writable"),
        Step::PersistReadOnly { .. } => (14, "boot read-only"),
        Step::CheckBoot { .. } => (15, "check boot"),
        Step::GoOn { .. } => (16, "go on"),
        Step::EnableEvents { .. } => (17, "enable events"),
    }
}

fn check_order(plan: &Plan, wrong: &mut Vec<String>) {
    let places: Vec<(u8, &str)> = plan.steps.iter().map(place).collect();
    for (earlier, later) in places.iter().zip(places.iter().skip(1)) {
        if earlier.0 >= later.0 {
            wrong.push(format!("{} must not come before {}", earlier.1, later.1));
        }
    }
    for needed in ["fence", "drain", "reconnect", "open"] {
        if !places.iter().any(|(_, name)| *name == needed) {
            wrong.push(format!("the step {needed} is missing"));
        }
    }
}

fn check_roles(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let Plan {
        old_primary, successor, ..
    } = plan;
    for step in &plan.steps {
        let (named, follow) = match step {
            Step::Drain { successor }
            | Step::Open { successor }
            | Step::CatchUp { successor, .. }
            | Step::Locate { successor, .. }
            | Step::Match { successor, .. } => (successor, None),
            Step::Repoint { successor, replicas } => (successor, Some(replicas)),
            Step::Fence { old_primary: named }
            | Step::Demote { old_primary: named }
            | Step::Redial { old_primary: named }
            | Step::CallFencer { old_primary: named }
            | Step::ReconnectTest { old_primary: named, .. } => {
                if named != old_primary {
                    wrong.push(format!(
                        "`{}` is not about the old primary {old_primary}",
                        step.describe()
                    ));
                }
                continue;
            }
            Step::InjectEmpty { .. }
            | Step::ResetGtids { .. }
            | Step::Acknowledge { .. }
            | Step::AcknowledgeReceived { .. }
            | Step::SetSemiSyncSource { .. }
            | Step::MakeWritable { .. }
            | Step::PersistReadOnly { .. }
            | Step::GoOn { .. }
            | Step::EnableEvents { .. }
            | Step::CheckBoot { .. } => {
                wrong.push(format!("`{}` has no place in a failover", step.describe()));
                continue;
            }
            Step::RepointAt { successor, replicas } => {
                if replicas.contains_key(old_primary) || replicas.contains_key(successor) {
                    wrong.push(format!("{old_primary} or {successor} is among the followers"));
                }
                (successor, None)
            }
            Step::StopReceivers { replicas } | Step::ApplyAll { replicas } => {
                if replicas.contains(old_primary) {
                    wrong.push(format!(
                        "the old primary {old_primary} is among the replicas to stop or to wait for"
                    ));
                }
                continue;
            }
        };
        if named != successor {
            wrong.push(format!("`{}` is not about the successor {successor}", step.describe()));
        }
        for key in [old_primary, successor]
            .into_iter()
            .filter(|key| follow.is_some_and(|replicas| replicas.contains(*key)))
        {
            wrong.push(format!("{key} is among the followers"));
        }
    }
    match topology.get(successor).and_then(Instance::valid_facts) {
        None => wrong.push(format!("the successor {successor} does not answer")),
        Some(facts) if facts.identity != plan.successor_identity => {
            wrong.push(format!(
                "the successor {successor} is {}, not {}",
                facts.identity, plan.successor_identity
            ));
        }
        Some(_) => {}
    }
    if !topology
        .descendants_of(old_primary)
        .iter()
        .any(|instance| instance.key == *successor)
    {
        wrong.push(format!(
            "the successor {successor} does not replicate from {old_primary}, directly or not"
        ));
    }
    for other in other_writable_tops(topology, old_primary)
        .into_iter()
        .filter(|other| other != successor)
    {
        wrong.push(format!(
            "{other} is a writable primary of the cluster: opening {successor} makes two"
        ));
    }
}

/// Where replicas report that they receive, only their own attempt to reconnect proves that they do not: each of them
/// has to try.
fn check_silence(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let tested: BTreeSet<&InstanceKey> = plan
        .steps
        .iter()
        .filter_map(|step| {
            if let Step::ReconnectTest { replicas, .. } = step {
                Some(replicas)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    // Replicas of a primary that only commits nothing do receive from it: its fence is the proof.
    if plan.code.is_actionable() || plan.commits_nothing {
        return;
    }
    for replica in topology
        .replicas_of(&plan.old_primary)
        .filter(|replica| is_receiving(replica) && !tested.contains(&replica.key))
    {
        wrong.push(format!(
            "{} reports that it receives from {}, and is not tested",
            replica.key, plan.old_primary
        ));
    }
}

/// No answering server that could still receive from the old primary may keep its receiver running.
fn check_stop_receivers(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let is_planned = |key: &InstanceKey| {
        plan.steps
            .iter()
            .any(|step| matches!(step, Step::StopReceivers { replicas } if replicas.contains(key)))
    };
    let catch_up_source = caught_up_from(plan).and_then(|from| topology.get(from));
    let is_binlog_server = |instance: &&Instance| {
        let facts = instance.facts.as_ref();
        facts.is_some_and(crate::domain::instance::InstanceFacts::is_binlog_server)
    };
    // These serve the old primary's log to other replicas, which may still receive from them.
    let servers = topology.replicas_of(&plan.old_primary).filter(is_binlog_server);
    let through_them = servers.flat_map(|server| topology.replicas_of(&server.key));
    let involved = topology
        .replicas_of(&plan.old_primary)
        .chain(through_them.filter(|_| plan.kind == RecoveryKind::DeadPrimaryByPosition))
        .filter(|replica| !is_binlog_server(replica))
        .chain(topology.get(&plan.successor))
        .chain(catch_up_source);
    for replica in involved.filter(|replica| replica.is_valid() && plan.instances.contains(&replica.key)) {
        if !is_receiver_stopped(replica) && !is_planned(&replica.key) {
            wrong.push(format!("the receiver of {} is not stopped", replica.key));
        }
    }
}

/// The replica from which the successor catches up, if it does.
fn caught_up_from(plan: &Plan) -> Option<&InstanceKey> {
    plan.steps.iter().find_map(|step| {
        if let Step::CatchUp { from, .. } = step {
            Some(from)
        } else {
            None
        }
    })
}

/// The successor receives nothing errant, and both servers stay below the old primary.
fn check_catching_up(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let Some(from) = caught_up_from(plan) else { return };
    let successor = &plan.successor;
    let received_transactions =
        ReceivedTransactions::remembering(topology, &plan.old_primary, plan.remembered.as_ref());
    if let Some(errant) = received_transactions.errant(from) {
        wrong.push(format!(
            "{successor} would catch up from {from}, which has errant transactions {}",
            excerpt(errant)
        ));
    }
    if received_transactions.get(from).is_none() || !topology.get(from).is_some_and(Instance::is_valid) {
        wrong.push(format!(
            "{successor} would catch up from {from}, which does not answer or is no replica"
        ));
    }
    // Co-primaries are below each other, and with one of them dead nothing comes from there.
    let below = topology.descendants_beside(successor, &plan.old_primary);
    if from == successor || below.iter().any(|instance| instance.key == *from) {
        wrong.push(format!(
            "{successor} would catch up from {from}, which replicates from it"
        ));
    }
}

/// The successor holds what the plan says; everything that is known to be lost is declared; every direct replica
/// follows or is left behind.
fn check_positions(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let received_transactions =
        ReceivedTransactions::remembering(topology, &plan.old_primary, plan.remembered.as_ref());
    let caught_up = caught_up_from(plan).and_then(|from| received_transactions.get(from));
    if let Some(holding) = received_transactions.get(&plan.successor)
        && !caught_up
            .map_or_else(
                || holding.received.clone(),
                |caught_up| holding.received.union(&caught_up.received),
            )
            .contains(&plan.position)
    {
        wrong.push(format!(
            "the successor {} does not hold the position of the plan",
            plan.successor
        ));
    }
    let declared = |missing: &GtidSet| plan.lost.as_ref().is_some_and(|lost| lost.contains(missing));
    if let Some(missing) = received_transactions.lacking(&plan.position)
        && !declared(&missing)
    {
        wrong.push(format!(
            "the plan does not declare that {} would be lost",
            excerpt(&missing)
        ));
    }
    for replica in topology
        .replicas_of(&plan.old_primary)
        .filter(|replica| replica.key != plan.successor)
    {
        let follows = plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::Repoint { replicas, .. } if replicas.contains(&replica.key)));
        let is_left = plan.lost_replicas.iter().any(|refusal| refusal.instance == replica.key);
        if follows == is_left {
            let text = if follows {
                "both follows and is left behind"
            } else {
                "neither follows nor is left behind"
            };
            wrong.push(format!("{} {text}", replica.key));
        }
        let ahead = received_transactions
            .get(&replica.key)
            .and_then(|holding| received_transactions.missing(&holding.position, &plan.position));
        if follows && ahead.is_some() {
            wrong.push(format!(
                "{} would follow a successor that lacks what it has",
                replica.key
            ));
        }
    }
}

fn check_rejoin(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let is_as_wanted = matches!(
        plan.steps.as_slice(),
        [Step::Fence { old_primary }, Step::Repoint { successor, replicas }]
            if *old_primary == plan.old_primary && *successor == plan.successor && replicas.len() == 1 && replicas.contains(old_primary)
    ) || matches!(
        plan.steps.as_slice(),
        // A replica that was left behind never was a primary.
        [Step::Repoint { successor, replicas }]
            if plan.code == Code::LostReplicaReturned
                && *successor == plan.successor && replicas.len() == 1 && replicas.contains(&plan.old_primary)
    );
    if !is_as_wanted {
        wrong.push(
            "a rejoin is: fence the returned server, then point it, and no other server, at the primary".to_owned(),
        );
    }
    if current_primary(topology).as_ref() != Some(&plan.successor) {
        wrong.push(format!("{} is not the primary", plan.successor));
    }
}

/// One step: on the primary when empty transactions are injected, never on it when GTIDs are reset.
fn check_errant(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let is_primary = |key: &InstanceKey| current_primary(topology).as_ref() == Some(key);
    match plan.steps.as_slice() {
        [Step::InjectEmpty { primary, .. }] if *primary == plan.successor && is_primary(primary) => {}
        [Step::ResetGtids { instance, keep }]
            if *instance == plan.old_primary && !is_primary(instance) && !keep.is_empty() => {}
        _ => wrong.push(
            "errant transactions are resolved by one step: inject on the primary, or reset on the server that has them"
                .to_owned(),
        ),
    }
}

/// A takeover touches the primary first, waits, opens a direct replica of it, and reports every replica that is left behind.
fn check_takeover(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let Plan {
        old_primary, successor, ..
    } = plan;
    let followers = match plan.steps.as_slice() {
        [
            Step::Demote { old_primary: demoted },
            Step::Drain { successor: drained },
            Step::Open { successor: opened },
            Step::Repoint {
                successor: source,
                replicas,
            },
        ] if demoted == old_primary && [drained, opened, source].iter().all(|key| *key == successor) => replicas,
        _ => {
            wrong.push("a takeover is: demote the primary, drain, open and repoint to the successor".to_owned());
            return;
        }
    };
    if current_primary(topology).as_ref() != Some(old_primary) {
        wrong.push(format!("{old_primary} is not the primary"));
    }
    for other in other_writable_tops(topology, old_primary) {
        wrong.push(format!(
            "{other} is a writable primary of the cluster beside {old_primary}"
        ));
    }
    if !topology
        .replicas_of(old_primary)
        .any(|replica| replica.key == *successor && replica.is_valid())
    {
        wrong.push(format!("{successor} is no answering direct replica of {old_primary}"));
    }
    if followers.contains(successor) || !followers.contains(old_primary) {
        wrong.push(format!("{old_primary}, and not {successor}, must follow"));
    }
    for replica in topology
        .replicas_of(old_primary)
        .filter(|replica| replica.key != *successor)
    {
        let is_left = plan.lost_replicas.iter().any(|refusal| refusal.instance == replica.key);
        if followers.contains(&replica.key) == is_left {
            wrong.push(format!("{} must either follow or be left behind", replica.key));
        }
    }
}

fn check_boot_read_only(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    if let [Step::Fence { old_primary }] = plan.steps.as_slice() {
        if *old_primary != plan.old_primary || plan.instances != BTreeSet::from([old_primary.clone()]) {
            wrong.push("a replica that is made read-only is the only one that is claimed".to_owned());
        }
        let takes_writes = |key: &InstanceKey| {
            let facts = topology.get(key).and_then(Instance::valid_facts);
            facts.is_some_and(InstanceFacts::is_writable)
        };
        let source = topology
            .get(old_primary)
            .and_then(|replica| topology.source_of(replica));
        let follows_no_primary = source.is_some_and(|source| topology.get(source).is_some() && !takes_writes(source));
        let is_replica = current_primary(topology).is_some_and(|primary| {
            let mut below = topology.descendants_of(&primary).into_iter();
            let is_below = below.any(|replica| replica.key == *old_primary);
            primary != *old_primary && (is_below || takes_writes(&primary) && follows_no_primary)
        });
        if !is_replica || plan.old_primary_identity.is_some() {
            wrong.push(format!(
                "{old_primary} is no replica of a primary, or would be quarantined"
            ));
        }
    } else if !matches!(plan.steps.as_slice(), [Step::PersistReadOnly { servers }] if *servers == plan.instances) {
        wrong.push("what servers are after their next start is one step, on all that are claimed".to_owned());
    }
}

fn check_reopening(plan: &Plan, topology: &Topology, wrong: &mut Vec<String>) {
    let is_as_wanted = matches!(
        plan.steps.as_slice(),
        [Step::CheckBoot { primary }, Step::Open { successor }] if *primary == plan.old_primary && *successor == plan.old_primary
    );
    if !is_as_wanted || plan.successor != plan.old_primary || plan.old_primary_identity.is_some() {
        wrong.push("a reopening is: check the primary, then open it, and no other server takes its place".to_owned());
    }
    if current_primary(topology).as_ref() != Some(&plan.successor) {
        wrong.push(format!("{} is not the primary", plan.successor));
    }
    for other in other_writable_tops(topology, &plan.successor) {
        wrong.push(format!(
            "{other} is a writable primary of the cluster: opening {} makes two",
            plan.successor
        ));
    }
}
