//! Continues a group that lost its majority for good with one member, on request of an operator.
//!
//! The operator names all lost members in a file in the data directory, which the running member finds. The member checks that they are
//! lost, and answers with another file. When all checks pass, it ends its incarnation and gives its log a membership of one. A lost member
//! that returns learns from the group that it was removed, moves its log away and joins again.
//!
//! Raft cannot do this safely. Entries that the lost majority committed and this member did not receive are gone. A lost majority that
//! returns at the same moment would elect a leader of its own. So recoveries stay disabled afterwards until an operator enables them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::context::{IncarnationEnd, MemberContext, RaftIncarnation};
use super::force_request::{ANSWER_FILE, ForceAnswer, ForceRequest, REQUEST_FILE, read, remove, write};
use super::health;
use super::log_store::LogStore;
use super::network::Recipient;
use super::peer_requests::ASK_DEADLINE;
use super::types::{LogId, MemberNode};
use super::wire::Hello;
use crate::app::ports::{Clock as _, Health};
use crate::domain::state::{Command, MemberId, Proposal};

/// Interval between two checks for a request.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Maximum age of a request: an older one was about an earlier situation.
const VALID_MILLIS: i64 = 60_000;

/// Takes a request from its file. A request that is too old, or that cannot be parsed, is dropped.
fn take(context: &MemberContext) -> Option<ForceRequest> {
    let directory = &context.settings.data_dir;
    let found = match read::<ForceRequest>(directory, REQUEST_FILE) {
        Ok(None) => return None,
        Ok(Some(request)) => Some(request),
        Err(error) => {
            tracing::warn!("dropped a request to force the quorum: {error}");
            None
        }
    };
    if let Err(error) = remove(directory, REQUEST_FILE) {
        // The request would be found again and again, so it is refused.
        context.set_status(&format!("cannot remove {REQUEST_FILE}: {error}"));
        return None;
    }
    // The command line has written the time of this machine.
    let age = |request: &ForceRequest| context.dependencies.clock.own().wall().0 - request.at.0;
    found.filter(|request| (-VALID_MILLIS..VALID_MILLIS).contains(&age(request)))
}

fn answer(context: &MemberContext, request: &ForceRequest, done: bool, what: String) {
    if done {
        tracing::warn!("{what}");
    } else {
        tracing::warn!("refused to force the quorum: {what}");
    }
    let answer = ForceAnswer {
        id: request.id.clone(),
        done,
        what,
    };
    if let Err(error) = write(&context.settings.data_dir, ANSWER_FILE, &answer) {
        tracing::error!("{error}");
    }
}

/// Answers a request on a member without a log.
pub(super) fn refuse_without_log(context: &MemberContext) {
    if let Some(request) = take(context) {
        let what = format!(
            "this member has no log of its group ({}); run force-quorum on a member that has one",
            context.status()
        );
        answer(context, &request, false, what);
    }
}

