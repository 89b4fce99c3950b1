//! What crawling found: addresses that are dialled and have not answered yet, and those that are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::domain::discovery::NotFollowedReason;
use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

/// The most connection attempts at a time to addresses that only other servers name and that have never answered.
const ATTEMPTS: usize = 16;
/// For how long a refusal counts, milliseconds. A server of the cluster may have been named since.
const REFUSAL_MILLIS: u64 = 60_000;
/// For how long a crawled address that never answered is not dialled again, milliseconds.
const PAUSE_MILLIS: u64 = 120_000;
/// The most refusals that are kept, and pauses.
const MAX_KEPT: usize = 20_000;
/// The most addresses of which the log tells that they are not followed.
const MAX_LOGGED: usize = 1000;

/// What crawling found.
#[derive(Debug)]
pub(crate) struct Crawl {
    kept: Mutex<Kept>,
    attempts: Semaphore,
}

/// The inside of a [`Crawl`].
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Addresses that a person named by a request to discover them, which may not be seeds yet.
    pub(crate) named: BTreeSet<InstanceKey>,
    /// Crawled addresses that have not answered yet, each with the server that names it.
    pub(crate) unanswered: BTreeMap<InstanceKey, InstanceKey>,
    /// Crawled addresses that never answered, each with the time until which it is not dialled again.
    pub(crate) paused: BTreeMap<InstanceKey, MonotonicTime>,
    /// Refused addresses under the server that names them, with the time of the judgement.
    refused: BTreeMap<(InstanceKey, InstanceKey), (NotFollowedReason, MonotonicTime)>,
    /// Addresses of which the log tells that they are not followed.
    logged: BTreeSet<InstanceKey>,
}

impl Default for Crawl {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            attempts: Semaphore::new(ATTEMPTS),
        }
    }
}

impl Crawl {
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The permission to connect to an address. Only crawled addresses that have not answered yet wait for it.
    pub(crate) async fn attempt(&self, key: &InstanceKey) -> Option<SemaphorePermit<'_>> {
        let is_unanswered = self.kept().unanswered.contains_key(key);
        if is_unanswered {
            self.attempts.acquire().await.ok()
        } else {
            None
        }
    }

    /// An address has answered, or a person or a record names it.
    pub(crate) fn settle(&self, key: &InstanceKey) {
        self.kept().unanswered.remove(key);
    }

    /// A person names an address.
    pub(crate) fn name(&self, key: &InstanceKey) {
        let mut kept = self.kept();
        if kept.named.len() >= MAX_KEPT {
            kept.named.clear();
        }
        kept.named.insert(key.clone());
        kept.unanswered.remove(key);
    }

    /// An address is no longer polled.
    pub(crate) fn forget(&self, key: &InstanceKey) {
        let mut kept = self.kept();
        kept.named.remove(key);
        kept.unanswered.remove(key);
    }

    /// A crawled address never answered: it makes room for others for a while.
    pub(crate) fn pause(&self, key: &InstanceKey, now: MonotonicTime) {
        let mut kept = self.kept();
        kept.unanswered.remove(key);
        if kept.paused.len() < MAX_KEPT {
            kept.paused
                .insert(key.clone(), MonotonicTime(now.0 + PAUSE_MILLIS * 1000));
        }
    }

    /// Removes what is over.
    pub(crate) fn tidy(&self, watched: &BTreeSet<InstanceKey>, now: MonotonicTime) {
        let mut kept = self.kept();
        kept.paused.retain(|_, until| *until > now);
        kept.unanswered.retain(|key, _| watched.contains(key));
        kept.refused
            .retain(|(from, _), (_, at)| watched.contains(from) && now.millis_since(*at) < REFUSAL_MILLIS);
    }
}

impl Kept {
    /// The refusal of an address that a server names, while it counts.
    pub(crate) fn refusal(
        &self,
        from: &InstanceKey,
        key: &InstanceKey,
        now: MonotonicTime,
    ) -> Option<NotFollowedReason> {
        let (reason, at) = self.refused.get(&(from.clone(), key.clone()))?;
        (now.millis_since(*at) < REFUSAL_MILLIS).then(|| reason.clone())
    }

    pub(crate) fn refuse(
        &mut self,
        from: &InstanceKey,
        key: &InstanceKey,
        reason: &NotFollowedReason,
        now: MonotonicTime,
    ) {
        if self.refused.len() >= MAX_KEPT {
            self.refused.clear();
        }
        self.refused.insert((from.clone(), key.clone()), (reason.clone(), now));
    }

    /// Whether the log has to tell of an address: it has not yet.
    pub(crate) fn is_news(&mut self, key: &InstanceKey) -> bool {
        self.logged.len() < MAX_LOGGED && self.logged.insert(key.clone())
    }
}
