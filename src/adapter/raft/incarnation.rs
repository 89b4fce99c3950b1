//! One life of a member: its log runs under one id until the member stops, fails, or is removed from the group.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::time::MissedTickBehavior;

use super::force;
use super::health::{self, Liveness, Metrics};
use super::identity::{IdentityPhase, MemberIdentity};
use super::log_store::{LogOwner, LogStore};
use super::member::{IncarnationEnd, RaftIncarnation, Shared};
use super::membership;
use super::names;
use super::network::Links;
use super::reach::Reach;
use super::self_join;
use super::settings::{BootstrapStep, Timings};
use super::state_machine::{BackendError, BackendTrouble, Owner, StateMachine};
use super::types::Raft;
use crate::app::ports::Leadership;

/// A leader whose backend takes no writes for this long hands over: another member's may work.
const HAND_OVER_AFTER: Duration = Duration::from_secs(2);

/// Opens the log under this identity and keeps it running.
pub(super) async fn run(shared: &Arc<Shared>, identity: MemberIdentity) -> io::Result<IncarnationEnd> {
    let Some(own) = identity.stamp() else {
        return Ok(IncarnationEnd::Again);
    };
    let log = LogStore::open(&shared.settings.data_dir, shared.settings.timings.election_min / 10).await?;
    let end = run_on(shared, identity, own, &log).await;
    shared.leadership.send_replace(Leadership::default());
    if let Ok(IncarnationEnd::Forced(request)) = &end {
        force::carry_out(shared, request, &log).await;
    }
    log.close().await;
    let end = end?;
    if let IncarnationEnd::Removed(identity) = &end {
        let _changing = shared.identity_change.lock().await;
        super::identity::wipe(&shared.settings.data_dir, identity, "removed from the group")?;
    }
    Ok(end)
}

async fn run_on(
    shared: &Arc<Shared>,
    identity: MemberIdentity,
    own: LogOwner,
    log: &LogStore,
) -> io::Result<IncarnationEnd> {
    log.put_stamp(&own).await?;
    if identity.phase == IdentityPhase::Assigned {
        let _changing = shared.identity_change.lock().await;
        shared.put_identity(MemberIdentity {
            phase: IdentityPhase::Joining,
            ..identity.clone()
        })?;
    }
    if !shared.passed(&BootstrapStep::LogStamped) {
        return Ok(IncarnationEnd::Stopped);
    }
    // A log without a vote has made no promise that a restart could break.
    let restarted = !log.is_blank().await?;
    let trouble = BackendTrouble::default();
    let owner = Owner {
        cluster_uuid: own.cluster_uuid.clone(),
        history: identity.history.clone(),
        member: own.member,
    };
    let patience = shared.settings.timings.backend_patience;
    let store = shared.around.store.clone();
    let machine = StateMachine::open(
        store,
        log.clone(),
        owner,
        shared.state.clone(),
        patience,
        trouble.clone(),
    )
    .await;
    let machine = match machine {
        Ok(machine) => machine,
        Err(error @ BackendError::OtherGroup { .. }) => return Ok(IncarnationEnd::Failed(error.to_string())),
        Err(BackendError::Store(error)) => return Err(io::Error::other(error)),
    };
    let config = match config(&shared.settings.timings, &own, restarted).validate() {
        Ok(config) => Arc::new(config),
        Err(error) => {
            return Ok(IncarnationEnd::Failed(format!(
                "the raft timings do not fit together: {error}"
            )));
        }
    };
    let links = Links {
        dialer: shared.dialer.clone(),
        own: own.clone(),
        entries_deadline: shared.settings.timings.election_min,
        reach: Reach::default(),
    };
    let raft = match Raft::new(own.member, config, links, log.clone(), machine).await {
        Ok(raft) => raft,
        Err(error) => return Ok(IncarnationEnd::Failed(error.to_string())),
    };
    let quiet = if restarted {
        shared.settings.timings.election_max
    } else {
        Duration::ZERO
    };
    let incarnation = Arc::new(RaftIncarnation {
        raft,
        own,
        log: log.clone(),
        trouble,
        liveness: Liveness::default(),
        quiet_until: Instant::now() + quiet,
    });
    shared.incarnation.store(Some(incarnation.clone()));
    let end = match begin(shared, &incarnation, &identity).await {
        Ok(None) => Ok(attend(shared, &incarnation).await),
        Ok(Some(end)) => Ok(end),
        Err(error) => Err(error),
    };
    if let Ok(IncarnationEnd::Failed(why)) = &end {
        shared.fail(why);
    }
    shared.incarnation.store(None);
    if let Err(error) = incarnation.raft.shutdown().await {
        tracing::error!(
            "the raft log of member {} did not stop cleanly: {error}",
            incarnation.own.member
        );
    }
    end
}

