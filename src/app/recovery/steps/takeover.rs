//! The hands of a takeover: a living primary is made read-only with care, and becomes a replica.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Account, Attachment, StepError, StepSession};
use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;
use crate::domain::policy::TakeoverTerms;
use crate::domain::recovery::candidate::excerpt;

use super::{Effect, Session, StepExecutor};

/// Between two looks at what the target has applied.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two looks at the open transactions: a server shows a fresh list only to those who look less often than ten times a second.
const LOOK_AT_TRANSACTIONS: Duration = Duration::from_millis(150);
/// How often read-only is tried: each time a session that held it up is ended.
const READ_ONLY_TRIES: u32 = 3;
/// Longest wait for a target in one statement: one that hangs is noticed after it.
const SLICE: Duration = Duration::from_secs(2);
/// Error numbers of a lock that was not had in time: "Lock wait timeout exceeded", and the deadlock that the server resolved.
const LOCK_NOT_HAD: [u16; 2] = [1205, 1213];

/// What a demoted primary needs to reach its new source.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    account: Option<Account>,
    tls: bool,
}

/// The old primary of a takeover, when it is pointed at the new one.
#[derive(Clone, Copy, Debug)]
pub struct Demoted<'a> {
    /// Who.
    pub instance: &'a InstanceKey,
    /// Whether it starts replicating.
    pub start: bool,
    /// Whether the cluster replicates semi-synchronously.
    pub semi_sync: bool,
    /// All that it had when it handed over.
    pub position: &'a GtidSet,
}

impl StepExecutor {
    /// Makes the present primary read-only: transactions that run may end by themselves for a while, those that are left are ended, and
    /// so are all client sessions once it is read-only.
    pub async fn demote(&mut self, old_primary: &InstanceKey, successor: &InstanceKey, terms: TakeoverTerms) -> Effect {
        let deadline = self.context.settings.step_deadline;
        // What the old primary will need afterwards is found out before it is touched.
        if let Err(effect) = self.learn_access(old_primary, successor).await {
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
            return Effect::Failed(format!(
                "transactions of {} sessions ({}) did not end within {} ms, and TakeoverLongTransactions is Refuse",
                left.len(),
                list.join(", "),
                terms.transaction_wait_millis
            ));
        }
        // Waiting took its time.
        if let Err(effect) = self.confirmed().await {
            return effect;
        }
        match make_read_only(&session, &left, deadline).await {
            Ok(ended) => Effect::Done(format!(
                "{old_primary} is read-only, {} transactions were ended, {ended} client sessions ended",
                left.len()
            )),
            Err(error) => self.effect_of(old_primary, &error),
        }
    }

    /// Waits until the one that takes over has applied everything in `set`, or nobody wants that any more.
    pub async fn catch_up(
        &mut self,
        successor: &InstanceKey,
        set: &GtidSet,
        deadline: Duration,
        is_taken_back: impl Fn() -> bool,
    ) -> Effect {
        let session = match self.session_of(successor, self.context.settings.step_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let applied = session.lock().await.wait_applied(set, left.min(SLICE)).await;
            match applied {
                Ok(()) => return Effect::Done(format!("{successor} has applied all that the old primary has")),
                Err(StepError::TooSlow { .. }) if is_taken_back() => {
                    return Effect::Failed(String::from("the takeover was taken back"));
                }
                Err(StepError::TooSlow { .. }) if Instant::now() < end => {}
                Err(error) => return self.effect_of(successor, &error),
            }
        }
    }

