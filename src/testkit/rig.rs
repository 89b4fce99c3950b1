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
use crate::app::group_clock::GroupClock;
use crate::app::leader::Leader;
use crate::app::leader::cluster_registry::{ClusterAliases, RecordsLock};
use crate::app::leader::unseen::UnseenInstances;
use crate::app::observation::channel_separator::ChannelSeparator;
use crate::app::observation::exchange::ObservationExchange;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::position_history::PositionHistory;
use crate::app::observation::probe_sharing::SharedProbes;
use crate::app::observation::votes::OpinionResponder;
use crate::app::ports::cluster_source::DocumentSet;
use crate::app::ports::{Clock, Consensus, CredentialsByOrigin, Executor, Prober};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::{HookRunner, HookSettings};
use crate::app::recovery::publication_gate::PublicationGate;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::recovery::steps::RecoveryContext;
use crate::app::settings::{PollSettings, RecoverySettings};
use crate::domain::cluster_view::ClusterView;
use crate::domain::fixture::{NOW, key, uuid};
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{OldPrimary, RecoveryQuorum};
use crate::domain::probe_assignment::ProbeSharing;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;
use crate::domain::state::command::SHARES_PROBES;
use crate::domain::state::record::{MemberRecord, RecordedPrimary};
use crate::domain::state::{Cluster, ClusterFilter, Command, MemberId, PolicySettings, Recovery, State};
use crate::domain::topology::ClusterId;

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
    /// How the members share the probes.
    pub(crate) sharing: ProbeSharing,
    /// The quorum that must agree on a recovery.
    pub(crate) quorum: RecoveryQuorum,
    /// The configured data centres of members.
    pub(crate) places: BTreeMap<MemberId, String>,
    /// The configured patterns of Pseudo-GTID entries.
    pub(crate) pseudo_gtid: Option<PseudoGtidPatterns>,
    /// After how long an instance that is not seen is forgotten.
    pub(crate) forget_after: Duration,
    /// The hook commands of all members, with the calls.
    pub(crate) hooks: Scripts,
    /// The configured hook lists of members.
    pub(crate) hook_settings: HookSettings,
    /// The published addresses of the Services, as all members know them.
    pub(crate) service_gate: ServiceGate,
    /// The results of the publishers, as all members know them.
    pub(crate) publication_gate: PublicationGate,
    /// Whether a failed publication fails a recovery.
    pub(crate) fails_on_failed_publication: bool,
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
        split_from: None,
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
            sharing: ProbeSharing::Off,
            quorum: RecoveryQuorum::default(),
            places: BTreeMap::new(),
            pseudo_gtid: None,
            forget_after: Duration::from_hours(240),
            hooks: Scripts::default(),
            hook_settings: HookSettings::default(),
            service_gate: ServiceGate::default(),
            publication_gate: PublicationGate::default(),
            fails_on_failed_publication: false,
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

    /// The same with members that share the probes, once they do.
    pub(crate) async fn sharing(servers: u32, members: u64, mode: ProbeSharing) -> Self {
        let mut rig = Self::new(servers, members);
        rig.sharing = mode;
        for id in 1..=members {
            rig.record_member(id, SHARES_PROBES);
            rig.start(id);
        }
        rig.settled().await;
        rig.until_shared().await;
        rig
    }

    /// Records a member that understands commands up to this version.
    pub(crate) fn record_member(&self, id: MemberId, understands: u32) {
        let member = MemberRecord {
            id,
            name: format!("member{id}"),
            understands,
            data_center: self.places.get(&id).cloned().unwrap_or_default(),
        };
        self.group.commit(Command::AnnounceMember { member });
    }

    /// The member that probes an instance for all, as a member knows it.
    pub(crate) fn prober_of(&self, member: MemberId, n: u32) -> Option<MemberId> {
        self.members[&member].instance_cache.shared_probes()?.assigned(&key(n))
    }

    /// Waits until all running members know one assignment, in which each instance has a running member.
    pub(crate) async fn until_shared(&self) {
        self.until("the probes are shared", |rig| {
            let servers: Vec<InstanceKey> = rig.world.lock().servers.keys().cloned().collect();
            let of = |member: &Member, key: &InstanceKey| member.instance_cache.shared_probes()?.assigned(key);
            servers.iter().all(|key| {
                let assigned: BTreeSet<Option<MemberId>> = rig.members.values().map(|member| of(member, key)).collect();
                let only = assigned.first().copied().flatten();
                assigned.len() == 1 && only.is_some_and(|id| rig.members.contains_key(&id))
            })
        })
        .await;
    }

    /// Starts the loops of a member.
    #[expect(
        clippy::too_many_lines,
        reason = "the parts of a member, one after the other, as cli/server wires them"
    )]
    pub(crate) fn start(&mut self, id: MemberId) {
        let consensus = self.group.member(id);
        let group_clock = self.group.clock_of(id);
        let clock: Arc<dyn Clock> = Arc::<GroupClock>::clone(&group_clock);
        let mut instance_cache = InstanceCache::default();
        if self.sharing.is_on() {
            let shared_probes = SharedProbes::new(self.sharing, Arc::clone(&clock));
            self.group
                .set_observation_source(id, Arc::<SharedProbes>::clone(&shared_probes));
            instance_cache = instance_cache.with_shared_probes(shared_probes);
        }
        let instance_cache = Arc::new(instance_cache);
        let separator = ChannelSeparator::new(
            Arc::new(SimProber::new(&self.world).of(id)),
            Arc::clone(&instance_cache),
        );
        separator.follow(consensus.state());
        let prober: Arc<dyn Prober> = Arc::new(separator);
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
            clock: Arc::clone(&clock),
            settings: RecoverySettings {
                quorum: self.quorum,
                pseudo_gtid: self.pseudo_gtid.clone(),
                fails_on_failed_publication: self.fails_on_failed_publication,
                ..RecoverySettings::default()
            },
            hooks: hooks.clone(),
            service_gate: self.service_gate.clone(),
            publication_gate: self.publication_gate.clone(),
        };
        let coordinator = RecoveryCoordinator::new(context.clone(), views.clone(), opinion_responder);
        let quarantine = QuarantineEnforcer::new(context, views.clone(), Arc::clone(&coordinator));
        let leader = Leader {
            consensus: consensus.clone(),
            instance_cache: Arc::clone(&instance_cache),
            views: views.clone(),
            aliases: ClusterAliases::default(),
            records: RecordsLock::default(),
            coordinator: Arc::clone(&coordinator),
            quarantine,
            hooks,
            clock: Arc::clone(&clock),
            unseen: UnseenInstances {
                instance_cache: Arc::clone(&instance_cache),
                consensus: consensus.clone(),
                clock: Arc::clone(&clock),
                forget_after: self.forget_after,
                forget_for: Duration::from_secs(15),
                reviewed: std::sync::Mutex::default(),
            },
        };
        let mut tasks = JoinSet::new();
        if let Some(shared_probes) = instance_cache.shared_probes() {
            let exchange = Arc::new(ObservationExchange {
                shared_probes: Arc::clone(shared_probes),
                instance_cache: Arc::clone(&instance_cache),
                poller: Arc::clone(&poller),
                consensus: consensus.clone(),
                clock: Arc::clone(&clock),
            });
            tasks.spawn(exchange.run(cancel.clone()));
        }
        tasks.spawn(poller.run());
        tasks.spawn(self.group.clone().keep_comparing(group_clock));
        tasks.spawn(Arc::new(leader).run(cancel.clone()));
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
        let view = member.views.clusters().into_iter().next().unwrap().as_ref().clone();
        (member, view)
    }

    /// The view of the cluster as a member has it.
    pub(crate) fn view_of(&self, member: MemberId) -> ClusterView {
        let view = self.members[&member].views.clusters().into_iter().next().unwrap();
        view.as_ref().clone()
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
