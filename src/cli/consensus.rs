//! The consensus of this process: a member of a raft group, one of several members on a shared backend, or a single member.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing::warn;

use crate::adapter::http;
use crate::adapter::kube;
use crate::adapter::raft::{MemberDependencies, RaftMember, RaftSettings, Timings};
use crate::adapter::shared::SharedMember;
use crate::adapter::single::SingleMember;
use crate::adapter::store::BackendStore;
use crate::app::observation::probe_sharing::SharedProbes;
use crate::app::ports::{Consensus, ObservationSource, OpinionSource};
use crate::config::settings::BackendDatabase;

use super::membership;
use super::process::Process;

/// The longest that a member which is scaled away waits for its removal from the group. With the two deadlines of the shutdown in
/// `server`, less than the 30 s that Kubernetes leaves.
const LEAVE_DEADLINE: Duration = Duration::from_secs(12);

/// The consensus of this process, with what its shutdown needs.
pub(super) struct RunningConsensus {
    pub(super) consensus: Arc<dyn Consensus>,
    member: Option<Arc<RaftMember>>,
    shared: Option<Arc<SharedMember>>,
}

/// Answers what other members ask for.
pub(super) struct Sources {
    pub(super) opinions: Arc<dyn OpinionSource>,
    pub(super) observations: Option<Arc<SharedProbes>>,
}

impl RunningConsensus {
    /// Leaves the group when this member is scaled away; otherwise does nothing.
    pub(super) async fn leave(&self) {
        if let Some(member) = &self.member
            && !member.leave(LEAVE_DEADLINE).await
        {
            warn!(
                "this member is scaled away and was not removed from the group within {} s; stopping anyway",
                LEAVE_DEADLINE.as_secs()
            );
        }
    }

    /// Waits until this member cannot go on, and says why. Only a member on a shared backend ever ends so.
    pub(super) async fn given_up(&self) -> String {
        match &self.shared {
            Some(shared) => shared.given_up().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the raft member.
    pub(super) async fn shut_down(&self) {
        if let Some(member) = &self.member {
            member.shutdown().await;
        }
    }
}

/// Starts the member that the configuration describes: of a raft group, of a shared MySQL backend, or a single one on SQLite.
pub(super) async fn start_consensus(
    process: &Process,
    client: Option<&kube::Client>,
    store: &BackendStore,
    sources: Sources,
) -> anyhow::Result<RunningConsensus> {
    let settings = &process.settings;
    let advertise = &settings.http.advertise;
    let store = Arc::new(store.clone());
    let Some(raft) = &settings.raft else {
        return match settings.backend.database {
            BackendDatabase::Sqlite(_) => Ok(RunningConsensus {
                consensus: SingleMember::start(advertise, advertise, store, Arc::clone(&process.clock)).await?,
                member: None,
                shared: None,
            }),
            BackendDatabase::MySql(_) => start_on_shared_backend(process, store).await,
        };
    };
    let membership = membership::configured(settings, raft, client, &process.stop);
    let group_clock = Arc::clone(&process.group_clock);
    let mut dependencies = MemberDependencies::new(store, sources.opinions, group_clock, membership.wanted);
    dependencies.observations = sources.observations.map(|shared| shared as Arc<dyn ObservationSource>);
    dependencies.marker = membership.marker;
    dependencies.connections = process.listener_limits.peers.clone();
    let listener = http::bind(&raft.bind).await.context("RaftBind")?;
    let raft_settings = RaftSettings {
        name: membership.name,
        raft_address: raft.advertise.clone(),
        http_uri: advertise.clone(),
        data_dir: raft.data_dir.clone(),
        founders: membership.founders,
        data_center: settings.recovery.member_data_center.clone(),
        group_key: raft.group_key.clone(),
        timings: Timings {
            heartbeat: raft.heartbeat,
            election_min: raft.election_min,
            election_max: raft.election_max,
            backend_write_deadline: settings.backend.exit_after.unwrap_or(Duration::MAX),
            ..Timings::default()
        },
    };
    let member = RaftMember::start(raft_settings, dependencies, listener).await?;
    Ok(RunningConsensus {
        consensus: Arc::<RaftMember>::clone(&member),
        member: Some(member),
        shared: None,
    })
}

async fn start_on_shared_backend(process: &Process, store: Arc<BackendStore>) -> anyhow::Result<RunningConsensus> {
    let settings = &process.settings;
    let http_uri = &settings.http.advertise;
    let name = http_uri.split_once("://").map_or(http_uri.as_str(), |(_, name)| name);
    let member = SharedMember::start(
        name.trim_end_matches('/'),
        http_uri,
        &settings.recovery.member_data_center,
        store,
        Arc::clone(&process.clock),
        settings.backend.exit_after,
        process.stop.child_token(),
    );
    let member = member.await?;
    Ok(RunningConsensus {
        consensus: Arc::<SharedMember>::clone(&member),
        member: None,
        shared: Some(member),
    })
}
