//! Detects primaries that commit nothing. Only the leader checks, and only primaries that do not answer their probes
//! or have a binary log that does not grow. When the configuration names a table, a row is written there, so that there is
//! a commit at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::analysis::other_writable_tops;
use crate::domain::cluster_view::ClusterView;
use crate::domain::commit_stall::{CanaryTable, CommitStall, CommitWaitTracker, Obstacle};
use crate::domain::instance::{Identity, Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, CommitProbe, Consensus, Target};

/// How often each primary is checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one check may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// When a binary log has not grown for this time, milliseconds, the sessions are checked.
const SUSPECT_AFTER_MILLIS: u64 = 2000;
/// After how many failed reads of its sessions a primary that answers no probe either counts as one that does not answer.
const MAX_FAILED_READS: u32 = 5;
/// The time between two canary rows on a primary, milliseconds.
const CANARY_INTERVAL_MILLIS: u64 = 2000;

/// The settings of the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSettings {
    /// How long a commit may wait before the primary counts as stalled.
    pub max_commit_wait: Duration,
    /// The table for canary rows; `None`: no rows are written.
    pub canary: Option<CanaryTable>,
}

impl Default for CommitSettings {
    /// Ten seconds, and no canary rows.
    fn default() -> Self {
        Self {
            max_commit_wait: Duration::from_secs(10),
            canary: None,
        }
    }
}

/// Checks primaries while this member leads.
pub struct CommitStallMonitor {
    /// Reads the waiting commits of a server, and writes canary rows.
    pub probe: Arc<dyn CommitProbe>,
    /// Whether this member leads.
    pub consensus: Arc<dyn Consensus>,
    /// Where stalls are noted.
    pub instance_cache: Arc<InstanceCache>,
    /// The clusters, with their primaries.
    pub views: ClusterViews,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The settings.
    pub settings: CommitSettings,
}

/// What is known of one primary.
#[derive(Default)]
struct WatchedPrimary {
    sessions: CommitWaitTracker,
    canary: Option<Canary>,
    /// When the last canary row was started.
    canary_begun: Option<MonotonicTime>,
    /// The last failure of a canary row that was logged.
    reported_failure: Option<String>,
    /// How many reads of its sessions failed in a row.
    failed_reads: u32,
}

