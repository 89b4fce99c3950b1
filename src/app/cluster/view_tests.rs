use super::*;
use crate::domain::finding::Code;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica};
use crate::domain::instance::{BinlogCoordinates, Instance, Observation, SemiSync};
use crate::domain::intent::Origin;
use crate::domain::time::MonotonicTime;
use crate::testkit::{PausedClock, state_of};

/// A member that sees the cluster `c1` of db1 and its replicas, and `c9` of db9.
struct Member {
    instance_cache: Arc<InstanceCache>,
    state: watch::Sender<Arc<State>>,
    views: ClusterViews,
    looks: u64,
}

impl Member {
    fn new(replicas: u32) -> Self {
        let mut state = state_of(replicas + 1);
        let mut other = state.clusters.values().next().unwrap().clone();
        other.id = ClusterId("c9".to_owned());
        other.instances = [key(9)].into();
        other.primary = None;
        state.clusters.insert(other.id.clone(), other);
        let instance_cache = Arc::new(InstanceCache::default());
        let (state, applied) = watch::channel(Arc::new(state));
        let views = ClusterViews::new(
            Arc::clone(&instance_cache),
            applied,
            Arc::default(),
            HostnameFilters::default(),
            Arc::new(PausedClock::new()),
        );
        let mut member = Self {
            instance_cache,
            state,
            views,
            looks: 0,
        };
        for n in (1..=replicas + 1).chain([9]) {
            member
                .instance_cache
                .track(&key(n), &Origin::Api, true, MonotonicTime(1));
        }
        member.see(primary(1, "1:1-9"));
        for n in 2..=replicas + 1 {
            member.see(replica(n, 1, "1:1-9"));
        }
        member.see(primary(9, "9:1-9"));
        member
    }

    fn see(&mut self, instance: Instance) {
        self.looks += 1;
        let outcome = match instance.failure {
            Some(failure) => Err(failure),
            None => Ok(Box::new(instance.facts.unwrap())),
        };
        let observation = Observation {
            key: instance.key,
            begun: NOW,
            ended: NOW,
            micros: 1,
            outcome,
        };
        self.instance_cache.record(
            &observation,
            MonotonicTime(self.looks * 1000),
            MonotonicTime(self.looks * 1000 + 500),
        );
    }

    /// How many clusters are analysed for one view of all.
    fn analysed(&self) -> u64 {
        let before = self.views.analyses();
        self.views.clusters();
        self.views.analyses() - before
    }

