//! `ham4db server`: builds the adapters from the configuration, connects them to the use cases, and stops them in order.

use std::io;
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
use crate::adapter::credentials_cache::{CredentialsCache, keep_accounts};
use crate::adapter::hooks::ShellHooks;
use crate::adapter::http;
use crate::adapter::mysql::{
    MySqlBinlogReader, MySqlCommitProbe, MySqlControllerLockClient, MySqlExecutor, MySqlProber,
};
use crate::adapter::store::SqliteStore;
use crate::app::api::errant::ErrantTransactions;
use crate::app::api::relocate::Relocation;
use crate::app::api::service::ApiService;
use crate::app::cluster::analysis_history::AnalysisHistory;
use crate::app::cluster::view::ClusterViews;
use crate::app::declarative::reconciler::Reconciler;
use crate::app::leader::Leader;
use crate::app::leader::cluster_registry::ClusterAliases;
use crate::app::leader::commit_stalls::CommitStallMonitor;
use crate::app::leader::controller_lock::ControllerLocks;
use crate::app::leader::pseudo_gtid_writer::PseudoGtidWriter;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::position_history::PositionHistory;
use crate::app::observation::votes::OpinionResponder;
use crate::app::ports::{ChangeStore as _, PositionStore as _};
use crate::app::ports::{Consensus, CredentialsByOrigin, OpinionSource, Prober};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::recovery::steps::RecoveryContext;
use crate::config::settings::BackendSettings;
use crate::config::{self, Environment, Settings};

