//! What is told of a document once: its transitions, made from what is recorded, so that every leader tells the same under the same key
//! and what was told is known again.

use crate::domain::intent::{IntentKind, Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::RecoveryKind;
use crate::domain::state::audit::{END_DOWNTIME, FORGET};
use crate::domain::state::{Recovery, Request, RequestKind, RequestOutcome, RequestStanding, State};
use crate::domain::time::WallTime;

use super::ClusterView;
use super::document::DeclaredCluster;
use super::endpoints::{LeadsTo, Publication, PublishError};
use super::status::{RecoveryPhase, StatusModel};

/// What is further back is history: a new leader does not tell it again, milliseconds.
const RECENT_MILLIS: u64 = 10 * 60 * 1000;
/// What lasts is told again after this, so that who is alarmed by it is alarmed as long as it lasts, milliseconds.
const AGAIN_MILLIS: i64 = 5 * 60 * 1000;
/// What stays until somebody deals with it, and stops no application, is told of less often, milliseconds.
const SELDOM_AGAIN_MILLIS: i64 = 60 * 60 * 1000;

/// What happened, as a word that programs may compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventReason {
    /// A takeover was begun.
    TakeoverStarted,
    /// It is done.
    TakeoverSucceeded,
    /// It was begun and undone.
    TakeoverFailed,
    /// Something spoke against it.
    TakeoverRefused,
    /// It was not begun in time.
    TakeoverExpired,
    /// It was taken back.
    TakeoverCancelled,
    /// A failed primary is being replaced.
    FailoverStarted,
    /// It was replaced.
    FailoverSucceeded,
    /// It was not.
    FailoverFailed,
    /// It is not: something holds that back.
    FailoverBlocked,
    /// A person has a primary replaced whatever is lost.
    FailoverForced,
    /// A person asked for that, and it was not done.
    ForceRefused,
    /// A replica has transactions of its own.
    ErrantGtidDetected,
    /// An instance is left alone from now on.
    DowntimeBegun,
    /// It is no longer: its time has passed, or who asked took it back.
    DowntimeEnded,
    /// A person had an instance forgotten.
    InstanceForgotten,
    /// A Service cannot be had: the name is somebody else's.
    NameTaken,
}

impl EventReason {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::TakeoverStarted,
        Self::TakeoverSucceeded,
        Self::TakeoverFailed,
        Self::TakeoverRefused,
        Self::TakeoverExpired,
        Self::TakeoverCancelled,
        Self::FailoverStarted,
        Self::FailoverSucceeded,
        Self::FailoverFailed,
        Self::FailoverBlocked,
        Self::FailoverForced,
        Self::ForceRefused,
        Self::ErrantGtidDetected,
        Self::DowntimeBegun,
        Self::DowntimeEnded,
        Self::InstanceForgotten,
        Self::NameTaken,
    ];

    /// The reason as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TakeoverStarted => "TakeoverStarted",
            Self::TakeoverSucceeded => "TakeoverSucceeded",
            Self::TakeoverFailed => "TakeoverFailed",
            Self::TakeoverRefused => "TakeoverRefused",
            Self::TakeoverExpired => "TakeoverExpired",
            Self::TakeoverCancelled => "TakeoverCancelled",
            Self::FailoverStarted => "FailoverStarted",
            Self::FailoverSucceeded => "FailoverSucceeded",
            Self::FailoverFailed => "FailoverFailed",
            Self::FailoverBlocked => "FailoverBlocked",
            Self::FailoverForced => "FailoverForced",
            Self::ForceRefused => "ForceRefused",
            Self::ErrantGtidDetected => "ErrantGTIDDetected",
            Self::DowntimeBegun => "DowntimeBegun",
            Self::DowntimeEnded => "DowntimeEnded",
            Self::InstanceForgotten => "InstanceForgotten",
            Self::NameTaken => "NameTaken",
        }
    }

    /// What was being done when it happened, in a word.
    pub fn action(self) -> &'static str {
        match self {
            Self::TakeoverStarted
            | Self::TakeoverSucceeded
            | Self::TakeoverFailed
            | Self::TakeoverRefused
            | Self::TakeoverExpired
            | Self::TakeoverCancelled => "Takeover",
            Self::FailoverStarted
            | Self::FailoverSucceeded
            | Self::FailoverFailed
            | Self::FailoverBlocked
            | Self::FailoverForced
            | Self::ForceRefused => "Failover",
            Self::ErrantGtidDetected => "Compare",
            Self::DowntimeBegun | Self::DowntimeEnded => "Downtime",
            Self::InstanceForgotten => "Forget",
            Self::NameTaken => "Publish",
        }
    }

    /// Somebody should look.
    pub fn is_warning(self) -> bool {
        match self {
            Self::TakeoverStarted
            | Self::TakeoverSucceeded
            | Self::TakeoverCancelled
            | Self::DowntimeBegun
            | Self::DowntimeEnded
            | Self::InstanceForgotten => false,
            Self::TakeoverFailed
            | Self::TakeoverRefused
            | Self::TakeoverExpired
            | Self::FailoverStarted
            | Self::FailoverSucceeded
            | Self::FailoverFailed
            | Self::FailoverBlocked
            | Self::FailoverForced
            | Self::ForceRefused
            | Self::ErrantGtidDetected
            | Self::NameTaken => true,
        }
    }
}

