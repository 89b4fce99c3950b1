//! Members that run the real loops on the simulated servers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::cluster::view::ClusterViews;
use crate::app::filter::HostnameFilters;
use crate::app::leader::Leader;
use crate::app::leader::cluster_registry::ClusterAliases;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::position_history::PositionHistory;
use crate::app::observation::votes::OpinionResponder;
use crate::app::ports::cluster_source::DocumentSet;
use crate::app::ports::{Clock, Consensus, CredentialsByOrigin, Executor, Prober};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::{HookRunner, HookSettings};
use crate::app::recovery::quarantine::QuarantineEnforcer;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::recovery::steps::RecoveryContext;
use crate::app::settings::{PollSettings, RecoverySettings};
use crate::domain::cluster_view::ClusterView;
use crate::domain::fixture::{NOW, key, uuid};
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{OldPrimary, RecoveryQuorum};
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::{Cluster, ClusterFilter, MemberId, PolicySettings, Recovery, State};
use crate::domain::topology::ClusterId;

use super::clock::PausedClock;
use super::group::Group;
use super::prober::SimProber;
use super::scripts::Scripts;
use super::session::SimExecutor;
use super::world::World;

/// The longest wait of a test, in simulated time.
const PATIENCE: Duration = Duration::from_mins(2);

/// A world, a group, and its members.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) group: Group,
    pub(crate) policy: PolicySettings,
    /// The quorum that must agree on a recovery.
    pub(crate) quorum: RecoveryQuorum,
    /// The configured data centres of members.
    pub(crate) places: BTreeMap<MemberId, String>,
    /// The configured patterns of Pseudo-GTID entries.
    pub(crate) pseudo_gtid: Option<PseudoGtidPatterns>,
    /// The hook commands of all members, with the calls.
    pub(crate) hooks: Scripts,
    /// The configured hook lists of members.
    pub(crate) hook_settings: HookSettings,
    /// The published addresses of the Services, as all members know them.
    pub(crate) service_gate: ServiceGate,
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// The documents and pods that all members read.
    pub(crate) documents: watch::Sender<DocumentSet>,
}

/// One member: its loops run until it is dropped.
pub(crate) struct Member {
    pub(crate) instance_cache: Arc<InstanceCache>,
    pub(crate) coordinator: Arc<RecoveryCoordinator>,
    views: ClusterViews,
    cancel: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The state that knows the cluster `c1` of `db1` and its replicas, with `db1` as primary.
pub(crate) fn state_of(servers: u32) -> State {
    let cluster = Cluster {
        id: ClusterId("c1".to_owned()),
        created_at: NOW,
        name: key(1).to_string(),
        alias: "shop".to_owned(),
        epoch: 0,
        instances: (1..=servers).map(key).collect::<BTreeSet<InstanceKey>>(),
        primary: Some(RecordedPrimary {
            instance: key(1),
            identity: Identity::ServerUuid(uuid(1)),
            since: NOW,
            epoch: 0,
            opened_by: None,
            process: None,
        }),
        document: None,
    };
    State {
        clusters: BTreeMap::from([(cluster.id.clone(), cluster)]),
        clock: NOW,
        ..State::default()
    }
}

impl Rig {
    /// `servers` servers, a group of `members` that recovers every cluster.
    pub(crate) fn new(servers: u32, members: u64) -> Self {
        let policy = PolicySettings {
            recover_primary_filters: vec![ClusterFilter::All],
            old_primary: OldPrimary::Hold,
            catch_up_millis: 5000,
            ..PolicySettings::default()
        };
        Self {
            world: World::of_primary_and_replicas(servers),
            group: Group::new(members, state_of(servers)),
            policy,
            quorum: RecoveryQuorum::default(),
            places: BTreeMap::new(),
            pseudo_gtid: None,
            hooks: Scripts::default(),
            hook_settings: HookSettings::default(),
            service_gate: ServiceGate::default(),
            members: BTreeMap::new(),
            documents: watch::Sender::default(),
        }
    }

    /// Starts the whole group, and waits until it has probed every server.
    pub(crate) async fn started(servers: u32, members: u64) -> Self {
        let mut rig = Self::new(servers, members);
        for id in 1..=members {
            rig.start(id);
        }
        rig.settled().await;
        rig
    }

