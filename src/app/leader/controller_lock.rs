//! One group controls a cluster: the leader holds the owner lock on each primary, and every member checks which group
//! holds it.
//!
//! Every member checks, because a lock dies with its server. When a primary fails, the owner before the failure
//! counts, and the leader at that time may be new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, ControllerLockClient, LockHolder, Target};

/// How often each primary is checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one check may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// How many primaries are checked at the same time. All at once would delay the probes of a large fleet.
const AT_ONCE: usize = 64;
/// For how long every check must have found another controller, milliseconds. A session of this group that ends
/// during a check may look like one.
const SETTLED_AFTER_MILLIS: u64 = 5000;
/// For how long the lock must have been free, milliseconds, before a group takes it that did not hold it before. The
/// other group needs less time to elect a leader that takes it back, and this group needs less time to notice that
/// the lock was taken from it.
const FREE_AFTER_MILLIS: u64 = 10_000;

/// Holds owner locks while this member leads, and notes other controllers.
pub struct ControllerLocks {
    /// The locks on the servers.
    pub locks: Arc<dyn ControllerLockClient>,
    /// The clusters, with their primaries.
    pub views: ClusterViews,
    /// Where other controllers are noted.
    pub instance_cache: Arc<InstanceCache>,
    /// Whether this member leads.
    pub consensus: Arc<dyn Consensus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What the checks show about a cluster. It outlasts a primary: the owner of the previous primary owns the next one.
#[derive(Debug, Default)]
struct ClusterOwnership {
    last: LastOwner,
    /// Since when every check has found the lock free.
    free_since: Option<MonotonicTime>,
    /// Since when every check has found another controller.
    foreign_since: Option<MonotonicTime>,
}

/// The last known owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum LastOwner {
    /// No owner is known, or the lock has been free for long.
    #[default]
    NoOwner,
    /// This group.
    ThisGroup,
    /// Another controller, with its name.
    OtherController(String),
}

impl ClusterOwnership {
    /// Whether a free lock may be taken now. A group that changed its leader, or replaced its primary, takes it at
    /// once.
    fn may_take(&self, now: MonotonicTime) -> bool {
        let is_free = |since: MonotonicTime| now.millis_since(since) >= FREE_AFTER_MILLIS;
        self.last == LastOwner::ThisGroup || self.free_since.is_some_and(is_free)
    }

    /// Takes in the result of a check. Returns the other controller that owns the cluster, if one does.
    ///
    /// # Errors
    /// When the owner is undecided. The noted owner does not change then.
    fn observe(&mut self, owner: &LockHolder, now: MonotonicTime) -> Result<Option<String>, OwnerUndecided> {
        let is_over = |since: MonotonicTime, millis| now.millis_since(since) >= millis;
        match owner {
            LockHolder::ThisGroup => {
                (self.free_since, self.foreign_since) = (None, None);
                self.last = LastOwner::ThisGroup;
            }
            LockHolder::None => {
                self.foreign_since = None;
                let since = *self.free_since.get_or_insert(now);
                if matches!(self.last, LastOwner::OtherController(_)) && is_over(since, FREE_AFTER_MILLIS) {
                    self.last = LastOwner::NoOwner;
                }
            }
            LockHolder::Another(other) => {
                self.free_since = None;
                let since = *self.foreign_since.get_or_insert(now);
                if !matches!(self.last, LastOwner::OtherController(_)) && !is_over(since, SETTLED_AFTER_MILLIS) {
                    return Err(OwnerUndecided);
                }
                self.last = LastOwner::OtherController(other.clone());
            }
        }
        Ok(match &self.last {
            LastOwner::OtherController(other) => Some(other.clone()),
            LastOwner::NoOwner | LastOwner::ThisGroup => None,
        })
    }
}

/// The lock is held by another controller, or by a session of this group that is about to end.
#[derive(Debug, PartialEq, Eq)]
struct OwnerUndecided;

/// A primary that is checked.
struct CheckedPrimary {
    cluster: ClusterId,
    takes_lock: bool,
}

