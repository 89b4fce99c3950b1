//! Writes the observations of all servers to the backend, behind everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::ClusterViews;
use crate::app::ports::{Consensus, InstanceStore, RecordedInstance, StoreError};

/// How often rows of servers that are no longer known are looked for. The first time is so long after the start, when every server that is
/// still there was found again.
const CLEAN_EVERY: Duration = Duration::from_hours(1);

/// How observations are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingSettings {
    /// The pause between two passes.
    pub interval: Duration,
    /// The most instances of one transaction.
    pub batch: usize,
    /// Whether only the leader writes: other members have the same backend.
    pub only_leader: bool,
}

/// Writes what changed since the last pass.
pub struct InstanceRecorder {
    views: ClusterViews,
    consensus: Arc<dyn Consensus>,
    store: Arc<dyn InstanceStore>,
    /// What the backend had of each instance when this process started.
    remembered: Arc<BTreeMap<InstanceKey, Instance>>,
    settings: RecordingSettings,
}

/// What was written: the views from which it was made.
#[derive(Default)]
struct Written {
    views: BTreeMap<ClusterId, Arc<ClusterView>>,
}

impl InstanceRecorder {
    /// A recorder that has written nothing so far.
    pub fn new(
        views: ClusterViews,
        consensus: Arc<dyn Consensus>,
        store: Arc<dyn InstanceStore>,
        remembered: Arc<BTreeMap<InstanceKey, Instance>>,
        settings: RecordingSettings,
    ) -> Self {
        Self {
            views,
            consensus,
            store,
            remembered,
            settings,
        }
    }

