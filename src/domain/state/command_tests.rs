//! From which version on a command is understood.

use std::collections::BTreeSet;

use super::*;
use crate::domain::state::RequestKind;
use crate::domain::state::record::MemberRecord;
use crate::domain::state::sample::{Sample, cluster_id, document, identity, key};
use crate::domain::state::{State, apply};

fn hello(data_center: &str) -> Command {
    Command::AnnounceMember {
        member: MemberRecord {
            id: 1,
            name: "a".to_owned(),
            understands: 2,
            data_center: data_center.to_owned(),
        },
    }
}

fn described(process: Option<i64>) -> Command {
    Command::DescribeCluster {
        id: cluster_id(1),
        instances: BTreeSet::from([key(1)]),
        primary: Some((key(1), identity(1))),
        process,
        chosen: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: None,
    }
}

#[test]
fn a_field_that_an_older_member_would_leave_away_makes_a_command_newer() {
    assert_eq!((hello("").since(), hello("west").since()), (1, 2));
    assert_eq!((described(None).since(), described(Some(5)).since()), (1, 2));
    let put = |on_drain| Command::PutDocument {
        document: Box::new(Document {
            on_drain,
            ..document("shop")
        }),
    };
    assert_eq!((put(OnDrain::Observe).since(), put(OnDrain::TakeOver).since()), (2, 3));
    let drain = RequestKind::Drain {
        primary: key(1),
        reason: "its node is cordoned".to_owned(),
        deadline: WallTime(9),
    };
    let drain = Request::new(document("shop").origin, "drain-1".to_owned(), drain);
    let drain = Command::Request {
        request: Box::new(drain),
    };
    assert_eq!(drain.since(), 3);
    let proposal = Proposal::new(WallTime(7), hello("west"));
    assert_eq!((proposal.version, proposal.at), (2, WallTime(7)));
}

#[test]
fn every_command_is_of_a_version_that_this_program_understands() {
    let mut sample = Sample::default();
    let mut newer = BTreeSet::new();
    let mut older = BTreeSet::new();
    for seed in 0..4000 {
        let (command, _, _) = sample.step(seed);
        assert!((1..=COMMAND_VERSION).contains(&command.since()), "{command:?}");
        let names = if command.since() == 1 { &mut older } else { &mut newer };
        names.insert(command.name());
    }
    for name in [
        "claim",
        "open",
        "end",
        "detect",
        "put-document",
        "hooks-begin",
        "hooks-ran",
    ] {
        assert!(newer.contains(name) && !older.contains(name), "{name}");
    }
    for name in [
        "discover",
        "forget",
        "set-intent",
        "end-intent",
        "acknowledge",
        "record",
        "resume",
    ] {
        assert!(older.contains(name) && !newer.contains(name), "{name}");
    }
}

#[test]
fn a_state_knows_what_whoever_takes_it_over_must_understand() {
    let mut state = State::default();
    let mut run = |command| {
        apply(&mut state, &Proposal::new(WallTime(1), command));
        state.version
    };
    assert_eq!(run(hello("")), 1);
    assert_eq!(run(hello("west")), 2);
    assert_eq!(run(hello("")), 2, "what is in it stays");
    let old: State = serde_json::from_str("{}").unwrap();
    assert_eq!(old.version, 0, "a state from before this was kept");
}
