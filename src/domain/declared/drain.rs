//! A primary whose pod is about to go hands over before it does, when its document says so.
//!
//! What is asked for is a request like those of documents, under an id that follows from the pod and the occasion, so that it is asked
//! once, whoever leads. Nothing is concluded from what cannot be read now: then nothing is asked and nothing taken back.

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Leaving, Mode, OnDrain, Policy};
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::{Command, Document, Request, RequestKind, RequestOutcome, RequestStanding, State};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::commands::older_document;
use super::document::DeclaredCluster;
use super::pods::{Departure, Pod, Pods, Sight};
use super::status::{Role, StatusModel};
use super::{ClusterView, Reading, Reconciliation, Seen};

/// A handover is not begun later than this after it was asked for, milliseconds: then the pod is gone, or something has to change first.
const DEADLINE_MILLIS: i64 = 30_000;
/// One that was not done is asked for again after this, milliseconds; each further time after twice as long.
const FIRST_PAUSE_MILLIS: i64 = 5_000;
/// The longest such pause, milliseconds.
const MAX_PAUSE_MILLIS: i64 = 300_000;
/// How many times it is asked for on one occasion.
const MAX_ATTEMPTS: usize = 8;

/// What is known of the primary's pod.
enum Outlook<'a> {
    /// Nothing that could be relied on.
    Unknown,
    /// It stays, or the primary is in no pod.
    Stays,
    /// It is about to go.
    Leaves(&'a Pod, Departure),
}

fn outlook<'a>(pods: &'a Pods, origin: &Origin, state: &State, view: &ClusterView) -> Outlook<'a> {
    let Origin::Document { namespace, .. } = origin else {
        return Outlook::Unknown;
    };
    let primary = recorded(state, view).and_then(|recorded| {
        let instance = view.topology.get(&recorded.instance)?;
        let is_it = instance.valid_facts()?.identity == recorded.identity;
        is_it.then_some(instance)
    });
    let Some(primary) = primary.filter(|_| pods.pods == Sight::Current && pods.nodes != Sight::Off) else {
        return Outlook::Unknown;
    };
    let Some(pod) = pods.of(namespace, primary) else {
        return Outlook::Stays;
    };
    match pods.departure(pod) {
        Some(departure) if departure.leaving == Leaving::WithItsPod || pods.nodes == Sight::Current => {
            Outlook::Leaves(pod, departure)
        }
        None if pods.nodes == Sight::Current => Outlook::Stays,
        Some(_) | None => Outlook::Unknown,
    }
}

/// Asks for a handover that is missing, and takes back one that was not begun and is not called for any more.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    seen: &Seen,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    if seen.reading == Reading::Stale || declared.is_outdated(state) {
        return;
    }
    let origin = &declared.document.origin;
    if declared.foreign_owner(state, now).is_some() || older_document(declared, state, views).is_some() {
        take_back(answer, origin, state, "the document does not count");
        return;
    }
    if let Some(why) = forbidden(&declared.document, state) {
        take_back(answer, origin, state, &why);
        return;
    }
    let Some(view) = view_of(origin, views) else {
        return;
    };
    match outlook(&seen.pods, origin, state, view) {
        Outlook::Unknown => {}
        Outlook::Stays => take_back(answer, origin, state, "the primary's pod is not leaving"),
        Outlook::Leaves(pod, departure) => {
            let is_its_own =
                |command: &Command| matches!(command, Command::Request { request } if request.origin == *origin);
            let next = next(&declared.document, state, view, pod, &departure, now);
            if let Ok(Some(request)) = next
                && !answer.commands.iter().any(is_its_own)
            {
                let request = Box::new(request);
                answer.commands.push(Command::Request { request });
            }
        }
    }
}

/// The record of one moment: that in the view may be older.
fn recorded<'a>(state: &'a State, view: &ClusterView) -> Option<&'a RecordedPrimary> {
    state.clusters.get(&view.cluster.id)?.primary.as_ref()
}

fn view_of<'a>(origin: &Origin, views: &'a [ClusterView]) -> Option<&'a ClusterView> {
    let is_of_it = |view: &&ClusterView| view.cluster.document.as_ref() == Some(origin);
    views.iter().find(is_of_it)
}

fn is_handover(request: &Request, origin: &Origin) -> bool {
    request.origin == *origin && matches!(request.what, RequestKind::Drain { .. })
}

fn take_back(answer: &mut Reconciliation, origin: &Origin, state: &State, why: &str) {
    for (key, request) in &state.requests {
        // One that runs goes to its end: to undo it takes as long.
        if is_handover(request, origin) && request.standing == RequestStanding::Pending {
            answer.commands.push(Command::CancelRequest {
                key: key.clone(),
                why: why.to_owned(),
            });
        }
    }
}

/// Why a document has nothing done by itself when the primary's pod leaves.
fn forbidden(document: &Document, state: &State) -> Option<String> {
    if document.on_drain != OnDrain::TakeOver {
        Some("spec.recovery.onDrain is not TakeOver".to_owned())
    } else if state.recoveries_disabled {
        Some(HeldBack::GloballyDisabled.to_string())
    } else if document.paused {
        Some("spec.paused is true".to_owned())
    } else if document.mode != Mode::Auto {
        Some(HeldBack::Mode(document.mode).to_string())
    } else {
        None
    }
}