/// Something that happened to the cluster of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterEvent {
    /// Uid of the document.
    pub uid: String,
    /// What.
    pub reason: EventReason,
    /// Which time: one of the same reason and key is the same.
    pub key: String,
    /// For people.
    pub note: String,
}

/// What is to be told of a document now; most of it was told before.
pub(super) fn of(
    declared: &DeclaredCluster,
    state: &State,
    model: &StatusModel,
    view: Option<&ClusterView>,
    now: WallTime,
) -> Vec<ClusterEvent> {
    let mut told = Told {
        uid: &declared.document.uid,
        now,
        notices: Vec::new(),
    };
    let origin = &declared.document.origin;
    for request in state.requests.values().filter(|request| request.origin == *origin) {
        told.request(request);
    }
    let Some(view) = view else {
        return told.notices;
    };
    let is_of_it = |recovery: &&Recovery| {
        recovery.plan.cluster == view.cluster.id
            && recovery.plan.kind.replaces_primary()
            && recovery.plan.kind != RecoveryKind::Takeover
    };
    for recovery in state.recoveries.values().filter(is_of_it) {
        told.recovery(recovery);
    }
    if let Some(blocked) = model.recovery.as_ref().filter(|it| it.phase == RecoveryPhase::Blocked) {
        told.lasting(
            EventReason::FailoverBlocked,
            &format!("{} {}", blocked.old_primary, blocked.failure),
            AGAIN_MILLIS,
            format!(
                "{} of {} is not repaired: {}",
                blocked.failure,
                blocked.old_primary,
                blocked.blocked_by.join("; ")
            ),
        );
    }
    for instance in &model.instances {
        if let Some(set) = &instance.errant {
            told.lasting(
                EventReason::ErrantGtidDetected,
                &instance.instance.to_string(),
                SELDOM_AGAIN_MILLIS,
                format!("{} has transactions that the primary lacks: {set}", instance.instance),
            );
        }
    }
    told.downtimes(view, state);
    told.audited(view, state);
    told.notices
}

impl Publication {
    /// What is to be told of the last attempt to publish.
    pub fn notice(&self, outcome: &Result<LeadsTo, PublishError>, now: WallTime) -> Option<ClusterEvent> {
        let mut told = Told {
            uid: &self.uid,
            now,
            notices: Vec::new(),
        };
        if let Err(PublishError::NameTaken(why)) = outcome {
            // The words say whose name it is.
            told.lasting(EventReason::NameTaken, why, SELDOM_AGAIN_MILLIS, why.clone());
        }
        told.notices.pop()
    }
}

struct Told<'a> {
    uid: &'a str,
    now: WallTime,
    notices: Vec<ClusterEvent>,
}

