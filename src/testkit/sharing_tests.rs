//! Members share the probes: which member looks at which server, and that nothing is concluded from what another member saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::key;
use crate::domain::key::InstanceKey;
use crate::domain::policy::BootReadOnly;
use crate::domain::probe_assignment::ProbeSharing;
use crate::domain::state::MemberId;
use crate::domain::state::command::SHARES_PROBES;

use super::Rig;
use super::handover_tests::{ask, takeover};

/// The poll interval, and for how long an observation of another member may be missing after it.
const POLL: Duration = Duration::from_secs(5);
const LATEST: Duration = Duration::from_millis(6200);
const MEMBERS: [MemberId; 3] = [1, 2, 3];

/// The servers that each member looked at since a moment, with the numbers of probes.
fn probes(rig: &Rig, since: Instant) -> BTreeMap<(MemberId, InstanceKey), usize> {
    let mut probes = BTreeMap::new();
    for look in rig.world.looks_since(since).into_iter().filter(|look| !look.is_pulse) {
        *probes.entry((look.member, look.server)).or_default() += 1;
    }
    probes
}

fn has_looked(rig: &Rig, member: MemberId, n: u32, since: Instant) -> bool {
    let looks = rig.world.looks_since(since).into_iter();
    looks
        .filter(|look| look.member == member && look.server == key(n))
        .count()
        > 0
}

/// How old the latest observation of a server is for a member; `None` when it shows no answer.
fn age(rig: &Rig, member: MemberId, n: u32) -> Option<Duration> {
    let tracked = rig.members[&member].instance_cache.get(&key(n))?;
    let begun = tracked.begun.filter(|_| tracked.instance.is_valid())?;
    let now = rig.group.clock_of(member);
    let now = crate::app::ports::Clock::monotonic(now.as_ref());
    Some(Duration::from_micros(now.micros_since(begun)))
}

