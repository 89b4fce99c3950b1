//! Steps that make the GTID sets of two MySQL servers agree again. Neither makes their data agree.

use tokio::time::Instant;

use crate::app::ports::StepError;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::ThreadState;
use crate::domain::recovery::planner::MOST_INJECTED;

use super::session::MySqlSession;

impl MySqlSession {
    /// Each GTID that the server has already is skipped by the server itself.
    pub(super) async fn commit_empty(&mut self, set: &GtidSet, end: Instant) -> Result<(), StepError> {
        let GtidSet::MySql(set) = set else {
            return Err(self.refused("empty transactions", 0, "only MySQL can do that".to_owned()));
        };
        for gtid in set.each(MOST_INJECTED) {
            for statement in self.dialect().empty_transaction(&gtid) {
                self.send(&statement, end).await?;
            }
        }
        let statement = self.dialect().automatic_gtids();
        self.send(statement, end).await.map(drop)
    }

    /// The two statements go one right after the other: between them the server has executed nothing, by its own word.
    pub(super) async fn forget_gtids(&mut self, keep: &GtidSet, end: Instant) -> Result<(), StepError> {
        let GtidSet::MySql(keep) = keep else {
            return Err(self.refused("resetting GTIDs", 0, "only MySQL can do that".to_owned()));
        };
        let channel = self.managed_channel(end).await?;
        let ran = channel
            .as_ref()
            .is_some_and(|channel| channel.io != ThreadState::Stopped || channel.sql != ThreadState::Stopped);
        if let Some(channel) = &channel {
            let statement = self.dialect().stop_replica(&channel.name);
            self.send(&statement, end).await?;
        }
        for statement in self.dialect().forget_gtids(&keep.to_string()) {
            self.send(&statement, end).await?;
        }
        if let Some(channel) = channel.filter(|_| ran) {
            let statement = self.dialect().start_replica(&channel.name);
            self.send(&statement, end).await?;
        }
        Ok(())
    }
}
