//! The command versions and data centers that members report reach the state, also when they change.

use ham4db::app::ports::Consensus as _;

use crate::harness::{Group, eventually};

/// Where each member is by the record of member `index`, by name.
fn places(group: &Group, index: usize) -> Vec<(String, String)> {
    let state = group.nodes[index].member().state().borrow().clone();
    let told = state.members.values();
    told.map(|member| (member.name.clone(), member.data_center.clone()))
        .collect()
}

async fn all_know(group: &Group, wanted: &[(&str, &str)]) {
    let wanted: Vec<(String, String)> = wanted
        .iter()
        .map(|(name, place)| ((*name).to_owned(), (*place).to_owned()))
        .collect();
    for index in 0..group.nodes.len() {
        eventually("the data centres are known", || async {
            (places(group, index) == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moves_is_recorded_where_it_is() {
    let arrange = |group: &mut Group| {
        for (node, place) in group.nodes.iter_mut().zip(["west", "east", ""]) {
            place.clone_into(&mut node.data_center);
        }
    };
    let mut group = Group::running_with(3, arrange).await;
    all_know(&group, &[("a", "west"), ("b", "east"), ("c", "")]).await;
    // With each member as leader and each member restarted.
    for (index, place) in [(0, "north"), (2, "south")] {
        group.stop(index).await;
        place.clone_into(&mut group.nodes[index].data_center);
        group.start(index).await;
    }
    all_know(&group, &[("a", "north"), ("b", "east"), ("c", "south")]).await;
    group.shutdown().await;
}
