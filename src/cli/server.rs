//! `ham4db server`: builds the adapters from the configuration, hands them to the use cases, and ends them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::adapter::clock::SystemClock;
use crate::adapter::credentials_cache::CredentialsCache;
use crate::adapter::hooks::ShellHooks;
use crate::adapter::http;
use crate::adapter::kube;
use crate::adapter::manifests::ManifestDirectory;
use crate::adapter::mysql::{
    MySqlBinlogReader, MySqlCommitProbe, MySqlExecutor, MySqlOwnerLocks, MySqlProber, ProbeSettings,
};
use crate::adapter::raft::{MemberDependencies, RaftMember, RaftSettings, Timings};
use crate::adapter::single::Single;
use crate::adapter::store::SqliteStore;
use crate::app::api::errant::ErrantTransactions;
use crate::app::api::relocate::Relocation;
use crate::app::api::service::Service;
use crate::app::cluster::analysis_history::AnalysisLog;
use crate::app::cluster::view::ClusterViews;
use crate::app::declarative::reconciler::Reconciler;
use crate::app::leader::Leader;
use crate::app::leader::cluster_registry::Aliases;
use crate::app::leader::commit_stalls::Commits;
use crate::app::leader::controller_lock::Owners;
use crate::app::leader::pseudo_gtid_writer::PseudoGtidWriter;
use crate::app::observation::instance_cache::{InstanceCache, Places};
use crate::app::observation::poller::Poller;
use crate::app::observation::position_history::PositionHistory;
use crate::app::observation::votes::OpinionResponder;
use crate::app::ports::ChangeStore as _;
use crate::app::ports::PositionStore as _;
use crate::app::ports::cluster_source::ClusterSource;
use crate::app::ports::{Clock, Consensus, Credentials, CredentialsByOrigin, OpinionSource, Prober, StateStore};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::quarantine::QuarantineEnforcer;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::recovery::steps::RecoveryContext;
use crate::app::settings::RecoverySettings;
use crate::config::{self, Environment, Settings};
use crate::domain::declared::ClusterView;
use crate::domain::hooks::HookList;
use crate::domain::intent::Origin;
use crate::domain::policy::TakeoverTerms;
use crate::domain::state::PolicySettings;

use super::seeds::plant_seeds;
use super::{membership, parts, signals};

/// How often the file of write tokens is read: Kubernetes itself takes up to a minute to bring a changed Secret into a pod.
const WRITE_TOKENS_EVERY: Duration = Duration::from_secs(2);
/// How long leadership may take to be handed over at the end.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// For a member that is scaled away to be removed from the group. With the two others, less than the 30 s that Kubernetes leaves.
const LEAVE_DEADLINE: Duration = Duration::from_secs(12);
/// How long everything may take to end after that; then the process ends anyway.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Arguments of `ham4db server`.
#[derive(Debug, Args)]
pub(super) struct ServerArguments {
    /// Configuration file; several are read in order, later ones over earlier ones.
    /// Without it: /etc/ham4db.conf.json, conf/ham4db.conf.json, ham4db.conf.json.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Folder with `MySQLCluster` documents and their Secrets as YAML files; replaces the key `ManifestsDir`.
    #[arg(long, value_name = "DIR", env = "HAM4DB_MANIFESTS")]
    manifests: Option<PathBuf>,
}

