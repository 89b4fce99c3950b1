//! Which notices are still to be told.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::declared::{Notice, NoticeReason};
use crate::domain::intent::Origin;
use crate::domain::time::Mono;

/// One that could not be told is tried again after this: it stands in the status and the records meanwhile.
const RETRY_MICROS: u64 = 30_000_000;

/// What makes a notice this one.
type Id = (Origin, NoticeReason, String);

/// The memory of one leader about what it told.
#[derive(Debug, Default)]
pub(super) struct NoticePace {
    told: BTreeSet<Id>,
    failed: BTreeMap<Id, Mono>,
}

fn id(origin: &Origin, notice: &Notice) -> Id {
    (origin.clone(), notice.reason, notice.key.clone())
}

impl NoticePace {
    /// What is to be told now.
    pub(super) fn due(&self, notices: &BTreeMap<Origin, Vec<Notice>>, now: Mono) -> Vec<(Origin, Notice)> {
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
    pub(super) fn succeeded(&mut self, origin: &Origin, notice: &Notice) {
        let id = id(origin, notice);
        self.failed.remove(&id);
        self.told.insert(id);
    }

    /// It was not. Says whether this is news, for the log.
    pub(super) fn failed(&mut self, origin: &Origin, notice: &Notice, now: Mono) -> bool {
        let retry = Mono(now.0.saturating_add(RETRY_MICROS));
        self.failed.insert(id(origin, notice), retry).is_none()
    }

    /// Forgets what is history.
    pub(super) fn keep_only(&mut self, notices: &BTreeMap<Origin, Vec<Notice>>) {
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
        let notice = Notice {
            uid: "u".to_owned(),
            reason: NoticeReason::TakeoverRefused,
            key: "a".to_owned(),
            note: "it is behind".to_owned(),
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![notice.clone()])]);
        let mut pace = NoticePace::default();
        assert_eq!(pace.due(&wanted, Mono(1)).len(), 1);
        assert!(pace.failed(&Origin::Api, &notice, Mono(1)), "the first time is news");
        assert_eq!(pace.due(&wanted, Mono(2)).len(), 0);
        assert_eq!(pace.due(&wanted, Mono(RETRY_MICROS + 1)).len(), 1);
        assert!(!pace.failed(&Origin::Api, &notice, Mono(3)));
        pace.succeeded(&Origin::Api, &notice);
        // Other words for the same are the same.
        let reworded = Notice {
            note: "it is far behind".to_owned(),
            ..notice
        };
        let wanted = BTreeMap::from([(Origin::Api, vec![reworded])]);
        pace.keep_only(&wanted);
        assert_eq!(pace.due(&wanted, Mono(u64::MAX)).len(), 0);
        pace.keep_only(&BTreeMap::new());
        assert_eq!(pace.due(&wanted, Mono(5)).len(), 1, "history is not remembered");
    }
}
