//! Which notices are still to be told.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::declared::{ClusterEvent, EventReason};
use crate::domain::intent::Origin;
use crate::domain::time::MonotonicTime;

/// One that could not be told is tried again after this: it stands in the status and the records meanwhile.
const RETRY_MICROS: u64 = 30_000_000;

/// What makes a notice this one.
type Id = (Origin, EventReason, String);

/// The memory of one leader about what it told.
#[derive(Debug, Default)]
pub(super) struct EventThrottle {
    told: BTreeSet<Id>,
    failed: BTreeMap<Id, MonotonicTime>,
}

fn id(origin: &Origin, notice: &ClusterEvent) -> Id {
    (origin.clone(), notice.reason, notice.key.clone())
}

impl EventThrottle {
    /// What is to be told now.
    pub(super) fn due(
        &self,
        notices: &BTreeMap<Origin, Vec<ClusterEvent>>,
        now: MonotonicTime,
    ) -> Vec<(Origin, ClusterEvent)> {
        let all = notices
            .iter()
            .flat_map(|(origin, notices)| notices.iter().map(move |notice| (origin, notice)));
        all.filter(|(origin, notice)| {
            let id = id(origin, notice);
            !self.told.contains(&id) && self.failed.get(&id).is_none_or(|retry| *retry <= now)
        })
        .map(|(origin, notice)| (origin.clone(), notice.clone()))
        .collect()
    }

    /// It was told.
    pub(super) fn succeeded(&mut self, origin: &Origin, notice: &ClusterEvent) {
        let id = id(origin, notice);
        self.failed.remove(&id);
        self.told.insert(id);
    }

    /// It was not. Says whether this is news, for the log.
    pub(super) fn failed(&mut self, origin: &Origin, notice: &ClusterEvent, now: MonotonicTime) -> bool {
        let retry = MonotonicTime(now.0.saturating_add(RETRY_MICROS));
        self.failed.insert(id(origin, notice), retry).is_none()
    }

    /// Forgets what is history.
    pub(super) fn keep_only(&mut self, notices: &BTreeMap<Origin, Vec<ClusterEvent>>) {
        let present: BTreeSet<Id> = notices
            .iter()
            .flat_map(|(origin, notices)| notices.iter().map(move |notice| id(origin, notice)))
            .collect();
        self.told.retain(|id| present.contains(id));
        self.failed.retain(|id, _| present.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_told_once_and_tried_again_after_a_while() {
        let notice = ClusterEvent {
            uid: "u".to_owned(),
            reason: EventReason::TakeoverRefused,
            key: "a".to_owned(),
            note: "it is behind".to_owned(),
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![notice.clone()])]);
        let mut pace = EventThrottle::default();
        assert_eq!(pace.due(&wanted, MonotonicTime(1)).len(), 1);
        assert!(
            pace.failed(&Origin::Api, &notice, MonotonicTime(1)),
            "the first time is news"
        );
        assert_eq!(pace.due(&wanted, MonotonicTime(2)).len(), 0);
        assert_eq!(pace.due(&wanted, MonotonicTime(RETRY_MICROS + 1)).len(), 1);
        assert!(!pace.failed(&Origin::Api, &notice, MonotonicTime(3)));
        pace.succeeded(&Origin::Api, &notice);
        // Other words for the same are the same.
        let reworded = ClusterEvent {
            note: "it is far behind".to_owned(),
            ..notice
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![reworded])]);
        pace.keep_only(&wanted);
        assert_eq!(pace.due(&wanted, MonotonicTime(u64::MAX)).len(), 0);
        pace.keep_only(&BTreeMap::new());
        assert_eq!(
            pace.due(&wanted, MonotonicTime(5)).len(),
            1,
            "history is not remembered"
        );
    }
}
