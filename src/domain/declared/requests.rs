//! Requests of documents: recorded when they are first seen, cancelled when they are removed, and shown in the status.

use std::collections::BTreeMap;

use crate::domain::key::InstanceKey;
use crate::domain::state::record::Acknowledgement;
use crate::domain::state::{
    Command, Phase, Recovery, Request, RequestKind, RequestOutcome, RequestProgress, State, request_key,
};
use crate::domain::time::WallTime;

use super::commands::other_owner;
use super::document::{DeclaredCluster, DeclaredTakeover};
use super::status::{ForcePhase, ForceStatus, TakeoverPhase, TakeoverStatus};
use super::{ClusterView, Completeness, Reconciliation};

/// The annotation that forces a promotion.
pub const FORCE_ANNOTATION: &str = "ham4db.io/force-promote";
/// Longest value of the annotation.
const MAX_FORCE: usize = 400;

/// Adds the commands for requests that the state lacks, and for requests that the document no longer makes.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    completeness: Completeness,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    // A stale document may have been changed: it neither starts nor ends a request.
    if completeness == Completeness::Stale || declared.is_outdated(state) {
        return;
    }
    let origin = &declared.document.origin;
    let counts = declared.foreign_owner(state, now).is_none() && other_owner(declared, state, views).is_none();
    if counts {
        acknowledge(answer, declared, state, now);
    }
    let wanted: BTreeMap<String, Request> = made_by(answer, declared)
        .into_iter()
        .filter(|_| counts)
        .map(|request| (request.key(), request))
        .collect();
    for (key, request) in &wanted {
        if !state.requests.contains_key(key) {
            answer.commands.push(Command::Request {
                request: Box::new(request.clone()),
            });
        }
    }
    for (key, request) in &state.requests {
        // A takeover before a drain is not the document's request: `drain` cancels it.
        let is_its_own = request.origin == *origin && !request.what.is_drain();
        if is_its_own && !wanted.contains_key(key) && request.can_be_cancelled(state) {
            answer.commands.push(Command::CancelRequest {
                key: key.clone(),
                why: "the document no longer asks for it".to_owned(),
            });
        }
    }
}

/// Whether a takeover is open that the document no longer asks for.
pub(super) fn has_others_open(declared: &DeclaredCluster, state: &State) -> bool {
    let requested = declared.takeover.as_ref().map(|requested| &requested.id);
    state.requests.values().any(|request| {
        request.origin == declared.document.origin
            && request.what.is_takeover()
            && !request.is_over()
            && requested != Some(&request.id)
    })
}

/// Acknowledges the recovery that the document names, when it belongs to its cluster and is over.
fn acknowledge(answer: &mut Reconciliation, declared: &DeclaredCluster, state: &State, now: WallTime) {
    let origin = &declared.document.origin;
    let named = declared.acknowledged.as_ref().and_then(|uid| state.recoveries.get(uid));
    let is_due = |recovery: &&Recovery| {
        let cluster = state.clusters.get(&recovery.plan.cluster);
        let is_ours = cluster.is_some_and(|cluster| cluster.document.as_ref() == Some(origin));
        is_ours && !recovery.is_active() && recovery.acknowledged.is_none()
    };
    if let Some(recovery) = named.filter(is_due) {
        answer.commands.push(Command::Acknowledge {
            uids: vec![recovery.uid.clone()],
            acknowledgement: Acknowledgement {
                at: now,
                by: origin.to_string(),
                comment: "spec.recovery.acknowledged".to_owned(),
            },
        });
    }
}

fn made_by(answer: &mut Reconciliation, declared: &DeclaredCluster) -> Vec<Request> {
    let force = declared.force.as_ref().and_then(|text| match force(text) {
        Ok(what) => Some(Request::new(declared.document.origin.clone(), text.clone(), what)),
        Err(why) => {
            answer.warnings.push(format!("{}: {why}", declared.document.origin));
            None
        }
    });
    let takeover = declared
        .takeover
        .as_ref()
        .map(|requested| Request::new(declared.document.origin.clone(), requested.id.clone(), what(requested)));
    takeover.into_iter().chain(force).collect()
}

/// Parses the annotation: `HOST:PORT/INCIDENT`.
fn force(text: &str) -> Result<RequestKind, String> {
    let refused = || {
        format!(
            "{FORCE_ANNOTATION}: `{text}` does not name an old primary and an incident: write HOST:PORT/ID, from status.recovery.victim and status.recovery.id"
        )
    };
    let (old_primary, incident) = text.rsplit_once('/').ok_or_else(refused)?;
    let old_primary: InstanceKey = old_primary.parse().map_err(|_| refused())?;
    if incident.is_empty() || text.len() > MAX_FORCE || text.contains(char::is_whitespace) {
        return Err(refused());
    }
    Ok(RequestKind::Force {
        old_primary,
        incident: incident.to_owned(),
    })
}

fn what(requested: &DeclaredTakeover) -> RequestKind {
    RequestKind::Takeover {
        target: requested.target.clone(),
        catch_up_seconds: requested.catch_up_seconds,
        deadline: requested.deadline,
    }
}

