//! The verdict of a member about a suspect, and whether the verdicts of the members allow a failover.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::{Opinion, OpinionVerdict};
use crate::domain::instance::{Channel, InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::RecoveryQuorum;

use super::partition::is_silent_failure;

/// What a member knows of a suspect beside the probes of its opinion.
#[derive(Clone, Debug, Default)]
pub struct SuspectHistory {
    /// Replicas that received something since the suspect began to fail.
    pub receiving: BTreeSet<InstanceKey>,
    /// Other addresses of the suspect.
    pub aliases: BTreeSet<InstanceKey>,
}

/// The verdict about a suspect, from probes of the suspect and of its direct replicas that began after the member was
/// asked.
///
/// - A suspect that answers is alive, and so is one with a failure that proves life, or with a receiving replica, unless
///   that replica is seen to receive from another one of the listed replicas. A receiving replica with a source that has
///   another name than the suspect is still a veto: addresses have aliases, and a veto costs less than a second
///   primary.
/// - When the suspect's host does not answer at all, a replica that reports that it receives counts only when it
///   received something since then; otherwise the suspect is silent. The same holds for a suspect that accepts
///   connections and does not answer: stalled.
/// - A member without credentials for the suspect, or that reached none of the replicas, abstains. A member that cannot
///   resolve the suspect's name abstains too, unless replicas answer and all of these fail to connect to the suspect.
pub fn verdict(
    suspect: &InstanceKey,
    replicas: &BTreeSet<InstanceKey>,
    observations: &[Observation],
    known: &SuspectHistory,
) -> OpinionVerdict {
    let Some(seen) = latest(observations, suspect) else {
        return OpinionVerdict::Abstains(format!("{suspect} was not probed"));
    };
    let failure = match &seen.outcome {
        Ok(_) => return OpinionVerdict::Alive(format!("{suspect} answers")),
        Err(failure) if failure.proves_life() && *failure != ProbeFailure::Stalled => {
            return OpinionVerdict::Alive(format!("{suspect}: {failure}"));
        }
        Err(failure) => failure,
    };
    let answering: BTreeMap<&InstanceKey, &InstanceFacts> = replicas
        .iter()
        .filter(|key| *key != suspect)
        .filter_map(|key| {
            latest(observations, key)?
                .outcome
                .as_ref()
                .ok()
                .map(|facts| (key, facts.as_ref()))
        })
        .collect();
    let may_be_believed_wrongly = is_silent_failure(failure) || *failure == ProbeFailure::Stalled;
    let mut claims = Vec::new();
    for (key, facts) in &answering {
        let Some(channel) = facts.managed_channel() else {
            continue;
        };
        let is_of_suspect = channel.source == *suspect || known.aliases.contains(&channel.source);
        let is_from_a_sibling = !is_of_suspect && replicas.contains(&channel.source);
        if !channel.is_receiving() || is_from_a_sibling {
            continue;
        }
        if known.receiving.contains(*key) || !is_of_suspect || !may_be_believed_wrongly {
            return OpinionVerdict::Alive(format!("{key} receives from {}", channel.source));
        }
        claims.push(key.to_string());
    }
    if *failure == ProbeFailure::Stalled {
        return OpinionVerdict::Stalled(format!("{suspect}: {failure}"));
    }
    if !claims.is_empty() {
        return OpinionVerdict::Silent(format!(
            "{suspect}: {failure}; {} reports that it receives, and it received nothing since then",
            claims.join(", ")
        ));
    }
    if replicas.is_empty() {
        return OpinionVerdict::Abstains(format!("{suspect}: {failure}, and it has no replica to probe"));
    }
    if answering.is_empty() {
        return OpinionVerdict::Abstains(format!(
            "{suspect}: {failure}, and none of its {} replicas answers either",
            replicas.len()
        ));
    }
    match failure {
        ProbeFailure::NoCredentials(_) => OpinionVerdict::Abstains(format!("{suspect}: {failure}")),
        ProbeFailure::Name(_) => {
            let all_fail = answering
                .values()
                .all(|facts| facts.managed_channel().is_some_and(Channel::is_failing_to_connect));
            if all_fail {
                OpinionVerdict::Dead
            } else {
                OpinionVerdict::Abstains(format!("{suspect}: {failure}"))
            }
        }
        ProbeFailure::Refused | ProbeFailure::Lost(_) | ProbeFailure::NoAnswer | ProbeFailure::Unreachable(_) => {
            OpinionVerdict::Dead
        }
        ProbeFailure::Stalled
        | ProbeFailure::Saturated
        | ProbeFailure::Denied(_)
        | ProbeFailure::Server { .. }
        | ProbeFailure::Unreadable(_) => OpinionVerdict::Alive(format!("{suspect}: {failure}")),
    }
}

/// The last observation of an instance.
fn latest<'a>(observations: &'a [Observation], key: &InstanceKey) -> Option<&'a Observation> {
    observations
        .iter()
        .filter(|observation| observation.key == *key)
        .max_by_key(|observation| observation.ended)
}

