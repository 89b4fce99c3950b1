//! Which proof allowed a successor to be opened: that the old primary can no longer take a write, or that the policy
//! accepts that it might.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::analysis::read_only_bypass;
use crate::domain::instance::{Instance, InstanceFacts, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::acknowledgers::promises_no_loss;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::replica_state::is_receiver_stopped;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The proof. Recorded with the Open entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "receipt")]
pub enum FencingProof {
    /// The old primary confirmed that it is read-only: the statement returned OK.
    OldPrimaryReadOnly {
        /// Which accounts that does not stop, or why that is unknown; `None` when it stops all. Their sessions were killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bypass: Option<String>,
    },
    /// It waits for acknowledgements that cannot come: no commit of it succeeds.
    #[serde(rename_all = "camelCase")]
    AcksRevoked {
        /// Semi-sync replicas confirmed stopped.
        stopped: u32,
        /// Semi-sync replicas that are known.
        of: u32,
        /// How many must be stopped at least: N - w + 1.
        needed: u32,
        /// Until when the proof holds: then the old primary's `timeout` may have passed, and it commits alone.
        /// Counted from the last time that it was seen waiting.
        until: WallTime,
    },
    /// A command of `FencingProcesses` ended with exit status 0.
    FencedOutside,
    /// Nothing proves it; the agreement of the members that it is dead was accepted instead.
    #[serde(rename_all = "camelCase")]
    AcceptedByPolicy {
        /// Why there is no better proof.
        why: String,
    },
}

impl FencingProof {
    /// Whether a client may still write on the old primary: a fencer of the user's is called where one is configured.
    pub(super) fn is_weak(&self) -> bool {
        match self {
            Self::OldPrimaryReadOnly { bypass } => bypass.is_some(),
            Self::AcceptedByPolicy { .. } => true,
            Self::AcksRevoked { .. } | Self::FencedOutside => false,
        }
    }
}

impl fmt::Display for FencingProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldPrimaryReadOnly { bypass: None } => f.write_str("the old primary confirmed that it is read-only"),
            Self::OldPrimaryReadOnly { bypass: Some(bypass) } => write!(
                f,
                "the old primary confirmed that it is read-only and its client sessions were killed, but {bypass}"
            ),
            Self::AcksRevoked {
                stopped, of, needed, ..
            } => write!(
                f,
                "the old primary waits for acknowledgements that cannot come: {stopped} of {of} semi-sync replicas are stopped, {needed} are needed"
            ),
            Self::FencedOutside => f.write_str("FencingProcesses reported that the old primary takes no writes"),
            Self::AcceptedByPolicy { why } => write!(f, "none, only the agreement of the members: {why}"),
        }
    }
}

/// What allows the opening now: `done` are the actor's steps, `fresh` the view after them, and nothing of semi-sync
/// that was seen until `acks_changed_at` ([`super::super::policy::Policy::acks_changed_at`]) counts.
pub fn fencing_proof(
    plan: &Plan,
    done: &[StepResult],
    fresh: &Topology,
    acks_changed_at: Option<WallTime>,
    now: WallTime,
) -> FencingProof {
    let old_primary = &plan.old_primary;
    let last = |is_wanted: fn(&Step) -> bool| {
        let mut wanted = done.iter().rev().filter(|result| is_wanted(&result.step));
        wanted.find_map(|result| result.outcomes.get(old_primary))
    };
    let is_read_only = last(|step| matches!(step, Step::Fence { .. })) == Some(&Outcome::Done);
    let bypass = bypass_of(plan, fresh);
    if is_read_only && bypass.is_none() {
        return FencingProof::OldPrimaryReadOnly { bypass: None };
    }
    // A replica that does not answer may start and acknowledge again.
    let is_stopped = |replica: &Instance| {
        replica.is_valid() && (is_receiver_stopped(replica) || fresh.source_of(replica) != Some(old_primary))
    };
    let fenced_outside = last(|step| matches!(step, Step::CallFencer { .. })) == Some(&Outcome::Done);
    acks_revoked(plan, fresh, acks_changed_at, now, is_stopped).unwrap_or_else(|why| {
        if fenced_outside {
            FencingProof::FencedOutside
        } else if is_read_only {
            FencingProof::OldPrimaryReadOnly { bypass }
        } else {
            FencingProof::AcceptedByPolicy { why }
        }
    })
}

