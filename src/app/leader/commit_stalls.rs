//! Whether primaries commit anything. Only the leader looks, and only at those whose binary log stands still or that do not answer their
//! probes; where the configuration names a table for it, it writes a row there, so that somebody wants to commit at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::analysis::other_writable_tops;
use crate::domain::commit_stall::{CanaryTable, CommitStall, CommitWatch, Obstacle};
use crate::domain::instance::{Identity, Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::cluster::view::{ClusterView, ClusterViews};
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, CommitProbe, Consensus, Target};

/// How often each primary is looked at.
const PACE: Duration = Duration::from_secs(1);
/// How long one look may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// A binary log that has stood still for so long, milliseconds, is worth a look at the sessions.
const STANDS_STILL_MILLIS: u64 = 2000;
/// Between two canary rows on a primary, milliseconds.
const CANARY_EVERY_MILLIS: u64 = 2000;

/// What the configuration says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSettings {
    /// How long a commit may wait before the primary counts as stalled.
    pub patience: Duration,
    /// Where canary rows are written; `None`: nowhere.
    pub canary: Option<CanaryTable>,
}

impl Default for CommitSettings {
    /// Ten seconds, and no row is written.
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            canary: None,
        }
    }
}

/// The loop on every member that looks while the member leads.
pub struct Commits {
    /// Looks.
    pub looks: Arc<dyn CommitProbe>,
    /// Who leads.
    pub consensus: Arc<dyn Consensus>,
    /// Where stalls are noted.
    pub instance_cache: Arc<InstanceCache>,
    /// Which primaries there are.
    pub views: ClusterViews,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub settings: CommitSettings,
}

/// What is known of one primary.
#[derive(Default)]
struct Watched {
    sessions: CommitWatch,
    canary: Option<Canary>,
    /// When the last canary row was begun.
    sung: Option<MonotonicTime>,
    /// The last trouble with the canary that was said.
    said: Option<String>,
}

/// A row on its way.
struct Canary {
    begun: MonotonicTime,
    task: JoinHandle<Result<(), String>>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A primary that is looked at.
struct Subject {
    instance: InstanceKey,
    identity: Identity,
    cluster: String,
    /// For how long its binary log has stood still, milliseconds; `None` when its probes do not answer, or it has none.
    unmoved_millis: Option<u64>,
    /// A look at its sessions may tell something.
    is_suspect: bool,
    /// A row may be written there.
    may_write: bool,
}

impl Commits {
    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(PACE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let leadership = self.consensus.leadership();
        let mut watched: BTreeMap<InstanceKey, Watched> = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let subjects = if leadership.borrow().is_leader {
                let now = self.clock.wall();
                self.views
                    .clusters()
                    .iter()
                    .filter_map(|view| subject(view, now))
                    .collect()
            } else {
                Vec::new()
            };
            self.forget_others(&mut watched, &subjects).await;
            let looked: Vec<(Subject, Watched)> = subjects
                .into_iter()
                .map(|subject| {
                    let known = watched.remove(&subject.instance).unwrap_or_default();
                    (subject, known)
                })
                .collect();
            let may_write = self.settings.canary.is_some()
                && looked.iter().any(|(subject, _)| subject.may_write)
                // A quorum has to say, after the question, that this member leads.
                && self.consensus.barrier().await.is_ok();
            let looks = looked
                .into_iter()
                .map(|(subject, known)| self.look(subject, known, may_write));
            watched = join_all(looks).await.into_iter().collect();
        }
    }

    async fn forget_others(&self, watched: &mut BTreeMap<InstanceKey, Watched>, subjects: &[Subject]) {
        let present: BTreeSet<&InstanceKey> = subjects.iter().map(|subject| &subject.instance).collect();
        let gone: Vec<InstanceKey> = watched.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in gone {
            watched.remove(&key);
            self.instance_cache.note_commit_stall(&key, None);
            self.looks.release(&key).await;
        }
    }

