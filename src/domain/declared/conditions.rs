//! The conditions of a document, each with a reason that programs may compare and a sentence for people.

use crate::domain::policy::Mode;

use super::definition::{self, Definition};
use super::document::{DeclaredCluster, SecretStanding};
use super::endpoints;
use super::reason::Reason;
use super::status::{Condition, ConditionKind, InstanceStatus, RecoveryPhase, Role, StatusModel, Truth};
use super::view::Found;

/// All conditions, in the order of [`ConditionKind::ALL`]. `model` has everything but its conditions.
pub(super) fn of(declared: &DeclaredCluster, found: &Found<'_>, model: &StatusModel) -> Vec<Condition> {
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
            ConditionKind::PrimaryServicePublished => Some(endpoints::condition(declared)),
            // Until it is said what is known of it.
            ConditionKind::DefinitionCurrent => Some(definition::condition(&Definition::NotReadYet, &[])),
        })
        .collect();
    let stalled = stalled(&rest);
    let reconciling = reconciling(&rest, stalled.truth == Truth::True, model);
    let mut all = vec![ready(&rest)];
    all.extend(rest);
    all.extend([reconciling, stalled]);
    all
}

/// The most important problem, in a sentence: what is below the first line of a message is for who looks closer.
pub(super) fn worst(model: &StatusModel) -> String {
    // Healthy when: true for the positive ones, false for the others.
    let order = [
        (ConditionKind::CredentialsMissing, Truth::False),
        (ConditionKind::Discovered, Truth::True),
        (ConditionKind::RecoveryActive, Truth::False),
        (ConditionKind::RecoveryBlocked, Truth::False),
        (ConditionKind::PrimaryWritable, Truth::True),
        (ConditionKind::ReplicationHealthy, Truth::True),
        (ConditionKind::ErrantGtids, Truth::False),
        (ConditionKind::Paused, Truth::False),
    ];
    order
        .into_iter()
        .find_map(|(kind, healthy)| model.condition(kind).filter(|condition| condition.truth != healthy))
        .and_then(|condition| condition.message.lines().next())
        .map_or_else(String::new, ToOwned::to_owned)
}

fn condition(kind: ConditionKind, truth: Truth, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(kind, truth, reason, message)
}

/// What is said of a cluster that nobody has seen yet.
fn unseen(kind: ConditionKind) -> Condition {
    condition(
        kind,
        Truth::Unknown,
        Reason::NotSeenYet,
        "no instance of the cluster was seen yet",
    )
}

/// The sum of the others: unusable documents first, then the primary.
fn ready(rest: &[Condition]) -> Condition {
    let of = |kind| rest.iter().find(|condition| condition.kind == kind);
    let cause = unusable(rest).or_else(|| of(ConditionKind::PrimaryWritable));
    match cause {
        Some(cause) if cause.kind != ConditionKind::PrimaryWritable => Condition {
            kind: ConditionKind::Ready,
            truth: Truth::False,
            ..cause.clone()
        },
        Some(primary) => Condition {
            kind: ConditionKind::Ready,
            ..primary.clone()
        },
        None => unseen(ConditionKind::Ready),
    }
}

/// Why the document cannot be used, if that is so.
fn unusable(rest: &[Condition]) -> Option<&Condition> {
    let is = |kind: ConditionKind, truth: Truth| {
        rest.iter()
            .find(move |condition| condition.kind == kind && condition.truth == truth)
    };
    is(ConditionKind::CredentialsMissing, Truth::True).or_else(|| is(ConditionKind::Discovered, Truth::False))
}

/// Nothing gets better by waiting: a person has to do something.
fn stalled(rest: &[Condition]) -> Condition {
    let blocked = rest
        .iter()
        .find(|condition| condition.kind == ConditionKind::RecoveryBlocked && condition.truth == Truth::True);
    match unusable(rest).or(blocked) {
        Some(cause) => Condition {
            kind: ConditionKind::Stalled,
            truth: Truth::True,
            ..cause.clone()
        },
        None => condition(
            ConditionKind::Stalled,
            Truth::False,
            Reason::NotStalled,
            "nothing waits for a person",
        ),
    }
}