    fn codes(&self) -> Vec<Code> {
        let findings = self.views.clusters().into_iter().flat_map(|view| view.findings.clone());
        findings.map(|judged| judged.finding.code).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_analysed_again_only_when_it_changed() {
    let mut member = Member::new(2);
    assert_eq!((member.analysed(), member.analysed()), (2, 0));
    member.see(primary(1, "1:1-9").facts(|facts| facts.uptime_seconds += 5));
    assert_eq!(member.analysed(), 0, "time passed");
    member.see(replica(2, 1, "1:1-9").channel(|channel| channel.lag_seconds = Some(100)));
    assert_eq!(member.analysed(), 1, "lag");
    member.see(primary(1, "1:1-9").dead());
    assert_eq!(member.codes(), [Code::UnreachableMaster]);
    member.see(primary(1, "1:1-9").dead());
    assert_eq!(member.analysed(), 0, "dead as before");
    assert!(member.views.cluster(&ClusterId("c1".to_owned())).is_some());
    assert_eq!(member.analysed(), 0, "one cluster is the same as all");
    member
        .state
        .send_modify(|state| Arc::make_mut(state).recoveries_disabled = true);
    assert_eq!(member.analysed(), 2, "the switch is a part of every policy");
    member.instance_cache.untrack(&key(3));
    assert_eq!(member.analysed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_grouped_again_only_when_a_link_or_the_state_changed() {
    let mut member = Member::new(2);
    member.views.clusters();
    let mut groupings = member.views.groupings();
    let mut grouped = |member: &Member| {
        member.views.clusters();
        member.views.cluster(&ClusterId("c1".to_owned()));
        let now = member.views.groupings();
        now - std::mem::replace(&mut groupings, now)
    };
    assert_eq!(grouped(&member), 0);
    member.see(primary(1, "1:1-12"));
    member.see(replica(2, 1, "1:1-12"));
    assert_eq!(grouped(&member), 0, "transactions were committed");
    member.see(replica(3, 2, "1:1-12"));
    assert_eq!(grouped(&member), 1, "another source");
    member
        .instance_cache
        .track(&key(8), &Origin::Api, true, MonotonicTime(1));
    assert_eq!(grouped(&member), 1, "another instance");
    member
        .state
        .send_modify(|state| Arc::make_mut(state).recoveries_disabled = true);
    assert_eq!(grouped(&member), 1, "another state");
    member.see(primary(1, "1:1-15"));
    tokio::time::advance(REFRESH).await;
    assert_eq!(grouped(&member), 1, "the last time was a while ago");
}

#[tokio::test(start_paused = true)]
async fn the_view_of_one_cluster_builds_that_one_only() {
    let mut member = Member::new(2);
    let all = member.views.clusters();
    member.see(primary(1, "1:1-12"));
    member.see(primary(9, "9:1-12"));
    let before = member.views.analyses();
    let view = member.views.cluster(&ClusterId("c9".to_owned())).unwrap();
    assert_eq!(view.topology.instances.keys().cloned().collect::<Vec<_>>(), [key(9)]);
    assert_eq!(member.views.analyses() - before, 1);
    assert_eq!(all.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_about_which_nothing_was_recorded_keeps_its_view() {
    let mut member = Member::new(2);
    let are_kept = |before: &[Arc<ClusterView>], after: &[Arc<ClusterView>]| -> Vec<bool> {
        let pairs = before.iter().zip(after);
        pairs.map(|(before, after)| Arc::ptr_eq(before, after)).collect()
    };
    let first = member.views.clusters();
    let second = member.views.clusters();
    assert_eq!(are_kept(&first, &second), [true, true]);
    // Only time passed on it, and its view shows when it was seen.
    member.see(primary(9, "9:1-9"));
    let third = member.views.clusters();
    assert_eq!(are_kept(&second, &third), [true, false]);
    member
        .state
        .send_modify(|state| Arc::make_mut(state).recoveries_disabled = true);
    let fourth = member.views.clusters();
    assert_eq!(are_kept(&third, &fourth), [false, false]);
    assert!(fourth.iter().all(|view| view.policy.held_back.is_some()));
    tokio::time::advance(REFRESH).await;
    assert_eq!(
        are_kept(&fourth, &member.views.clusters()),
        [false, false],
        "a policy may end by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn what_changes_with_time_alone_is_analysed_each_time() {
    let mut member = Member::new(1);
    let waits = primary(1, "1:1-9").facts(|facts| {
        facts.binlog = Some(BinlogCoordinates::default());
        facts.semi_sync = SemiSync {
            source_enabled: true,
            source_active: true,
            wait_for_count: 1,
            ..SemiSync::default()
        };
    });
    member.see(waits);
    assert_eq!(member.codes(), [Code::LockedSemiSyncMasterHypothesis]);
    assert_eq!(member.analysed(), 1);
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    assert_eq!(member.codes(), [Code::LockedSemiSyncMaster]);
    assert_eq!(member.analysed(), 0);
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_analysis_are_logged() {
    let mut member = Member::new(1);
    member.views.clusters();
    member.see(replica(2, 1, "1:1-9").cut());
    member.see(primary(1, "1:1-9").dead());
    member.views.clusters();
    member.views.clusters();
    let codes: Vec<(InstanceKey, Vec<Code>)> = member
        .views
        .analysis_changes()
        .into_iter()
        .map(|(instance, changes)| (instance, changes.iter().map(|change| change.code).collect()))
        .collect();
    assert_eq!(
        codes,
        [
            (key(1), vec![Code::NoProblem, Code::DeadMaster]),
            (key(2), vec![Code::NoProblem]),
            (key(9), vec![Code::NoProblem]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn watched_views_follow_the_observations_and_are_completed() {
    let mut member = Member::new(1);
    let complete = |view: ClusterView| ClusterView {
        automated_recovery: true,
        ..view
    };
    let stop = CancellationToken::new();
    let (mut views, keep_current) = member.views.clone().watch(complete, stop.clone());
    let running = tokio::spawn(keep_current);
    let fails = |views: &Arc<Vec<ClusterView>>| {
        let primaries = views.iter().filter_map(|view| view.topology.get(&key(1)));
        primaries.into_iter().any(|instance| instance.failure.is_some())
    };
    assert!(!fails(&views.borrow_and_update()));
    member.see(primary(1, "1:1-9").dead());
    let followed = tokio::time::timeout(REFRESH / 2, views.wait_for(fails)).await;
    assert!(followed.unwrap().unwrap().iter().all(|view| view.automated_recovery));
    stop.cancel();
    running.await.unwrap();
}
