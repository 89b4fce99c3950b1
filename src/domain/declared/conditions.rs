//! The conditions of a document, each with a reason for programs and a message for the operator.

use crate::domain::finding::Code;
use crate::domain::policy::{RecoveryMode, VoterProblem};

use super::definition::{self, Definition};
use super::document::{DeclaredCluster, SecretState};
use super::endpoints;
use super::reason::Reason;
use super::status::{Condition, ConditionKind, ConditionStatus, InstanceStatus, RecoveryPhase, Role, StatusModel};
use super::status_builder::SeedMatch;

/// All conditions in the order of [`ConditionKind::ALL`]. `model` is complete except for its conditions.
pub(super) fn of(declared: &DeclaredCluster, found: &SeedMatch<'_>, model: &StatusModel) -> Vec<Condition> {
    let rest: Vec<Condition> = ConditionKind::ALL
        .into_iter()
        .filter_map(|kind| match kind {
            ConditionKind::Ready | ConditionKind::Reconciling | ConditionKind::Stalled => None,
            ConditionKind::Discovered => Some(discovered(declared, found, model)),
            ConditionKind::PrimaryWritable => Some(primary_writable(found, model)),
            ConditionKind::ReplicationHealthy => Some(replication_healthy(found, model)),
            ConditionKind::RecoveryActive => Some(recovery_active(found, model)),
            ConditionKind::RecoveryBlocked => Some(recovery_blocked(found, model)),
            ConditionKind::ErrantGtids => Some(errant_gtids(found, model)),
            ConditionKind::Downtimed => Some(downtimed(found, model)),
            ConditionKind::Paused => Some(paused(declared)),
            ConditionKind::CredentialsMissing => Some(credentials_missing(declared)),
            ConditionKind::RaftHealthy => Some(raft_healthy(found)),
            ConditionKind::UndiscoveredServers => Some(undiscovered(found, model)),
            ConditionKind::PrimaryServicePublished => Some(endpoints::condition(declared)),
            // Until the state of the Services is known.
            ConditionKind::DefinitionCurrent => Some(definition::condition(&Definition::NotReadYet, &[])),
        })
        .collect();
    let stalled = stalled(&rest);
    let reconciling = reconciling(&rest, stalled.status == ConditionStatus::True, model);
    let mut all = vec![ready(&rest)];
    all.extend(rest);
    all.extend([reconciling, stalled]);
    all
}

/// The most important problem in one sentence: the first line of a condition's message.
pub(super) fn worst(model: &StatusModel) -> String {
    // The healthy status: true for the positive conditions, false for the others.
    let order = [
        (ConditionKind::CredentialsMissing, ConditionStatus::False),
        (ConditionKind::Discovered, ConditionStatus::True),
        (ConditionKind::RecoveryActive, ConditionStatus::False),
        (ConditionKind::RecoveryBlocked, ConditionStatus::False),
        (ConditionKind::PrimaryWritable, ConditionStatus::True),
        (ConditionKind::ReplicationHealthy, ConditionStatus::True),
        (ConditionKind::ErrantGtids, ConditionStatus::False),
        (ConditionKind::Paused, ConditionStatus::False),
    ];
    order
        .into_iter()
        .find_map(|(kind, healthy)| model.condition(kind).filter(|condition| condition.status != healthy))
        .and_then(|condition| condition.message.lines().next())
        .map_or_else(String::new, ToOwned::to_owned)
}

fn condition(kind: ConditionKind, status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(kind, status, reason, message)
}

/// The condition of a cluster that was not seen yet.
fn not_seen_yet(kind: ConditionKind) -> Condition {
    condition(
        kind,
        ConditionStatus::Unknown,
        Reason::NotSeenYet,
        "no instance of the cluster has answered yet",
    )
}

/// The summary of the other conditions: an unusable document first, then the primary.
fn ready(rest: &[Condition]) -> Condition {
    let of = |kind| rest.iter().find(|condition| condition.kind == kind);
    let cause = unusable(rest).or_else(|| of(ConditionKind::PrimaryWritable));
    match cause {
        Some(cause) if cause.kind != ConditionKind::PrimaryWritable => Condition {
            kind: ConditionKind::Ready,
            status: ConditionStatus::False,
            ..cause.clone()
        },
        Some(primary) => Condition {
            kind: ConditionKind::Ready,
            ..primary.clone()
        },
        None => not_seen_yet(ConditionKind::Ready),
    }
}

