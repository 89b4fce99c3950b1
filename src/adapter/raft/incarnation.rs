//! One incarnation of a member: its log runs under one id until the member stops, fails, or is removed from the group.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::time::MissedTickBehavior;

use super::address_refresh;
use super::backend_check;
use super::clock_comparison;
use super::context::{IncarnationEnd, MemberContext, RaftIncarnation};
use super::force;
use super::health;
use super::identity::{self, IdentityPhase, MemberIdentity};
use super::leadership_transfer::start_transfer;
use super::liveness::{Liveness, Metrics, quorum_age};
use super::log_store::{LogOwner, LogStore};
use super::membership;
use super::network::Links;
use super::reachability::Reachability;
use super::self_join;
use super::settings::{BootstrapStep, Timings};
use super::state_machine::{BackendError, BackendWriteFailure, Raft, StateMachine, StateOwner};
use crate::app::ports::Leadership;

/// The pause before a log that panicked is opened again.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// A leader hands over when its backend takes no writes for this long: the backend of another member may work.
const HAND_OVER_AFTER: Duration = Duration::from_millis(500);

/// Opens the log of this identity and runs it until the incarnation ends.
pub(super) async fn run(context: &Arc<MemberContext>, identity: MemberIdentity) -> io::Result<IncarnationEnd> {
    let Some(own) = identity.owner() else {
        return Ok(IncarnationEnd::Restart);
    };
    let log = LogStore::open(&context.settings.data_dir, context.settings.timings.election_min / 10).await?;
    let end = run_with_log(context, identity, own, &log).await;
    context.leadership.send_replace(Leadership::default());
    if let Ok(IncarnationEnd::Forced(request)) = &end {
        force::force_quorum(context, request, &log).await;
    }
    log.close().await;
    let end = end?;
    if let IncarnationEnd::Removed(identity) = &end {
        let _changing = context.identity_change.lock().await;
        identity::wipe(&context.settings.data_dir, identity, "removed from the group")?;
    }
    Ok(end)
}

async fn run_with_log(
    context: &Arc<MemberContext>,
    identity: MemberIdentity,
    own: LogOwner,
    log: &LogStore,
) -> io::Result<IncarnationEnd> {
    log.put_owner(&own).await?;
    if identity.phase == IdentityPhase::Assigned {
        let _changing = context.identity_change.lock().await;
        context.put_identity(MemberIdentity {
            phase: IdentityPhase::Joining,
            ..identity.clone()
        })?;
    }
    if !context.passed(&BootstrapStep::LogStamped) {
        return Ok(IncarnationEnd::Stopped);
    }
    // A member that never voted cannot break a former vote by a restart.
    let restarted = !log.is_blank().await?;
    let write_failure = BackendWriteFailure::default();
    let owner = StateOwner {
        cluster_uuid: own.cluster_uuid.clone(),
        history: identity.history.clone(),
        member: own.member,
    };
    let retry_limit = context.settings.timings.backend_write_deadline;
    let store = context.dependencies.store.clone();
    let machine = StateMachine::open(
        store,
        log.clone(),
        owner,
        context.state.clone(),
        retry_limit,
        write_failure.clone(),
    )
    .await;
    let machine = match machine {
        Ok(machine) => machine,
        Err(error @ BackendError::OtherGroup { .. }) => return Ok(IncarnationEnd::Failed(error.to_string())),
        Err(BackendError::Store(error)) => return Err(io::Error::other(error)),
    };
    let config = match config(&context.settings.timings, &own, restarted).validate() {
        Ok(config) => Arc::new(config),
        Err(error) => {
            return Ok(IncarnationEnd::Failed(format!(
                "the raft timings do not fit together: {error}"
            )));
        }
    };
    let reachability = Reachability::default();
    let links = Links {
        dialer: context.dialer.clone(),
        own: own.clone(),
        entries_deadline: context.settings.timings.election_min,
        reachability: reachability.clone(),
    };
    let raft = match Raft::new(own.member, config, links, log.clone(), machine).await {
        Ok(raft) => raft,
        Err(error) => return Ok(IncarnationEnd::Failed(error.to_string())),
    };
    let vote_pause = if restarted {
        context.settings.timings.election_max
    } else {
        Duration::ZERO
    };
    let incarnation = Arc::new(RaftIncarnation {
        raft,
        own,
        log: log.clone(),
        write_failure,
        backend_silence: BackendWriteFailure::default(),
        liveness: Liveness::default(),
        reachability,
        has_asked_clocks: AtomicBool::new(false),
        no_votes_until: Instant::now() + vote_pause,
    });
    context.incarnation.store(Some(incarnation.clone()));
    let end = match initialize_group(context, &incarnation, &identity).await {
        Ok(None) => Ok(run_until_end(context, &incarnation).await),
        Ok(Some(end)) => Ok(end),
        Err(error) => Err(error),
    };
    if let Ok(IncarnationEnd::Failed(why)) = &end {
        context.fail(why);
    }
    context.incarnation.store(None);
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
        // A follower gets no snapshot while the entries that it lacks are still in the log.
        replication_lag_threshold: timings.entries_per_snapshot.saturating_add(timings.entries_kept),
        // Small requests: the deadline of a request covers writing its entries to the disk of the peer.
        max_payload_entries: 64,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        enable_elect: !restarted,
        // A peer that is down is contacted often enough to be in use within two heartbeats of its return.
        backoff: "100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    }
}

