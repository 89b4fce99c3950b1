//! The ports `Executor` and `StepSession` on a [`World`], with faults.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, sleep_until};

use crate::app::ports::{
    Account, Attachment, Executor, LockHolderSession, OpenTransaction, StepError, StepSession, Target,
};
use crate::domain::epoch_row::{EpochRow, EpochTable};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Identity, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::managed_channel::ManagedChannel;
use crate::domain::scheduled_events::{EventsEnabled, ScheduledEvent};
use crate::domain::settings::ServerSettings;

use super::fault::{Fault, FaultKind};
use super::world::{Inner, World};

/// The duration of every answered statement.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(1);

/// The lock wait timeout of sessions.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Members may not have probed a server that has run for less than this time.
const JUST_STARTED: Duration = Duration::from_millis(50);

// === executor ===

/// Opens sessions on the servers for one member.
pub(crate) struct SimExecutor {
    pub(crate) world: World,
    /// The name of the member, for the log of statements.
    pub(crate) member: String,
}

impl SimExecutor {
    async fn begin_session(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
        ends_holder: bool,
    ) -> Result<Box<dyn StepSession>, StepError> {
        let instance = &target.instance;
        let unreached = self.world.lock().unreached(instance);
        if let Some(failure) = unreached {
            sleep(if matches!(failure, ProbeFailure::NoAnswer | ProbeFailure::Stalled) {
                deadline
            } else {
                ROUND_TRIP
            })
            .await;
            return Err(StepError::NotConnected {
                instance: instance.clone(),
                why: failure.to_string(),
            });
        }
        sleep(ROUND_TRIP).await;
        let mut inner = self.world.lock();
        inner.last_session += 1;
        let id = inner.last_session;
        let Some(server) = inner.servers.get_mut(instance).filter(|server| server.up) else {
            return Err(StepError::NotConnected {
                instance: instance.clone(),
                why: "gone".to_owned(),
            });
        };
        let found = server.facts.identity.clone();
        if let Some(wanted) = identity.filter(|wanted| **wanted != found) {
            return Err(StepError::OtherIdentity {
                instance: instance.clone(),
                wanted: wanted.clone(),
                found,
            });
        }
        if server.lock.is_some() && !ends_holder {
            return Err(StepError::LockHeld(instance.clone()));
        }
        let ended = server.lock.replace(id);
        let life = server.life;
        if let Some(ended) = ended {
            inner
                .killed_holders
                .push((instance.clone(), self.member.clone(), ended));
        }
        drop(inner);
        Ok(Box::new(SimSession {
            world: self.world.clone(),
            member: self.member.clone(),
            instance: instance.clone(),
            id,
            life,
            broken: false,
            managed: ManagedChannel::Usual,
        }))
    }
}

#[async_trait]
impl Executor for SimExecutor {
    async fn begin(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        self.begin_session(target, identity, deadline, true).await
    }

    async fn begin_if_free(
        &self,
        target: &Target,
        identity: Option<&Identity>,
        deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        self.begin_session(target, identity, deadline, false).await
    }

    async fn begin_beside(
        &self,
        target: &Target,
        _identity: Option<&Identity>,
        _deadline: Duration,
    ) -> Result<Box<dyn StepSession>, StepError> {
        sleep(ROUND_TRIP).await;
        let instance = &target.instance;
        let inner = self.world.lock();
        let reached = inner
            .servers
            .get(instance)
            .filter(|_| inner.unreached(instance).is_none());
        // It lives as long as the session that holds the lock.
        let Some((server, id)) = reached.and_then(|server| Some((server, server.lock?))) else {
            return Err(StepError::NotConnected {
                instance: instance.clone(),
                why: "not reached".to_owned(),
            });
        };
        Ok(Box::new(SimSession {
            world: self.world.clone(),
            member: self.member.clone(),
            instance: instance.clone(),
            id,
            life: server.life,
            broken: false,
            managed: ManagedChannel::Usual,
        }))
    }
}

pub(super) struct SimSession {
    world: World,
    member: String,
    instance: InstanceKey,
    id: u64,
    life: u64,
    broken: bool,
    managed: ManagedChannel,
}

