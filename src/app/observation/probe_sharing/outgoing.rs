//! What this member observed of its share, for the other members: the latest observation of each instance with its version, and the
//! version at which each field of its facts changed last.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::domain::instance::{InstanceFacts, ProbeFailure};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

use crate::app::ports::{
    MAX_OBSERVATION_BYTES, MAX_OBSERVATIONS, ObservationRequest, ObservationUpdate, SharedObservation, SharedOutcome,
};

/// The bytes of an observation beside the fields of its facts, about.
const BYTES_BESIDE: usize = 200;

/// The observations of this member's share.
#[derive(Debug)]
pub(super) struct OutgoingStream {
    stream: u64,
    version: u64,
    /// The version of the latest urgent change.
    urgent: u64,
    entries: BTreeMap<InstanceKey, Entry>,
    /// The instances by the version of their latest observation.
    order: BTreeMap<u64, InstanceKey>,
}

#[derive(Debug)]
struct Entry {
    version: u64,
    account: Origin,
    begun: MonotonicTime,
    ended: MonotonicTime,
    micros: u64,
    latest: Latest,
    /// The version at which facts were first known.
    facts_since: u64,
    fields: BTreeMap<String, Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Latest {
    Facts,
    Failed(ProbeFailure),
    Doubted,
}

/// A field of the facts; without a value when the facts no longer have it.
#[derive(Debug)]
struct Field {
    version: u64,
    bytes: usize,
    value: Option<Value>,
}

/// One observation to send.
pub(super) struct OwnObservation<'a> {
    pub(super) key: &'a InstanceKey,
    pub(super) account: &'a Origin,
    pub(super) begun: MonotonicTime,
    pub(super) ended: MonotonicTime,
    pub(super) micros: u64,
    pub(super) outcome: Result<&'a InstanceFacts, &'a ProbeFailure>,
}

impl OutgoingStream {
    /// A stream with an id that no earlier process of this member used.
    pub(super) fn new(stream: u64) -> Self {
        Self {
            stream: stream.max(1),
            version: 0,
            urgent: 0,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// Puts in an observation. Returns whether it is urgent: the server answered before, or was not observed, and fails now.
    pub(super) fn put(&mut self, observation: &OwnObservation<'_>) -> bool {
        let latest = match observation.outcome {
            Ok(_) => Latest::Facts,
            Err(failure) => Latest::Failed(failure.clone()),
        };
        let version = self.advance(observation.key, observation.account, observation.begun);
        let Some(entry) = self.entries.get_mut(observation.key) else {
            return false;
        };
        let was_failing = matches!(entry.latest, Latest::Failed(_)) && entry.micros > 0;
        entry.account = observation.account.clone();
        entry.begun = observation.begun;
        entry.ended = observation.ended;
        entry.micros = observation.micros.max(1);
        let is_urgent = !was_failing && matches!(latest, Latest::Failed(_));
        entry.latest = latest;
        if let Ok(facts) = observation.outcome {
            entry.set_facts(facts, version);
        }
        if is_urgent {
            self.urgent = version;
        }
        is_urgent
    }

    /// A pulse failed, or a connection broke. Always urgent, unless the server is known to fail.
    pub(super) fn doubt(&mut self, key: &InstanceKey, account: &Origin, now: MonotonicTime) -> bool {
        let is_failing = |entry: &Entry| matches!(entry.latest, Latest::Failed(_));
        if self.entries.get(key).is_some_and(is_failing) {
            return false;
        }
        let version = self.advance(key, account, now);
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        (entry.begun, entry.ended) = (now, now);
        entry.latest = Latest::Doubted;
        self.urgent = version;
        true
    }

    /// Gives the entry of an instance the next version.
    fn advance(&mut self, key: &InstanceKey, account: &Origin, now: MonotonicTime) -> u64 {
        self.version += 1;
        let version = self.version;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            version,
            account: account.clone(),
            begun: now,
            ended: now,
            micros: 0,
            latest: Latest::Doubted,
            facts_since: 0,
            fields: BTreeMap::new(),
        });
        self.order.remove(&entry.version);
        entry.version = version;
        self.order.insert(version, key.clone());
        version
    }