pub(super) fn run(arguments: &ServerArguments) -> anyhow::Result<()> {
    let paths = super::parts::configuration_files(&arguments.config);
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

/// The consensus of this process, kept so that it can be ended.
enum RunningConsensus {
    Raft(Arc<RaftMember>),
    Single,
}

#[expect(
    clippy::too_many_lines,
    reason = "how a member is put together reads from top to bottom"
)]
async fn serve(settings: Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store = SqliteStore::open(&settings.backend.sqlite_file)
        .await?
        .keeping_audit_for(settings.backend.audit_for);
    let backend = format!("sqlite {}", settings.backend.sqlite_file.display());

    let listen = settings.http.listen.clone();
    let listener = http::bind(&listen).await.context("ListenAddress")?;
    let health_listener = match &settings.http.health_listen {
        Some(address) => Some(http::bind(address).await.context("HealthListenAddress")?),
        None => None,
    };
    let write_access = settings.http.write_tokens.clone().map(|file| {
        let access = http::WriteAccess::new(file.path, file.tokens);
        tasks.spawn(Arc::clone(&access).follow(WRITE_TOKENS_EVERY, stop.child_token()));
        access
    });

    let cluster = cluster_api(&settings).await?;
    let source = source(&settings, cluster.as_ref(), &stop, &tasks).await?;
    let (accounts, credentials) = watch::channel(own_account(&settings));
    let probe_settings = ProbeSettings {
        lag_query: settings.discovery.lag_query.clone(),
        data_center_query: settings.discovery.data_center.query.clone(),
        region_query: settings.discovery.region.query.clone(),
        environment_query: settings.discovery.environment.query.clone(),
        semi_sync_query: settings.discovery.semi_sync_query.clone(),
        pseudo_gtid_query: settings.pseudo_gtid.query.clone(),
        writes_pseudo_gtid: settings.pseudo_gtid.injects,
        ..ProbeSettings::default()
    };
    let prober: Arc<dyn Prober> = Arc::new(MySqlProber::new(
        credentials.clone(),
        probe_settings.clone(),
        Arc::clone(&clock),
    ));
    let positions = store.load_positions().await?;
    let places = Places {
        data_center: settings.discovery.data_center.pattern.clone(),
        region: settings.discovery.region.pattern.clone(),
        environment: settings.discovery.environment.pattern.clone(),
    };
    let before = positions
        .iter()
        .map(|position| (position.instance.clone(), position.at));
    let instance_cache = Arc::new(InstanceCache::new(places).seen_before(before));
    let memory = Arc::new(PositionHistory::of(positions));
    let name = settings
        .raft
        .as_ref()
        .map_or_else(|| settings.http.advertise.clone(), |raft| raft.advertise.clone());
    let opinion_responder: Arc<dyn OpinionSource> = Arc::new(OpinionResponder::new(
        Arc::clone(&instance_cache),
        Arc::clone(&prober),
        Arc::clone(&clock),
        name,
        settings.recovery.member_data_center.clone(),
        Arc::clone(&memory),
    ));
    tasks.spawn(memory.keep(Arc::clone(&instance_cache), Arc::new(store.clone()), stop.child_token()));

    let (consensus, agreement) = agreement(
        &settings,
        cluster.as_ref(),
        Arc::new(store.clone()),
        Arc::clone(&opinion_responder),
        Arc::clone(&clock),
        &stop,
    )
    .await?;
    if let Some(source) = &source {
        keep_accounts(&settings, source, &consensus, accounts, &stop, &tasks);
    }

    let watch_settings = parts::watch_settings(&settings);
    let poller = Poller::new(
        Arc::clone(&instance_cache),
        Arc::clone(&prober),
        Arc::clone(&clock),
        watch_settings.clone(),
        consensus.state(),
        credentials.clone(),
        stop.child_token(),
    );
    tasks.spawn(Arc::clone(&poller).run());

    let changes = Arc::new(AnalysisLog::of(store.load_changes().await?));
    tasks.spawn(Arc::clone(&changes).keep(
        Arc::new(store.clone()),
        Arc::clone(&clock),
        settings.backend.changes_for,
        stop.child_token(),
    ));
    let policy = Arc::new(policy_settings(&settings)?);
    let mut views = ClusterViews::new(
        Arc::clone(&instance_cache),
        consensus.state(),
        Arc::clone(&policy),
        settings.recovery.ignore.clone(),
        Arc::clone(&clock),
    )
    .with_accounts(credentials.clone())
    .with_members(Arc::clone(&consensus))
    .with_log(Arc::clone(&changes));
    if let Some(source) = &source {
        views = views.with_pods(source.documents());
    }
    let credentials_for_locks = credentials.clone();
    let credentials_for_commits = credentials.clone();
    let hooks = HookRunner::new(
        Arc::new(ShellHooks::new(&settings.hooks.shell, settings.hooks.hidden.clone())),
        settings.hooks.run.clone(),
        Arc::clone(&consensus),
        Arc::clone(&instance_cache),
        Arc::clone(&clock),
    );
    let binlogs = Arc::new(MySqlBinlogReader::new(credentials.clone(), probe_settings.clone()));
    let servers = Arc::new(MySqlExecutor::new(credentials.clone(), probe_settings));
    let service_gate = ServiceGate::default();
    let shop = RecoveryContext {
        executor: Arc::<MySqlExecutor>::clone(&servers),
        prober: Arc::clone(&prober),
        instance_cache: Arc::clone(&instance_cache),
        consensus: Arc::clone(&consensus),
        credentials,
        clock: Arc::clone(&clock),
        settings: RecoverySettings {
            quorum: settings.recovery.quorum,
            concurrency: settings.recovery.concurrency,
            pseudo_gtid: settings.pseudo_gtid.marks.clone(),
            epoch_table: settings.recovery.epoch_table.clone(),
            ..RecoverySettings::default()
        },
        hooks: hooks.clone(),
        service_gate: service_gate.clone(),
    };
    let coordinator = RecoveryCoordinator::new(shop.clone(), views.clone(), opinion_responder);
    let guard = QuarantineEnforcer::new(shop, views.clone(), Arc::clone(&coordinator));
    let leader = Leader {
        consensus: Arc::clone(&consensus),
        instance_cache: Arc::clone(&instance_cache),
        views: views.clone(),
        aliases: Aliases(settings.discovery.cluster_aliases.clone()),
        coordinator: Arc::clone(&coordinator),
        guard,
        hooks,
    };
    tasks.spawn(leader.run(stop.child_token()));
    if settings.pseudo_gtid.injects {
        let injector = PseudoGtidWriter {
            writer: Arc::<MySqlExecutor>::clone(&servers),
            consensus: Arc::clone(&consensus),
            instance_cache: Arc::clone(&instance_cache),
            views: views.clone(),
            clock: Arc::clone(&clock),
        };
        tasks.spawn(injector.run(stop.child_token()));
    }
    let commits = Commits {
        looks: Arc::new(MySqlCommitProbe::new(credentials_for_commits)),
        consensus: Arc::clone(&consensus),
        instance_cache: Arc::clone(&instance_cache),
        views: views.clone(),
        clock: Arc::clone(&clock),
        settings: settings.recovery.commits.clone(),
    };
    tasks.spawn(commits.run(stop.child_token()));
    let owners = Owners {
        locks: Arc::new(MySqlOwnerLocks::new(credentials_for_locks)),
        views: views.clone(),
        instance_cache: Arc::clone(&instance_cache),
        consensus: Arc::clone(&consensus),
        clock: Arc::clone(&clock),
    };
    tasks.spawn(owners.run(stop.child_token()));
    tasks.spawn(plant_seeds(
        settings.clone(),
        Arc::clone(&consensus),
        stop.child_token(),
    ));
    if let Some(source) = source {
        let shown = show_views(
            views.clone(),
            Arc::clone(&coordinator),
            Arc::clone(&instance_cache),
            Arc::clone(&consensus),
            &stop,
            &tasks,
        );
        tasks.spawn(
            Reconciler::new(Arc::clone(&consensus), source, Arc::clone(&clock), shown, service_gate)
                .run(stop.child_token()),
        );
    }

    let errants = ErrantTransactions {
        binlogs,
        poller: Arc::clone(&poller),
        views: views.clone(),
        coordinator: Arc::clone(&coordinator),
    };
    let placing = Relocation {
        logs: servers,
        marks: settings.pseudo_gtid.marks.clone(),
        poller: Arc::clone(&poller),
        instance_cache: Arc::clone(&instance_cache),
        views: views.clone(),
        coordinator: Arc::clone(&coordinator),
    };
    let service = Service {
        errants,
        placing,
        consensus: Arc::clone(&consensus),
        instance_cache,
        poller,
        views,
        coordinator,
        settings: policy,
        clock: Arc::clone(&clock),
        forget_for: watch_settings.forget_for,
    };
    let context = http::AppContext {
        api: Arc::new(service),
        consensus: Arc::clone(&consensus),
        clock,
        options: Arc::new(parts::http_options(&settings, write_access, backend)),
    };
    let draining = CancellationToken::new();
    let serving = tasks.spawn(http::serve(listener, health_listener, context, draining.clone()));
    info!("serving the API at {listen}");
    if let Some(address) = &settings.http.health_listen {
        info!("serving health and metrics at {address} too");
    }

    signals::wait_for_end().await;
    info!("ending: handing over leadership");
    consensus.hand_over(HAND_OVER_DEADLINE).await;
    if let RunningConsensus::Raft(member) = &agreement
        && !member.leave(LEAVE_DEADLINE).await
    {
        warn!(
            "this member is wanted no longer, and was not removed from the group within {} s: ending anyway",
            LEAVE_DEADLINE.as_secs()
        );
    }
    draining.cancel();
    stop.cancel();
    tasks.close();
    let ended = async {
        if let Err(error) = serving.await {
            warn!("the API ended badly: {error}");
        }
        tasks.wait().await;
        if let RunningConsensus::Raft(member) = &agreement {
            member.shutdown().await;
        }
        store.close().await;
    };
    if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
        warn!("not everything ended within {} s", END_DEADLINE.as_secs());
    }
    info!("ended");
    Ok(())
}

