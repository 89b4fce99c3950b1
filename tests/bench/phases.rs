//! Where the time of a failover goes: read from the record that the members keep of it, beside the clock of the kill.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::Members;
use crate::times::Times;

/// The phases in their order, and the word with which the line of the record begins that ends each. The first three are told by the
/// members' opinions: when they were asked, when the last one had answered, and when the claim was committed.
const PHASES: [(&str, &str); 9] = [
    ("detect: kill -> members are asked", ""),
    ("agree: asked -> last member has answered", ""),
    ("claim: answered -> claim committed", "recovery of"),
    ("fence the old primary", "fence"),
    ("stop the receivers", "stop receivers"),
    ("catch up", "drain"),
    ("check the old primary once more", "reconnect to"),
    ("open the successor", "open:"),
    ("repoint the others", "repoint"),
];

/// Milliseconds by phase of one failover; a phase that left no line is not in it.
#[derive(Clone, Debug)]
pub(crate) struct Phases(BTreeMap<usize, u64>);

impl Phases {
    /// Reads the record of a recovery. `killed` is the wall clock at the kill, milliseconds since 1970.
    pub(crate) async fn of(members: &Members, recovery: &Value, killed: i64) -> Result<Self> {
        let uid = text(recovery, "/UID");
        let leader = members.member(members.leader().await?)?;
        let steps = leader.api().json(&format!("audit-recovery-steps/{uid}")).await?;
        let opinions = recovery.pointer("/Opinions").and_then(Value::as_array);
        let opinions = opinions.with_context(|| format!("recovery {uid} shows no opinions"))?;
        let at = |value: &Value| value.get("AtMilliseconds").and_then(Value::as_i64);
        let asked = opinions.iter().filter_map(|opinion| {
            let took = opinion.get("Milliseconds").and_then(Value::as_i64)?;
            Some(at(opinion)? - took)
        });
        let mut ends: BTreeMap<usize, i64> = BTreeMap::new();
        ends.extend(asked.min().map(|asked| (0, asked)));
        ends.extend(opinions.iter().filter_map(at).max().map(|answered| (1, answered)));
        for step in steps.as_array().into_iter().flatten() {
            let ended = PHASES
                .iter()
                .position(|(_, begin)| !begin.is_empty() && text(step, "/Message").starts_with(begin));
            let is_last = text(step, "/Message").contains(" is over");
            if let (Some(phase), Some(at), false) = (ended, at(step), is_last) {
                // A step that was done again counts with its first end.
                ends.entry(phase).and_modify(|end| *end = at.min(*end)).or_insert(at);
            }
        }
        let mut before = killed;
        let mut phases = BTreeMap::new();
        for (phase, end) in ends {
            phases.insert(phase, u64::try_from(end - before).unwrap_or(0));
            before = before.max(end);
        }
        Ok(Self(phases))
    }
}

/// The phases of all rounds.
#[derive(Debug, Default)]
pub(crate) struct PhaseTable(BTreeMap<usize, Times>);

impl PhaseTable {
    /// One more round.
    pub(crate) fn add(&mut self, phases: &Phases) {
        for (phase, millis) in &phases.0 {
            let times = self.0.entry(*phase).or_default();
            times.add(std::time::Duration::from_millis(*millis));
        }
    }

    /// One row a phase.
    pub(crate) fn rows(&self) -> String {
        let rows = self.0.iter().filter_map(|(phase, times)| {
            let (name, _) = PHASES.get(*phase)?;
            Some(times.row(&format!("  {name}"), ""))
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}
