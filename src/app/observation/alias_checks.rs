//! When other addresses of polled servers are checked again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

/// How often every alias is checked.
pub(crate) const INTERVAL: Duration = Duration::from_mins(1);
/// The least time between two checks of one alias, milliseconds. While a server fails, its aliases are checked as often.
const PAUSE_MILLIS: u64 = 1_000;
/// The most aliases that the regular checks probe at a time.
const ATTEMPTS: usize = 8;

/// When each alias was checked last.
#[derive(Debug)]
pub(crate) struct AliasChecks {
    last: Mutex<BTreeMap<InstanceKey, MonotonicTime>>,
    pub(crate) attempts: Semaphore,
}

impl Default for AliasChecks {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            attempts: Semaphore::new(ATTEMPTS),
        }
    }
}

impl AliasChecks {
    /// Whether a check of the alias is due; it counts as begun then.
    pub(crate) fn begin(&self, alias: &InstanceKey, now: MonotonicTime) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last
            .get(alias)
            .is_none_or(|begun| now.millis_since(*begun) >= PAUSE_MILLIS);
        if is_due {
            last.insert(alias.clone(), now);
        }
        is_due
    }

    pub(crate) fn retain(&self, aliases: &[InstanceKey]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|alias, _| aliases.contains(alias));
    }
}
