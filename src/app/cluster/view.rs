//! Makes one consistent view of every cluster from the observations and the replicated state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::analysis;
use crate::domain::cluster_view::{ClusterView, JudgedFinding};
use crate::domain::finding::Finding;
use crate::domain::grouping::{self, Grouping};
use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, RecoveryMode, TerminationStage};
use crate::domain::recovery::planner;
use crate::domain::state::{Cluster, Quarantine, State};
use crate::domain::state::{PolicySettings, policy_of};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use crate::app::cluster::analysis_history::AnalysisHistory;
use crate::app::filter::HostnameFilters;
use crate::app::observation::instance_cache::{InstanceCache, Snapshot};
use crate::app::ports::AnalysisChange;
use crate::app::ports::cluster_source::DocumentSet;
use crate::app::ports::{Clock, Consensus, CredentialsByOrigin};

/// How often watched views are made again without any change: findings also depend on the time.
const REFRESH: Duration = Duration::from_secs(1);

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
        created_at: NOW,
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
        automated_recovery: false,
    }
}

/// Instances that form one topology, whether the cluster is recorded or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The instances, and the records of the clusters that they belong to.
    pub grouping: Grouping,
    /// Their topology, with the id of the oldest record; with an empty id when there is no record.
    pub topology: Topology,
}

/// The findings of a cluster, with all inputs of the analysis except the time.
struct CachedAnalysis {
    revisions: BTreeMap<InstanceKey, u64>,
    aliases: BTreeMap<InstanceKey, InstanceKey>,
    recorded_primary: Option<InstanceKey>,
    policy: Policy,
    quarantines: Vec<Quarantine>,
    findings: Vec<JudgedFinding>,
}

/// The last analysis of each cluster. A cluster is analysed again when an input changed.
#[derive(Default)]
struct Analyses {
    by_cluster: Mutex<BTreeMap<ClusterId, CachedAnalysis>>,
    count: AtomicU64,
}

/// Makes views from the instance cache and the applied state. Clones share the cached analyses.
#[derive(Clone)]
pub struct ClusterViews {
    instance_cache: Arc<InstanceCache>,
    state: watch::Receiver<Arc<State>>,
    settings: Arc<PolicySettings>,
    ignore: HostnameFilters,
    clock: Arc<dyn Clock>,
    analyses: Arc<Analyses>,
    history: Arc<AnalysisHistory>,
    accounts: Option<watch::Receiver<CredentialsByOrigin>>,
    members: Option<Arc<dyn Consensus>>,
    documents: Option<watch::Receiver<DocumentSet>>,
}