/// Something is on its way to what the document asks for.
fn reconciling(rest: &[Condition], is_stalled: bool, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Reconciling;
    let has = |kind: ConditionKind, truth: Truth| {
        rest.iter()
            .any(|condition| condition.kind == kind && condition.truth == truth)
    };
    let hands_over = model.takeover.as_ref().filter(|takeover| takeover.finished.is_none());
    if is_stalled {
        return condition(kind, Truth::False, Reason::Settled, "nothing is on its way");
    }
    if let Some(takeover) = hands_over {
        return condition(
            kind,
            Truth::True,
            Reason::TakingOver,
            format!("takeover {} is {:?}", takeover.id, takeover.phase),
        );
    }
    if has(ConditionKind::RecoveryActive, Truth::True) {
        return condition(kind, Truth::True, Reason::Recovering, "a recovery runs");
    }
    if has(ConditionKind::Discovered, Truth::Unknown) || has(ConditionKind::CredentialsMissing, Truth::Unknown) {
        return condition(
            kind,
            Truth::True,
            Reason::Discovering,
            "the servers or their account are not known yet",
        );
    }
    condition(kind, Truth::False, Reason::Settled, "nothing is on its way")
}

/// The group that writes this has proved a quorum a moment ago; one that cannot writes nothing.
fn raft_healthy(found: &Found<'_>) -> Condition {
    let kind = ConditionKind::RaftHealthy;
    let Some(view) = found.view else {
        return unseen(kind);
    };
    let voters = &view.policy.voters;
    if voters.is_empty() {
        return condition(
            kind,
            Truth::True,
            Reason::SingleMember,
            "one member, which decides alone",
        );
    }
    let names: Vec<&str> = voters.keys().map(String::as_str).collect();
    condition(
        kind,
        Truth::True,
        Reason::Quorum,
        format!("a majority of the voters {} agreed to this", names.join(", ")),
    )
}

