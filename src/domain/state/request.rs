//! Requests of documents: takeovers and forced promotions. A request is recorded when it is first seen and never acted
//! on again, whatever happens to the document, its status, or the leader.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Plan;
use crate::domain::time::WallTime;

use super::MAX_REQUESTS;
use super::apply::Change;
use super::command::{Applied, Ending, RefusedCommand};
use super::record::{Phase, Recovery, State};

/// How far ahead the deadline of a takeover may be when it is first seen, milliseconds. A manifest with a later
/// deadline is refused.
pub const MAX_AHEAD_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// How long ham4db tries to start a forced promotion, milliseconds: it is about a present outage.
const FORCE_MILLIS: i64 = 60_000;

/// The kind of a request, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum RequestKind {
    /// A takeover.
    #[serde(rename_all = "camelCase")]
    Takeover {
        /// The successor as the document spells it; `None` when ham4db chooses.
        #[serde(default)]
        target: Option<InstanceKey>,
        /// Highest lag of the target and longest time for its catch-up, seconds; `None` when the configuration decides.
        #[serde(default)]
        catch_up_seconds: Option<u64>,
        /// The takeover is not started after this.
        deadline: WallTime,
    },
    /// A takeover that ham4db requests itself because the primary is about to stop.
    #[serde(rename_all = "camelCase")]
    Drain {
        /// The present primary.
        primary: InstanceKey,
        /// The reason, for the operator.
        reason: String,
        /// The takeover is not started after this.
        deadline: WallTime,
    },
    /// A forced promotion for one incident.
    #[serde(rename_all = "camelCase")]
    Force {
        /// The primary that failed, as the document spells it.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
        /// Id of the incident in the status.
        incident: String,
    },
}

impl RequestKind {
    /// Whether a document asks for a takeover.
    pub fn is_takeover(&self) -> bool {
        match self {
            Self::Takeover { .. } => true,
            Self::Drain { .. } | Self::Force { .. } => false,
        }
    }

    /// Whether ham4db asks for a takeover because the primary is about to stop.
    pub fn is_drain(&self) -> bool {
        match self {
            Self::Drain { .. } => true,
            Self::Takeover { .. } | Self::Force { .. } => false,
        }
    }

    /// Whether a document forces a promotion.
    pub fn is_force(&self) -> bool {
        match self {
            Self::Force { .. } => true,
            Self::Takeover { .. } | Self::Drain { .. } => false,
        }
    }

    /// The kind in one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Takeover { .. } => "takeover",
            Self::Drain { .. } => "drain",
            Self::Force { .. } => "force",
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestOutcome {
    /// Succeeded.
    Succeeded,
    /// Started and failed.
    Failed,
    /// Refused before the start.
    Refused,
    /// Not started in time.
    Expired,
    /// Cancelled before anything irrevocable was done.
    Cancelled,
}

/// The progress of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "standing")]
pub enum RequestProgress {
    /// Not started.
    Pending,
    /// A recovery is running for it.
    Running {
        /// The recovery.
        uid: String,
        /// Whether it was cancelled, so that the recovery must be rolled back.
        #[serde(default)]
        cancelled: bool,
    },
    /// Over.
    Over {
        /// The outcome.
        outcome: RequestOutcome,
        /// The reason, for the operator.
        why: String,
        /// When it ended.
        at: WallTime,
        /// The recovery, if one was started.
        #[serde(default)]
        uid: Option<String>,
    },
}

/// A request of a document, which is done once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document.
    pub origin: Origin,
    /// Id of the request within the document.
    pub id: String,
    /// The kind and its parameters.
    pub what: RequestKind,
    /// When it was first seen.
    #[serde(default)]
    pub seen: WallTime,
    /// When it was started.
    #[serde(default)]
    pub begun: Option<WallTime>,
    /// Its progress.
    #[serde(rename = "standing")]
    pub progress: RequestProgress,
}

/// The key of a request in [`State::requests`]. Ids have no spaces.
pub fn request_key(origin: &Origin, kind: &str, id: &str) -> String {
    format!("{origin} {kind} {id}")
}

impl Request {
    /// A request that is not recorded yet.
    pub fn new(origin: Origin, id: String, what: RequestKind) -> Self {
        Self {
            origin,
            id,
            what,
            seen: WallTime::default(),
            begun: None,
            progress: RequestProgress::Pending,
        }
    }

