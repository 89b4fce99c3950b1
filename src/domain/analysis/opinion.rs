//! What a member answers when it is asked about a suspect, and when the members' answers allow a failover.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::finding::{Opinion, Verdict};
use crate::domain::instance::{Channel, InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::RecoveryQuorum;

use super::silence::is_silence;

/// What a member knows beside the probes of its opinion.
#[derive(Clone, Debug, Default)]
pub struct OpinionContext {
    /// Replicas at which something has arrived since the suspect began to fail.
    pub receiving: BTreeSet<InstanceKey>,
    /// Other addresses of the suspect.
    pub aliases: BTreeSet<InstanceKey>,
}

/// What a member says of a suspect, from probes of the suspect and of its direct replicas that it began after it was asked.
///
/// - A suspect that answers, or whose failure proves life, is alive; so it is when a replica receives, unless that replica is seen
///   to receive from another one of the listed replicas. A receiving replica whose source is written otherwise than the suspect is a
///   veto all the same: addresses have aliases, and a veto costs less than a second primary.
/// - Where the suspect's host gives no answer at all, a replica of it that says that it receives is believed only when something has
///   arrived there since; otherwise the suspect is silent. The same for a suspect that accepts connections and answers none: stalled.
/// - A member that has no credentials for the suspect, or that reached none of the replicas, sees too little and abstains. One that
///   cannot resolve the suspect's name abstains too, unless replicas answer and all of these fail to connect to the suspect.
pub fn verdict(
    suspect: &InstanceKey,
    replicas: &BTreeSet<InstanceKey>,
    observations: &[Observation],
    known: &OpinionContext,
) -> Verdict {
    let Some(seen) = latest(observations, suspect) else {
        return Verdict::Abstains(format!("{suspect} was not asked"));
    };
    let failure = match &seen.outcome {
        Ok(_) => return Verdict::Alive(format!("{suspect} answers")),
        Err(failure) if failure.proves_life() && *failure != ProbeFailure::Stalled => {
            return Verdict::Alive(format!("{suspect}: {failure}"));
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
    let may_be_believed_wrongly = is_silence(failure) || *failure == ProbeFailure::Stalled;
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
            return Verdict::Alive(format!("{key} receives from {}", channel.source));
        }
        claims.push(key.to_string());
    }
    if *failure == ProbeFailure::Stalled {
        return Verdict::Stalled(format!("{suspect}: {failure}"));
    }
    if !claims.is_empty() {
        return Verdict::Silent(format!(
            "{suspect}: {failure}; {} says that it receives, and nothing has arrived there since",
            claims.join(", ")
        ));
    }
    if replicas.is_empty() {
        return Verdict::Abstains(format!("{suspect}: {failure}, and there is no replica to ask"));
    }
    if answering.is_empty() {
        return Verdict::Abstains(format!(
            "{suspect}: {failure}, and none of its {} replicas answers either",
            replicas.len()
        ));
    }
    match failure {
        ProbeFailure::NoCredentials(_) => Verdict::Abstains(format!("{suspect}: {failure}")),
        ProbeFailure::Name(_) => {
            let all_fail = answering
                .values()
                .all(|facts| facts.managed_channel().is_some_and(Channel::is_failing_to_connect));
            if all_fail {
                Verdict::Dead
            } else {
                Verdict::Abstains(format!("{suspect}: {failure}"))
            }
        }
        ProbeFailure::Refused | ProbeFailure::Lost(_) | ProbeFailure::NoAnswer | ProbeFailure::Unreachable(_) => {
            Verdict::Dead
        }
        ProbeFailure::Stalled
        | ProbeFailure::Saturated
        | ProbeFailure::Denied(_)
        | ProbeFailure::Server { .. }
        | ProbeFailure::Unreadable(_) => Verdict::Alive(format!("{suspect}: {failure}")),
    }
}

/// The observation of an instance that ended last.
fn latest<'a>(observations: &'a [Observation], key: &InstanceKey) -> Option<&'a Observation> {
    observations
        .iter()
        .filter(|observation| observation.key == *key)
        .max_by_key(|observation| observation.ended)
}

/// What the members are asked to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// The suspect is gone.
    Gone,
    /// The suspect is stalled, and the policy lets it be replaced.
    Stalled,
}

/// What the members agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// A failover.
    Failover,
    /// A failover, when no replica can reach the suspect anew.
    Test,
}

/// Whether the opinions allow a failover: nobody sees life, and enough members say `Dead` or, for a test, `Silent`.
///
/// `voters` is the committed membership with the data centre of each voter (empty: unknown), whoever answered: abstaining and missing
/// count as no. Several opinions of one member count once. With [`RecoveryQuorum::Leader`] one, the leader's own, is enough; a veto
/// still holds.
///
/// With [`RecoveryQuorum::MajorityOfDataCenters`] a majority of the voters is needed as well, and those who agree must be in more than
/// half of the data centres that voters are in. A voter whose data centre is not known counts as a data centre more that does not agree,
/// whatever it says: so the rule holds wherever it really is, and where nobody was told where it is, nobody is replaced.
///
/// # Errors
/// Why not, in words for the record: the vetoes with their reasons, or the count with who said otherwise.
pub fn agreement(
    opinions: &[Opinion],
    voters: &BTreeMap<u64, String>,
    quorum: RecoveryQuorum,
    suspicion: Suspicion,
) -> Result<Agreement, String> {
    let mut dead = BTreeSet::new();
    let mut others = Vec::new();
    let mut vetoes = Vec::new();
    let mut consent = Agreement::Failover;
    for opinion in opinions {
        match &opinion.verdict {
            Verdict::Dead => {
                dead.insert(opinion.member);
            }
            Verdict::Silent(_) => {
                dead.insert(opinion.member);
                consent = Agreement::Test;
            }
            Verdict::Stalled(_) if suspicion == Suspicion::Stalled => {
                dead.insert(opinion.member);
                consent = Agreement::Test;
            }
            Verdict::Alive(why) | Verdict::Stalled(why) => vetoes.push(format!("{}: {why}", opinion.name)),
            Verdict::Abstains(why) => others.push(format!("{} abstains: {why}", opinion.name)),
            Verdict::Missing(why) => others.push(format!("{} did not answer: {why}", opinion.name)),
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
                "voters in {} of {all} data centres see it dead, {needed} are needed{unknown}{others}",
                agreeing.len(),
            ));
        }
    }
    Ok(consent)
}

/// Says of which members it is not known where they are; nothing when it is known of all.
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
        "; the data centre of {} is not known and counts as one that does not (MemberDataCenter)",
        names.join(", ")
    )
}

#[cfg(test)]
#[path = "opinion_tests.rs"]
mod tests;