/// The condition that makes the document unusable, if there is one.
fn unusable(rest: &[Condition]) -> Option<&Condition> {
    let is = |kind: ConditionKind, status: ConditionStatus| {
        rest.iter()
            .find(move |condition| condition.kind == kind && condition.status == status)
    };
    is(ConditionKind::CredentialsMissing, ConditionStatus::True)
        .or_else(|| is(ConditionKind::Discovered, ConditionStatus::False))
}

/// Whether an operator has to act before anything improves.
fn stalled(rest: &[Condition]) -> Condition {
    let blocked = rest.iter().find(|condition| {
        condition.kind == ConditionKind::RecoveryBlocked && condition.status == ConditionStatus::True
    });
    match unusable(rest).or(blocked) {
        Some(cause) => Condition {
            kind: ConditionKind::Stalled,
            status: ConditionStatus::True,
            ..cause.clone()
        },
        None => condition(
            ConditionKind::Stalled,
            ConditionStatus::False,
            Reason::NotStalled,
            "no problem requires an operator",
        ),
    }
}

/// Whether something is in progress towards what the document asks for.
fn reconciling(rest: &[Condition], is_stalled: bool, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Reconciling;
    let has = |kind: ConditionKind, status: ConditionStatus| {
        rest.iter()
            .any(|condition| condition.kind == kind && condition.status == status)
    };
    let hands_over = model.takeover.as_ref().filter(|takeover| takeover.finished.is_none());
    if is_stalled {
        return condition(kind, ConditionStatus::False, Reason::Settled, "nothing is in progress");
    }
    if let Some(takeover) = hands_over {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::TakingOver,
            format!("takeover {} is {:?}", takeover.id, takeover.phase),
        );
    }
    if has(ConditionKind::RecoveryActive, ConditionStatus::True) {
        return condition(kind, ConditionStatus::True, Reason::Recovering, "a recovery is running");
    }
    if has(ConditionKind::Discovered, ConditionStatus::Unknown)
        || has(ConditionKind::CredentialsMissing, ConditionStatus::Unknown)
    {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::Discovering,
            "the servers or their account are not known yet",
        );
    }
    condition(kind, ConditionStatus::False, Reason::Settled, "nothing is in progress")
}

/// The group that writes this status has just proved its quorum. A group without a quorum writes nothing.
fn raft_healthy(found: &SeedMatch<'_>) -> Condition {
    let kind = ConditionKind::RaftHealthy;
    let Some(view) = found.view else {
        return not_seen_yet(kind);
    };
    let voters = &view.policy.voters;
    if voters.is_empty() {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::SingleMember,
            "the group has a single member, which needs no quorum",
        );
    }
    let names = |names: &mut dyn Iterator<Item = &String>| names.map(String::as_str).collect::<Vec<_>>().join(", ");
    let confirmed = format!(
        "a majority of the voters {} confirmed the leader",
        names(&mut voters.keys())
    );
    let with = |wanted: VoterProblem| {
        let problems = view.policy.voter_problems.iter();
        names(
            &mut problems
                .filter(|(_, problem)| **problem == wanted)
                .map(|(name, _)| name),
        )
    };
    let (silent, skewed) = (with(VoterProblem::Silent), with(VoterProblem::ClockSkew));
    let mut problems = Vec::new();
    if !silent.is_empty() {
        problems.push(format!(
            "no answer from {silent}: start it, or remove it from the group"
        ));
    }
    if !skewed.is_empty() {
        problems.push(format!(
            "ClockSkew: the clock of {skewed} differs from the majority's: correct it"
        ));
    }
    let reason = match (silent.is_empty(), skewed.is_empty()) {
        (true, true) => return condition(kind, ConditionStatus::True, Reason::Quorum, confirmed),
        (false, _) => Reason::MemberSilent,
        (true, false) => Reason::ClockSkew,
    };
    let message = format!("{}; {confirmed}", problems.join("; "));
    condition(kind, ConditionStatus::False, reason, message)
}

/// Whether servers of the cluster name addresses that are not dialled.
fn undiscovered(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::UndiscoveredServers;
    let Some(view) = found
        .view
        .filter(|_| model.instances.iter().any(|instance| instance.answers))
    else {
        return not_seen_yet(kind);
    };
    let mut named = view.findings.iter().map(|judged| &judged.finding);
    match named.find(|finding| finding.code == Code::UndiscoveredServers) {
        Some(finding) => condition(
            kind,
            ConditionStatus::True,
            Reason::NotFollowed,
            finding.description.clone(),
        ),
        None => condition(
            kind,
            ConditionStatus::False,
            Reason::AllFollowed,
            "every server that the servers of the cluster name is dialled",
        ),
    }
}