impl ControllerLocks {
    /// Runs until cancelled, then releases the locks.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut clusters = BTreeMap::new();
        let mut held = BTreeSet::new();
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.check(&mut clusters, &mut held) => {}
            }
        }
        join_all(held.iter().map(|instance| self.locks.release(instance))).await;
    }

    /// The recorded primary of each cluster, and whether its lock may be taken now.
    async fn primaries(
        &self,
        clusters: &BTreeMap<ClusterId, ClusterOwnership>,
    ) -> BTreeMap<InstanceKey, CheckedPrimary> {
        let leads = self.consensus.leadership().borrow().is_leader;
        let now = self.clock.monotonic();
        let checked = |view: &Arc<ClusterView>| {
            let primary = &view.cluster.primary.as_ref()?.instance;
            let cluster = view.cluster.id.clone();
            let may_take = clusters.get(&cluster).is_some_and(|ownership| ownership.may_take(now));
            let takes_lock = leads && may_take && acts_on(view);
            Some((
                view.topology.resolve(primary).clone(),
                CheckedPrimary { cluster, takes_lock },
            ))
        };
        let views = self.views.all().await;
        views.iter().filter_map(checked).collect()
    }

    async fn check(&self, clusters: &mut BTreeMap<ClusterId, ClusterOwnership>, held: &mut BTreeSet<InstanceKey>) {
        let Some(group) = self.views.state().group.as_ref().map(|group| group.uuid.clone()) else {
            return;
        };
        let primaries = self.primaries(clusters).await;
        let gone: Vec<InstanceKey> = held
            .iter()
            .filter(|key| !primaries.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.locks.release(&key).await;
            self.instance_cache.set_other_controller(&key, None);
            held.remove(&key);
        }
        let present: BTreeSet<&ClusterId> = primaries.values().map(|checked| &checked.cluster).collect();
        clusters.retain(|cluster, _| present.contains(cluster));
        held.extend(primaries.keys().cloned());
        // No connection to a server that does not answer: a stopped process with a full queue would look dead.
        let mut checks = Vec::new();
        for (key, checked) in &primaries {
            if self.instance_cache.read(key, |tracked| tracked.instance.is_valid()) == Some(true) {
                checks.push(self.holder(key, checked, &group));
            }
        }
        let owners: Vec<_> = stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
        for (key, checked, owner) in owners {
            match owner {
                Ok(owner) => {
                    let ownership = clusters.entry(checked.cluster.clone()).or_default();
                    if let Ok(other_controller) = ownership.observe(&owner, self.clock.monotonic()) {
                        self.note(key, other_controller);
                    }
                }
                // While a server fails, the owner before the failure counts.
                Err(why) => debug!(instance = %key, "failed to read the owner of {key}: {why}"),
            }
        }
    }

    async fn holder<'a>(
        &self,
        key: &'a InstanceKey,
        checked: &'a CheckedPrimary,
        group: &str,
    ) -> (&'a InstanceKey, &'a CheckedPrimary, Result<LockHolder, String>) {
        let origin = self.instance_cache.read(key, |tracked| tracked.origin.clone());
        let target = Target {
            instance: key.clone(),
            origin: origin.unwrap_or(Origin::Api),
        };
        let owner = self.locks.holder(&target, group, checked.takes_lock, DEADLINE).await;
        (key, checked, owner)
    }

    fn note(&self, key: &InstanceKey, other_controller: Option<String>) {
        let name = other_controller.clone();
        if !self.instance_cache.set_other_controller(key, other_controller) {
            return;
        }
        if let Some(other) = name {
            warn!(instance = %key, "{key} is owned by another controller ({other}): this group does not repair its cluster");
        } else {
            info!(instance = %key, "{key} is no longer owned by another controller");
        }
    }
}

/// Whether this group would change the cluster at all. A group that only observes must not keep another one from
/// acting.
fn acts_on(view: &ClusterView) -> bool {
    match &view.policy.held_back {
        Some(
            HeldBack::GloballyDisabled
            | HeldBack::Paused
            | HeldBack::Mode(_)
            | HeldBack::NoFilterMatches
            | HeldBack::OwnedByAnotherGroup(_),
        ) => false,
        Some(_) | None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime(seconds * 1_000_000)
    }

    fn other_controller() -> LockHolder {
        LockHolder::Another("ham4db@10.0.0.9".to_owned())
    }

    fn named() -> String {
        "ham4db@10.0.0.9".to_owned()
    }

    #[test]
    fn a_stranger_is_noted_after_five_seconds_at_every_look() {
        let mut ownership = ClusterOwnership::default();
        assert_eq!(ownership.observe(&other_controller(), at(1)), Err(OwnerUndecided));
        assert_eq!(ownership.observe(&other_controller(), at(5)), Err(OwnerUndecided));
        assert_eq!(ownership.observe(&LockHolder::ThisGroup, at(5)), Ok(None));
        assert_eq!(ownership.observe(&other_controller(), at(6)), Err(OwnerUndecided));
        assert_eq!(ownership.observe(&other_controller(), at(10)), Err(OwnerUndecided));
        assert_eq!(ownership.observe(&other_controller(), at(11)), Ok(Some(named())));
    }

    #[test]
    fn a_strangers_cluster_is_free_when_its_lock_was_for_ten_seconds() {
        let mut ownership = ClusterOwnership::default();
        assert_eq!(ownership.observe(&other_controller(), at(0)), Err(OwnerUndecided));
        assert_eq!(ownership.observe(&other_controller(), at(5)), Ok(Some(named())));
        // Its leader changes, or it has replaced the primary.
        assert_eq!(ownership.observe(&LockHolder::None, at(6)), Ok(Some(named())));
        assert!(!ownership.may_take(at(6)));
        assert_eq!(
            ownership.observe(&other_controller(), at(8)),
            Ok(Some(named())),
            "at once: it was the owner before"
        );
        assert_eq!(ownership.observe(&LockHolder::None, at(9)), Ok(Some(named())));
        assert_eq!(ownership.observe(&LockHolder::None, at(18)), Ok(Some(named())));
        assert!(!ownership.may_take(at(18)));
        assert_eq!(ownership.observe(&LockHolder::None, at(19)), Ok(None));
        assert!(ownership.may_take(at(19)));
    }

    #[test]
    fn what_was_ours_is_taken_back_at_once_and_what_never_was_after_a_while() {
        let mut ownership = ClusterOwnership::default();
        assert!(!ownership.may_take(at(0)), "no check was made yet");
        assert_eq!(ownership.observe(&LockHolder::None, at(0)), Ok(None));
        assert!(!ownership.may_take(at(9)));
        assert!(ownership.may_take(at(10)));
        assert_eq!(ownership.observe(&LockHolder::ThisGroup, at(11)), Ok(None));
        assert_eq!(ownership.observe(&LockHolder::None, at(12)), Ok(None));
        assert!(ownership.may_take(at(12)));
    }
}