    async fn look(&self, subject: Subject, mut known: Watched, may_write: bool) -> (InstanceKey, Watched) {
        let target = self.instance_cache.target(&subject.instance);
        let Some(target) = target else {
            return (subject.instance, known);
        };
        let key = subject.instance.clone();
        let patience = u64::try_from(self.settings.patience.as_millis()).unwrap_or(u64::MAX);
        if may_write && subject.may_write {
            self.sing(&subject, &target, &mut known);
        }
        let canary = self.listen(&key, &mut known, patience);
        if !subject.is_suspect {
            known.sessions = CommitWatch::default();
            self.note(&key, None);
            return (key, known);
        }
        match self.looks.waiting(&target, DEADLINE).await {
            Ok(sessions) => {
                let seen = known.sessions.see(&sessions, self.clock.wall(), patience);
                // Others commit meanwhile, when the log moves.
                let stands_still = subject.unmoved_millis.is_none_or(|millis| millis >= patience);
                self.note(&key, seen.or(canary).filter(|_| stands_still));
            }
            // Not seen is no proof of the contrary: what was noted stays.
            Err(why) => debug!(instance = %key, "the sessions of {key} could not be seen: {why}"),
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
        self.instance_cache.note_commit_stall(key, stall);
    }

    /// Begins a row, when none is on its way and the last one was some time ago.
    fn sing(&self, subject: &Subject, target: &Target, known: &mut Watched) {
        let now = self.clock.monotonic();
        let is_soon = known
            .sung
            .is_some_and(|sung| now.millis_since(sung) < CANARY_EVERY_MILLIS);
        let Some(table) = self
            .settings
            .canary
            .as_ref()
            .filter(|_| known.canary.is_none() && !is_soon)
        else {
            return;
        };
        known.sung = Some(now);
        let statement = table.write(&subject.cluster, self.clock.wall());
        let (looks, target, identity) = (Arc::clone(&self.looks), target.clone(), subject.identity.clone());
        known.canary = Some(Canary {
            begun: now,
            task: tokio::spawn(async move { looks.canary(&target, &identity, &statement).await }),
        });
    }

    /// What the row on its way tells.
    fn listen(&self, key: &InstanceKey, known: &mut Watched, patience: u64) -> Option<CommitStall> {
        let canary = known.canary.as_mut()?;
        let waited = self.clock.monotonic().millis_since(canary.begun);
        if !canary.task.is_finished() {
            return (waited >= patience).then(|| CommitStall {
                obstacle: Obstacle::Canary,
                state: String::new(),
                sessions: 1,
                seconds: waited / 1000,
            });
        }
        // It has ended, so this does not wait.
        let ended = futures::FutureExt::now_or_never(&mut canary.task);
        known.canary = None;
        let trouble = match ended {
            Some(Ok(Err(why))) => Some(why),
            Some(Err(why)) => Some(why.to_string()),
            Some(Ok(Ok(()))) | None => None,
        };
        if let Some(why) = trouble.as_ref().filter(|_| trouble != known.said) {
            warn!(instance = %key, "no canary row on {key}: {why}");
        }
        known.said = trouble;
        None
    }
}

/// The recorded primary of a cluster when it took writes at its last answer. What recoveries work on is theirs.
fn subject(view: &ClusterView, now: WallTime) -> Option<Subject> {
    let recorded = view.cluster.primary.as_ref()?;
    let topology = &view.topology;
    let key = topology.resolve(&recorded.instance);
    let instance: &Instance = topology.get(key)?;
    let facts = instance.facts.as_ref()?;
    let is_in_reach = instance.failure.is_none() || instance.failure == Some(ProbeFailure::Stalled);
    if facts.identity != recorded.identity
        || !facts.is_writable()
        || !is_in_reach
        || !view.policy.in_recovery.is_empty()
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
    Some(Subject {
        instance: key.clone(),
        identity: facts.identity.clone(),
        cluster: topology.cluster.to_string(),
        unmoved_millis,
        is_suspect: unmoved_millis.is_none_or(|millis| millis >= STANDS_STILL_MILLIS),
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
