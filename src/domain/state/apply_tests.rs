//! What commands do to the state.

mod audit;
mod properties;
mod records;
mod recoveries;

use std::collections::BTreeSet;

use super::claims::quarantine_key;
use super::command::{COMMAND_VERSION, GroupChoice};
use super::record::{Acknowledgement, Blocked, ClaimToken, Detection, MemberRecord, StepRecord};
use super::sample::{Sample, claim, cluster_id, document, downtime, finding, identity, key, plan};
use super::*;
use crate::domain::fixture::mysql_set;
use crate::domain::hooks::{HookList, HookRun, HookSubject};
use crate::domain::intent::{IntentId, IntentKind, Origin};
use crate::domain::time::WallTime;

fn run(state: &mut State, at: i64, command: Command) -> Applied {
    apply(
        state,
        &Proposal {
            version: COMMAND_VERSION,
            at: WallTime(at),
            command,
        },
    )
    .0
}

/// Applies an entry of an earlier version.
fn run_as(version: u32, state: &mut State, at: i64, command: Command) -> Applied {
    let at = WallTime(at);
    apply(state, &Proposal { version, at, command }).0
}

fn claimed(state: &mut State, claim: Claim) -> ClaimToken {
    let applied = run(state, 1000, Command::Claim { claim: Box::new(claim) });
    let Applied::Claimed { token } = applied else {
        panic!("{applied}")
    };
    token
}

/// Two clusters, of servers 1 to 3 and 4 to 6, whose first servers are the primaries.
fn two_clusters() -> State {
    let mut state = State::default();
    for (cluster, first) in [(1, 1), (2, 4)] {
        let described = run(
            &mut state,
            100,
            Command::DescribeCluster {
                id: cluster_id(cluster),
                instances: (first..first + 3).map(key).collect(),
                primary: Some((key(first), identity(first))),
                process: None,
                alias: String::new(),
                absorbs: Vec::new(),
                document: None,
                chosen: None,
            },
        );
        assert_eq!(described, Applied::Done);
    }
    state
}

fn open(token: &ClaimToken, successor: u32) -> Command {
    let mut plan = plan(1, 1, successor, &[1, 2, 3]);
    plan.successor_identity = identity(successor);
    Command::Open {
        token: token.clone(),
        successor: key(successor),
        position: mysql_set("1:1-9"),
        plan: Box::new(plan),
        fencing_proof: None,
    }
}

fn ending(successor: Option<u32>) -> Ending {
    Ending {
        successful: successor.is_some(),
        successor: successor.map(|n| (key(n), identity(n))),
        quarantine: successor.map(|_| (key(1), identity(1))),
        lost_replicas: Vec::new(),
        lost: None,
        errors: Vec::new(),
        lines: vec![StepRecord {
            id: 0,
            at: WallTime(5),
            message: "over".to_owned(),
        }],
        hooks: Vec::new(),
        owes_opening: false,
    }
}

fn end(token: &ClaimToken, successor: Option<u32>) -> Command {
    Command::End {
        token: token.clone(),
        ending: Box::new(ending(successor)),
    }
}

fn refused(applied: Applied) -> RefusedCommand {
    let Applied::Refused { why } = applied else {
        panic!("not refused: {applied}")
    };
    why
}
