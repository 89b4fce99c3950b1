//! What documents ask for once: takeovers and forced promotions. A request is recorded the first time that it is seen and never acted on
//! again, whatever becomes of the document, its status, or the leader.

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

/// How far ahead the deadline of a takeover may be when it is first seen, milliseconds: a manifest that lies around for longer is not
/// meant for today.
pub const MAX_AHEAD_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// How long a forced promotion is tried to be begun, milliseconds: it is about an outage of now.
const FORCE_MILLIS: i64 = 60_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum RequestKind {
    /// A takeover.
    #[serde(rename_all = "camelCase")]
    Takeover {
        /// Who takes over, as the document spells it; `None`: whoever suits.
        #[serde(default)]
        target: Option<InstanceKey>,
        /// How far behind the target may be, and how long it may take to catch up, seconds; `None`: as the configuration says.
        #[serde(default)]
        catch_up_seconds: Option<u64>,
        /// Not begun after this.
        deadline: WallTime,
    },
    /// A takeover that ham4db asks for itself, because the primary is about to go.
    #[serde(rename_all = "camelCase")]
    Drain {
        /// Who hands over.
        primary: InstanceKey,
        /// Why, for people.
        reason: String,
        /// Not begun after this.
        deadline: WallTime,
    },
    /// A promotion whatever is lost, in one incident.
    #[serde(rename_all = "camelCase")]
    Force {
        /// The primary that failed, as the document spells it.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
        /// The incident, by the id that the status gives it.
        incident: String,
    },
}

impl RequestKind {
    /// The kind in a word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Takeover { .. } => "takeover",
            Self::Drain { .. } => "drain",
            Self::Force { .. } => "force",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestOutcome {
    /// Done.
    Succeeded,
    /// Begun, and not done.
    Failed,
    /// Not begun: something spoke against it.
    Refused,
    /// Not begun in time.
    Expired,
    /// Taken back before anything irrevocable was done.
    Cancelled,
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "standing")]
pub enum RequestStanding {
    /// Not begun.
    Pending,
    /// A recovery does it.
    Running {
        /// Which.
        uid: String,
        /// It was taken back: the recovery is to be undone.
        #[serde(default)]
        cancelled: bool,
    },
    /// Handled.
    Over {
        /// How.
        outcome: RequestOutcome,
        /// Why, for people.
        why: String,
        /// When.
        at: WallTime,
        /// The recovery, if one was begun.
        #[serde(default)]
        uid: Option<String>,
    },
}

/// Something that a document asks for once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document.
    pub origin: Origin,
    /// Its name for the request.
    pub id: String,
    /// What.
    pub what: RequestKind,
    /// When it was first seen.
    #[serde(default)]
    pub seen: WallTime,
    /// When it was begun.
    #[serde(default)]
    pub begun: Option<WallTime>,
    /// How far it is.
    pub standing: RequestStanding,
}

/// The key of a request in [`State::requests`]. Ids have no spaces.
pub fn request_key(origin: &Origin, kind: &str, id: &str) -> String {
    format!("{origin} {kind} {id}")
}

impl Request {
    /// A request that nobody has recorded yet.
    pub fn new(origin: Origin, id: String, what: RequestKind) -> Self {
        Self {
            origin,
            id,
            what,
            seen: WallTime::default(),
            begun: None,
            standing: RequestStanding::Pending,
        }
    }

    /// Its key in [`State::requests`].
    pub fn key(&self) -> String {
        request_key(&self.origin, self.what.as_str(), &self.id)
    }

    /// It is not begun after this.
    pub fn until(&self) -> WallTime {
        match &self.what {
            RequestKind::Takeover { deadline, .. } | RequestKind::Drain { deadline, .. } => *deadline,
            RequestKind::Force { .. } => self.seen.plus_millis(FORCE_MILLIS),
        }
    }

    /// It is handled.
    pub fn is_over(&self) -> bool {
        matches!(self.standing, RequestStanding::Over { .. })
    }

    /// The recovery that does it, or did.
    pub fn recovery(&self) -> Option<&str> {
        match &self.standing {
            RequestStanding::Pending => None,
            RequestStanding::Running { uid, .. } => Some(uid),
            RequestStanding::Over { uid, .. } => uid.as_deref(),
        }
    }

    /// It can be taken back: nothing irrevocable was done.
    pub fn can_be_cancelled(&self, state: &State) -> bool {
        match &self.standing {
            RequestStanding::Pending => true,
            RequestStanding::Running { uid, cancelled } => {
                let is_takeover = !matches!(self.what, RequestKind::Force { .. });
                let recovery = state.recoveries.get(uid);
                is_takeover && !cancelled && recovery.is_some_and(|recovery| recovery.phase == Phase::Claimed)
            }
            RequestStanding::Over { .. } => false,
        }
    }

