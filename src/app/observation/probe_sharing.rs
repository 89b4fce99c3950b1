//! Shared probing: which member probes an instance now, what this member observed for the others, and what they sent.
//!
//! The leader assigns every instance to one member and confirms the assignment several times a second, with each answer to a request for
//! observations. A member that has no confirmed assignment, or has heard nothing from the assigned member for 1.5 seconds, probes the
//! instance itself. So a wrong or an old assignment costs probes, and never hides a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::instance::{InstanceFacts, ProbeFailure};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::probe_assignment::{Assignment, AssignmentInputs, AssignmentVersion, ProbeSharing, assign};
use crate::domain::state::MemberId;
use crate::domain::time::MonotonicTime;

use crate::app::ports::{
    AssignmentOffer, Clock, MAX_ASSIGNED, ObservationRequest, ObservationSource, ObservationUpdate,
};

mod incoming;
mod outgoing;

pub use incoming::ReceivedObservation;

use incoming::{Arrival, IncomingStream};
use outgoing::{OutgoingStream, OwnObservation};

/// How long an answer without anything urgent is held back.
pub const HOLD: Duration = Duration::from_millis(250);
/// The least time that an answer is held back: it bounds the rate of urgent ones.
const LEAST_HOLD: Duration = Duration::from_millis(5);
/// A member that was not heard for so long is silent, milliseconds: its share is probed by the others. One lost request is no silence.
const SILENT_AFTER_MILLIS: u64 = 1500;
/// For how long an assignment holds after the leader confirmed it, milliseconds.
const CONFIRMED_FOR_MILLIS: u64 = 2500;
/// For how long an instance is not assigned to a member that did not reach it although the leader did, milliseconds.
const UNREACHED_FOR_MILLIS: u64 = 60_000;
/// For how long a failure that another member reported is compared with what this member sees, milliseconds.
const REPORT_MILLIS: u64 = 10_000;

/// The voters and the leader, as this member knows them now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharingGroup {
    /// This member.
    pub me: MemberId,
    /// The names of the voters, this member included.
    pub names: BTreeMap<MemberId, String>,
    /// Every voter can share probes.
    pub is_possible: bool,
    /// This member leads.
    pub is_leader: bool,
    /// The raft term.
    pub term: u64,
}

/// How many instances each member probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeShares {
    /// Whether probes are shared now.
    pub is_active: bool,
    /// The number of instances by the name of the member, for members with a share.
    pub by_member: BTreeMap<String, usize>,
    /// How many observations of other members were received since the start.
    pub received: u64,
    /// The bytes of all answers of other members since the start.
    pub received_bytes: u64,
}

#[derive(Debug)]
struct Known {
    version: AssignmentVersion,
    members: Assignment,
}

#[derive(Debug)]
struct Inner {
    group: SharingGroup,
    assignment: Option<Known>,
    confirmed_until: Option<MonotonicTime>,
    heard: BTreeMap<MemberId, MonotonicTime>,
    /// Instances of clusters with a running recovery or a quarantine: the leader looks itself.
    recovered: BTreeSet<InstanceKey>,
    /// Failures that other members reported.
    reports: BTreeMap<(InstanceKey, MemberId), MonotonicTime>,
    /// Until when an instance is not assigned to a member.
    unreached: BTreeMap<(InstanceKey, MemberId), MonotonicTime>,
    outgoing: OutgoingStream,
    incoming: BTreeMap<MemberId, IncomingStream>,
    received: u64,
    received_bytes: u64,
    /// What the tasks of the poller were last woken for.
    woken_for: (bool, Option<AssignmentVersion>, BTreeSet<MemberId>, bool),
}

impl Inner {
    fn is_active(&self, now: MonotonicTime) -> bool {
        self.group.is_possible && self.assignment.is_some() && self.confirmed_until.is_some_and(|until| now < until)
    }

    fn is_heard(&self, member: MemberId, now: MonotonicTime) -> bool {
        let heard = self.heard.get(&member);
        heard.is_some_and(|heard| now.millis_since(*heard) < SILENT_AFTER_MILLIS)
    }

    fn assigned(&self, key: &InstanceKey) -> Option<MemberId> {
        self.assignment.as_ref()?.members.get(key).copied()
    }

    /// The instances of the own share stay in the stream.
    fn drop_foreign(&mut self) {
        let me = self.group.me;
        let members = self.assignment.as_ref().map(|known| &known.members);
        self.outgoing
            .retain(|key| members.is_some_and(|members| members.get(key) == Some(&me)));
    }
}