/// Waits for a request that passes all checks, and refuses others.
pub(super) async fn watch_requests(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    loop {
        if let Some(request) = take(context) {
            match examine(context, incarnation, &request).await {
                Ok(()) => return IncarnationEnd::Forced(request),
                Err(why) => answer(context, &request, false, why),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A voter as this member sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voter {
    id: MemberId,
    name: String,
    state: VoterState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum VoterState {
    /// It answers under this id; its log ends with this entry.
    Log(LogId),
    /// It answers under this id, and has not opened its log yet.
    Starting,
    /// It does not answer under this id; the reason.
    Lost(String),
}

async fn examine(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
    request: &ForceRequest,
) -> Result<(), String> {
    if health::health(context) == Health::Healthy {
        return Err("this member is healthy: its group has a majority".to_owned());
    }
    let metrics = incarnation.metrics();
    let own_log = incarnation.log.last_log_id().await.map_err(|error| error.to_string())?;
    let nodes: Vec<(MemberId, MemberNode)> = metrics
        .membership_config
        .nodes()
        .map(|(id, node)| (*id, context.current_address(node)))
        .collect();
    let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
    let others = nodes.iter().filter(|(id, _)| *id != metrics.id && voters.contains(id));
    let voters_found = join_all(others.map(|(id, node)| async move {
        let to = Recipient { node, member: None };
        let hello = context.dialer.call::<_, Hello>(to, "hello", &(), None, ASK_DEADLINE);
        let state = match hello.await {
            Ok(hello) if hello.member == Some(*id) => hello.last_log.map_or(VoterState::Starting, VoterState::Log),
            Ok(hello) => VoterState::Lost(hello.member.map_or_else(
                || "it is back without its log".to_owned(),
                |other| format!("member {other} answers there"),
            )),
            Err(error) => VoterState::Lost(error.to_string()),
        };
        Voter {
            id: *id,
            name: node.name.clone(),
            state,
        }
    }));
    judge(
        metrics.id,
        own_log,
        metrics.membership_config.get_joint_config(),
        &voters_found.await,
        &request.lost,
    )
}

/// Refuses a request with the reason.
fn judge(
    own: MemberId,
    own_log: Option<LogId>,
    configs: &[BTreeSet<MemberId>],
    others: &[Voter],
    lost: &BTreeSet<String>,
) -> Result<(), String> {
    let Some(own_log) = own_log.filter(|_| configs.iter().any(|config| config.contains(&own))) else {
        return Err("this member is not a voter of its group; run force-quorum on a voter".to_owned());
    };
    let is_lost = |other: &Voter| matches!(other.state, VoterState::Lost(_));
    let answers = |id: &MemberId| *id == own || others.iter().any(|other| other.id == *id && !is_lost(other));
    let has_majority = |config: &BTreeSet<MemberId>| config.iter().filter(|id| answers(id)).count() * 2 > config.len();
    if configs.iter().all(has_majority) {
        return Err(
            "a majority of the members answers, with their logs: no forced quorum is needed; check raft-health of each member"
                .to_owned(),
        );
    }
    let names = |keep: &dyn Fn(&&Voter) -> bool| {
        let kept: Vec<&str> = others.iter().filter(keep).map(|other| other.name.as_str()).collect();
        kept.join(", ")
    };
    if let Some(unknown) = lost.iter().find(|name| others.iter().all(|other| other.name != **name)) {
        return Err(format!(
            "{unknown} is not another voter of the group; the others are {}",
            names(&|_| true)
        ));
    }
    for other in others {
        match &other.state {
            VoterState::Log(_) | VoterState::Starting if lost.contains(&other.name) => {
                return Err(format!("{} is not lost: it answers, with its log", other.name));
            }
            VoterState::Starting => return Err(format!("{} is starting; try again in a moment", other.name)),
            VoterState::Log(log) if *log > own_log => {
                return Err(format!(
                    "{} has a later log ({log}) than this member ({own_log}); run force-quorum there",
                    other.name
                ));
            }
            VoterState::Lost(why) if !lost.contains(&other.name) => {
                return Err(format!(
                    "{} does not answer and was not named as lost ({why}); bring it back with its disk, or name it if its disk is gone for good",
                    other.name
                ));
            }
            VoterState::Log(_) | VoterState::Lost(_) => {}
        }
    }
    Ok(())
}

/// Gives the log, which is no longer in use, a membership of this member alone.
pub(super) async fn force_quorum(context: &Arc<MemberContext>, request: &ForceRequest, log: &LogStore) {
    let Some((member, cluster_uuid)) = context
        .identity()
        .and_then(|identity| Some((identity.member?, identity.cluster_uuid)))
    else {
        return;
    };
    let lost: Vec<String> = request.lost.iter().cloned().collect();
    let command = Command::ForceQuorum {
        survivor: member,
        survivor_name: context.settings.name.clone(),
        lost: lost.clone(),
    };
    let proposal = Proposal::new(context.dependencies.clock.wall(), command);
    match log.force_sole_voter((member, context.node.clone()), proposal).await {
        Ok(()) => {
            let what = format!(
                "group {cluster_uuid} continues with {} as its only voter, without {}; recoveries are disabled: \
                 check the clusters, then run enable-global-recoveries",
                context.settings.name,
                lost.join(", ")
            );
            answer(context, request, true, what);
        }
        Err(error) => answer(context, request, false, format!("nothing was changed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(term: u64, index: u64) -> LogId {
        LogId::new_term_index(term, index)
    }

    fn voter(id: MemberId, log: Option<LogId>) -> Voter {
        Voter {
            id,
            name: format!("ham4db-{id}"),
            state: log.map_or_else(|| VoterState::Lost("connection refused".to_owned()), VoterState::Log),
        }
    }

    fn verdict(others: &[Voter], lost: &[&str]) -> Result<(), String> {
        let mut all: BTreeSet<MemberId> = others.iter().map(|other| other.id).collect();
        all.insert(1);
        let lost = lost.iter().map(|name| (*name).to_owned()).collect();
        judge(1, Some(log(3, 50)), &[all], others, &lost)
    }

    fn refusal(others: &[Voter], lost: &[&str]) -> String {
        verdict(others, lost).expect_err("it is refused")
    }

    #[test]
    fn every_silent_voter_must_be_named() {
        let others = [voter(2, None), voter(3, None)];
        assert_eq!(verdict(&others, &["ham4db-2", "ham4db-3"]), Ok(()));
        assert!(refusal(&others, &["ham4db-2"]).starts_with("ham4db-3 does not answer and was not named as lost"));
        assert!(refusal(&others, &[]).starts_with("ham4db-2 does not answer and was not named as lost"));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let others = [voter(2, None), voter(3, None)];
        assert_eq!(
            refusal(&others, &["ham4db-2", "ham4db-3", "ham4db-9"]),
            "ham4db-9 is not another voter of the group; the others are ham4db-2, ham4db-3"
        );
    }

    #[test]
    fn a_majority_needs_no_force() {
        let others = [voter(2, Some(log(3, 40))), voter(3, None)];
        assert!(refusal(&others, &["ham4db-3"]).starts_with("a majority of the members answers"));
    }

    #[test]
    fn one_that_answers_is_not_lost_and_counts_when_it_has_more() {
        let five = |second: LogId| [voter(2, Some(second)), voter(3, None), voter(4, None), voter(5, None)];
        let lost = ["ham4db-3", "ham4db-4", "ham4db-5"];
        assert_eq!(verdict(&five(log(3, 50)), &lost), Ok(()));
        assert_eq!(verdict(&five(log(2, 90)), &lost), Ok(()), "an older term has less");
        assert!(refusal(&five(log(3, 51)), &lost).starts_with("ham4db-2 has a later log"));
        assert!(
            refusal(&five(log(3, 40)), &["ham4db-2", "ham4db-3", "ham4db-4", "ham4db-5"])
                .starts_with("ham4db-2 is not lost")
        );
    }

    #[test]
    fn one_that_is_starting_is_waited_for() {
        let starting = Voter {
            state: VoterState::Starting,
            ..voter(2, None)
        };
        let others = [starting, voter(3, None), voter(4, None), voter(5, None)];
        let lost = ["ham4db-3", "ham4db-4", "ham4db-5"];
        assert_eq!(refusal(&others, &lost), "ham4db-2 is starting; try again in a moment");
    }

    #[test]
    fn both_halves_of_a_change_need_their_majority() {
        let others = [
            voter(2, Some(log(3, 50))),
            voter(3, None),
            voter(4, None),
            voter(5, None),
        ];
        let configs = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4, 5])];
        let lost = ["ham4db-3", "ham4db-4", "ham4db-5"].map(str::to_owned).into();
        assert_eq!(judge(1, Some(log(3, 50)), &configs, &others, &lost), Ok(()));
    }

    #[test]
    fn a_learner_cannot_go_on_alone() {
        let others = [voter(2, None)];
        let configs = [BTreeSet::from([2])];
        let lost = BTreeSet::from(["ham4db-2".to_owned()]);
        assert!(judge(1, Some(log(3, 50)), &configs, &others, &lost).is_err());
    }
}
