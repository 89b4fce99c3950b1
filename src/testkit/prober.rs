//! The port `Prober` on the simulated servers.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use crate::app::ports::{Clock, ProbeConnection, Prober, Pulse, Target};
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;

use super::clock::PausedClock;
use super::session::ROUND_TRIP;
use super::world::World;

/// Probes the servers for one member.
pub(crate) struct SimProber {
    pub(crate) world: World,
    pub(crate) clock: PausedClock,
}

impl SimProber {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            clock: PausedClock::new(),
        }
    }

    async fn look(&self, key: &InstanceKey, deadline: Duration) -> Result<Box<InstanceFacts>, ProbeFailure> {
        let unreached = self.world.lock().unreached(key);
        match unreached {
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
        let (begun, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let outcome = self.look(&target.instance, deadline).await;
        Observation {
            key: target.instance.clone(),
            begun,
            ended: self.clock.wall(),
            micros: self.clock.monotonic().micros_since(monotonic),
            outcome,
        }
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        match self.look(&target.instance, deadline).await {
            Ok(_) => Pulse::Alive(1000),
            Err(failure) => Pulse::Doubt(failure.to_string()),
        }
    }

    async fn release(&self, _instance: &InstanceKey) {}
}
