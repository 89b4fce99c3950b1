//! One group acts on a cluster: the leader holds the owner's lock on each primary, and every member looks who holds it.
//!
//! Every member looks, not the leader alone, because a lock dies with its server: what counts when a primary fails is who held it
//! before, and the leader of that moment may be new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::time::MonotonicTime;
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::{ClusterView, ClusterViews};
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, Owner, OwnerLocks, Target};

/// How often each primary is looked at.
const PACE: Duration = Duration::from_secs(1);
/// How long one look may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// For how long every look must have met a stranger, milliseconds: a session of our own that ends between the two halves of a look
/// may seem to be one for a moment.
const SETTLED_MILLIS: u64 = 5000;
/// For how long the lock must have been free, milliseconds, before a group takes it that did not hold it before. Longer than the other
/// group needs to elect a leader and take it back, and than this group needs to find that it was taken from it.
const FREE_MILLIS: u64 = 10_000;

/// Holds owner's locks while this member leads, and notes who else does.
pub struct Owners {
    /// The locks.
    pub locks: Arc<dyn OwnerLocks>,
    /// Which primaries there are.
    pub views: ClusterViews,
    /// Where strangers are noted.
    pub instance_cache: Arc<InstanceCache>,
    /// Who leads, and the name of the group.
    pub consensus: Arc<dyn Consensus>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What the looks so far say about a cluster. It outlasts its primary: who owned the one before owns the next one.
#[derive(Debug, Default)]
struct Watched {
    last: LastOwner,
    /// Since when every look has found the lock free.
    free: Option<MonotonicTime>,
    /// Since when every look has met a stranger.
    strange: Option<MonotonicTime>,
}

/// Who was the owner, as far as it is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum LastOwner {
    /// Nobody yet, or nobody for long.
    #[default]
    Nobody,
    /// This group.
    ThisGroup,
    /// Another one.
    Stranger(String),
}

impl Watched {
    /// Whether the lock may be taken when it is free. A group that changes its leader, or has replaced its primary, takes it at once.
    fn may_take(&self, now: MonotonicTime) -> bool {
        let is_free = |since: MonotonicTime| now.millis_since(since) >= FREE_MILLIS;
        self.last == LastOwner::ThisGroup || self.free.is_some_and(is_free)
    }

    /// Takes in a look. Returns the stranger who owns the cluster, if one does.
    ///
    /// # Errors
    /// When it is not settled; what was noted stays then.
    fn see(&mut self, owner: &Owner, now: MonotonicTime) -> Result<Option<String>, NotSettled> {
        let is_over = |since: MonotonicTime, millis| now.millis_since(since) >= millis;
        match owner {
            Owner::ThisGroup => {
                (self.free, self.strange) = (None, None);
                self.last = LastOwner::ThisGroup;
            }
            Owner::Nobody => {
                self.strange = None;
                let since = *self.free.get_or_insert(now);
                if matches!(self.last, LastOwner::Stranger(_)) && is_over(since, FREE_MILLIS) {
                    self.last = LastOwner::Nobody;
                }
            }
            Owner::Another(who) => {
                self.free = None;
                let since = *self.strange.get_or_insert(now);
                if !matches!(self.last, LastOwner::Stranger(_)) && !is_over(since, SETTLED_MILLIS) {
                    return Err(NotSettled);
                }
                self.last = LastOwner::Stranger(who.clone());
            }
        }
        Ok(match &self.last {
            LastOwner::Stranger(who) => Some(who.clone()),
            LastOwner::Nobody | LastOwner::ThisGroup => None,
        })
    }
}

/// It may be a stranger, or a session of our own that ends.
#[derive(Debug, PartialEq, Eq)]
struct NotSettled;

/// A primary that is looked at.
struct Looked {
    cluster: ClusterId,
    takes: bool,
}

