//! Exchanges observations with the other members when they share the probes, and assigns the instances on the leader.
//!
//! One task for each other voter asks for its observations again and again. They are used like own ones, with the age that they have. A
//! reported failure is never used: it makes this member look itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::state::command::SHARES_PROBES;
use crate::domain::state::{MemberId, State};

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::probe_sharing::{SharedProbes, SharingGroup};
use crate::app::ports::{Clock, Consensus, Peer};

/// How often the group and the assignment are looked at.
const TICK: Duration = Duration::from_millis(100);
/// After so many ticks the instances are assigned again also when the same members live: there may be new ones.
const TICKS_PER_ASSIGNMENT: u32 = 10;
/// Deadline of a request. The answer is held back for part of it.
const REQUEST_DEADLINE: Duration = Duration::from_millis(900);
/// The pause after a request that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Exchanges observations with the other members.
pub struct ObservationExchange {
    /// What this member knows about the shared probes.
    pub shared_probes: Arc<SharedProbes>,
    /// The observations.
    pub instance_cache: Arc<InstanceCache>,
    /// Probes what others cannot show.
    pub poller: Arc<Poller>,
    /// The group.
    pub consensus: Arc<dyn Consensus>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
}

impl ObservationExchange {
    /// Exchanges until stopped. Without shared probes it does nothing.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.shared_probes.is_on() || !self.consensus.is_raft() {
            return stop.cancelled().await;
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leadership = self.consensus.leadership();
        let mut state = self.consensus.state();
        let mut followed: BTreeMap<MemberId, CancellationToken> = BTreeMap::new();
        let mut followers = JoinSet::new();
        let mut assigned_for = None;
        let mut was_active = false;
        let mut number = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => number = number.wrapping_add(1),
                changed = leadership.changed() => if changed.is_err() { break },
                changed = state.changed() => if changed.is_err() { break },
            }
            let present = state.borrow_and_update().clone();
            let voters: Vec<Peer> = self.consensus.peers().into_iter().filter(|peer| peer.voter).collect();
            let group = self.group(&voters, &present);
            let mut others: BTreeSet<MemberId> = group.names.keys().copied().collect();
            others.remove(&group.me);
            if !group.is_possible {
                others.clear();
            }
            followed.retain(|id, following| {
                let stays = others.contains(id);
                if !stays {
                    following.cancel();
                }
                stays
            });
            for id in others {
                followed.entry(id).or_insert_with(|| {
                    let following = stop.child_token();
                    followers.spawn(Arc::clone(&self).follow(id, following.clone()));
                    following
                });
            }
            while followers.try_join_next().is_some() {}
            let leads = group.is_leader.then_some(group.term);
            self.shared_probes.follow(group, recovered_instances(&present));
            if let Some(term) = leads {
                let live = self.shared_probes.live_members();
                let is_due = number.is_multiple_of(TICKS_PER_ASSIGNMENT);
                if is_due || assigned_for.as_ref() != Some(&(term, live.clone())) {
                    self.review_reports();
                    self.shared_probes.lead(self.instances(), &data_centers(&present));
                    assigned_for = Some((term, live));
                } else {
                    self.shared_probes.confirm();
                }
            } else {
                assigned_for = None;
            }
            if number.is_multiple_of(TICKS_PER_ASSIGNMENT) {
                let watched = self.instance_cache.keys();
                self.shared_probes.retain(|key| watched.contains(key));
                let is_active = self.shared_probes.shares().is_active;
                if was_active != is_active {
                    let what = if is_active {
                        "shared with"
                    } else {
                        "no longer shared with"
                    };
                    info!("probes are {what} the other members");
                }
                was_active = is_active;
            }
        }
        followers.shutdown().await;
    }

    fn group(&self, voters: &[Peer], state: &State) -> SharingGroup {
        let me = self.consensus.me().id;
        let leadership = self.consensus.leadership().borrow().clone();
        let understands = |peer: &Peer| {
            let record = state.members.get(&peer.id);
            record.is_some_and(|record| record.understands >= SHARES_PROBES)
        };
        SharingGroup {
            me,
            names: voters.iter().map(|peer| (peer.id, peer.name.clone())).collect(),
            is_possible: voters.len() > 1 && voters.iter().any(|peer| peer.id == me) && voters.iter().all(understands),
            is_leader: leadership.is_leader,
            term: leadership.term,
        }
    }

    /// The watched instances with their data centers.
    fn instances(&self) -> BTreeMap<InstanceKey, String> {
        let data_center = |instance: &Instance| {
            let facts = instance.facts.as_ref();
            facts.map(|facts| facts.data_center.clone()).unwrap_or_default()
        };
        let keys = self.instance_cache.keys().into_iter();
        let known = keys.filter_map(|key| {
            let place = self
                .instance_cache
                .read(&key, |tracked| data_center(&tracked.instance))?;
            Some((key, place))
        });
        known.collect()
    }

    /// An instance that answers the leader after another member reported its failure is assigned to a member that reaches it.
    fn review_reports(&self) {
        let cache = &self.instance_cache;
        self.shared_probes.review_reports(|key, reported| {
            let answers = cache.read(key, |tracked| {
                tracked.instance.observed_by.is_none()
                    && tracked.failing_since.is_none()
                    && tracked.begun.is_some_and(|begun| begun > reported)
            });
            answers == Some(true)
        });
    }

    /// Asks one other member for its observations, again and again.
    async fn follow(self: Arc<Self>, member: MemberId, stop: CancellationToken) {
        let exchange = async {
            loop {
                if let Err(why) = self.exchange_once(member).await {
                    debug!("no observations from member {member}: {why}");
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = exchange => {}
        }
    }

    async fn exchange_once(&self, member: MemberId) -> Result<(), String> {
        let peer = self.consensus.peers().into_iter().find(|peer| peer.id == member);
        let peer = peer.ok_or_else(|| String::from("it left the group"))?;
        let request = self.shared_probes.request_to(member);
        let begun = self.clock.monotonic();
        let update = self
            .consensus
            .fetch_observations(&peer, &request, REQUEST_DEADLINE)
            .await?;
        let is_watched = |key: &InstanceKey| self.instance_cache.tracked_origin(key).is_some();
        let received = self.shared_probes.accept(member, update, begun, is_watched);
        for observation in &received {
            if self.poller.take_shared(observation, &peer.name) {
                self.shared_probes.note_report(&observation.key, member);
            }
        }
        Ok(())
    }
}

/// The instances of the clusters on which a recovery runs, or one of which is in quarantine.
fn recovered_instances(state: &State) -> BTreeSet<InstanceKey> {
    let mut instances = BTreeSet::new();
    let active = state.recoveries.values().filter(|recovery| recovery.is_active());
    let mut clusters = BTreeSet::new();
    for recovery in active {
        clusters.insert(&recovery.plan.cluster);
        instances.extend(recovery.plan.instances.iter().cloned());
    }
    clusters.extend(state.quarantines.values().map(|quarantine| &quarantine.cluster));
    let known = clusters.into_iter().filter_map(|id| state.clusters.get(id));
    instances.extend(known.flat_map(|cluster| cluster.instances.iter().cloned()));
    instances
}

fn data_centers(state: &State) -> BTreeMap<MemberId, String> {
    let members = state.members.values();
    members.map(|member| (member.id, member.data_center.clone())).collect()
}
