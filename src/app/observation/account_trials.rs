//! Which logins with another account were tried, so that each is tried once a minute.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

/// A refused login is tried again after this time, milliseconds.
const RETRY_MILLIS: u64 = 60_000;
/// How many logins are remembered. Beyond that all are forgotten, and each is tried once more.
const MAX_TRIALS: usize = 10_000;

struct Trial {
    begun: MonotonicTime,
    failure: Option<String>,
}

/// The logins that were tried, by address and origin of the account.
#[derive(Default)]
pub(super) struct AccountTrials(Mutex<BTreeMap<(InstanceKey, Origin), Trial>>);

impl AccountTrials {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(InstanceKey, Origin), Trial>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a login is due now. If so, it counts as tried.
    pub(super) fn begin(&self, key: &InstanceKey, origin: &Origin, now: MonotonicTime) -> bool {
        let mut trials = self.lock();
        if trials.len() >= MAX_TRIALS {
            trials.clear();
        }
        let trial = trials.entry((key.clone(), origin.clone()));
        match trial {
            std::collections::btree_map::Entry::Occupied(mut present) => {
                let is_due = now.millis_since(present.get().begun) >= RETRY_MILLIS;
                if is_due {
                    present.get_mut().begun = now;
                }
                is_due
            }
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Trial {
                    begun: now,
                    failure: None,
                });
                true
            }
        }
    }

    /// Records a failed login. Returns whether it failed differently from the last time.
    pub(super) fn is_news(&self, key: &InstanceKey, origin: &Origin, failure: &str) -> bool {
        let mut trials = self.lock();
        let Some(trial) = trials.get_mut(&(key.clone(), origin.clone())) else {
            return true;
        };
        let is_news = trial.failure.as_deref() != Some(failure);
        trial.failure = Some(failure.to_owned());
        is_news
    }

    /// Forgets all logins: the accounts have changed.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::key;

    #[test]
    fn a_login_is_tried_once_a_minute_and_at_once_with_new_accounts() {
        let trials = AccountTrials::default();
        let at = |millis: u64| MonotonicTime(millis * 1000);
        assert!(trials.begin(&key(1), &Origin::Api, at(1)));
        assert!(!trials.begin(&key(1), &Origin::Api, at(59_000)));
        assert!(trials.begin(&key(2), &Origin::Api, at(59_000)));
        assert!(trials.begin(&key(1), &Origin::Api, at(60_001)));
        assert!(!trials.begin(&key(1), &Origin::Api, at(60_002)));
        trials.forget();
        assert!(trials.begin(&key(1), &Origin::Api, at(60_003)));
    }

    #[test]
    fn the_same_failure_is_reported_once() {
        let trials = AccountTrials::default();
        assert!(trials.begin(&key(1), &Origin::Api, MonotonicTime(0)));
        assert!(trials.is_news(&key(1), &Origin::Api, "denied"));
        assert!(!trials.is_news(&key(1), &Origin::Api, "denied"));
        assert!(trials.is_news(&key(1), &Origin::Api, "no answer"));
    }
}