use super::consensus::{RunningConsensus, start_consensus};
use super::documents::{Documents, connect_kubernetes, open_documents};
use super::process::Process;
use super::seeds::record_seeds;
use super::{signals, subsystem_settings};

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
    for path in &paths {
        info!("configuration: {}", path.display());
    }
    for warning in &settings.warnings {
        warn!("{warning}");
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
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let process = Process {
        probe_settings: subsystem_settings::probe_settings(&settings),
        settings,
        clock: Arc::new(SystemClock::default()),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let store = open_backend(&process.settings.backend).await?;
    let listeners = bind_listeners(&process.settings).await?;
    let write_access = follow_write_tokens(&process);
    let client = connect_kubernetes(&process.settings).await?;
    let documents = open_documents(&process, client.as_ref()).await?;
    let (accounts, credentials) = watch::channel(subsystem_settings::configured_account(&process.settings));
    let observers = open_observers(&process, &store, credentials.clone()).await?;
    let opinion_responder = Arc::clone(&observers.opinion_responder);
    let running = start_consensus(&process, client.as_ref(), Arc::new(store.clone()), opinion_responder).await?;
    let consensus = Arc::clone(&running.consensus);
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
    let member = Member {
        executor: Arc::new(MySqlExecutor::new(credentials.clone(), process.probe_settings.clone())),
        consensus,
        credentials,
        observers,
        poller,
        views,
        service_gate: ServiceGate::default(),
    };
    let coordinator = start_leader_loops(&process, &member);
    if let Some(documents) = documents {
        start_declarative(&process, &member, &coordinator, documents);
    }
    let draining = CancellationToken::new();
    let serving = start_http(&process, member, coordinator, listeners, write_access, draining.clone());

    signals::wait_for_end().await;
    shut_down(&process, &running, serving, &draining, &store).await;
    Ok(())
}

async fn open_backend(settings: &BackendSettings) -> anyhow::Result<SqliteStore> {
    Ok(SqliteStore::open(&settings.sqlite_file)
        .await?
        .with_audit_retention(settings.audit_for))
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
    process
        .tasks
        .spawn(Arc::clone(&access).follow(WRITE_TOKENS_EVERY, process.stop.child_token()));
    Some(access)
}

/// The prober, the instance cache with what an earlier process observed, and the responder to questions of other members.
async fn open_observers(
    process: &Process,
    store: &SqliteStore,
    credentials: watch::Receiver<CredentialsByOrigin>,
) -> anyhow::Result<Observers> {
    let Process { settings, clock, .. } = process;
    let prober: Arc<dyn Prober> = Arc::new(MySqlProber::new(
        credentials,
        process.probe_settings.clone(),
        Arc::clone(clock),
    ));
    let positions = store.load_positions().await?;
    let last_seen = positions
        .iter()
        .map(|position| (position.instance.clone(), position.at));
    let instance_cache =
        Arc::new(InstanceCache::new(subsystem_settings::location_patterns(settings)).with_last_seen(last_seen));
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
    process.tasks.spawn(position_history.run(
        Arc::clone(&instance_cache),
        Arc::new(store.clone()),
        process.stop.child_token(),
    ));
    Ok(Observers {
        prober,
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
    process.tasks.spawn(keep_accounts(
        subsystem_settings::configured_account(&process.settings),
        documents.source.credentials(),
        cache,
        accounts,
        process.stop.child_token(),
    ));
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
    process.tasks.spawn(Arc::clone(&poller).run());
    poller
}

/// The views of the clusters, and the loop that stores how their analyses change.
async fn start_views(
    process: &Process,
    store: &SqliteStore,
    observers: &Observers,
    consensus: &Arc<dyn Consensus>,
    credentials: &watch::Receiver<CredentialsByOrigin>,
    documents: Option<&Documents>,
) -> anyhow::Result<ClusterViews> {
    let Process { settings, clock, .. } = process;
    let analysis_history = Arc::new(AnalysisHistory::of(store.load_changes().await?));
    process.tasks.spawn(Arc::clone(&analysis_history).run(
        Arc::new(store.clone()),
        Arc::clone(clock),
        settings.backend.changes_for,
        process.stop.child_token(),
    ));
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

/// The loops that act only while this member leads: recoveries, quarantines, commit probes, controller locks, Pseudo-GTID, seeds.
fn start_leader_loops(process: &Process, member: &Member) -> Arc<RecoveryCoordinator> {
    let Process {
        settings,
        clock,
        stop,
        tasks,
        ..
    } = process;
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
    };
    let opinion_responder = Arc::clone(&member.observers.opinion_responder);
    let coordinator = RecoveryCoordinator::new(context.clone(), views.clone(), opinion_responder);
    let leader = Leader {
        consensus: Arc::clone(consensus),
        instance_cache: Arc::clone(instance_cache),
        views: views.clone(),
        aliases: ClusterAliases(settings.discovery.cluster_aliases.clone()),
        coordinator: Arc::clone(&coordinator),
        quarantine: QuarantineEnforcer::new(context, views.clone(), Arc::clone(&coordinator)),
        hooks,
    };
    tasks.spawn(leader.run(stop.child_token()));
    if settings.pseudo_gtid.injects {
        let pseudo_gtid_writer = PseudoGtidWriter {
            writer: Arc::<MySqlExecutor>::clone(&member.executor),
            consensus: Arc::clone(consensus),
            instance_cache: Arc::clone(instance_cache),
            views: views.clone(),
            clock: Arc::clone(clock),
        };
        tasks.spawn(pseudo_gtid_writer.run(stop.child_token()));
    }
    let commit_stalls = CommitStallMonitor {
        probe: Arc::new(MySqlCommitProbe::new(credentials.clone())),
        consensus: Arc::clone(consensus),
        instance_cache: Arc::clone(instance_cache),
        views: views.clone(),
        clock: Arc::clone(clock),
        settings: settings.recovery.commits.clone(),
    };
    tasks.spawn(commit_stalls.run(stop.child_token()));
    let owners = ControllerLocks {
        locks: Arc::new(MySqlControllerLockClient::new(credentials.clone())),
        views: views.clone(),
        instance_cache: Arc::clone(instance_cache),
        consensus: Arc::clone(consensus),
        clock: Arc::clone(clock),
    };
    tasks.spawn(owners.run(stop.child_token()));
    let seeds = settings.discovery.seeds.clone();
    tasks.spawn(record_seeds(seeds, Arc::clone(consensus), stop.child_token()));
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
    process.tasks.spawn(reconciler.run(process.stop.child_token()));
}

fn start_http(
    process: &Process,
    member: Member,
    coordinator: Arc<RecoveryCoordinator>,
    listeners: Listeners,
    write_access: Option<Arc<http::WriteAccess>>,
    draining: CancellationToken,
) -> JoinHandle<io::Result<()>> {
    let settings = &process.settings;
    let instance_cache = member.observers.instance_cache;
    let errants = ErrantTransactions {
        binlogs: Arc::new(MySqlBinlogReader::new(
            member.credentials,
            process.probe_settings.clone(),
        )),
        poller: Arc::clone(&member.poller),
        views: member.views.clone(),
        coordinator: Arc::clone(&coordinator),
    };
    let relocation = Relocation {
        logs: member.executor,
        marks: settings.pseudo_gtid.marks.clone(),
        poller: Arc::clone(&member.poller),
        instance_cache: Arc::clone(&instance_cache),
        views: member.views.clone(),
        coordinator: Arc::clone(&coordinator),
    };
    let service = ApiService {
        consensus: Arc::clone(&member.consensus),
        instance_cache,
        poller: member.poller,
        views: member.views,
        coordinator,
        errants,
        relocation,
        clock: Arc::clone(&process.clock),
        forget_for: subsystem_settings::poll_settings(settings).forget_for,
    };
    let context = http::AppContext {
        api: Arc::new(service),
        consensus: member.consensus,
        clock: Arc::clone(&process.clock),
        options: Arc::new(subsystem_settings::http_options(settings, write_access)),
    };
    let serving = process
        .tasks
        .spawn(http::serve(listeners.api, listeners.health, context, draining));
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
    serving: JoinHandle<io::Result<()>>,
    draining: &CancellationToken,
    store: &SqliteStore,
) {
    info!("stopping: handing over leadership");
    running.consensus.hand_over(HAND_OVER_DEADLINE).await;
    running.leave().await;
    draining.cancel();
    process.stop.cancel();
    process.tasks.close();
    let ended = async {
        let served = serving.await.map_err(io::Error::other).and_then(|served| served);
        if let Err(error) = served {
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
