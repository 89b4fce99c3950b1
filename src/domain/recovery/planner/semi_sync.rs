//! The plans that reconcile the semi-sync settings of a primary and its replicas.
//!
//! There are two: one follows a finding and gives a primary as many acknowledging replicas as its commits wait for;
//! the other one sets what the durability policy of the cluster asks for. Both make their changes in one order
//! ([`SemiSyncChanges::steps`]).

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::finding::{Code, Finding};
use crate::domain::instance::{Channel, Instance};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{DurabilityMode, Policy};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::semi_sync::{
    SourceTerms, acknowledgements_awaited, count_acknowledging, durability_target, is_source_set, semi_sync_replicas,
    waiting_replicas,
};
use crate::domain::recovery::step::Step;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The settings that a plan changes.
#[derive(Debug, Default)]
struct SemiSyncChanges {
    /// Replicas that begin to acknowledge.
    enable: BTreeSet<InstanceKey>,
    /// Replicas that acknowledge what they received before they were switched on.
    acknowledge_received: BTreeSet<InstanceKey>,
    /// How many acknowledgements commits of the primary are to wait for; `None` leaves it as it is.
    wait_for: Option<u32>,
    /// Replicas that no longer acknowledge.
    disable: BTreeSet<InstanceKey>,
    /// Replicas that no longer wait for acknowledgements of their own commits.
    stop_waiting: BTreeSet<InstanceKey>,
}