impl Owners {
    /// Runs until cancelled; gives the locks back at the end.
    pub async fn run(self, cancel: CancellationToken) {
        let mut clusters = BTreeMap::new();
        let mut held = BTreeSet::new();
        let mut tick = tokio::time::interval(PACE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.look(&mut clusters, &mut held) => {}
            }
        }
        join_all(held.iter().map(|instance| self.locks.release(instance))).await;
    }

    /// The recorded primary of each cluster, and whether its lock may be taken now.
    fn primaries(&self, clusters: &BTreeMap<ClusterId, Watched>) -> BTreeMap<InstanceKey, Looked> {
        let leads = self.consensus.leadership().borrow().is_leader;
        let now = self.clock.monotonic();
        let looked = |view: &ClusterView| {
            let primary = &view.cluster.primary.as_ref()?.instance;
            let cluster = view.cluster.id.clone();
            let may_take = clusters.get(&cluster).is_some_and(|watched| watched.may_take(now));
            let takes = leads && may_take && acts_on(view);
            Some((view.topology.resolve(primary).clone(), Looked { cluster, takes }))
        };
        self.views.clusters().iter().filter_map(looked).collect()
    }

    async fn look(&self, clusters: &mut BTreeMap<ClusterId, Watched>, held: &mut BTreeSet<InstanceKey>) {
        let Some(group) = self.views.state().group.as_ref().map(|group| group.uuid.clone()) else {
            return;
        };
        let primaries = self.primaries(clusters);
        let gone: Vec<InstanceKey> = held
            .iter()
            .filter(|key| !primaries.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.locks.release(&key).await;
            self.instance_cache.note_controller(&key, None);
            held.remove(&key);
        }
        let present: BTreeSet<&ClusterId> = primaries.values().map(|looked| &looked.cluster).collect();
        clusters.retain(|cluster, _| present.contains(cluster));
        held.extend(primaries.keys().cloned());
        // A server that does not answer is not dialled for this: a stopped process whose queue is full would look dead.
        let answering = primaries.iter().filter(|(key, _)| {
            let tracked = self.instance_cache.get(key);
            tracked.is_some_and(|tracked| tracked.instance.is_valid())
        });
        let looks = join_all(answering.map(|(key, looked)| {
            let group = &group;
            async move {
                let origin = self
                    .instance_cache
                    .get(key)
                    .map_or(Origin::Api, |tracked| tracked.origin);
                let target = Target {
                    instance: key.clone(),
                    origin,
                };
                let owner = self.locks.look(&target, group, looked.takes, DEADLINE).await;
                (key, looked, owner)
            }
        }))
        .await;
        for (key, looked, owner) in looks {
            match owner {
                Ok(owner) => {
                    let watched = clusters.entry(looked.cluster.clone()).or_default();
                    if let Ok(stranger) = watched.see(&owner, self.clock.monotonic()) {
                        self.note(key, stranger);
                    }
                }
                // Who held it before a server failed is what counts while it is away.
                Err(why) => debug!(instance = %key, "who owns {key} was not seen: {why}"),
            }
        }
    }

    fn note(&self, key: &InstanceKey, stranger: Option<String>) {
        let told = stranger.clone();
        if !self.instance_cache.note_controller(key, stranger) {
            return;
        }
        if let Some(who) = told {
            warn!(instance = %key, "{key} is owned by another controller ({who}): this group does not repair its cluster");
        } else {
            info!(instance = %key, "{key} is no longer owned by another controller");
        }
    }
}

/// Whether this group would act on a cluster at all: one that only looks on must not keep another one from acting.
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

    fn stranger() -> Owner {
        Owner::Another("ham4db@10.0.0.9".to_owned())
    }

    fn named() -> String {
        "ham4db@10.0.0.9".to_owned()
    }

    #[test]
    fn a_stranger_is_noted_after_five_seconds_at_every_look() {
        let mut watched = Watched::default();
        assert_eq!(watched.see(&stranger(), at(1)), Err(NotSettled));
        assert_eq!(watched.see(&stranger(), at(5)), Err(NotSettled));
        assert_eq!(watched.see(&Owner::ThisGroup, at(5)), Ok(None));
        assert_eq!(watched.see(&stranger(), at(6)), Err(NotSettled));
        assert_eq!(watched.see(&stranger(), at(10)), Err(NotSettled));
        assert_eq!(watched.see(&stranger(), at(11)), Ok(Some(named())));
    }

    #[test]
    fn a_strangers_cluster_is_free_when_its_lock_was_for_ten_seconds() {
        let mut watched = Watched::default();
        assert_eq!(watched.see(&stranger(), at(0)), Err(NotSettled));
        assert_eq!(watched.see(&stranger(), at(5)), Ok(Some(named())));
        // Its leader changes, or it has replaced the primary.
        assert_eq!(watched.see(&Owner::Nobody, at(6)), Ok(Some(named())));
        assert!(!watched.may_take(at(6)));
        assert_eq!(
            watched.see(&stranger(), at(8)),
            Ok(Some(named())),
            "at once: it was theirs before"
        );
        assert_eq!(watched.see(&Owner::Nobody, at(9)), Ok(Some(named())));
        assert_eq!(watched.see(&Owner::Nobody, at(18)), Ok(Some(named())));
        assert!(!watched.may_take(at(18)));
        assert_eq!(watched.see(&Owner::Nobody, at(19)), Ok(None));
        assert!(watched.may_take(at(19)));
    }

    #[test]
    fn what_was_ours_is_taken_back_at_once_and_what_never_was_after_a_while() {
        let mut watched = Watched::default();
        assert!(!watched.may_take(at(0)), "nobody has looked yet");
        assert_eq!(watched.see(&Owner::Nobody, at(0)), Ok(None));
        assert!(!watched.may_take(at(9)));
        assert!(watched.may_take(at(10)));
        assert_eq!(watched.see(&Owner::ThisGroup, at(11)), Ok(None));
        assert_eq!(watched.see(&Owner::Nobody, at(12)), Ok(None));
        assert!(watched.may_take(at(12)));
    }
}