/// The failure that the members are asked to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspectedFailure {
    /// The suspect is dead.
    Gone,
    /// The suspect is stalled, and the policy allows its replacement.
    Stalled,
}

/// What the members agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// A failover.
    Failover,
    /// A failover, when a reconnect test shows that no replica can reach the suspect.
    Test,
}

/// Whether the opinions allow a failover: no member sees life, and enough members report `Dead` or, for a test,
/// `Silent`.
///
/// `voters` is the committed membership with the data center of each voter (empty: unknown), whether it answered or
/// not: abstaining and missing voters count as no. Several opinions of one member count once. With
/// [`RecoveryQuorum::Leader`] the leader's opinion is enough; a veto still holds.
///
/// With [`RecoveryQuorum::MajorityOfDataCenters`] a majority of the voters is needed as well, and the agreeing voters
/// must be in more than half of the data centers that have voters. A voter with an unknown data center counts as one
/// more data center that does not agree, whatever its verdict. The rule therefore holds wherever that voter really is,
/// and when no data center is known, no primary is replaced.
///
/// # Errors
/// The refusal in words for the record: the vetoes with their reasons, or the count with the members that did not
/// agree.
pub fn agreement(
    opinions: &[Opinion],
    voters: &BTreeMap<u64, String>,
    quorum: RecoveryQuorum,
    suspicion: SuspectedFailure,
) -> Result<Agreement, String> {
    let mut dead = BTreeSet::new();
    let mut others = Vec::new();
    let mut vetoes = Vec::new();
    let mut consent = Agreement::Failover;
    for opinion in opinions {
        match &opinion.verdict {
            OpinionVerdict::Dead => {
                dead.insert(opinion.member);
            }
            OpinionVerdict::Silent(_) => {
                dead.insert(opinion.member);
                consent = Agreement::Test;
            }
            OpinionVerdict::Stalled(_) if suspicion == SuspectedFailure::Stalled => {
                dead.insert(opinion.member);
                consent = Agreement::Test;
            }
            OpinionVerdict::Alive(why) | OpinionVerdict::Stalled(why) => {
                vetoes.push(format!("{}: {why}", opinion.name));
            }
            OpinionVerdict::Abstains(why) => others.push(format!("{} abstains: {why}", opinion.name)),
            OpinionVerdict::Missing(why) => others.push(format!("{} did not answer: {why}", opinion.name)),
        }
    }
    if !vetoes.is_empty() {
        return Err(format!("seen alive by {}", vetoes.join("; ")));
    }
    let needed = match quorum {
        RecoveryQuorum::Leader => 1,
        RecoveryQuorum::Majority | RecoveryQuorum::MajorityOfDataCenters => voters.len() / 2 + 1,
    };
    let others = if others.is_empty() {
        String::new()
    } else {
        format!(" ({})", others.join("; "))
    };
    if voters.is_empty() || dead.len() < needed {
        return Err(format!(
            "{} of {} voters see it dead, {needed} are needed{others}",
            dead.len(),
            voters.len()
        ));
    }
    if quorum == RecoveryQuorum::MajorityOfDataCenters {
        let is_known = |place: &&String| !place.is_empty();
        let known: BTreeSet<&String> = voters.values().filter(is_known).collect();
        let agreeing = dead.iter().filter_map(|member| voters.get(member)).filter(is_known);
        let agreeing: BTreeSet<&String> = agreeing.collect();
        let unknown: Vec<u64> = voters
            .iter()
            .filter(|(_, place)| place.is_empty())
            .map(|(member, _)| *member)
            .collect();
        let all = known.len() + unknown.len();
        let needed = all / 2 + 1;
        if agreeing.len() < needed {
            let unknown = unknown_places(opinions, &unknown);
            return Err(format!(
                "voters in {} of {all} data centers see it dead, {needed} are needed{unknown}{others}",
                agreeing.len(),
            ));
        }
    }
    Ok(consent)
}

/// A text that names the members with an unknown data center; empty when all are known.
fn unknown_places(opinions: &[Opinion], members: &[u64]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let name = |member: &u64| {
        let opinion = opinions.iter().find(|opinion| opinion.member == *member);
        opinion.map_or_else(|| format!("member {member}"), |opinion| opinion.name.clone())
    };
    let names: Vec<String> = members.iter().map(name).collect();
    format!(
        "; the data center of {} is unknown and counts as one that does not agree (MemberDataCenter)",
        names.join(", ")
    )
}

#[cfg(test)]
#[path = "opinion_tests.rs"]
mod tests;
