//! Shared probes: whether this member probes an instance now, and what it does with what another member observed.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::key::InstanceKey;
use crate::domain::time::MonotonicTime;

use crate::app::observation::instance_cache::{CachedInstance, SharedRecord};
use crate::app::observation::probe_sharing::ReceivedObservation;

use super::Poller;

/// For how long after its poll interval an observation of another member may be missing before this member probes the instance itself.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Waits until another member may have to probe than before.
pub(super) async fn changed(duties: &mut Option<watch::Receiver<u64>>) {
    if let Some(duties) = duties
        && duties.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

impl Poller {
    pub(super) fn suspects(&self) -> MutexGuard<'_, BTreeSet<InstanceKey>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this member has to probe an instance: it is in its share, or was not probed by this member yet, or fails, or its source
    /// fails, or it is in quarantine.
    pub(super) fn is_own(&self, key: &InstanceKey) -> bool {
        let Some(shared) = self.instance_cache.shared_probes() else {
            return true;
        };
        let must_look = |tracked: &CachedInstance| {
            tracked.instance.last_checked.is_none() || tracked.failing_since.is_some() || tracked.instance.partial
        };
        shared.is_own(key)
            || self.instance_cache.read(key, must_look) != Some(false)
            || self.alert_age(key).is_some()
            || self.is_quarantined(key)
    }

    /// How long until the latest observation of an instance is older than the poll interval and `grace`.
    pub(super) fn until_old(&self, key: &InstanceKey, grace: Duration) -> Duration {
        let begun = self.instance_cache.read(key, |tracked| tracked.begun).flatten();
        let age = begun.map_or(Duration::MAX, |begun: MonotonicTime| {
            Duration::from_micros(self.clock.monotonic().micros_since(begun))
        });
        (self.settings.poll + grace).saturating_sub(age)
    }

    /// Records what the member `from` observed, and reacts to it as to an own observation. What cannot be used makes this member look
    /// itself. Returns whether the other member reports a failure.
    pub fn take_shared(self: &Arc<Self>, received: &ReceivedObservation, from: &str) -> bool {
        let key = &received.key;
        let Some(observation) = &received.observation else {
            self.suspect(key);
            return true;
        };
        let may_use = self
            .instance_cache
            .shared_probes()
            .is_some_and(|shared| shared.may_use(key));
        if !may_use {
            return false;
        }
        match self.instance_cache.record_shared(received, from) {
            SharedRecord::Recorded(changes) => self.react(key, &received.account, observation, changes),
            SharedRecord::NeedsOwnLook => self.request_probe(key),
            SharedRecord::Unused => {}
        }
        false
    }

    /// Probes an instance on a new connection, because another member reports that it fails.
    fn suspect(&self, key: &InstanceKey) {
        let is_failing = |tracked: &CachedInstance| tracked.failing_since.is_some();
        // An instance that fails for this member too is probed often enough.
        if self.instance_cache.read(key, is_failing) == Some(false) {
            self.suspects().insert(key.clone());
            self.request_probe(key);
        }
    }
}
