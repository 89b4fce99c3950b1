//! The plan that gives a semi-sync primary as many acknowledging replicas as its commits wait for, and where asked for no more.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::finding::{Code, Finding};
use crate::domain::instance::{Channel, Instance};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::acknowledging::{acknowledging, waited_for};
use crate::domain::recovery::plan::{Plan, PlanReport, RecoveryKind, Refusal, RefusalReason, Step};
use crate::domain::topology::Topology;

/// The plan, and what was considered. There is no successor: the plan names the primary itself.
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
    // One that delays on purpose would have to apply all first.
    let is_fit = |channel: &Channel| channel.positioning.is_gtid() && channel.delay_seconds == 0;
    replica.channel().is_some_and(is_fit)
}

fn make(finding: &Finding, topology: &Topology, policy: &Policy, report: &mut PlanReport) -> Result<Plan, String> {
    let primary = topology.resolve(&finding.instance);
    if current_primary(topology).as_ref() != Some(primary) {
        return Err(format!("{primary} is not the primary of the cluster"));
    }
    let facts = topology
        .get(primary)
        .and_then(Instance::valid_facts)
        .ok_or_else(|| format!("{primary} does not answer"))?;
    let wanted = waited_for(&facts.semi_sync).ok_or_else(|| format!("{primary} waits for no acknowledgement"))?;
    let present = acknowledging(topology, primary, policy);
    let is_stuck = topology
        .get(primary)
        .is_some_and(|instance| instance.acks_awaited_since.is_some());
    let connected = usize::try_from(facts.semi_sync.clients).unwrap_or(usize::MAX);
    // Where nothing is acknowledged, some that the source counts are gone, or never answer.
    let connected = if is_stuck {
        connected.min(present.active.len())
    } else {
        connected
    };
    let missing = wanted.saturating_sub(connected);
    let is_on = |key: &&InstanceKey| present.active.contains(*key);
    let best: BTreeSet<&InstanceKey> = present.ranked.iter().take(wanted).collect();
    let (mut enable, mut disable) = (BTreeSet::new(), BTreeSet::new());
    if policy.enforce_exact_semi_sync {
        enable.extend(best.iter().filter(|key| !is_on(key)).map(|key| (*key).clone()));
        let will_be_enough = best.len() >= wanted;
        let surplus = present.active.iter().chain(&present.unwanted);
        disable.extend(surplus.filter(|key| will_be_enough && !best.contains(key)).cloned());
    } else {
        let spare = present.ranked.iter().filter(|key| !is_on(key));
        enable.extend(spare.take(missing).cloned());
    }
    if enable.len() < missing {
        report.remarks.push(format!(
            "{primary} waits for {wanted} replicas, {connected} acknowledge and {} more can",
            enable.len()
        ));
    }
    for key in present
        .ranked
        .iter()
        .filter(|key| !is_on(key) && !enable.contains(*key))
    {
        report.refused.push(Refusal {
            instance: key.clone(),
            reason: RefusalReason::RankedLower("it is not needed for the count".to_owned()),
        });
    }
    let waits = finding.code == Code::LockedSemiSyncMaster && (is_stuck || facts.semi_sync.wait_sessions > 0);
    let may_tell = |key: &&InstanceKey| !disable.contains(*key) && topology.get(key).is_some_and(connects_by_gtid);
    let tellers = present.ranked.iter().filter(|_| waits).filter(may_tell);
    let tellers: BTreeSet<InstanceKey> = tellers.cloned().collect();
    let has_teller = is_stuck && tellers.iter().any(|key| is_on(&key));
    if enable.is_empty() && disable.is_empty() && !has_teller {
        return Err("no other replica can acknowledge, and none is too many".to_owned());
    }
    // Those that may be asked when one of the chosen fails are claimed as well.
    let instances = present
        .ranked
        .iter()
        .chain(&disable)
        .chain([primary])
        .cloned()
        .collect();
    let switch =
        |replicas: BTreeSet<InstanceKey>, on| (!replicas.is_empty()).then_some(Step::Acknowledge { replicas, on });
    let told = (!tellers.is_empty()).then_some(Step::AcknowledgeReceived { replicas: tellers });
    // Never fewer than are waited for: first on, then off.
    let steps = [switch(enable, true), told, switch(disable, false)]
        .into_iter()
        .flatten();
    Ok(Plan {
        instances,
        steps: steps.collect(),
        ..Plan::of_one(RecoveryKind::SemiSync, finding.code, &topology.cluster, primary, facts)
    })
}
