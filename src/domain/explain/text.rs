//! An explanation as text for an operator on call: the answer first, then the reasons.

use std::fmt;

use super::Explanation;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.alias == self.name {
            writeln!(f, "cluster {}", self.name)?;
        } else {
            writeln!(f, "cluster {} ({})", self.alias, self.name)?;
        }
        self.write_verdict(f)?;
        self.write_loss(f)?;
        if !self.fencing.is_empty() {
            writeln!(f, "proof, if the primary does not answer: {}", self.fencing)?;
        }
        if !self.steps.is_empty() {
            writeln!(f, "what would be done:")?;
            for (number, step) in (1..).zip(&self.steps) {
                writeln!(f, "  {number}. {step}")?;
            }
        }
        if !self.replicas.is_empty() {
            writeln!(f, "the other servers:")?;
        }
        for outlook in &self.replicas {
            let verdict = match (&self.successor, outlook.ok) {
                (Some(successor), _) if *successor == outlook.instance => "",
                (_, true) => "could be promoted: ",
                (_, false) => "cannot be promoted: ",
            };
            writeln!(f, "  {}  {verdict}{}", outlook.instance, outlook.why)?;
        }
        list(
            f,
            "left behind:",
            self.left_behind.iter().map(|(key, why)| format!("{key}: {why}")),
        )?;
        list(f, "not known:", self.unknown.iter().cloned())?;
        list(f, "remarks:", self.remarks.iter().cloned())?;
        let findings = self.findings.iter().map(|held| {
            let rule = held.held_back.as_ref().map_or_else(
                || "; a recovery follows".to_owned(),
                |why| format!("; no recovery: {why}"),
            );
            format!("{} on {}: {}{rule}", held.code, held.instance, held.description)
        });
        list(f, "findings:", findings)
    }
}

impl Explanation {
    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(primary) = &self.primary else {
            writeln!(f, "NOT READY: it is not known which server is the primary")?;
            return list(f, "because:", self.obstacles.iter().cloned());
        };
        match (&self.successor, self.ready) {
            (Some(successor), true) => writeln!(f, "READY: if {primary} failed now, {successor} would be promoted"),
            (Some(successor), false) => {
                writeln!(
                    f,
                    "NOT READY: if {primary} failed now, it would not be replaced; {successor} could be promoted"
                )?;
                list(f, "because:", self.obstacles.iter().cloned())
            }
            (None, _) => {
                writeln!(f, "NOT READY: if {primary} failed now, no server would be promoted")?;
                list(f, "because:", self.obstacles.iter().cloned())
            }
        }
    }

    fn write_loss(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loss = &self.loss;
        match (&self.successor, loss.transactions, &loss.proof, &loss.unknown) {
            (None, ..) => Ok(()),
            (Some(_), count, Some(proof), _) if count == 0 || loss.arriving => {
                writeln!(f, "would be lost: nothing that it confirmed: {proof}")
            }
            (Some(_), 0, None, Some(why)) => writeln!(
                f,
                "would be lost: nothing that is known, and nothing proves that this is all: {why}"
            ),
            (Some(_), 0, ..) => writeln!(f, "would be lost: nothing that is known"),
            (Some(_), count, ..) if loss.arriving => writeln!(
                f,
                "would be lost: what has not arrived at that moment; at the last probe {count} transactions ({})",
                loss.set
            ),
            (Some(_), count, ..) => writeln!(f, "would be lost: at least {count} transactions ({})", loss.set),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, items: impl Iterator<Item = String>) -> fmt::Result {
    let mut items = items.peekable();
    if items.peek().is_some() {
        writeln!(f, "{title}")?;
    }
    for item in items {
        writeln!(f, "  - {item}")?;
    }
    Ok(())
}
