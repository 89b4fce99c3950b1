//! Steps of a takeover: a living primary is made read-only with care, and becomes a replica.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, Attachment, StepError};
use crate::app::recovery::fence::{LOCK_ERRORS, end_clients};
use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;
use crate::domain::policy::TakeoverTerms;
use crate::domain::recovery::refusal::excerpt;

use super::demoted_primary::{DemotedPrimary, ReplicationAccess};
use super::semi_sync::stop_waiting;
use super::{Session, StepEffect, StepExecutor};

/// How often the received transactions of a replica are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How often open transactions are checked. A server shows a fresh list only to clients that read it less often than
/// ten times a second.
const TRANSACTION_CHECK_INTERVAL: Duration = Duration::from_millis(150);
/// How long one attempt to make the server read-only waits for locks before client sessions are killed: the shortest time
/// that a server can be told.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How long the answer of a statement may take beyond the time for which the server waits for a lock.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);
/// The longest wait in one statement, so that a cancelled takeover is noticed.
const MAX_STATEMENT_WAIT: Duration = Duration::from_secs(2);
impl StepExecutor {
    /// Makes the present primary read-only. Running transactions may end within a limit; the rest is killed, and so
    /// are all client sessions once the server is read-only.
    pub async fn demote(
        &mut self,
        old_primary: &InstanceKey,
        successor: &InstanceKey,
        terms: TakeoverTerms,
        disables_events: bool,
    ) -> StepEffect {
        let deadline = self.context.settings.step_deadline;
        // What the old primary needs afterwards is found out before it is changed.
        if let Err(effect) = self.find_replication_access(old_primary, successor).await {
            return effect;
        }
        let session = match self.session_of(old_primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let waited =
            wait_for_transactions(&session, Duration::from_millis(terms.transaction_wait_millis), deadline).await;
        let left = match waited {
            Ok(left) => left,
            Err(error) => return self.effect_of(old_primary, &error),
        };
        if !left.is_empty() && !terms.ends_transactions {
            let list: Vec<String> = left.iter().map(ToString::to_string).collect();
            return StepEffect::Failed(format!(
                "transactions of {} sessions ({}) did not end within {} ms, and TakeoverLongTransactions is Refuse",
                left.len(),
                list.join(", "),
                terms.transaction_wait_millis
            ));
        }
        // Waiting took time.
        if let Err(effect) = self.confirm().await {
            return effect;
        }
        match make_read_only(&session, &left, terms, deadline).await {
            Ok(ended) => {
                let events = if disables_events {
                    self.disable_events(old_primary, &session).await
                } else {
                    String::new()
                };
                StepEffect::Done(format!(
                    "{old_primary} is read-only, {} transactions were ended, {ended} client sessions ended{events}",
                    left.len()
                ))
            }
            Err(error) => self.effect_of(old_primary, &error),
        }
    }

    /// Waits until the successor has applied everything in `set`, or the takeover is cancelled.
    pub async fn catch_up(
        &mut self,
        successor: &InstanceKey,
        set: &GtidSet,
        deadline: Duration,
        is_cancelled: impl Fn() -> bool,
    ) -> StepEffect {
        let session = match self.session_of(successor, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let applied = session
                .lock()
                .await
                .wait_applied(set, left.min(MAX_STATEMENT_WAIT))
                .await;
            match applied {
                Ok(()) => return StepEffect::Done(format!("{successor} has applied all that the old primary has")),
                Err(StepError::TooSlow { .. }) if is_cancelled() => {
                    return StepEffect::Failed(String::from("the takeover was cancelled"));
                }
                Err(StepError::TooSlow { .. }) if Instant::now() < end => {}
                Err(error) => return self.effect_of(successor, &error),
            }
        }
    }

    /// Waits until the receiver threads of these replicas have everything in `set`. Returns the replicas that have
    /// it.
    pub async fn wait_until_received(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        set: &GtidSet,
        max_wait: Duration,
    ) -> Result<BTreeSet<InstanceKey>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.open_sessions(replicas, deadline).await?;
        let end = Instant::now() + max_wait;
        let sessions = replicas
            .iter()
            .filter_map(|key| Some((key.clone(), self.session(key)?)));
        let received = join_all(sessions.map(|(key, session)| async move {
            loop {
                let has_it = match session.lock().await.facts(deadline).await {
                    Ok(facts) => facts.received().covers(set),
                    Err(_) => return None,
                };
                if has_it {
                    return Some(key);
                }
                if Instant::now() + CHECK_INTERVAL >= end {
                    return None;
                }
                sleep(CHECK_INTERVAL).await;
            }
        }))
        .await;
        Ok(received.into_iter().flatten().collect())
    }

