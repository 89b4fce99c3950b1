//! One consistent picture of every cluster: what was seen, what is asked for, what follows from both.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::analysis;
use crate::domain::finding::Finding;
use crate::domain::grouping::{self, Grouping};
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::planner;
use crate::domain::state::{Cluster, Quarantine, State};
use crate::domain::state::{PolicySettings, policy_of};
use crate::domain::time::Wall;
use crate::domain::topology::{ClusterId, Topology};

use super::filter::HostnameFilters;
use super::observatory::Observatory;
use super::ports::Clock;

/// A finding, and what keeps a recovery from following it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The finding.
    pub finding: Finding,
    /// Why nothing is done about it; `None` when a recovery may follow.
    pub held_back: Option<HeldBack>,
}

/// A recorded cluster as this member sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPicture {
    /// Its record.
    pub cluster: Cluster,
    /// Its instances.
    pub topology: Topology,
    /// What may be done to it.
    pub policy: Policy,
    /// What is wrong with it.
    pub findings: Vec<Judged>,
}

/// A group of instances with the topology that they form; recorded, or about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which instances, and which records they have.
    pub grouping: Grouping,
    /// As a topology, under the oldest record's id, or under an empty id when there is none.
    pub topology: Topology,
}

/// Makes pictures from the observatory and the applied state.
#[derive(Clone)]
pub struct Pictures {
    observatory: Arc<Observatory>,
    state: watch::Receiver<Arc<State>>,
    settings: Arc<PolicySettings>,
    ignore: HostnameFilters,
    clock: Arc<dyn Clock>,
}

impl Pictures {
    /// Pictures of what `observatory` sees and `state` records; findings about instances that `ignore` matches are left out.
    pub fn new(
        observatory: Arc<Observatory>,
        state: watch::Receiver<Arc<State>>,
        settings: Arc<PolicySettings>,
        ignore: HostnameFilters,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            observatory,
            state,
            settings,
            ignore,
            clock,
        }
    }

    /// The applied state.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// All groups, recorded or not.
    pub fn groups(&self) -> Vec<Group> {
        let state = self.state();
        let (instances, aliases) = self.observatory.picture();
        let now = self.clock.wall();
        grouping::group(&instances, &aliases, &state.clusters)
            .into_iter()
            .map(|grouping| {
                let record = grouping.recorded.first().and_then(|id| state.clusters.get(id));
                let members = grouping
                    .instances
                    .iter()
                    .filter_map(|key| instances.get(key).map(|instance| (key.clone(), instance.clone())));
                let topology = Topology {
                    cluster: record.map_or_else(|| ClusterId(String::new()), |cluster| cluster.id.clone()),
                    cluster_name: record.map(|cluster| cluster.name.clone()).unwrap_or_default(),
                    cluster_alias: record.map(|cluster| cluster.alias.clone()).unwrap_or_default(),
                    recorded_primary: record
                        .and_then(|cluster| cluster.primary.as_ref())
                        .map(|primary| primary.instance.clone()),
                    taken: now,
                    instances: members.collect(),
                    aliases: aliases.clone(),
                };
                Group { grouping, topology }
            })
            .collect()
    }

    /// All recorded clusters.
    pub fn clusters(&self) -> Vec<ClusterPicture> {
        let state = self.state();
        let now = self.clock.wall();
        self.groups()
            .into_iter()
            .filter_map(|group| {
                let cluster = state.clusters.get(group.grouping.recorded.first()?)?.clone();
                Some(self.judge_at(&state, cluster, group.topology, now))
            })
            .collect()
    }

    /// One recorded cluster.
    pub fn cluster(&self, id: &ClusterId) -> Option<ClusterPicture> {
        self.clusters().into_iter().find(|picture| picture.cluster.id == *id)
    }

    fn judge_at(&self, state: &State, cluster: Cluster, topology: Topology, now: Wall) -> ClusterPicture {
        let policy = policy_of(state, &cluster, &self.settings, &topology, now);
        let quarantines: Vec<Quarantine> = state
            .quarantines
            .values()
            .filter(|quarantine| quarantine.cluster == cluster.id)
            .cloned()
            .collect();
        let findings = analysis::findings(&topology, &policy, &quarantines, now)
            .into_iter()
            .filter(|finding| !self.ignore.matches(&finding.instance))
            .map(|finding| Judged {
                held_back: planner::held_back(&finding, &topology, &policy),
                finding,
            })
            .collect();
        ClusterPicture {
            cluster,
            topology,
            policy,
            findings,
        }
    }

    /// The same cluster on another topology of it.
    pub fn judge(&self, cluster: &Cluster, topology: Topology) -> ClusterPicture {
        self.judge_at(&self.state(), cluster.clone(), topology, self.clock.wall())
    }
}
