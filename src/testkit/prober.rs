//! The port `Prober` on the simulated servers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::app::ports::{Clock, ProbeConnection, Prober, Pulse, Target};
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::state::MemberId;

use super::clock::PausedClock;
use super::fault::FaultKind;
use super::session::ROUND_TRIP;
use super::world::{Look, World};

/// Probes the servers for one member.
pub(crate) struct SimProber {
    pub(crate) world: World,
    pub(crate) clock: PausedClock,
    /// The member that probes; 0: no member of a group.
    member: MemberId,
    /// The start of each server's process to which the pulse connection belongs. A restart breaks it.
    pulse_lives: Mutex<BTreeMap<InstanceKey, u64>>,
}

impl SimProber {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            clock: PausedClock::new(),
            member: 0,
            pulse_lives: Mutex::default(),
        }
    }

    /// The same for a member of a group.
    pub(crate) fn of(self, member: MemberId) -> Self {
        Self { member, ..self }
    }

    fn note(&self, target: &Target, is_pulse: bool) {
        let (member, server, at) = (self.member, target.instance.clone(), Instant::now());
        self.world.lock().looks.push(Look {
            member,
            server,
            is_pulse,
            at,
        });
    }

    fn unreached(&self, key: &InstanceKey) -> Option<ProbeFailure> {
        let inner = self.world.lock();
        let is_dropped = inner.dropped_of.contains(&(self.member, key.clone()));
        is_dropped
            .then_some(ProbeFailure::NoAnswer)
            .or_else(|| inner.unreached(key))
    }

    async fn look(&self, target: &Target, deadline: Duration) -> Result<Box<InstanceFacts>, ProbeFailure> {
        let key = &target.instance;
        let key = &self.world.lock().addresses.get(key).unwrap_or(key).clone();
        let fault = self.world.lock().due(key, "probe");
        if let Some(FaultKind::First(change)) = fault {
            change(&mut self.world.lock());
        }
        let unreached = self.unreached(key);
        match unreached {
            None if self.world.lock().refused_accounts.contains(&target.origin) => {
                sleep(ROUND_TRIP).await;
                Err(ProbeFailure::Denied(format!("the account of {}", target.origin)))
            }
            Some(failure @ (ProbeFailure::NoAnswer | ProbeFailure::Stalled)) => {
                sleep(deadline).await;
                Err(failure)
            }
            Some(failure) => {
                sleep(ROUND_TRIP).await;
                Err(failure)
            }
            None => {
                sleep(ROUND_TRIP).await;
                let mut inner = self.world.lock();
                inner.settle();
                // It may have died meanwhile.
                match inner.unreached(key) {
                    Some(_) => Err(ProbeFailure::Lost("gone".to_owned())),
                    None => Ok(Box::new(inner.facts(key))),
                }
            }
        }
    }
}

#[async_trait]
impl Prober for SimProber {
    async fn probe(&self, target: &Target, _approach: ProbeConnection, deadline: Duration) -> Observation {
        self.note(target, false);
        let (begun, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let outcome = self.look(target, deadline).await;
        Observation {
            key: target.instance.clone(),
            begun,
            ended: self.clock.wall(),
            micros: self.clock.monotonic().micros_since(monotonic),
            outcome,
        }
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        self.note(target, true);
        let life = self
            .world
            .lock()
            .servers
            .get(&target.instance)
            .map(|server| server.life);
        match self.look(target, deadline).await {
            Ok(_) => {
                let mut lives = self.pulse_lives.lock().unwrap();
                let before = life.and_then(|life| lives.insert(target.instance.clone(), life));
                match before {
                    Some(before) if Some(before) != life => Pulse::Doubt("connection lost".to_owned()),
                    _ => Pulse::Alive(1000),
                }
            }
            Err(failure) => Pulse::Doubt(failure.to_string()),
        }
    }

    /// Simulated servers vanish silently: the harder case.
    async fn disconnected(&self, _instance: &InstanceKey) {
        std::future::pending::<()>().await;
    }

    async fn release(&self, _instance: &InstanceKey) {}
}
