//! A group that lost its majority for good goes on with one member, because a person says so.
//!
//! The person names every member that is lost, as a file in the data directory that the running member finds. The member looks whether they
//! are, answers with another file, and only when nothing speaks against it ends its life and gives its log a membership of one. Others that
//! come back are told by their group that they are no members, set their log aside and join again.
//!
//! Raft cannot do this safely: what the lost majority had committed and this member had not received is gone, and a majority that was called
//! lost and returns in the same moment would lead itself. So nothing is repaired afterwards until recoveries are enabled again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bootstrap::ASK_DEADLINE;
use super::health::{self, Metrics};
use super::log_store::LogStore;
use super::member::{IncarnationEnd, RaftIncarnation, Shared};
use super::membership;
use super::network::Recipient;
use super::types::{LogId, MemberNode};
use super::wire::Hello;
use crate::app::ports::Health;
use crate::domain::state::{Command, MemberId, Proposal};
use crate::domain::time::WallTime;

const REQUEST_FILE: &str = "force-quorum.json";
const ANSWER_FILE: &str = "force-quorum-answer.json";
/// How often the member looks for a request.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A request that is older than this is not heeded: it was about another day.
const VALID_MILLIS: i64 = 60_000;

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForceRequest {
    /// Its name, minted when it is made; the answer has it too.
    pub id: String,
    /// When it was made.
    pub at: WallTime,
    /// The members that are lost for good, as the group calls them.
    pub lost: BTreeSet<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForceAnswer {
    /// The request's name.
    pub id: String,
    /// Whether the group goes on with this member.
    pub done: bool,
    /// In words, for people.
    pub what: String,
}

impl ForceRequest {
    /// A request, made at this time.
    pub fn new(at: WallTime, lost: BTreeSet<String>) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            at,
            lost,
        }
    }

    /// Lays it before the member whose data directory this is.
    ///
    /// # Errors
    /// When the directory is no member's, or cannot be written.
    pub fn put(&self, directory: &Path) -> io::Result<()> {
        if super::identity::MemberIdentity::load(directory)?.is_none() {
            return Err(io::Error::other(format!(
                "{} has no {}: no member lives there",
                directory.display(),
                super::identity::FILE_NAME
            )));
        }
        write(directory, REQUEST_FILE, self)
    }

    /// Takes it back, if it was not heeded yet.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn withdraw(&self, directory: &Path) -> io::Result<()> {
        match read::<Self>(directory, REQUEST_FILE) {
            Ok(Some(present)) if present.id == self.id => remove(directory, REQUEST_FILE),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The member's answer, when it gave one.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn answer(&self, directory: &Path) -> io::Result<Option<ForceAnswer>> {
        Ok(read::<ForceAnswer>(directory, ANSWER_FILE)?.filter(|answer| answer.id == self.id))
    }
}

fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<Option<T>> {
    let path = directory.join(name);
    let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("read {}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Readable by whoever runs the member: who may write into its data directory may take all of it anyway.
fn write<T: Serialize>(directory: &Path, name: &str, value: &T) -> io::Result<()> {
    let path = directory.join(name);
    let fresh = directory.join(format!("{name}.new"));
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| io::Error::other(format!("write {}: {error}", path.display())))
}

fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes a request up, once, and forgets one that is old or not understood.
fn take(shared: &Shared) -> Option<ForceRequest> {
    let directory = &shared.settings.data_dir;
    let found = match read::<ForceRequest>(directory, REQUEST_FILE) {
        Ok(None) => return None,
        Ok(Some(request)) => Some(request),
        Err(error) => {
            tracing::warn!("a request to force the quorum is dropped: {error}");
            None
        }
    };
    if let Err(error) = remove(directory, REQUEST_FILE) {
        // It would be found again and again: better not at all.
        shared.set_situation(&format!("cannot remove {REQUEST_FILE}: {error}"));
        return None;
    }
    let age = |request: &ForceRequest| shared.around.clock.wall().0 - request.at.0;
    found.filter(|request| (-VALID_MILLIS..VALID_MILLIS).contains(&age(request)))
}

fn answer(shared: &Shared, request: &ForceRequest, done: bool, what: String) {
    if done {
        tracing::warn!("{what}");
    } else {
        tracing::warn!("the quorum is not forced: {what}");
    }
    let answer = ForceAnswer {
        id: request.id.clone(),
        done,
        what,
    };
    if let Err(error) = write(&shared.settings.data_dir, ANSWER_FILE, &answer) {
        tracing::error!("{error}");
    }
}

/// Answers a request on a member that has no log to go on with.
pub(super) fn refuse_without_log(shared: &Shared) {
    if let Some(request) = take(shared) {
        let what = format!(
            "this member has no log of its group to go on with ({}); ask one that has",
            shared.situation()
        );
        answer(shared, &request, false, what);
    }
}

/// Waits for a request to which nothing is to be said, refusing others.
pub(super) async fn heed(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    loop {
        if let Some(request) = take(shared) {
            match examine(shared, incarnation, &request).await {
                Ok(()) => return IncarnationEnd::Forced(request),
                Err(why) => answer(shared, &request, false, why),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A voter as this member finds it now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voter {
    id: MemberId,
    name: String,
    sight: Sight,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    /// Answers under this id, with a log that ends there.
    Log(LogId),
    /// Answers under this id, and has not opened its log yet.
    Starting,
    /// Why it counts as lost.
    Away(String),
}

async fn examine(
    shared: &Arc<Shared>,
    incarnation: &Arc<RaftIncarnation>,
    request: &ForceRequest,
) -> Result<(), String> {
    if health::health(shared) == Health::Healthy {
        return Err("this member is healthy: its group has a majority".to_owned());
    }
    let metrics: Metrics = incarnation.raft.metrics().borrow_watched().clone();
    let own_log = incarnation.log.last_log_id().await.map_err(|error| error.to_string())?;
    let nodes: Vec<(MemberId, MemberNode)> = metrics
        .membership_config
        .nodes()
        .map(|(id, node)| (*id, membership::current_address(shared, node)))
        .collect();
    let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
    let others = nodes.iter().filter(|(id, _)| *id != metrics.id && voters.contains(id));
    let asked = join_all(others.map(|(id, node)| async move {
        let to = Recipient { node, member: None };
        let hello = shared.dialer.call::<_, Hello>(to, "hello", &(), None, ASK_DEADLINE);
        let sight = match hello.await {
            Ok(hello) if hello.member == Some(*id) => hello.last_log.map_or(Sight::Starting, Sight::Log),
            Ok(hello) => Sight::Away(hello.member.map_or_else(
                || "it is back without its log".to_owned(),
                |other| format!("member {other} answers there"),
            )),
            Err(error) => Sight::Away(error.to_string()),
        };
        Voter {
            id: *id,
            name: node.name.clone(),
            sight,
        }
    }));
    judge(
        metrics.id,
        own_log,
        metrics.membership_config.get_joint_config(),
        &asked.await,
        &request.lost,
    )
}

/// What speaks against it.
fn judge(
    own: MemberId,
    own_log: Option<LogId>,
    configs: &[BTreeSet<MemberId>],
    others: &[Voter],
    lost: &BTreeSet<String>,
) -> Result<(), String> {
    let Some(own_log) = own_log.filter(|_| configs.iter().any(|config| config.contains(&own))) else {
        return Err("this member is no voter of its group; ask one that is".to_owned());
    };
    let is_away = |other: &Voter| matches!(other.sight, Sight::Away(_));
    let answers = |id: &MemberId| *id == own || others.iter().any(|other| other.id == *id && !is_away(other));
    let has_majority = |config: &BTreeSet<MemberId>| config.iter().filter(|id| answers(id)).count() * 2 > config.len();
    if configs.iter().all(has_majority) {
        return Err(
            "a majority of the members answers, with their logs: that needs no force. See what raft-health of each says"
                .to_owned(),
        );
    }
    let names = |keep: &dyn Fn(&&Voter) -> bool| {
        let kept: Vec<&str> = others.iter().filter(keep).map(|other| other.name.as_str()).collect();
        kept.join(", ")
    };
    if let Some(unknown) = lost.iter().find(|name| others.iter().all(|other| other.name != **name)) {
        return Err(format!(
            "{unknown} is no other voter of the group; those are {}",
            names(&|_| true)
        ));
    }
    for other in others {
        match &other.sight {
            Sight::Log(_) | Sight::Starting if lost.contains(&other.name) => {
                return Err(format!("{} is not lost: it answers, with its log", other.name));
            }
            Sight::Starting => return Err(format!("{} is starting: ask again in a moment", other.name)),
            Sight::Log(log) if *log > own_log => {
                return Err(format!(
                    "{} has a later log ({log}) than this member ({own_log}): ask it",
                    other.name
                ));
            }
            Sight::Away(why) if !lost.contains(&other.name) => {
                return Err(format!(
                    "{} was not called lost. Bring it back with its disk, or name it as lost if that is gone for good ({why})",
                    other.name
                ));
            }
            Sight::Log(_) | Sight::Away(_) => {}
        }
    }
    Ok(())
}

/// Gives the log, which nobody uses any more, a membership of this member alone.
pub(super) async fn carry_out(shared: &Arc<Shared>, request: &ForceRequest, log: &LogStore) {
    let Some((member, cluster_uuid)) = shared
        .identity()
        .and_then(|identity| Some((identity.member?, identity.cluster_uuid)))
    else {
        return;
    };
    let lost: Vec<String> = request.lost.iter().cloned().collect();
    let command = Command::ForceQuorum {
        survivor: member,
        survivor_name: shared.settings.name.clone(),
        lost: lost.clone(),
    };
    let proposal = Proposal::new(shared.around.clock.wall(), command);
    match log.force_sole_voter((member, shared.node.clone()), proposal).await {
        Ok(()) => {
            let what = format!(
                "group {cluster_uuid} goes on with {} as its only voter, without {}; recoveries are disabled until somebody has looked: \
                 enable-global-recoveries",
                shared.settings.name,
                lost.join(", ")
            );
            answer(shared, request, true, what);
        }
        Err(error) => answer(shared, request, false, format!("nothing was changed: {error}")),
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
            sight: log.map_or_else(|| Sight::Away("connection refused".to_owned()), Sight::Log),
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
    fn everybody_who_is_silent_has_to_be_named() {
        let others = [voter(2, None), voter(3, None)];
        assert_eq!(verdict(&others, &["ham4db-2", "ham4db-3"]), Ok(()));
        assert!(refusal(&others, &["ham4db-2"]).starts_with("ham4db-3 was not called lost"));
        assert!(refusal(&others, &[]).starts_with("ham4db-2 was not called lost"));
    }

    #[test]
    fn a_name_that_is_nobodys_is_refused() {
        let others = [voter(2, None), voter(3, None)];
        assert_eq!(
            refusal(&others, &["ham4db-2", "ham4db-3", "ham4db-9"]),
            "ham4db-9 is no other voter of the group; those are ham4db-2, ham4db-3"
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
            sight: Sight::Starting,
            ..voter(2, None)
        };
        let others = [starting, voter(3, None), voter(4, None), voter(5, None)];
        let lost = ["ham4db-3", "ham4db-4", "ham4db-5"];
        assert_eq!(refusal(&others, &lost), "ham4db-2 is starting: ask again in a moment");
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