impl ClusterViews {
    /// Views of the instances in `instance_cache` and the records in `state`. Findings about instances that `ignore` matches are omitted.
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
            history: Arc::default(),
            accounts: None,
            members: None,
            documents: None,
        }
    }

    /// The views of all clusters as a watch channel, with the loop that keeps them current until `stop`. It makes the views again after
    /// each observation, after each change of the replicated state, and every second. `complete` adds to each view what this layer does
    /// not know.
    pub fn watch(
        self,
        complete: impl Fn(ClusterView) -> ClusterView + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> (
        watch::Receiver<Arc<Vec<ClusterView>>>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let mut observations = self.instance_cache.changes();
        let mut state = self.state.clone();
        let current = move || Arc::new(self.clusters().into_iter().map(&complete).collect::<Vec<_>>());
        let (sender, receiver) = watch::channel(current());
        let keep_current = async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = observations.changed() => if changed.is_err() { return },
                    changed = state.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(REFRESH) => {}
                }
                sender.send_replace(current());
            }
        };
        (receiver, keep_current)
    }

    /// How the analysis of each instance changed, as observed by this member.
    pub fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.history.all()
    }

    /// How many analyses were made, for tests of the cache.
    pub fn analyses(&self) -> u64 {
        self.analyses.count.load(Ordering::Relaxed)
    }

    /// Also uses these accounts: a policy then contains whether a replication account is known.
    #[must_use]
    pub fn with_accounts(self, accounts: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            accounts: Some(accounts),
            ..self
        }
    }

    /// Also records in `history` how findings change.
    #[must_use]
    pub fn with_history(self, history: Arc<AnalysisHistory>) -> Self {
        Self { history, ..self }
    }

    /// Also uses the membership: a policy then names the voters that have to agree.
    #[must_use]
    pub fn with_members(self, consensus: Arc<dyn Consensus>) -> Self {
        Self {
            members: Some(consensus),
            ..self
        }
    }

    /// Also uses the documents: a policy then names the servers that stop soon with their pods.
    #[must_use]
    pub fn with_pods(self, documents: watch::Receiver<DocumentSet>) -> Self {
        Self {
            documents: Some(documents),
            ..self
        }
    }

    fn terminating(&self, cluster: &Cluster, topology: &Topology) -> BTreeMap<InstanceKey, TerminationStage> {
        let pods = self
            .documents
            .as_ref()
            .map(|documents| Arc::clone(&documents.borrow().pods));
        let terminating = pods.zip(cluster.document.as_ref());
        terminating.map_or_else(BTreeMap::new, |(pods, document)| {
            pods.terminating_instances(document, topology)
        })
    }

    /// The voters by name, each with its data centre; empty without a group.
    fn voters(&self, state: &State) -> BTreeMap<String, String> {
        let peers = self.members.as_ref().filter(|consensus| consensus.is_raft());
        let peers = peers.map(|consensus| consensus.peers()).unwrap_or_default();
        let voters = peers.into_iter().filter(|peer| peer.voter).map(|peer| {
            let data_center = state.members.get(&peer.id).map(|member| member.data_center.clone());
            (peer.name, data_center.unwrap_or_default())
        });
        voters.collect()
    }

    fn policy(&self, state: &State, cluster: &Cluster, topology: &Topology, now: WallTime) -> Policy {
        Policy {
            voters: self.voters(state),
            replication_account: self.has_replication_account(cluster),
            terminating: self.terminating(cluster, topology),
            ..policy_of(state, cluster, &self.settings, topology, now)
        }
    }

    /// Whether a dead primary of the cluster is replaced without a request: as its document requests, otherwise by the filters.
    fn recovers_automatically(&self, state: &State, cluster: &Cluster) -> bool {
        let document = cluster.document.as_ref();
        match document.and_then(|origin| state.documents.get(origin)) {
            Some(document) => document.mode == RecoveryMode::Auto && !document.paused,
            None => self
                .settings
                .recover_primary_filters
                .iter()
                .any(|filter| filter.matches(&cluster.name, &cluster.alias)),
        }
    }

    /// Whether an account for new replication channels is known for the servers of a cluster; `None` while none of its accounts is known.
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
        let views = self.recorded_views(&state, |_| true);
        let present: BTreeSet<&ClusterId> = views.iter().map(|view| &view.cluster.id).collect();
        let mut cached = self.analyses.by_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|id, _| present.contains(id));
        drop(cached);
        views
    }

    /// One recorded cluster.
    pub fn cluster(&self, id: &ClusterId) -> Option<ClusterView> {
        self.recorded_views(&self.state(), |cluster| cluster.id == *id)
            .into_iter()
            .next()
    }

    fn recorded_views(&self, state: &State, is_wanted: impl Fn(&Cluster) -> bool) -> Vec<ClusterView> {
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
                let revisions = group
                    .topology
                    .instances
                    .keys()
                    .filter_map(|key| Some((key.clone(), *revisions.get(key)?)));
                let revisions = revisions.collect();
                is_wanted(cluster).then(|| self.cached_view(state, cluster.clone(), group.topology, revisions, now))
            })
            .collect()
    }

    /// The view of a cluster from the present observations. The analysis is taken from the cache when no input changed.
    fn cached_view(
        &self,
        state: &State,
        cluster: Cluster,
        topology: Topology,
        revisions: BTreeMap<InstanceKey, u64>,
        now: WallTime,
    ) -> ClusterView {
        let policy = self.policy(state, &cluster, &topology, now);
        let quarantines = quarantines_of(state, &cluster);
        let is_current = |cached: &&CachedAnalysis| {
            cached.revisions == revisions
                && cached.aliases == topology.aliases
                && cached.recorded_primary == topology.recorded_primary
                && cached.policy == policy
                && cached.quarantines == quarantines
                && !cached.findings.iter().any(|judged| {
                    let ends_by_itself = matches!(judged.held_back, Some(HeldBack::StartupGrace { .. }));
                    ends_by_itself || judged.finding.code.changes_with_time()
                })
        };
        let lock = || self.analyses.by_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock()
            .get(&cluster.id)
            .filter(is_current)
            .map(|cached| cached.findings.clone());
        let findings = known.unwrap_or_else(|| {
            let findings = self.judged_findings(&topology, &policy, &quarantines, now);
            let found: Vec<Finding> = findings.iter().map(|judged| judged.finding.clone()).collect();
            let shown = topology.instances.keys().filter(|key| !self.ignore.matches(key));
            self.history.record(shown, &found, now);
            let analysis = CachedAnalysis {
                revisions,
                aliases: topology.aliases.clone(),
                recorded_primary: topology.recorded_primary.clone(),
                policy: policy.clone(),
                quarantines,
                findings: findings.clone(),
            };
            lock().insert(cluster.id.clone(), analysis);
            findings
        });
        let findings = self.with_lost_successor(state, &cluster, &topology, &policy, findings);
        ClusterView {
            automated_recovery: self.recovers_automatically(state, &cluster),
            cluster,
            topology,
            policy,
            findings,
        }
    }

    /// The findings with that of a lost successor first. It follows from the records, and replaces all other findings about its instance.
    fn with_lost_successor(
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
            findings.insert(0, JudgedFinding::new(finding, held_back));
        }
        findings
    }

    fn judged_findings(
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
            .map(|finding| {
                let held_back = planner::held_back(&finding, topology, policy);
                JudgedFinding::new(finding, held_back)
            })
            .collect()
    }

    /// The view of a cluster with another topology, which is analysed without the cache.
    pub fn view_of(&self, cluster: &Cluster, topology: Topology) -> ClusterView {
        let (state, now) = (self.state(), self.clock.wall());
        let policy = self.policy(&state, cluster, &topology, now);
        let findings = self.judged_findings(&topology, &policy, &quarantines_of(&state, cluster), now);
        let findings = self.with_lost_successor(&state, cluster, &topology, &policy, findings);
        ClusterView {
            automated_recovery: self.recovers_automatically(&state, cluster),
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
