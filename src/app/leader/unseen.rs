//! Forgets instances that were not seen for `UnseenInstanceForgetHours`, and ends their quarantines. Runs on the leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use crate::domain::key::InstanceKey;
use crate::domain::state::{Applied, Command, State};
use crate::domain::time::MonotonicTime;
use crate::domain::unseen::{self, Sighting};

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, ProposeError};

/// How often the instances are reviewed.
const INTERVAL_MILLIS: u64 = 10_000;
/// How long an instance has to fail at this member before it counts as not seen. Shorter when it is forgotten sooner.
const PATIENCE: Duration = Duration::from_mins(10);

/// Forgets instances that are gone.
pub struct UnseenInstances {
    /// The latest observations.
    pub instance_cache: Arc<InstanceCache>,
    /// Proposes the commands.
    pub consensus: Arc<dyn Consensus>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// After how long an instance is forgotten.
    pub forget_after: Duration,
    /// For how long it is not discovered again then.
    pub forget_for: Duration,
    /// When the instances were reviewed last.
    pub reviewed: Mutex<Option<MonotonicTime>>,
}

impl UnseenInstances {
    /// Records which instances are not seen, and forgets those that were not seen for long enough.
    pub async fn review(&self) {
        let now = self.clock.monotonic();
        {
            let mut reviewed = self.reviewed.lock().unwrap_or_else(PoisonError::into_inner);
            if reviewed.is_some_and(|last| now.millis_since(last) < INTERVAL_MILLIS) {
                return;
            }
            *reviewed = Some(now);
        }
        let state = self.consensus.state().borrow().clone();
        let sightings = self.sightings(&state);
        if let Some(command) = unseen::record(&state, &sightings) {
            self.propose(command, "which instances are not seen").await;
        }
        let limit = u64::try_from(self.forget_after.as_millis()).unwrap_or(u64::MAX);
        for instance in unseen::forgettable(&state, &sightings, self.clock.wall(), limit) {
            let hours = self.forget_after.as_secs() / 3600;
            let reason = format!("not seen for {hours} h");
            let subject = format!("that {instance} is forgotten");
            let until = i64::try_from(self.forget_for.as_millis()).unwrap_or(i64::MAX);
            let command = Command::ForgetGone {
                instance: instance.clone(),
                until: self.clock.wall().plus_millis(until),
                reason,
            };
            if self.propose(command, &subject).await {
                info!(instance = %instance, "forgot {instance}: not seen for {hours} h");
            }
        }
    }

    fn sightings(&self, state: &State) -> BTreeMap<InstanceKey, Sighting> {
        let now = self.clock.monotonic();
        let patience = PATIENCE.min(self.forget_after / 24);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let sighting = |key: &InstanceKey| {
            let seen = self.instance_cache.read(key, |tracked| {
                let failing = tracked.failing_since.map(|since| now.millis_since(since));
                Sighting::of(&tracked.instance, failing, patience)
            });
            seen.unwrap_or(Sighting::Unknown)
        };
        let subjects = unseen::subjects(state);
        subjects
            .into_iter()
            .map(|key| {
                let sighting = sighting(&key);
                (key, sighting)
            })
            .collect()
    }

    async fn propose(&self, command: Command, what: &str) -> bool {
        match self.consensus.propose(command).await {
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => true,
            Ok(Applied::Refused { why }) => {
                warn!("refused to record {what}: {why}");
                false
            }
            // Some member is older: once it is upgraded.
            Err(ProposeError::NotUnderstood(_)) => false,
            Err(error) => {
                warn!("failed to record {what}, will retry: {error}");
                false
            }
        }
    }
}
