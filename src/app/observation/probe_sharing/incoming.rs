//! What one other member sent of its share. A peer is authenticated, and still nothing that it sends is trusted to be complete, small or
//! readable: what cannot be used is left out, and this member then probes the instance itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::instance::{InstanceFacts, Observation};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::ports::{MAX_OBSERVATIONS, ObservationRequest, ObservationUpdate, SharedObservation, SharedOutcome};

/// Older observations are of no use, milliseconds.
const MAX_AGE_MILLIS: u64 = 600_000;

/// The stream of one other member as far as it was received.
#[derive(Debug, Default)]
pub(super) struct IncomingStream {
    stream: u64,
    version: u64,
    is_filling: bool,
    /// The latest facts of each instance as JSON: changes refer to them.
    facts: BTreeMap<InstanceKey, String>,
}

/// What another member observed, in the times of this process.
#[derive(Clone, Debug)]
pub struct ReceivedObservation {
    /// The observed instance.
    pub key: InstanceKey,
    /// The origin of the account that the other member used.
    pub account: Origin,
    /// When the probe began, at the earliest.
    pub begun: MonotonicTime,
    /// When it ended, at the earliest.
    pub ended: MonotonicTime,
    /// The observation; `None`: the other member could not observe the server, or doubts that it answers.
    pub observation: Option<Observation>,
}

/// When an answer arrived, and how long the request took apart from the time for which the answer was held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: MonotonicTime,
    pub(super) wall: WallTime,
    pub(super) transit_micros: u64,
}

impl IncomingStream {
    /// Completes a request with what was received so far.
    pub(super) fn request(&self) -> ObservationRequest {
        ObservationRequest {
            stream: self.stream,
            after: self.version,
            is_filling: self.is_filling,
            assignment: None,
        }
    }

    /// Takes in an answer. A version that was missed makes the next request ask for everything.
    pub(super) fn accept(
        &mut self,
        update: ObservationUpdate,
        arrival: Arrival,
        is_watched: impl Fn(&InstanceKey) -> bool,
    ) -> Vec<ReceivedObservation> {
        let is_next = update.stream == self.stream && update.version >= self.version;
        if update.observations.len() > MAX_OBSERVATIONS || !update.is_whole && !is_next {
            *self = Self::default();
            return Vec::new();
        }
        if update.is_whole {
            self.facts.clear();
            self.stream = update.stream;
        }
        self.is_filling = update.has_more && (update.is_whole || self.is_filling);
        self.version = update.version;
        let mut received = Vec::new();
        for shared in update.observations {
            if !is_watched(&shared.key) {
                self.facts.remove(&shared.key);
                continue;
            }
            let Ok(observation) = self.read(shared, arrival) else {
                *self = Self::default();
                break;
            };
            received.extend(observation);
        }
        received
    }

    /// Drops what was received of instances that are not watched any more.
    pub(super) fn retain(&mut self, is_watched: impl Fn(&InstanceKey) -> bool) {
        self.facts.retain(|key, _| is_watched(key));
    }

    fn read(
        &mut self,
        shared: SharedObservation,
        arrival: Arrival,
    ) -> Result<Option<ReceivedObservation>, MissingFacts> {
        let facts = match shared.outcome {
            SharedOutcome::Failed(_) | SharedOutcome::Doubted => None,
            SharedOutcome::Facts {
                is_complete,
                set,
                removed,
            } => match self.merge(&shared.key, is_complete, set, &removed)? {
                Some(facts) => Some(facts),
                None => return Ok(None),
            },
        };
        if shared.begun_millis_ago > MAX_AGE_MILLIS || shared.ended_millis_ago > shared.begun_millis_ago {
            return Ok(None);
        }
        let ago = |millis: u64| millis.saturating_mul(1000).saturating_add(arrival.transit_micros);
        let (begun_ago, ended_ago) = (ago(shared.begun_millis_ago), ago(shared.ended_millis_ago));
        let monotonic = |ago: u64| MonotonicTime(arrival.at.0.saturating_sub(ago).max(1));
        let wall = |ago: u64| {
            let millis = i64::try_from(ago.div_ceil(1000)).unwrap_or(i64::MAX);
            arrival.wall.plus_millis(millis.saturating_neg())
        };
        let observation = facts.map(|facts| Observation {
            key: shared.key.clone(),
            begun: wall(begun_ago),
            ended: wall(ended_ago),
            micros: shared.micros,
            outcome: Ok(facts),
        });
        Ok(Some(ReceivedObservation {
            key: shared.key,
            account: shared.account,
            begun: monotonic(begun_ago),
            ended: monotonic(ended_ago),
            observation,
        }))
    }

    /// The facts with the changes. `None` when they cannot be read: a member of another version may send what this one does not know.
    fn merge(
        &mut self,
        key: &InstanceKey,
        is_complete: bool,
        set: Map<String, Value>,
        removed: &[String],
    ) -> Result<Option<Box<InstanceFacts>>, MissingFacts> {
        let fields = if is_complete {
            set
        } else {
            let known = self.facts.get(key).ok_or(MissingFacts)?;
            let mut fields: Map<String, Value> = serde_json::from_str(known).map_err(|_| MissingFacts)?;
            for name in removed {
                fields.remove(name);
            }
            fields.extend(set);
            fields
        };
        let fields = Value::Object(fields);
        self.facts.insert(key.clone(), fields.to_string());
        Ok(serde_json::from_value(fields).ok().map(Box::new))
    }
}

/// A change refers to facts that were not received.
struct MissingFacts;
