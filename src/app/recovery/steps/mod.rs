//! Runs the steps of one recovery. Before each effect it proves that the claim is current. It takes no decisions.

mod boot_read_only;
mod by_position;
mod catch_up;
mod demoted_primary;
mod errant;
mod events;
mod pseudo_gtid;
mod reconnect;
mod return_watch;
mod semi_sync;
mod stalled;
mod takeover;
mod wait_limit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Mutex;
use tracing::warn;

use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::instance::{Identity, Instance, InstanceFacts, Observation};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::semi_sync::SourceTerms;
use crate::domain::scheduled_events::ScheduledEvent;
use crate::domain::state::ClaimToken;
use crate::domain::topology::Topology;

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{
    Account, Clock, Consensus, CredentialsByOrigin, Executor, ProbeConnection, Prober, StepError, StepSession, Target,
    Unconfirmed,
};
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::publication_gate::PublicationGate;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::settings::RecoverySettings;

pub use demoted_primary::DemotedPrimary;
pub use wait_limit::WaitLimit;

/// The effect of a step on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepEffect {
    /// Done; a remark for the record.
    Done(String),
    /// The server does not answer, and nothing was done there.
    NoAnswer(String),
    /// The server refused or was too slow: nothing, or not enough, was done.
    Failed(String),
    /// It is unknown whether the statement had its effect.
    Unknown(String),
    /// The claim could not be confirmed: nothing was done, and this actor must stop.
    Unconfirmed(String),
}

