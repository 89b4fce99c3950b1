use super::*;
use crate::domain::fixture::key;
use crate::testkit::{PausedClock, Reach, SimProber, World};

#[tokio::test(start_paused = true)]
async fn a_busy_member_abstains_about_a_silent_suspect_and_not_about_a_dead_one() {
    let world = World::of_primary_and_replicas(3);
    let instance_cache = Arc::new(InstanceCache::default());
    let responder = OpinionResponder::new(
        Arc::clone(&instance_cache),
        Arc::new(SimProber::new(&world)),
        Arc::new(PausedClock::new()),
        "m1".to_owned(),
        String::new(),
        Arc::default(),
    );
    let question = Question {
        cluster: crate::domain::topology::ClusterId("c1".to_owned()),
        suspect: key(1),
        replicas: [key(2), key(3)].into(),
        millis: 500,
    };
    world.with(1, |server| server.reach = Reach::Dropped);
    let clock = PausedClock::new();
    let opinion = async |delay: u64| {
        let ticks = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20 + delay)).await;
                instance_cache.delays().record(clock.monotonic(), delay);
            }
        };
        tokio::select! {
            opinion = responder.opinion(question.clone()) => opinion.verdict,
            () = ticks => unreachable!("it never ends"),
        }
    };
    let was_busy = |verdict: &OpinionVerdict| matches!(verdict, OpinionVerdict::Abstains(why) if why.starts_with("it was busy for "));
    let busy = opinion(80).await;
    assert!(was_busy(&busy), "{busy:?}");
    let idle = opinion(0).await;
    assert!(!was_busy(&idle), "{idle:?}");
    world.with(1, |server| server.reach = Reach::Answers);
    world.kill(1);
    let dead = opinion(80).await;
    assert!(!was_busy(&dead), "a refused connection is an answer: {dead:?}");
}

#[tokio::test(start_paused = true)]
async fn opinions_about_a_silent_data_centre_do_not_delay_one_about_a_dead_server() {
    let world = World::of_primary_and_replicas(3);
    let instance_cache = Arc::new(InstanceCache::default());
    let clock = PausedClock::new();
    let responder = OpinionResponder::new(
        Arc::clone(&instance_cache),
        Arc::new(SimProber::new(&world)),
        Arc::new(PausedClock::new()),
        "m1".to_owned(),
        String::new(),
        Arc::default(),
    );
    let mut used = Vec::new();
    for _ in 0..OPINION_DIALS {
        used.push(responder.silent_dials.acquire(ClusterId("silent".to_owned())).await);
    }
    let question = || Question {
        cluster: ClusterId("c1".to_owned()),
        suspect: key(1),
        replicas: [key(2), key(3)].into(),
        millis: 500,
    };
    instance_cache.track(&key(1), &Origin::Api, true, clock.monotonic());
    world.kill(1);
    let opinion = responder.opinion(question()).await;
    assert!(
        opinion
            .observations
            .iter()
            .any(|seen| seen.key == key(1) && seen.outcome.is_err())
    );
    assert!(opinion.millis < 100, "{} ms", opinion.millis);
    // A silent one waits for its turn, and is the next one.
    world.with(1, |server| server.reach = Reach::Dropped);
    responder.opinion(question()).await;
    let mut silent = Box::pin(responder.opinion(question()));
    assert!(futures::poll!(&mut silent).is_pending());
    let mut more = Box::pin(responder.silent_dials.acquire(ClusterId("silent".to_owned())));
    assert!(futures::poll!(&mut more).is_pending());
    used.pop();
    assert!(futures::poll!(&mut silent).is_pending());
    assert!(futures::poll!(&mut more).is_pending(), "its cluster uses more");
    let opinion = silent.await;
    assert!((400..600).contains(&opinion.millis), "{} ms", opinion.millis);
}
