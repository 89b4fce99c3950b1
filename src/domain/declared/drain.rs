//! Starts a takeover before the pod of a primary terminates, when the document asks for that.
//!
//! ham4db records a request like those of documents. The id of the request follows from the pod and the occurrence, so
//! every leader makes the same request once. Unreadable pods or nodes lead to no conclusion: nothing is requested and
//! nothing cancelled.

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, OnDrain, Policy, RecoveryMode, TerminationStage};
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::{Command, Document, Request, RequestKind, RequestOutcome, RequestProgress, State};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::commands::other_owner;
use super::document::DeclaredCluster;
use super::pods::{Pod, PodTermination, Pods, WatchState};
use super::status::{Role, StatusModel};
use super::{ClusterView, Completeness, Reconciliation, SourceContents};

/// A takeover is not started later than this after its request, milliseconds: by then the pod is gone, or something
/// must change first.
const DEADLINE_MILLIS: i64 = 30_000;
/// A takeover that was not done is requested again after this, milliseconds. The pause doubles each time.
const FIRST_PAUSE_MILLIS: i64 = 5_000;
/// The longest pause, milliseconds.
const MAX_PAUSE_MILLIS: i64 = 300_000;
/// Number of requests for one occurrence.
const MAX_ATTEMPTS: usize = 8;

/// State of the primary's pod.
enum PrimaryPodState<'a> {
    /// Not known reliably.
    Unknown,
    /// The pod keeps running, or the primary is in no pod.
    Running,
    /// The pod is about to terminate.
    Terminating(&'a Pod, PodTermination),
}

fn primary_pod_state<'a>(pods: &'a Pods, origin: &Origin, state: &State, view: &ClusterView) -> PrimaryPodState<'a> {
    let Origin::Document { namespace, .. } = origin else {
        return PrimaryPodState::Unknown;
    };
    let primary = recorded(state, view).and_then(|recorded| {
        let instance = view.topology.get(&recorded.instance)?;
        let is_it = instance.valid_facts()?.identity == recorded.identity;
        is_it.then_some(instance)
    });
    let Some(primary) = primary.filter(|_| pods.pods == WatchState::Current && pods.nodes != WatchState::Off) else {
        return PrimaryPodState::Unknown;
    };
    let Some(pod) = pods.of(namespace, primary) else {
        return PrimaryPodState::Running;
    };
    match pods.termination(pod) {
        Some(termination)
            if termination.stage == TerminationStage::PodTerminating || pods.nodes == WatchState::Current =>
        {
            PrimaryPodState::Terminating(pod, termination)
        }
        None if pods.nodes == WatchState::Current => PrimaryPodState::Running,
        Some(_) | None => PrimaryPodState::Unknown,
    }
}

/// Requests a missing takeover, and cancels one that was not started and is no longer needed.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    seen: &SourceContents,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    if seen.completeness == Completeness::Stale || declared.is_outdated(state) {
        return;
    }
    let origin = &declared.document.origin;
    if declared.foreign_owner(state, now).is_some() || other_owner(declared, state, views).is_some() {
        cancel_requests(answer, origin, state, "the document is not in effect");
        return;
    }
    if let Some(why) = forbidden(&declared.document, state) {
        cancel_requests(answer, origin, state, &why);
        return;
    }
    let Some(view) = view_of(origin, views) else {
        return;
    };
    match primary_pod_state(&seen.pods, origin, state, view) {
        PrimaryPodState::Unknown => {}
        PrimaryPodState::Running => {
            cancel_requests(answer, origin, state, "the primary's pod is not about to terminate");
        }
        PrimaryPodState::Terminating(pod, termination) => {
            let is_its_own =
                |command: &Command| matches!(command, Command::Request { request } if request.origin == *origin);
            let next = next(&declared.document, state, view, pod, &termination, now);
            if let Ok(Some(request)) = next
                && !answer.commands.iter().any(is_its_own)
            {
                let request = Box::new(request);
                answer.commands.push(Command::Request { request });
            }
        }
    }
}