    /// Starts the loops of a member.
    pub(crate) fn start(&mut self, id: MemberId) {
        let consensus = self.group.member(id);
        let clock: Arc<dyn Clock> = Arc::new(PausedClock::new());
        let instance_cache = Arc::new(InstanceCache::default());
        let prober: Arc<dyn Prober> = Arc::new(SimProber::new(&self.world));
        let executor: Arc<dyn Executor> = Arc::new(SimExecutor {
            world: self.world.clone(),
            member: format!("member{id}"),
        });
        let memory = Arc::new(PositionHistory::default());
        let views = ClusterViews::new(
            Arc::clone(&instance_cache),
            consensus.state(),
            Arc::new(self.policy.clone()),
            HostnameFilters::default(),
            Arc::clone(&clock),
        )
        .with_members(consensus.clone())
        .with_pods(self.documents.subscribe());
        let opinion_responder = Arc::new(OpinionResponder::new(
            Arc::clone(&instance_cache),
            Arc::clone(&prober),
            Arc::clone(&clock),
            format!("member{id}"),
            self.places.get(&id).cloned().unwrap_or_default(),
            Arc::clone(&memory),
        ));
        self.group.set_opinion_responder(id, opinion_responder.clone());
        let cancel = CancellationToken::new();
        let poller = Poller::new(
            Arc::clone(&instance_cache),
            Arc::clone(&prober),
            Arc::clone(&clock),
            PollSettings::default(),
            consensus.state(),
            tokio::sync::watch::channel(crate::app::ports::CredentialsByOrigin::default()).1,
            cancel.clone(),
        );
        let hooks = HookRunner::new(
            Arc::new(self.hooks.of(id)),
            self.hook_settings.clone(),
            consensus.clone(),
            Arc::clone(&instance_cache),
            Arc::clone(&clock),
        );
        let context = RecoveryContext {
            executor,
            prober,
            instance_cache: Arc::clone(&instance_cache),
            consensus: consensus.clone(),
            credentials: watch::Sender::new(CredentialsByOrigin::default()).subscribe(),
            clock,
            settings: RecoverySettings {
                quorum: self.quorum,
                pseudo_gtid: self.pseudo_gtid.clone(),
                ..RecoverySettings::default()
            },
            hooks: hooks.clone(),
            service_gate: self.service_gate.clone(),
        };
        let coordinator = RecoveryCoordinator::new(context.clone(), views.clone(), opinion_responder);
        let quarantine = QuarantineEnforcer::new(context, views.clone(), Arc::clone(&coordinator));
        let leader = Leader {
            consensus: consensus.clone(),
            instance_cache: Arc::clone(&instance_cache),
            views: views.clone(),
            aliases: ClusterAliases::default(),
            coordinator: Arc::clone(&coordinator),
            quarantine,
            hooks,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(poller.run());
        tasks.spawn(leader.run(cancel.clone()));
        tasks.spawn(self.group.clone().announce(consensus));
        self.members.insert(
            id,
            Member {
                instance_cache,
                coordinator,
                views,
                cancel,
                _tasks: tasks,
            },
        );
    }

    /// Ends the process of a member, in the middle of any operation.
    pub(crate) fn stop(&mut self, id: MemberId) {
        self.group.depose(id);
        self.members.remove(&id);
    }

    /// Member 1, which leads unless a test says otherwise, with its view of the cluster.
    pub(crate) fn first(&self) -> (&Member, ClusterView) {
        let member = &self.members[&1];
        let view = member.views.clusters().into_iter().next().unwrap();
        (member, view)
    }

    /// The recoveries, by number.
    pub(crate) fn recoveries(&self) -> Vec<Recovery> {
        let mut recoveries: Vec<Recovery> = self.group.state().recoveries.values().cloned().collect();
        recoveries.sort_by_key(|recovery| recovery.id);
        recoveries
    }

    /// Waits until a condition is true.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < end,
                "not so in time: {what}\nstatements: {:#?}\nrecoveries: {:#?}\nwritable: {:?}",
                self.world.log(),
                self.recoveries()
                    .iter()
                    .map(|recovery| (&recovery.phase, &recovery.errors, &recovery.steps))
                    .collect::<Vec<_>>(),
                self.world.writable(),
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every running member has probed every server.
    pub(crate) async fn settled(&self) {
        self.until("all servers are seen", |rig| {
            let servers: Vec<InstanceKey> = rig.world.lock().servers.keys().cloned().collect();
            rig.members.values().all(|member| {
                servers.iter().all(|key| {
                    member
                        .instance_cache
                        .get(key)
                        .is_some_and(|tracked| tracked.instance.last_checked.is_some())
                })
            })
        })
        .await;
    }

    /// Waits until `count` recoveries are over and none runs.
    pub(crate) async fn recovered(&self, count: usize) -> Vec<Recovery> {
        self.until(&format!("{count} recoveries are over"), |rig| {
            let recoveries = rig.recoveries();
            recoveries.iter().filter(|recovery| !recovery.is_active()).count() >= count
                && recoveries.iter().all(|recovery| !recovery.is_active())
        })
        .await;
        self.recoveries()
    }

    /// Lets simulated time pass.
    pub(crate) async fn wait(&self, millis: u64) {
        sleep(Duration::from_millis(millis)).await;
    }
}
