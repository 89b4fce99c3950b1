//! What `explain` told before a primary was killed, compared with what happened then.
//!
//! The successor may differ: servers go on between the question and the kill. A promise that nothing is lost may not be wrong.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::Members;
use crate::kit::server::Server;
use crate::kit::sql::Address;
use crate::kit::wait::until;
use crate::kit::writers::{Acknowledged, missing};

/// How long the leader may take to explain.
const ANSWER: Duration = Duration::from_secs(10);

/// What was predicted of the failure of one primary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prediction {
    /// Whether it would be replaced.
    ready: bool,
    /// The server that would be promoted; empty when none would be.
    successor: String,
    /// What proves that nothing is lost; empty when that is not known.
    proof: String,
}

/// How the predictions of a campaign came out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcomes {
    /// Failovers that were predicted.
    predicted: usize,
    /// Of these, those to the named server.
    to_the_named: usize,
    /// Of these, those of which it was told that nothing is lost, and nothing was.
    without_loss: usize,
}

impl Outcomes {
    pub(crate) fn add(&mut self, other: Self) {
        self.predicted += other.predicted;
        self.to_the_named += other.to_the_named;
        self.without_loss += other.without_loss;
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failovers were predicted, {} to the server that was named, {} rightly without loss",
            self.predicted, self.to_the_named, self.without_loss
        )
    }
}

impl Prediction {
    /// What the leader explains now.
    pub(crate) async fn ask(members: &Members, primary: &Address) -> Result<Self> {
        let told = until(ANSWER, "an explanation of the leader", async || {
            let leader = members.member(members.leader().await?)?;
            let told = leader.api().json(&format!("explain/{primary}")).await?;
            ensure!(told.get("ready").is_some(), "this is no explanation: {told}");
            Ok(Some(told))
        })
        .await
        .context("before the failure")?;
        Ok(Self::read(&told))
    }

    fn read(told: &Value) -> Self {
        let successor = match told.get("successor") {
            Some(Value::String(key)) => key.clone(),
            Some(_) | None => String::new(),
        };
        Self {
            ready: told.get("ready") == Some(&Value::Bool(true)),
            successor,
            proof: text(told, "/loss/proof").to_owned(),
        }
    }

    /// Holds the prediction against the server that was promoted and the rows that the failed primary had acknowledged.
    ///
    /// # Errors
    /// Nothing was to be lost, and rows are.
    pub(crate) async fn judge(&self, rows: &[Acknowledged], promoted: &Server, outcomes: &mut Outcomes) -> Result<()> {
        outcomes.predicted += 1;
        outcomes.to_the_named += usize::from(self.successor == promoted.address().to_string());
        if self.proof.is_empty() {
            return Ok(());
        }
        let lost = missing(rows, promoted).await?;
        ensure!(
            lost.is_empty(),
            "`explain` promised that nothing is lost ({}; ready: {}), and {} of {} rows are not on {}: the first is {:?}",
            self.proof,
            self.ready,
            lost.len(),
            rows.len(),
            promoted.name(),
            lost.first()
        );
        outcomes.without_loss += 1;
        Ok(())
    }
}