async fn agreement(
    settings: &Settings,
    cluster: Option<&kube::Client>,
    store: Arc<dyn StateStore>,
    opinion_responder: Arc<dyn OpinionSource>,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<dyn Consensus>, RunningConsensus)> {
    let Some(raft) = &settings.raft else {
        let single = Single::start(&settings.http.advertise, &settings.http.advertise, store, clock).await?;
        return Ok((single, RunningConsensus::Single));
    };
    let membership = membership::of(settings, raft, cluster, stop);
    let mut around = MemberDependencies::new(store, opinion_responder, clock, membership.wanted);
    around.marker = membership.marker;
    let listener = http::bind(&raft.bind).await.context("RaftBind")?;
    let raft_settings = RaftSettings {
        name: membership.name,
        raft_address: raft.advertise.clone(),
        http_uri: settings.http.advertise.clone(),
        data_dir: raft.data_dir.clone(),
        founders: membership.founders,
        data_center: settings.recovery.member_data_center.clone(),
        group_key: raft.group_key.clone(),
        timings: Timings {
            heartbeat: raft.heartbeat,
            election_min: raft.election_min,
            election_max: raft.election_max,
            ..Timings::default()
        },
    };
    let member = RaftMember::start(raft_settings, around, listener).await?;
    Ok((
        Arc::clone(&member) as Arc<dyn Consensus>,
        RunningConsensus::Raft(member),
    ))
}