/// The request to record now, if one is due; an error is why none ever is as things are.
fn next(
    document: &Document,
    state: &State,
    view: &ClusterView,
    pod: &Pod,
    departure: &Departure,
    now: WallTime,
) -> Result<Option<Request>, String> {
    let origin = &document.origin;
    let primary = recorded(state, view).map(|recorded| &recorded.instance);
    let primary = primary.ok_or_else(|| "the primary is not known".to_owned())?;
    check_downtime(&view.topology, &view.policy, primary)?;
    check_others(&view.topology, &view.policy, departure.leaving)?;
    let stem = format!("drain-{}-{}-", pod.uid, departure.occasion);
    let mut attempts: Vec<&Request> = state
        .requests
        .values()
        .filter(|request| is_handover(request, origin) && request.id.starts_with(&stem))
        .collect();
    attempts.sort_by_key(|request| (request.seen, &request.id));
    if attempts.len() >= MAX_ATTEMPTS {
        return Err(format!("it was tried {MAX_ATTEMPTS} times"));
    }
    let mut of_it = state.requests.values().filter(|request| request.origin == *origin);
    if of_it.any(|request| !request.is_over()) || view.policy.held_back_living.is_some() {
        // What is being done comes first.
        return Ok(None);
    }
    if let Some(last) = attempts.last()
        && let RequestStanding::Over { outcome, at, .. } = &last.standing
    {
        if *outcome == RequestOutcome::Succeeded {
            return Err("it has handed over before, and somebody made it the primary again".to_owned());
        }
        let pause = pause_millis(attempts.len());
        if now < at.plus_millis(pause) {
            return Ok(None);
        }
    }
    let id = format!("{stem}{}", attempts.len() + 1);
    let what = RequestKind::Drain {
        primary: primary.clone(),
        reason: departure.why.clone(),
        deadline: now.plus_millis(DEADLINE_MILLIS),
    };
    Ok(Some(Request::new(origin.clone(), id, what)))
}

/// How long after so many attempts the next one waits.
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

/// To hand over to a server that goes as soon would only begin a round.
fn check_others(topology: &Topology, policy: &Policy, leaving: Leaving) -> Result<(), String> {
    let stays_longer = |instance: &Instance| {
        let is_replica = instance.is_valid() && topology.source_of(instance).is_some();
        is_replica && policy.leaving.get(&instance.key) < Some(&leaving)
    };
    if topology.instances.values().any(stays_longer) {
        Ok(())
    } else {
        Err("no replica is there that stays longer".to_owned())
    }
}

/// Whether what a request asks for may be begun: judged again when it is begun, on a fresh view.
///
/// # Errors
/// What speaks against it.
pub fn check(state: &State, request: &Request, topology: &Topology, policy: &Policy) -> Result<(), String> {
    let RequestKind::Drain { primary, .. } = &request.what else {
        return Ok(());
    };
    let document = state.documents.get(&request.origin);
    let document = document.ok_or_else(|| "the document is gone".to_owned())?;
    if let Some(why) = forbidden(document, state) {
        return Err(why);
    }
    let key = topology.resolve(primary);
    if crate::domain::analysis::current_primary(topology).as_ref() != Some(key) {
        return Err(format!("{key} is not the primary any more"));
    }
    check_downtime(topology, policy, key)?;
    let leaving = policy.leaving.get(key);
    let leaving = leaving.ok_or_else(|| format!("the pod of {key} is not leaving any more"))?;
    check_others(topology, policy, *leaving)
}

/// Whether who would take over is a gain.
///
/// # Errors
/// When it goes as soon as the primary does.
pub fn check_successor(policy: &Policy, old_primary: &InstanceKey, successor: &InstanceKey) -> Result<(), String> {
    if policy.leaving.get(successor) < policy.leaving.get(old_primary) {
        Ok(())
    } else {
        Err(format!(
            "only {successor} could take over, and its pod is leaving as well"
        ))
    }
}

/// Adds to a status that the primary's pod is about to go, or that this cannot be known, and what follows.
pub(super) fn tell(
    model: &mut StatusModel,
    seen: &Seen,
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
        (Sight::Off, _) | (_, Sight::Off) => Some(
            "nodes and pods are not watched: set drain.enabled of the chart (Kubernetes.Drain of the configuration)"
                .to_owned(),
        ),
        (Sight::Forbidden(why), _) | (_, Sight::Forbidden(why)) => Some(why.clone()),
        _ => None,
    };
    if let Outlook::Leaves(pod, departure) = outlook(&seen.pods, &document.origin, state, view) {
        let told = match forbidden(document, state)
            .map_or_else(|| next(document, state, view, pod, &departure, now).map(drop), Err)
        {
            Ok(()) => departure.why,
            Err(why) => format!("{}; nothing is done about it: {why}", departure.why),
        };
        primary.problems.push(told);
    } else if let Some(why) = blind.filter(|_| wants) {
        primary
            .problems
            .push(format!("whether its pod is leaving is not known: {why}"));
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
