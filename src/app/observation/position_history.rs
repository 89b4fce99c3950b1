//! What this member last saw of each primary's transactions, over restarts of its process.
//!
//! A member that was restarted, or became leader a moment ago, may never have seen the primary that died; another member, or the one
//! before it, has. What anybody saw the primary hold is a lower bound of what a promotion loses. The instance cache holds the last facts
//! while the process lives; this memory keeps the executed sets beyond it, in a table of its own, written every few
//! seconds and never in the way of a probe.

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

/// How often changes are written: what was seen in the last seconds before this process was killed is not remembered. A write shares
/// the backend with the entries of a recovery, so it is rare.
const WRITE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Held {
    positions: BTreeMap<InstanceKey, Position>,
    unwritten: BTreeSet<InstanceKey>,
}

/// The memory of one member.
#[derive(Debug, Default)]
pub struct PositionHistory {
    held: Mutex<Held>,
}

impl PositionHistory {
    /// A memory that begins with what was kept.
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

    /// What the server at an address was last seen to hold.
    pub fn recall(&self, instance: &InstanceKey) -> Option<Position> {
        self.held().positions.get(instance).cloned()
    }

    /// Takes in what is seen now: of each server that writes and is replicated from, or was when it was remembered first. A primary
    /// whose replicas have all stopped receiving lists none, and takes into its grave whatever it writes from then on.
    pub fn note<'a>(&self, instances: impl IntoIterator<Item = &'a Instance> + Clone) {
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

    /// What is to be written; it counts as written.
    fn unwritten(&self) -> Vec<Position> {
        let mut held = self.held();
        let keys = std::mem::take(&mut held.unwritten);
        keys.iter().filter_map(|key| held.positions.get(key).cloned()).collect()
    }

    /// Notes and writes every few seconds until it is cancelled, and once more then. What could not be written is tried again.
    pub async fn keep(
        self: Arc<Self>,
        instance_cache: Arc<InstanceCache>,
        store: Arc<dyn PositionStore>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_over = false;
        while !is_over {
            tokio::select! {
                () = stop.cancelled() => is_over = true,
                _ = ticks.tick() => {}
            }
            self.note(instance_cache.snapshot().instances.values());
            let positions = self.unwritten();
            if positions.is_empty() {
                continue;
            }
            if let Err(error) = store.save_positions(&positions).await {
                warn!("positions of primaries were not written: {error}");
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
    use crate::domain::instance::{Identity, SeenReplica, ThreadState};

    fn replicated(executed: &str) -> Instance {
        primary(1, executed).facts(|facts| {
            facts.replicas.push(SeenReplica {
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
        let memory = PositionHistory::default();
        let dead = replicated("1:1-9").dead();
        memory.note([&dead, &primary(3, "3:1-9"), &replica(2, 4, "1:1-9")]);
        assert!((1..=3).all(|n| memory.recall(&key(n)).is_none()));
        // Nobody receives from it, and one says that it is to.
        memory.note([
            &primary(4, "1:1-9"),
            &replica(2, 4, "1:1-9").channel(|channel| channel.io = ThreadState::Stopped),
        ]);
        assert_eq!(memory.unwritten().len(), 1);
        memory.note([&primary(4, "1:1-12")]);
        assert_eq!(memory.unwritten().first().unwrap().executed, mysql_set("1:1-12"));
        memory.note([&replicated("1:1-9")]);
        assert_eq!(memory.unwritten().len(), 1);
        memory.note([&replicated("1:1-9")]);
        assert!(memory.unwritten().is_empty(), "nothing new");
        // The last answer counts, also when a person has reset the server.
        memory.note([&replicated("1:1-5")]);
        assert_eq!(memory.recall(&key(1)).unwrap().executed, mysql_set("1:1-5"));
        let other = replicated("1:1-5").facts(|facts| facts.identity = Identity::ServerUuid(uuid(9)));
        memory.note([&other]);
        assert_eq!(memory.recall(&key(1)).unwrap().identity, Identity::ServerUuid(uuid(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_written_is_tried_again_and_read_at_the_next_start() {
        let disk = Arc::new(Disk::default());
        *disk.failures.lock().unwrap() = 2;
        let memory = Arc::new(PositionHistory::default());
        memory.note([&replicated("1:1-9")]);
        let stop = CancellationToken::new();
        let store: Arc<dyn PositionStore> = disk.clone();
        let keeping = tokio::spawn(Arc::clone(&memory).keep(Arc::default(), store, stop.clone()));
        tokio::time::sleep(4 * WRITE_EVERY).await;
        stop.cancel();
        keeping.await.unwrap();
        let again = PositionHistory::of(disk.load_positions().await.unwrap());
        assert_eq!(again.recall(&key(1)), memory.recall(&key(1)));
        assert_eq!(disk.kept.lock().unwrap().len(), 1);
    }
}