/// A client of the Kubernetes API, where the configuration asks for one.
async fn cluster_api(settings: &Settings) -> anyhow::Result<Option<kube::Client>> {
    let needed = settings.kubernetes.enabled || settings.raft.as_ref().is_some_and(|raft| raft.stateful_set.is_some());
    if needed {
        Ok(Some(kube::connect().await.context("Kubernetes.Enabled")?))
    } else {
        Ok(None)
    }
}

async fn source(
    settings: &Settings,
    cluster: Option<&kube::Client>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Option<Arc<dyn ClusterSource>>> {
    match (&settings.manifests, cluster.filter(|_| settings.kubernetes.enabled)) {
        (Some(_), Some(_)) => anyhow::bail!(
            "documents come from one place: set ManifestsDir (--manifests) or Kubernetes.Enabled, not both"
        ),
        (None, None) => Ok(None),
        (Some(folder), None) => {
            let directory = ManifestDirectory::new(folder);
            directory.look().await;
            tasks.spawn(Arc::clone(&directory).run(stop.child_token()));
            info!("documents: folder {}", folder.display());
            Ok(Some(directory))
        }
        (None, Some(client)) => {
            let own = if settings.kubernetes.namespace.is_empty() {
                kube::own_namespace(client).to_owned()
            } else {
                settings.kubernetes.namespace.clone()
            };
            let scope = match settings.kubernetes.watch_namespaces.as_slice() {
                [] => kube::Scope::Namespaces(BTreeSet::from([own])),
                names if names.iter().any(|name| name == "*") => kube::Scope::AllNamespaces,
                names => kube::Scope::Namespaces(names.iter().cloned().collect()),
            };
            info!("documents: {scope}");
            let follows = kube::Follows {
                drains: settings.kubernetes.drain,
                role_labels: settings.kubernetes.pod_role_labels,
            };
            let source = kube::KubeSource::with(client.clone(), scope, follows);
            tasks.spawn(Arc::clone(&source).run(stop.child_token()));
            Ok(Some(source))
        }
    }
}

/// The account of the configuration, under origin `api`.
fn own_account(settings: &Settings) -> CredentialsByOrigin {
    Arc::new(
        settings
            .topology
            .credentials()
            .map(|own| (Origin::Api, own))
            .into_iter()
            .collect(),
    )
}

/// Passes on the accounts of the documents, with the last known ones while their source is away, beside the configuration's own.
fn keep_accounts(
    settings: &Settings,
    source: &Arc<dyn ClusterSource>,
    consensus: &Arc<dyn Consensus>,
    accounts: watch::Sender<CredentialsByOrigin>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let own = own_account(settings);
    let (kept, mut documents) = watch::channel(CredentialsByOrigin::default());
    match &settings.raft {
        Some(raft) => {
            let cache = CredentialsCache::in_directory(&raft.data_dir);
            tasks.spawn(cache.run(source.credentials(), consensus.state(), kept, stop.child_token()));
        }
        None => documents = source.credentials(),
    }
    let stop = stop.child_token();
    tasks.spawn(async move {
        loop {
            let mut all: BTreeMap<Origin, Credentials> = documents.borrow_and_update().as_ref().clone();
            all.extend(own.iter().map(|(origin, account)| (origin.clone(), account.clone())));
            accounts.send_replace(Arc::new(all));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = documents.changed() => if changed.is_err() { return },
            }
        }
    });
}