    /// Gives the receiving threads of these replicas a moment to get everything in `set`. Returns who did.
    pub async fn await_received(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        set: &GtidSet,
        patience: Duration,
    ) -> Result<BTreeSet<InstanceKey>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.open_sessions(replicas, deadline).await?;
        let end = Instant::now() + patience;
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
                if Instant::now() + LOOK_AGAIN >= end {
                    return None;
                }
                sleep(LOOK_AGAIN).await;
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
        demoted: Demoted<'_>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
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
            effects.insert(demoted.instance.clone(), Effect::of(error));
            return Ok(effects);
        }
        let access = self.access_again(demoted.instance, &siblings).await;
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
            Some(Ok(remark)) => Effect::Done(remark),
            Some(Err(error)) => self.effect_of(demoted.instance, &error),
            None => Effect::NoAnswer(format!("{}: no session", demoted.instance)),
        };
        effects.insert(demoted.instance.clone(), effect);
        Ok(effects)
    }

    /// Finds out with which account, and whether by TLS, the replicas reach the old primary: it will reach the new one the same way.
    async fn learn_access(&mut self, old_primary: &InstanceKey, successor: &InstanceKey) -> Result<(), Effect> {
        let tls = self.uses_tls(successor).unwrap_or_default();
        let mut account = self.account_for(old_primary);
        if account.is_none() {
            let deadline = self.context.settings.step_deadline;
            let session = self.session_of(successor, deadline).await?;
            let shown = session.lock().await.replication_account(deadline).await;
            account = shown.map_err(|error| self.effect_of(successor, &error))?;
        }
        if account.is_none() {
            return Err(Effect::Failed(format!(
                "MissingReplicationCredentials: no account is known with which {old_primary} could replicate afterwards \
                 (replicationUser and replicationPassword in the Secret, MySQLReplicationUser in the configuration)"
            )));
        }
        self.access = Some(Access { account, tls });
        Ok(())
    }

    /// What was learned before; a new actor asks the other replicas.
    async fn access_again(&mut self, old_primary: &InstanceKey, siblings: &BTreeSet<InstanceKey>) -> Access {
        if let Some(access) = &self.access {
            return access.clone();
        }
        let mut access = Access {
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

/// Waits until the transactions that run now have ended. Returns the sessions of those that have not.
async fn wait_for_transactions(
    session: &Session,
    patience: Duration,
    deadline: Duration,
) -> Result<BTreeSet<u64>, StepError> {
    let end = Instant::now() + patience;
    let mut waited_for = session.lock().await.transactions(deadline).await?;
    while !waited_for.is_empty() && Instant::now() + LOOK_AT_TRANSACTIONS < end {
        sleep(LOOK_AT_TRANSACTIONS).await;
        let now = session.lock().await.transactions(deadline).await?;
        waited_for.retain(|transaction| now.contains(transaction));
    }
    Ok(waited_for.into_iter().map(|transaction| transaction.session).collect())
}

/// Ends what is left, makes the server read-only, and ends all client sessions. Returns how many these were.
async fn make_read_only(session: &Session, left: &BTreeSet<u64>, deadline: Duration) -> Result<u32, StepError> {
    let mut session = session.lock().await;
    if !left.is_empty() {
        session.kill_sessions(left, deadline).await?;
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match session.set_read_only(deadline).await {
            Ok(()) => break,
            // A statement that runs, or a commit that waits, holds it up.
            Err(StepError::Refused { number, .. }) if LOCK_NOT_HAD.contains(&number) && tries < READ_ONLY_TRIES => {
                end_clients(&mut session, deadline).await?;
            }
            Err(error) => return Err(error),
        }
    }
    end_clients(&mut session, deadline).await
}

/// Ends all client sessions that may be ended. A person with more rights than ours (error 1095) is no reason to give up: the server is
/// read-only by its own word.
async fn end_clients(session: &mut Box<dyn StepSession>, deadline: Duration) -> Result<u32, StepError> {
    match session.kill_clients(deadline).await {
        Err(StepError::Refused { .. }) => Ok(0),
        ended => ended,
    }
}

async fn attach(
    session: &Session,
    source: Option<&Session>,
    successor: &InstanceKey,
    access: &Access,
    demoted: Demoted<'_>,
    deadline: Duration,
) -> Result<String, StepError> {
    let mut session = session.lock().await;
    // It may have restarted since it was demoted, and started as it is configured: writable.
    session.set_read_only(deadline).await?;
    end_clients(&mut session, deadline).await?;
    let holds = session.facts(deadline).await?.executed;
    if !demoted.position.covers(&holds) && !has_all(source, &holds, deadline).await {
        return Err(StepError::Refused {
            instance: demoted.instance.clone(),
            what: format!("following {successor}"),
            number: 0,
            message: format!(
                "it took writes after it had handed over: {}",
                excerpt(&holds.missing_from(demoted.position))
            ),
        });
    }
    let mut remark = String::new();
    if demoted.semi_sync {
        // A source waits for acknowledgements that a replica does not get; a replica that does not acknowledge leaves its source waiting.
        for switched in [
            session.set_semi_sync_source(false, deadline).await,
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

/// Whether the new primary has a set; one that cannot be asked has nothing.
async fn has_all(source: Option<&Session>, set: &GtidSet, deadline: Duration) -> bool {
    match source {
        Some(source) => {
            let facts = source.lock().await.facts(deadline).await;
            facts.is_ok_and(|facts| facts.executed.covers(set))
        }
        None => false,
    }
}