    fn end(&mut self, outcome: RequestOutcome, why: impl Into<String>, at: WallTime) {
        self.standing = RequestStanding::Over {
            outcome,
            why: why.into(),
            at,
            uid: self.recovery().map(ToOwned::to_owned),
        };
    }
}

/// Records a request. One that was recorded before stays as it is, whatever it says now.
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
        standing: RequestStanding::Pending,
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
                "its deadline is more than 24 h ahead: ask again, with another requestID and a nearer one",
                now,
            );
        }
    }
    changes.insert(Change::Request(key.clone()));
    state.requests.insert(key, recorded);
    Ok(Applied::Done)
}

/// Forgets the request that was seen first among those that could not be acted on if they came again: their time is over.
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

/// Takes a request back; what runs is left to its actor to undo.
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
            "request {key} cannot be taken back any more"
        )));
    }
    if let Some(request) = state.requests.get_mut(key) {
        if let RequestStanding::Running { cancelled, .. } = &mut request.standing {
            *cancelled = true;
        } else {
            request.end(RequestOutcome::Cancelled, why, now);
        }
        changes.insert(Change::Request(key.to_owned()));
    }
    Ok(Applied::Done)
}

/// A request that was not begun is handled all the same.
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
    if request.standing != RequestStanding::Pending {
        return Err(RefusedCommand::OutOfOrder(format!("request {key} is not pending")));
    }
    request.end(outcome, why, now);
    changes.insert(Change::Request(key.to_owned()));
    Ok(Applied::Done)
}

fn key_of(plan: &Plan) -> Option<&String> {
    plan.order.as_ref()?.request.as_ref()
}

/// A claim for a request is granted once, and in time.
pub(super) fn check_claim(state: &State, plan: &Plan) -> Result<(), RefusedCommand> {
    let Some(key) = key_of(plan) else {
        return Ok(());
    };
    let request = state
        .requests
        .get(key)
        .ok_or_else(|| RefusedCommand::Unknown(format!("request {key}")))?;
    if request.standing != RequestStanding::Pending {
        return Err(RefusedCommand::OutOfOrder(format!("request {key} was handled before")));
    }
    if request.until() <= state.clock {
        return Err(RefusedCommand::OutOfOrder(format!(
            "the deadline of request {key} has passed"
        )));
    }
    Ok(())
}

/// The claim for a request was granted.
pub(super) fn begin(state: &mut State, plan: &Plan, uid: &str, changes: &mut BTreeSet<Change>) {
    let now = state.clock;
    if let Some(key) = key_of(plan)
        && let Some(request) = state.requests.get_mut(key)
    {
        request.begun = Some(now);
        request.standing = RequestStanding::Running {
            uid: uid.to_owned(),
            cancelled: false,
        };
        changes.insert(Change::Request(key.clone()));
    }
}

/// What was taken back opens nobody.
pub(super) fn check_open(state: &State, plan: &Plan) -> Result<(), RefusedCommand> {
    match key_of(plan) {
        Some(key) if is_cancelled(state, plan) => {
            Err(RefusedCommand::OutOfOrder(format!("request {key} was taken back")))
        }
        Some(_) | None => Ok(()),
    }
}

/// The request that a recovery does was taken back while it ran.
pub fn is_cancelled(state: &State, plan: &Plan) -> bool {
    let request = key_of(plan).and_then(|key| state.requests.get(key));
    request.is_some_and(|request| matches!(request.standing, RequestStanding::Running { cancelled: true, .. }))
}

/// The recovery that did a request is over.
pub(super) fn finish(state: &mut State, recovery: &Recovery, ending: &Ending, changes: &mut BTreeSet<Change>) {
    let now = state.clock;
    let Some(key) = key_of(&recovery.plan) else {
        return;
    };
    let Some(request) = state.requests.get_mut(key) else {
        return;
    };
    let RequestStanding::Running { cancelled, .. } = &request.standing else {
        return;
    };
    let cancelled = *cancelled;
    let (outcome, why) = if ending.successful {
        let successor = ending.successor.as_ref();
        let told = successor.map(|(key, _)| format!("{key} is the primary"));
        (RequestOutcome::Succeeded, told.unwrap_or_default())
    } else if cancelled && recovery.phase == Phase::Claimed {
        (RequestOutcome::Cancelled, ending.errors.join("; "))
    } else {
        (RequestOutcome::Failed, ending.errors.join("; "))
    };
    request.end(outcome, why, now);
    changes.insert(Change::Request(key.clone()));
}

/// A document is gone, and takes back what was not done yet. What it asked for stays on record: made anew, it does not ask again.
pub(super) fn withdraw(state: &mut State, origin: &Origin, changes: &mut BTreeSet<Change>) {
    let open: Vec<String> = state
        .requests
        .iter()
        .filter(|(_, request)| request.origin == *origin && request.can_be_cancelled(state))
        .map(|(key, _)| key.clone())
        .collect();
    for key in open {
        // Whether it can be was just asked.
        drop(cancel(state, &key, "the document is gone", changes));
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
