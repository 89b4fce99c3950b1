//! Which requests a member refuses, and how members find each other after their addresses changed.

use std::net::SocketAddr;

use ham4db::adapter::raft::wire::{GROUP_HEADER, KEY_HEADER, TARGET_HEADER};
use ham4db::app::ports::Consensus;

use crate::harness::{Group, eventually, until};

async fn post(address: SocketAddr, route: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(format!("http://{address}/raft/{route}")).body("null");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_for_another_group_or_member_or_without_the_key_are_refused() {
    let group = Group::running_with(3, |group| group.key = Some("open sesame".to_owned())).await;
    let address = group.nodes[1].address;
    until("the group has its name", || {
        group.nodes[1].member().state().borrow().group.is_some()
    })
    .await;
    let uuid = group.nodes[1].member().state().borrow().group.clone().unwrap().uuid;
    let key = (KEY_HEADER, "open sesame");
    for route in [
        "append",
        "vote",
        "prevote",
        "transfer",
        "snapshot",
        "opinion",
        "observations",
    ] {
        let right = [key, (GROUP_HEADER, uuid.as_str()), (TARGET_HEADER, "2")];
        let (status, text) = post(address, route, &right).await;
        assert_eq!(status, 400, "{route}: the checks let it through to the body: {text}");
        let (status, text) = post(address, route, &[key, (GROUP_HEADER, "other"), (TARGET_HEADER, "2")]).await;
        assert_eq!(status, 409, "{route}: {text}");
        assert!(text.contains(&uuid), "{text}");
        let (status, text) = post(address, route, &[key, (GROUP_HEADER, &uuid), (TARGET_HEADER, "3")]).await;
        assert_eq!(status, 421, "{route}: {text}");
        let (status, text) = post(address, route, &[key, (GROUP_HEADER, &uuid)]).await;
        assert_eq!(status, 421, "{route} without a target: {text}");
    }
    for route in [
        "append",
        "vote",
        "prevote",
        "transfer",
        "snapshot",
        "opinion",
        "observations",
        "hello",
        "assign",
        "join",
        "membership",
    ] {
        let base = [(GROUP_HEADER, uuid.as_str()), (TARGET_HEADER, "2")];
        let (status, _) = post(address, route, &base).await;
        assert_eq!(status, 401, "{route} without the key");
        for wrong in ["open sesam", "open sesame!", ""] {
            let (status, text) = post(address, route, &[base[0], base[1], (KEY_HEADER, wrong)]).await;
            assert_eq!(status, 401, "{route} with a wrong key");
            assert!(!text.contains("sesame"), "{text}");
        }
    }
    assert!(!format!("{:?}", group.nodes[0].member()).contains("sesame"));
    group.healthy().await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_found_by_name_wherever_they_come_back() {
    let mut group = Group::stateful_set(3).await;
    for index in 0..3 {
        group.start(index).await;
    }
    group.healthy().await;
    let names: Vec<String> = group.voters().await.into_iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["ham4db-0", "ham4db-1", "ham4db-2"]);
    let first = [
        group.nodes[0].address.ip(),
        group.nodes[1].address.ip(),
        group.nodes[2].address.ip(),
    ];
    // Rescheduled one after the other. Two get the former address of another pod while the name of that pod still resolves to it.
    for (index, ip) in [(1, "127.0.0.21".parse().unwrap()), (2, first[1]), (0, first[2])] {
        group.stop(index).await;
        group.nodes[index].address.set_ip(ip);
        group.start(index).await;
        let seeds = group.commit(1).await;
        group.point_name(index);
        group.healthy().await;
        group.all_have(seeds).await;
    }
    let ids: Vec<u64> = group.voters().await.into_iter().map(|peer| peer.id).collect();
    assert_eq!(ids, [1, 2, 3], "moving costs no id");
    // All at once, to new addresses.
    for index in 0..3 {
        group.stop(index).await;
    }
    for (index, last) in [(0, 31), (1, 32), (2, 33)] {
        group.nodes[index].address.set_ip([127, 0, 0, last].into());
        group.point_name(index);
        group.start(index).await;
    }
    group.healthy().await;
    let seeds = group.commit(1).await;
    group.all_have(seeds).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_set_grows_and_shrinks_by_its_replicas() {
    let mut group = Group::stateful_set(3).await;
    for index in 0..3 {
        group.start(index).await;
    }
    group.healthy().await;
    group.add_pod().await;
    group.want_all();
    group.start(3).await;
    group.healthy().await;
    assert_eq!(group.voters().await.len(), 4);
    group.want(&group.entries(&[0, 1, 2]));
    let left = eventually("three voters are left", || async {
        let voters = group.voters().await;
        (voters.len() == 3).then_some(voters)
    })
    .await;
    assert!(left.iter().all(|peer| peer.name != "ham4db-3"), "{left:?}");
    group.shutdown().await;
}

/// Connections that are opened and say nothing, many times as many as a peer listener may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_flood_of_the_peer_listeners_costs_no_leader() {
    let files = ham4db::adapter::connections::raise_open_files();
    assert!(files > 8000, "the flood needs open files, there are {files}");
    let group = Group::running(3).await;
    let leader = group.leader().await;
    let term = group.nodes[leader].member().leadership().borrow().term;
    let mut flood = Vec::new();
    for n in 0..6000 {
        let address = group.nodes[n % 3].address;
        flood.push(tokio::net::TcpStream::connect(address).await.unwrap());
        if n % 1000 == 999 {
            group.commit(1).await;
        }
    }
    for node in &group.nodes {
        assert_eq!(node.health(), Ok(()), "{}", node.name);
    }
    let leadership = group.nodes[leader].member().leadership().borrow().clone();
    assert!(leadership.is_leader && leadership.term == term, "{leadership:?}");
    drop(flood);
    group.shutdown().await;
}
