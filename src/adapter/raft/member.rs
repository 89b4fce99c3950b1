//! One member: what its parts share, and its lives.
//!
//! A life is one raft log under one id. A member that was removed from its group, or lost its log, ends that life and begins another one
//! under a new id, in the same process.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::force::ForceRequest;
use super::health::Liveness;
use super::identity::{self, MemberIdentity, Standing};
use super::listener::StoppableListener;
use super::log_store::{LogOwner, LogStore};
use super::network::Dialer;
use super::settings::{BootstrapStep, MemberDependencies, RaftSettings, Wanted};
use super::state_machine::{BackendError, BackendTrouble};
use super::throttle::Throttle;
use super::types::{MemberNode, Raft};
use super::{bootstrap, incarnation, server};
use crate::app::ports::{Leadership, StoreError};
use crate::domain::state::{MemberId, State};

/// Pause after a life that could not begin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long connections get to notice that the member stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("RaftDataDir: {0}")]
    DataDirectory(#[source] io::Error),
    /// The backend cannot be read, or belongs to another group.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The HTTP client for peers cannot be made.
    #[error(transparent)]
    Network(io::Error),
}

/// A running raft log under one id.
pub(super) struct RaftIncarnation {
    pub(super) raft: Raft,
    pub(super) own: LogOwner,
    pub(super) log: LogStore,
    pub(super) trouble: BackendTrouble,
    pub(super) liveness: Liveness,
    /// Until then no vote is given: a leader elected before the restart may still have its lease.
    pub(super) quiet_until: Instant,
}

/// What the parts of a member share.
pub(super) struct Shared {
    pub(super) settings: RaftSettings,
    pub(super) node: MemberNode,
    pub(super) around: MemberDependencies,
    pub(super) dialer: Dialer,
    pub(super) incarnation: ArcSwapOption<RaftIncarnation>,
    pub(super) state: watch::Sender<Arc<State>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) throttle: Throttle,
    /// Wakes the founding or joining member: its standing changed.
    pub(super) standing_changed: Notify,
    /// Wakes the leader's membership work.
    pub(super) membership_wanted: Notify,
    /// Members that stored their id and wait to be let in.
    pub(super) waiting: Mutex<BTreeMap<MemberId, MemberNode>>,
    pub(super) stop: CancellationToken,
    /// The group of the backend as it was found at the start.
    pub(super) backend_group: Option<String>,
    identity: Mutex<Option<MemberIdentity>>,
    /// One change of identity at a time: the founder's assignment and our own founding must not cross.
    pub(super) identity_change: tokio::sync::Mutex<()>,
    situation: Mutex<String>,
    failed: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a life, or an attempt to begin one, ended.
pub(super) enum IncarnationEnd {
    /// The member begins another one.
    Again,
    /// A leader confirmed that this id is no member any more.
    Removed(MemberIdentity),
    /// A person asked that the group goes on with this member alone, and nothing speaks against it.
    Forced(ForceRequest),
    /// The member is told to stop, or halted by a test.
    Stopped,
    /// The member cannot go on.
    Failed(String),
}

impl Shared {
    pub(super) fn identity(&self) -> Option<MemberIdentity> {
        locked(&self.identity).clone()
    }

    /// Makes an identity durable, then valid. Call with `identity_change` held.
    pub(super) fn put_identity(&self, identity: MemberIdentity) -> io::Result<()> {
        identity.save(&self.settings.data_dir)?;
        *locked(&self.identity) = Some(identity);
        Ok(())
    }

    pub(super) fn set_identity(&self, identity: Option<MemberIdentity>) {
        *locked(&self.identity) = identity;
    }

    /// Why this member is not healthy, while no log runs.
    pub(super) fn situation(&self) -> String {
        locked(&self.situation).clone()
    }

    /// Says what the member waits for: in its health, and in the log when it is new or was said long ago.
    pub(super) fn set_situation(&self, text: &str) {
        text.clone_into(&mut locked(&self.situation));
        if let Some(times) = self.throttle.admit(text) {
            tracing::info!("raft member {}: {text}{times}", self.settings.name);
        }
    }

    /// The member cannot go on: nothing is applied, voted or proposed any more.
    pub(super) fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            tracing::error!("raft member {} stops: {why}", self.settings.name);
            why.clone_into(&mut locked(&self.situation));
        }
    }

    /// Why the member cannot go on.
    pub(super) fn failure(&self) -> Option<String> {
        self.failed.load(Ordering::SeqCst).then(|| self.situation())
    }

    /// Whether the bootstrap may go on after this step.
    pub(super) fn passed(&self, step: &BootstrapStep) -> bool {
        self.around.witness.passed(step)
    }

    /// Who should be a member now; the founders as long as nothing else was said.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let wanted = self.around.wanted.borrow().clone();
        if wanted.is_empty() {
            self.settings.founders.clone()
        } else {
            wanted
        }
    }

    /// Everybody who is wanted or founded the group, but this member.
    pub(super) fn wanted_peers(&self) -> Vec<MemberNode> {
        let mut peers = self.wanted();
        for founder in &self.settings.founders {
            if peers.iter().all(|peer| peer.name != founder.name) {
                peers.push(founder.clone());
            }
        }
        peers.retain(|peer| peer.name != self.settings.name);
        peers.into_iter().map(MemberNode::from).collect()
    }
}