/// The records of one moment: the record in the view may be older.
fn recorded<'a>(state: &'a State, view: &ClusterView) -> Option<&'a RecordedPrimary> {
    state.clusters.get(&view.cluster.id)?.primary.as_ref()
}

fn view_of<'a>(origin: &Origin, views: &'a [ClusterView]) -> Option<&'a ClusterView> {
    let is_of_it = |view: &&ClusterView| view.cluster.document.as_ref() == Some(origin);
    views.iter().find(is_of_it)
}

fn is_handover(request: &Request, origin: &Origin) -> bool {
    request.origin == *origin && request.what.is_drain()
}

fn cancel_requests(answer: &mut Reconciliation, origin: &Origin, state: &State, why: &str) {
    for (key, request) in &state.requests {
        // A running takeover is completed, because its rollback takes as long.
        if is_handover(request, origin) && request.progress == RequestProgress::Pending {
            answer.commands.push(Command::CancelRequest {
                key: key.clone(),
                why: why.to_owned(),
            });
        }
    }
}

/// Why a document forbids the automatic takeover when the primary's pod terminates.
fn forbidden(document: &Document, state: &State) -> Option<String> {
    if document.on_drain != OnDrain::TakeOver {
        Some("spec.recovery.onDrain is not TakeOver".to_owned())
    } else if state.recoveries_disabled {
        Some(HeldBack::GloballyDisabled.to_string())
    } else if document.paused {
        Some("spec.paused is true".to_owned())
    } else if document.mode != RecoveryMode::Auto {
        Some(HeldBack::Mode(document.mode).to_string())
    } else {
        None
    }
}

/// The request to record now, if one is due. The error is why no request is possible in the present state.
fn next(
    document: &Document,
    state: &State,
    view: &ClusterView,
    pod: &Pod,
    termination: &PodTermination,
    now: WallTime,
) -> Result<Option<Request>, String> {
    let origin = &document.origin;
    let primary = recorded(state, view).map(|recorded| &recorded.instance);
    let primary = primary.ok_or_else(|| "the primary is not known".to_owned())?;
    check_downtime(&view.topology, &view.policy, primary)?;
    check_others(&view.topology, &view.policy, termination.stage)?;
    let stem = format!("drain-{}-{}-", pod.uid, termination.occurrence);
    let mut attempts: Vec<&Request> = state
        .requests
        .values()
        .filter(|request| is_handover(request, origin) && request.id.starts_with(&stem))
        .collect();
    attempts.sort_by_key(|request| (request.seen, &request.id));
    if attempts.len() >= MAX_ATTEMPTS {
        return Err(format!("the takeover was tried {MAX_ATTEMPTS} times"));
    }
    let mut of_it = state.requests.values().filter(|request| request.origin == *origin);
    if of_it.any(|request| !request.is_over()) || view.policy.held_back_living.is_some() {
        // A running recovery comes first.
        return Ok(None);
    }
    if let Some(last) = attempts.last()
        && let RequestProgress::Over { outcome, at, .. } = &last.progress
    {
        if *outcome == RequestOutcome::Succeeded {
            return Err("a takeover moved the primary away before, and it was made the primary again".to_owned());
        }
        let pause = pause_millis(attempts.len());
        if now < at.plus_millis(pause) {
            return Ok(None);
        }
    }
    let id = format!("{stem}{}", attempts.len() + 1);
    let what = RequestKind::Drain {
        primary: primary.clone(),
        reason: termination.why.clone(),
        deadline: now.plus_millis(DEADLINE_MILLIS),
    };
    Ok(Some(Request::new(origin.clone(), id, what)))
}

/// The pause after this many attempts, milliseconds.
fn pause_millis(attempts: usize) -> i64 {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 2_i64.checked_pow(doublings).unwrap_or(i64::MAX);
    FIRST_PAUSE_MILLIS.saturating_mul(factor).min(MAX_PAUSE_MILLIS)
}

