//! Other addresses of polled servers: whether they still lead there.

use crate::domain::instance::{Identity, InstanceFacts};
use crate::domain::key::InstanceKey;

use super::InstanceCache;

impl InstanceCache {
    /// All other addresses of polled servers.
    pub fn all_aliases(&self) -> Vec<InstanceKey> {
        self.lock().aliases.keys().cloned().collect()
    }

    /// Whether the server that answers at an alias is not the one that is polled at the canonical address. `None` when
    /// the address is no alias, or when nothing is known of the canonical one.
    ///
    /// The start of the process does not count: the server may have restarted between the two probes.
    pub fn leads_elsewhere(&self, alias: &InstanceKey, facts: &InstanceFacts) -> Option<bool> {
        let inner = self.lock();
        let known = inner.tracked.get(inner.aliases.get(alias)?)?.instance.facts.as_ref()?;
        let is_same = known.identity == facts.identity
            && known.hostname == facts.hostname
            && known.server_id == facts.server_id
            && known.data_directory == facts.data_directory;
        Some(!is_same)
    }

    /// Aliases that a replica names as its source while it reports another identity for that source.
    pub fn contradicted_aliases(&self, facts: &InstanceFacts) -> Vec<InstanceKey> {
        let inner = self.lock();
        let is_contradicted = |source: &InstanceKey, uuid: &str| {
            let canonical = inner
                .aliases
                .get(source)
                .and_then(|canonical| inner.tracked.get(canonical));
            let known = canonical.and_then(|tracked| tracked.instance.facts.as_ref());
            known.is_some_and(|known| match &known.identity {
                Identity::ServerUuid(known) => !uuid.is_empty() && *known != uuid,
                Identity::ServerId(_) => false,
            })
        };
        let channels = facts.channels.iter();
        channels
            .filter(|channel| {
                let uuid = channel.source_uuid.as_deref().unwrap_or_default();
                is_contradicted(&channel.source, uuid)
            })
            .map(|channel| channel.source.clone())
            .collect()
    }

    /// Makes an alias an unknown address again. Returns whether it was an alias.
    pub fn drop_alias(&self, alias: &InstanceKey) -> bool {
        let was_alias = self.lock().aliases.remove(alias).is_some();
        if was_alias {
            self.notify_changed();
        }
        was_alias
    }
}