/// The takeover of the document in the status. When it is over, and when the document has none, the last requested
/// takeover.
pub(super) fn takeover(
    declared: &DeclaredCluster,
    state: &State,
    view: Option<&ClusterView>,
) -> Option<TakeoverStatus> {
    let origin = &declared.document.origin;
    let is_one = |request: &&Request| request.origin == *origin && !request.what.is_force();
    let last = state
        .requests
        .values()
        .filter(is_one)
        .max_by_key(|request| (request.seen, &request.id));
    let Some(requested) = &declared.takeover else {
        return last.map(|request| told(request, state, view));
    };
    let recorded = state
        .requests
        .get(&request_key(origin, what(requested).as_str(), &requested.id));
    if let Some(last) = last
        && last.what.is_drain()
        && recorded.is_some_and(Request::is_over)
    {
        return Some(told(last, state, view));
    }
    Some(match recorded {
        Some(request) => {
            let mut status = told(request, state, view);
            if request.what != what(requested) {
                status.message = format!(
                    "{} (the first request under this requestID was different and stays in effect)",
                    status.message
                );
            }
            status
        }
        None => TakeoverStatus {
            id: requested.id.clone(),
            phase: TakeoverPhase::Pending,
            message: "not recorded yet".to_owned(),
            started: None,
            finished: None,
        },
    })
}

/// The forced promotion in the status: the present annotation, or the last one.
pub(super) fn forced(declared: &DeclaredCluster, state: &State) -> Option<ForceStatus> {
    let origin = &declared.document.origin;
    let is_one = |request: &&Request| request.origin == *origin && request.what.is_force();
    let request = match &declared.force {
        None => state
            .requests
            .values()
            .filter(is_one)
            .max_by_key(|request| (request.seen, &request.id))?,
        Some(text) => {
            let requested = |phase, message: String| ForceStatus {
                value: text.clone(),
                phase,
                message,
            };
            let what = match force(text) {
                Ok(what) => what,
                Err(why) => return Some(requested(ForcePhase::Refused, why)),
            };
            let recorded = state.requests.get(&request_key(origin, what.as_str(), text));
            match recorded {
                Some(request) => request,
                None => return Some(requested(ForcePhase::Pending, "not recorded yet".to_owned())),
            }
        }
    };
    let (phase, message) = match &request.progress {
        RequestProgress::Pending => (
            ForcePhase::Pending,
            "waiting until all servers of the cluster are probed".to_owned(),
        ),
        RequestProgress::Running { uid, .. } => (ForcePhase::Running, format!("recovery {uid}")),
        RequestProgress::Over { outcome, why, .. } => (
            match outcome {
                RequestOutcome::Succeeded => ForcePhase::Succeeded,
                RequestOutcome::Failed => ForcePhase::Failed,
                RequestOutcome::Refused => ForcePhase::Refused,
                RequestOutcome::Expired => ForcePhase::Expired,
                RequestOutcome::Cancelled => ForcePhase::Cancelled,
            },
            why.clone(),
        ),
    };
    Some(ForceStatus {
        value: request.id.clone(),
        phase,
        message,
    })
}

fn told(request: &Request, state: &State, view: Option<&ClusterView>) -> TakeoverStatus {
    let (phase, message, finished) = match &request.progress {
        RequestProgress::Pending if view.is_none() => (
            TakeoverPhase::Pending,
            "waiting until the cluster is discovered".to_owned(),
            None,
        ),
        RequestProgress::Pending => (
            TakeoverPhase::Pending,
            "waiting until all servers of the cluster are probed".to_owned(),
            None,
        ),
        RequestProgress::Running { uid, cancelled } => {
            let phase = phase_of(uid, state, view);
            let message = if *cancelled && phase != TakeoverPhase::Promoting {
                format!("recovery {uid}: cancelled, rollback in progress")
            } else {
                format!("recovery {uid}")
            };
            (phase, message, None)
        }
        RequestProgress::Over { outcome, why, at, .. } => {
            let phase = match outcome {
                RequestOutcome::Succeeded => TakeoverPhase::Succeeded,
                RequestOutcome::Failed => TakeoverPhase::Failed,
                RequestOutcome::Refused => TakeoverPhase::Refused,
                RequestOutcome::Expired => TakeoverPhase::Expired,
                RequestOutcome::Cancelled => TakeoverPhase::Cancelled,
            };
            (phase, why.clone(), Some(*at))
        }
    };
    let message = match &request.what {
        RequestKind::Drain { reason, .. } => format!("{reason}: {message}"),
        RequestKind::Takeover { .. } | RequestKind::Force { .. } => message,
    };
    TakeoverStatus {
        id: request.id.clone(),
        phase,
        message,
        started: request.begun,
        finished,
    }
}

/// The phase by committed records; before the successor is opened, by the last known state of the old primary.
fn phase_of(uid: &str, state: &State, view: Option<&ClusterView>) -> TakeoverPhase {
    let Some(recovery) = state.recoveries.get(uid) else {
        return TakeoverPhase::Draining;
    };
    if recovery.phase != Phase::Claimed {
        return TakeoverPhase::Promoting;
    }
    let is_closed = view
        .and_then(|view| view.topology.get(&recovery.plan.old_primary)?.valid_facts())
        .is_some_and(|facts| !facts.is_writable());
    if is_closed {
        TakeoverPhase::CatchingUp
    } else {
        TakeoverPhase::Draining
    }
}