    /// [`StepExecutor::repoint`], with the old primary of a takeover among the replicas.
    pub async fn repoint_with(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        demoted: DemotedPrimary<'_>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let siblings: BTreeSet<InstanceKey> = replicas
            .iter()
            .filter(|key| *key != demoted.instance)
            .cloned()
            .collect();
        if !replicas.contains(demoted.instance) {
            return self.repoint(successor, &siblings).await;
        }
        let failed = self
            .open_sessions(replicas, self.context.settings.step_deadline)
            .await?;
        if let Some(error) = failed.get(demoted.instance) {
            let mut effects = self.repoint(successor, &siblings).await?;
            effects.insert(demoted.instance.clone(), StepEffect::of(error));
            return Ok(effects);
        }
        let access = self.replication_access(demoted.instance, &siblings).await;
        let sessions = (self.session(demoted.instance), self.session(successor));
        let deadline = self.context.settings.step_deadline;
        let attached = async {
            match sessions {
                (Some(own), source) => Some(attach(&own, source.as_ref(), successor, &access, demoted, deadline).await),
                (None, _) => None,
            }
        };
        let (attached, others) = futures::join!(attached, self.repoint(successor, &siblings));
        let mut effects = others?;
        let effect = match attached {
            Some(Ok(remark)) => StepEffect::Done(remark),
            Some(Err(error)) => self.effect_of(demoted.instance, &error),
            None => StepEffect::NoAnswer(format!("{}: no session", demoted.instance)),
        };
        effects.insert(demoted.instance.clone(), effect);
        Ok(effects)
    }

    /// Finds the account, and whether TLS is used, with which the replicas reach the old primary: it will reach the
    /// new one in the same way.
    async fn find_replication_access(
        &mut self,
        old_primary: &InstanceKey,
        successor: &InstanceKey,
    ) -> Result<(), StepEffect> {
        let tls = self.uses_tls(successor).unwrap_or_default();
        let mut account = self.account_for(old_primary);
        if account.is_none() {
            let deadline = self.context.settings.step_deadline;
            let session = self.session_of(successor, deadline).await?;
            let shown = session.lock().await.replication_account(deadline).await;
            account = shown.map_err(|error| self.effect_of(successor, &error))?;
        }
        if account.is_none() {
            return Err(StepEffect::Failed(format!(
                "MissingReplicationCredentials: no account is known with which {old_primary} could replicate afterwards \
                 (replicationUser and replicationPassword in the Secret, MySQLReplicationUser in the configuration)"
            )));
        }
        self.access = Some(ReplicationAccess { account, tls });
        Ok(())
    }

    /// What was found before; a new actor asks the other replicas.
    async fn replication_access(
        &mut self,
        old_primary: &InstanceKey,
        siblings: &BTreeSet<InstanceKey>,
    ) -> ReplicationAccess {
        if let Some(access) = &self.access {
            return access.clone();
        }
        let mut access = ReplicationAccess {
            account: self.account_for(old_primary),
            tls: siblings.iter().any(|key| self.uses_tls(key) == Some(true)),
        };
        for key in siblings {
            if access.account.is_some() {
                break;
            }
            if let Some(session) = self.session(key) {
                let shown = session
                    .lock()
                    .await
                    .replication_account(self.context.settings.step_deadline)
                    .await;
                access.account = shown.ok().flatten();
            }
        }
        access
    }

    fn account_for(&self, key: &InstanceKey) -> Option<Account> {
        let credentials = self.context.credentials.borrow();
        credentials.get(&self.target(key).origin)?.replication.clone()
    }

    fn uses_tls(&self, replica: &InstanceKey) -> Option<bool> {
        let facts = self.context.instance_cache.get(replica)?.instance.facts?;
        facts.managed_channel().map(|channel| channel.tls)
    }
}

/// Waits until the present transactions have ended. Returns the sessions of those that have not.
async fn wait_for_transactions(
    session: &Session,
    max_wait: Duration,
    deadline: Duration,
) -> Result<BTreeSet<u64>, StepError> {
    let end = Instant::now() + max_wait;
    let mut waited_for = session.lock().await.transactions(deadline).await?;
    while !waited_for.is_empty() && Instant::now() + TRANSACTION_CHECK_INTERVAL < end {
        sleep(TRANSACTION_CHECK_INTERVAL).await;
        let now = session.lock().await.transactions(deadline).await?;
        waited_for.retain(|transaction| now.contains(transaction));
    }
    Ok(waited_for.into_iter().map(|transaction| transaction.session).collect())
}

