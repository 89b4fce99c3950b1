//! What a document asks for once: recorded when it is first seen, taken back when it is gone, shown as far as it is.

use std::collections::BTreeMap;

use crate::domain::key::InstanceKey;
use crate::domain::state::record::Acknowledgement;
use crate::domain::state::{
    Command, Phase, Recovery, Request, RequestKind, RequestOutcome, RequestStanding, State, request_key,
};
use crate::domain::time::WallTime;

use super::commands::older_document;
use super::document::{DeclaredCluster, DeclaredTakeover};
use super::status::{ForcePhase, ForceStatus, TakeoverPhase, TakeoverStatus};
use super::{ClusterView, Reading, Reconciliation};

/// The annotation that asks for a promotion whatever is lost.
pub const FORCE_ANNOTATION: &str = "ham4db.io/force-promote";
/// Length of its value.
const MAX_FORCE: usize = 400;

/// The requests that the state lacks, and those that the document does not make any more.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    reading: Reading,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    // What may be old may have been taken back: nothing is begun, and nothing ended, by a reading that cannot be relied on.
    if reading == Reading::Stale || declared.is_outdated(state) {
        return;
    }
    let origin = &declared.document.origin;
    let counts = declared.foreign_owner(state, now).is_none() && older_document(declared, state, views).is_none();
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
        // A handover is not the document's: what takes it back is in its own place.
        let is_its_own = request.origin == *origin && !matches!(request.what, RequestKind::Drain { .. });
        if is_its_own && !wanted.contains_key(key) && request.can_be_cancelled(state) {
            answer.commands.push(Command::CancelRequest {
                key: key.clone(),
                why: "the document does not ask for it any more".to_owned(),
            });
        }
    }
}

/// Whether a takeover is open that the document does not ask for any more.
pub(super) fn has_others_open(declared: &DeclaredCluster, state: &State) -> bool {
    let asked = declared.takeover.as_ref().map(|asked| &asked.id);
    state.requests.values().any(|request| {
        request.origin == declared.document.origin
            && matches!(request.what, RequestKind::Takeover { .. })
            && !request.is_over()
            && asked != Some(&request.id)
    })
}

/// The person's word on the recovery that the document names: one of its cluster, when it is over.
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
        .map(|asked| Request::new(declared.document.origin.clone(), asked.id.clone(), what(asked)));
    takeover.into_iter().chain(force).collect()
}

/// The annotation: `HOST:PORT/INCIDENT`.
fn force(text: &str) -> Result<RequestKind, String> {
    let refused = || {
        format!(
            "{FORCE_ANNOTATION}: `{text}` is no old primary and incident: write HOST:PORT/ID, from status.recovery.old primary and status.recovery.id"
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

fn what(asked: &DeclaredTakeover) -> RequestKind {
    RequestKind::Takeover {
        target: asked.target.clone(),
        catch_up_seconds: asked.catch_up_seconds,
        deadline: asked.deadline,
    }
}

/// How far the takeover is that the document asks for; once that is over, and without one, the last that was asked for.
pub(super) fn takeover(
    declared: &DeclaredCluster,
    state: &State,
    view: Option<&ClusterView>,
) -> Option<TakeoverStatus> {
    let origin = &declared.document.origin;
    let is_one = |request: &&Request| request.origin == *origin && !matches!(request.what, RequestKind::Force { .. });
    let last = state
        .requests
        .values()
        .filter(is_one)
        .max_by_key(|request| (request.seen, &request.id));
    let Some(asked) = &declared.takeover else {
        return last.map(|request| told(request, state, view));
    };
    let recorded = state
        .requests
        .get(&request_key(origin, what(asked).as_str(), &asked.id));
    if let Some(last) = last
        && matches!(last.what, RequestKind::Drain { .. })
        && recorded.is_some_and(Request::is_over)
    {
        return Some(told(last, state, view));
    }
    Some(match recorded {
        Some(request) => {
            let mut status = told(request, state, view);
            if request.what != what(asked) {
                status.message = format!(
                    "{} (the document asked for something else under this requestID first, and that counts)",
                    status.message
                );
            }
            status
        }
        None => TakeoverStatus {
            id: asked.id.clone(),
            phase: TakeoverPhase::Pending,
            message: "not recorded yet".to_owned(),
            started: None,
            finished: None,
        },
    })
}

/// What became of the annotation, or of the last one.
pub(super) fn forced(declared: &DeclaredCluster, state: &State) -> Option<ForceStatus> {
    let origin = &declared.document.origin;
    let is_one = |request: &&Request| request.origin == *origin && matches!(request.what, RequestKind::Force { .. });
    let request = match &declared.force {
        None => state
            .requests
            .values()
            .filter(is_one)
            .max_by_key(|request| (request.seen, &request.id))?,
        Some(text) => {
            let asked = |phase, message: String| ForceStatus {
                asked: text.clone(),
                phase,
                message,
            };
            let what = match force(text) {
                Ok(what) => what,
                Err(why) => return Some(asked(ForcePhase::Refused, why)),
            };
            let recorded = state.requests.get(&request_key(origin, what.as_str(), text));
            match recorded {
                Some(request) => request,
                None => return Some(asked(ForcePhase::Pending, "not recorded yet".to_owned())),
            }
        }
    };
    let (phase, message) = match &request.standing {
        RequestStanding::Pending => (
            ForcePhase::Pending,
            "waits until all servers of the cluster were looked at".to_owned(),
        ),
        RequestStanding::Running { uid, .. } => (ForcePhase::Running, format!("recovery {uid}")),
        RequestStanding::Over { outcome, why, .. } => (
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
        asked: request.id.clone(),
        phase,
        message,
    })
}

fn told(request: &Request, state: &State, view: Option<&ClusterView>) -> TakeoverStatus {
    let (phase, message, finished) = match &request.standing {
        RequestStanding::Pending if view.is_none() => (
            TakeoverPhase::Pending,
            "waits until the cluster is seen".to_owned(),
            None,
        ),
        RequestStanding::Pending => (
            TakeoverPhase::Pending,
            "waits until all servers of the cluster were looked at".to_owned(),
            None,
        ),
        RequestStanding::Running { uid, cancelled } => {
            let phase = phase_of(uid, state, view);
            let message = if *cancelled && phase != TakeoverPhase::Promoting {
                format!("recovery {uid}: taken back, and being undone")
            } else {
                format!("recovery {uid}")
            };
            (phase, message, None)
        }
        RequestStanding::Over { outcome, why, at, .. } => {
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

/// By what is committed; before the opening, by what the old primary was last seen to be.
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
