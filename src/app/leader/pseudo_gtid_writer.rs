//! Pseudo-GTID entries on primaries whose replicas know no GTIDs. Only the leader writes them, and only on the primary that is recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::analysis::other_writable_tops;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::pseudo_gtid::{entry_statement, helps};

use crate::app::cluster::view::{ClusterView, ClusterViews};
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, EntryWriter, Target};

/// Between two entries on a server, as in orchestrator.
const EVERY: Duration = Duration::from_secs(5);
/// How long one entry may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Servers that are written to side by side.
const SIDE_BY_SIDE: usize = 50;

/// The loop on every member that writes while the member leads.
pub struct PseudoGtidWriter {
    /// Writes.
    pub writer: Arc<dyn EntryWriter>,
    /// Who leads.
    pub consensus: Arc<dyn Consensus>,
    /// Whose accounts open servers.
    pub instance_cache: Arc<InstanceCache>,
    /// ClusterViews of clusters.
    pub views: ClusterViews,
    /// Time, which entries carry.
    pub clock: Arc<dyn Clock>,
}

/// A primary that gets an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Due {
    instance: InstanceKey,
    identity: Identity,
    server_id: u32,
}

impl PseudoGtidWriter {
    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let leadership = self.consensus.leadership();
        let mut said = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            if leadership.borrow().is_leader {
                self.write(&mut said).await;
            }
        }
    }

    /// One entry on each primary. Nothing is written unless a quorum says, after the question, that this member leads.
    async fn write(&self, said: &mut BTreeMap<InstanceKey, String>) {
        if self.views.clusters().iter().all(|view| due(view).is_none()) {
            return;
        }
        if let Err(error) = self.consensus.barrier().await {
            debug!("no Pseudo-GTID entries: {error}");
            return;
        }
        let clusters = self.views.clusters();
        let writes = clusters.iter().filter_map(due).map(|due| async move {
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
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        for (instance, written) in results.into_iter().flatten() {
            match written {
                Ok(()) => {
                    said.remove(&instance);
                }
                Err(why) if said.get(&instance) != Some(&why) => {
                    warn!(%instance, "no Pseudo-GTID entry on {instance}: {why}");
                    said.insert(instance, why);
                }
                Err(_) => {}
            }
        }
    }
}

/// The primary of a cluster when it is to get an entry: the recorded one, which answers, is writable and the only one that is, and has
/// no GTIDs. Not while a recovery works on the cluster, nor where a document wants nothing to be done.
fn due(view: &ClusterView) -> Option<Due> {
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
        && helps(facts)
        && view.policy.in_recovery.is_empty()
        && !is_left_alone
        && other_writable_tops(topology, key).is_empty();
    is_due.then(|| Due {
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
    use crate::domain::policy::Mode;

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
            HeldBack::Mode(Mode::Off),
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