/// What this member knows about the shared probes. The cache of instances holds it.
pub struct SharedProbes {
    mode: ProbeSharing,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// Changes whenever another member may have to probe than before.
    duties: watch::Sender<u64>,
    /// Changes whenever answers should not be held back any longer.
    urgent: watch::Sender<u64>,
}

impl std::fmt::Debug for SharedProbes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedProbes")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Whether this member may act on the cluster of an instance, and so probes it itself.
fn is_reserved(inner: &Inner, key: &InstanceKey) -> bool {
    inner.group.is_leader && inner.recovered.contains(key)
}

impl SharedProbes {
    /// Probes are not shared before the member is part of a group with a leader that assigns them.
    pub fn new(mode: ProbeSharing, clock: Arc<dyn Clock>) -> Arc<Self> {
        let stream = u64::try_from(clock.wall().0).unwrap_or(1);
        Arc::new(Self {
            mode,
            clock,
            inner: Mutex::new(Inner {
                group: SharingGroup::default(),
                assignment: None,
                confirmed_until: None,
                heard: BTreeMap::new(),
                recovered: BTreeSet::new(),
                reports: BTreeMap::new(),
                unreached: BTreeMap::new(),
                outgoing: OutgoingStream::new(stream),
                incoming: BTreeMap::new(),
                received: 0,
                received_bytes: 0,
                woken_for: (false, None, BTreeSet::new(), false),
            }),
            duties: watch::Sender::default(),
            urgent: watch::Sender::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the configuration asks for shared probes.
    pub fn is_on(&self) -> bool {
        self.mode.is_on()
    }

    /// A counter that changes whenever another member may have to probe than before.
    pub fn duties(&self) -> watch::Receiver<u64> {
        self.duties.subscribe()
    }

    /// Whether this member has to probe an instance.
    pub fn is_own(&self, key: &InstanceKey) -> bool {
        let now = self.clock.monotonic();
        let inner = self.lock();
        if !inner.is_active(now) || is_reserved(&inner, key) {
            return true;
        }
        match inner.assigned(key) {
            Some(member) => member == inner.group.me || !inner.is_heard(member, now),
            None => true,
        }
    }

    /// Whether what another member observed of an instance may be used: this member does not act on its cluster.
    pub fn may_use(&self, key: &InstanceKey) -> bool {
        let inner = self.lock();
        inner.is_active(self.clock.monotonic()) && !is_reserved(&inner, key)
    }

    /// Puts an own observation into the stream for the others, when the instance is in the own share.
    pub fn put_own(
        &self,
        key: &InstanceKey,
        account: &Origin,
        (begun, ended, micros): (MonotonicTime, MonotonicTime, u64),
        outcome: Result<&InstanceFacts, &ProbeFailure>,
    ) {
        let mut inner = self.lock();
        if inner.assigned(key) != Some(inner.group.me) {
            return;
        }
        let is_urgent = inner.outgoing.put(&OwnObservation {
            key,
            account,
            begun,
            ended,
            micros,
            outcome,
        });
        drop(inner);
        if is_urgent {
            self.send_now();
        }
    }

    /// A pulse to an instance failed, or its connection broke: the others look too, while this member tries a new connection.
    pub fn put_doubt(&self, key: &InstanceKey, account: &Origin) {
        let mut inner = self.lock();
        let is_urgent =
            inner.assigned(key) == Some(inner.group.me) && inner.outgoing.doubt(key, account, self.clock.monotonic());
        drop(inner);
        if is_urgent {
            self.send_now();
        }
    }

    fn send_now(&self) {
        self.urgent.send_modify(|count| *count += 1);
    }

    /// The next request to another member.
    pub fn request_to(&self, member: MemberId) -> ObservationRequest {
        let mut inner = self.lock();
        let assignment = inner.assignment.as_ref().map(|known| known.version);
        ObservationRequest {
            assignment,
            ..inner.incoming.entry(member).or_default().request()
        }
    }

    /// Takes in an answer of another member. Times are those of the request.
    pub fn accept(
        &self,
        member: MemberId,
        mut update: ObservationUpdate,
        begun: MonotonicTime,
        is_watched: impl Fn(&InstanceKey) -> bool,
    ) -> Vec<ReceivedObservation> {
        // The cache of instances calls this module while it is locked, so this module calls nothing while it is.
        let keys = update.observations.iter().map(|shared| &shared.key);
        let watched: BTreeSet<InstanceKey> = keys.filter(|key| is_watched(key)).cloned().collect();
        let now = self.clock.monotonic();
        let held = update.held_millis.saturating_mul(1000);
        let arrival = Arrival {
            at: now,
            wall: self.clock.wall(),
            transit_micros: now.micros_since(begun).saturating_sub(held),
        };
        let offer = update.assignment.take();
        let mut inner = self.lock();
        inner.heard.insert(member, now);
        inner.received_bytes = inner.received_bytes.saturating_add(update.received_bytes);
        let count = u64::try_from(update.observations.len()).unwrap_or(u64::MAX);
        inner.received = inner.received.saturating_add(count);
        if let Some(offer) = offer {
            accept_offer(&mut inner, offer, begun);
        }
        inner
            .incoming
            .entry(member)
            .or_default()
            .accept(update, arrival, |key| watched.contains(key))
    }

    /// Another member reports that an instance fails. Later it is compared with what this member sees.
    pub fn note_report(&self, key: &InstanceKey, member: MemberId) {
        let now = self.clock.monotonic();
        self.lock().reports.entry((key.clone(), member)).or_insert(now);
    }

    /// Compares what other members reported with what this member sees: an instance that answers this member is assigned to another one.
    pub fn review_reports(&self, answers_since: impl Fn(&InstanceKey, MonotonicTime) -> bool) {
        let now = self.clock.monotonic();
        let reports = {
            let mut inner = self.lock();
            inner.unreached.retain(|_, until| now < *until);
            std::mem::take(&mut inner.reports)
        };
        let judged: Vec<_> = reports
            .into_iter()
            .map(|((key, member), at)| (answers_since(&key, at), (key, member), at))
            .collect();
        let mut inner = self.lock();
        for (answers, report, at) in judged {
            if answers {
                let until = MonotonicTime(now.0.saturating_add(UNREACHED_FOR_MILLIS * 1000));
                inner.unreached.insert(report, until);
            } else if now.millis_since(at) < REPORT_MILLIS {
                inner.reports.entry(report).or_insert(at);
            }
        }
    }

    /// Sets the voters and the leader, and on which instances the leader acts. Wakes the poller when another member has to probe than before.
    pub fn follow(&self, group: SharingGroup, recovered: BTreeSet<InstanceKey>) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let is_voter = |member: &MemberId| group.names.contains_key(member);
        inner.heard.retain(|member, _| is_voter(member));
        inner.incoming.retain(|member, _| is_voter(member));
        if inner.group.is_leader && !group.is_leader {
            inner.confirmed_until = None;
            inner.reports.clear();
            inner.unreached.clear();
        }
        if inner.group.me != group.me {
            inner.assignment = None;
        }
        inner.group = group;
        let reserved_changed = inner.recovered != recovered;
        inner.recovered = recovered;
        let members = inner.group.names.keys().copied();
        let silent: BTreeSet<MemberId> = members.filter(|member| !inner.is_heard(*member, now)).collect();
        let version = inner.assignment.as_ref().map(|known| known.version);
        let woken_for = (inner.is_active(now), version, silent, inner.group.is_leader);
        let is_other = inner.woken_for != woken_for || reserved_changed;
        inner.woken_for = woken_for;
        drop(inner);
        if is_other {
            self.duties.send_modify(|count| *count += 1);
        }
    }

    /// On the leader: the assignment of this term goes on to hold.
    pub fn confirm(&self) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let term = inner.group.term;
        let is_of_term = inner
            .assignment
            .as_ref()
            .is_some_and(|known| known.version.term == term);
        if inner.group.is_leader && inner.group.is_possible && is_of_term {
            inner.confirmed_until = Some(MonotonicTime(now.0.saturating_add(CONFIRMED_FOR_MILLIS * 1000)));
        }
    }

    /// On the leader: assigns these instances, each with its data center, to the live members, and confirms the assignment.
    pub fn lead(&self, instances: BTreeMap<InstanceKey, String>, data_centers: &BTreeMap<MemberId, String>) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        if !inner.group.is_leader || !inner.group.is_possible {
            return;
        }
        let me = inner.group.me;
        let live = inner
            .group
            .names
            .keys()
            .filter(|id| **id == me || inner.is_heard(**id, now));
        let members: BTreeMap<MemberId, String> = live
            .map(|id| (*id, data_centers.get(id).cloned().unwrap_or_default()))
            .collect();
        let inputs = AssignmentInputs {
            instances,
            members,
            unreached: inner.unreached.keys().cloned().collect(),
        };
        let none = Assignment::new();
        let present = inner.assignment.as_ref();
        let next = assign(self.mode, &inputs, present.map_or(&none, |known| &known.members));
        let term = inner.group.term;
        let is_current = present.is_some_and(|known| known.version.term == term && known.members == next);
        if !is_current {
            let number = present.filter(|known| known.version.term == term);
            let number = number.map_or(1, |known| known.version.number.saturating_add(1));
            inner.assignment = Some(Known {
                version: AssignmentVersion { term, number },
                members: next,
            });
            inner.drop_foreign();
        }
        inner.confirmed_until = Some(MonotonicTime(now.0.saturating_add(CONFIRMED_FOR_MILLIS * 1000)));
        drop(inner);
        if !is_current {
            self.duties.send_modify(|count| *count += 1);
            self.send_now();
        }
    }