/// Three servers and three members, the primary in the data center of member 2, the replicas in that of member 3.
async fn primary_at_second_member() -> Rig {
    let mut rig = Rig::new(3, 3);
    for (id, place) in [(1, "north"), (2, "west"), (3, "east")] {
        rig.places.insert(id, place.to_owned());
    }
    for (n, place) in [(1, "west"), (2, "east"), (3, "east")] {
        rig.world
            .with(n, |server| place.clone_into(&mut server.facts.data_center));
    }
    rig.sharing = ProbeSharing::DataCenter;
    for id in MEMBERS {
        rig.record_member(id, SHARES_PROBES);
        rig.start(id);
    }
    rig.settled().await;
    rig.until("each server is with the member of its data center", |rig| {
        let is_placed = |id| [1, 2, 3].map(|n| rig.prober_of(id, n)) == [Some(2), Some(3), Some(3)];
        MEMBERS.into_iter().all(is_placed)
    })
    .await;
    rig.wait(2000).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn each_server_is_probed_once_per_poll_and_all_members_see_it() {
    let rig = Rig::sharing(6, 3, ProbeSharing::RoundRobin).await;
    rig.wait(7000).await;
    let begun = Instant::now();
    for _ in 0..50 {
        rig.wait(1000).await;
        for (member, n) in MEMBERS.into_iter().flat_map(|member| (1..=6).map(move |n| (member, n))) {
            let age = age(&rig, member, n).expect("the server answers");
            assert!(age < LATEST, "member{member} saw db{n} {age:?} ago");
        }
    }
    let probes = probes(&rig, begun);
    assert_eq!(probes.len(), 6, "each server has one member: {probes:?}");
    let counts: BTreeSet<usize> = probes.values().copied().collect();
    assert!(
        counts.iter().all(|count| (9..=10).contains(count)),
        "one probe per poll: {probes:?}"
    );
    let by_member: BTreeSet<MemberId> = probes.keys().map(|(member, _)| *member).collect();
    assert_eq!(by_member, BTreeSet::from(MEMBERS));
    // Pulses go to the primary, from the member that probes it.
    let assigned = rig.prober_of(1, 1).unwrap();
    let pulses = rig.world.looks_since(begun).into_iter().filter(|look| look.is_pulse);
    let pulses: BTreeSet<(MemberId, InstanceKey)> = pulses.map(|look| (look.member, look.server)).collect();
    assert_eq!(pulses, BTreeSet::from([(assigned, key(1))]));
    // Every member knows where an observation is from.
    for member in MEMBERS {
        for n in 1..=6 {
            let by = rig.members[&member]
                .instance_cache
                .get(&key(n))
                .unwrap()
                .instance
                .observed_by;
            let assigned = rig.prober_of(member, n).unwrap();
            let expected = (assigned != member).then(|| format!("member{assigned}"));
            assert_eq!(by, expected, "member{member}, db{n}");
        }
    }
    let shares = rig.members[&3].instance_cache.shared_probes().unwrap().shares();
    assert!(shares.is_active);
    assert!(shares.by_member.values().all(|count| *count == 2), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn without_sharing_every_member_probes_every_server() {
    let rig = Rig::started(3, 3).await;
    rig.wait(7000).await;
    let begun = Instant::now();
    rig.wait(10_000).await;
    let probes = probes(&rig, begun);
    assert_eq!(probes.len(), 9, "{probes:?}");
    assert_eq!(rig.group.exchanged_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failover_takes_as_long_as_without_sharing() {
    let mut took = Vec::new();
    for is_shared in [false, true] {
        let rig = if is_shared {
            primary_at_second_member().await
        } else {
            Rig::started(3, 3).await
        };
        rig.wait(9030).await;
        rig.world.write(1, 5);
        let begun = Instant::now();
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful(), "{recoveries:#?}");
        took.push(begun.elapsed());
        assert_eq!(rig.world.writable().len(), 1);
        if is_shared {
            for n in 1..=3 {
                assert!(has_looked(&rig, 1, n, begun), "the leader looked at db{n} itself");
            }
            assert!(has_looked(&rig, 3, 1, begun), "and so did another member");
        }
        rig.world.assert_sound();
    }
    assert!(took[1] <= took[0] + Duration::from_millis(100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_dead_member_is_taken_over_within_one_poll() {
    let mut rig = primary_at_second_member().await;
    let begun = Instant::now();
    rig.stop(2);
    rig.until("others send pulses to the primary", |rig| {
        let looks = rig.world.looks_since(begun).into_iter();
        looks
            .filter(|look| look.is_pulse && look.member != 2 && look.server == key(1))
            .count()
            > 1
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    rig.until("the share has another member", |rig| {
        [1, 3]
            .into_iter()
            .all(|id| rig.prober_of(id, 1).is_some_and(|id| id != 2))
    })
    .await;
    assert!(begun.elapsed() < POLL, "{:?}", begun.elapsed());
    // The share of member 3 stayed where it was.
    assert_eq!([2, 3].map(|n| rig.prober_of(1, n)), [Some(3), Some(3)]);
    for _ in 0..20 {
        rig.wait(500).await;
        for (member, n) in [1, 3].into_iter().flat_map(|member| (1..=3).map(move |n| (member, n))) {
            assert!(age(&rig, member, n).unwrap() < LATEST, "member{member}, db{n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_with_its_member_is_replaced() {
    let mut rig = primary_at_second_member().await;
    let begun = Instant::now();
    rig.stop(2);
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_looked_at_by_others_before_anything_is_concluded() {
    let rig = primary_at_second_member().await;
    let begun = Instant::now();
    rig.world.lock().dropped_of.insert((2, key(1)));
    rig.until("the others look at the suspect", |rig| {
        has_looked(rig, 1, 1, begun) && has_looked(rig, 3, 1, begun)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    rig.until("a member that reaches it probes it", |rig| {
        rig.prober_of(1, 1).is_some_and(|id| id != 2)
    })
    .await;
    rig.wait(10_000).await;
    assert!(
        rig.recoveries().is_empty() && rig.world.log().is_empty(),
        "{:?}",
        rig.world.log()
    );
    for member in [1, 3] {
        let seen = rig.members[&member].instance_cache.get(&key(1)).unwrap();
        assert!(seen.instance.is_valid(), "member{member}: {:?}", seen.instance.failure);
        assert!(age(&rig, member, 1).unwrap() < LATEST);
    }
    // The member that does not reach it sees that for itself.
    assert!(!rig.members[&2].instance_cache.get(&key(1)).unwrap().instance.is_valid());
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_member_saw_grows_old_and_is_looked_at_again() {
    let rig = primary_at_second_member().await;
    // The leader hears member 2, member 3 does not.
    let begun = Instant::now();
    rig.group.mute(3, 2);
    rig.until("member 3 probes the primary itself", |rig| has_looked(rig, 3, 1, begun))
        .await;
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    for _ in 0..40 {
        rig.wait(500).await;
        assert!(age(&rig, 3, 1).unwrap() < LATEST);
    }
    assert_eq!(rig.prober_of(1, 1), Some(2));
    assert!(
        !has_looked(&rig, 1, 1, begun),
        "the leader hears it and has no reason to look"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_noticed_although_nobody_hears_the_member_that_sees_it() {
    let rig = primary_at_second_member().await;
    for by in [1, 3] {
        rig.group.mute(by, 2);
    }
    let begun = Instant::now();
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_with_the_assignment() {
    let mut rig = Rig::sharing(9, 3, ProbeSharing::RoundRobin).await;
    rig.wait(3000).await;
    let before: Vec<Option<MemberId>> = (1..=9).map(|n| rig.prober_of(2, n)).collect();
    rig.stop(1);
    rig.until("the share of the former leader has other members", |rig| {
        [2, 3]
            .into_iter()
            .all(|id| (1..=9).all(|n| rig.prober_of(id, n).is_some_and(|id| id != 1)))
    })
    .await;
    let after: Vec<Option<MemberId>> = (1..=9).map(|n| rig.prober_of(3, n)).collect();
    for (n, (before, after)) in before.into_iter().zip(after).enumerate() {
        assert!(
            before == after || before == Some(1),
            "server {n}: {before:?}, {after:?}"
        );
    }
    rig.wait(7000).await;
    for (member, n) in [2, 3].into_iter().flat_map(|member| (1..=9).map(move |n| (member, n))) {
        assert!(age(&rig, member, n).unwrap() < LATEST, "member{member}, db{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_share_only_while_all_of_them_understand() {
    let mut rig = Rig::new(3, 3);
    rig.sharing = ProbeSharing::RoundRobin;
    for id in MEMBERS {
        rig.record_member(id, SHARES_PROBES - u32::from(id == 3));
        rig.start(id);
    }
    rig.settled().await;
    rig.wait(10_000).await;
    let begun = Instant::now();
    rig.wait(6000).await;
    assert_eq!(probes(&rig, begun).len(), 9, "every member probes every server");
    assert_eq!(rig.group.exchanged_bytes(), 0, "an earlier version is asked nothing");
    rig.record_member(3, SHARES_PROBES);
    rig.until_shared().await;
    rig.wait(7000).await;
    let begun = Instant::now();
    rig.wait(6000).await;
    assert_eq!(probes(&rig, begun).len(), 3);
    // A member of the earlier version comes back.
    rig.record_member(3, SHARES_PROBES - 1);
    rig.wait(POLL.as_millis().try_into().unwrap()).await;
    let begun = Instant::now();
    rig.wait(6000).await;
    assert_eq!(probes(&rig, begun).len(), 9, "every member probes every server again");
    assert!(
        !rig.members[&1]
            .instance_cache
            .shared_probes()
            .unwrap()
            .shares()
            .is_active
    );
}

#[tokio::test(start_paused = true)]
async fn every_member_looks_itself_at_a_server_that_was_started_again() {
    let rig = primary_at_second_member().await;
    let begun = Instant::now();
    rig.world.kill(3);
    rig.world.start(3);
    rig.until("all members have seen the new process", |rig| {
        MEMBERS.into_iter().all(|member| has_looked(rig, member, 3, begun))
    })
    .await;
    assert!(begun.elapsed() < LATEST, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_exchange_of_what_did_not_change_is_small() {
    let rig = Rig::sharing(30, 3, ProbeSharing::RoundRobin).await;
    rig.wait(20_000).await;
    let before = rig.group.exchanged_bytes();
    rig.wait(10_000).await;
    let per_probe = (rig.group.exchanged_bytes() - before) / (2 * 30 * 2);
    // Six pairs of members with four answers a second are part of it.
    assert!(per_probe < 1200, "{per_probe} bytes for each observation and receiver");
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_server_and_its_cluster_are_looked_at_by_the_leader() {
    let rig = primary_at_second_member().await;
    rig.world.kill(1);
    rig.recovered(1).await;
    rig.wait(10_000).await;
    let begun = Instant::now();
    rig.wait(6000).await;
    for n in 1..=3 {
        assert!(has_looked(&rig, 1, n, begun), "db{n}");
        assert_eq!(
            rig.members[&1]
                .instance_cache
                .get(&key(n))
                .unwrap()
                .instance
                .observed_by,
            None
        );
    }
    let restarted = Instant::now();
    rig.world.start(1);
    rig.until("the returned primary is read-only", |rig| {
        rig.world.writable().len() == 1
    })
    .await;
    assert!(
        restarted.elapsed() < Duration::from_millis(500),
        "{:?}",
        restarted.elapsed()
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_takeover_and_a_policy_rest_on_probes_of_the_leader() {
    let mut rig = Rig::new(3, 3);
    rig.sharing = ProbeSharing::RoundRobin;
    rig.policy.boot_read_only = BootReadOnly::Enforce;
    for n in 1..=3 {
        rig.world.with(n, |server| server.boots_read_only = true);
    }
    for id in MEMBERS {
        rig.record_member(id, SHARES_PROBES);
        rig.start(id);
    }
    rig.settled().await;
    rig.until_shared().await;
    rig.wait(10_000).await;
    assert!(rig.recoveries().is_empty());
    // The servers of the other members were last seen by them.
    let by_others = |rig: &Rig| {
        let cache = &rig.members[&1].instance_cache;
        (1..=3)
            .filter(|n| cache.get(&key(*n)).unwrap().instance.observed_by.is_some())
            .count()
    };
    assert_eq!(by_others(&rig), 2);
    let begun = Instant::now();
    for n in 1..=3 {
        rig.world.with(n, |server| server.boots_read_only = false);
    }
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    for n in 1..=3 {
        assert!(
            has_looked(&rig, 1, n, begun),
            "the leader looked at db{n} before it acted"
        );
    }
    rig.until("the servers are seen by the others again", |rig| by_others(rig) == 2)
        .await;
    let begun = Instant::now();
    let uid = ask(&rig, None, takeover(true)).await.unwrap();
    let recovery = rig.group.state().recoveries[&uid].clone();
    assert!(recovery.is_successful(), "{recovery:#?}");
    for n in 1..=3 {
        assert!(
            has_looked(&rig, 1, n, begun),
            "the leader looked at db{n} before it acted"
        );
    }
    rig.world.assert_sound();
}