    /// Writes until `stop`. What could not be written is written by the next pass.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut written = Written::default();
        let mut cleaned = Instant::now();
        let mut is_failing = false;
        let mut ticks = interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if self.settings.only_leader && !self.consensus.leadership().borrow().is_leader {
                // Another member writes now: what this one wrote says nothing about the rows any more.
                written = Written::default();
                continue;
            }
            let mut outcome = self.pass(&mut written).await;
            if outcome.is_ok() && cleaned.elapsed() >= CLEAN_EVERY {
                cleaned = Instant::now();
                outcome = self.clean(&written).await;
            }
            match outcome {
                Err(error) if !is_failing => {
                    warn!("failed to write observations, will retry: {error}");
                    is_failing = true;
                }
                Ok(()) if is_failing => {
                    info!("observations are written again");
                    is_failing = false;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Writes the instances that differ from what was written.
    async fn pass(&self, written: &mut Written) -> Result<(), StoreError> {
        let views = self.views.all().await;
        let changed = written.changed(&views, &self.remembered);
        let batch = self.settings.batch;
        let gone = written.forgotten(&views);
        if !changed.is_empty() {
            self.store.save_instances(&changed, batch).await?;
        }
        written.views = views.into_iter().map(|view| (view.cluster.id.clone(), view)).collect();
        if gone {
            return self.clean(written).await;
        }
        Ok(())
    }

    async fn clean(&self, written: &Written) -> Result<(), StoreError> {
        self.store.retain_instances(&written.keys()).await
    }
}

impl Written {
    fn keys(&self) -> BTreeSet<InstanceKey> {
        let views = self.views.values();
        views.flat_map(|view| view.topology.instances.keys().cloned()).collect()
    }

    /// Whether an instance that was written is in no view any more.
    fn forgotten(&self, views: &[Arc<ClusterView>]) -> bool {
        let are_same = views.len() == self.views.len()
            && views.iter().all(|view| {
                let before = self.views.get(&view.cluster.id);
                before.is_some_and(|before| before.topology.instances.keys().eq(view.topology.instances.keys()))
            });
        if are_same {
            return false;
        }
        let known: BTreeSet<&InstanceKey> = views.iter().flat_map(|view| view.topology.instances.keys()).collect();
        self.keys().iter().any(|key| !known.contains(key))
    }

    /// The instances that are not as they were written, with what their clusters say of them.
    fn changed(
        &self,
        views: &[Arc<ClusterView>],
        remembered: &BTreeMap<InstanceKey, Instance>,
    ) -> Vec<RecordedInstance> {
        let mut changed = Vec::new();
        for view in views {
            let before = self.views.get(&view.cluster.id);
            if before.is_some_and(|before| Arc::ptr_eq(before, view)) {
                continue;
            }
            // Names, and what the place in the topology depends on.
            let is_same_cluster = before.is_some_and(|before| {
                before.cluster.name == view.cluster.name
                    && before.cluster.alias == view.cluster.alias
                    && links(before).eq(links(view))
            });
            let differs = |instance: &&Instance| {
                let before = before.and_then(|before| before.topology.instances.get(&instance.key));
                !is_same_cluster || before != Some(*instance)
            };
            let instances: Vec<&Instance> = view.topology.instances.values().filter(differs).collect();
            if !instances.is_empty() {
                changed.extend(recorded(view, &instances, remembered));
            }
        }
        changed
    }
}

/// Each instance with its source.
fn links(view: &ClusterView) -> impl Iterator<Item = (&InstanceKey, Option<&InstanceKey>)> {
    let topology = &view.topology;
    topology
        .instances
        .values()
        .map(|instance| (&instance.key, topology.source_of(instance)))
}

/// A server that has not answered since this process started keeps the facts that are written of it.
fn recorded(
    view: &ClusterView,
    instances: &[&Instance],
    remembered: &BTreeMap<InstanceKey, Instance>,
) -> Vec<RecordedInstance> {
    let topology = &view.topology;
    let tops = topology.tops();
    let received: Vec<ReceivedTransactions> = tops
        .iter()
        .map(|top| ReceivedTransactions::below(topology, top))
        .collect();
    let of = |instance: &&Instance| {
        let errant = received.iter().find_map(|received| received.errant(&instance.key));
        RecordedInstance {
            instance: instance.with_facts_of(remembered.get(&instance.key)).into_owned(),
            cluster_name: view.cluster.name.clone(),
            cluster_alias: view.cluster.alias.clone(),
            source: topology.source_of(instance).cloned(),
            depth: topology.depth_of(instance),
            is_co_primary: topology.is_co_primary(instance),
            ancestry: topology.ancestry_of(instance),
            errant: errant.map(ToString::to_string).unwrap_or_default(),
        }
    };
    instances.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cluster::view::of_recorded;
    use crate::domain::fixture::{key, primary, replica};

    fn view(replicas: &[u32]) -> ClusterView {
        of_recorded(primary(1, "1:1-9"), replicas.iter().map(|n| replica(*n, 1, "1:1-9")))
    }

    fn written(view: &Arc<ClusterView>) -> Written {
        Written {
            views: BTreeMap::from([(view.cluster.id.clone(), Arc::clone(view))]),
        }
    }

    fn names(changed: &[RecordedInstance]) -> Vec<InstanceKey> {
        changed.iter().map(|recorded| recorded.instance.key.clone()).collect()
    }

    #[test]
    fn only_what_differs_is_written_again() {
        let first = Arc::new(view(&[2, 3]));
        let views = [Arc::clone(&first)];
        let all = Written::default().changed(&views, &BTreeMap::new());
        assert_eq!(names(&all), [key(1), key(2), key(3)]);
        assert_eq!(all[1].source, Some(key(1)));
        assert_eq!((all[0].depth, all[1].depth), (0, 1));
        assert_eq!(written(&first).changed(&views, &BTreeMap::new()), []);

        let mut later = view(&[2, 3]);
        later.topology.instances.get_mut(&key(2)).unwrap().latency_micros += 1;
        let changed = written(&first).changed(&[Arc::new(later)], &BTreeMap::new());
        assert_eq!(names(&changed), [key(2)]);
    }

    #[test]
    fn another_name_of_the_cluster_or_another_place_in_it_writes_all_of_it() {
        let first = Arc::new(view(&[2, 3]));
        let mut renamed = view(&[2, 3]);
        renamed.cluster.alias = "shop".to_owned();
        assert_eq!(written(&first).changed(&[Arc::new(renamed)], &BTreeMap::new()).len(), 3);
        let moved = of_recorded(primary(1, "1:1-9"), [replica(2, 1, "1:1-9"), replica(3, 2, "1:1-9")]);
        let moved = written(&first).changed(&[Arc::new(moved)], &BTreeMap::new());
        assert_eq!(names(&moved), [key(1), key(2), key(3)]);
        assert_eq!(moved[2].depth, 2);
    }

    #[test]
    fn a_server_that_has_not_answered_since_the_start_keeps_the_facts_of_before() {
        let before = replica(2, 1, "1:1-9");
        let mut restarted = view(&[2]);
        restarted.topology.instances.insert(key(2), Instance::unseen(key(2)));
        let remembered = BTreeMap::from([(key(2), before.clone())]);
        let written = Written::default().changed(&[Arc::new(restarted)], &remembered);
        assert_eq!(written[1].instance.facts, before.facts);
        assert_eq!(written[1].instance.last_seen, before.last_seen);
        assert_eq!(written[1].instance.last_checked, None);
    }

    #[test]
    fn an_instance_that_no_view_has_any_more_is_forgotten() {
        let first = Arc::new(view(&[2, 3]));
        assert!(!written(&first).forgotten(&[Arc::clone(&first)]));
        assert!(!written(&first).forgotten(&[Arc::new(view(&[2, 3, 4]))]));
        assert!(written(&first).forgotten(&[Arc::new(view(&[2]))]));
        assert!(written(&first).forgotten(&[]));
    }
}