    /// Its key in [`State::requests`].
    pub fn key(&self) -> String {
        request_key(&self.origin, self.what.as_str(), &self.id)
    }

    /// The request is not started after this.
    pub fn until(&self) -> WallTime {
        match &self.what {
            RequestKind::Takeover { deadline, .. } | RequestKind::Drain { deadline, .. } => *deadline,
            RequestKind::Force { .. } => self.seen.plus_millis(FORCE_MILLIS),
        }
    }

    /// Whether the request is over.
    pub fn is_over(&self) -> bool {
        matches!(self.progress, RequestProgress::Over { .. })
    }

    /// The recovery that does or did it.
    pub fn recovery(&self) -> Option<&str> {
        match &self.progress {
            RequestProgress::Pending => None,
            RequestProgress::Running { uid, .. } => Some(uid),
            RequestProgress::Over { uid, .. } => uid.as_deref(),
        }
    }

    /// Whether it can be cancelled: nothing irrevocable was done.
    pub fn can_be_cancelled(&self, state: &State) -> bool {
        match &self.progress {
            RequestProgress::Pending => true,
            RequestProgress::Running { uid, cancelled } => {
                let is_takeover = !self.what.is_force();
                let recovery = state.recoveries.get(uid);
                is_takeover && !cancelled && recovery.is_some_and(|recovery| recovery.phase == Phase::Claimed)
            }
            RequestProgress::Over { .. } => false,
        }
    }

    fn end(&mut self, outcome: RequestOutcome, why: impl Into<String>, at: WallTime) {
        self.progress = RequestProgress::Over {
            outcome,
            why: why.into(),
            at,
            uid: self.recovery().map(ToOwned::to_owned),
        };
    }
}

/// Records a request. A request that was recorded before is not changed.
pub(super) fn ask(
    state: &mut State,
    request: &Request,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let (key, now) = (request.key(), state.clock);
    if state.requests.contains_key(&key) {
        return Ok(Applied::Done);
    }
    make_room(state, changes)?;
    let mut recorded = Request {
        seen: now,
        begun: None,
        progress: RequestProgress::Pending,
        ..request.clone()
    };
    if let RequestKind::Takeover { deadline, .. } | RequestKind::Drain { deadline, .. } = &recorded.what {
        let deadline = *deadline;
        if deadline <= now {
            recorded.end(
                RequestOutcome::Expired,
                "its deadline had passed when it was first seen",
                now,
            );
        } else if deadline.millis_since(now) > MAX_AHEAD_MILLIS {
            recorded.end(
                RequestOutcome::Refused,
                "its deadline is more than 24 h ahead: use another requestID and an earlier deadline",
                now,
            );
        }
    }
    changes.insert(Change::Request(key.clone()));
    state.requests.insert(key, recorded);
    Ok(Applied::Done)
}

/// Drops the request that was seen first among those that could not be acted on again because their deadline has
/// passed.
fn make_room(state: &mut State, changes: &mut BTreeSet<Change>) -> Result<(), RefusedCommand> {
    if state.requests.len() < MAX_REQUESTS {
        return Ok(());
    }
    let now = state.clock;
    let is_harmless = |request: &&Request| request.is_over() && request.until() <= now;
    let oldest = state
        .requests
        .values()
        .filter(is_harmless)
        .min_by_key(|request| (request.seen, request.key()))
        .map(Request::key);
    let oldest = oldest.ok_or_else(|| RefusedCommand::TooMany(format!("requests, {MAX_REQUESTS}")))?;
    state.requests.remove(&oldest);
    changes.insert(Change::Request(oldest));
    Ok(())
}

/// Cancels a request. The actor of a running one rolls it back.
pub(super) fn cancel(
    state: &mut State,
    key: &str,
    why: &str,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let now = state.clock;
    let present = state
        .requests
        .get(key)
        .ok_or_else(|| RefusedCommand::Unknown(format!("request {key}")))?;
    if !present.can_be_cancelled(state) {
        return Err(RefusedCommand::OutOfOrder(format!(
            "request {key} can no longer be cancelled"
        )));
    }
    if let Some(request) = state.requests.get_mut(key) {
        if let RequestProgress::Running { cancelled, .. } = &mut request.progress {
            *cancelled = true;
        } else {
            request.end(RequestOutcome::Cancelled, why, now);
        }
        changes.insert(Change::Request(key.to_owned()));
    }
    Ok(Applied::Done)
}

