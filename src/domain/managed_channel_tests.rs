use super::*;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, uuid};
use crate::domain::instance::{Identity, Instance};
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::topology::ClusterId;

fn identity(n: u32) -> Identity {
    Identity::ServerUuid(uuid(n))
}

/// Cluster `a` of servers 1 to 3 with the primary 1, and `b` of server 4.
fn state() -> State {
    let record = |id: &str, servers: &[u32]| Cluster {
        id: ClusterId(id.to_owned()),
        created_at: NOW,
        name: String::new(),
        alias: String::new(),
        epoch: 0,
        instances: servers.iter().copied().map(key).collect(),
        primary: Some(RecordedPrimary {
            instance: key(servers[0]),
            identity: identity(servers[0]),
            since: NOW,
            epoch: 0,
            opened_by: None,
            process: None,
        }),
        document: None,
        split_from: None,
    };
    let clusters = [record("a", &[1, 2, 3]), record("b", &[4])];
    State {
        clusters: clusters.into_iter().map(|it| (it.id.clone(), it)).collect(),
        ..State::default()
    }
}

fn channel(name: &str, source: u32) -> Channel {
    Channel {
        name: name.to_owned(),
        ..replica(9, source, "").facts.unwrap().channels.remove(0)
    }
}

fn server(n: u32, channels: &[(&str, u32)]) -> Instance {
    let channels: Vec<Channel> = channels.iter().map(|(name, source)| channel(name, *source)).collect();
    replica(n, 1, "").facts(|facts| facts.channels = channels)
}

/// The source of the channel that is managed, and how many are not.
fn managed(state: &State, instance: &Instance) -> (Option<InstanceKey>, usize) {
    let mut facts = instance.facts.clone().unwrap();
    let choice = choose(state, &instance.key, &facts, Clone::clone);
    choice.apply(&mut facts);
    // It can be applied again.
    let before = facts.clone();
    choice.apply(&mut facts);
    assert_eq!(before, facts);
    let source = facts.managed_channel().map(|channel| channel.source.clone());
    (source, facts.other_channels.len())
}

#[test]
fn the_default_channel_is_managed_whatever_others_there_are() {
    let state = state();
    assert_eq!(managed(&state, &server(2, &[("", 1), ("other", 4)])), (Some(key(1)), 1));
    assert_eq!(managed(&state, &server(2, &[("", 4), ("own", 1)])), (Some(key(4)), 1));
    assert_eq!(managed(&state, &primary(1, "")), (None, 0));
}

#[test]
fn of_named_channels_the_one_from_the_recorded_cluster_is_managed() {
    let state = state();
    assert_eq!(
        managed(&state, &server(2, &[("own", 1), ("other", 4)])),
        (Some(key(1)), 1)
    );
    assert_eq!(
        managed(&state, &server(2, &[("a", 7), ("own", 3), ("z", 4)])),
        (Some(key(3)), 2)
    );
    // Nothing tells these apart.
    assert_eq!(managed(&state, &server(2, &[("a", 7), ("z", 4)])), (None, 2));
    assert_eq!(managed(&state, &server(2, &[("a", 1), ("b", 3)])), (None, 2));
    assert_eq!(managed(&state, &server(8, &[("a", 1), ("b", 4)])), (None, 2));
}

#[test]
fn a_single_named_channel_is_managed_where_no_other_was_lost() {
    let mut state = state();
    assert_eq!(managed(&state, &server(8, &[("own", 1)])), (Some(key(1)), 0));
    assert_eq!(managed(&state, &server(2, &[("own", 1)])), (Some(key(1)), 0));
    // A source that is not recorded yet.
    assert_eq!(managed(&state, &server(2, &[("own", 7)])), (Some(key(7)), 0));
    // A server that was found before it became a replica.
    assert_eq!(managed(&state, &server(4, &[("own", 1)])), (Some(key(1)), 0));
    // The channel that a promotion left.
    let left = server(2, &[("other", 4)]);
    assert_eq!(managed(&state, &left), (None, 1));
    let unknown = server(2, &[("other", 7)]);
    state.clusters.get_mut(&ClusterId("a".to_owned())).unwrap().primary = Some(RecordedPrimary {
        instance: key(2),
        identity: identity(2),
        since: NOW,
        epoch: 1,
        opened_by: Some("r".to_owned()),
        process: None,
    });
    assert_eq!(managed(&state, &unknown), (None, 1));
    assert_eq!(
        managed(
            &state,
            &server(4, &[("import", 7)]).facts(|facts| facts.read_only = false)
        ),
        (None, 1)
    );
}

#[test]
fn a_failed_primary_has_no_managed_channel_but_its_own() {
    let mut state = state();
    state.quarantines.insert(
        "a/x".to_owned(),
        Quarantine {
            identity: identity(3),
            instance: key(3),
            cluster: ClusterId("a".to_owned()),
            recovery: "r".to_owned(),
            epoch: 1,
            since: NOW,
            standing: QuarantineState::Absent,
        },
    );
    assert_eq!(managed(&state, &server(3, &[("other", 7)])), (None, 1));
    assert_eq!(managed(&state, &server(3, &[("", 1), ("other", 7)])), (Some(key(1)), 1));
}

#[test]
fn an_address_of_a_recorded_source_may_be_another_one() {
    let state = state();
    let facts = server(2, &[("own", 11), ("other", 4)]).facts.unwrap();
    let resolve = |known: &InstanceKey| if *known == key(11) { key(1) } else { known.clone() };
    assert_eq!(
        choose(&state, &key(2), &facts, resolve),
        ManagedChannel::Named("own".to_owned())
    );
}