fn config(timings: &Timings, own: &LogOwner, restarted: bool) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: own.cluster_uuid.clone(),
        heartbeat_interval: millis(timings.heartbeat),
        election_timeout_min: millis(timings.election_min),
        election_timeout_max: millis(timings.election_max),
        install_snapshot_timeout: millis(timings.snapshot_transfer),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timings.entries_per_snapshot),
        max_in_snapshot_log_to_keep: timings.entries_kept,
        // A follower must not be sent a snapshot while the entries that it lacks are still there.
        replication_lag_threshold: timings.entries_per_snapshot.saturating_add(timings.entries_kept),
        // Small requests: the deadline of one covers its entries on the peer's disk.
        max_payload_entries: 64,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        enable_elect: !restarted,
        // A peer that is down is tried often enough to be back within a heartbeat or two of its return.
        backoff: "100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    }
}

/// The founder's last steps: the first entry, then the end of the founding.
async fn begin(
    shared: &Arc<Shared>,
    incarnation: &RaftIncarnation,
    identity: &MemberIdentity,
) -> io::Result<Option<IncarnationEnd>> {
    if identity.phase != IdentityPhase::Founding {
        return Ok(None);
    }
    match incarnation.raft.initialize(identity.founders.clone()).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Ok(Some(IncarnationEnd::Failed(format!("cannot found the group: {error}")))),
    }
    if !shared.passed(&BootstrapStep::Initialised) {
        return Ok(Some(IncarnationEnd::Stopped));
    }
    let _changing = shared.identity_change.lock().await;
    shared.put_identity(MemberIdentity {
        phase: IdentityPhase::Member,
        ..identity.clone()
    })?;
    Ok((!shared.passed(&BootstrapStep::Settled)).then_some(IncarnationEnd::Stopped))
}

/// Everything that goes on beside the log itself. All of it ends with the life.
async fn attend(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    tokio::select! {
        () = shared.stop.cancelled() => IncarnationEnd::Stopped,
        end = watch_log(shared, incarnation) => end,
        end = self_join::keep_place(shared, incarnation) => end,
        end = Box::pin(force::heed(shared, incarnation)) => end,
        () = membership::lead(shared, incarnation) => IncarnationEnd::Stopped,
        () = health::watch_leader_api(shared, incarnation) => IncarnationEnd::Stopped,
        () = names::keep_known(shared) => IncarnationEnd::Stopped,
    }
}

async fn watch_log(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    let mut changes = incarnation.raft.metrics();
    let mut beat = tokio::time::interval(shared.settings.timings.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut may_campaign = false;
    loop {
        let metrics = changes.borrow_watched().clone();
        if let Err(error) = &metrics.running_state {
            return IncarnationEnd::Failed(shared.failure().unwrap_or_else(|| error.to_string()));
        }
        incarnation.liveness.observe(&metrics);
        publish_leadership(shared, &metrics);
        if !may_campaign && Instant::now() >= incarnation.quiet_until {
            incarnation.raft.runtime_config().elect(true);
            may_campaign = true;
        }
        if let Some((since, why)) = incarnation.trouble.since()
            && since.elapsed() > HAND_OVER_AFTER
            && metrics.state == ServerState::Leader
            && let Some(times) = shared.throttle.admit("hands over for its backend")
        {
            tracing::warn!("hands leadership over, since the backend takes no writes: {why}{times}");
            super::consensus::start_transfer(shared, incarnation, &metrics).await;
        }
        tokio::select! {
            ended = changes.changed() => if ended.is_err() {
                return IncarnationEnd::Failed(shared.failure().unwrap_or_else(|| "the raft log ended".to_owned()));
            },
            _ = beat.tick() => {}
        }
    }
}

/// A leader that no quorum has acknowledged for the length of its lease is not shown as one: by then another may be elected.
fn publish_leadership(shared: &Shared, metrics: &Metrics) {
    let lease = shared.settings.timings.election_max;
    let leads = metrics.state == ServerState::Leader;
    let is_leader = leads && health::quorum_age(metrics).is_some_and(|age| age < lease);
    let known = metrics.current_leader.filter(|_| is_leader || !leads);
    let leader = known.and_then(|id| membership::peer(shared, metrics, id));
    let leadership = Leadership {
        term: metrics.current_term,
        is_leader,
        leader,
    };
    shared.leadership.send_if_modified(|present| {
        let changed = *present != leadership;
        *present = leadership;
        changed
    });
}