/// Settles a request that was not started.
pub(super) fn settle(
    state: &mut State,
    key: &str,
    outcome: RequestOutcome,
    why: &str,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let now = state.clock;
    let request = state
        .requests
        .get_mut(key)
        .ok_or_else(|| RefusedCommand::Unknown(format!("request {key}")))?;
    if request.progress != RequestProgress::Pending {
        return Err(RefusedCommand::OutOfOrder(format!("request {key} is not pending")));
    }
    request.end(outcome, why, now);
    changes.insert(Change::Request(key.to_owned()));
    Ok(Applied::Done)
}

fn key_of(plan: &Plan) -> Option<&String> {
    plan.manual_request.as_ref()?.request.as_ref()
}

/// A request is claimed at most once, and before its deadline.
pub(super) fn check_claim(state: &State, plan: &Plan) -> Result<(), RefusedCommand> {
    let Some(key) = key_of(plan) else {
        return Ok(());
    };
    let request = state
        .requests
        .get(key)
        .ok_or_else(|| RefusedCommand::Unknown(format!("request {key}")))?;
    if request.progress != RequestProgress::Pending {
        return Err(RefusedCommand::OutOfOrder(format!("request {key} was handled before")));
    }
    if request.until() <= state.clock {
        return Err(RefusedCommand::OutOfOrder(format!(
            "the deadline of request {key} has passed"
        )));
    }
    Ok(())
}

/// Records that a claim for a request was granted.
pub(super) fn begin(state: &mut State, plan: &Plan, uid: &str, changes: &mut BTreeSet<Change>) {
    let now = state.clock;
    if let Some(key) = key_of(plan)
        && let Some(request) = state.requests.get_mut(key)
    {
        request.begun = Some(now);
        request.progress = RequestProgress::Running {
            uid: uid.to_owned(),
            cancelled: false,
        };
        changes.insert(Change::Request(key.clone()));
    }
}

/// A cancelled request opens no successor.
pub(super) fn check_open(state: &State, plan: &Plan) -> Result<(), RefusedCommand> {
    match key_of(plan) {
        Some(key) if is_cancelled(state, plan) => {
            Err(RefusedCommand::OutOfOrder(format!("request {key} was cancelled")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a request was cancelled while its recovery ran.
pub fn is_cancelled(state: &State, plan: &Plan) -> bool {
    let request = key_of(plan).and_then(|key| state.requests.get(key));
    request.is_some_and(|request| matches!(request.progress, RequestProgress::Running { cancelled: true, .. }))
}

/// Records the end of the recovery of a request.
pub(super) fn finish(state: &mut State, recovery: &Recovery, ending: &Ending, changes: &mut BTreeSet<Change>) {
    let now = state.clock;
    let Some(key) = key_of(&recovery.plan) else {
        return;
    };
    let Some(request) = state.requests.get_mut(key) else {
        return;
    };
    let RequestProgress::Running { cancelled, .. } = &request.progress else {
        return;
    };
    let cancelled = *cancelled;
    let (outcome, why) = if ending.successful {
        let successor = ending.successor.as_ref();
        let text = successor.map(|(key, _)| format!("{key} is the primary"));
        (RequestOutcome::Succeeded, text.unwrap_or_default())
    } else if cancelled && recovery.phase == Phase::Claimed {
        (RequestOutcome::Cancelled, ending.errors.join("; "))
    } else {
        (RequestOutcome::Failed, ending.errors.join("; "))
    };
    request.end(outcome, why, now);
    changes.insert(Change::Request(key.clone()));
}

/// Cancels the open requests of a deleted document. They stay on record, so that a recreated document does not repeat
/// them.
pub(super) fn withdraw(state: &mut State, origin: &Origin, changes: &mut BTreeSet<Change>) {
    let open: Vec<String> = state
        .requests
        .iter()
        .filter(|(_, request)| request.origin == *origin && request.can_be_cancelled(state))
        .map(|(key, _)| key.clone())
        .collect();
    for key in open {
        // This was just checked.
        drop(cancel(state, &key, "the document was deleted", changes));
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
