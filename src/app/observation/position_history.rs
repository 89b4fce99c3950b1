//! The executed set of each primary as this member last observed it, over restarts of its process.
//!
//! A member that was restarted, or has just become the leader, may never have observed the primary that died; another member, or an earlier
//! process of this member, has. An observed executed set is a lower bound for what a promotion loses. The instance cache has the last facts
//! while the process runs. This history keeps the executed sets beyond that, in a table of the backend that is written every few seconds and
//! independently of probes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Position, PositionStore};

/// How often changes are written. What was observed in the last seconds before the process was killed is lost. A write shares the backend
/// with the entries of a recovery, so it is rare.
const WRITE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Held {
    positions: BTreeMap<InstanceKey, Position>,
    unwritten: BTreeSet<InstanceKey>,
}

/// The last known positions of the primaries.
#[derive(Debug, Default)]
pub struct PositionHistory {
    held: Mutex<Held>,
}

impl PositionHistory {
    /// A history that begins with the stored positions.
    pub fn of(positions: impl IntoIterator<Item = Position>) -> Self {
        let positions = positions
            .into_iter()
            .map(|position| (position.instance.clone(), position))
            .collect();
        Self {
            held: Mutex::new(Held {
                positions,
                unwritten: BTreeSet::new(),
            }),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last known position of the primary at an address.
    pub fn last(&self, instance: &InstanceKey) -> Option<Position> {
        self.held().positions.get(instance).cloned()
    }

    /// Records the positions of the primaries among these instances: writable servers without a source that have replicas, or had replicas
    /// when they were first recorded. A primary loses its replicas from its list when they all stop receiving, and what it writes from then
    /// on counts as well.
    pub fn record<'a>(&self, instances: impl IntoIterator<Item = &'a Instance> + Clone) {
        let sources: BTreeSet<&InstanceKey> = instances.clone().into_iter().filter_map(Instance::source).collect();
        let mut held = self.held();
        for instance in instances {
            let Some(facts) = instance.valid_facts() else { continue };
            let is_top = facts.is_writable() && facts.managed_channel().is_none();
            let known = held.positions.get(&instance.key);
            let was_primary = known.is_some_and(|known| known.identity == facts.identity);
            let is_primary = was_primary || !facts.replicas.is_empty() || sources.contains(&instance.key);
            let is_news = !was_primary || known.is_some_and(|known| known.executed != facts.executed);
            if is_top && is_primary && is_news {
                let position = Position {
                    instance: instance.key.clone(),
                    identity: facts.identity.clone(),
                    executed: facts.executed.clone(),
                    at: instance.last_seen.unwrap_or_default(),
                };
                held.positions.insert(instance.key.clone(), position);
                held.unwritten.insert(instance.key.clone());
            }
        }
    }

    /// Takes the positions that are to be written.
    fn take_unwritten(&self) -> Vec<Position> {
        let mut held = self.held();
        let keys = std::mem::take(&mut held.unwritten);
        keys.iter().filter_map(|key| held.positions.get(key).cloned()).collect()
    }

    /// Records and writes positions every few seconds until `stop`, and once more then. A failed write is retried.
    pub async fn run(
        self: Arc<Self>,
        instance_cache: Arc<InstanceCache>,
        store: Arc<dyn PositionStore>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                () = stop.cancelled() => is_last = true,
                _ = ticks.tick() => {}
            }
            self.record(instance_cache.snapshot().instances.values());
            let positions = self.take_unwritten();
            if positions.is_empty() {
                continue;
            }
            if let Err(error) = store.save_positions(&positions).await {
                warn!("failed to write positions of primaries, will retry: {error}");
                let mut held = self.held();
                held.unwritten
                    .extend(positions.into_iter().map(|position| position.instance));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::app::ports::StoreError;
    use crate::domain::fixture::{Adjust, key, mysql_set, primary, replica, uuid};
    use crate::domain::instance::{ConnectedReplica, Identity, ThreadState};

    fn replicated(executed: &str) -> Instance {
        primary(1, executed).facts(|facts| {
            facts.replicas.push(ConnectedReplica {
                key: key(2),
                reported: true,
            });
        })
    }

    #[derive(Default)]
    struct Disk {
        kept: Mutex<Vec<Position>>,
        failures: Mutex<u32>,
    }

    #[async_trait]
    impl PositionStore for Disk {
        async fn load_positions(&self) -> Result<Vec<Position>, StoreError> {
            Ok(self.kept.lock().unwrap().clone())
        }

        async fn save_positions(&self, positions: &[Position]) -> Result<(), StoreError> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(StoreError {
                    backend: "disk".to_owned(),
                    what: "save".to_owned(),
                    why: "full".to_owned(),
                });
            }
            self.kept.lock().unwrap().extend_from_slice(positions);
            Ok(())
        }
    }

    #[test]
    fn only_servers_that_write_and_are_replicated_from_are_remembered() {
        let history = PositionHistory::default();
        let dead = replicated("1:1-9").dead();
        history.record([&dead, &primary(3, "3:1-9"), &replica(2, 4, "1:1-9")]);
        assert!((1..=3).all(|n| history.last(&key(n)).is_none()));
        // No replica receives from it, and one has it as its source.
        history.record([
            &primary(4, "1:1-9"),
            &replica(2, 4, "1:1-9").channel(|channel| channel.io = ThreadState::Stopped),
        ]);
        assert_eq!(history.take_unwritten().len(), 1);
        history.record([&primary(4, "1:1-12")]);
        assert_eq!(history.take_unwritten().first().unwrap().executed, mysql_set("1:1-12"));
        history.record([&replicated("1:1-9")]);
        assert_eq!(history.take_unwritten().len(), 1);
        history.record([&replicated("1:1-9")]);
        assert!(history.take_unwritten().is_empty(), "nothing new");
        // The last answer counts, also when an operator has reset the server.
        history.record([&replicated("1:1-5")]);
        assert_eq!(history.last(&key(1)).unwrap().executed, mysql_set("1:1-5"));
        let other = replicated("1:1-5").facts(|facts| facts.identity = Identity::ServerUuid(uuid(9)));
        history.record([&other]);
        assert_eq!(history.last(&key(1)).unwrap().identity, Identity::ServerUuid(uuid(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_written_is_tried_again_and_read_at_the_next_start() {
        let disk = Arc::new(Disk::default());
        *disk.failures.lock().unwrap() = 2;
        let history = Arc::new(PositionHistory::default());
        history.record([&replicated("1:1-9")]);
        let stop = CancellationToken::new();
        let store: Arc<dyn PositionStore> = disk.clone();
        let running = tokio::spawn(Arc::clone(&history).run(Arc::default(), store, stop.clone()));
        tokio::time::sleep(4 * WRITE_EVERY).await;
        stop.cancel();
        running.await.unwrap();
        let again = PositionHistory::of(disk.load_positions().await.unwrap());
        assert_eq!(again.last(&key(1)), history.last(&key(1)));
        assert_eq!(disk.kept.lock().unwrap().len(), 1);
    }
}
