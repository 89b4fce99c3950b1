//! Members of different versions: no member gets a command that it does not understand.

use std::collections::BTreeSet;

use ham4db::app::ports::{Consensus as _, ProposeError};
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::command::COMMAND_VERSION;
use ham4db::domain::state::{Applied, Command};
use ham4db::domain::topology::ClusterId;

use crate::harness::{Group, eventually, until};

/// The version of [`newer`].
const NEWER: u32 = 2;

/// A command of which version 1 would ignore a part.
fn newer() -> Command {
    let command = Command::DescribeCluster {
        id: ClusterId("c1".to_owned()),
        instances: BTreeSet::from([InstanceKey::new("db1", 3306)]),
        primary: None,
        process: Some(1),
        chosen: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: None,
    };
    assert_eq!(command.since(), NEWER);
    command
}

/// By name: the recorded command version and data center of each member, as member `index` knows them.
fn recorded(group: &Group, index: usize, name: &str) -> Option<(u32, String)> {
    let state = group.nodes[index].member().state().borrow().clone();
    let member = state.members.values().find(|member| member.name == name)?;
    Some((member.understands, member.data_center.clone()))
}

async fn all_have_recorded(group: &Group, name: &str, wanted: (u32, &str)) {
    for index in 0..group.nodes.len() {
        until(&format!("{name} is recorded as {wanted:?}"), || {
            group.nodes[index].running.is_none()
                || recorded(group, index, name) == Some((wanted.0, wanted.1.to_owned()))
        })
        .await;
    }
}

async fn propose(group: &Group, command: &Command) -> Result<Applied, ProposeError> {
    let leader = group.leader().await;
    group.nodes[leader].member().propose(command.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_commands_wait_until_the_last_member_is_upgraded() {
    let arrange = |group: &mut Group| {
        group.nodes[2].understands = Some(NEWER - 1);
        "west".clone_into(&mut group.nodes[0].data_center);
    };
    let mut group = Group::running_with(3, arrange).await;
    all_have_recorded(&group, "c", (NEWER - 1, "")).await;
    let refused = propose(&group, &newer()).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotUnderstood(
            "describe-cluster needs command version 2, which not all members understand; upgrade ham4db on c (up to 1)"
                .to_owned()
        )
    );
    let seeds = group.commit(2).await;
    group.all_have(seeds).await;
    let state = group.nodes[0].member().state().borrow().clone();
    assert_eq!((state.clusters.len(), state.version), (0, NEWER - 1));
    assert_eq!(
        recorded(&group, 0, "a").unwrap().1,
        "",
        "c would not know what to make of a data centre"
    );

    // While it is down, it is still a member and will have to apply what is committed meanwhile.
    group.stop(2).await;
    assert!(matches!(
        propose(&group, &newer()).await,
        Err(ProposeError::NotUnderstood(_))
    ));

    group.nodes[2].understands = None;
    group.start(2).await;
    all_have_recorded(&group, "c", (COMMAND_VERSION, "")).await;
    all_have_recorded(&group, "a", (COMMAND_VERSION, "west")).await;
    assert_eq!(propose(&group, &newer()).await, Ok(Applied::Done));
    until("all have the cluster", || {
        let states = group.nodes.iter().map(|node| node.member().state().borrow().clone());
        states
            .into_iter()
            .all(|state| state.clusters.len() == 1 && state.version == NEWER)
    })
    .await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_that_cannot_read_the_state_is_not_let_in() {
    let mut group = Group::running(3).await;
    assert_eq!(propose(&group, &newer()).await, Ok(Applied::Done));
    group.add("d").await;
    group.nodes[3].understands = Some(NEWER - 1);
    group.want_all();
    group.start(3).await;
    eventually("d reports why it is not admitted", || async {
        let why = group.nodes[3].health().err()?;
        why.contains("d understands commands up to version 1, and the state needs 2: upgrade ham4db there")
            .then_some(())
    })
    .await;
    assert_eq!(group.voters().await.len(), 3);
    group.stop(3).await;
    group.nodes[3].understands = None;
    group.start(3).await;
    group.healthy().await;
    assert_eq!(group.voters().await.len(), 4);
    group.shutdown().await;
}
