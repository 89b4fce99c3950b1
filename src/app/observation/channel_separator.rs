//! Probes that tell the managed channel of a server from its other channels, by what is recorded of clusters.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{ProbeConnection, Prober, Pulse, Target};
use crate::domain::instance::Observation;
use crate::domain::key::InstanceKey;
use crate::domain::managed_channel;
use crate::domain::state::State;

/// A prober that separates the channels of what another one reads.
pub struct ChannelSeparator {
    inner: Arc<dyn Prober>,
    instance_cache: Arc<InstanceCache>,
    state: OnceLock<watch::Receiver<Arc<State>>>,
}

impl ChannelSeparator {
    /// Separates what `inner` reads. Other addresses of servers are those in `instance_cache`.
    pub fn new(inner: Arc<dyn Prober>, instance_cache: Arc<InstanceCache>) -> Self {
        Self {
            inner,
            instance_cache,
            state: OnceLock::new(),
        }
    }

    /// Uses the records of clusters in this state from now on. Before, the default channel or the only one is managed.
    pub fn follow(&self, state: watch::Receiver<Arc<State>>) {
        // A second call changes nothing: a member has one state.
        self.state.get_or_init(|| state);
    }

    fn separate(&self, observation: &mut Observation) {
        let Ok(facts) = &mut observation.outcome else { return };
        let usual = managed_channel::ManagedChannel::Usual;
        let choice = self.state.get().map_or(usual, |state| {
            let state = Arc::clone(&state.borrow());
            let resolve = |key: &InstanceKey| {
                let known = self.instance_cache.get(key);
                known.map_or_else(|| key.clone(), |tracked| tracked.instance.key)
            };
            managed_channel::choose(&state, &resolve(&observation.key), facts, resolve)
        });
        choice.apply(facts);
    }
}

#[async_trait]
impl Prober for ChannelSeparator {
    async fn probe(&self, target: &Target, approach: ProbeConnection, deadline: Duration) -> Observation {
        let mut observation = self.inner.probe(target, approach, deadline).await;
        self.separate(&mut observation);
        observation
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        self.inner.pulse(target, deadline).await
    }

    async fn disconnected(&self, instance: &InstanceKey) {
        self.inner.disconnected(instance).await;
    }

    async fn release(&self, instance: &InstanceKey) {
        self.inner.release(instance).await;
    }
}
