//! Makes one consistent view of every cluster from the observations and the replicated state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::analysis;
use crate::domain::cluster_view::{ClusterView, JudgedFinding};
use crate::domain::declared::pods::Pods;
use crate::domain::finding::Finding;
#[cfg(test)]
use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, RecoveryMode, TerminationStage, VoterProblem};
use crate::domain::recovery::planner;
use crate::domain::state::{Cluster, Quarantine, State};
use crate::domain::state::{PolicySettings, policy_of};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use crate::app::cluster::analysis_history::AnalysisHistory;
use crate::app::cluster::groups::{Group, GroupCache, Groups};
use crate::app::filter::HostnameFilters;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::AnalysisChange;
use crate::app::ports::cluster_source::DocumentSet;
use crate::app::ports::{Clock, Consensus, CredentialsByOrigin};
use crate::app::supervision;

/// How often watched views are made again without any change: findings also depend on the time.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a view of all clusters may use the view of a cluster about which nothing was recorded, and its policy, milliseconds. Both also
/// depend on the time.
const REUSE_VIEW_MILLIS: u64 = 1000;
const REUSE_POLICY_MILLIS: u64 = 200;
/// The longest rest between two views of all clusters.
const MAX_REST: Duration = Duration::from_millis(250);
/// With at least so many instances, work on all clusters is moved off the threads that serve probes, raft and the API.
const MANY_INSTANCES: usize = 200;

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
        split_from: None,
    };
    ClusterView {
        cluster,
        topology,
        policy: Policy::default(),
        findings: Vec::new(),
        automated_recovery: false,
    }
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
    groups: GroupCache,
    views: Mutex<KnownViews>,
}

/// What all views of one moment depend on apart from observations.
#[derive(Clone, Default)]
struct Inputs {
    state: Arc<State>,
    accounts: Option<CredentialsByOrigin>,
    pods: Option<Arc<Pods>>,
    voters: BTreeMap<String, String>,
    voter_problems: BTreeMap<String, VoterProblem>,
}

impl Inputs {
    /// Whether nothing but the state differs.
    fn has_same_surroundings(&self, other: &Self) -> bool {
        are_same(self.accounts.as_ref(), other.accounts.as_ref())
            && are_same(self.pods.as_ref(), other.pods.as_ref())
            && self.voters == other.voters
            && self.voter_problems == other.voter_problems
    }
}

fn are_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The views that were made last.
#[derive(Default)]
struct KnownViews {
    inputs: Inputs,
    by_cluster: BTreeMap<ClusterId, KnownView>,
}

/// A view of a cluster, and what it was made from.
struct KnownView {
    group: Arc<Group>,
    view: Arc<ClusterView>,
    made_at: WallTime,
    /// When its policy was found to be current.
    checked_at: WallTime,
}