    /// Leaves out the instances that are no longer this member's share.
    pub(super) fn retain(&mut self, is_own: impl Fn(&InstanceKey) -> bool) {
        let order = &mut self.order;
        self.entries.retain(|key, entry| {
            let stays = is_own(key);
            if !stays {
                order.remove(&entry.version);
            }
            stays
        });
    }

    /// Whether there is something that a request must not wait for: an urgent change, or a stream that the asking member does not know.
    pub(super) fn is_urgent_for(&self, request: &ObservationRequest) -> bool {
        request.is_filling || self.after(request) == 0 && self.version > 0 || self.urgent > self.after(request)
    }

    fn after(&self, request: &ObservationRequest) -> u64 {
        if request.stream == self.stream && request.after <= self.version {
            request.after
        } else {
            0
        }
    }

    /// The answer to a request.
    pub(super) fn update(&self, request: &ObservationRequest, now: MonotonicTime) -> ObservationUpdate {
        let after = self.after(request);
        let is_filling = after == 0 || request.is_filling;
        let mut update = ObservationUpdate {
            stream: self.stream,
            version: self.version,
            is_whole: after == 0,
            ..ObservationUpdate::default()
        };
        let mut bytes = 0_usize;
        let mut sent = after;
        for (version, key) in self.order.range(after.saturating_add(1)..) {
            let Some(entry) = self.entries.get(key) else {
                continue;
            };
            let (observation, size) = entry.shared(key, if is_filling { 0 } else { after }, now);
            let is_full = update.observations.len() >= MAX_OBSERVATIONS
                || bytes.saturating_add(size) > MAX_OBSERVATION_BYTES && !update.observations.is_empty();
            if is_full {
                update.has_more = true;
                update.version = sent;
                break;
            }
            sent = *version;
            // A larger one is not sent: the others look themselves.
            if size <= MAX_OBSERVATION_BYTES {
                bytes = bytes.saturating_add(size);
                update.observations.push(observation);
            }
        }
        update
    }
}

impl Entry {
    fn set_facts(&mut self, facts: &InstanceFacts, version: u64) {
        let Ok(Value::Object(now)) = serde_json::to_value(facts) else {
            return;
        };
        if self.facts_since == 0 {
            self.facts_since = version;
        }
        for (name, field) in &mut self.fields {
            if field.value.is_some() && !now.contains_key(name) {
                *field = Field {
                    version,
                    bytes: name.len(),
                    value: None,
                };
            }
        }
        for (name, value) in now {
            let is_same = |field: &Field| field.value.as_ref() == Some(&value);
            if !self.fields.get(&name).is_some_and(is_same) {
                let bytes = name.len() + value.to_string().len() + 4;
                self.fields.insert(
                    name,
                    Field {
                        version,
                        bytes,
                        value: Some(value),
                    },
                );
            }
        }
    }

    /// The observation with what changed after a version, and about how many bytes it has.
    fn shared(&self, key: &InstanceKey, after: u64, now: MonotonicTime) -> (SharedObservation, usize) {
        let millis_ago = |then: MonotonicTime| now.micros_since(then).div_ceil(1000);
        let mut bytes = BYTES_BESIDE;
        let outcome = match &self.latest {
            Latest::Failed(failure) => {
                bytes += failure.to_string().len();
                SharedOutcome::Failed(failure.clone())
            }
            Latest::Doubted => SharedOutcome::Doubted,
            Latest::Facts => {
                let is_complete = self.facts_since > after;
                let mut set = serde_json::Map::new();
                let mut removed = Vec::new();
                let changed = self
                    .fields
                    .iter()
                    .filter(|(_, field)| is_complete || field.version > after);
                for (name, field) in changed {
                    bytes += field.bytes;
                    match &field.value {
                        Some(value) => {
                            set.insert(name.clone(), value.clone());
                        }
                        None if !is_complete => removed.push(name.clone()),
                        None => {}
                    }
                }
                SharedOutcome::Facts {
                    is_complete,
                    set,
                    removed,
                }
            }
        };
        let observation = SharedObservation {
            key: key.clone(),
            account: self.account.clone(),
            begun_millis_ago: millis_ago(self.begun),
            ended_millis_ago: millis_ago(self.ended),
            micros: self.micros,
            outcome,
        };
        (observation, bytes)
    }
}
