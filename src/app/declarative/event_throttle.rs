//! Which Events are still to be recorded.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::declared::{ClusterEvent, EventReason};
use crate::domain::intent::Origin;
use crate::domain::time::MonotonicTime;

/// An Event that was not recorded is retried after this, microseconds. The status and the records have it meanwhile.
const RETRY_MICROS: u64 = 30_000_000;

/// What identifies an Event.
type Id = (Origin, EventReason, String);

/// The Events that one leader recorded, and those that failed.
#[derive(Debug, Default)]
pub(super) struct EventThrottle {
    recorded: BTreeSet<Id>,
    failed: BTreeMap<Id, MonotonicTime>,
}

fn id(origin: &Origin, event: &ClusterEvent) -> Id {
    (origin.clone(), event.reason, event.key.clone())
}

impl EventThrottle {
    /// The Events that are to be recorded now.
    pub(super) fn due(
        &self,
        events: &BTreeMap<Origin, Vec<ClusterEvent>>,
        now: MonotonicTime,
    ) -> Vec<(Origin, ClusterEvent)> {
        let all = events
            .iter()
            .flat_map(|(origin, events)| events.iter().map(move |event| (origin, event)));
        all.filter(|(origin, event)| {
            let id = id(origin, event);
            !self.recorded.contains(&id) && self.failed.get(&id).is_none_or(|retry| *retry <= now)
        })
        .map(|(origin, event)| (origin.clone(), event.clone()))
        .collect()
    }

    /// The Event was recorded.
    pub(super) fn succeeded(&mut self, origin: &Origin, event: &ClusterEvent) {
        let id = id(origin, event);
        self.failed.remove(&id);
        self.recorded.insert(id);
    }

    /// The Event was not recorded. Returns whether that is to be logged: at the first failure.
    pub(super) fn failed(&mut self, origin: &Origin, event: &ClusterEvent, now: MonotonicTime) -> bool {
        let retry = MonotonicTime(now.0.saturating_add(RETRY_MICROS));
        self.failed.insert(id(origin, event), retry).is_none()
    }

    /// Forgets Events that are no longer present.
    pub(super) fn keep_only(&mut self, events: &BTreeMap<Origin, Vec<ClusterEvent>>) {
        let present: BTreeSet<Id> = events
            .iter()
            .flat_map(|(origin, events)| events.iter().map(move |event| id(origin, event)))
            .collect();
        self.recorded.retain(|id| present.contains(id));
        self.failed.retain(|id, _| present.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_recorded_once_and_retried_after_a_while() {
        let event = ClusterEvent {
            uid: "u".to_owned(),
            reason: EventReason::TakeoverRefused,
            key: "a".to_owned(),
            note: "it is behind".to_owned(),
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![event.clone()])]);
        let mut throttle = EventThrottle::default();
        assert_eq!(throttle.due(&wanted, MonotonicTime(1)).len(), 1);
        assert!(
            throttle.failed(&Origin::Api, &event, MonotonicTime(1)),
            "the first time is news"
        );
        assert_eq!(throttle.due(&wanted, MonotonicTime(2)).len(), 0);
        assert_eq!(throttle.due(&wanted, MonotonicTime(RETRY_MICROS + 1)).len(), 1);
        assert!(!throttle.failed(&Origin::Api, &event, MonotonicTime(3)));
        throttle.succeeded(&Origin::Api, &event);
        // The same Event with another note is the same Event.
        let reworded = ClusterEvent {
            note: "it is far behind".to_owned(),
            ..event
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![reworded])]);
        throttle.keep_only(&wanted);
        assert_eq!(throttle.due(&wanted, MonotonicTime(u64::MAX)).len(), 0);
        throttle.keep_only(&BTreeMap::new());
        assert_eq!(
            throttle.due(&wanted, MonotonicTime(5)).len(),
            1,
            "an absent event is forgotten"
        );
    }
}
