//! The consensus of this process: a member of a raft group, or a single member.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing::warn;

use crate::adapter::http;
use crate::adapter::kube;
use crate::adapter::raft::{MemberDependencies, RaftMember, RaftSettings, Timings};
use crate::adapter::single::SingleMember;
use crate::app::observation::probe_sharing::SharedProbes;
use crate::app::ports::{Consensus, ObservationSource, OpinionSource, StateStore};

use super::membership;
use super::process::Process;

/// The longest that a member which is scaled away waits for its removal from the group. With the two deadlines of the shutdown in
/// `server`, less than the 30 s that Kubernetes leaves.
const LEAVE_DEADLINE: Duration = Duration::from_secs(12);

/// The consensus of this process, with what its shutdown needs.
pub(super) struct RunningConsensus {
    pub(super) consensus: Arc<dyn Consensus>,
    member: Option<Arc<RaftMember>>,
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

    /// Stops the raft member.
    pub(super) async fn shut_down(&self) {
        if let Some(member) = &self.member {
            member.shutdown().await;
        }
    }
}

/// Starts the raft member that the configuration describes, or a single member.
pub(super) async fn start_consensus(
    process: &Process,
    client: Option<&kube::Client>,
    store: Arc<dyn StateStore>,
    sources: Sources,
) -> anyhow::Result<RunningConsensus> {
    let (settings, clock) = (&process.settings, Arc::clone(&process.clock));
    let advertise = &settings.http.advertise;
    let Some(raft) = &settings.raft else {
        return Ok(RunningConsensus {
            consensus: SingleMember::start(advertise, advertise, store, clock).await?,
            member: None,
        });
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
    })
}
