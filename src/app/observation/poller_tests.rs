use std::collections::BTreeSet;

use async_trait::async_trait;

use super::*;
use crate::app::filter::HostnameFilters;
use crate::domain::discovery::AllowedHosts;
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
    /// Probes of servers from `db100` on that run now, and the most that ran at a time.
    unanswered: Mutex<usize>,
    most_unanswered: Mutex<usize>,
    /// A permit: the next connection of db1 that is waited on is closed.
    closed: tokio::sync::Semaphore,
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
        let is_silent = target.instance >= key(100) && target.instance < key(150);
        if is_silent {
            let mut running = self.unanswered.lock().unwrap();
            *running += 1;
            let mut most = self.most_unanswered.lock().unwrap();
            *most = (*most).max(*running);
        }
        let observation = self.inner.probe(target, approach, deadline).await;
        if is_silent {
            *self.unanswered.lock().unwrap() -= 1;
        }
        observation
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        self.notes
            .lock()
            .unwrap()
            .push((Instant::now(), target.instance.clone(), Asked::Pulse));
        self.inner.pulse(target, deadline).await
    }

    async fn disconnected(&self, instance: &InstanceKey) {
        if *instance != key(1) {
            return std::future::pending().await;
        }
        self.closed.acquire().await.unwrap().forget();
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
            unanswered: Mutex::default(),
            most_unanswered: Mutex::default(),
            closed: tokio::sync::Semaphore::new(0),
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

/// Four servers with a pulse of db1 in four seconds.
async fn seldom_pulsed() -> Scene {
    let settings = PollSettings {
        pulses_per_second: 1,
        ..PollSettings::default()
    };
    Scene::new(4, &[1], settings).await
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_does_not_wait_for_the_next_pulse() {
    let scene = seldom_pulsed().await;
    scene.world.kill(1);
    scene.prober.closed.add_permits(1);
    scene.pass(10).await;
    assert!(scene.instance_cache.get(&key(1)).unwrap().failing_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_every_connection_gets_a_bounded_number_of_pulses() {
    let scene = seldom_pulsed().await;
    scene.prober.closed.add_permits(1000);
    let asked = scene.count(1, 20_000).await;
    let pulses = asked.iter().filter(|asked| **asked == Asked::Pulse).count();
    // Five intervals, some of them cut off by a poll: one pulse each at most, and one more after each closed connection.
    assert!((5..=12).contains(&pulses), "{pulses}");
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

fn registers(scene: &Scene, addresses: impl IntoIterator<Item = InstanceKey>) {
    let addresses = addresses.into_iter();
    scene.world.with(1, |server| server.registered.extend(addresses));
}

fn not_followed(scene: &Scene, n: u32) -> Vec<String> {
    let instance = scene.instance_cache.get(&key(n)).unwrap().instance;
    instance.not_followed.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn an_address_that_an_account_with_replication_slave_registers_is_not_dialled() {
    let scene = Scene::new(2, &[1], PollSettings::default()).await;
    let stranger = InstanceKey::new("collector.evil.net", 3306);
    registers(&scene, [stranger.clone(), InstanceKey::new("134744072", 3306)]);
    scene.pass(130_000).await;
    assert_eq!(scene.keys(), [1, 2].map(key).into());
    let dialled = scene.prober.notes.lock().unwrap().clone();
    assert!(!dialled.iter().any(|(_, server, _)| *server == stranger), "{dialled:?}");
    assert_eq!(
        not_followed(&scene, 1),
        [
            "134744072:3306: it is not the address of a server: a number in place of a host name",
            "collector.evil.net:3306: it is not named, and shares neither the domain nor the private network of a \
             named server of the cluster; to admit it, add \"collector.evil.net\" to DiscoveryAllowedHosts or discover it",
        ]
    );
    // A person names it; then it is dialled, and no longer reported.
    let mut state = seeds(&[1]);
    state.seeds.insert(Seed {
        instance: stranger.clone(),
        origin: Origin::Api,
    });
    scene.state.send_replace(Arc::new(state));
    scene.pass(10_000).await;
    assert!(scene.keys().contains(&stranger));
    assert_eq!(not_followed(&scene, 1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_list_admits_is_dialled() {
    let settings = PollSettings {
        allowed: AllowedHosts::parse(&["*.other.net".to_owned()], false).unwrap(),
        ..PollSettings::default()
    };
    let scene = Scene::new(2, &[1], settings).await;
    let admitted = InstanceKey::new("db7.other.net", 3306);
    registers(&scene, [admitted.clone(), InstanceKey::new("db7.evil.net", 3306)]);
    scene.pass(6_000).await;
    assert!(scene.keys().contains(&admitted));
    assert_eq!(scene.keys().len(), 3);
    assert_eq!(not_followed(&scene, 1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn members_of_a_recorded_cluster_are_watched_whatever_their_names() {
    let former = InstanceKey::new("db3.former.net", 3306);
    let scene = Scene::new(2, &[1], PollSettings::default()).await;
    registers(&scene, [former.clone()]);
    let mut state = crate::testkit::state_of(2);
    state.seeds = seeds(&[1]).seeds;
    let cluster = state.clusters.values_mut().next().unwrap();
    cluster.instances.insert(former.clone());
    scene.state.send_replace(Arc::new(state));
    scene.pass(6_000).await;
    assert!(scene.keys().contains(&former));
    assert_eq!(not_followed(&scene, 1), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_names_many_addresses_does_not_make_ham4db_dial_them_all() {
    let scene = Scene::new(2, &[1], PollSettings::default()).await;
    let many: Vec<InstanceKey> = (0..250).map(|n| InstanceKey::new(format!("x{n}"), 3306)).collect();
    registers(&scene, many.clone());
    scene.pass(20_000).await;
    let followed = |scene: &Scene| many.iter().filter(|key| scene.keys().contains(key)).count();
    assert_eq!(followed(&scene), 100);
    let reported = not_followed(&scene, 1);
    assert_eq!(reported.len(), 100, "the report has a bound too");
    assert!(
        reported[0].contains("more than 100 addresses that have not answered"),
        "{reported:?}"
    );
    // Those that never answer make room for the others.
    scene.pass(240_000).await;
    let dialled: BTreeSet<InstanceKey> = scene
        .prober
        .notes
        .lock()
        .unwrap()
        .iter()
        .map(|note| note.1.clone())
        .collect();
    assert!(many.iter().all(|key| dialled.contains(key)));
    assert!(followed(&scene) <= 100);
}

#[tokio::test(start_paused = true)]
async fn crawling_ends_at_the_configured_number_of_instances() {
    let settings = PollSettings {
        max_instances: 3,
        ..PollSettings::default()
    };
    let scene = Scene::new(6, &[1], settings).await;
    scene.pass(20_000).await;
    assert_eq!(scene.keys(), [1, 2, 3].map(key).into());
    let reported = not_followed(&scene, 1);
    assert_eq!(reported.len(), 3);
    assert!(
        reported[0].ends_with("DiscoveryMaxInstances is reached"),
        "{reported:?}"
    );
    // What a person names is watched all the same.
    scene.state.send_replace(Arc::new(seeds(&[1, 6])));
    scene.pass(1_000).await;
    assert!(scene.keys().contains(&key(6)));
}

#[tokio::test(start_paused = true)]
async fn silent_addresses_that_only_servers_name_share_few_connection_attempts() {
    let scene = Scene::new(2, &[1], PollSettings::default()).await;
    let silent = 100..150;
    for n in silent.clone() {
        let like = scene.world.lock().servers[&key(2)].clone();
        let mut inner = scene.world.lock();
        inner.servers.insert(
            key(n),
            crate::testkit::Server {
                reach: Reach::Dropped,
                up: false,
                ..like
            },
        );
    }
    registers(&scene, silent.clone().map(key));
    scene.pass(20_000).await;
    let most = *scene.prober.most_unanswered.lock().unwrap();
    assert!((1..=16).contains(&most), "{most} at a time");
    let pulses = scene.count(1, 1000).await;
    assert!(pulses.len() >= 8, "{pulses:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moved_to_another_server_stayed_an_alias_for_ever() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.lead(9, 1);
    scene.state.send_replace(Arc::new(seeds(&[1, 9])));
    scene.pass(2_000).await;
    let led = |scene: &Scene| scene.instance_cache.get(&key(9)).map(|tracked| tracked.instance.key);
    assert_eq!(led(&scene), Some(key(1)));
    scene.world.lead(9, 2);
    scene.pass(62_000).await;
    assert_eq!(led(&scene), Some(key(2)));
    // To a server that has no other address.
    let like = scene.world.lock().servers[&key(1)].clone();
    scene.world.lock().servers.insert(key(20), like);
    scene.world.lock().replace(&key(20), 20);
    scene.world.lead(9, 20);
    scene.pass(62_000).await;
    assert_eq!(led(&scene), Some(key(9)));
    assert_eq!(scene.keys(), [1, 2, 3, 9].map(key).into());
    let facts = scene.instance_cache.get(&key(9)).unwrap().instance.facts.unwrap();
    assert_eq!(facts.server_id, 20);
    // It is polled as any other.
    assert!(scene.count(9, 10_000).await.len() >= 2);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moves_when_its_server_fails_is_looked_at_at_once() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.lead(9, 1);
    scene.state.send_replace(Arc::new(seeds(&[1, 9])));
    scene.pass(2_000).await;
    let led = |scene: &Scene| scene.instance_cache.get(&key(9)).map(|tracked| tracked.instance.key);
    assert_eq!(led(&scene), Some(key(1)));
    scene.world.kill(1);
    scene.pass(500).await;
    assert_eq!(
        led(&scene),
        Some(key(1)),
        "an address that does not answer stays what it is"
    );
    scene.world.lead(9, 2);
    scene.pass(2_000).await;
    assert_eq!(led(&scene), Some(key(2)));
    // And when a server is started again.
    scene.world.start(1);
    scene.pass(2_000).await;
    scene.world.kill(2);
    scene.world.lead(9, 3);
    scene.world.start(2);
    scene.pass(6_000).await;
    assert_eq!(led(&scene), Some(key(3)));
}

#[tokio::test(start_paused = true)]
async fn an_alias_under_which_a_replica_sees_another_source_is_looked_at_at_once() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    scene.world.lead(9, 1);
    scene.state.send_replace(Arc::new(seeds(&[1, 9])));
    scene.pass(2_000).await;
    scene.world.lead(9, 2);
    // The replica follows the name, and reports the server that it found there.
    scene.world.lock().follow(&key(3), &key(9));
    scene.pass(6_000).await;
    assert_eq!(
        scene.instance_cache.get(&key(9)).unwrap().instance.key,
        key(2),
        "the replica knows better"
    );
    assert_eq!(scene.instance_cache.replicas_of(&key(2)), [key(3)]);
}

/// Makes this member late all the time, until the task is aborted.
fn make_late(instance_cache: &Arc<InstanceCache>, clock: PausedClock) -> tokio::task::JoinHandle<()> {
    let instance_cache = Arc::clone(instance_cache);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            instance_cache.delays().record(clock.monotonic(), 20);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_healthy_server_whose_answer_a_busy_member_read_too_late_is_not_taken_for_failed() {
    let clock = PausedClock::new();
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    let late = make_late(&scene.instance_cache, clock);
    scene.pass(500).await;
    // To a member that reads no answer in time, a server is as silent as this one.
    scene.world.with(3, |server| server.reach = Reach::Dropped);
    scene.pass(20_000).await;
    let fails = |n| scene.instance_cache.get(&key(n)).unwrap().failing_since.is_some();
    assert!(!fails(3), "unknown is not failed");
    let lateness = scene.instance_cache.delays().lateness(MonotonicTime(22_500_000));
    assert!(lateness.discarded_probes > 0 && lateness.is_overloaded, "{lateness:?}");
    // An answer of the network counts, however late it was read.
    scene.world.kill(2);
    scene.pass(6000).await;
    assert!(fails(2));
    // As soon as there is time, silence counts again.
    late.abort();
    scene.pass(12_000).await;
    assert!(fails(3));
}

#[tokio::test(start_paused = true)]
async fn a_silent_data_centre_does_not_delay_the_first_dial_of_a_suspect() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    // Servers that are silent for long use all routine attempts.
    let mut used = Vec::new();
    for _ in 0..ROUTINE_DIALS {
        used.push(
            scene
                .poller
                .routine_dials
                .acquire((Origin::Api, "silent".to_owned()))
                .await,
        );
    }
    scene.world.with(1, |server| server.reach = Reach::Dropped);
    let begun = Instant::now();
    while scene.instance_cache.get(&key(1)).unwrap().failing_since.is_none() {
        scene.pass(10).await;
    }
    // The pulse, its deadline, and the deadline of the attempt.
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
    scene.prober.notes.lock().unwrap().clear();
    scene.pass(10_000).await;
    assert_eq!(scene.asked(1), [], "further attempts are routine");
    drop(used);
    scene.pass(2000).await;
    assert_ne!(scene.asked(1), []);
}

#[tokio::test(start_paused = true)]
async fn a_data_centre_that_falls_silent_at_once_does_not_delay_the_first_dial_of_a_suspect_elsewhere() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    let silent = || scene.poller.first_dials.acquire((Origin::Api, "silent".to_owned()));
    let mut used = Vec::new();
    for _ in 0..FIRST_DIALS {
        used.push(silent().await);
    }
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(silent())).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    scene.world.with(1, |server| server.reach = Reach::Dropped);
    scene.pass(1000).await;
    let fails = |scene: &Scene| scene.instance_cache.get(&key(1)).unwrap().failing_since.is_some();
    assert!(!fails(&scene));
    // The first of these attempts ends.
    used.pop();
    scene.pass(1100).await;
    assert!(fails(&scene), "a hundred servers of the silent place came before it");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_are_silent_themselves_are_not_watched_closely() {
    let scene = Scene::new(3, &[1], PollSettings::default()).await;
    for n in 1..=3 {
        scene.world.with(n, |server| server.reach = Reach::Dropped);
    }
    scene.pass(20_000).await;
    let looks = scene.count(2, 20_000).await;
    assert!((2..=5).contains(&looks.len()), "{looks:?}");
    let looks = scene.count(1, 20_000).await;
    assert!((8..=12).contains(&looks.len()), "the return of the source: {looks:?}");
    // When the source answers again, its replicas are looked at, too.
    for n in 1..=3 {
        scene.world.with(n, |server| server.reach = Reach::Answers);
    }
    scene.pass(3100).await;
    let is_failing = |n| scene.instance_cache.get(&key(n)).unwrap().failing_since.is_some();
    assert!((1..=3).all(|n| !is_failing(n)));
}

#[tokio::test(start_paused = true)]
async fn the_polls_of_many_servers_do_not_all_begin_in_the_same_moment() {
    let scene = Scene::new(40, &[1], PollSettings::default()).await;
    scene.pass(10_000).await;
    scene.prober.notes.lock().unwrap().clear();
    scene.pass(5000).await;
    let notes = scene.prober.notes.lock().unwrap().clone();
    let begun = Instant::now() - Duration::from_secs(5);
    let polls = notes.iter().filter(|(_, _, asked)| *asked == Asked::Kept);
    let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, _, _) in polls {
        *by_second.entry((*at - begun).as_secs()).or_default() += 1;
    }
    assert!(
        by_second.len() == 5 && by_second.values().all(|polls| *polls <= 16),
        "{by_second:?}"
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
