//! Three members agree, are partitioned, and agree again.

use std::time::{Duration, Instant};

use ham4db::app::ports::{Consensus, ProposeError, Question, Unconfirmed};
use ham4db::domain::finding::OpinionVerdict;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::{ClaimToken, Command};
use ham4db::domain::topology::ClusterId;

use crate::claims;
use crate::harness::{Group, eventually, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_found_a_group_and_agree() {
    let group = Group::running(3).await;
    let seeds = group.commit(5).await;
    group.all_have(seeds).await;
    let peers = group.nodes[0].member().peers();
    let named: Vec<(u64, &str, bool)> = peers
        .iter()
        .map(|peer| (peer.id, peer.name.as_str(), peer.voter))
        .collect();
    assert_eq!(named, [(1, "a", true), (2, "b", true), (3, "c", true)]);
    until("everybody is introduced", || {
        group.nodes[2].member().state().borrow().members.len() == 3
    })
    .await;
    let states: Vec<_> = group
        .nodes
        .iter()
        .map(|node| node.member().state().borrow().group.clone().unwrap())
        .collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    match group.nodes[follower].member().propose(group.next_seed()).await {
        Err(ProposeError::NotLeader(Some(peer))) => assert_eq!(peer.name, group.nodes[leader].name),
        other => panic!("a follower answered {other:?}"),
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut group = Group::running(3).await;
    group.commit(3).await;
    let former = group.leader().await;
    let former_id = group.nodes[former].id();
    group.stop(former).await;
    let seeds = group.commit(3).await;
    group.all_have(seeds).await;
    group.start(former).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert_eq!(group.nodes[former].id(), former_id, "a restart keeps the id");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_leader_proves_nothing_and_says_so() {
    let group = Group::running(3).await;
    let former = group.leader().await;
    let others = [(former + 1) % 3, (former + 2) % 3];
    group.isolate(former, true);
    // From here on, two members must never appear as leader together.
    let leader = eventually("another leader", || async {
        let shown: Vec<usize> = (0..3).filter(|index| group.nodes[*index].leads()).collect();
        assert!(shown.len() <= 1, "two members are shown as leader: {shown:?}");
        shown.into_iter().find(|index| *index != former)
    })
    .await;
    assert!(others.contains(&leader));
    assert!(matches!(
        group.nodes[former].member().barrier().await,
        Err(Unconfirmed::NoQuorum(_))
    ));
    let refused = group.nodes[former].member().propose(group.next_seed()).await;
    assert!(
        matches!(refused, Err(ProposeError::NoQuorum(_) | ProposeError::NotLeader(_))),
        "{refused:?}"
    );
    until("the isolated member is unhealthy", || {
        group.nodes[former].health().is_err()
    })
    .await;
    group.isolate(former, false);
    group.healthy().await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_that_was_cut_off_does_not_depose_the_leader() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    let term = group.nodes[leader].member().leadership().borrow().term;
    group.isolate(follower, true);
    let cut = Instant::now();
    // By then it would have campaigned several times, if it could.
    until("the cut follower is unhealthy for long", || {
        group.nodes[follower].health().is_err() && cut.elapsed() > Duration::from_secs(4)
    })
    .await;
    group.isolate(follower, false);
    group.healthy().await;
    let after = group.nodes[leader].member().leadership().borrow().clone();
    assert!(after.is_leader, "the leader changed: {after:?}");
    assert_eq!(after.term, term, "the term changed");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_is_confirmed_until_another_member_resumes_it() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let member = group.nodes[leader].member();
    let token = claims::claim(member.as_ref(), "r1").await;
    assert_eq!(token.holder, member.me().id);
    assert_eq!(member.confirm(&token).await, Ok(token.epoch));
    let unknown = ClaimToken {
        uid: "other".to_owned(),
        ..token.clone()
    };
    assert!(matches!(member.confirm(&unknown).await, Err(Unconfirmed::Stale(_))));
    group.isolate(leader, true);
    assert!(
        matches!(member.confirm(&token).await, Err(Unconfirmed::NoQuorum(_))),
        "an isolated holder may not act"
    );
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let next = group.leader_among(&others).await;
    let successor = group.nodes[next].member();
    let me = successor.me();
    let resume = Command::Resume {
        uid: "r1".to_owned(),
        holder: me.id,
        holder_name: me.name,
        above: 0,
    };
    let resumed = claims::granted(successor.propose(resume).await.unwrap());
    assert!(resumed.epoch > token.epoch);
    assert_eq!(successor.confirm(&resumed).await, Ok(resumed.epoch));
    group.isolate(leader, false);
    group.healthy().await;
    group.nodes[next].member().hand_over(Duration::from_secs(10)).await;
    let now = group.leader().await;
    assert!(
        matches!(
            group.nodes[now].member().confirm(&token).await,
            Err(Unconfirmed::Stale(_))
        ),
        "a former epoch is never confirmed"
    );
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_names_each_dead_follower() {
    let mut group = Group::running(3).await;
    let leader = group.leader().await;
    assert!(group.nodes[leader].member().silent_voters().is_empty());
    let dead = (leader + 1) % 3;
    group.stop(dead).await;
    let name = group.nodes[dead].name.clone();
    until("the dead follower is named", || {
        group.nodes[leader].member().silent_voters() == [name.clone()].into()
    })
    .await;
    let follower = (leader + 2) % 3;
    assert!(
        group.nodes[follower].member().silent_voters().is_empty(),
        "it does not lead"
    );
    group.start(dead).await;
    until("it answers again", || {
        group.nodes[leader].member().silent_voters().is_empty()
    })
    .await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let began = Instant::now();
    group.nodes[leader].member().hand_over(Duration::from_secs(10)).await;
    let next = group.leader().await;
    assert_ne!(next, leader);
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_other_voter_is_asked_and_the_silent_are_missing() {
    let mut group = Group::running(3).await;
    let leader = group.leader().await;
    let question = Question {
        cluster: ClusterId("c1".to_owned()),
        suspect: InstanceKey::new("db1", 3306),
        replicas: [InstanceKey::new("db2", 3306)].into(),
        millis: 1000,
    };
    let opinions = group.nodes[leader]
        .member()
        .collect_opinions(&question, Duration::from_secs(2))
        .await;
    let mut names: Vec<&str> = opinions.iter().map(|opinion| opinion.name.as_str()).collect();
    names.sort_unstable();
    let expected: Vec<&str> = ["a", "b", "c"]
        .into_iter()
        .filter(|name| *name != group.nodes[leader].name)
        .collect();
    assert_eq!(names, expected);
    assert!(
        opinions.iter().all(|opinion| opinion.verdict == OpinionVerdict::Dead),
        "{opinions:?}"
    );
    let silent = (leader + 1) % 3;
    group.stop(silent).await;
    let opinions = group.nodes[leader]
        .member()
        .collect_opinions(&question, Duration::from_secs(2))
        .await;
    assert_eq!(opinions.len(), 2);
    for opinion in opinions {
        let missing = matches!(opinion.verdict, OpinionVerdict::Missing(_));
        assert_eq!(missing, opinion.name == group.nodes[silent].name, "{opinion:?}");
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_alone_leads_itself_and_survives_a_restart() {
    let mut group = Group::running(1).await;
    let seeds = group.commit(4).await;
    group.stop(0).await;
    group.start(0).await;
    group.healthy().await;
    group.all_have(seeds).await;
    assert_eq!(group.nodes[0].id(), 1);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_whose_backend_takes_no_writes_is_unhealthy_and_hands_over() {
    let group = Group::running(3).await;
    let leader = group.leader().await;
    group.nodes[leader].store.fail(true);
    let proposed = group.nodes[leader].member().propose(group.next_seed());
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let (outcome, next) = tokio::join!(proposed, group.leader_among(&others));
    assert!(outcome.is_err(), "{outcome:?}");
    assert_ne!(next, leader);
    assert!(group.nodes[leader].health().unwrap_err().contains("told to fail"));
    group.nodes[leader].store.fail(false);
    group.healthy().await;
    group.shutdown().await;
}
