//! A server has a second replication channel, from the primary of another cluster.

use std::time::Duration;

use crate::domain::fixture::{key, replica, uuid};
use crate::domain::instance::{Channel, Identity};
use crate::domain::state::{Applied, Command};
use crate::domain::topology::ClusterId;

use super::Rig;

/// Servers 1 to 3 are one cluster; server 4 is the primary of another one, from which server 2 also replicates.
async fn two_clusters() -> Rig {
    let mut rig = Rig::new(4, 1);
    rig.world.with(4, |server| {
        server.channel = None;
        server.read_only = false;
    });
    rig.world.with(2, |server| {
        server.other_channels.push(Channel {
            name: "other".to_owned(),
            ..replica(2, 4, "").facts.unwrap().channels.remove(0)
        });
    });
    let split = Command::SplitCluster {
        from: ClusterId("c1".to_owned()),
        id: ClusterId("c4".to_owned()),
        head: key(4),
        primary: Some(Identity::ServerUuid(uuid(4))),
        process: None,
        instances: [key(4)].into(),
        alias: String::new(),
        document: None,
        reason: String::new(),
    };
    assert_eq!(rig.group.commit(split), Applied::Done);
    rig.start(1);
    rig.settled().await;
    rig
}

#[tokio::test(start_paused = true)]
async fn a_successor_with_a_second_channel_does_not_pull_two_clusters_into_one() {
    let rig = two_clusters().await;
    rig.world.write(1, 5);
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.successor(), Some(&key(2)));
    rig.wait(30_000).await;
    let state = rig.group.state();
    let of = |id: &str| state.clusters[&ClusterId(id.to_owned())].clone();
    assert_eq!(state.clusters.len(), 2, "{:#?}", state.clusters);
    assert_eq!(of("c1").instances, [1, 2, 3].map(key).into());
    assert_eq!(of("c1").primary.unwrap().instance, key(2));
    assert_eq!(of("c4").instances, [key(4)].into());
    assert_eq!(of("c4").primary.unwrap().instance, key(4));
    assert_eq!(rig.recoveries().len(), 1);
    assert_eq!(rig.world.opened(), ["db2:3306"]);
    let log = rig.world.log();
    assert!(!log.iter().any(|line| line.starts_with("db4")), "{log:#?}");
    assert_eq!(rig.world.with(2, |server| server.other_channels.len()), 1);
    // The new primary is one like any other: it is replaced too.
    let begun = tokio::time::Instant::now();
    let acknowledgement = crate::domain::state::record::Acknowledgement {
        at: state.clock,
        by: "ann".to_owned(),
        comment: String::new(),
    };
    let uids = vec![recovery.uid];
    rig.group.commit(Command::Acknowledge { uids, acknowledgement });
    rig.world.kill(2);
    let recoveries = rig.recovered(2).await;
    assert_eq!(recoveries[1].successor(), Some(&key(3)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(rig.group.state().clusters.len(), 2);
}
