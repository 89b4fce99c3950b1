//! Finds positions by Pseudo-GTID.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::recovery::log_search::{LogSearch, readable_logs};
use crate::domain::instance::BinlogCoordinates;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;
use crate::domain::recovery::step::EquivalentPosition;

use super::{StepEffect, StepExecutor};

impl StepExecutor {
    /// Finds the positions of replicas in the binary log of the successor by Pseudo-GTID and fills them in. One entry
    /// per replica; a position that cannot be found is a failure of that replica only.
    pub async fn match_logs(
        &mut self,
        successor: &InstanceKey,
        replicas: &mut BTreeMap<InstanceKey, EquivalentPosition>,
        deadline: Duration,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let end = Instant::now() + deadline;
        let mut effects = BTreeMap::new();
        let Some(marks) = self.context.settings.pseudo_gtid.clone() else {
            let none = StepEffect::Failed("Pseudo-GTID is not configured".to_owned());
            return replicas.keys().map(|key| (key.clone(), none.clone())).collect();
        };
        for (key, place) in replicas.iter_mut() {
            let effect = match self.match_replica(successor, key, &marks, end).await {
                Ok((found, remark)) => {
                    place.found = Some(found);
                    StepEffect::Done(remark)
                }
                Err(effect) => effect,
            };
            effects.insert(key.clone(), effect);
        }
        effects
    }

    /// Starts both threads of replicas, side by side. One entry per replica.
    pub async fn start_replication(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        self.on_each(replicas, |session| {
            Box::pin(async move {
                session.start_applier(deadline).await?;
                session.start_receiver(deadline).await?;
                Ok(format!("{} replicates again", session.instance()))
            })
        })
        .await
    }

    /// The position of one replica, by the first of its logs that shows it.
    async fn match_replica(
        &mut self,
        successor: &InstanceKey,
        key: &InstanceKey,
        marks: &PseudoGtidPatterns,
        end: Instant,
    ) -> Result<(BinlogCoordinates, String), StepEffect> {
        let deadline = self.context.settings.step_deadline;
        let search = LogSearch { marks, end };
        let target = self.session_of(successor, deadline).await?;
        let replica = self.session_of(key, deadline).await?;
        let facts = replica.lock().await.facts(deadline).await;
        let facts = facts.map_err(|error| self.effect_of(key, &error))?;
        let mut why_not = Vec::new();
        for (log, until) in readable_logs(&facts) {
            let tail = search.tail(&mut **replica.lock().await, log, until.as_ref()).await;
            let tail = match tail.map_err(|error| self.effect_of(key, &error))? {
                Ok(tail) => tail,
                Err(why) => {
                    why_not.push(why.to_string());
                    continue;
                }
            };
            let place = search.find_position(&mut **target.lock().await, &tail).await;
            match place.map_err(|error| self.effect_of(successor, &error))? {
                Ok(place) => {
                    let remark = format!(
                        "{key} goes on at {place}: {} transactions of {log} match after {}",
                        tail.transactions.len(),
                        tail.entry.text
                    );
                    return Ok((place, remark));
                }
                Err(why) => why_not.push(format!("by {log}: {why}")),
            }
        }
        Err(StepEffect::Failed(format!("{key}: {}", why_not.join("; "))))
    }
}
