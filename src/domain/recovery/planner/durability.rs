//! The plan that sets a primary and its replicas as the durability policy of the cluster wants them.
//!
//! # Order
//! Replicas begin to acknowledge before the primary waits for them, and stop only after it does not need them. A primary that waits for
//! fewer from now on is told so only when its commits were seen to wait for as long as makes it locked: a replica that reconnects, or
//! that is about to follow a new primary, is no reason to give up the promise.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{DurabilityMode, Policy};
use crate::domain::recovery::durability::{SourceTerms, acknowledging_of, is_set, waiting_replicas, wanted};
use crate::domain::recovery::plan::{Plan, RecoveryKind, Step};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The plan; `Ok(None)` when nothing is to be done.
///
/// # Errors
/// What keeps the policy from being kept, in words for the log.
pub fn plan_durability(topology: &Topology, policy: &Policy, now: WallTime) -> Result<Option<Plan>, String> {
    if policy.durability.mode == DurabilityMode::None {
        return Ok(None);
    }
    let Some(primary) = current_primary(topology).and_then(|key| topology.get(&key)) else {
        return Ok(None);
    };
    let key = &primary.key;
    let is_recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key)) == Some(key);
    let Some(facts) = primary.valid_facts().filter(|facts| is_recorded && facts.is_writable()) else {
        return Ok(None);
    };
    if primary.channel().is_some() || facts.is_group_member() || is_downtimed(topology, policy, key) {
        return Ok(None);
    }
    if !facts.semi_sync.available {
        return Err(format!("the semi-sync plugins are not installed on {key}"));
    }
    let wanted = wanted(topology, primary, policy)?;
    let semi_sync = &facts.semi_sync;
    let waits_for = if semi_sync.source_enabled {
        semi_sync.wait_for_count
    } else {
        0
    };
    // Fewer than now: only where nobody else gives what is waited for.
    let is_less = wanted.wait_for < waits_for;
    let is_more_than_asked = waits_for > policy.durability.count.max(1);
    let awaited = primary.acks_awaited_since.map(|since| now.millis_since(since));
    let is_stuck = awaited.is_some_and(|awaited| awaited >= policy.locked_semi_sync_millis);
    let may_lower = is_stuck || is_more_than_asked;
    let wait_for = if is_less && !may_lower {
        waits_for
    } else {
        wanted.wait_for
    };
    let mut steps = Vec::new();
    let acknowledge = |replicas: &BTreeSet<InstanceKey>, on| {
        (!replicas.is_empty()).then(|| Step::Acknowledge {
            replicas: replicas.clone(),
            on,
        })
    };
    steps.extend(acknowledge(&wanted.enable, true));
    if !is_set(semi_sync, wait_for) {
        steps.push(Step::SetSemiSyncSource {
            servers: [key.clone()].into(),
            terms: SourceTerms { wait_for },
        });
    }
    let remaining = acknowledging_of(topology, &wanted.on) + wanted.enable.len();
    if u32::try_from(remaining).unwrap_or(u32::MAX) >= wait_for {
        steps.extend(acknowledge(&wanted.disable, false));
    }
    let waiting = waiting_replicas(topology, key);
    if !waiting.is_empty() {
        steps.push(Step::SetSemiSyncSource {
            servers: waiting.clone(),
            terms: SourceTerms { wait_for: 0 },
        });
    }
    if steps.is_empty() {
        return Ok(None);
    }
    let touched = [&wanted.on, &wanted.disable, &waiting];
    let instances = touched.into_iter().flatten().chain([key]).cloned().collect();
    let code = Code::DurabilityNotKept;
    Ok(Some(Plan {
        instances,
        steps,
        ..Plan::of_one(RecoveryKind::Durability, code, &topology.cluster, key, facts)
    }))
}