fn discovered(declared: &DeclaredCluster, found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Discovered;
    if let Some(older) = found.older {
        return condition(
            kind,
            Truth::False,
            Reason::OwnedByAnotherDocument,
            format!("the seeds lead to a cluster that the older document {older} owns; only that one counts"),
        );
    }
    let Some(view) = found.view else {
        return condition(
            kind,
            Truth::Unknown,
            Reason::NotSeenYet,
            "none of the seeds led to a cluster yet",
        );
    };
    if let Some((seed, owner)) = found.foreign_seed {
        return condition(
            kind,
            Truth::False,
            Reason::SeedBelongsToAnother,
            format!("seed {seed} belongs to the cluster of document {owner}"),
        );
    }
    if let Some((seed, other)) = found.second_topology {
        return condition(
            kind,
            Truth::False,
            Reason::SeveralTopologies,
            format!(
                "seed {seed} leads to another topology ({}) than the rest; give it a document of its own",
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
            Truth::Unknown,
            Reason::SeedNotFound,
            format!("seed {seed} is no instance of the cluster, or did not answer yet"),
        );
    }
    if model.instances.iter().all(|instance| instance.role == Role::Unknown) {
        return unseen(kind);
    }
    condition(
        kind,
        Truth::True,
        Reason::Discovered,
        "all seeds belong to one topology",
    )
}

fn primary_writable(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::PrimaryWritable;
    if found.view.is_none() {
        return unseen(kind);
    }
    let Some(primary) = &model.primary else {
        return condition(
            kind,
            Truth::Unknown,
            Reason::NoPrimaryKnown,
            "no single writable primary was seen yet",
        );
    };
    let seen = model.instances.iter().find(|instance| instance.role == Role::Primary);
    match seen.and_then(|instance| instance.read_only) {
        Some(false) => condition(
            kind,
            Truth::True,
            Reason::Writable,
            format!("{} answers and takes writes", primary.instance),
        ),
        Some(true) => condition(
            kind,
            Truth::False,
            Reason::ReadOnly,
            format!("{} answers and is read-only", primary.instance),
        ),
        None => {
            let cause = found.view.into_iter().flat_map(|view| &view.findings).find(|finding| {
                finding.evidence.is_primary
                    && !finding.evidence.last_check_valid
                    && finding.code != crate::domain::finding::Code::NoProblem
            });
            let what = cause.map_or_else(|| "does not answer".to_owned(), |finding| finding.code.to_string());
            condition(
                kind,
                Truth::Unknown,
                Reason::PrimaryUnreachable,
                format!("{}: {what}", primary.instance),
            )
        }
    }
}

fn replication_healthy(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::ReplicationHealthy;
    if found.view.is_none() {
        return unseen(kind);
    }
    let mut replicas = model
        .instances
        .iter()
        .filter(|instance| instance.role != Role::Primary && instance.downtime.is_none())
        .peekable();
    if replicas.peek().is_none() {
        return condition(
            kind,
            Truth::False,
            Reason::NoReplicas,
            "the primary has no replica that is not in downtime",
        );
    }
    let ill: Vec<&InstanceStatus> = replicas.filter(|instance| !instance.problems.is_empty()).collect();
    let Some(first) = ill.first() else {
        return condition(
            kind,
            Truth::True,
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
    let truth = if ill.iter().all(|instance| instance.role == Role::Unknown) {
        Truth::Unknown
    } else {
        Truth::False
    };
    condition(kind, truth, reason, format!("{} {what}{others}", first.instance))
}

fn recovery_active(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::RecoveryActive;
    if found.view.is_none() {
        return unseen(kind);
    }
    match &model.recovery {
        Some(recovery) if !matches!(recovery.phase, RecoveryPhase::Blocked | RecoveryPhase::WouldBlock) => condition(
            kind,
            Truth::True,
            if recovery.phase == RecoveryPhase::Opened {
                Reason::Opened
            } else {
                Reason::Claimed
            },
            format!("{} of {} is being repaired", recovery.failure, recovery.old_primary),
        ),
        Some(_) | None => condition(kind, Truth::False, Reason::NoRecovery, "no recovery runs"),
    }
}

fn recovery_blocked(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::RecoveryBlocked;
    if found.view.is_none() {
        return unseen(kind);
    }
    match &model.recovery {
        Some(recovery) if recovery.phase == RecoveryPhase::Blocked => condition(
            kind,
            Truth::True,
            Reason::HeldBack,
            format!(
                "{} of {} is not repaired: {}",
                recovery.failure,
                recovery.old_primary,
                recovery.blocked_by.join("; ")
            ),
        ),
        Some(_) | None => condition(kind, Truth::False, Reason::NothingHeldBack, "no recovery is held back"),
    }
}

fn errant_gtids(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::ErrantGtids;
    if found.view.is_none() {
        return unseen(kind);
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
            Truth::True,
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
            Truth::False,
            Reason::NoErrantTransactions,
            "no replica has transactions that the primary lacks",
        )
    } else {
        condition(kind, Truth::Unknown, Reason::NotCompared, "not all instances answer")
    }
}

fn downtimed(found: &Found<'_>, model: &StatusModel) -> Condition {
    let kind = ConditionKind::Downtimed;
    if found.view.is_none() {
        return unseen(kind);
    }
    let down: Vec<String> = model
        .instances
        .iter()
        .filter(|instance| instance.downtime.is_some())
        .map(|instance| instance.instance.to_string())
        .collect();
    if down.is_empty() {
        condition(kind, Truth::False, Reason::NoDowntime, "no instance is in downtime")
    } else {
        condition(
            kind,
            Truth::True,
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
            Truth::True,
            Reason::Paused,
            "spec.paused is true: nothing is repaired",
        );
    }
    match declared.document.mode {
        Mode::Auto => condition(kind, Truth::False, Reason::Auto, "failures are repaired"),
        Mode::DetectOnly => condition(
            kind,
            Truth::True,
            Reason::DetectOnly,
            "spec.recovery.mode is DetectOnly: nothing is repaired",
        ),
        Mode::Off => condition(
            kind,
            Truth::True,
            Reason::Off,
            "spec.recovery.mode is Off: nothing is repaired",
        ),
    }
}

fn credentials_missing(declared: &DeclaredCluster) -> Condition {
    let kind = ConditionKind::CredentialsMissing;
    match &declared.secret {
        SecretStanding::Unread => condition(kind, Truth::Unknown, Reason::NotReadYet, "the Secret was not read yet"),
        SecretStanding::Read => condition(
            kind,
            Truth::False,
            Reason::CredentialsRead,
            "the Secret holds an account",
        ),
        SecretStanding::LastKnown(why) => condition(
            kind,
            Truth::False,
            Reason::LastKnownCredentials,
            format!("the account that was read last is used: {why}"),
        ),
        SecretStanding::Missing(why) => condition(kind, Truth::True, Reason::CredentialsMissing, why.clone()),
        SecretStanding::Forbidden(why) => condition(kind, Truth::True, Reason::CredentialsForbidden, why.clone()),
    }
}