impl SimSession {
    pub(super) fn key(&self) -> InstanceKey {
        self.instance.clone()
    }

    fn unknown(&mut self, what: &str, why: &str) -> StepError {
        self.broken = true;
        StepError::OutcomeUnknown {
            instance: self.instance.clone(),
            what: what.to_owned(),
            why: why.to_owned(),
        }
    }

    /// Whether the connection is intact: the server did not restart, and no other session took the lock.
    fn is_connected(&self, inner: &Inner) -> bool {
        let server = &inner.servers[&self.instance];
        server.up
            && server.life == self.life
            && server.lock == Some(self.id)
            && inner.unreached(&self.instance).is_none()
    }

    /// Runs a statement, with the planned fault.
    pub(super) async fn run<T>(
        &mut self,
        what: &'static str,
        deadline: Duration,
        effect: impl FnOnce(&mut Inner) -> T + Send,
    ) -> Result<T, StepError> {
        if self.broken {
            return Err(StepError::NotConnected {
                instance: self.instance.clone(),
                why: "the connection of this session failed before".to_owned(),
            });
        }
        sleep(ROUND_TRIP).await;
        let fault = self.world.lock().due(&self.instance, what);
        let mut after = None;
        let mut break_after = false;
        match fault {
            None => {}
            Some(FaultKind::Refuse) => {
                return Err(StepError::Refused {
                    instance: self.instance.clone(),
                    what: what.to_owned(),
                    number: 1227,
                    message: "no".to_owned(),
                });
            }
            Some(FaultKind::Block) => {
                sleep(LOCK_WAIT).await;
                return Err(StepError::Refused {
                    instance: self.instance.clone(),
                    what: what.to_owned(),
                    number: 1205,
                    message: "lock wait timeout exceeded".to_owned(),
                });
            }
            Some(FaultKind::BlockByCommits) => {
                let killed = |inner: &Inner| {
                    let line = format!("{} kill_clients ", self.instance);
                    inner.log.iter().filter(|entry| entry.starts_with(&line)).count()
                };
                let before = killed(&self.world.lock());
                sleep(LOCK_WAIT).await;
                let mut inner = self.world.lock();
                if killed(&inner) == before {
                    inner.faults.push(Fault {
                        server: self.instance.clone(),
                        statement: what,
                        after: 0,
                        kind: FaultKind::BlockByCommits,
                    });
                    return Err(StepError::Refused {
                        instance: self.instance.clone(),
                        what: what.to_owned(),
                        number: 1205,
                        message: "lock wait timeout exceeded".to_owned(),
                    });
                }
            }
            Some(FaultKind::Break) => return Err(self.unknown(what, "connection lost")),
            Some(FaultKind::Hang) => {
                sleep(deadline).await;
                return Err(self.unknown(what, "no answer in time"));
            }
            Some(FaultKind::Slow) => {
                sleep(deadline).await;
                return Err(StepError::TooSlow {
                    instance: self.instance.clone(),
                    what: what.to_owned(),
                    millis: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
                });
            }
            Some(FaultKind::DoAndBreak) => break_after = true,
            Some(FaultKind::First(change)) => change(&mut self.world.lock()),
            Some(FaultKind::Then(change)) => after = Some(change),
        }
        let done = {
            let mut inner = self.world.lock();
            inner.settle();
            if self.is_connected(&inner) {
                if what != "facts" && what != "settings" {
                    let line = format!("{} {what} by {}", self.instance, self.member);
                    inner.log.push(line);
                }
                let value = effect(&mut inner);
                inner.settle();
                if let Some(change) = after {
                    change(&mut inner);
                }
                // What happened after the effect may have taken the connection with it.
                self.is_connected(&inner).then_some(value)
            } else {
                None
            }
        };
        match done {
            Some(value) if !break_after => Ok(value),
            Some(_) | None => Err(self.unknown(what, "connection lost")),
        }
    }
}

#[async_trait]
impl StepSession for SimSession {
    fn instance(&self) -> &InstanceKey {
        &self.instance
    }

