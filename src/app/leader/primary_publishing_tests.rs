use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::domain::fixture::key;
use crate::domain::hooks::HookList;
use crate::domain::state::{Command, Group};
use crate::testkit::Rig;

/// A system that remembers the calls.
struct FakePublisher {
    name: &'static str,
    withdraws: bool,
    calls: Mutex<Vec<String>>,
    /// What every call answers.
    failure: Mutex<Option<PublishError>>,
    /// Calls do not return.
    hangs: bool,
    /// The clusters of each search for leftovers.
    searches: Mutex<Vec<usize>>,
}

impl FakePublisher {
    fn named(name: &'static str, withdraws: bool) -> Self {
        Self {
            name,
            withdraws,
            calls: Mutex::default(),
            failure: Mutex::default(),
            hangs: false,
            searches: Mutex::default(),
        }
    }

    async fn called(&self, what: &str, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        let call = format!(
            "{what} {} {} {}",
            publication.name, publication.primary, publication.epoch
        );
        self.calls.lock().unwrap().push(call);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let failure = self.failure.lock().unwrap().clone();
        failure.map_or(Ok(PublicationChange::Written), Err)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl PrimaryPublisher for FakePublisher {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn withdraws(&self) -> bool {
        self.withdraws
    }

    async fn publish(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        self.called("publish", publication).await
    }

    async fn withdraw(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        self.called("withdraw", publication).await
    }

    async fn remove_leftovers(&self, _group: &str, all: &PublishedPrimaries) -> Result<Vec<String>, PublishError> {
        self.searches.lock().unwrap().push(all.published.len());
        Ok(Vec::new())
    }
}

/// Three servers and a group of three, in which every member publishes to these systems.
async fn publishing(systems: &[Arc<FakePublisher>], change: impl FnOnce(&mut Rig)) -> (Rig, CancellationToken) {
    let mut rig = Rig::new(3, 3);
    rig.publication_gate = PublicationGate::of(systems.iter().map(|system| system.name()).collect());
    change(&mut rig);
    for id in 1..=3 {
        rig.start(id);
    }
    rig.group.commit(Command::FoundGroup {
        group: Group {
            uuid: "group".to_owned(),
            history: "h".to_owned(),
        },
    });
    rig.settled().await;
    let stop = CancellationToken::new();
    for (id, member) in &rig.members {
        let consensus = rig.group.member(*id);
        tokio::spawn(rig.group.clone().announce(Arc::clone(&consensus)));
        let publishing = PrimaryPublishing {
            publishers: systems
                .iter()
                .map(|system| Arc::<FakePublisher>::clone(system) as Arc<dyn PrimaryPublisher>)
                .collect(),
            consensus,
            instance_cache: Arc::clone(&member.instance_cache),
            gate: if *id == 1 {
                rig.publication_gate.clone()
            } else {
                PublicationGate::default()
            },
        };
        tokio::spawn(Arc::new(publishing).run(stop.clone()));
    }
    (rig, stop)
}

#[tokio::test(start_paused = true)]
async fn the_leader_publishes_at_once_and_compares_every_minute() {
    let system = Arc::new(FakePublisher::named("a", true));
    let (rig, _stop) = publishing(std::slice::from_ref(&system), |_| ()).await;
    rig.until("it is published", |_| !system.calls().is_empty()).await;
    assert_eq!(system.calls(), ["publish shop db1:3306 0"], "only the leader publishes");
    rig.wait(59_000).await;
    assert_eq!(system.calls().len(), 1);
    rig.wait(2000).await;
    assert_eq!(system.calls().len(), 2, "it is compared again");
}

#[tokio::test(start_paused = true)]
async fn a_failover_withdraws_and_publishes_the_successor_with_a_higher_epoch() {
    let both = [
        Arc::new(FakePublisher::named("withdraws", true)),
        Arc::new(FakePublisher::named("keeps", false)),
    ];
    let (rig, _stop) = publishing(&both, |_| ()).await;
    rig.until("it is published", |_| {
        both.iter().all(|system| !system.calls().is_empty())
    })
    .await;
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.until("the successor is published", |_| {
        both.iter().all(|system| {
            system
                .calls()
                .iter()
                .any(|call| call.starts_with("publish shop db2:3306"))
        })
    })
    .await;
    let calls = both[0].calls();
    assert_eq!(calls[..2], ["publish shop db1:3306 0", "withdraw shop db1:3306 1"]);
    assert_eq!(calls[2], "publish shop db2:3306 1");
    assert_eq!(both[1].calls(), ["publish shop db1:3306 0", "publish shop db2:3306 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_system_that_does_not_answer_delays_neither_a_failover_nor_another_system() {
    let silent = Arc::new(FakePublisher {
        hangs: true,
        ..FakePublisher::named("silent", true)
    });
    let other = Arc::new(FakePublisher::named("other", true));
    let (rig, _stop) = publishing(&[silent, Arc::clone(&other)], |_| ()).await;
    rig.until("it is published", |_| !other.calls().is_empty()).await;
    rig.world.kill(1);
    let begun = Instant::now();
    rig.recovered(1).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    rig.until("the successor is published", |_| {
        other
            .calls()
            .iter()
            .any(|call| call.starts_with("publish shop db2:3306"))
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_and_repeated_until_it_succeeds() {
    let system = Arc::new(FakePublisher::named("a", true));
    *system.failure.lock().unwrap() = Some(PublishError::Unanswered("gone".to_owned()));
    let (rig, _stop) = publishing(std::slice::from_ref(&system), |_| ()).await;
    rig.until("it is tried again", |_| system.calls().len() >= 3).await;
    let failure = |rig: &Rig| {
        rig.publication_gate
            .statuses()
            .into_values()
            .find_map(|status| status.failure)
    };
    assert_eq!(failure(&rig).unwrap().why, "gone");
    *system.failure.lock().unwrap() = None;
    rig.until("it succeeds", |rig| failure(rig).is_none()).await;
    let leads: Vec<_> = rig
        .publication_gate
        .statuses()
        .into_values()
        .map(|status| status.leads_to)
        .collect();
    assert_eq!(leads, [Some(key(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_publishes_and_the_former_one_forgets() {
    let system = Arc::new(FakePublisher::named("a", true));
    let (mut rig, _stop) = publishing(std::slice::from_ref(&system), |_| ()).await;
    rig.until("it is published", |_| !system.calls().is_empty()).await;
    rig.group.elect(2);
    rig.until("the new leader publishes", |_| system.calls().len() >= 2)
        .await;
    rig.until("the former one forgets", |rig| {
        rig.publication_gate.statuses().is_empty()
    })
    .await;
    rig.stop(3);
}

#[tokio::test(start_paused = true)]
async fn a_round_publishes_everything_again() {
    let system = Arc::new(FakePublisher::named("a", true));
    let (rig, _stop) = publishing(std::slice::from_ref(&system), |_| ()).await;
    rig.until("it is published", |rig| !rig.publication_gate.statuses().is_empty())
        .await;
    let round = rig.publication_gate.request_round();
    let clusters = [ClusterId("c1".to_owned())];
    assert!(
        rig.publication_gate
            .wait_for_round(round, &clusters, Duration::from_secs(5))
            .await
    );
    assert_eq!(system.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_the_policy_says_so_a_recovery_with_a_failed_publication_counts_as_failed() {
    for fails in [true, false] {
        let system = Arc::new(FakePublisher::named("a", false));
        *system.failure.lock().unwrap() = Some(PublishError::Forbidden("no permission".to_owned()));
        let (rig, _stop) = publishing(std::slice::from_ref(&system), |rig| {
            rig.fails_on_failed_publication = fails;
            for (list, command) in [
                (HookList::PostUnsuccessfulFailover, "after a failure"),
                (HookList::PostFailover, "after a success"),
            ] {
                rig.hook_settings.lists.insert(list, vec![command.to_owned()]);
            }
        })
        .await;
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert_eq!(rig.world.writable(), [key(2)]);
        let has_error = recoveries[0].errors.iter().any(|error| error.contains("no permission"));
        assert_eq!(has_error, fails, "{:?}", recoveries[0].errors);
        let command = if fails { "after a failure" } else { "after a success" };
        let ran = |rig: &Rig| format!("{:?}", rig.hooks.ran()).contains(command);
        rig.until(command, ran).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leftovers_are_looked_for_every_minute() {
    let system = Arc::new(FakePublisher::named("a", true));
    let (rig, _stop) = publishing(std::slice::from_ref(&system), |_| ()).await;
    rig.wait(59_000).await;
    assert!(system.searches.lock().unwrap().is_empty());
    rig.wait(2000).await;
    assert_eq!(*system.searches.lock().unwrap(), [1]);
    rig.wait(60_000).await;
    assert_eq!(*system.searches.lock().unwrap(), [1, 1]);
}
