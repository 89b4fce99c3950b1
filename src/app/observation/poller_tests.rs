use std::collections::BTreeSet;

use async_trait::async_trait;

use super::*;
use crate::app::filter::HostnameFilters;
use crate::domain::fixture::key;
use crate::domain::state::Seed;
use crate::testkit::{PausedClock, Reach, SimProber, World};

/// What was asked, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Pulse,
    Kept,
    Fresh,
}

struct Noting {
    inner: SimProber,
    notes: Mutex<Vec<(Instant, InstanceKey, Asked)>>,
    released: Mutex<Vec<InstanceKey>>,
}

#[async_trait]
impl Prober for Noting {
    async fn probe(&self, target: &Target, approach: ProbeConnection, deadline: Duration) -> Observation {
        let asked = if approach == ProbeConnection::Fresh {
            Asked::Fresh
        } else {
            Asked::Kept
        };
        self.notes
            .lock()
            .unwrap()
            .push((Instant::now(), target.instance.clone(), asked));
        self.inner.probe(target, approach, deadline).await
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        self.notes
            .lock()
            .unwrap()
            .push((Instant::now(), target.instance.clone(), Asked::Pulse));
        self.inner.pulse(target, deadline).await
    }

    async fn release(&self, instance: &InstanceKey) {
        self.released.lock().unwrap().push(instance.clone());
    }
}

struct Scene {
    world: World,
    prober: Arc<Noting>,
    instance_cache: Arc<InstanceCache>,
    poller: Arc<Poller>,
    state: watch::Sender<Arc<State>>,
    cancel: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn seeds(servers: &[u32]) -> State {
    let seeds = servers.iter().map(|n| Seed {
        instance: key(*n),
        origin: Origin::Api,
    });
    State {
        seeds: seeds.collect(),
        ..State::default()
    }
}

impl Scene {
    async fn new(servers: u32, seeded: &[u32], settings: PollSettings) -> Self {
        let world = World::of_primary_and_replicas(servers);
        let prober = Arc::new(Noting {
            inner: SimProber::new(&world),
            notes: Mutex::default(),
            released: Mutex::default(),
        });
        let instance_cache = Arc::new(InstanceCache::default());
        let state = watch::Sender::new(Arc::new(seeds(seeded)));
        let cancel = CancellationToken::new();
        let credentials = tokio::sync::watch::Sender::new(crate::app::ports::CredentialsByOrigin::default());
        let poller = Poller::new(
            Arc::clone(&instance_cache),
            prober.clone(),
            Arc::new(PausedClock::new()),
            settings,
            state.subscribe(),
            credentials.subscribe(),
            cancel.clone(),
        );
        tokio::spawn(Arc::clone(&poller).run());
        let scene = Self {
            world,
            prober,
            instance_cache,
            poller,
            state,
            cancel,
        };
        scene.pass(2000).await;
        scene
    }

    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// How often a server was asked in the next milliseconds.
    async fn count(&self, n: u32, millis: u64) -> Vec<Asked> {
        self.prober.notes.lock().unwrap().clear();
        self.pass(millis).await;
        self.asked(n)
    }

    fn asked(&self, n: u32) -> Vec<Asked> {
        let notes = self.prober.notes.lock().unwrap();
        notes
            .iter()
            .filter(|(_, asked, _)| *asked == key(n))
            .map(|(_, _, asked)| *asked)
            .collect()
    }

