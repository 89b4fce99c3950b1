//! How the analysis of each instance changed, as this member observed it: in memory, bounded, and over restarts of its process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::domain::finding::{Code, Finding};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use crate::app::ports::{AnalysisChange, ChangeStore, Clock};

/// The most changes that are kept of one instance.
const MAX_CHANGES: usize = 100;
/// The most instances that are kept. Beyond that, the instance with the oldest last change is dropped.
const MAX_INSTANCES: usize = 10_000;
/// The most changes that wait to be written. Beyond that, the oldest are not written.
const MAX_UNWRITTEN: usize = 10_000;
/// How often changes are written. A write shares the backend with the entries of a recovery, so it is rare.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// How often old changes are dropped.
const PURGE_EVERY: Duration = Duration::from_hours(1);

#[derive(Debug, Default)]
struct Held {
    changes: BTreeMap<InstanceKey, VecDeque<AnalysisChange>>,
    unwritten: VecDeque<(InstanceKey, AnalysisChange)>,
}

impl Held {
    fn add(&mut self, instance: &InstanceKey, change: AnalysisChange) {
        let list = self.changes.entry(instance.clone()).or_default();
        list.push_back(change);
        if list.len() > MAX_CHANGES {
            list.pop_front();
        }
    }

    fn bound(&mut self) {
        while self.changes.len() > MAX_INSTANCES {
            let oldest = self
                .changes
                .iter()
                .min_by_key(|(_, list)| list.back().map(|last| last.at))
                .map(|(instance, _)| instance.clone());
            let Some(oldest) = oldest else { break };
            self.changes.remove(&oldest);
        }
        while self.unwritten.len() > MAX_UNWRITTEN {
            self.unwritten.pop_front();
        }
    }
}

/// The changes of all instances.
#[derive(Debug, Default)]
pub struct AnalysisHistory {
    held: Mutex<Held>,
}

impl AnalysisHistory {
    /// A history that begins with the stored changes, oldest first.
    pub fn of(changes: impl IntoIterator<Item = (InstanceKey, AnalysisChange)>) -> Self {
        let mut held = Held::default();
        for (instance, change) in changes {
            held.add(&instance, change);
        }
        held.bound();
        Self { held: Mutex::new(held) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the present analysis of these instances. The first finding of an instance counts; without a finding the code is
    /// [`Code::NoProblem`].
    pub fn record<'a>(&self, instances: impl IntoIterator<Item = &'a InstanceKey>, findings: &[Finding], at: WallTime) {
        let mut codes: BTreeMap<&InstanceKey, Code> = instances
            .into_iter()
            .map(|instance| (instance, Code::NoProblem))
            .collect();
        let mut found = BTreeSet::new();
        for finding in findings {
            if found.insert(&finding.instance) {
                codes.insert(&finding.instance, finding.code);
            }
        }
        let mut held = self.held();
        for (instance, code) in codes {
            let present = held.changes.get(instance).and_then(VecDeque::back);
            if present.is_some_and(|last| last.code == code) {
                continue;
            }
            let change = AnalysisChange { at, code };
            held.add(instance, change);
            held.unwritten.push_back((instance.clone(), change));
        }
        held.bound();
    }

    /// All changes by instance, oldest first.
    pub fn all(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.held()
            .changes
            .iter()
            .map(|(instance, list)| (instance.clone(), list.iter().copied().collect()))
            .collect()
    }

    /// Drops the changes before this time, except the last change of each instance, which is still valid.
    fn purge(&self, before: WallTime) {
        for list in self.held().changes.values_mut() {
            while list.len() > 1 && list.front().is_some_and(|change| change.at < before) {
                list.pop_front();
            }
        }
    }

    /// Writes new changes every few seconds until `stop`, and once more then. Drops changes that are older than `kept` at the start and every
    /// hour. A failed write is retried.
    pub async fn run(
        self: Arc<Self>,
        store: Arc<dyn ChangeStore>,
        clock: Arc<dyn Clock>,
        kept: Duration,
        stop: CancellationToken,
    ) {
        let kept_millis = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        let (mut ticks, mut purges) = (interval(WRITE_EVERY), interval(PURGE_EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        purges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_over = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
                _ = purges.tick() => {
                    let before = WallTime(clock.wall().0.saturating_sub(kept_millis));
                    self.purge(before);
                    if let Err(error) = store.purge_changes(before).await {
                        warn!("failed to drop old analysis changes, will retry: {error}");
                    }
                    continue;
                }
            };
            let changes: Vec<(InstanceKey, AnalysisChange)> = self.held().unwritten.drain(..).collect();
            if !changes.is_empty()
                && let Err(error) = store.add_changes(&changes).await
            {
                warn!("failed to write analysis changes, will retry: {error}");
                let mut held = self.held();
                for change in changes.into_iter().rev() {
                    held.unwritten.push_front(change);
                }
                held.bound();
            }
            if is_over {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "analysis_history_tests.rs"]
mod tests;
