//! The hands of one recovery: runs the steps that it is told, each after the right to act was proved, and takes no decision.

mod boot_read_only;
mod by_position;

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
use crate::domain::recovery::durability::SourceTerms;
use crate::domain::state::ClaimToken;
use crate::domain::topology::Topology;

mod catch_up;
mod errant;
mod pseudo_gtid;

pub use catch_up::Patience;

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{
    Account, Approach, Clock, Consensus, CredentialsByOrigin, Executor, Prober, StepError, StepSession, Target,
    Unconfirmed,
};
use crate::app::recovery::hooks::HookRunner;
use crate::app::recovery::service_gate::ServiceGate;
use crate::app::settings::RecoverySettings;

mod reconnect;
mod semi_sync;
mod takeover;

pub use takeover::Demoted;

/// What came of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Done; a remark for the record.
    Done(String),
    /// The server does not answer: nothing was done there.
    NoAnswer(String),
    /// Refused or too slow: nothing, or not enough, was done.
    Failed(String),
    /// It may or may not have had its effect.
    Unknown(String),
    /// The right to act is gone: nothing was done, and nothing more may be.
    Unconfirmed(String),
}

impl Effect {
    fn of(error: &StepError) -> Self {
        match error {
            // Another server at the address: the one that is meant is not there.
            StepError::NotConnected { .. } | StepError::OtherIdentity { .. } => Self::NoAnswer(error.to_string()),
            StepError::OutcomeUnknown { .. } => Self::Unknown(error.to_string()),
            StepError::LockHeld(_) | StepError::Refused { .. } | StepError::TooSlow { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<Unconfirmed> for Effect {
    fn from(error: Unconfirmed) -> Self {
        Self::Unconfirmed(error.to_string())
    }
}

/// Everything that hands need.
#[derive(Clone)]
pub struct RecoveryContext {
    /// Opens step sessions.
    pub executor: Arc<dyn Executor>,
    /// Looks.
    pub prober: Arc<dyn Prober>,
    /// What is known.
    pub instance_cache: Arc<InstanceCache>,
    /// Proves the right to act.
    pub consensus: Arc<dyn Consensus>,
    /// Accounts.
    pub credentials: tokio::sync::watch::Receiver<CredentialsByOrigin>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Deadlines.
    pub settings: RecoverySettings,
    /// Runs the user's commands before and after.
    pub hooks: HookRunner,
    /// Where applications are led.
    pub service_gate: ServiceGate,
}

/// How long the epoch may take to be written: the end of a recovery waits for it, and a commit may wait for acknowledgements.
const EPOCH_DEADLINE: Duration = Duration::from_secs(1);

type Session = Arc<Mutex<Box<dyn StepSession>>>;

/// The hands of one recovery. Sessions stay open, and hold the step lock of their servers, until [`StepExecutor::rest`].
pub struct StepExecutor {
    context: RecoveryContext,
    token: ClaimToken,
    identities: BTreeMap<InstanceKey, Identity>,
    sessions: BTreeMap<InstanceKey, Session>,
    /// How a demoted primary will reach its source, once that is known.
    access: Option<takeover::Access>,
}

impl StepExecutor {
    /// StepExecutor that act under this claim. `identities` are the servers that the plan means: another one at the same address is left alone.
    pub fn new(context: RecoveryContext, token: ClaimToken, identities: BTreeMap<InstanceKey, Identity>) -> Self {
        Self {
            context,
            token,
            identities,
            sessions: BTreeMap::new(),
            access: None,
        }
    }

    async fn confirmed(&self) -> Result<(), Effect> {
        self.context.consensus.confirm(&self.token).await?;
        Ok(())
    }

    /// Proves the right to act, for an effect that is not of these hands.
    pub async fn may_act(&self) -> Result<(), Effect> {
        self.confirmed().await
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

    /// Opens sessions that are not open yet, side by side, with the right to act proved before (a session ends another actor's) and
    /// after (opening may take a while). Returns what failed.
    async fn open_sessions(
        &mut self,
        keys: &BTreeSet<InstanceKey>,
        deadline: Duration,
    ) -> Result<BTreeMap<InstanceKey, StepError>, Effect> {
        self.confirmed().await?;
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
                Ok(session) => {
                    self.sessions.insert(key, Arc::new(Mutex::new(session)));
                }
                Err(error) => {
                    failed.insert(key, error);
                }
            }
        }
        self.confirmed().await?;
        Ok(failed)
    }

    /// The session of one server, opened when it is not.
    async fn session_of(&mut self, key: &InstanceKey, deadline: Duration) -> Result<Session, Effect> {
        if let Some(error) = self
            .open_sessions(&BTreeSet::from([key.clone()]), deadline)
            .await?
            .remove(key)
        {
            return Err(Effect::of(&error));
        }
        self.session(key)
            .ok_or_else(|| Effect::NoAnswer(format!("{key}: no session")))
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

    /// What an error means. A session that it broke never comes back, so it is dropped: the next step dials anew.
    fn effect_of(&mut self, key: &InstanceKey, error: &StepError) -> Effect {
        match error {
            StepError::NotConnected { .. } | StepError::OutcomeUnknown { .. } => {
                self.sessions.remove(key);
            }
            StepError::OtherIdentity { .. }
            | StepError::LockHeld(_)
            | StepError::Refused { .. }
            | StepError::TooSlow { .. } => {}
        }
        Effect::of(error)
    }

    /// Makes the old primary read-only and ends its client sessions, if it answers.
    pub async fn fence(&mut self, old_primary: &InstanceKey) -> Effect {
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
            Ok(count) => Effect::Done(format!("{old_primary} is read-only, {count} client sessions ended")),
            Err(error) => {
                self.effect_of(old_primary, &error);
                Effect::Done(format!(
                    "{old_primary} is read-only; its client sessions were not ended: {error}"
                ))
            }
        }
    }

    /// Stops the receiving threads, side by side. One entry per replica.
    pub async fn stop_receivers(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(replicas, |session| {
            Box::pin(async move {
                session
                    .stop_receiving(deadline)
                    .await
                    .map(|()| format!("{} stopped receiving", session.instance()))
            })
        })
        .await
    }

    /// Starts receiving again: the undo of a freeze.
    pub async fn thaw(&mut self, replicas: &BTreeSet<InstanceKey>) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(replicas, |session| {
            Box::pin(async move {
                session
                    .start_receiving(deadline)
                    .await
                    .map(|()| format!("{} receives again", session.instance()))
            })
        })
        .await
    }

    /// Makes a fenced old primary writable again: only while no Open is committed.
    pub async fn unfence(&mut self, old_primary: &InstanceKey) -> Effect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(old_primary, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => Effect::Done(format!("{old_primary} is writable again")),
            Err(error) => self.effect_of(old_primary, &error),
        }
    }

    /// Fresh facts of the instances with an open session, put into a copy of `topology`; those without one keep what was known.
    /// Where the session broke the server is asked anew.
    pub async fn look(&mut self, topology: &Topology) -> Topology {
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
                Some(((begun_wall, begun), Ok(facts))) => self.take_in(&mut fresh, &key, begun_wall, begun, facts),
                Some((_, Err(error))) => {
                    warn!(instance = %key, "no fresh facts of {key}: {error}");
                    self.effect_of(&key, &error);
                    broken.push(key);
                }
                None => {}
            }
        }
        // What it said before the step is no base for the next choice, and a broken session says nothing about the server.
        let asked = join_all(broken.iter().map(|key| self.ask(key))).await;
        for observation in asked {
            self.show(&mut fresh, observation);
        }
        fresh
    }

    /// Puts what the instance cache made of an observation into a view; the observation itself where nobody watches the server.
    fn show(&self, topology: &mut Topology, observation: Observation) {
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

    fn take_in(
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
        self.show(topology, observation);
    }

    /// Dials the old primary once more.
    pub async fn redial(&mut self, old_primary: &InstanceKey) -> Observation {
        self.ask(old_primary).await
    }

    /// Asks a server on a fresh connection, and takes the answer in.
    async fn ask(&self, key: &InstanceKey) -> Observation {
        let begun = self.context.clock.monotonic();
        let observation = self
            .context
            .prober
            .probe(&self.target(key), Approach::Fresh, self.context.settings.fence_deadline)
            .await;
        self.context
            .instance_cache
            .record(&observation, begun, self.context.clock.monotonic());
        observation
    }

    /// Makes the successor a writable primary. The Open entry is committed.
    pub async fn open(&mut self, successor: &InstanceKey, semi_sync: bool, terms: Option<SourceTerms>) -> Effect {
        let deadline = self.context.settings.step_deadline;
        let session = match self.session_of(successor, deadline).await {
            Ok(session) => session,
            Err(effect) => return effect,
        };
        let mut remark = String::new();
        let prepared = {
            let mut session = session.lock().await;
            let reset = session.reset_replication(deadline).await;
            let set = match terms {
                _ if reset.is_err() => Ok(()),
                // It may have waited before: what it applied itself was held up by nobody.
                Some(terms) => session.wait_for_replicas(terms.wait_for, deadline).await,
                None if semi_sync => session.set_semi_sync_source(true, deadline).await,
                None => Ok(()),
            };
            if let Err(error) = set {
                remark = format!("; semi-sync source was not enabled: {error}");
            }
            reset
        };
        if let Err(error) = prepared {
            return self.effect_of(successor, &error);
        }
        if let Err(effect) = self.confirmed().await {
            return effect;
        }
        let writable = session.lock().await.set_writable(deadline).await;
        match writable {
            Ok(()) => Effect::Done(format!("{successor} is writable{remark}")),
            Err(error) => self.effect_of(successor, &error),
        }
    }

    /// Writes the epoch of this claim on the new primary, into the table that the user made for it.
    pub async fn write_epoch(&mut self, primary: &InstanceKey, table: &EpochTable) -> Effect {
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
        if let Err(effect) = self.confirmed().await {
            return effect;
        }
        let written = session.lock().await.write_epoch(table, &row, EPOCH_DEADLINE).await;
        match written {
            Ok(()) => Effect::Done(format!("epoch {} is written into {table} on {primary}", row.epoch)),
            Err(error) => self.effect_of(primary, &error),
        }
    }

    /// Points replicas at a new source, side by side. One entry per replica.
    pub async fn repoint(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        self.repoint_as(successor, replicas, None).await
    }

    /// [`StepExecutor::repoint`]; `acknowledging`: these of them acknowledge from now on, the others do not, and none of them waits itself.
    pub async fn repoint_as(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeSet<InstanceKey>,
        acknowledging: Option<&BTreeSet<InstanceKey>>,
    ) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
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
                    session.set_semi_sync_source(false, deadline).await,
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
            let told = format!("{key} follows {successor}{remark}");
            (key.clone(), followed.map(|()| told))
        }))
        .await;
        Ok(self.settle(&failed, results))
    }

    /// Runs one statement on several servers, side by side. One entry per server.
    async fn each<F>(&mut self, keys: &BTreeSet<InstanceKey>, act: F) -> Result<BTreeMap<InstanceKey, Effect>, Effect>
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
        Ok(self.settle(&failed, results))
    }

    fn settle(
        &mut self,
        failed: &BTreeMap<InstanceKey, StepError>,
        results: Vec<(InstanceKey, Result<String, StepError>)>,
    ) -> BTreeMap<InstanceKey, Effect> {
        let mut effects: BTreeMap<InstanceKey, Effect> = failed
            .iter()
            .map(|(key, error)| (key.clone(), Effect::of(error)))
            .collect();
        for (key, result) in results {
            let effect = match result {
                Ok(remark) => Effect::Done(remark),
                Err(error) => self.effect_of(&key, &error),
            };
            effects.insert(key, effect);
        }
        effects
    }

    /// Closes all sessions.
    pub async fn rest(&mut self) {
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