impl StepEffect {
    fn of(error: &StepError) -> Self {
        match error {
            // Another server has this address: the intended one is absent.
            StepError::NotConnected { .. } | StepError::OtherIdentity { .. } => Self::NoAnswer(error.to_string()),
            StepError::OutcomeUnknown { .. } => Self::Unknown(error.to_string()),
            StepError::LockHeld(_) | StepError::Refused { .. } | StepError::TooSlow { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<Unconfirmed> for StepEffect {
    fn from(error: Unconfirmed) -> Self {
        Self::Unconfirmed(error.to_string())
    }
}

/// What recoveries need.
#[derive(Clone)]
pub struct RecoveryContext {
    /// Opens step sessions.
    pub executor: Arc<dyn Executor>,
    /// Probes servers.
    pub prober: Arc<dyn Prober>,
    /// The latest observations.
    pub instance_cache: Arc<InstanceCache>,
    /// Confirms claims and commits entries.
    pub consensus: Arc<dyn Consensus>,
    /// The accounts of servers.
    pub credentials: tokio::sync::watch::Receiver<CredentialsByOrigin>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Deadlines and limits.
    pub settings: RecoverySettings,
    /// Runs hooks before and after recoveries.
    pub hooks: HookRunner,
    /// Whether Services lead to a primary.
    pub service_gate: ServiceGate,
    /// What the publishers of primaries did last.
    pub publication_gate: PublicationGate,
}

/// How long writing the epoch may take. The end of a recovery waits for it, and a commit may wait for
/// acknowledgements.
const EPOCH_DEADLINE: Duration = Duration::from_secs(1);

/// Error "you are not owner of thread".
const NOT_OWNER: u16 = 1095;

/// How long a successor may take to drop a transaction that it received in part, and how often that is checked: a server
/// refreshes its list of transactions ten times a second.
const DROP_DEADLINE: Duration = Duration::from_secs(3);
const DROP_CHECK_INTERVAL: Duration = Duration::from_millis(150);

/// Error "cannot stop the replica SQL thread while the instance is locked for backup".
const LOCKED_FOR_BACKUP: u16 = 3857;
/// How often it is checked whether the lock of a backup is gone after its session was ended.
const BACKUP_CHECK_INTERVAL: Duration = Duration::from_millis(20);

type Session = Arc<Mutex<Box<dyn StepSession>>>;

/// Runs the steps of one recovery. Sessions stay open, and hold the step locks of their servers, until
/// [`StepExecutor::close_sessions`].
pub struct StepExecutor {
    context: RecoveryContext,
    token: ClaimToken,
    identities: BTreeMap<InstanceKey, Identity>,
    sessions: BTreeMap<InstanceKey, Session>,
    /// How a demoted primary can reach its source, once that is known.
    access: Option<demoted_primary::ReplicationAccess>,
    /// The events that this actor disabled on a demoted primary.
    disabled_events: BTreeSet<ScheduledEvent>,
}

impl StepExecutor {
    /// An executor for this claim. `identities` are the servers that the plan means: another server at the same
    /// address is not touched.
    pub fn new(context: RecoveryContext, token: ClaimToken, identities: BTreeMap<InstanceKey, Identity>) -> Self {
        Self {
            context,
            token,
            identities,
            sessions: BTreeMap::new(),
            access: None,
            disabled_events: BTreeSet::new(),
        }
    }

    /// Proves that the claim is current.
    ///
    /// # Errors
    /// [`StepEffect::Unconfirmed`] when it is not, or when that could not be proved.
    pub async fn confirm(&self) -> Result<(), StepEffect> {
        self.context.consensus.confirm(&self.token).await?;
        Ok(())
    }

    fn target(&self, key: &InstanceKey) -> Target {
        let origin = self
            .context
            .instance_cache
            .get(key)
            .map_or(Origin::Api, |tracked| tracked.origin);
        Target {
            instance: key.clone(),
            origin,
        }
    }

    /// Opens missing sessions side by side. The claim is confirmed before, because a session ends that of another
    /// actor, and after, because opening may take a while. Returns the errors by server.
    async fn open_sessions(
        &mut self,
        keys: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, StepError>, StepEffect> {
        self.confirm().await?;
        let missing: Vec<InstanceKey> = keys
            .iter()
            .filter(|key| !self.sessions.contains_key(*key))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(BTreeMap::new());
        }
        let opened = join_all(missing.iter().map(|key| {
            let target = self.target(key);
            let identity = self.identity(key);
            let executor = Arc::clone(&self.context.executor);
            async move { executor.begin(&target, identity.as_ref(), deadline).await }
        }))
        .await;
        let mut failed = BTreeMap::new();
        for (key, result) in missing.into_iter().zip(opened) {
            match result {
                Ok(mut session) => {
                    if let Some(name) = self.managed_channel_of(&key) {
                        session.manage_channel(&name);
                    }
                    self.sessions.insert(key, Arc::new(Mutex::new(session)));
                }
                Err(error) => {
                    failed.insert(key, error);
                }
            }
        }
        self.confirm().await?;
        Ok(failed)
    }

    /// The session of one server; opens it when necessary.
    async fn session_of(&mut self, key: &InstanceKey, deadline: Duration) -> Result<Session, StepEffect> {
        if let Some(error) = self
            .open_sessions(&BTreeSet::from([key.clone()]), deadline)
            .await?
            .remove(key)
        {
            return Err(StepEffect::of(&error));
        }
        self.session(key)
            .ok_or_else(|| StepEffect::NoAnswer(format!("{key}: no session")))
    }

    /// The name of the channel that the last probe of a server found to be the managed one; the default channel where it
    /// has none. `None` for a server that was never read.
    fn managed_channel_of(&self, key: &InstanceKey) -> Option<String> {
        let facts = self.context.instance_cache.get(key)?.instance.facts?;
        Some(
            facts
                .managed_channel()
                .map(|channel| channel.name.clone())
                .unwrap_or_default(),
        )
    }

    fn identity(&self, key: &InstanceKey) -> Option<Identity> {
        let planned = self.identities.get(key).cloned();
        planned.or_else(|| {
            self.context
                .instance_cache
                .get(key)
                .and_then(|tracked| tracked.instance.facts.map(|facts| facts.identity))
        })
    }

    fn session(&self, key: &InstanceKey) -> Option<Session> {
        self.sessions.get(key).cloned()
    }

    /// The effect that an error stands for. A session that broke is dropped, so that the next step connects again.
    fn effect_of(&mut self, key: &InstanceKey, error: &StepError) -> StepEffect {
        match error {
            StepError::NotConnected { .. } | StepError::OutcomeUnknown { .. } => {
                self.sessions.remove(key);
            }
            StepError::OtherIdentity { .. }
            | StepError::LockHeld(_)
            | StepError::Refused { .. }
            | StepError::TooSlow { .. } => {}
        }
        StepEffect::of(error)
    }

    /// Makes the old primary read-only and kills its client sessions, if it answers.
    pub async fn fence(&mut self, old_primary: &InstanceKey) -> StepEffect {
        let deadline = self.context.settings.fence_deadline;
        let session = match self.session_of(old_primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let (read_only, killed) = {
            let mut session = session.lock().await;
            match session.set_read_only(deadline).await {
                Ok(()) => (Ok(()), session.kill_clients(deadline).await),
                Err(error) => (Err(error), Ok(0)),
            }
        };
        if let Err(error) = read_only {
            return self.effect_of(old_primary, &error);
        }
        match killed {
            Ok(count) => StepEffect::Done(format!("{old_primary} is read-only, {count} client sessions ended")),
            Err(error) => {
                self.effect_of(old_primary, &error);
                StepEffect::Done(format!(
                    "{old_primary} is read-only; failed to kill its client sessions: {error}"
                ))
            }
        }
    }

    /// Stops the receiver threads, side by side. One entry per replica.
    pub async fn stop_receivers(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(replicas, |session| {
            Box::pin(async move {
                session
                    .stop_receiver(deadline)
                    .await
                    .map(|()| format!("{} stopped receiving", session.instance()))
            })
        })
        .await
    }

    /// Starts the receiver threads again, to undo [`StepExecutor::stop_receivers`].
    pub async fn start_receivers(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(replicas, |session| {
            Box::pin(async move {
                session
                    .start_receiver(deadline)
                    .await
                    .map(|()| format!("{} receives again", session.instance()))
            })
        })
        .await
    }

    /// Makes a fenced old primary writable again, and enables those of these events there that a demotion disabled. Only
    /// allowed while no Open is committed.
    pub async fn make_writable_again(
        &mut self,
        old_primary: &InstanceKey,
        events: &BTreeSet<ScheduledEvent>,
    ) -> StepEffect {
        // The replicas wait for this: a server that is gone is opened when it returns.
        let settings = &self.context.settings;
        let (connect_deadline, deadline) = (settings.fence_deadline, settings.step_deadline);
        let session = match self.session_of(old_primary, connect_deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => {
                let remark = self.enable_events_again(old_primary, &session, events).await;
                StepEffect::Done(format!("{old_primary} is writable again{remark}"))
            }
            Err(error) => self.effect_of(old_primary, &error),
        }
    }

    /// A copy of `topology` with fresh facts of the servers that have an open session; the others keep their facts. A
    /// server with a broken session is probed on a new connection.
    pub async fn refresh(&mut self, topology: &Topology) -> Topology {
        let deadline = self.context.settings.step_deadline;
        let keys: Vec<InstanceKey> = self.sessions.keys().cloned().collect();
        let seen = join_all(keys.iter().map(|key| {
            let session = self.session(key);
            let clock = Arc::clone(&self.context.clock);
            async move {
                let begun = (clock.wall(), clock.monotonic());
                let facts = match session {
                    Some(session) => session.lock().await.facts(deadline).await,
                    None => return None,
                };
                Some((begun, facts))
            }
        }))
        .await;
        let mut fresh = topology.clone();
        fresh.taken = self.context.clock.wall();
        let mut broken = Vec::new();
        for (key, seen) in keys.into_iter().zip(seen) {
            match seen {
                Some(((begun_wall, begun), Ok(facts))) => self.put_facts(&mut fresh, &key, begun_wall, begun, facts),
                Some((_, Err(error))) => {
                    warn!(instance = %key, "failed to read {key} during a recovery: {error}");
                    self.effect_of(&key, &error);
                    broken.push(key);
                }
                None => {}
            }
        }
        // Facts from before the step are no base for the next choice, and a broken session is no proof about the
        // server.
        let asked = join_all(broken.iter().map(|key| self.probe_fresh(key))).await;
        for observation in asked {
            self.put_observation(&mut fresh, observation);
        }
        fresh
    }

    /// Puts the instance of the cache into a topology after an observation. An instance that is not watched is made
    /// of the observation itself.
    fn put_observation(&self, topology: &mut Topology, observation: Observation) {
        let key = observation.key;
        let instance = self.context.instance_cache.get(&key).map(|tracked| tracked.instance);
        let instance = instance.unwrap_or_else(|| {
            let known = topology
                .instances
                .remove(&key)
                .unwrap_or_else(|| Instance::unseen(key.clone()));
            match observation.outcome {
                Ok(facts) => Instance {
                    facts: Some(*facts),
                    last_seen: Some(observation.ended),
                    last_checked: Some(observation.ended),
                    failure: None,
                    ..known
                },
                Err(failure) => Instance {
                    last_checked: Some(observation.ended),
                    failure: Some(failure),
                    ..known
                },
            }
        });
        topology.instances.insert(key, instance);
    }

    fn put_facts(
        &self,
        topology: &mut Topology,
        key: &InstanceKey,
        begun_wall: crate::domain::time::WallTime,
        begun: crate::domain::time::MonotonicTime,
        facts: InstanceFacts,
    ) {
        let ended = self.context.clock.monotonic();
        let observation = Observation {
            key: key.clone(),
            begun: begun_wall,
            ended: self.context.clock.wall(),
            micros: ended.micros_since(begun),
            outcome: Ok(Box::new(facts)),
        };
        self.context.instance_cache.record(&observation, begun, ended);
        self.put_observation(topology, observation);
    }

    /// Connects to the old primary once more.
    pub async fn redial(&mut self, old_primary: &InstanceKey) -> Observation {
        self.probe_fresh(old_primary).await
    }

    /// Probes a server on a new connection and records the result.
    async fn probe_fresh(&self, key: &InstanceKey) -> Observation {
        let begun = self.context.clock.monotonic();
        let observation = self
            .context
            .prober
            .probe(
                &self.target(key),
                ProbeConnection::Fresh,
                self.context.settings.fence_deadline,
            )
            .await;
        self.context
            .instance_cache
            .record(&observation, begun, self.context.clock.monotonic());
        observation
    }

    /// Makes the successor a writable primary. The Open entry is committed.
    pub async fn open(&mut self, successor: &InstanceKey, semi_sync: bool, terms: Option<SourceTerms>) -> StepEffect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(successor, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let mut remark = String::new();
        let mut reset = session.lock().await.reset_replication(deadline).await;
        if matches!(&reset, Err(StepError::Refused { number: NOT_OWNER, .. })) {
            if let Some(other) = self.drop_open_transaction(successor, &session).await {
                remark = format!("; it dropped a transaction that was received in part when it connected to {other}");
            }
            reset = session.lock().await.reset_replication(deadline).await;
        }
        if matches!(&reset, Err(StepError::Refused { number, .. }) if *number == LOCKED_FOR_BACKUP) {
            // The cluster takes no writes before this server does: that is worth more than the backup.
            let ended = session.lock().await.end_backup_locks(deadline).await;
            if let Ok(ended @ 1..) = ended {
                remark =
                    format!("{remark}; ended {ended} sessions of backups, which kept its applier from being stopped");
                reset = self.reset_after_backup(&session).await;
            }
        }
        let prepared = {
            let mut session = session.lock().await;
            let set = match terms {
                _ if reset.is_err() => Ok(()),
                // It may have waited for acknowledgements before. Its own applier does not wait.
                Some(terms) => session.wait_for_replicas(terms.wait_for, deadline).await,
                None if semi_sync => session.set_semi_sync_source(true, deadline).await,
                None => Ok(()),
            };
            if let Err(error) = set {
                remark = format!("; failed to enable semi-sync on the source: {error}");
            }
            reset
        };
        if let Err(error) = prepared {
            return self.effect_of(successor, &error);
        }
        if let Err(effect) = self.confirm().await {
            return effect;
        }
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => StepEffect::Done(format!("{successor} is writable{remark}")),
            Err(error) => self.effect_of(successor, &error),
        }
    }

    /// Removes the channel of a successor. The lock of a backup that was just ended may last for a moment.
    async fn reset_after_backup(&self, session: &Session) -> Result<(), StepError> {
        let deadline = self.context.settings.step_deadline;
        let end = tokio::time::Instant::now() + DROP_DEADLINE;
        loop {
            let reset = session.lock().await.reset_replication(deadline).await;
            match &reset {
                Err(StepError::Refused { number, .. })
                    if *number == LOCKED_FOR_BACKUP && tokio::time::Instant::now() < end => {}
                _ => return reset,
            }
            tokio::time::sleep(BACKUP_CHECK_INTERVAL).await;
        }
    }

    /// Connects a successor for a moment to another server that has nothing which the successor lacks: it then drops a
    /// transaction that it received in part. Returns that server.
    async fn drop_open_transaction(&self, successor: &InstanceKey, session: &Session) -> Option<InstanceKey> {
        let deadline = self.context.settings.step_deadline;
        let mut session = session.lock().await;
        let own = session.facts(deadline).await.ok()?.executed;
        for (key, other) in self.sessions.iter().filter(|(key, _)| *key != successor) {
            let facts = other.lock().await.facts(deadline).await;
            if facts.is_ok_and(|facts| !facts.is_writable() && own.covers(&facts.executed)) {
                session.follow(key, None, deadline).await.ok()?;
                let end = tokio::time::Instant::now() + DROP_DEADLINE;
                // A statement that stops the applier before that would keep the transaction open.
                while !session.transactions(deadline).await.ok()?.is_empty() && tokio::time::Instant::now() < end {
                    tokio::time::sleep(DROP_CHECK_INTERVAL).await;
                }
                return Some(key.clone());
            }
        }
        None
    }

    /// Writes the epoch of this claim on the new primary, into the configured table.
    pub async fn write_epoch(&mut self, primary: &InstanceKey, table: &EpochTable) -> StepEffect {
        let row = EpochRow {
            cluster: self.token.cluster.0.clone(),
            epoch: self.token.epoch,
            primary: primary.clone(),
            recovery: self.token.uid.clone(),
        };
        let session = match self.session_of(primary, EPOCH_DEADLINE).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        if let Err(effect) = self.confirm().await {
            return effect;
        }
        let written = session.lock().await.write_epoch(table, &row, EPOCH_DEADLINE).await;
        match written {
            Ok(()) => StepEffect::Done(format!("epoch {} is written into {table} on {primary}", row.epoch)),
            Err(error) => self.effect_of(primary, &error),
        }
    }

    /// Points replicas at a new source, side by side. One entry per replica.
    pub async fn repoint(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        self.repoint_as(successor, replicas, None).await
    }

    /// [`StepExecutor::repoint`] with semi-sync settings: replicas in `acknowledging` acknowledge, the others do not,
    /// and none of them waits as a source.
    pub async fn repoint_as(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        acknowledging: Option<&BTreeSet<InstanceKey>>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        let credentials = self.context.credentials.borrow().clone();
        let failed = self.open_sessions(replicas, deadline).await?;
        let account_for =
            |key: &InstanceKey| -> Option<Account> { credentials.get(&self.target(key).origin)?.replication.clone() };
        let sessions = replicas.iter().filter_map(|key| {
            self.session(key)
                .map(|session| (key.clone(), session, account_for(key)))
        });
        let results = join_all(sessions.map(|(key, session, account)| async move {
            let mut session = session.lock().await;
            let mut remark = String::new();
            if let Some(acknowledging) = acknowledging {
                for switched in [
                    semi_sync::stop_waiting(&mut session, deadline).await,
                    session
                        .set_semi_sync_replica(acknowledging.contains(&key), deadline)
                        .await,
                ] {
                    if let Err(error) = switched {
                        remark = format!("; semi-sync: {error}");
                    }
                }
            }
            let followed = session.follow(successor, account.as_ref(), deadline).await;
            let remark = format!("{key} follows {successor}{remark}");
            (key.clone(), followed.map(|()| remark))
        }))
        .await;
        Ok(self.collect_effects(&failed, results))
    }

    /// Runs statements on several servers, side by side. One entry per server.
    async fn on_each<F>(
        &mut self,
        keys: &BTreeSet<InstanceKey>,
        act: F,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect>
    where
        F: for<'s> Fn(&'s mut Box<dyn StepSession>) -> futures::future::BoxFuture<'s, Result<String, StepError>>,
    {
        let failed = self.open_sessions(keys, self.context.settings.step_deadline).await?;
        let act = &act;
        let sessions = keys
            .iter()
            .filter_map(|key| self.session(key).map(|session| (key.clone(), session)));
        let results = join_all(sessions.map(|(key, session)| async move {
            let mut session = session.lock().await;
            (key, act(&mut session).await)
        }))
        .await;
        Ok(self.collect_effects(&failed, results))
    }

    fn collect_effects(
        &mut self,
        failed: &BTreeMap<InstanceKey, StepError>,
        results: Vec<(InstanceKey, Result<String, StepError>)>,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let mut effects: BTreeMap<InstanceKey, StepEffect> = failed
            .iter()
            .map(|(key, error)| (key.clone(), StepEffect::of(error)))
            .collect();
        for (key, result) in results {
            let effect = match result {
                Ok(remark) => StepEffect::Done(remark),
                Err(error) => self.effect_of(&key, &error),
            };
            effects.insert(key, effect);
        }
        effects
    }

    /// Closes all sessions.
    pub async fn close_sessions(&mut self) {
        let sessions = std::mem::take(&mut self.sessions);
        join_all(
            sessions
                .into_values()
                .filter_map(Arc::into_inner)
                .map(|session| async move { session.into_inner().end().await }),
        )
        .await;
    }
}
