//! `ham4db server`: builds the adapters from the configuration, connects them to the use cases, and stops them in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::adapter::clock::SystemClock;
use crate::adapter::connections::{ListenerLimits, raise_open_files};
use crate::adapter::credentials_cache::{CredentialsCache, keep_accounts};
use crate::adapter::data_files::{self, DataFiles};
use crate::adapter::hooks::ShellHooks;
use crate::adapter::http;
use crate::adapter::mysql::{
    MySqlBinlogReader, MySqlCommitProbe, MySqlControllerLockClient, MySqlExecutor, MySqlProber,
};
use crate::adapter::store::BackendStore;
use crate::app::api::dialed_reads::DialedReads;
use crate::app::api::errant::ErrantTransactions;
use crate::app::api::primaries::PrimaryPublications;
use crate::app::api::relocate::Relocation;
use crate::app::api::service::ApiService;
use crate::app::cluster::analysis_history::AnalysisHistory;
use crate::app::cluster::instance_recorder::{InstanceRecorder, RecordingSettings};
use crate::app::cluster::view::ClusterViews;
use crate::app::declarative::reconciler::Reconciler;
use crate::app::group_clock::GroupClock;
use crate::app::leader::Leader;
use crate::app::leader::cluster_registry::{ClusterAliases, RecordsLock};
use crate::app::leader::commit_stalls::CommitStallMonitor;
use crate::app::leader::controller_lock::ControllerLocks;
use crate::app::leader::primary_publishing::PrimaryPublishing;
use crate::app::leader::pseudo_gtid_writer::PseudoGtidWriter;
use crate::app::leader::unseen::UnseenInstances;
use crate::app::observation::channel_separator::ChannelSeparator;
use crate::app::observation::exchange::ObservationExchange;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::position_history::PositionHistory;
use crate::app::observation::probe_sharing::SharedProbes;
use crate::app::observation::votes::OpinionResponder;
use crate::app::ports::publisher::PrimaryPublisher;
use crate::app::ports::{ChangeStore as _, InstanceStore as _, PositionStore as _};
use crate::app::ports::{Consensus, CredentialsByOrigin, OpinionSource, Prober, TlsMode};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::publication_gate::PublicationGate;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::recovery::steps::RecoveryContext;
use crate::app::supervision;
use crate::config::settings::BackendDatabase;
use crate::config::{self, Environment, Settings};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;

use super::backend;
use super::consensus::{RunningConsensus, Sources, start_consensus};
use super::documents::{Documents, connect_kubernetes, open_documents};
use super::process::Process;
use super::publishers::open_publishers;
use super::seeds::record_seeds;
use super::{signals, subsystem_settings};

/// How often a warning about an open listener is repeated.
const WARNINGS_EVERY: Duration = Duration::from_hours(24);
/// How often the file of write tokens is read: Kubernetes itself takes up to a minute to bring a changed Secret into a pod.
const WRITE_TOKENS_EVERY: Duration = Duration::from_secs(2);
/// The longest that the handover of leadership may take during shutdown.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// The longest that all loops may take to stop after that; then the process ends anyway.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Arguments of `ham4db server`.
#[derive(Debug, Args)]
pub(super) struct ServerArguments {
    /// Configuration file; several are read in order, and a later file overrides an earlier one.
    /// Without this option: /etc/ham4db.conf.json, conf/ham4db.conf.json, ham4db.conf.json.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Folder with `MySQLCluster` documents and their Secrets as YAML files; overrides the key `ManifestsDir`.
    #[arg(long, value_name = "DIR", env = "HAM4DB_MANIFESTS")]
    manifests: Option<PathBuf>,
}

