//! One consistent view of every cluster: what was seen, what is asked for, what follows from both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::analysis;
use crate::domain::finding::Finding;
use crate::domain::grouping::{self, Grouping};
use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Leaving, Policy};
use crate::domain::recovery::planner;
use crate::domain::state::{Cluster, Quarantine, State};
use crate::domain::state::{PolicySettings, policy_of};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use crate::app::cluster::analysis_history::AnalysisLog;
use crate::app::filter::HostnameFilters;
use crate::app::observation::instance_cache::{InstanceCache, Snapshot};
use crate::app::ports::AnalysisChange;
use crate::app::ports::cluster_source::DocumentSet;
use crate::app::ports::{Clock, Consensus, CredentialsByOrigin};

/// A finding, and what keeps a recovery from following it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedFinding {
    /// The finding.
    pub finding: Finding,
    /// Why nothing is done about it; `None` when a recovery may follow.
    pub held_back: Option<HeldBack>,
}

/// A recorded cluster as this member sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its record.
    pub cluster: Cluster,
    /// Its instances.
    pub topology: Topology,
    /// What may be done to it.
    pub policy: Policy,
    /// What is wrong with it.
    pub findings: Vec<JudgedFinding>,
}

/// For tests: the first server of the fixtures is the recorded primary of a cluster with nothing else on record.
#[cfg(test)]
pub(crate) fn of_recorded(top: Instance, others: impl IntoIterator<Item = Instance>) -> ClusterView {
    use crate::domain::fixture::{NOW, key, topology};
    use crate::domain::state::record::RecordedPrimary;

    let recorded = RecordedPrimary {
        instance: key(1),
        identity: top.facts.as_ref().unwrap().identity.clone(),
        since: NOW,
        epoch: 0,
        opened_by: None,
        process: None,
    };
    let topology = topology([top].into_iter().chain(others));
    let cluster = Cluster {
        id: topology.cluster.clone(),
        minted: NOW,
        name: "c".to_owned(),
        alias: String::new(),
        epoch: 0,
        instances: topology.instances.keys().cloned().collect(),
        primary: Some(recorded),
        document: None,
    };
    ClusterView {
        cluster,
        topology,
        policy: Policy::default(),
        findings: Vec::new(),
    }
}

/// A group of instances with the topology that they form; recorded, or about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which instances, and which records they have.
    pub grouping: Grouping,
    /// As a topology, under the oldest record's id, or under an empty id when there is none.
    pub topology: Topology,
}

/// What was found about a cluster, and all that it was found from but the time.
struct Memo {
    revisions: BTreeMap<InstanceKey, u64>,
    aliases: BTreeMap<InstanceKey, InstanceKey>,
    recorded_primary: Option<InstanceKey>,
    policy: Policy,
    quarantines: Vec<Quarantine>,
    findings: Vec<JudgedFinding>,
}

/// Findings of the clusters as they were analysed last: a cluster is analysed again when it changed.
#[derive(Default)]
struct Analyses {
    memos: Mutex<BTreeMap<ClusterId, Memo>>,
    count: AtomicU64,
}

/// Makes views from the instance cache and the applied state. Clones share what was analysed.
#[derive(Clone)]
pub struct ClusterViews {
    instance_cache: Arc<InstanceCache>,
    state: watch::Receiver<Arc<State>>,
    settings: Arc<PolicySettings>,
    ignore: HostnameFilters,
    clock: Arc<dyn Clock>,
    analyses: Arc<Analyses>,
    log: Arc<AnalysisLog>,
    accounts: Option<watch::Receiver<CredentialsByOrigin>>,
    members: Option<Arc<dyn Consensus>>,
    documents: Option<watch::Receiver<DocumentSet>>,
}