fn check_downtime(topology: &Topology, policy: &Policy, primary: &InstanceKey) -> Result<(), String> {
    let key = topology.resolve(primary);
    let mut downtimes = policy.downtimes.iter();
    match downtimes.find(|(instance, _)| topology.resolve(instance) == key) {
        Some((_, why)) => Err(why.to_string()),
        None => Ok(()),
    }
}

/// A takeover to a server that stops as soon would only have to be repeated.
fn check_others(topology: &Topology, policy: &Policy, primary_stage: TerminationStage) -> Result<(), String> {
    let stays_longer = |instance: &Instance| {
        let is_replica = instance.is_valid() && topology.source_of(instance).is_some();
        is_replica && policy.terminating.get(&instance.key) < Some(&primary_stage)
    };
    if topology.instances.values().any(stays_longer) {
        Ok(())
    } else {
        Err("no replica runs longer than the primary".to_owned())
    }
}

/// Whether the takeover of a request may start. This is checked again on a fresh view when it starts.
///
/// # Errors
/// The reason against it.
pub fn check(state: &State, request: &Request, topology: &Topology, policy: &Policy) -> Result<(), String> {
    let RequestKind::Drain { primary, .. } = &request.what else {
        return Ok(());
    };
    let document = state.documents.get(&request.origin);
    let document = document.ok_or_else(|| "the document was deleted".to_owned())?;
    if let Some(why) = forbidden(document, state) {
        return Err(why);
    }
    let key = topology.resolve(primary);
    if crate::domain::analysis::current_primary(topology).as_ref() != Some(key) {
        return Err(format!("{key} is no longer the primary"));
    }
    check_downtime(topology, policy, key)?;
    let primary_stage = policy.terminating.get(key);
    let primary_stage = primary_stage.ok_or_else(|| format!("the pod of {key} is no longer about to terminate"))?;
    check_others(topology, policy, *primary_stage)
}

/// Whether a takeover to this successor is an improvement.
///
/// # Errors
/// When the successor stops as soon as the old primary does.
pub fn check_successor(policy: &Policy, old_primary: &InstanceKey, successor: &InstanceKey) -> Result<(), String> {
    if policy.terminating.get(successor) < policy.terminating.get(old_primary) {
        Ok(())
    } else {
        Err(format!(
            "only {successor} could take over, and its pod is about to terminate as well"
        ))
    }
}

/// Adds to a status that the primary's pod is about to terminate, or that this is not known, and what follows from it.
pub(super) fn add_to_status(
    model: &mut StatusModel,
    seen: &SourceContents,
    declared: &DeclaredCluster,
    state: &State,
    view: Option<&ClusterView>,
    now: WallTime,
) {
    let document = &declared.document;
    let Some(view) = view else { return };
    let Some(primary) = model
        .instances
        .iter_mut()
        .find(|instance| instance.role == Role::Primary)
    else {
        return;
    };
    let wants = document.on_drain == OnDrain::TakeOver;
    let blind = match (&seen.pods.pods, &seen.pods.nodes) {
        (WatchState::Off, _) | (_, WatchState::Off) => Some(
            "nodes and pods are not watched: set drain.enabled in the chart (Kubernetes.Drain in the configuration)"
                .to_owned(),
        ),
        (WatchState::Forbidden(why), _) | (_, WatchState::Forbidden(why)) => Some(why.clone()),
        _ => None,
    };
    if let PrimaryPodState::Terminating(pod, termination) = primary_pod_state(&seen.pods, &document.origin, state, view)
    {
        let told = match forbidden(document, state)
            .map_or_else(|| next(document, state, view, pod, &termination, now).map(drop), Err)
        {
            Ok(()) => termination.why,
            Err(why) => format!("{}; no takeover is started: {why}", termination.why),
        };
        primary.problems.push(told);
    } else if let Some(why) = blind.filter(|_| wants) {
        primary
            .problems
            .push(format!("whether its pod is about to terminate is unknown: {why}"));
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