fn policy_settings(settings: &Settings) -> anyhow::Result<PolicySettings> {
    let recovery = &settings.recovery;
    let promotion = &recovery.promotion;
    Ok(PolicySettings {
        recover_primary_filters: recovery.primaries.filters().to_vec(),
        recover_locked_semi_sync: recovery.recover_locked_semi_sync,
        recover_intermediate_filters: recovery.intermediates.filters().to_vec(),
        promotion_ignore: promotion.ignore.patterns().to_vec(),
        block_millis: u64::try_from(recovery.block.as_millis()).context("RecoveryPeriodBlockSeconds")?,
        recover_non_writable_primary: recovery.recover_non_writable_primary,
        must_promote_other_co_primary: recovery.must_promote_other_co_primary,
        enforce_exact_semi_sync: recovery.enforce_exact_semi_sync,
        locked_semi_sync_millis: recovery.locked_semi_sync.as_secs() * 1000,
        stalled: recovery.stalled,
        stalled_timeout_millis: u64::try_from(recovery.stalled_timeout.as_millis()).context("StalledPrimarySeconds")?,
        reasonable_lag_seconds: settings.discovery.reasonable_lag.as_secs(),
        boot_read_only: recovery.boot_read_only,
        durability: recovery.durability,
        loss: promotion.loss,
        loss_timeout_millis: u64::try_from(promotion.loss_timeout.as_millis()).context("LossTimeoutSeconds")?,
        max_promotion_lag_seconds: promotion.max_lag.as_secs(),
        unapplied: promotion.unapplied,
        prevent_cross_data_center: promotion.prevent_cross_data_center,
        prevent_cross_region: promotion.prevent_cross_region,
        pseudo_gtid: settings.pseudo_gtid.marks.is_some(),
        takeover: TakeoverTerms {
            lag_seconds: settings.discovery.maintenance_lag.as_secs(),
            transaction_wait_millis: u64::try_from(recovery.transaction_wait.as_millis())
                .context("TakeoverTransactionWaitSeconds")?,
            ends_transactions: recovery.ends_transactions,
        },
        fences_outside: settings.hooks.run.lists.contains_key(&HookList::Fencing),
        ..PolicySettings::default()
    })
}

/// ClusterViews for the documents' status, made anew whenever something changed.
fn show_views(
    views: ClusterViews,
    coordinator: Arc<RecoveryCoordinator>,
    instance_cache: Arc<InstanceCache>,
    consensus: Arc<dyn Consensus>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> watch::Receiver<Arc<Vec<ClusterView>>> {
    let shown = move || {
        let all = views.clusters().into_iter().map(|view| {
            let called_for = view
                .findings
                .iter()
                .filter(|judged| judged.finding.code.is_actionable());
            let held_back = called_for.filter_map(|judged| {
                judged
                    .held_back
                    .clone()
                    .or_else(|| coordinator.held_back(&judged.finding.instance))
            });
            ClusterView {
                held_back: held_back.map(|why| why.to_string()).collect(),
                findings: view.findings.iter().map(|judged| judged.finding.clone()).collect(),
                cluster: view.cluster,
                topology: view.topology,
                policy: view.policy,
            }
        });
        Arc::new(all.collect::<Vec<_>>())
    };
    let (sender, receiver) = watch::channel(shown());
    let stop = stop.child_token();
    tasks.spawn(async move {
        let mut changes = instance_cache.changes();
        let mut state = consensus.state();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            sender.send_replace(shown());
        }
    });
    receiver
}