/// What `read_only` does not stop on the old primary, as far as is known of it.
pub(super) fn bypass_of(plan: &Plan, topology: &Topology) -> Option<String> {
    match topology
        .get(&plan.old_primary)
        .and_then(|instance| instance.facts.as_ref())
    {
        Some(facts) => read_only_bypass(facts),
        None => Some(String::from("nothing is known of its accounts")),
    }
}

/// Which proof would allow the opening if the current primary failed now and no longer answered: all replicas that
/// answer would be stopped, and the fencing commands would succeed.
pub fn predict(plan: &Plan, topology: &Topology, acks_changed_at: Option<WallTime>, now: WallTime) -> FencingProof {
    let calls_fencer = plan.steps.iter().any(|step| matches!(step, Step::CallFencer { .. }));
    acks_revoked(plan, topology, acks_changed_at, now, Instance::is_valid).unwrap_or_else(|why| {
        if calls_fencer {
            FencingProof::FencedOutside
        } else {
            FencingProof::AcceptedByPolicy { why }
        }
    })
}

/// Whether so many semi-sync replicas are stopped that the old primary cannot get the acknowledgements that it waits for.
fn acks_revoked(
    plan: &Plan,
    topology: &Topology,
    acks_changed_at: Option<WallTime>,
    now: WallTime,
    is_stopped: impl Fn(&Instance) -> bool,
) -> Result<FencingProof, String> {
    let old_primary = &plan.old_primary;
    let instance = topology.get(old_primary);
    let (facts, seen) = instance
        .and_then(|instance| Some((instance.facts.as_ref()?, instance.last_seen?)))
        .ok_or_else(|| format!("{old_primary} was never seen"))?;
    let is_outdated = |seen: WallTime| acks_changed_at.is_some_and(|changed| seen <= changed);
    if is_outdated(seen) {
        return Err(format!(
            "{old_primary} was not seen since the acknowledgements that its commits wait for changed"
        ));
    }
    let semi_sync: &SemiSync = &facts.semi_sync;
    if !promises_no_loss(semi_sync) {
        return Err(format!(
            "{old_primary} was last seen without semi-sync that waits however many replicas are connected (AFTER_SYNC, wait_no_replica)"
        ));
    }
    let until = seen.plus_millis(i64::try_from(semi_sync.timeout_millis).unwrap_or(i64::MAX));
    if now >= until {
        return Err(format!(
            "{old_primary} stops waiting for acknowledgements after {} ms, which have passed since it was last seen",
            semi_sync.timeout_millis
        ));
    }
    let acknowledges = |key: &InstanceKey| {
        let known = topology
            .get(key)
            .filter(|instance| !instance.last_seen.is_none_or(is_outdated));
        let facts = known.and_then(|instance| instance.facts.as_ref());
        facts.is_none_or(|facts: &InstanceFacts| facts.semi_sync.replica_enabled)
    };
    let known: Vec<&InstanceKey> = plan
        .sources
        .iter()
        .filter(|(key, source)| topology.resolve(source) == old_primary && acknowledges(key))
        .map(|(key, _)| key)
        .collect();
    let stopped = known
        .iter()
        .filter(|key| topology.get(key).is_some_and(&is_stopped))
        .count();
    let (of, stopped) = (count(known.len()).max(semi_sync.clients), count(stopped));
    let needed = (of + 1).saturating_sub(semi_sync.wait_for_count);
    if stopped < needed {
        return Err(format!(
            "{stopped} of {of} semi-sync replicas of {old_primary} are stopped, {needed} are needed to keep acknowledgements from it"
        ));
    }
    Ok(FencingProof::AcksRevoked {
        stopped,
        of,
        needed,
        until,
    })
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