    /// The members that this one hears, and this one.
    pub fn live_members(&self) -> BTreeSet<MemberId> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let me = inner.group.me;
        let members = inner.group.names.keys().copied();
        members.filter(|id| *id == me || inner.is_heard(*id, now)).collect()
    }

    /// Drops what was received of instances that are not watched any more.
    pub fn retain(&self, is_watched: impl Fn(&InstanceKey) -> bool) {
        for stream in self.lock().incoming.values_mut() {
            stream.retain(&is_watched);
        }
    }

    /// How many instances each member probes.
    pub fn shares(&self) -> ProbeShares {
        let inner = self.lock();
        let is_active = inner.is_active(self.clock.monotonic());
        let mut by_member: BTreeMap<String, usize> = BTreeMap::new();
        if is_active {
            for name in inner.group.names.values() {
                by_member.insert(name.clone(), 0);
            }
            for member in inner.assignment.iter().flat_map(|known| known.members.values()) {
                if let Some(name) = inner.group.names.get(member) {
                    *by_member.entry(name.clone()).or_default() += 1;
                }
            }
        }
        ProbeShares {
            is_active,
            by_member,
            received: inner.received,
            received_bytes: inner.received_bytes,
        }
    }

    /// The member that an instance is assigned to, while probes are shared.
    pub fn assigned(&self, key: &InstanceKey) -> Option<MemberId> {
        let inner = self.lock();
        inner.assigned(key).filter(|_| inner.is_active(self.clock.monotonic()))
    }

    /// The assignment as this member offers it: only the leader does.
    fn offer(inner: &Inner, now: MonotonicTime, known: Option<AssignmentVersion>) -> Option<AssignmentOffer> {
        let present = inner
            .assignment
            .as_ref()
            .filter(|_| inner.group.is_leader && inner.is_active(now))?;
        let shares = || {
            let mut shares: BTreeMap<MemberId, Vec<InstanceKey>> = BTreeMap::new();
            for (key, member) in &present.members {
                shares.entry(*member).or_default().push(key.clone());
            }
            shares
        };
        Some(AssignmentOffer {
            version: present.version,
            shares: (known != Some(present.version)).then(shares),
        })
    }
}