fn discovered(declared: &DeclaredCluster, found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Discovered;
    if let Some(owner) = found.other_owner {
        return condition(
            kind,
            ConditionStatus::False,
            Reason::OwnedByAnotherDocument,
            format!("the seeds belong to a cluster that document {owner} owns; only that document is in effect"),
        );
    }
    let Some(view) = found.view else {
        return condition(
            kind,
            ConditionStatus::Unknown,
            Reason::NotSeenYet,
            "no cluster was found from the seeds yet",
        );
    };
    if let Some((seed, owner)) = found.foreign_seed {
        return condition(
            kind,
            ConditionStatus::False,
            Reason::SeedBelongsToAnother,
            format!("seed {seed} belongs to the cluster of document {owner}"),
        );
    }
    if let Some((seed, other)) = found.second_topology {
        return condition(
            kind,
            ConditionStatus::False,
            Reason::SeveralTopologies,
            format!(
                "seed {seed} belongs to another topology ({}) than the other seeds; create a separate document for it",
                other.cluster.name
            ),
        );
    }
    let lost = declared
        .document
        .seeds
        .iter()
        .find(|seed| view.topology.get(seed).is_none());
    if let Some(seed) = lost {
        return condition(
            kind,
            ConditionStatus::Unknown,
            Reason::SeedNotFound,
            format!("seed {seed} is not an instance of the cluster, or has not answered yet"),
        );
    }
    if model.instances.iter().all(|instance| instance.role == Role::Unknown) {
        return not_seen_yet(kind);
    }
    condition(
        kind,
        ConditionStatus::True,
        Reason::Discovered,
        "all seeds belong to one topology",
    )
}

fn primary_writable(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::PrimaryWritable;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    let Some(primary) = &model.primary else {
        return condition(
            kind,
            ConditionStatus::Unknown,
            Reason::NoPrimaryKnown,
            "no single writable primary has been seen yet",
        );
    };
    let seen = model.instances.iter().find(|instance| instance.role == Role::Primary);
    match seen.and_then(|instance| instance.read_only) {
        Some(false) => condition(
            kind,
            ConditionStatus::True,
            Reason::Writable,
            format!("{} answers and takes writes", primary.instance),
        ),
        Some(true) => condition(
            kind,
            ConditionStatus::False,
            Reason::ReadOnly,
            format!("{} answers and is read-only", primary.instance),
        ),
        None => {
            let findings = found.view.into_iter().flat_map(|view| &view.findings);
            let cause = findings.map(|judged| &judged.finding).find(|finding| {
                finding.evidence.is_primary
                    && !finding.evidence.last_check_valid
                    && finding.code != crate::domain::finding::Code::NoProblem
            });
            let what = cause.map_or_else(|| "does not answer".to_owned(), |finding| finding.code.to_string());
            condition(
                kind,
                ConditionStatus::Unknown,
                Reason::PrimaryUnreachable,
                format!("{}: {what}", primary.instance),
            )
        }
    }
}

fn replication_healthy(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::ReplicationHealthy;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    let mut replicas = model
        .instances
        .iter()
        .filter(|instance| instance.role != Role::Primary && instance.downtime.is_none())
        .peekable();
    if replicas.peek().is_none() {
        return condition(
            kind,
            ConditionStatus::False,
            Reason::NoReplicas,
            "the primary has no replica that is not in downtime",
        );
    }
    let ill: Vec<&InstanceStatus> = replicas.filter(|instance| !instance.problems.is_empty()).collect();
    let Some(first) = ill.first() else {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::AllReplicate,
            "all replicas answer and replicate",
        );
    };
    let others = if ill.len() > 1 {
        format!(" (and {} more)", ill.len() - 1)
    } else {
        String::new()
    };
    let what = first.problems.first().map_or("", String::as_str);
    let reason = if first.answers {
        Reason::ReplicaUnhealthy
    } else {
        Reason::ReplicaUnreachable
    };
    let status = if ill.iter().all(|instance| instance.role == Role::Unknown) {
        ConditionStatus::Unknown
    } else {
        ConditionStatus::False
    };
    condition(kind, status, reason, format!("{} {what}{others}", first.instance))
}

