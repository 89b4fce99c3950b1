//! One member and its incarnations.
//!
//! An incarnation is one raft log under one id. A member that was removed from its group, or lost its log, ends its incarnation and
//! begins another one under a new id, in the same process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::bootstrap;
use super::context::{IncarnationEnd, MemberContext};
use super::identity::{self, DirectoryState};
use super::incarnation;
use super::self_join;
use super::server;
use super::settings::{MemberDependencies, RaftSettings, WantedMember};
use super::state_machine::BackendError;
use super::types::MemberNode;
use crate::adapter::connections;
use crate::app::ports::StoreError;
use crate::app::supervision;

/// Pause after an incarnation that could not begin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long shutdown waits for connections and tasks.
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

/// A member of a group. Dropping it does not stop it: call [`Self::shutdown`].
pub struct RaftMember {
    pub(super) context: Arc<MemberContext>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for RaftMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftMember")
            .field("name", &self.context.settings.name)
            .finish_non_exhaustive()
    }
}

impl RaftMember {
    /// Answers peers on `listener` from now on, and founds, joins or resumes the group in the background. Until then the member is
    /// unhealthy, with the reason.
    ///
    /// # Errors
    /// When the data directory or the backend cannot be used, or the backend belongs to another group.
    pub async fn start(
        mut settings: RaftSettings,
        dependencies: MemberDependencies,
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
            settings.founders = vec![WantedMember {
                name,
                raft_address,
                http_uri,
            }];
        }
        let found = identity::examine(&settings.data_dir)
            .await
            .map_err(StartError::DataDirectory)?;
        let identity = match &found {
            DirectoryState::Pristine => None,
            DirectoryState::Wiped(identity) | DirectoryState::Member(identity) => Some(identity.clone()),
        };
        let (_, mark) = dependencies.store.load().await.map_err(BackendError::from)?;
        if let Some(identity) = &identity
            && !mark.group_uuid.is_empty()
            && mark.group_uuid != identity.cluster_uuid
        {
            return Err(BackendError::OtherGroup {
                found: mark.group_uuid,
                wanted: identity.cluster_uuid.clone(),
            }
            .into());
        }
        let backend_group = Some(mark.group_uuid).filter(|uuid| !uuid.is_empty());
        let context =
            MemberContext::new(settings, dependencies, node, identity, backend_group).map_err(StartError::Network)?;
        let context = Arc::new(context);
        let tasks = TaskTracker::new();
        // All connections are closed when the member stops: one that outlives it would still answer heartbeats, or hold requests of a
        // peer until they time out.
        tasks.spawn(connections::serve(
            listener,
            server::router(context.clone()),
            "peer listener",
            context.dependencies.connections.clone(),
            context.stop.clone(),
            Duration::ZERO,
        ));
        let running = context.clone();
        tasks.spawn(async move {
            let run = || Box::pin(run_incarnations(running.clone()));
            supervision::keep_running("the raft member", &running.stop, run).await;
        });
        tasks.close();
        Ok(Arc::new(Self { context, tasks }))
    }

    /// Waits until the group has removed this member, if it is no longer in the list of members. The member must answer requests for
    /// that, so this is called before [`Self::shutdown`]. `false`: it is still a voter after the deadline, and its end may cost the quorum.
    pub async fn leave(&self, deadline: Duration) -> bool {
        self_join::leave(&self.context, deadline).await
    }

    /// Stops the member: no connection, no task and no open file is left. Leadership is not handed over; do that before.
    pub async fn shutdown(&self) {
        self.context.stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "raft member {}: some tasks did not end within {} s",
                self.context.settings.name,
                STOP_DEADLINE.as_secs()
            );
        }
    }

    /// Why this member stopped for good, if it did: a command of a newer version, or broken storage.
    pub fn failure(&self) -> Option<String> {
        self.context.failure()
    }

    /// Makes a snapshot and drops the log entries that it covers, except those that are kept for lagging members.
    ///
    /// # Errors
    /// When no log runs.
    pub async fn snapshot_now(&self) -> Result<(), String> {
        let incarnation = self
            .context
            .incarnation
            .load_full()
            .ok_or_else(|| self.context.status())?;
        incarnation
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| error.to_string())
    }
}

async fn run_incarnations(context: Arc<MemberContext>) {
    // What a panic left running ends first: two logs of one member must never run.
    if let Some(left) = context.incarnation.swap(None)
        && let Err(error) = left.raft.shutdown().await
    {
        tracing::error!(
            "the raft log of member {} did not stop cleanly: {error}",
            left.own.member
        );
    }
    loop {
        let end = match Box::pin(run_incarnation(&context)).await {
            Ok(end) => end,
            Err(error) => {
                context.set_status(&error.to_string());
                tokio::select! {
                    () = context.stop.cancelled() => IncarnationEnd::Stopped,
                    () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => IncarnationEnd::Restart,
                }
            }
        };
        match end {
            IncarnationEnd::Restart | IncarnationEnd::Removed(_) | IncarnationEnd::Forced(_)
                if !context.stop.is_cancelled() => {}
            IncarnationEnd::Restart
            | IncarnationEnd::Removed(_)
            | IncarnationEnd::Forced(_)
            | IncarnationEnd::Stopped => return,
            IncarnationEnd::Failed(why) => return context.fail(&why),
        }
    }
}

async fn run_incarnation(context: &Arc<MemberContext>) -> io::Result<IncarnationEnd> {
    let found = {
        let _changing = context.identity_change.lock().await;
        let found = identity::examine(&context.settings.data_dir).await?;
        context.set_identity(match &found {
            DirectoryState::Pristine => None,
            DirectoryState::Wiped(identity) | DirectoryState::Member(identity) => Some(identity.clone()),
        });
        found
    };
    match found {
        DirectoryState::Pristine | DirectoryState::Wiped(_) => bootstrap::find_group(context).await,
        DirectoryState::Member(identity) => match bootstrap::prepare_founding(context, &identity).await? {
            Some(end) => Ok(end),
            None => incarnation::run(context, identity).await,
        },
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Backend(BackendError::Store(error))
    }
}