    fn keys(&self) -> BTreeSet<InstanceKey> {
        self.instance_cache.keys()
    }
}

fn filters(pattern: &str) -> HostnameFilters {
    HostnameFilters::parse(&[pattern.to_owned()]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn from_one_seed_the_whole_topology_is_found() {
    for seed in [1, 3] {
        let scene = Scene::new(4, &[seed], PollSettings::default()).await;
        assert_eq!(scene.keys(), (1..=4).map(key).collect(), "from db{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_pulsed_and_a_replica_is_only_polled() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    let source = scene.count(1, 1000).await;
    let pulses = source.iter().filter(|asked| **asked == Asked::Pulse).count();
    assert!((8..=11).contains(&pulses), "{source:?}");
    assert_eq!(scene.asked(2).iter().filter(|asked| **asked == Asked::Pulse).count(), 0);
    let polls = scene.count(2, 20_000).await;
    assert!(
        (3..=5).contains(&polls.len()) && polls.iter().all(|asked| *asked == Asked::Kept),
        "{polls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_pulse_is_followed_at_once_by_a_fresh_attempt_and_a_close_look_at_the_replicas() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.prober.notes.lock().unwrap().clear();
    scene.world.kill(1);
    let killed = Instant::now();
    scene.pass(1000).await;
    let notes = scene.prober.notes.lock().unwrap().clone();
    let fresh = notes
        .iter()
        .find(|(_, server, asked)| *server == key(1) && *asked == Asked::Fresh)
        .unwrap();
    assert!(fresh.0 - killed < Duration::from_millis(110), "{:?}", fresh.0 - killed);
    for n in [2, 3] {
        let looks: Vec<Duration> = notes
            .iter()
            .filter(|(_, server, _)| *server == key(n))
            .map(|(at, _, _)| *at - killed)
            .collect();
        assert!(
            looks.first().is_some_and(|first| *first < Duration::from_millis(120)),
            "db{n}: {looks:?}"
        );
        // A look about every 20 ms in the first half second, every 100 ms after it.
        assert!((20..=40).contains(&looks.len()), "db{n}: {} looks", looks.len());
    }
    let failing = scene.instance_cache.get(&key(1)).unwrap();
    assert!(failing.failing_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_close_look_ends_when_the_source_is_back() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.kill(1);
    scene.pass(300).await;
    scene.world.start(1);
    scene.pass(300).await;
    let looks = scene.count(2, 2000).await;
    assert!(looks.len() <= 2, "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stays_dead_costs_less_and_less() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.kill(1);
    scene.pass(20_000).await;
    let looks = scene.count(2, 10_000).await;
    assert!((8..=13).contains(&looks.len()), "{}", looks.len());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_the_others_nothing() {
    let scene = Scene::new(4, &[1], PollSettings::default()).await;
    scene.world.with(4, |server| server.reach = Reach::Dropped);
    scene.pass(10_000).await;
    let pulses = scene.count(1, 1000).await;
    assert!(pulses.len() >= 8, "{pulses:?}");
}

#[tokio::test(start_paused = true)]
async fn pulses_are_stretched_when_there_are_many_servers() {
    let settings = PollSettings {
        pulses_per_second: 2,
        ..PollSettings::default()
    };
    let scene = Scene::new(4, &[1], settings).await;
    let pulses = scene
        .count(1, 10_000)
        .await
        .iter()
        .filter(|asked| **asked == Asked::Pulse)
        .count();
    // Four servers share two pulses a second.
    assert!((4..=6).contains(&pulses), "{pulses}");
}

#[tokio::test(start_paused = true)]
async fn what_a_filter_names_is_not_crawled_to() {
    let ignore = |pattern| PollSettings {
        ignore: filters(pattern),
        ..PollSettings::default()
    };
    let scene = Scene::new(4, &[1], ignore("^db3:")).await;
    assert_eq!(scene.keys(), [1, 2, 4].map(key).into());
    let replicas = PollSettings {
        ignore_replicas: filters("db[34]"),
        ..PollSettings::default()
    };
    let scene = Scene::new(4, &[1], replicas).await;
    assert_eq!(scene.keys(), [1, 2].map(key).into());
    let sources = PollSettings {
        ignore_sources: filters("db1"),
        ..PollSettings::default()
    };
    let scene = Scene::new(4, &[2], sources).await;
    assert_eq!(scene.keys(), [2].map(key).into());
    // What is asked for by name is watched all the same.
    let scene = Scene::new(4, &[1, 3], ignore("^db3:")).await;
    assert!(scene.keys().contains(&key(3)));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_server_is_let_go_and_not_found_again_until_its_time_is_over() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    let mut state = seeds(&[1]);
    state.forgotten.insert(key(3), crate::domain::fixture::NOW);
    scene.state.send_replace(Arc::new(state));
    scene.pass(20_000).await;
    assert_eq!(scene.keys(), [1, 2].map(key).into());
    assert!(scene.prober.released.lock().unwrap().contains(&key(3)));
    assert_eq!(scene.count(3, 10_000).await, []);
    scene.state.send_replace(Arc::new(seeds(&[1])));
    scene.pass(10_000).await;
    assert!(scene.keys().contains(&key(3)));
}

#[tokio::test(start_paused = true)]
async fn a_crawled_address_that_never_answers_is_dropped_and_one_asked_for_is_kept() {
    let scene = Scene::new(3, &[1, 9], PollSettings::default()).await;
    scene
        .poller
        .probe_now(&Target {
            instance: key(8),
            origin: Origin::Api,
        })
        .await;
    assert!(scene.keys().contains(&key(8)));
    scene.pass(80_000).await;
    assert!(!scene.keys().contains(&key(8)));
    assert!(scene.keys().contains(&key(9)));
}

#[tokio::test(start_paused = true)]
async fn a_look_is_fresh_and_taken_in() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.with(2, |server| server.read_only = false);
    let observation = scene
        .poller
        .probe_now(&Target {
            instance: key(2),
            origin: Origin::Api,
        })
        .await;
    assert!(observation.outcome.is_ok());
    assert_eq!(scene.asked(2).last(), Some(&Asked::Fresh));
    assert!(
        scene
            .instance_cache
            .get(&key(2))
            .unwrap()
            .instance
            .facts
            .unwrap()
            .is_writable()
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gets_its_first_replica_is_pulsed_from_then_on() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    assert!(!scene.count(2, 1000).await.contains(&Asked::Pulse));
    scene.world.lock().follow(&key(3), &key(2));
    scene
        .poller
        .probe_now(&Target {
            instance: key(3),
            origin: Origin::Api,
        })
        .await;
    let asked = scene.count(2, 1000).await;
    assert!(
        asked.iter().filter(|asked| **asked == Asked::Pulse).count() >= 7,
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_poller() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.cancel.cancel();
    scene.pass(1000).await;
    assert_eq!(scene.count(1, 10_000).await, []);
    assert_eq!(
        scene
            .prober
            .released
            .lock()
            .unwrap()
            .iter()
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
}