    fn manage_channel(&mut self, name: &str) {
        self.managed = ManagedChannel::Named(name.to_owned());
    }

    async fn facts(&mut self, deadline: Duration) -> Result<InstanceFacts, StepError> {
        let key = self.instance.clone();
        let mut facts = self.run("facts", deadline, |inner| inner.facts(&key)).await?;
        self.managed.apply(&mut facts);
        Ok(facts)
    }

    async fn set_read_only(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("set_read_only", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            server.read_only = true;
            server.read_only_since_boot = false;
        })
        .await
    }

    async fn set_writable(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("set_writable", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            server.read_only = false;
            server.read_only_since_boot = false;
            // Servers that the members cannot reach, or that started after the last probe, do not count.
            let can_be_known = |other: &InstanceKey| {
                let server = &inner.servers[other];
                let is_known = inner.unreached(other).is_none() && server.started.elapsed() > JUST_STARTED;
                *other == key || (is_known && !server.is_stranger)
            };
            let writable: Vec<InstanceKey> = inner.writable().into_iter().filter(can_be_known).collect();
            if writable.len() > 1 {
                inner.violations.push(format!("two writable at once: {writable:?}"));
            }
            // Co-primaries replicate from each other, writable or not; and through a third one while the other one catches up.
            let source_of = |of: &InstanceKey| {
                let link = inner.servers.get(of).and_then(|server| server.channel.as_ref());
                link.map(|link| link.source.clone())
            };
            let is_in_ring = std::iter::successors(source_of(&key), source_of)
                .take(inner.servers.len())
                .any(|above| above == key);
            if source_of(&key).is_some() && !is_in_ring {
                inner.violations.push(format!("{key} is writable and replicates"));
            }
        })
        .await
    }

    async fn kill_clients(&mut self, deadline: Duration) -> Result<u32, StepError> {
        let key = self.instance.clone();
        self.run("kill_clients", deadline, |inner| {
            inner.servers.get_mut(&key).unwrap().facts.semi_sync.wait_sessions = 0;
            0
        })
        .await
    }

    async fn disconnect_clients(&mut self, deadline: Duration) -> Result<bool, StepError> {
        self.kill_clients(deadline).await.map(|_| true)
    }

    async fn stop_receiver(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("stop_receiver", deadline, |inner| {
            if let Some(link) = &mut inner.servers.get_mut(&key).unwrap().channel {
                link.receives = false;
                link.is_stale = false;
            }
        })
        .await
    }

    async fn start_receiver(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("start_receiver", deadline, |inner| {
            if let Some(link) = &mut inner.servers.get_mut(&key).unwrap().channel {
                link.receives = true;
            }
        })
        .await
    }

    async fn start_applier(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("start_applier", deadline, |inner| {
            if let Some(link) = &mut inner.servers.get_mut(&key).unwrap().channel {
                link.applies = true;
            }
        })
        .await
    }

    async fn apply_without_delay(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("apply_without_delay", deadline, |inner| {
            if let Some(link) = &mut inner.servers.get_mut(&key).unwrap().channel {
                link.applies = true;
                link.is_off_gtid |= link.delay_seconds > 0;
                link.delay_seconds = 0;
            }
        })
        .await
    }

    async fn delay_by(&mut self, seconds: u64, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("delay_by", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            let Some(link) = &mut server.channel else { return };
            link.applies = true;
            if link.delay_seconds == seconds && !link.is_off_gtid {
                return;
            }
            if !server.executed.contains(&link.received) {
                inner.violations.push(format!("{key} lost what it had received"));
            }
            (link.delay_seconds, link.is_off_gtid) = (seconds, false);
        })
        .await
    }

    async fn wait_applied(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        let end = Instant::now() + deadline;
        loop {
            let key = self.instance.clone();
            if self
                .run("wait_applied", deadline, |inner| {
                    inner.servers[&key].executed.contains(set)
                })
                .await?
            {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(StepError::TooSlow {
                    instance: self.instance.clone(),
                    what: "applying".to_owned(),
                    millis: u64::try_from(deadline.as_millis()).unwrap(),
                });
            }
            sleep_until(end.min(Instant::now() + Duration::from_millis(500))).await;
        }
    }

    async fn reset_replication(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("reset_replication", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            let unapplied = server
                .channel
                .as_ref()
                .is_some_and(|link| !server.executed.contains(&link.received));
            server.channel = None;
            if unapplied {
                inner.violations.push(format!("{key} lost what it had received"));
            }
        })
        .await
    }

    async fn set_semi_sync_source(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("set_semi_sync_source", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            let is_source = server.channel.is_none();
            let semi_sync = &mut server.facts.semi_sync;
            let confirms = !on && is_source && semi_sync.source_enabled && semi_sync.wait_sessions > 0;
            semi_sync.source_enabled = on;
            if confirms {
                inner
                    .violations
                    .push(format!("{key} confirmed commits that no replica acknowledged"));
            }
        })
        .await
    }

    async fn wait_for_replicas(&mut self, count: u32, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("wait_for_replicas", deadline, |inner| {
            let semi_sync = &mut inner.servers.get_mut(&key).unwrap().facts.semi_sync;
            semi_sync.source_enabled = count > 0;
            semi_sync.source_active = count > 0;
            if count > 0 {
                semi_sync.wait_for_count = count;
                semi_sync.wait_no_replica = true;
                semi_sync.after_sync = true;
                semi_sync.timeout_millis = u64::from(u32::MAX);
            }
        })
        .await
    }

    async fn acknowledge(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("acknowledge", deadline, |inner| {
            let semi_sync = &mut inner.servers.get_mut(&key).unwrap().facts.semi_sync;
            semi_sync.replica_enabled = on;
            semi_sync.replica_active = on;
        })
        .await
    }

    async fn acknowledge_received(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("acknowledge_received", deadline, |inner| inner.let_go_of_commits(&key))
            .await
    }

    async fn follow(
        &mut self,
        source: &InstanceKey,
        _account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("follow", deadline, |inner| inner.follow(&key, source)).await
    }

    async fn wait_all_applied(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("wait_all_applied", deadline, |inner| {
            if let Some(link) = &mut inner.servers.get_mut(&key).unwrap().channel {
                link.applies = true;
            }
        })
        .await
    }

    async fn inject_empty(&mut self, set: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("inject_empty", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            if server.read_only {
                inner
                    .violations
                    .push(format!("{key} is read-only and was injected into"));
                return;
            }
            server.executed = server.executed.union(set);
        })
        .await
    }

    async fn attach(
        &mut self,
        source: &InstanceKey,
        attachment: &Attachment<'_>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let key = self.instance.clone();
        let start = attachment.start;
        self.run("attach", deadline, |inner| {
            if !inner.servers[&key].read_only {
                inner.violations.push(format!("{key} is attached while it is writable"));
            }
            inner.follow(&key, source);
            if let Some(link) = inner.servers.get_mut(&key).unwrap().channel.as_mut().filter(|_| !start) {
                (link.receives, link.applies) = (false, false);
            }
        })
        .await
    }

    async fn sessions_that_block_read_only(
        &mut self,
        _waited: Duration,
        deadline: Duration,
    ) -> Result<Vec<LockHolderSession>, StepError> {
        self.run("sessions_that_block_read_only", deadline, |_| {
            vec![LockHolderSession {
                id: 77,
                account: "app@10.0.0.9".to_owned(),
                seconds: 31,
                is_certain: true,
            }]
        })
        .await
    }

    async fn end_backup_locks(&mut self, deadline: Duration) -> Result<u32, StepError> {
        self.run("end_backup_locks", deadline, |_| 0).await
    }

    async fn enable_events(
        &mut self,
        events: &BTreeSet<ScheduledEvent>,
        _logged: bool,
        deadline: Duration,
    ) -> Result<EventsEnabled, StepError> {
        let key = self.instance.clone();
        self.run("enable_events", deadline, |inner| {
            if inner.servers[&key].read_only {
                inner
                    .violations
                    .push(format!("{key} is read-only and got its events enabled"));
            }
            EventsEnabled {
                enabled: events.len(),
                ..EventsEnabled::default()
            }
        })
        .await
    }

    async fn disable_events(&mut self, deadline: Duration) -> Result<BTreeSet<ScheduledEvent>, StepError> {
        self.run("disable_events", deadline, |_| BTreeSet::new()).await
    }

    async fn set_boot_read_only(&mut self, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("set_boot_read_only", deadline, |inner| {
            inner.servers.get_mut(&key).unwrap().boots_read_only = true;
        })
        .await
    }

    /// All servers of the world count their logs alike, so a place is the same in every one.
    async fn locate(
        &mut self,
        after: &[BinlogCoordinates],
        deadline: Duration,
    ) -> Result<Vec<Result<BinlogCoordinates, String>>, StepError> {
        self.run("locate", deadline, |inner| inner.located(after)).await
    }

    async fn follow_at(
        &mut self,
        source: &InstanceKey,
        place: &BinlogCoordinates,
        _account: Option<&Account>,
        deadline: Duration,
    ) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("follow", deadline, |inner| {
            inner.goes_on_at(&key, place);
            inner.follow(&key, source);
        })
        .await
    }

    async fn reset_gtids(&mut self, keep: &GtidSet, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("reset_gtids", deadline, |inner| {
            let server = inner.servers.get_mut(&key).unwrap();
            if !server.read_only {
                inner
                    .violations
                    .push(format!("{key} is writable and forgot what it has"));
                return;
            }
            server.executed = keep.clone();
        })
        .await
    }

    async fn settings(&mut self, deadline: Duration) -> Result<ServerSettings, StepError> {
        let key = self.instance.clone();
        self.run("settings", deadline, |inner| {
            inner.facts(&key).settings.unwrap_or_default()
        })
        .await
    }

    async fn transactions(&mut self, deadline: Duration) -> Result<Vec<OpenTransaction>, StepError> {
        let key = self.instance.clone();
        self.run("transactions", deadline, |inner| {
            inner.servers[&key].transactions.clone()
        })
        .await
    }

    async fn kill_sessions(&mut self, sessions: &BTreeSet<u64>, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("kill_sessions", deadline, |inner| {
            let open = &mut inner.servers.get_mut(&key).unwrap().transactions;
            open.retain(|transaction| !sessions.contains(&transaction.session));
        })
        .await
    }

    async fn replication_account(&mut self, deadline: Duration) -> Result<Option<Account>, StepError> {
        let key = self.instance.clone();
        self.run("replication_account", deadline, |inner| {
            inner.servers[&key].channel.as_ref().map(|_| Account {
                user: "repl".to_owned(),
                password: secrecy::SecretString::from("secret"),
            })
        })
        .await
    }

    async fn set_semi_sync_replica(&mut self, on: bool, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        self.run("set_semi_sync_replica", deadline, |inner| {
            let semi_sync = &mut inner.servers.get_mut(&key).unwrap().facts.semi_sync;
            semi_sync.replica_enabled = on;
            semi_sync.replica_active = on;
        })
        .await
    }

    async fn write_epoch(&mut self, _table: &EpochTable, row: &EpochRow, deadline: Duration) -> Result<(), StepError> {
        let key = self.instance.clone();
        let epoch = row.epoch;
        self.run("write_epoch", deadline, |inner| {
            if inner.servers[&key].read_only {
                inner
                    .violations
                    .push(format!("{key} is read-only and epoch {epoch} was written there"));
            }
        })
        .await
    }

    async fn end(self: Box<Self>) {
        let mut inner = self.world.lock();
        if let Some(server) = inner
            .servers
            .get_mut(&self.instance)
            .filter(|server| server.lock == Some(self.id))
        {
            server.lock = None;
        }
    }
}

impl Drop for SimSession {
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        if let Some(server) = inner
            .servers
            .get_mut(&self.instance)
            .filter(|server| server.lock == Some(self.id))
        {
            server.lock = None;
        }
    }
}
