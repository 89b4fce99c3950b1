//! Events of documents, derived from recorded transitions. Every leader derives the same Events with the same keys, so
//! that an Event that was already written is recognised.

use crate::domain::intent::{IntentDetails, IntentKind, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::audit::{END_DOWNTIME, FORGET};
use crate::domain::state::{Recovery, Request, RequestKind, RequestOutcome, RequestProgress, State};
use crate::domain::time::WallTime;

use super::ClusterView;
use super::document::DeclaredCluster;
use super::endpoints::{Publication, PublishError, PublishedAddresses};
use super::status::{RecoveryPhase, StatusModel};

/// Older transitions produce no Event on a new leader, milliseconds.
const RECENT_MILLIS: u64 = 10 * 60 * 1000;
/// The Event of a lasting problem repeats after this, milliseconds, so that an alert on it stays active as long as the
/// problem lasts.
const AGAIN_MILLIS: i64 = 5 * 60 * 1000;
/// The same for a problem that stays until an operator acts and stops no application, milliseconds.
const SELDOM_AGAIN_MILLIS: i64 = 60 * 60 * 1000;

/// The reason of an Event, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventReason {
    /// A takeover was started.
    TakeoverStarted,
    /// A takeover succeeded.
    TakeoverSucceeded,
    /// A takeover was started and rolled back.
    TakeoverFailed,
    /// A takeover was refused.
    TakeoverRefused,
    /// A takeover was not started before its deadline.
    TakeoverExpired,
    /// A takeover was cancelled.
    TakeoverCancelled,
    /// A failover was started.
    FailoverStarted,
    /// A failover succeeded.
    FailoverSucceeded,
    /// A failover failed.
    FailoverFailed,
    /// A failover is held back.
    FailoverBlocked,
    /// A forced promotion was started.
    FailoverForced,
    /// A forced promotion was refused.
    ForceRefused,
    /// A replica has errant transactions.
    ErrantGtidDetected,
    /// A downtime began.
    DowntimeBegun,
    /// A downtime ended: it expired, or its owner ended it.
    DowntimeEnded,
    /// An operator had an instance forgotten.
    InstanceForgotten,
    /// A Service cannot be created because its name is taken.
    NameTaken,
}

impl EventReason {
    /// All reasons.
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

    /// The action that was in progress, in one word.
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

    /// Whether an operator may have to act.
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

/// An Event of the cluster of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterEvent {
    /// Uid of the document.
    pub uid: String,
    /// The reason.
    pub reason: EventReason,
    /// Key of the occurrence: Events with the same reason and key are the same.
    pub key: String,
    /// Text for the operator.
    pub note: String,
}

/// All present Events of a document; most of them were written before.
pub(super) fn of(
    declared: &DeclaredCluster,
    state: &State,
    model: &StatusModel,
    view: Option<&ClusterView>,
    now: WallTime,
) -> Vec<ClusterEvent> {
    let mut collector = EventCollector {
        uid: &declared.document.uid,
        now,
        events: Vec::new(),
    };
    let origin = &declared.document.origin;
    for request in state.requests.values().filter(|request| request.origin == *origin) {
        collector.request(request);
    }
    let Some(view) = view else {
        return collector.events;
    };
    let is_of_it = |recovery: &&Recovery| {
        recovery.plan.cluster == view.cluster.id
            && recovery.plan.kind.replaces_primary()
            && recovery.plan.kind != RecoveryKind::Takeover
    };
    for recovery in state.recoveries.values().filter(is_of_it) {
        collector.recovery(recovery);
    }
    if let Some(blocked) = model.recovery.as_ref().filter(|it| it.phase == RecoveryPhase::Blocked) {
        collector.lasting(
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
            collector.lasting(
                EventReason::ErrantGtidDetected,
                &instance.instance.to_string(),
                SELDOM_AGAIN_MILLIS,
                format!("{} has transactions that the primary lacks: {set}", instance.instance),
            );
        }
    }
    collector.downtimes(view, state);
    collector.audited(view, state);
    collector.events
}