impl Told<'_> {
    /// Something that happened at one moment.
    fn once(&mut self, reason: EventReason, key: String, at: WallTime, note: String) {
        if self.now.millis_since(at) <= RECENT_MILLIS {
            self.notices.push(ClusterEvent {
                uid: self.uid.to_owned(),
                reason,
                key,
                note,
            });
        }
    }

    /// Something that lasts: told once in each stretch of so long.
    fn lasting(&mut self, reason: EventReason, about: &str, every_millis: i64, note: String) {
        let stretch = self.now.0.div_euclid(every_millis);
        self.once(reason, format!("{about} {stretch}"), self.now, note);
    }

    /// Downtimes that are recorded. One of a document stays recorded until its entry goes, also when its time has passed.
    fn downtimes(&mut self, view: &ClusterView, state: &State) {
        for (id, intent) in state.intents.iter().filter(|(id, _)| id.kind == IntentKind::Downtime) {
            let Wish::Downtime {
                owner,
                reason,
                since,
                until,
            } = &intent.wish
            else {
                continue;
            };
            if view.topology.get(&id.instance).is_none() {
                continue;
            }
            match until.filter(|until| *until <= self.now) {
                None => self.once(
                    EventReason::DowntimeBegun,
                    format!("{} {} {}", id.instance, id.origin, since.0),
                    *since,
                    format!("{} is left alone: {reason} ({owner})", id.instance),
                ),
                Some(until) if matches!(id.origin, Origin::Document { .. }) => {
                    self.ended(&id.instance, until, "its time has passed");
                }
                // The audit tells of it when it is removed.
                Some(_) => {}
            }
        }
    }

    fn ended(&mut self, instance: &InstanceKey, at: WallTime, why: &str) {
        let why = if why.is_empty() { "ended by a person" } else { why };
        let note = format!("{instance} is no longer left alone: {why}");
        self.once(EventReason::DowntimeEnded, format!("{instance} {}", at.0), at, note);
    }

    /// What leaves nothing behind but a line of the audit.
    fn audited(&mut self, view: &ClusterView, state: &State) {
        for entry in state.audit.values().rev() {
            if self.now.millis_since(entry.at) > RECENT_MILLIS {
                return;
            }
            let Some(instance) = &entry.instance else { continue };
            if entry.kind == END_DOWNTIME && view.topology.get(instance).is_some() {
                self.ended(instance, entry.at, &entry.message);
            } else if entry.kind == FORGET && entry.cluster_name == view.cluster.name {
                self.once(
                    EventReason::InstanceForgotten,
                    format!("{instance} {}", entry.at.0),
                    entry.at,
                    format!("{instance} was forgotten: it is found again only where it is named, or after a while"),
                );
            }
        }
    }

    fn request(&mut self, request: &Request) {
        let is_forced = matches!(request.what, RequestKind::Force { .. });
        let key = request.key();
        let because = match &request.what {
            RequestKind::Drain { reason, .. } => format!(" ({reason})"),
            RequestKind::Takeover { .. } | RequestKind::Force { .. } => String::new(),
        };
        if let Some(begun) = request.begun {
            let (reason, what) = if is_forced {
                (EventReason::FailoverForced, "a promotion whatever is lost was begun")
            } else {
                (EventReason::TakeoverStarted, "a takeover was begun")
            };
            let note = format!("{what}: request {}{because}", request.id);
            self.once(reason, key.clone(), begun, note);
        }
        let RequestStanding::Over { outcome, why, at, .. } = &request.standing else {
            return;
        };
        let reason = match (outcome, is_forced) {
            (RequestOutcome::Succeeded, false) => EventReason::TakeoverSucceeded,
            (RequestOutcome::Failed, false) => EventReason::TakeoverFailed,
            (RequestOutcome::Refused, false) => EventReason::TakeoverRefused,
            (RequestOutcome::Expired, false) => EventReason::TakeoverExpired,
            (RequestOutcome::Cancelled, false) => EventReason::TakeoverCancelled,
            (RequestOutcome::Refused | RequestOutcome::Expired | RequestOutcome::Cancelled, true) => {
                EventReason::ForceRefused
            }
            // Its recovery tells how it ended.
            (RequestOutcome::Succeeded | RequestOutcome::Failed, true) => return,
        };
        self.once(reason, key, *at, format!("request {}{because}: {why}", request.id));
    }

    fn recovery(&mut self, recovery: &Recovery) {
        let (code, old_primary) = (recovery.plan.code, &recovery.plan.old_primary);
        self.once(
            EventReason::FailoverStarted,
            recovery.uid.clone(),
            recovery.started,
            format!("{code} of {old_primary}: recovery {} was begun", recovery.uid),
        );
        let Some(ended) = recovery.ended() else { return };
        let (reason, note) = if recovery.is_successful() {
            let successor = recovery.successor().map_or_else(String::new, ToString::to_string);
            (
                EventReason::FailoverSucceeded,
                format!("{successor} is the primary in place of {old_primary}"),
            )
        } else {
            (
                EventReason::FailoverFailed,
                format!(
                    "recovery {} of {old_primary} failed: {}",
                    recovery.uid,
                    recovery.errors.join("; ")
                ),
            )
        };
        self.once(reason, recovery.uid.clone(), ended, note);
    }
}