/// The clusters in which instances fail, with the revision of each instance: see [`ClusterViews::changed_with_failures`].
#[derive(Debug, Default)]
pub struct SeenFailures {
    revisions: BTreeMap<ClusterId, BTreeMap<InstanceKey, u64>>,
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
        let complete = Arc::new(complete);
        let all = move |views: &Self| {
            let views = views.clusters().into_iter();
            Arc::new(views.map(|view| complete(view.as_ref().clone())).collect::<Vec<_>>())
        };
        let (sender, receiver) = watch::channel(all(&self));
        let keep_current = async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = observations.changed() => if changed.is_err() { return },
                    changed = state.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(REFRESH) => {}
                }
                let begun = Instant::now();
                let all = all.clone();
                // The views of a moment ago stay when making new ones fails.
                let work = move |views: &Self| supervision::catch_sync(|| all(views));
                if let Some(views) = self.off_workers(work).await {
                    sender.send_replace(views);
                }
                rest(begun.elapsed()).await;
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

    /// What all views depend on at this moment apart from observations.
    fn inputs(&self, state: Arc<State>) -> Inputs {
        let pods = |documents: &watch::Receiver<DocumentSet>| Arc::clone(&documents.borrow().pods);
        Inputs {
            voters: self.voters(&state),
            voter_problems: self.voter_problems(),
            state,
            accounts: self.accounts.as_ref().map(|known| known.borrow().clone()),
            pods: self.documents.as_ref().map(pods),
        }
    }

    fn terminating(inputs: &Inputs, cluster: &Cluster, topology: &Topology) -> BTreeMap<InstanceKey, TerminationStage> {
        let terminating = inputs.pods.as_ref().zip(cluster.document.as_ref());
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

    fn voter_problems(&self) -> BTreeMap<String, VoterProblem> {
        let clocks = self.clock.comparison();
        let skewed = clocks
            .skewed()
            .map(|offset| (offset.name.clone(), VoterProblem::ClockSkew));
        let silent = self.members.iter().flat_map(|consensus| consensus.silent_voters());
        // The second one of a name wins: a member that does not answer is the graver problem.
        skewed.chain(silent.map(|name| (name, VoterProblem::Silent))).collect()
    }

    fn policy(&self, inputs: &Inputs, cluster: &Cluster, topology: &Topology, now: WallTime) -> Policy {
        Policy {
            voters: inputs.voters.clone(),
            voter_problems: inputs.voter_problems.clone(),
            replication_account: Self::has_replication_account(inputs, cluster),
            terminating: Self::terminating(inputs, cluster, topology),
            ..policy_of(&inputs.state, cluster, &self.settings, topology, now)
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
    fn has_replication_account(inputs: &Inputs, cluster: &Cluster) -> Option<bool> {
        let origin = cluster.document.clone().unwrap_or(Origin::Api);
        let known = inputs.accounts.as_ref()?.get(&origin)?.replication.is_some();
        Some(known)
    }

    /// The time of the views, as the group agreed on it.
    pub fn now(&self) -> WallTime {
        self.clock.wall()
    }

    /// The applied state.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Runs work on all clusters. With many instances it takes milliseconds, and runs on a thread of its own.
    pub async fn off_workers<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        if self.instance_cache.len() < MANY_INSTANCES {
            return work(self);
        }
        let views = self.clone();
        match tokio::task::spawn_blocking(move || work(&views)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// [`ClusterViews::clusters`], off the threads of the runtime when there are many.
    pub async fn all(&self) -> Vec<Arc<ClusterView>> {
        self.off_workers(Self::clusters).await
    }

    fn current_groups(&self) -> Groups {
        self.analyses
            .groups
            .current(&self.instance_cache, self.state(), self.clock.wall())
    }

    /// All groups, recorded or not.
    pub fn groups(&self) -> Arc<Vec<Arc<Group>>> {
        self.current_groups().groups
    }

    /// How often instances were grouped, for tests of the cache.
    pub fn groupings(&self) -> u64 {
        self.analyses.groups.groupings()
    }

    /// All recorded clusters. A cluster about which nothing was recorded for a moment keeps its view.
    pub fn clusters(&self) -> Vec<Arc<ClusterView>> {
        let now = self.clock.wall();
        let Groups { state, groups } = self.current_groups();
        let inputs = self.inputs(state);
        let mut known_views = self.analyses.views.lock().unwrap_or_else(PoisonError::into_inner);
        let KnownViews {
            inputs: before,
            by_cluster: mut known,
        } = std::mem::take(&mut *known_views);
        let has_same_surroundings = before.has_same_surroundings(&inputs);
        let is_same_state = has_same_surroundings && Arc::ptr_eq(&before.state, &inputs.state);
        let busy = clusters_with_records(&before.state, &inputs.state);
        let mut by_cluster = BTreeMap::new();
        let mut views = Vec::with_capacity(groups.len());
        for group in groups.iter() {
            let id = group.grouping.recorded.first();
            let Some(cluster) = id.and_then(|id| inputs.state.clusters.get(id)) else {
                continue;
            };
            let kept = known
                .remove(&cluster.id)
                .filter(|known| Arc::ptr_eq(&known.group, group) && has_same_surroundings)
                .filter(|known| !changes_with_time(&known.view.findings))
                .filter(|known| now.millis_since(known.made_at) < REUSE_VIEW_MILLIS)
                .and_then(|known| {
                    if is_same_state && now.millis_since(known.checked_at) < REUSE_POLICY_MILLIS {
                        return Some(known);
                    }
                    let view = &known.view;
                    let is_same = (is_same_state || !busy.contains(&cluster.id))
                        && view.cluster == *cluster
                        && view.automated_recovery == self.recovers_automatically(&inputs.state, cluster)
                        && view.policy == self.policy(&inputs, cluster, &group.topology, now);
                    is_same.then_some(KnownView {
                        checked_at: now,
                        ..known
                    })
                });
            let known = kept.unwrap_or_else(|| KnownView {
                group: Arc::clone(group),
                view: Arc::new(self.cached_view(&inputs, cluster.clone(), group, now)),
                made_at: now,
                checked_at: now,
            });
            views.push(Arc::clone(&known.view));
            by_cluster.insert(cluster.id.clone(), known);
        }
        let mut cached = self.analyses.by_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|id, _| by_cluster.contains_key(id));
        drop(cached);
        *known_views = KnownViews { inputs, by_cluster };
        views
    }

    /// The recorded clusters in which an instance fails and something is other than at the last call with `seen`. They are
    /// few, and made without those of all clusters, which take longer.
    pub fn changed_with_failures(&self, seen: &mut SeenFailures) -> Vec<Arc<ClusterView>> {
        let Groups { state, groups } = self.current_groups();
        let fails = |group: &&Arc<Group>| {
            let mut instances = group.topology.instances.values();
            instances.any(|instance| instance.failure.is_some())
        };
        let before = std::mem::take(&mut seen.revisions);
        let mut changed = Vec::new();
        for group in groups.iter().filter(fails) {
            let Some(cluster) = group.grouping.recorded.first().and_then(|id| state.clusters.get(id)) else {
                continue;
            };
            if before.get(&cluster.id) != Some(&group.revisions) {
                changed.push((cluster.clone(), group));
            }
            seen.revisions.insert(cluster.id.clone(), group.revisions.clone());
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let (inputs, now) = (self.inputs(Arc::clone(&state)), self.clock.wall());
        let view = |(cluster, group): (Cluster, &Arc<Group>)| Arc::new(self.cached_view(&inputs, cluster, group, now));
        changed.into_iter().map(view).collect()
    }

    /// One recorded cluster, as it is now.
    pub fn cluster(&self, id: &ClusterId) -> Option<ClusterView> {
        self.recorded_view(|group| group.grouping.recorded.first() == Some(id))
    }

    /// The recorded cluster of an instance, as it is now.
    pub fn cluster_of(&self, instance: &InstanceKey) -> Option<ClusterView> {
        self.recorded_view(|group| group.topology.get(instance).is_some())
    }

    fn recorded_view(&self, is_wanted: impl Fn(&Group) -> bool) -> Option<ClusterView> {
        let Groups { state, groups } = self.current_groups();
        let group = groups.iter().find(|group| is_wanted(group))?;
        let cluster = state.clusters.get(group.grouping.recorded.first()?)?.clone();
        let inputs = self.inputs(state);
        Some(self.cached_view(&inputs, cluster, group, self.clock.wall()))
    }

    /// The view of a cluster from the present observations. The analysis is taken from the cache when no input changed.
    fn cached_view(&self, inputs: &Inputs, cluster: Cluster, group: &Group, now: WallTime) -> ClusterView {
        let state = &inputs.state;
        let topology = Topology {
            taken: now,
            ..group.topology.clone()
        };
        let policy = self.policy(inputs, &cluster, &topology, now);
        let quarantines = quarantines_of(state, &cluster);
        let is_current = |cached: &&CachedAnalysis| {
            cached.revisions == group.revisions
                && cached.aliases == topology.aliases
                && cached.recorded_primary == topology.recorded_primary
                && cached.policy == policy
                && cached.quarantines == quarantines
                && !changes_with_time(&cached.findings)
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
                revisions: group.revisions.clone(),
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
        let policy = self.policy(&self.inputs(Arc::clone(&state)), cluster, &topology, now);
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

/// Whether findings may be others although nothing was recorded.
fn changes_with_time(findings: &[JudgedFinding]) -> bool {
    findings.iter().any(|judged| {
        let ends_by_itself = matches!(judged.held_back, Some(HeldBack::StartupGrace { .. }));
        ends_by_itself || judged.finding.code.changes_with_time()
    })
}

/// The clusters with a recovery or a quarantine in either of two states: their views follow from more than their policy.
fn clusters_with_records(before: &State, after: &State) -> BTreeSet<ClusterId> {
    let of = |state: &State| {
        let recoveries = state.recoveries.values().map(|recovery| recovery.plan.cluster.clone());
        let quarantines = state.quarantines.values().map(|quarantine| quarantine.cluster.clone());
        recoveries.chain(quarantines).collect::<BTreeSet<_>>()
    };
    let mut busy = of(after);
    busy.extend(of(before));
    busy
}

/// Rests for as long as work on all clusters took, so that such work uses at most one half of a core. Work of less than a millisecond needs
/// no rest.
pub async fn rest(took: Duration) {
    if took >= Duration::from_millis(1) {
        tokio::time::sleep(took.min(MAX_REST)).await;
    }
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