impl Publication {
    /// The Event of the last publication, if it has one.
    pub fn event(&self, outcome: &Result<PublishedAddresses, PublishError>, now: WallTime) -> Option<ClusterEvent> {
        let mut collector = EventCollector {
            uid: &self.uid,
            now,
            events: Vec::new(),
        };
        if let Err(PublishError::NameTaken(why)) = outcome {
            // The text names the owner of the name.
            collector.lasting(EventReason::NameTaken, why, SELDOM_AGAIN_MILLIS, why.clone());
        }
        collector.events.pop()
    }
}

struct EventCollector<'a> {
    uid: &'a str,
    now: WallTime,
    events: Vec<ClusterEvent>,
}

impl EventCollector<'_> {
    /// Adds an Event of one moment.
    fn once(&mut self, reason: EventReason, key: String, at: WallTime, note: String) {
        if self.now.millis_since(at) <= RECENT_MILLIS {
            self.events.push(ClusterEvent {
                uid: self.uid.to_owned(),
                reason,
                key,
                note,
            });
        }
    }

    /// Adds the Event of a lasting problem, once in each period of `every_millis`.
    fn lasting(&mut self, reason: EventReason, about: &str, every_millis: i64, note: String) {
        let stretch = self.now.0.div_euclid(every_millis);
        self.once(reason, format!("{about} {stretch}"), self.now, note);
    }

    /// Recorded downtimes. A downtime of a document stays recorded until its entry is removed, also after its end.
    fn downtimes(&mut self, view: &ClusterView, state: &State) {
        for (id, intent) in state.intents.iter().filter(|(id, _)| id.kind == IntentKind::Downtime) {
            let IntentDetails::Downtime {
                owner,
                reason,
                since,
                until,
            } = &intent.details
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
                    format!("{} is in downtime: {reason} ({owner})", id.instance),
                ),
                Some(until) if matches!(id.origin, Origin::Document { .. }) => {
                    self.ended(&id.instance, until, "the downtime expired");
                }
                // The audit has an entry when it is removed.
                Some(_) => {}
            }
        }
    }

    fn ended(&mut self, instance: &InstanceKey, at: WallTime, why: &str) {
        let why = if why.is_empty() { "ended by an operator" } else { why };
        let note = format!("{instance} is no longer in downtime: {why}");
        self.once(EventReason::DowntimeEnded, format!("{instance} {}", at.0), at, note);
    }

    /// Events of actions that leave only an entry in the audit.
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
                    format!("{instance} was forgotten: it is discovered again only as a seed, or after a while"),
                );
            }
        }
    }

    fn request(&mut self, request: &Request) {
        let is_forced = request.what.is_force();
        let key = request.key();
        let because = match &request.what {
            RequestKind::Drain { reason, .. } => format!(" ({reason})"),
            RequestKind::Takeover { .. } | RequestKind::Force { .. } => String::new(),
        };
        if let Some(begun) = request.begun {
            let (reason, what) = if is_forced {
                (EventReason::FailoverForced, "a forced promotion was started")
            } else {
                (EventReason::TakeoverStarted, "a takeover was started")
            };
            let note = format!("{what}: request {}{because}", request.id);
            self.once(reason, key.clone(), begun, note);
        }
        let RequestProgress::Over { outcome, why, at, .. } = &request.progress else {
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
            // The Event of its recovery has the result.
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
            format!("{code} of {old_primary}: recovery {} was started", recovery.uid),
        );
        let Some(ended) = recovery.ended() else { return };
        let (reason, note) = if recovery.is_successful() {
            let successor = recovery.successor().map_or_else(String::new, ToString::to_string);
            (
                EventReason::FailoverSucceeded,
                format!("{successor} replaced {old_primary} as the primary"),
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