fn recovery_active(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::RecoveryActive;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    match &model.recovery {
        Some(recovery) if !matches!(recovery.phase, RecoveryPhase::Blocked | RecoveryPhase::WouldBlock) => condition(
            kind,
            ConditionStatus::True,
            if recovery.phase == RecoveryPhase::Opened {
                Reason::Opened
            } else {
                Reason::Claimed
            },
            format!("{} of {} is being repaired", recovery.failure, recovery.old_primary),
        ),
        Some(_) | None => condition(
            kind,
            ConditionStatus::False,
            Reason::NoRecovery,
            "no recovery is running",
        ),
    }
}

fn recovery_blocked(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::RecoveryBlocked;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    match &model.recovery {
        Some(recovery) if recovery.phase == RecoveryPhase::Blocked => condition(
            kind,
            ConditionStatus::True,
            Reason::HeldBack,
            format!(
                "{} of {} is not repaired: {}",
                recovery.failure,
                recovery.old_primary,
                recovery.blocked_by.join("; ")
            ),
        ),
        Some(_) | None => condition(
            kind,
            ConditionStatus::False,
            Reason::NothingHeldBack,
            "no recovery is held back",
        ),
    }
}

fn errant_gtids(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::ErrantGtids;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    let errant: Vec<String> = model
        .instances
        .iter()
        .filter(|instance| instance.errant.is_some())
        .map(|instance| instance.instance.to_string())
        .collect();
    if !errant.is_empty() {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::ErrantTransactions,
            format!("{} has transactions that the primary lacks", errant.join(", ")),
        );
    }
    let compared = model
        .instances
        .iter()
        .any(|instance| instance.role == Role::Primary && instance.answers)
        && model
            .instances
            .iter()
            .filter(|instance| instance.role == Role::Replica)
            .all(|instance| instance.answers);
    if compared {
        condition(
            kind,
            ConditionStatus::False,
            Reason::NoErrantTransactions,
            "no replica has transactions that the primary lacks",
        )
    } else {
        condition(
            kind,
            ConditionStatus::Unknown,
            Reason::NotCompared,
            "not all instances answer",
        )
    }
}

fn downtimed(found: &SeedMatch<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Downtimed;
    if found.view.is_none() {
        return not_seen_yet(kind);
    }
    let down: Vec<String> = model
        .instances
        .iter()
        .filter(|instance| instance.downtime.is_some())
        .map(|instance| instance.instance.to_string())
        .collect();
    if down.is_empty() {
        condition(
            kind,
            ConditionStatus::False,
            Reason::NoDowntime,
            "no instance is in downtime",
        )
    } else {
        condition(
            kind,
            ConditionStatus::True,
            Reason::InDowntime,
            format!("in downtime: {}", down.join(", ")),
        )
    }
}

fn paused(declared: &DeclaredCluster) -> Condition {
    let kind = ConditionKind::Paused;
    if declared.document.paused {
        return condition(
            kind,
            ConditionStatus::True,
            Reason::Paused,
            "spec.paused is true: failures are not repaired",
        );
    }
    match declared.document.mode {
        RecoveryMode::Auto => condition(kind, ConditionStatus::False, Reason::Auto, "failures are repaired"),
        RecoveryMode::DetectOnly => condition(
            kind,
            ConditionStatus::True,
            Reason::DetectOnly,
            "spec.recovery.mode is DetectOnly: failures are reported and not repaired",
        ),
        RecoveryMode::Off => condition(
            kind,
            ConditionStatus::True,
            Reason::Off,
            "spec.recovery.mode is Off: failures are not repaired",
        ),
    }
}

fn credentials_missing(declared: &DeclaredCluster) -> Condition {
    let kind = ConditionKind::CredentialsMissing;
    match &declared.secret {
        SecretState::Unread => condition(
            kind,
            ConditionStatus::Unknown,
            Reason::NotReadYet,
            "the Secret has not been read yet",
        ),
        SecretState::Read => condition(
            kind,
            ConditionStatus::False,
            Reason::CredentialsRead,
            "the Secret contains an account",
        ),
        SecretState::LastKnown(why) => condition(
            kind,
            ConditionStatus::False,
            Reason::LastKnownCredentials,
            format!("the account that was read last is used: {why}"),
        ),
        SecretState::Missing(why) => condition(kind, ConditionStatus::True, Reason::CredentialsMissing, why.clone()),
        SecretState::Forbidden(why) => {
            condition(kind, ConditionStatus::True, Reason::CredentialsForbidden, why.clone())
        }
    }
}