pub(super) fn run(arguments: &ServerArguments) -> anyhow::Result<()> {
    let paths = subsystem_settings::configuration_files(&arguments.config);
    let mut settings = config::load(&paths, &Environment::of_process())?;
    if arguments.manifests.is_some() {
        settings.manifests.clone_from(&arguments.manifests);
    }
    super::logging::start(settings.debug);
    supervision::install_hook();
    for path in &paths {
        info!("configuration: {}", path.display());
    }
    for warning in settings.warnings.iter().chain(&settings.open_listeners) {
        warn!("{warning}");
    }
    if settings.topology.account.is_some() && settings.topology.tls != TlsMode::Verify {
        warn!(
            "connections to servers do not verify TLS: a program that answers at the address of a server can obtain the account; set \
             MySQLTopologySSLCAFile"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The listeners of the API, bound before anything else starts.
struct Listeners {
    api: TcpListener,
    health: Option<TcpListener>,
}

/// Reads managed servers, before the consensus exists.
struct Observers {
    prober: Arc<dyn Prober>,
    separator: Arc<ChannelSeparator>,
    instance_cache: Arc<InstanceCache>,
    opinion_responder: Arc<dyn OpinionSource>,
}

/// What the loops of a running member share.
struct Member {
    consensus: Arc<dyn Consensus>,
    credentials: watch::Receiver<CredentialsByOrigin>,
    observers: Observers,
    poller: Arc<Poller>,
    views: ClusterViews,
    executor: Arc<MySqlExecutor>,
    service_gate: ServiceGate,
    publishers: Vec<Arc<dyn PrimaryPublisher>>,
    publication_gate: PublicationGate,
    records: RecordsLock,
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let group_clock = Arc::new(GroupClock::new(
        Arc::new(SystemClock::default()),
        subsystem_settings::clock_skew_limit_millis(&settings),
    ));
    let process = Process {
        probe_settings: subsystem_settings::probe_settings(&settings),
        settings,
        clock: Arc::<GroupClock>::clone(&group_clock),
        group_clock,
        listener_limits: ListenerLimits::for_open_files(raise_open_files()),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    process
        .tasks
        .spawn(Arc::clone(&process.group_clock).watch_jumps(process.stop.child_token()));
    process.tasks.spawn(repeat_warnings(
        process.settings.open_listeners.clone(),
        process.stop.child_token(),
    ));
    data_files::restrict(&data_files(&process.settings));
    let Some(store) = backend::open(&process.settings.backend, &process.stop).await? else {
        return Ok(());
    };
    let store = store.with_key_prefix(process.settings.publishers.prefix.clone());
    let listeners = bind_listeners(&process.settings).await?;
    let write_access = follow_write_tokens(&process);
    let client = connect_kubernetes(&process.settings).await?;
    let documents = open_documents(&process, client.as_ref()).await?;
    let (accounts, credentials) = watch::channel(subsystem_settings::configured_account(&process.settings));
    let observers = open_observers(&process, &store, credentials.clone()).await?;
    let opinion_responder = Arc::clone(&observers.opinion_responder);
    let sources = Sources {
        opinions: opinion_responder,
        observations: observers.instance_cache.shared_probes().cloned(),
    };
    let running = start_consensus(&process, client.as_ref(), &store, sources).await?;
    let consensus = Arc::clone(&running.consensus);
    observers.separator.follow(consensus.state());
    if let Some(documents) = &documents {
        start_accounts(&process, documents, &consensus, accounts);
    }
    let poller = start_polling(&process, &observers, &consensus, credentials.clone());
    let views = start_views(
        &process,
        &store,
        &observers,
        &consensus,
        &credentials,
        documents.as_ref(),
    )
    .await?;
    let publishers = open_publishers(&process.settings.publishers)?;
    let member = Member {
        executor: Arc::new(MySqlExecutor::new(credentials.clone(), process.probe_settings.clone())),
        consensus,
        credentials,
        observers,
        poller,
        views,
        service_gate: ServiceGate::default(),
        publication_gate: PublicationGate::of(publishers.iter().map(|publisher| publisher.name()).collect()),
        publishers,
        records: RecordsLock::default(),
    };
    let remembered = remember_and_record_instances(&process, &store, &member).await?;
    let coordinator = start_leader_loops(&process, &member);
    if let Some(documents) = documents {
        start_declarative(&process, &member, &coordinator, documents);
    }
    let draining = CancellationToken::new();
    let serving = start_http(
        &process,
        member,
        coordinator,
        listeners,
        write_access,
        remembered,
        draining.clone(),
    );

    let given_up = tokio::select! {
        () = signals::wait_for_end() => None,
        why = running.given_up() => Some(why),
    };
    shut_down(&process, &running, serving, &draining, &store).await;
    given_up.map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

/// Logs warnings every day.
async fn repeat_warnings(warnings: Vec<String>, stop: CancellationToken) {
    while !warnings.is_empty() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WARNINGS_EVERY) => {}
        }
        for warning in &warnings {
            warn!("{warning}");
        }
    }
}

/// The files and folders with the state of this member.
fn data_files(settings: &Settings) -> DataFiles {
    DataFiles {
        database: match &settings.backend.database {
            BackendDatabase::Sqlite(file) => Some(file.clone()),
            BackendDatabase::MySql(_) => None,
        },
        folder: settings.raft.as_ref().map(|raft| raft.data_dir.clone()),
    }
}

async fn bind_listeners(settings: &Settings) -> anyhow::Result<Listeners> {
    let api = http::bind(&settings.http.listen).await.context("ListenAddress")?;
    let health = match &settings.http.health_listen {
        Some(address) => Some(http::bind(address).await.context("HealthListenAddress")?),
        None => None,
    };
    Ok(Listeners { api, health })
}

/// The write tokens, read again from their file while the process runs; `None` when none are configured.
fn follow_write_tokens(process: &Process) -> Option<Arc<http::WriteAccess>> {
    let file = process.settings.http.write_tokens.clone()?;
    let access = http::WriteAccess::new(file.path, file.tokens);
    let following = Arc::clone(&access);
    process.keep_running("the reading of write tokens", move |stop| {
        Arc::clone(&following).follow(WRITE_TOKENS_EVERY, stop)
    });
    Some(access)
}

/// The prober, the instance cache with what an earlier process observed, and the responder to questions of other members.
async fn open_observers(
    process: &Process,
    store: &BackendStore,
    credentials: watch::Receiver<CredentialsByOrigin>,
) -> anyhow::Result<Observers> {
    let Process { settings, clock, .. } = process;
    let plain: Arc<dyn Prober> = Arc::new(MySqlProber::new(
        credentials,
        process.probe_settings.clone(),
        Arc::clone(clock),
    ));
    let positions = store.load_positions().await?;
    let last_seen = positions
        .iter()
        .map(|position| (position.instance.clone(), position.at));
    let mut instance_cache =
        InstanceCache::new(subsystem_settings::location_patterns(settings)).with_last_seen(last_seen);
    if settings.discovery.probe_sharing.is_on() {
        let shared_probes = SharedProbes::new(settings.discovery.probe_sharing, Arc::clone(clock));
        instance_cache = instance_cache.with_shared_probes(shared_probes);
    }
    let instance_cache = Arc::new(instance_cache);
    let separator = Arc::new(ChannelSeparator::new(plain, Arc::clone(&instance_cache)));
    let prober: Arc<dyn Prober> = Arc::<ChannelSeparator>::clone(&separator);
    let position_history = Arc::new(PositionHistory::of(positions));
    let member_name = settings
        .raft
        .as_ref()
        .map_or_else(|| settings.http.advertise.clone(), |raft| raft.advertise.clone());
    let opinion_responder: Arc<dyn OpinionSource> = Arc::new(OpinionResponder::new(
        Arc::clone(&instance_cache),
        Arc::clone(&prober),
        Arc::clone(clock),
        member_name,
        settings.recovery.member_data_center.clone(),
        Arc::clone(&position_history),
    ));
    let (positions, instances, kept_in) = (position_history, Arc::clone(&instance_cache), Arc::new(store.clone()));
    process.keep_running("the history of positions", move |stop| {
        Arc::clone(&positions).run(Arc::clone(&instances), Arc::<BackendStore>::clone(&kept_in), stop)
    });
    Ok(Observers {
        prober,
        separator,
        instance_cache,
        opinion_responder,
    })
}

/// Follows the accounts of the documents. A member of a group keeps the last known ones on disk.
fn start_accounts(
    process: &Process,
    documents: &Documents,
    consensus: &Arc<dyn Consensus>,
    accounts: watch::Sender<CredentialsByOrigin>,
) {
    let cache = process.settings.raft.as_ref().map(|raft| {
        let cache = CredentialsCache::in_directory(&raft.data_dir);
        (cache, consensus.state())
    });
    let configured = subsystem_settings::configured_account(&process.settings);
    let of_documents = documents.source.credentials();
    process.keep_running("the reading of accounts", move |stop| {
        keep_accounts(
            configured.clone(),
            of_documents.clone(),
            cache.clone(),
            accounts.clone(),
            stop,
        )
    });
}

fn start_polling(
    process: &Process,
    observers: &Observers,
    consensus: &Arc<dyn Consensus>,
    credentials: watch::Receiver<CredentialsByOrigin>,
) -> Arc<Poller> {
    let poller = Poller::new(
        Arc::clone(&observers.instance_cache),
        Arc::clone(&observers.prober),
        Arc::clone(&process.clock),
        subsystem_settings::poll_settings(&process.settings),
        consensus.state(),
        credentials,
        process.stop.child_token(),
    );
    let polling = Arc::clone(&poller);
    process.keep_running("the poller", move |_| Arc::clone(&polling).run());
    if let Some(shared_probes) = observers.instance_cache.shared_probes() {
        let exchange = Arc::new(ObservationExchange {
            shared_probes: Arc::clone(shared_probes),
            instance_cache: Arc::clone(&observers.instance_cache),
            poller: Arc::clone(&poller),
            consensus: Arc::clone(consensus),
            clock: Arc::clone(&process.clock),
        });
        process.keep_running("the exchange of observations", move |stop| {
            Arc::clone(&exchange).run(stop)
        });
    }
    poller
}

/// The views of the clusters, and the loop that stores how their analyses change.
async fn start_views(
    process: &Process,
    store: &BackendStore,
    observers: &Observers,
    consensus: &Arc<dyn Consensus>,
    credentials: &watch::Receiver<CredentialsByOrigin>,
    documents: Option<&Documents>,
) -> anyhow::Result<ClusterViews> {
    let Process { settings, clock, .. } = process;
    let analysis_history = Arc::new(AnalysisHistory::of(store.load_changes().await?));
    let (history, kept_in, its_clock) = (
        Arc::clone(&analysis_history),
        Arc::new(store.clone()),
        Arc::clone(clock),
    );
    let kept_for = settings.backend.changes_for;
    process.keep_running("the history of analyses", move |stop| {
        Arc::clone(&history).run(
            Arc::<BackendStore>::clone(&kept_in),
            Arc::clone(&its_clock),
            kept_for,
            stop,
        )
    });
    let views = ClusterViews::new(
        Arc::clone(&observers.instance_cache),
        consensus.state(),
        Arc::new(settings.policy().map_err(anyhow::Error::msg)?),
        settings.recovery.ignore.clone(),
        Arc::clone(clock),
    )
    .with_accounts(credentials.clone())
    .with_members(Arc::clone(consensus))
    .with_history(analysis_history);
    Ok(match documents {
        Some(documents) => views.with_pods(documents.source.documents()),
        None => views,
    })
}

/// What the backend has of each instance, and the loop that goes on writing it.
async fn remember_and_record_instances(
    process: &Process,
    store: &BackendStore,
    member: &Member,
) -> anyhow::Result<Arc<BTreeMap<InstanceKey, Instance>>> {
    let settings = &process.settings.backend;
    let known = store.load_instances().await?;
    let known: BTreeMap<InstanceKey, Instance> = known
        .into_iter()
        .map(|instance| (instance.key.clone(), instance))
        .collect();
    let remembered = Arc::new(known);
    let recorder = Arc::new(InstanceRecorder::new(
        member.views.clone(),
        Arc::clone(&member.consensus),
        Arc::new(store.clone()),
        Arc::clone(&remembered),
        RecordingSettings {
            interval: settings.instances_every,
            batch: settings.instances_per_write,
            // A member of a raft group has a backend of its own.
            only_leader: process.settings.raft.is_none(),
        },
    ));
    process.keep_running("the writing of observations", move |stop| {
        Arc::clone(&recorder).run(stop)
    });
    Ok(remembered)
}

/// The loops that act only while this member leads: recoveries, quarantines, commit probes, controller locks, Pseudo-GTID, seeds.
fn start_leader_loops(process: &Process, member: &Member) -> Arc<RecoveryCoordinator> {
    let Process { settings, clock, .. } = process;
    let Member {
        consensus,
        views,
        credentials,
        ..
    } = member;
    let instance_cache = &member.observers.instance_cache;
    let hooks = HookRunner::new(
        Arc::new(ShellHooks::new(&settings.hooks.shell, settings.hooks.hidden.clone())),
        settings.hooks.run.clone(),
        Arc::clone(consensus),
        Arc::clone(instance_cache),
        Arc::clone(clock),
    );
    let context = RecoveryContext {
        executor: Arc::<MySqlExecutor>::clone(&member.executor),
        prober: Arc::clone(&member.observers.prober),
        instance_cache: Arc::clone(instance_cache),
        consensus: Arc::clone(consensus),
        credentials: credentials.clone(),
        clock: Arc::clone(clock),
        settings: subsystem_settings::recovery_settings(settings),
        hooks: hooks.clone(),
        service_gate: member.service_gate.clone(),
        publication_gate: member.publication_gate.clone(),
    };
    let opinion_responder = Arc::clone(&member.observers.opinion_responder);
    let coordinator = RecoveryCoordinator::new(context.clone(), views.clone(), opinion_responder);
    let leader = Leader {
        consensus: Arc::clone(consensus),
        instance_cache: Arc::clone(instance_cache),
        views: views.clone(),
        aliases: ClusterAliases(settings.discovery.cluster_aliases.clone()),
        records: member.records.clone(),
        coordinator: Arc::clone(&coordinator),
        quarantine: QuarantineEnforcer::new(context, views.clone(), Arc::clone(&coordinator)),
        hooks,
        clock: Arc::clone(clock),
        unseen: UnseenInstances {
            instance_cache: Arc::clone(instance_cache),
            consensus: Arc::clone(consensus),
            clock: Arc::clone(clock),
            forget_after: settings.backend.changes_for,
            forget_for: subsystem_settings::poll_settings(settings).forget_for,
            reviewed: std::sync::Mutex::default(),
        },
    };
    let leader = Arc::new(leader);
    process.keep_running("the leader's loop", move |stop| Arc::clone(&leader).run(stop));
    if settings.pseudo_gtid.injects {
        let pseudo_gtid_writer = PseudoGtidWriter {
            writer: Arc::<MySqlExecutor>::clone(&member.executor),
            consensus: Arc::clone(consensus),
            instance_cache: Arc::clone(instance_cache),
            views: views.clone(),
            clock: Arc::clone(clock),
        };
        let pseudo_gtid_writer = Arc::new(pseudo_gtid_writer);
        process.keep_running("the Pseudo-GTID writer", move |stop| {
            Arc::clone(&pseudo_gtid_writer).run(stop)
        });
    }
    let commit_stalls = CommitStallMonitor {
        probe: Arc::new(MySqlCommitProbe::new(credentials.clone())),
        consensus: Arc::clone(consensus),
        instance_cache: Arc::clone(instance_cache),
        views: views.clone(),
        clock: Arc::clone(clock),
        settings: settings.recovery.commits.clone(),
    };
    let commit_stalls = Arc::new(commit_stalls);
    process.keep_running("the commit probe", move |stop| Arc::clone(&commit_stalls).run(stop));
    let owners = ControllerLocks {
        locks: Arc::new(MySqlControllerLockClient::new(credentials.clone())),
        views: views.clone(),
        instance_cache: Arc::clone(instance_cache),
        consensus: Arc::clone(consensus),
        clock: Arc::clone(clock),
    };
    let owners = Arc::new(owners);
    process.keep_running("the controller locks", move |stop| Arc::clone(&owners).run(stop));
    let publishing = Arc::new(PrimaryPublishing {
        publishers: member.publishers.clone(),
        consensus: Arc::clone(consensus),
        instance_cache: Arc::clone(instance_cache),
        gate: member.publication_gate.clone(),
    });
    process.keep_running("the publishing of primaries", move |stop| {
        Arc::clone(&publishing).run(stop)
    });
    let (seeds, recorded_by) = (settings.discovery.seeds.clone(), Arc::clone(consensus));
    process.keep_running("the recording of seeds", move |stop| {
        record_seeds(seeds.clone(), Arc::clone(&recorded_by), stop)
    });
    coordinator
}

/// The reconcile of the documents, on views with the reasons that hold recoveries back.
fn start_declarative(process: &Process, member: &Member, coordinator: &Arc<RecoveryCoordinator>, documents: Documents) {
    let coordinator = Arc::clone(coordinator);
    let complete = move |view| coordinator.with_last_attempts(view);
    let (views, keep_current) = member.views.clone().watch(complete, process.stop.child_token());
    process.tasks.spawn(keep_current);
    let reconciler = Reconciler::new(
        Arc::clone(&member.consensus),
        documents.source,
        documents.publisher,
        Arc::clone(&process.clock),
        views,
        member.service_gate.clone(),
    );
    let reconciler = Arc::new(reconciler);
    process.keep_running("the reconciler", move |stop| Arc::clone(&reconciler).run(stop));
}

fn start_http(
    process: &Process,
    member: Member,
    coordinator: Arc<RecoveryCoordinator>,
    listeners: Listeners,
    write_access: Option<Arc<http::WriteAccess>>,
    remembered: Arc<BTreeMap<InstanceKey, Instance>>,
    draining: CancellationToken,
) -> JoinHandle<()> {
    let settings = &process.settings;
    let instance_cache = member.observers.instance_cache;
    let reads = DialedReads::default();
    let errants = ErrantTransactions {
        binlogs: Arc::new(MySqlBinlogReader::new(
            member.credentials,
            process.probe_settings.clone(),
        )),
        poller: Arc::clone(&member.poller),
        views: member.views.clone(),
        coordinator: Arc::clone(&coordinator),
        reads: reads.clone(),
    };
    let relocation = Relocation {
        logs: member.executor,
        marks: settings.pseudo_gtid.marks.clone(),
        poller: Arc::clone(&member.poller),
        instance_cache: Arc::clone(&instance_cache),
        views: member.views.clone(),
        coordinator: Arc::clone(&coordinator),
        reads,
    };
    let service = ApiService {
        consensus: Arc::clone(&member.consensus),
        instance_cache,
        poller: member.poller,
        views: member.views,
        coordinator,
        errants,
        relocation,
        records: member.records,
        publications: PrimaryPublications {
            gate: member.publication_gate,
            prefix: settings.publishers.prefix.clone(),
        },
        clock: Arc::clone(&process.clock),
        forget_for: subsystem_settings::poll_settings(settings).forget_for,
    };
    let context = http::AppContext {
        api: Arc::new(service),
        consensus: member.consensus,
        clock: Arc::clone(&process.clock),
        options: Arc::new(subsystem_settings::http_options(settings, write_access)),
        remembered,
    };
    let serving = process.tasks.spawn(http::serve(
        listeners.api,
        listeners.health,
        context,
        process.listener_limits.clone(),
        draining,
    ));
    info!("serving the API at {}", settings.http.listen);
    if let Some(address) = &settings.http.health_listen {
        info!("serving health and metrics at {address} too");
    }
    serving
}

/// Hands leadership over, leaves the group when scaled away, finishes open requests, and stops the loops, the consensus and the backend.
async fn shut_down(
    process: &Process,
    running: &RunningConsensus,
    serving: JoinHandle<()>,
    draining: &CancellationToken,
    store: &BackendStore,
) {
    info!("stopping: handing over leadership");
    running.consensus.hand_over(HAND_OVER_DEADLINE).await;
    running.leave().await;
    draining.cancel();
    process.stop.cancel();
    process.tasks.close();
    let ended = async {
        if let Err(error) = serving.await {
            warn!("the API failed: {error}");
        }
        process.tasks.wait().await;
        running.shut_down().await;
        store.close().await;
    };
    if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
        warn!(
            "some tasks did not stop within {} s; exiting anyway",
            END_DEADLINE.as_secs()
        );
    }
    info!("stopped");
}