/// A canary row that is being written.
struct Canary {
    begun: MonotonicTime,
    task: JoinHandle<Result<(), String>>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A primary that is checked.
struct CheckedPrimary {
    instance: InstanceKey,
    identity: Identity,
    cluster: String,
    /// For how long its binary log has not grown, milliseconds; `None` when its probes fail, or when it has none.
    unmoved_millis: Option<u64>,
    /// Whether its sessions are worth a check.
    is_suspect: bool,
    /// Whether a row may be written there.
    may_write: bool,
}

impl CommitStallMonitor {
    /// Runs until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let leadership = self.consensus.leadership();
        let mut watched: BTreeMap<InstanceKey, WatchedPrimary> = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let subjects = if leadership.borrow().is_leader {
                let now = self.clock.wall();
                self.views
                    .all()
                    .await
                    .iter()
                    .filter_map(|view| subject(view, now))
                    .collect()
            } else {
                Vec::new()
            };
            self.forget_others(&mut watched, &subjects).await;
            let checked: Vec<(CheckedPrimary, WatchedPrimary)> = subjects
                .into_iter()
                .map(|subject| {
                    let known = watched.remove(&subject.instance).unwrap_or_default();
                    (subject, known)
                })
                .collect();
            let may_write = self.settings.canary.is_some()
                && checked.iter().any(|(subject, _)| subject.may_write)
                // A quorum has to confirm now that this member leads.
                && self.consensus.barrier().await.is_ok();
            let checks = checked
                .into_iter()
                .map(|(subject, known)| self.check(subject, known, may_write));
            watched = join_all(checks).await.into_iter().collect();
        }
    }

    async fn forget_others(&self, watched: &mut BTreeMap<InstanceKey, WatchedPrimary>, subjects: &[CheckedPrimary]) {
        let present: BTreeSet<&InstanceKey> = subjects.iter().map(|subject| &subject.instance).collect();
        let gone: Vec<InstanceKey> = watched.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in gone {
            watched.remove(&key);
            self.instance_cache.set_commit_stall(&key, None);
            self.probe.release(&key).await;
        }
    }

    async fn check(
        &self,
        subject: CheckedPrimary,
        mut known: WatchedPrimary,
        may_write: bool,
    ) -> (InstanceKey, WatchedPrimary) {
        let target = self.instance_cache.target(&subject.instance);
        let Some(target) = target else {
            return (subject.instance, known);
        };
        let key = subject.instance.clone();
        let max_commit_wait = u64::try_from(self.settings.max_commit_wait.as_millis()).unwrap_or(u64::MAX);
        if may_write && subject.may_write {
            self.start_canary(&subject, &target, &mut known);
        }
        let canary = self.check_canary(&key, &mut known, max_commit_wait);
        if !subject.is_suspect {
            known.sessions = CommitWaitTracker::default();
            self.note(&key, None);
            return (key, known);
        }
        match self.probe.waiting(&target, DEADLINE).await {
            Ok(sessions) => {
                known.failed_reads = 0;
                let seen = known.sessions.add(&sessions, self.clock.wall(), max_commit_wait);
                // When the log grows, other sessions commit meanwhile.
                let stands_still = subject.unmoved_millis.is_none_or(|millis| millis >= max_commit_wait);
                self.note(&key, seen.or(canary).filter(|_| stands_still));
            }
            // A failed check proves nothing: what was noted stays. But a server that answers neither probes nor this question for a
            // while is one that does not answer.
            Err(why) => {
                debug!(instance = %key, "failed to read the sessions of {key}: {why}");
                known.failed_reads += 1;
                if subject.unmoved_millis.is_none() && known.failed_reads >= MAX_FAILED_READS {
                    known.sessions = CommitWaitTracker::default();
                    self.instance_cache.set_commit_stall(&key, None);
                }
            }
        }
        (key, known)
    }

    fn note(&self, key: &InstanceKey, stall: Option<CommitStall>) {
        let had = self
            .instance_cache
            .get(key)
            .is_some_and(|tracked| tracked.instance.commit_stall.is_some());
        match &stall {
            Some(stall) if !had => warn!(instance = %key, "{key} commits nothing: {stall}"),
            None if had => info!(instance = %key, "{key} commits again"),
            Some(_) | None => {}
        }
        self.instance_cache.set_commit_stall(key, stall);
    }

    /// Starts a canary row when none is being written and the last one is old enough.
    fn start_canary(&self, subject: &CheckedPrimary, target: &Target, known: &mut WatchedPrimary) {
        let now = self.clock.monotonic();
        let is_soon = known
            .canary_begun
            .is_some_and(|canary_begun| now.millis_since(canary_begun) < CANARY_INTERVAL_MILLIS);
        let Some(table) = self
            .settings
            .canary
            .as_ref()
            .filter(|_| known.canary.is_none() && !is_soon)
        else {
            return;
        };
        known.canary_begun = Some(now);
        let statement = table.write(&subject.cluster, self.clock.wall());
        let (probe, target, identity) = (Arc::clone(&self.probe), target.clone(), subject.identity.clone());
        known.canary = Some(Canary {
            begun: now,
            task: tokio::spawn(async move { probe.canary(&target, &identity, &statement).await }),
        });
    }

    /// The stall that the canary row shows, if it does.
    fn check_canary(&self, key: &InstanceKey, known: &mut WatchedPrimary, max_commit_wait: u64) -> Option<CommitStall> {
        let canary = known.canary.as_mut()?;
        let waited = self.clock.monotonic().millis_since(canary.begun);
        if !canary.task.is_finished() {
            return (waited >= max_commit_wait).then(|| CommitStall {
                obstacle: Obstacle::Canary,
                state: String::new(),
                sessions: 1,
                seconds: waited / 1000,
            });
        }
        // The task has ended, so this does not wait.
        let ended = futures::FutureExt::now_or_never(&mut canary.task);
        known.canary = None;
        let failure = match ended {
            Some(Ok(Err(why))) => Some(why),
            Some(Err(why)) => Some(why.to_string()),
            Some(Ok(Ok(()))) | None => None,
        };
        if let Some(why) = failure.as_ref().filter(|_| failure != known.reported_failure) {
            warn!(instance = %key, "failed to write a canary row on {key}: {why}");
        }
        known.reported_failure = failure;
        None
    }
}

/// The recorded primary of a cluster when it took writes at its last answer, unless a recovery replaces it.
fn subject(view: &ClusterView, now: WallTime) -> Option<CheckedPrimary> {
    let recorded = view.cluster.primary.as_ref()?;
    let topology = &view.topology;
    let key = topology.resolve(&recorded.instance);
    let instance: &Instance = topology.get(key)?;
    let facts = instance.facts.as_ref()?;
    // Repairs that give way are no reason to look away.
    let is_being_replaced = matches!(view.policy.held_back, Some(HeldBack::RecoveryRuns { .. }));
    let is_in_reach = instance.failure.is_none() || instance.failure == Some(ProbeFailure::Stalled);
    if facts.identity != recorded.identity
        || !facts.is_writable()
        || !is_in_reach
        || is_being_replaced
        || (instance.is_valid() && facts.semi_sync.wait_sessions > 0)
    {
        return None;
    }
    let unmoved_millis = instance
        .binlog_unmoved_since
        .filter(|_| instance.is_valid())
        .map(|since| now.millis_since(since));
    let is_left_alone = matches!(
        view.policy.held_back,
        Some(HeldBack::Paused | HeldBack::Mode(_) | HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))
    );
    Some(CheckedPrimary {
        instance: key.clone(),
        identity: facts.identity.clone(),
        cluster: topology.cluster.to_string(),
        unmoved_millis,
        is_suspect: unmoved_millis.is_none_or(|millis| millis >= SUSPECT_AFTER_MILLIS),
        may_write: instance.is_valid()
            && facts.group_name.is_empty()
            && !facts.is_binlog_server()
            && !is_left_alone
            && other_writable_tops(topology, key).is_empty(),
    })
}

#[cfg(test)]
#[path = "commit_stalls_tests.rs"]
mod tests;
