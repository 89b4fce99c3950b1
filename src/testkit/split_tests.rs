//! A person makes two clusters of one: ham4db sees two, and repairs each.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::key;
use crate::domain::state::record::Acknowledgement;
use crate::domain::state::{Command, State};

use super::Rig;

/// Makes a server a writable primary of its own, with these replicas.
fn split(rig: &Rig, head: u32, replicas: &[u32]) {
    rig.world.with(head, |server| {
        server.channel = None;
        server.read_only = false;
    });
    for n in replicas {
        rig.world.lock().follow(&key(*n), &key(head));
    }
}

fn primaries(state: &State) -> Vec<String> {
    let mut names: Vec<String> = state.clusters.values().map(|cluster| cluster.name.clone()).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_a_person_split_is_two_and_each_is_repaired() {
    let rig = Rig::started(6, 3).await;
    rig.world.write(1, 5);
    split(&rig, 3, &[5, 6]);
    rig.world.write(3, 3);
    let begun = Instant::now();
    rig.until("two clusters", |rig| rig.group.state().clusters.len() == 2)
        .await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let state = rig.group.state();
    assert_eq!(primaries(&state), ["db1:3306", "db3:3306"]);
    let old = state.clusters.values().find(|cluster| cluster.id.0 == "c1").unwrap();
    assert_eq!((old.name.as_str(), old.alias.as_str()), ("db1:3306", "shop"));
    assert_eq!(old.instances, [1, 2, 4].map(key).into());
    assert!(state.audit.values().any(|entry| entry.kind == "split-cluster"));
    // Nothing was touched, and it stays so.
    rig.wait(30_000).await;
    assert_eq!(rig.group.state().clusters.len(), 2);
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    rig.world.kill(1);
    rig.world.kill(3);
    let recoveries = rig.recovered(2).await;
    assert!(
        recoveries.iter().all(crate::domain::state::Recovery::is_successful),
        "{recoveries:#?}"
    );
    let mut successors: Vec<_> = recoveries
        .iter()
        .filter_map(|recovery| recovery.successor().cloned())
        .collect();
    successors.sort();
    assert_eq!(successors, rig.world.writable());
    assert_eq!(successors, [key(2), key(5)]);
    assert_eq!(rig.group.state().clusters.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_second_primary_soon_after_a_failover_is_no_split_until_it_is_acknowledged() {
    let rig = Rig::started(5, 1).await;
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert_eq!(recovery.successor(), Some(&key(2)));
    split(&rig, 3, &[4]);
    rig.wait(60_000).await;
    assert_eq!(rig.group.state().clusters.len(), 1);
    let acknowledgement = Acknowledgement {
        at: rig.group.state().clock,
        by: "ann".to_owned(),
        comment: "split on purpose".to_owned(),
    };
    let uids = vec![recovery.uid];
    rig.group.commit(Command::Acknowledge { uids, acknowledgement });
    rig.until("two clusters", |rig| rig.group.state().clusters.len() == 2)
        .await;
    assert_eq!(primaries(&rig.group.state()), ["db2:3306", "db3:3306"]);
}