/// A member of a group. Dropping it does not stop it: call [`Self::shutdown`].
pub struct RaftMember {
    pub(super) shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for RaftMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftMember")
            .field("name", &self.shared.settings.name)
            .finish_non_exhaustive()
    }
}

impl RaftMember {
    /// Answers peers on `listener` from now on, and founds, joins or resumes the group in the background. Until that is done
    /// the member is unhealthy, and says why.
    ///
    /// # Errors
    /// When the data directory or the backend cannot be used, or the backend belongs to another group.
    pub async fn start(
        mut settings: RaftSettings,
        around: MemberDependencies,
        listener: TcpListener,
    ) -> Result<Arc<Self>, StartError> {
        let node = MemberNode {
            name: settings.name.clone(),
            raft_address: settings.raft_address.clone(),
            http_uri: settings.http_uri.clone(),
        };
        if settings.founders.is_empty() {
            let MemberNode {
                name,
                raft_address,
                http_uri,
            } = node.clone();
            settings.founders = vec![Wanted {
                name,
                raft_address,
                http_uri,
            }];
        }
        let standing = identity::examine(&settings.data_dir)
            .await
            .map_err(StartError::DataDirectory)?;
        let found = match &standing {
            Standing::Pristine => None,
            Standing::Wiped(identity) | Standing::Member(identity) => Some(identity.clone()),
        };
        let (_, mark) = around.store.load().await.map_err(BackendError::from)?;
        if let Some(identity) = &found
            && !mark.group_uuid.is_empty()
            && mark.group_uuid != identity.cluster_uuid
        {
            return Err(BackendError::OtherGroup {
                found: mark.group_uuid,
                wanted: identity.cluster_uuid.clone(),
            }
            .into());
        }
        let dialer = Dialer::new(&settings, &around).map_err(StartError::Network)?;
        let shared = Arc::new(Shared {
            node,
            dialer,
            incarnation: ArcSwapOption::empty(),
            state: watch::Sender::new(Arc::default()),
            leadership: watch::Sender::default(),
            throttle: Throttle::default(),
            standing_changed: Notify::new(),
            membership_wanted: Notify::new(),
            waiting: Mutex::default(),
            stop: CancellationToken::new(),
            backend_group: Some(mark.group_uuid).filter(|uuid| !uuid.is_empty()),
            identity: Mutex::new(found),
            identity_change: tokio::sync::Mutex::default(),
            situation: Mutex::new("starting".to_owned()),
            failed: AtomicBool::new(false),
            settings,
            around,
        });
        let tasks = TaskTracker::new();
        let listener = StoppableListener::new(listener, shared.stop.clone());
        let served = axum::serve(listener, server::router(shared.clone()))
            .with_graceful_shutdown(shared.stop.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!("the peer RPC stops: {error}");
            }
        });
        tasks.spawn(live(shared.clone()));
        tasks.close();
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Waits until the group has let go of this member, if it is wanted no longer; it has to answer for that. To be called before
    /// [`Self::shutdown`]. `false`: it is a voter still after the deadline, and its end may take the quorum.
    pub async fn leave(&self, deadline: Duration) -> bool {
        super::self_join::leave(&self.shared, deadline).await
    }

    /// Stops: no connection, no task and no open file is left. Leadership is not handed over; do that before.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "raft member {}: some tasks have not ended after {} s",
                self.shared.settings.name,
                STOP_DEADLINE.as_secs()
            );
        }
    }

    /// Why this member stopped for good, if it did: a command that it does not understand, or storage that does not work.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Makes a snapshot and drops the log entries that it covers, but for those kept for lagging members.
    ///
    /// # Errors
    /// When no log runs.
    pub async fn snapshot_now(&self) -> Result<(), String> {
        let incarnation = self
            .shared
            .incarnation
            .load_full()
            .ok_or_else(|| self.shared.situation())?;
        incarnation
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| error.to_string())
    }
}

async fn live(shared: Arc<Shared>) {
    loop {
        let end = match one_incarnation(&shared).await {
            Ok(end) => end,
            Err(error) => {
                shared.set_situation(&error.to_string());
                tokio::select! {
                    () = shared.stop.cancelled() => IncarnationEnd::Stopped,
                    () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => IncarnationEnd::Again,
                }
            }
        };
        match end {
            IncarnationEnd::Again | IncarnationEnd::Removed(_) | IncarnationEnd::Forced(_)
                if !shared.stop.is_cancelled() => {}
            IncarnationEnd::Again
            | IncarnationEnd::Removed(_)
            | IncarnationEnd::Forced(_)
            | IncarnationEnd::Stopped => return,
            IncarnationEnd::Failed(why) => return shared.fail(&why),
        }
    }
}

async fn one_incarnation(shared: &Arc<Shared>) -> io::Result<IncarnationEnd> {
    let standing = {
        let _changing = shared.identity_change.lock().await;
        let standing = identity::examine(&shared.settings.data_dir).await?;
        shared.set_identity(match &standing {
            Standing::Pristine => None,
            Standing::Wiped(identity) | Standing::Member(identity) => Some(identity.clone()),
        });
        standing
    };
    match standing {
        Standing::Pristine | Standing::Wiped(_) => bootstrap::find_group(shared).await,
        Standing::Member(identity) => match bootstrap::prepare_founding(shared, &identity).await? {
            Some(end) => Ok(end),
            None => incarnation::run(shared, identity).await,
        },
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Backend(BackendError::Store(error))
    }
}