impl SemiSyncChanges {
    /// The steps: replicas begin to acknowledge before the primary waits for them, and stop only when it does not need them.
    fn steps(self, primary: &InstanceKey) -> Vec<Step> {
        let acknowledge =
            |replicas: BTreeSet<InstanceKey>, on| (!replicas.is_empty()).then_some(Step::Acknowledge { replicas, on });
        let set = |servers: BTreeSet<InstanceKey>, wait_for| {
            (!servers.is_empty()).then_some(Step::SetSemiSyncSource {
                servers,
                terms: SourceTerms { wait_for },
            })
        };
        let replicas = self.acknowledge_received;
        [
            acknowledge(self.enable, true),
            (!replicas.is_empty()).then_some(Step::AcknowledgeReceived { replicas }),
            self.wait_for
                .and_then(|wait_for| set(BTreeSet::from([primary.clone()]), wait_for)),
            acknowledge(self.disable, false),
            set(self.stop_waiting, 0),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The plan for a finding about semi-sync, and what was considered. There is no successor: the plan names the primary
/// itself.
pub(super) fn plan_semi_sync(finding: &Finding, topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    let mut report = PlanReport::default();
    match make(finding, topology, policy, &mut report) {
        Ok(plan) => (Some(plan), report),
        Err(why) => {
            report.no_plan = Some(why);
            (None, report)
        }
    }
}

fn connects_by_gtid(replica: &Instance) -> bool {
    // A replica that delays on purpose would have to apply everything first.
    let is_fit = |channel: &Channel| channel.positioning.is_gtid() && channel.delay_seconds == 0;
    replica.channel().is_some_and(is_fit)
}

fn make(finding: &Finding, topology: &Topology, policy: &Policy, report: &mut PlanReport) -> Result<Plan, String> {
    let primary = topology.resolve(&finding.instance);
    if current_primary(topology).as_ref() != Some(primary) {
        return Err(format!("{primary} is not the primary of the cluster"));
    }
    let instance = topology.get(primary);
    let facts = instance
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    let wanted = acknowledgements_awaited(&facts.semi_sync)
        .ok_or_else(|| format!("commits of {primary} wait for no acknowledgement"))?;
    let present = semi_sync_replicas(topology, primary, policy);
    let is_stuck = instance.is_some_and(|instance| instance.acks_awaited_since.is_some());
    let connected = usize::try_from(facts.semi_sync.clients).unwrap_or(usize::MAX);
    // Where nothing is acknowledged, some replicas that the source counts are gone, or never answer.
    let connected = if is_stuck {
        connected.min(present.active.len())
    } else {
        connected
    };
    let missing = wanted.saturating_sub(connected);
    let is_on = |key: &&InstanceKey| present.active.contains(*key);
    let best: BTreeSet<&InstanceKey> = present.ranked.iter().take(wanted).collect();
    let mut changes = SemiSyncChanges::default();
    if policy.enforce_exact_semi_sync {
        changes
            .enable
            .extend(best.iter().filter(|key| !is_on(key)).map(|key| (*key).clone()));
        let will_be_enough = best.len() >= wanted;
        let surplus = present.active.iter().chain(&present.unwanted);
        changes
            .disable
            .extend(surplus.filter(|key| will_be_enough && !best.contains(key)).cloned());
    } else {
        let spare = present.ranked.iter().filter(|key| !is_on(key));
        changes.enable.extend(spare.take(missing).cloned());
    }
    if changes.enable.len() < missing {
        report.remarks.push(format!(
            "commits of {primary} wait for {wanted} replicas; {connected} acknowledge, and {} more can",
            changes.enable.len()
        ));
    }
    for key in present
        .ranked
        .iter()
        .filter(|key| !is_on(key) && !changes.enable.contains(*key))
    {
        report.refused.push(Refusal {
            instance: key.clone(),
            reason: RefusalReason::RankedLower("it is not needed for the count".to_owned()),
        });
    }
    let waits = finding.code == Code::LockedSemiSyncMaster && (is_stuck || facts.semi_sync.wait_sessions > 0);
    let may_reconnect =
        |key: &&InstanceKey| !changes.disable.contains(*key) && topology.get(key).is_some_and(connects_by_gtid);
    let reconnecting = present.ranked.iter().filter(|_| waits).filter(may_reconnect);
    changes.acknowledge_received = reconnecting.cloned().collect();
    let has_acknowledging = is_stuck && changes.acknowledge_received.iter().any(|key| is_on(&key));
    if changes.enable.is_empty() && changes.disable.is_empty() && !has_acknowledging {
        return Err("no other replica can acknowledge, and none is too many".to_owned());
    }
    // Replicas that may be asked when one of the chosen fails are claimed as well.
    let instances = present
        .ranked
        .iter()
        .chain(&changes.disable)
        .chain([primary])
        .cloned()
        .collect();
    Ok(Plan {
        instances,
        steps: changes.steps(primary),
        ..Plan::of_one(RecoveryKind::SemiSync, finding.code, &topology.cluster, primary, facts)
    })
}

/// The plan that sets a primary and its replicas as the durability policy asks; `Ok(None)` when nothing has to be changed.
///
/// The primary waits for fewer replicas than before only when its commits were seen to wait for as long as makes it
/// locked: a replica that reconnects, or that is about to follow a new primary, is no reason to give up the promise.
///
/// # Errors
/// Why the policy cannot be kept, for the log.
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
    let target = durability_target(topology, primary, policy)?;
    let semi_sync = &facts.semi_sync;
    let waits_for = if semi_sync.source_enabled {
        semi_sync.wait_for_count
    } else {
        0
    };
    // Fewer than now: only where no other replica gives what is waited for.
    let is_less = target.wait_for < waits_for;
    let is_more_than_requested = waits_for > policy.durability.count.max(1);
    let awaited = primary.acks_awaited_since.map(|since| now.millis_since(since));
    let is_stuck = awaited.is_some_and(|awaited| awaited >= policy.locked_semi_sync_millis);
    // Where commits stall on the primary itself, a lower number would confirm commits that no replica has, right before
    // the primary is replaced.
    let may_lower = (is_stuck || is_more_than_requested) && primary.commit_stall.is_none();
    let wait_for = if is_less && !may_lower {
        waits_for
    } else {
        target.wait_for
    };
    let waiting = waiting_replicas(topology, key);
    let touched = [&target.acknowledging, &target.disable, &waiting];
    let instances = touched.into_iter().flatten().chain([key]).cloned().collect();
    let remaining = count_acknowledging(topology, &target.acknowledging) + target.enable.len();
    let is_enough = u32::try_from(remaining).unwrap_or(u32::MAX) >= wait_for;
    let changes = SemiSyncChanges {
        enable: target.enable,
        wait_for: (!is_source_set(semi_sync, wait_for)).then_some(wait_for),
        disable: if is_enough { target.disable } else { BTreeSet::new() },
        stop_waiting: waiting,
        ..SemiSyncChanges::default()
    };
    let steps = changes.steps(key);
    if steps.is_empty() {
        return Ok(None);
    }
    let code = Code::DurabilityNotKept;
    Ok(Some(Plan {
        instances,
        steps,
        ..Plan::of_one(RecoveryKind::Durability, code, &topology.cluster, key, facts)
    }))
}
