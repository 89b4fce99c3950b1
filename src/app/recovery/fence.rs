//! How a server becomes read-only and its client sessions end, when its commits may hang.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::ports::{Executor, StepError, StepSession, Target};
use crate::domain::instance::Identity;

/// Errors of a lock that was not obtained: 1205 (lock wait timeout) and 1213 (deadlock).
pub(super) const LOCK_ERRORS: [u16; 2] = [1205, 1213];
/// How often read-only is tried in one step: the statement gives up after the lock wait timeout of its session, a second.
const TRIES: u32 = 4;
/// The pause before the client sessions are ended again for which the statement waits.
const END_CLIENTS_INTERVAL: Duration = Duration::from_millis(100);
/// How long the end of these sessions is waited for at once.
const END_CLIENTS_DEADLINE: Duration = Duration::from_millis(500);

/// Kills all client sessions that may be killed. A session with more privileges than ours (error 1095) does not stop
/// the takeover: the server itself reported that it is read-only.
pub(super) async fn end_clients(session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<u32, StepError> {
    match session.kill_clients(deadline).await {
        Err(StepError::Refused { .. }) => Ok(0),
        ended => ended,
    }
}

/// The server gives the statement up this long before its deadline ([`StepSession::set_read_only`]).
const GIVEN_UP_BEFORE: Duration = Duration::from_secs(1);
/// How long it takes to let killed commits complete: three calls.
const COMPLETING: Duration = Duration::from_millis(1500);

/// What happens to commits that still wait for acknowledgements after their sessions were killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KilledCommits {
    /// They keep waiting.
    Wait,
    /// They complete on this server alone. MySQL does not end such a wait with the session, and so the statement would wait for ever.
    Complete,
}

/// Makes a server read-only and ends its client sessions; returns how many. `session` holds the step lock, and a second session of the
/// same actor is opened when the statement has to wait.
///
/// The statement waits for the sessions that are in a commit, and clients that connect again commit again while it does not. So the
/// second session ends them while the statement waits: nothing new gets past it. A session that was killed and has not ended may still
/// commit, so that is no success.
///
/// With [`KilledCommits::Complete`], semi-sync is switched off on the server while the statement waits and every client session was killed:
/// no client is connected any more that could take such a commit for acknowledged. Afterwards it is switched on again.
///
/// # Errors
///
/// The last error of the statement, or of the end of the sessions; the server may be read-only.
pub(super) async fn fence_with_hanging_commits(
    executor: &dyn Executor,
    session: &mut Box<dyn StepSession>,
    target: &Target,
    identity: Option<&Identity>,
    killed_commits: KilledCommits,
    deadline: Duration,
) -> Result<u32, StepError> {
    let mut beside = None;
    let mut ended = 0;
    let mut tries = 0;
    let mut is_freed = false;
    let fenced = loop {
        tries += 1;
        // Only while the statement waits do new sessions not commit.
        let waits_until = Instant::now() + deadline.saturating_sub(GIVEN_UP_BEFORE + COMPLETING);
        let set = {
            let statement = session.set_read_only(deadline);
            tokio::pin!(statement);
            loop {
                tokio::select! {
                    biased;
                    over = &mut statement => break over,
                    () = tokio::time::sleep(END_CLIENTS_INTERVAL) => {}
                }
                if beside.is_none() {
                    beside = executor.begin_beside(target, identity, deadline).await.ok();
                }
                let Some(beside) = &mut beside else { continue };
                // What it could not end now, it ends the next time.
                match beside.kill_clients(END_CLIENTS_DEADLINE).await {
                    Ok(more) => ended += more,
                    Err(StepError::TooSlow { .. })
                        if killed_commits == KilledCommits::Complete && Instant::now() < waits_until =>
                    {
                        is_freed |= complete_killed_commits(beside).await.unwrap_or(false);
                    }
                    Err(_) => {}
                }
            }
        };
        if is_freed {
            // At once, whatever became of the statement: without it, clients commit again, and must not be acknowledged by this server alone.
            is_freed = false;
            if let Err(error) = session.set_semi_sync_source(true, deadline).await {
                let Some(beside) = &mut beside else { break Err(error) };
                if let Err(error) = beside.set_semi_sync_source(true, deadline).await {
                    break Err(error);
                }
            }
        }
        match set {
            Err(StepError::Refused { number, .. }) if LOCK_ERRORS.contains(&number) && tries < TRIES => {
                match end_clients(session, END_CLIENTS_DEADLINE).await {
                    Ok(more) => ended += more,
                    // The next try ends them while its statement waits.
                    Err(StepError::TooSlow { .. }) => {}
                    Err(error) => break Err(error),
                }
            }
            over => break over,
        }
    };
    if let Some(beside) = beside {
        beside.end().await;
    }
    fenced?;
    Ok(ended + end_clients(session, deadline).await?)
}

/// Lets commits complete that wait for acknowledgements, when only killed sessions wait. Returns whether semi-sync may be off now.
async fn complete_killed_commits(beside: &mut Box<dyn StepSession>) -> Result<bool, StepError> {
    let semi_sync = beside.facts(END_CLIENTS_DEADLINE).await?.semi_sync;
    if !semi_sync.source_enabled
        || semi_sync.wait_sessions == 0
        || !beside.disconnect_clients(END_CLIENTS_DEADLINE).await?
    {
        return Ok(false);
    }
    // Without an answer it may be off all the same.
    drop(beside.set_semi_sync_source(false, END_CLIENTS_DEADLINE).await);
    Ok(true)
}