impl ClusterViews {
    /// ClusterViews of what `instance_cache` sees and `state` records; findings about instances that `ignore` matches are left out.
    pub fn new(
        instance_cache: Arc<InstanceCache>,
        state: watch::Receiver<Arc<State>>,
        settings: Arc<PolicySettings>,
        ignore: HostnameFilters,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            instance_cache,
            state,
            settings,
            ignore,
            clock,
            analyses: Arc::default(),
            log: Arc::default(),
            accounts: None,
            members: None,
            documents: None,
        }
    }

    /// How the analysis of each instance changed, as seen by this member.
    pub fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.log.all()
    }

    /// How many times a cluster was analysed.
    pub fn analyses(&self) -> u64 {
        self.analyses.count.load(Ordering::Relaxed)
    }

    /// The same, which also know whether replication accounts are configured.
    #[must_use]
    pub fn with_accounts(self, accounts: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            accounts: Some(accounts),
            ..self
        }
    }

    /// The same, which write down in this log how findings change.
    #[must_use]
    pub fn with_log(self, log: Arc<AnalysisLog>) -> Self {
        Self { log, ..self }
    }

    /// The same, which also know who would have to agree.
    #[must_use]
    pub fn with_members(self, consensus: Arc<dyn Consensus>) -> Self {
        Self {
            members: Some(consensus),
            ..self
        }
    }

    /// The same, which also know which servers are about to go with their pods.
    #[must_use]
    pub fn with_pods(self, documents: watch::Receiver<DocumentSet>) -> Self {
        Self {
            documents: Some(documents),
            ..self
        }
    }

    fn leaving(&self, cluster: &Cluster, topology: &Topology) -> BTreeMap<InstanceKey, Leaving> {
        let pods = self
            .documents
            .as_ref()
            .map(|documents| Arc::clone(&documents.borrow().pods));
        let leaving = pods.zip(cluster.document.as_ref());
        leaving.map_or_else(BTreeMap::new, |(pods, document)| pods.leaving(document, topology))
    }

    /// The voters by name, and where each of them is; nobody without a group.
    fn voters(&self, state: &State) -> BTreeMap<String, String> {
        let peers = self.members.as_ref().filter(|consensus| consensus.is_raft());
        let peers = peers.map(|consensus| consensus.peers()).unwrap_or_default();
        let voters = peers.into_iter().filter(|peer| peer.voter).map(|peer| {
            let place = state.members.get(&peer.id).map(|member| member.data_center.clone());
            (peer.name, place.unwrap_or_default())
        });
        voters.collect()
    }

    fn policy(&self, state: &State, cluster: &Cluster, topology: &Topology, now: WallTime) -> Policy {
        Policy {
            voters: self.voters(state),
            replication_account: self.has_replication_account(cluster),
            leaving: self.leaving(cluster, topology),
            ..policy_of(state, cluster, &self.settings, topology, now)
        }
    }

    /// Whether an account for new replication channels is known for the servers of a cluster; `None` while none of its accounts is.
    fn has_replication_account(&self, cluster: &Cluster) -> Option<bool> {
        let origin = cluster.document.clone().unwrap_or(Origin::Api);
        let known = self.accounts.as_ref()?.borrow().get(&origin)?.replication.is_some();
        Some(known)
    }

    /// The applied state.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// All groups, recorded or not.
    pub fn groups(&self) -> Vec<Group> {
        let Snapshot { instances, aliases, .. } = self.instance_cache.snapshot();
        group(&self.state(), &instances, &aliases, self.clock.wall())
    }

    /// All recorded clusters.
    pub fn clusters(&self) -> Vec<ClusterView> {
        let state = self.state();
        let views = self.pictured(&state, |_| true);
        let present: BTreeSet<&ClusterId> = views.iter().map(|view| &view.cluster.id).collect();
        let mut memos = self.analyses.memos.lock().unwrap_or_else(PoisonError::into_inner);
        memos.retain(|id, _| present.contains(id));
        drop(memos);
        views
    }

    /// One recorded cluster.
    pub fn cluster(&self, id: &ClusterId) -> Option<ClusterView> {
        self.pictured(&self.state(), |cluster| cluster.id == *id)
            .into_iter()
            .next()
    }

    fn pictured(&self, state: &State, is_wanted: impl Fn(&Cluster) -> bool) -> Vec<ClusterView> {
        let now = self.clock.wall();
        let Snapshot {
            instances,
            aliases,
            revisions,
        } = self.instance_cache.snapshot();
        group(state, &instances, &aliases, now)
            .into_iter()
            .filter_map(|group| {
                let cluster = state.clusters.get(group.grouping.recorded.first()?)?;
                let seen = group
                    .topology
                    .instances
                    .keys()
                    .filter_map(|key| Some((key.clone(), *revisions.get(key)?)));
                let seen = seen.collect();
                is_wanted(cluster).then(|| self.judge_seen(state, cluster.clone(), group.topology, seen, now))
            })
            .collect()
    }

    /// Analyses a cluster as this member sees it now, unless it is what it was when it was analysed last.
    fn judge_seen(
        &self,
        state: &State,
        cluster: Cluster,
        topology: Topology,
        revisions: BTreeMap<InstanceKey, u64>,
        now: WallTime,
    ) -> ClusterView {
        let policy = self.policy(state, &cluster, &topology, now);
        let quarantines = quarantines_of(state, &cluster);
        let is_of_now = |memo: &&Memo| {
            memo.revisions == revisions
                && memo.aliases == topology.aliases
                && memo.recorded_primary == topology.recorded_primary
                && memo.policy == policy
                && memo.quarantines == quarantines
                && !memo.findings.iter().any(|judged| {
                    let ends_by_itself = matches!(judged.held_back, Some(HeldBack::StartupGrace { .. }));
                    ends_by_itself || judged.finding.code.changes_with_time()
                })
        };
        let lock = || self.analyses.memos.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock()
            .get(&cluster.id)
            .filter(is_of_now)
            .map(|memo| memo.findings.clone());
        let findings = known.unwrap_or_else(|| {
            let findings = self.find(&topology, &policy, &quarantines, now);
            let told: Vec<Finding> = findings.iter().map(|judged| judged.finding.clone()).collect();
            let shown = topology.instances.keys().filter(|key| !self.ignore.matches(key));
            self.log.note(shown, &told, now);
            let memo = Memo {
                revisions,
                aliases: topology.aliases.clone(),
                recorded_primary: topology.recorded_primary.clone(),
                policy: policy.clone(),
                quarantines,
                findings: findings.clone(),
            };
            lock().insert(cluster.id.clone(), memo);
            findings
        });
        let findings = self.and_lost_successor(state, &cluster, &topology, &policy, findings);
        ClusterView {
            cluster,
            topology,
            policy,
            findings,
        }
    }

    /// The findings with that of a lost successor first; it rests on the records, and tells of its server all there is to tell.
    fn and_lost_successor(
        &self,
        state: &State,
        cluster: &Cluster,
        topology: &Topology,
        policy: &Policy,
        mut findings: Vec<JudgedFinding>,
    ) -> Vec<JudgedFinding> {
        let recoveries = state
            .recoveries
            .values()
            .filter(|recovery| recovery.plan.cluster == cluster.id);
        if let Some(finding) = planner::lost_successor(topology, policy, recoveries)
            && !self.ignore.matches(&finding.instance)
        {
            findings.retain(|judged| judged.finding.instance != finding.instance);
            let held_back = planner::held_back(&finding, topology, policy);
            findings.insert(0, JudgedFinding { finding, held_back });
        }
        findings
    }

    fn find(
        &self,
        topology: &Topology,
        policy: &Policy,
        quarantines: &[Quarantine],
        now: WallTime,
    ) -> Vec<JudgedFinding> {
        self.analyses.count.fetch_add(1, Ordering::Relaxed);
        analysis::findings(topology, policy, quarantines, now)
            .into_iter()
            .filter(|finding| !self.ignore.matches(&finding.instance))
            .map(|finding| JudgedFinding {
                held_back: planner::held_back(&finding, topology, policy),
                finding,
            })
            .collect()
    }

    /// The same cluster on another topology of it.
    pub fn judge(&self, cluster: &Cluster, topology: Topology) -> ClusterView {
        let (state, now) = (self.state(), self.clock.wall());
        let policy = self.policy(&state, cluster, &topology, now);
        let findings = self.find(&topology, &policy, &quarantines_of(&state, cluster), now);
        let findings = self.and_lost_successor(&state, cluster, &topology, &policy, findings);
        ClusterView {
            cluster: cluster.clone(),
            topology,
            policy,
            findings,
        }
    }
}

/// The groups of these instances, with the records of `state`.
fn group(
    state: &State,
    instances: &BTreeMap<InstanceKey, Instance>,
    aliases: &BTreeMap<InstanceKey, InstanceKey>,
    now: WallTime,
) -> Vec<Group> {
    grouping::group(instances, aliases, &state.clusters)
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

fn quarantines_of(state: &State, cluster: &Cluster) -> Vec<Quarantine> {
    state
        .quarantines
        .values()
        .filter(|quarantine| quarantine.cluster == cluster.id)
        .cloned()
        .collect()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
