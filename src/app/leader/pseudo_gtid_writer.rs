//! Writes Pseudo-GTID entries on recorded primaries of clusters without GTIDs. Runs on the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::analysis::other_writable_tops;
use crate::domain::cluster_view::ClusterView;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::pseudo_gtid::{entry_statement, needs_entries};

use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, EntryWriter, Target};

/// The time between two entries on a server, as in orchestrator.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long one entry may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many servers are written to at once.
const MAX_CONCURRENT_WRITES: usize = 50;

/// Writes entries while this member leads.
pub struct PseudoGtidWriter {
    /// Writes an entry on a server.
    pub writer: Arc<dyn EntryWriter>,
    /// Whether this member leads.
    pub consensus: Arc<dyn Consensus>,
    /// The origins of servers, which decide about the account.
    pub instance_cache: Arc<InstanceCache>,
    /// The views of clusters.
    pub views: ClusterViews,
    /// The time, which entries contain.
    pub clock: Arc<dyn Clock>,
}

/// A primary that gets an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EntryTarget {
    instance: InstanceKey,
    identity: Identity,
    server_id: u32,
}

impl PseudoGtidWriter {
    /// Runs until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let leadership = self.consensus.leadership();
        let mut reported = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            if leadership.borrow().is_leader {
                self.write(&mut reported).await;
            }
        }
    }

    /// Writes one entry on each primary, after a quorum has confirmed that this member leads.
    async fn write(&self, reported: &mut BTreeMap<InstanceKey, String>) {
        let clusters = self.views.all().await;
        if clusters.iter().all(|view| due(view).is_none()) {
            return;
        }
        if let Err(error) = self.consensus.barrier().await {
            debug!("skipped Pseudo-GTID entries: {error}");
            return;
        }
        let clusters = self.views.all().await;
        let due: Vec<_> = clusters.iter().filter_map(|view| due(view)).collect();
        let writes = due.into_iter().map(|due| async move {
            let target = Target {
                origin: self.instance_cache.get(&due.instance).map(|tracked| tracked.origin)?,
                instance: due.instance.clone(),
            };
            let own = uuid::Uuid::new_v4().as_u64_pair().0;
            let statement = entry_statement(self.clock.wall(), due.server_id, own);
            let written = self
                .writer
                .write_entry(&target, &due.identity, &statement, DEADLINE)
                .await;
            Some((due.instance, written))
        });
        let results: Vec<_> = futures::stream::iter(writes)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect()
            .await;
        for (instance, written) in results.into_iter().flatten() {
            match written {
                Ok(()) => {
                    reported.remove(&instance);
                }
                Err(why) if reported.get(&instance) != Some(&why) => {
                    warn!(%instance, "failed to write a Pseudo-GTID entry on {instance}: {why}");
                    reported.insert(instance, why);
                }
                Err(_) => {}
            }
        }
    }
}

/// The primary of a cluster, when it gets an entry. It is the recorded one, answers, is the only writable server, and
/// has no GTIDs. A cluster in a recovery, or with a document that forbids changes, gets no entry.
fn due(view: &ClusterView) -> Option<EntryTarget> {
    let recorded = view.cluster.primary.as_ref()?;
    let topology = &view.topology;
    let key = topology.resolve(&recorded.instance);
    let facts = topology.get(key)?.valid_facts()?;
    let is_left_alone = matches!(
        view.policy.held_back,
        Some(HeldBack::Paused | HeldBack::Mode(_) | HeldBack::RecoveryRuns { .. } | HeldBack::OwnedByAnotherGroup(_))
    );
    let is_due = facts.identity == recorded.identity
        && facts.is_writable()
        && !facts.is_binlog_server()
        && facts.group_name.is_empty()
        && needs_entries(facts)
        && view.policy.in_recovery.is_empty()
        && !is_left_alone
        && other_writable_tops(topology, key).is_empty();
    is_due.then(|| EntryTarget {
        instance: key.clone(),
        identity: facts.identity.clone(),
        server_id: facts.server_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cluster::view::of_recorded as view;
    use crate::domain::fixture::{Adjust as _, key, mariadb_primary, primary, replica};
    use crate::domain::instance::Instance;
    use crate::domain::policy::RecoveryMode;

    fn plain() -> Instance {
        primary(1, "").facts(|facts| facts.gtid_mode = "OFF".to_owned())
    }

    #[test]
    fn only_a_living_writable_primary_without_gtids_gets_entries() {
        let replicas = || [replica(2, 1, "").facts(|facts| facts.gtid_mode = "OFF".to_owned())];
        assert_eq!(due(&view(plain(), replicas())).unwrap().instance, key(1));
        for top in [
            plain().facts(|facts| facts.gtid_mode = "ON".to_owned()),
            plain().facts(|facts| facts.read_only = true),
            plain().facts(|facts| facts.log_bin = false),
            plain().facts(|facts| facts.group_name = "g".to_owned()),
            plain().dead(),
            mariadb_primary(1, ""),
        ] {
            assert_eq!(due(&view(top.clone(), replicas())), None, "{top:?}");
        }
    }

    #[test]
    fn another_server_at_the_address_or_a_second_writable_primary_gets_none() {
        let mut other = view(plain(), []);
        other.cluster.primary.as_mut().unwrap().identity = Identity::ServerUuid("another".to_owned());
        assert_eq!(due(&other), None);
        let second = primary(2, "").facts(|facts| facts.gtid_mode = "OFF".to_owned());
        let below_both = replica(3, 2, "").facts(|facts| facts.gtid_mode = "OFF".to_owned());
        assert_eq!(due(&view(plain(), [second, below_both])), None);
    }

    #[test]
    fn while_a_recovery_works_or_a_document_pauses_nothing_is_written() {
        for held_back in [
            HeldBack::Paused,
            HeldBack::Mode(RecoveryMode::Off),
            HeldBack::RecoveryRuns { uid: "r".to_owned() },
        ] {
            let mut paused = view(plain(), []);
            paused.policy.held_back = Some(held_back);
            assert_eq!(due(&paused), None);
        }
        let mut working = view(plain(), []);
        working.policy.in_recovery.insert(key(1));
        assert_eq!(due(&working), None);
        let mut unfiltered = view(plain(), []);
        unfiltered.policy.held_back = Some(HeldBack::NoFilterMatches);
        assert!(due(&unfiltered).is_some());
    }
}