/// Takes over the assignment of a leader, or its confirmation. `begun` is when the request was sent.
fn accept_offer(inner: &mut Inner, offer: AssignmentOffer, begun: MonotonicTime) {
    let known = inner.assignment.as_ref().map(|known| known.version);
    let is_of_term = offer.version.term == inner.group.term && !inner.group.is_leader;
    if !is_of_term || known.is_some_and(|known| offer.version < known) {
        return;
    }
    if let Some(shares) = offer.shares {
        if shares.values().map(Vec::len).sum::<usize>() > MAX_ASSIGNED {
            return;
        }
        let members = shares.into_iter();
        let members = members.flat_map(|(member, keys)| keys.into_iter().map(move |key| (key, member)));
        inner.assignment = Some(Known {
            version: offer.version,
            members: members.collect(),
        });
        inner.drop_foreign();
    } else if known != Some(offer.version) {
        return;
    }
    inner.confirmed_until = Some(MonotonicTime(begun.0.saturating_add(CONFIRMED_FOR_MILLIS * 1000)));
}

#[async_trait]
impl ObservationSource for SharedProbes {
    async fn observations(&self, request: ObservationRequest) -> ObservationUpdate {
        let begun = self.clock.monotonic();
        let mut urgent = self.urgent.subscribe();
        let until = Instant::now() + HOLD;
        tokio::time::sleep(LEAST_HOLD).await;
        loop {
            {
                let inner = self.lock();
                let offer = Self::offer(&inner, self.clock.monotonic(), request.assignment);
                let is_new = offer.is_some_and(|offer| offer.shares.is_some());
                if is_new || inner.outgoing.is_urgent_for(&request) {
                    break;
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                changed = urgent.changed() => if changed.is_err() { break },
            }
        }
        let now = self.clock.monotonic();
        let inner = self.lock();
        let offer = Self::offer(&inner, now, request.assignment);
        ObservationUpdate {
            held_millis: now.millis_since(begun),
            assignment: offer,
            ..inner.outgoing.update(&request, now)
        }
    }
}

#[cfg(test)]
#[path = "probe_sharing_tests.rs"]
mod tests;