/// The last steps of the founder: the first log entry, then the end of the founding.
async fn initialize_group(
    context: &Arc<MemberContext>,
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
    if !context.passed(&BootstrapStep::Initialised) {
        return Ok(Some(IncarnationEnd::Stopped));
    }
    let _changing = context.identity_change.lock().await;
    context.put_identity(MemberIdentity {
        phase: IdentityPhase::Member,
        ..identity.clone()
    })?;
    Ok((!context.passed(&BootstrapStep::Settled)).then_some(IncarnationEnd::Stopped))
}

/// Runs all tasks beside the log until the incarnation ends.
async fn run_until_end(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    tokio::select! {
        () = context.stop.cancelled() => IncarnationEnd::Stopped,
        end = watch_log(context, incarnation) => end,
        end = self_join::join_until_removed(context, incarnation) => end,
        end = Box::pin(force::watch_requests(context, incarnation)) => end,
        () = membership::run_leader_rounds(context, incarnation) => IncarnationEnd::Stopped,
        () = health::watch_leader_api(context, incarnation) => IncarnationEnd::Stopped,
        () = backend_check::run(context, incarnation) => IncarnationEnd::Stopped,
        () = clock_comparison::run(context, incarnation) => IncarnationEnd::Stopped,
        () = address_refresh::keep_addresses_cached(&context.dependencies) => IncarnationEnd::Stopped,
    }
}

async fn watch_log(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    let mut changes = incarnation.raft.metrics();
    let mut beat = tokio::time::interval(context.settings.timings.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut may_campaign = false;
    loop {
        let metrics = changes.borrow_watched().clone();
        if let Err(error) = &metrics.running_state {
            return end_by_itself(context, &error.to_string(), matches!(error, Fatal::Panicked)).await;
        }
        incarnation.liveness.observe(&metrics);
        publish_leadership(context, &metrics);
        let backend_failure = incarnation
            .backend_failure()
            .filter(|(since, _)| since.elapsed() > HAND_OVER_AFTER);
        // A member that could not write what it decides does not ask to lead.
        let wants_to_lead = Instant::now() >= incarnation.no_votes_until && backend_failure.is_none();
        if may_campaign != wants_to_lead {
            incarnation.raft.runtime_config().elect(wants_to_lead);
            may_campaign = wants_to_lead;
        }
        if let Some((_, why)) = backend_failure
            && metrics.state == ServerState::Leader
            && let Some(times) = context.throttle.admit("backend takes no writes")
        {
            tracing::warn!("handing leadership over: the backend takes no writes: {why}{times}");
            start_transfer(context, incarnation, &metrics).await;
        }
        tokio::select! {
            ended = changes.changed() => if ended.is_err() {
                return end_by_itself(context, "the raft log ended", true).await;
            },
            _ = beat.tick() => {}
        }
    }
}

/// The end of an incarnation after its log ended by itself. After a panic the log is opened again: what it had stored is complete.
async fn end_by_itself(context: &MemberContext, why: &str, by_panic: bool) -> IncarnationEnd {
    match context.failure() {
        None if by_panic => {
            tracing::error!(
                "the raft log of member {} panicked, opening it again: {why}",
                context.settings.name
            );
            tokio::time::sleep(PAUSE_AFTER_PANIC).await;
            IncarnationEnd::Restart
        }
        failure => IncarnationEnd::Failed(failure.unwrap_or_else(|| why.to_owned())),
    }
}

/// Publishes the leadership. A leader without an acknowledgement of a quorum for the length of its lease is not published as one: another
/// may be elected by then.
fn publish_leadership(context: &MemberContext, metrics: &Metrics) {
    let lease = context.settings.timings.election_max;
    let leads = metrics.state == ServerState::Leader;
    let is_leader = leads && quorum_age(metrics).is_some_and(|age| age < lease);
    let known = metrics.current_leader.filter(|_| is_leader || !leads);
    let leader = known.and_then(|id| context.peer(metrics, id));
    let leadership = Leadership {
        term: metrics.current_term,
        is_leader,
        leader,
    };
    context.leadership.send_if_modified(|present| {
        let changed = *present != leadership;
        *present = leadership;
        changed
    });
}
