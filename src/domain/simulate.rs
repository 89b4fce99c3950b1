//! What would be found and planned for a saved topology, as text: the pure part of ham4db.

use std::fmt::{self, Write as _};

use super::analysis::{current_primary, findings};
use super::case::Case;
use super::finding::Finding;
use super::instance::{Instance, ThreadState};
use super::recovery::lint::lint;
use super::recovery::loss_evidence::describe_loss;
use super::recovery::plan::{Plan, PlanReport};
use super::recovery::planner::{held_back, plan, plan_rejoin, preview_failover};
use super::topology::Topology;
use crate::domain::recovery::kind::RecoveryKind;

/// Prints the topology, the findings with their evidence, and the plan with its report. Ends with a newline; the same
/// case always gives the same text.
#[expect(clippy::missing_panics_doc, reason = "it cannot: a String takes whatever is written")]
pub fn report(case: &Case) -> String {
    let mut text = String::new();
    write_report(case, &mut text).expect("writing to a String does not fail");
    text
}

fn write_report(case: &Case, out: &mut String) -> fmt::Result {
    let Case { topology, policy, .. } = case;
    if !case.about.is_empty() {
        writeln!(out, "{}\n", case.about)?;
    }
    write_topology(topology, out)?;
    let found = match &case.finding {
        Some(finding) => vec![finding.clone()],
        None => findings(topology, policy, &case.quarantines, case.now),
    };
    writeln!(out, "\nfindings:")?;
    if found.is_empty() {
        writeln!(out, "  none")?;
    }
    for finding in &found {
        write_finding(finding, out)?;
    }
    let (plan, report) = if let Some(finding) = found.iter().find(|finding| finding.code.is_actionable()) {
        let hold = held_back(finding, topology, policy);
        let hold = hold.map_or_else(|| "nothing".to_owned(), |hold| hold.to_string());
        writeln!(
            out,
            "\nrecovery of {} ({}), held back by: {hold}",
            finding.instance, finding.code
        )?;
        plan(finding, topology, policy, case.now)
    } else {
        let primary = current_primary(topology).map_or_else(|| "the primary".to_owned(), |key| key.to_string());
        writeln!(out, "\npreview: if {primary} failed now")?;
        preview_failover(topology, policy, case.now)
    };
    write_plan(plan.as_ref(), &report, topology, out)?;
    for quarantine in &case.quarantines {
        writeln!(out, "\nrejoin of {} ({})", quarantine.instance, quarantine.identity)?;
        let (plan, report) = plan_rejoin(quarantine, topology, policy);
        write_plan(plan.as_ref(), &report, topology, out)?;
    }
    Ok(())
}

fn write_topology(topology: &Topology, out: &mut String) -> fmt::Result {
    let recorded = topology
        .recorded_primary
        .as_ref()
        .map_or_else(|| "none".to_owned(), ToString::to_string);
    let alias = if topology.cluster_alias.is_empty() {
        &topology.cluster_name
    } else {
        &topology.cluster_alias
    };
    writeln!(
        out,
        "cluster {} ({alias}), recorded primary: {recorded}",
        topology.cluster
    )?;
    let mut written = std::collections::BTreeSet::new();
    for top in topology.tops() {
        match topology.get(&top) {
            Some(instance) => write_instance(topology, instance, 0, out)?,
            None => writeln!(out, "  {top}  known only from its replicas")?,
        }
        written.insert(top.clone());
        write_replicas(topology, &top, 1, &mut written, out)?;
    }
    // Servers in a ring have no top.
    for instance in topology
        .instances
        .values()
        .filter(|instance| !written.contains(&instance.key))
    {
        write_instance(topology, instance, 0, out)?;
    }
    Ok(())
}

fn write_replicas(
    topology: &Topology,
    source: &super::key::InstanceKey,
    depth: usize,
    written: &mut std::collections::BTreeSet<super::key::InstanceKey>,
    out: &mut String,
) -> fmt::Result {
    for replica in topology.replicas_of(source) {
        if written.insert(replica.key.clone()) {
            write_instance(topology, replica, depth, out)?;
            write_replicas(topology, &replica.key, depth + 1, written, out)?;
        }
    }
    Ok(())
}

