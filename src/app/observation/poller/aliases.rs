//! Looks at the other addresses of polled servers again: an address that moved to another server is a new instance.

use std::sync::Arc;

use tracing::warn;

use crate::domain::instance::Observation;
use crate::domain::key::InstanceKey;
use crate::domain::ownership;

use crate::app::observation::instance_cache::ObservedChanges;
use crate::app::ports::{ProbeConnection, Target};

use super::Poller;

impl Poller {
    /// Checks every alias, some at a time.
    pub(super) fn check_all_aliases(self: &Arc<Self>) {
        let aliases = self.instance_cache.all_aliases();
        self.alias_checks.retain(&aliases);
        for alias in aliases {
            let poller = Arc::clone(self);
            self.tracker.spawn(async move {
                let cancel = poller.cancel.clone();
                let check = async {
                    let _attempt = poller.alias_checks.attempts.acquire().await;
                    if poller.alias_checks.begin(&alias, poller.clock.monotonic()) {
                        poller.check_alias(&alias).await;
                    }
                };
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = check => {}
                }
            });
        }
    }

    /// Checks the aliases of a server that fails or was started again, and those that a replica contradicts.
    pub(super) fn doubt_aliases(
        self: &Arc<Self>,
        key: &InstanceKey,
        observation: &Observation,
        changes: &ObservedChanges,
    ) {
        let mut doubted = match &observation.outcome {
            Ok(facts) => self.instance_cache.contradicted_aliases(facts),
            Err(_) => Vec::new(),
        };
        if observation.outcome.is_err() || changes.restarted {
            let aliases = self.instance_cache.aliases_of(key);
            doubted.extend(aliases.into_iter().filter(|alias| alias != key));
        }
        let now = self.clock.monotonic();
        for alias in doubted.into_iter().filter(|alias| self.alias_checks.begin(alias, now)) {
            let poller = Arc::clone(self);
            self.tracker.spawn(async move {
                let cancel = poller.cancel.clone();
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = poller.check_alias(&alias) => {}
                }
            });
        }
    }

    /// Probes an alias. When another server answers there, the address becomes an instance of its own.
    async fn check_alias(self: &Arc<Self>, alias: &InstanceKey) {
        let begun = self.clock.monotonic();
        let Some(canonical) = self.instance_cache.get(alias) else {
            return;
        };
        let target = Target {
            instance: alias.clone(),
            origin: canonical.origin.clone(),
        };
        let observation = self
            .prober
            .probe(&target, ProbeConnection::Fresh, self.settings.probe_deadline)
            .await;
        self.prober.release(alias).await;
        let Ok(facts) = &observation.outcome else {
            return;
        };
        if self.instance_cache.leads_elsewhere(alias, facts) != Some(true) || !self.instance_cache.drop_alias(alias) {
            return;
        }
        let canonical = canonical.instance.key;
        warn!(instance = %alias, "{alias} is no longer an address of {canonical}: another server answers there ({})", facts.identity);
        let named = ownership::accounts(&self.state.borrow()).remove(alias);
        let is_named = named.is_some();
        let origin = named
            .as_ref()
            .and_then(|choice| choice.account(Some(&target.origin), None));
        let origin = origin.unwrap_or(&target.origin).clone();
        self.start(alias, &origin, is_named);
        let changes = self.instance_cache.record(&observation, begun, self.clock.monotonic());
        self.react(alias, &origin, &observation, changes);
    }
}