/// Kills the remaining transactions, makes the server read-only, and kills all client sessions. Returns their number.
///
/// A running statement that writes, a table lock or a waiting commit blocks the change, and writes wait behind it. So it is
/// tried for [`TakeoverTerms::lock_wait_seconds`] at most. Where sessions may be killed, that is done after each second.
async fn make_read_only(
    session: &Session,
    left: &BTreeSet<u64>,
    terms: TakeoverTerms,
    deadline: Duration,
) -> Result<u32, StepError> {
    if !left.is_empty() {
        session.lock().await.kill_sessions(left, deadline).await?;
    }
    let (one_wait, waits) = if terms.ends_transactions {
        (LOCK_WAIT, terms.lock_wait_seconds)
    } else {
        (Duration::from_secs(terms.lock_wait_seconds.max(1)), 1)
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let set = session.lock().await.set_read_only(one_wait + STATEMENT_GRACE).await;
        match set {
            Ok(()) => break,
            Err(StepError::Refused { number, .. }) if LOCK_ERRORS.contains(&number) && tries < waits => {
                end_clients(&mut *session.lock().await, deadline).await?;
            }
            Err(error @ StepError::Refused { number, .. }) if LOCK_ERRORS.contains(&number) => {
                return Err(with_lock_holders(session, error, one_wait, deadline).await);
            }
            Err(error) => return Err(error),
        }
    }
    end_clients(&mut *session.lock().await, deadline).await
}

/// The error of a change to read-only that waited for locks, with the sessions that hold them.
async fn with_lock_holders(session: &Session, error: StepError, waited: Duration, deadline: Duration) -> StepError {
    let StepError::Refused {
        instance,
        what,
        number,
        message,
    } = error
    else {
        return error;
    };
    let holders = session
        .lock()
        .await
        .sessions_that_block_read_only(waited, deadline)
        .await;
    let message = match holders {
        Ok(holders) if !holders.is_empty() => {
            let certain = holders.iter().all(|holder| holder.is_certain);
            let list: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let held = if certain {
                "held by"
            } else {
                "one of these may hold the lock:"
            };
            format!("{message}; {held} {}", list.join("; "))
        }
        Ok(_) | Err(_) => message,
    };
    StepError::Refused {
        instance,
        what,
        number,
        message,
    }
}

async fn attach(
    session: &Session,
    source: Option<&Session>,
    successor: &InstanceKey,
    access: &ReplicationAccess,
    demoted: DemotedPrimary<'_>,
    deadline: Duration,
) -> Result<String, StepError> {
    let mut session = session.lock().await;
    // It may have restarted since it was demoted, and may have started writable.
    session.set_read_only(deadline).await?;
    end_clients(&mut session, deadline).await?;
    let holds = session.facts(deadline).await?.executed;
    if !demoted.position.covers(&holds) && !contains_all(source, &holds, deadline).await {
        return Err(StepError::Refused {
            instance: demoted.instance.clone(),
            what: format!("following {successor}"),
            number: 0,
            message: format!(
                "it took writes after it was demoted: {}",
                excerpt(&holds.missing_from(demoted.position))
            ),
        });
    }
    let mut remark = String::new();
    if demoted.semi_sync {
        // A semi-sync source waits for acknowledgements that a replica does not get, and a replica that does not
        // acknowledge makes its source wait.
        for switched in [
            stop_waiting(&mut session, deadline).await,
            session.set_semi_sync_replica(true, deadline).await,
        ] {
            match switched {
                Ok(()) => {}
                Err(error @ StepError::Refused { .. }) => remark = format!("; semi-sync: {error}"),
                Err(error) => return Err(error),
            }
        }
    }
    let attachment = Attachment {
        account: access.account.as_ref(),
        tls: access.tls,
        start: demoted.start,
    };
    session.attach(successor, &attachment, deadline).await?;
    let state = if demoted.start { "" } else { ", stopped" };
    Ok(format!("{} follows {successor}{state}{remark}", demoted.instance))
}

/// Whether the new primary has a set; one that does not answer has nothing.
async fn contains_all(source: Option<&Session>, set: &GtidSet, deadline: Duration) -> bool {
    match source {
        Some(source) => {
            let facts = source.lock().await.facts(deadline).await;
            facts.is_ok_and(|facts| facts.executed.covers(set))
        }
        None => false,
    }
}