fn write_instance(topology: &Topology, instance: &Instance, depth: usize, out: &mut String) -> fmt::Result {
    let state = match (&instance.failure, instance.facts.is_some()) {
        (Some(failure), _) => format!("unreachable: {failure}"),
        (None, true) => "ok".to_owned(),
        (None, false) => "not probed yet".to_owned(),
    };
    write!(out, "  {:indent$}{}  {state}", "", instance.key, indent = depth * 2)?;
    if let Some(facts) = &instance.facts {
        let writable = if facts.is_writable() { "writable" } else { "read-only" };
        write!(out, "  {}  {writable}", facts.version)?;
        if let Some(channel) = topology.get(&instance.key).and_then(Instance::channel) {
            write!(out, "  io {} sql {}", thread(channel.io), thread(channel.sql))?;
        }
        write!(out, "  [{}]", facts.received())?;
    }
    writeln!(out)
}

fn thread(state: ThreadState) -> &'static str {
    match state {
        ThreadState::Running => "running",
        ThreadState::Connecting => "connecting",
        ThreadState::Stopped => "stopped",
    }
}

fn write_finding(finding: &Finding, out: &mut String) -> fmt::Result {
    writeln!(out, "  {} {}", finding.code, finding.instance)?;
    writeln!(out, "    {}", finding.description)?;
    let evidence = &finding.evidence;
    writeln!(
        out,
        "    replicas {}: {} valid, {} receiving, {} replicating, {} failing to connect, {} lagging",
        evidence.replicas.len(),
        evidence.valid_replicas,
        evidence.receiving_replicas,
        evidence.replicating_replicas,
        evidence.replicas_failing_to_connect,
        evidence.lagging_replicas,
    )?;
    if !finding.structure.is_empty() {
        let list = finding
            .structure
            .iter()
            .map(|warning| format!("{warning:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        writeln!(out, "    structure: {list}")?;
    }
    if finding.downtimed {
        writeln!(out, "    in downtime")?;
    }
    if finding.replicas_downtimed {
        writeln!(out, "    all replicas in downtime")?;
    }
    Ok(())
}

fn write_plan(plan: Option<&Plan>, report: &PlanReport, topology: &Topology, out: &mut String) -> fmt::Result {
    match plan {
        None => writeln!(
            out,
            "  no plan: {}",
            report.no_plan.as_deref().unwrap_or("no reason given")
        )?,
        Some(plan) => {
            let verb = match plan.kind {
                RecoveryKind::DeadPrimary
                | RecoveryKind::DeadPrimaryByPosition
                | RecoveryKind::CoPrimary
                | RecoveryKind::Takeover => "promote",
                RecoveryKind::Rejoin
                | RecoveryKind::IntermediatePrimary
                | RecoveryKind::GroupMember
                | RecoveryKind::MatchBelow => "follow",
                RecoveryKind::ResolveErrant => "agree with",
                RecoveryKind::SemiSync | RecoveryKind::NonWritablePrimary | RecoveryKind::Durability => "keep",
                RecoveryKind::BootReadOnly => "persist from",
                RecoveryKind::ReopenPrimary => "reopen",
            };
            writeln!(
                out,
                "  {verb} {} ({}), which holds {}",
                plan.successor, plan.successor_identity, plan.position
            )?;
            for (number, step) in plan.steps.iter().enumerate() {
                writeln!(out, "  {}. {}", number + 1, step.describe())?;
            }
            if let Some(lost) = &plan.lost {
                writeln!(out, "  lost, at least: {lost}")?;
            }
            if let Some(evidence) = &plan.loss_evidence {
                writeln!(out, "  loss: {}", describe_loss(plan.lost.as_ref(), Some(evidence)))?;
            }
            for refusal in &plan.lost_replicas {
                writeln!(out, "  left behind {}: {}", refusal.instance, refusal.reason)?;
            }
        }
    }
    for refusal in &report.refused {
        writeln!(out, "  refused {}: {}", refusal.instance, refusal.reason)?;
    }
    for remark in &report.remarks {
        writeln!(out, "  remark: {remark}")?;
    }
    if let Some(plan) = plan {
        let wrong = lint(plan, topology);
        if wrong.is_empty() {
            writeln!(out, "  checked: sound")?;
        }
        for sentence in wrong {
            writeln!(out, "  UNSOUND: {sentence}")?;
        }
    }
    Ok(())
}
