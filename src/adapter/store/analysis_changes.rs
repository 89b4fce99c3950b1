//! The port [`ChangeStore`] in orchestrator's tables of analysis changes. They contain what this member observed, and are no part
//! of the replicated state.

use async_trait::async_trait;

use crate::app::ports::StoreError;
use crate::app::ports::{AnalysisChange, ChangeStore};
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::BackendStore;
use super::statement::{Row, statement};

/// Limit for the rows that are kept, regardless of their age.
const MAX_ROWS: i64 = 100_000;

#[async_trait]
impl ChangeStore for BackendStore {
    async fn load_changes(&self) -> Result<Vec<(InstanceKey, AnalysisChange)>, StoreError> {
        let query = "SELECT hostname, port, @SECONDS(analysis_timestamp), analysis \
                     FROM database_instance_analysis_changelog ORDER BY changelog_id";
        let rows = self.database.rows(statement(query)).await;
        let change = |row: &Row| {
            // Orchestrator writes a comma after each code, and structure warnings after the comma.
            let code = row.text(3).split(',').next().unwrap_or_default().to_owned();
            let code: Code = serde_json::from_value(serde_json::Value::from(code)).ok()?;
            let at = WallTime(row.integer(2)?.saturating_mul(1000));
            let instance = InstanceKey::new(row.text(0), u16::try_from(row.integer(1)?).ok()?);
            Some((instance, AnalysisChange { at, code }))
        };
        let rows = rows.map_err(self.failed("read analysis changes"))?;
        Ok(rows.iter().filter_map(change).collect())
    }

    async fn add_changes(&self, changes: &[(InstanceKey, AnalysisChange)]) -> Result<(), StoreError> {
        let failed = self.failed("write analysis changes");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // The ids are explicit, so that a replica of the backend has the same ones.
        let newest = transaction
            .rows(statement(
                "SELECT MAX(changelog_id) FROM database_instance_analysis_changelog",
            ))
            .await
            .map_err(&failed)?;
        let newest = newest.first().and_then(|row| row.integer(0)).unwrap_or(0);
        for ((instance, change), id) in changes.iter().zip(newest.saturating_add(1)..) {
            let added = statement(
                "REPLACE INTO database_instance_analysis_changelog (changelog_id, hostname, port, analysis_timestamp, analysis) \
                 VALUES (?, ?, ?, @STAMP, ?)",
            )
            .bind(id);
            let last = statement(
                "REPLACE INTO database_instance_last_analysis (hostname, port, analysis_timestamp, analysis) VALUES (?, ?, @STAMP, ?)",
            );
            for written in [added, last] {
                let written = written
                    .bind(&instance.hostname)
                    .bind(instance.port)
                    .bind(change.at.0)
                    .bind(change.code.as_str());
                transaction.execute(written).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)
    }

    async fn purge_changes(&self, before: WallTime) -> Result<(), StoreError> {
        let failed = self.failed("delete analysis changes");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // MySQL deletes from a table that the statement also reads only when it reads it through a derived table.
        let old = statement(
            "DELETE FROM database_instance_analysis_changelog WHERE analysis_timestamp < @STAMP AND changelog_id NOT IN (SELECT id FROM \
             (SELECT MAX(changelog_id) AS id FROM database_instance_analysis_changelog GROUP BY hostname, port) AS newest)",
        )
        .bind(before.0);
        transaction.execute(old).await.map_err(&failed)?;
        let too_many = statement(
            "DELETE FROM database_instance_analysis_changelog WHERE changelog_id <= (SELECT id FROM \
             (SELECT MAX(changelog_id) AS id FROM database_instance_analysis_changelog) AS newest) - ?",
        )
        .bind(MAX_ROWS);
        transaction.execute(too_many).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::fixture::{NOW, key};

    fn change(n: u32, seconds: i64, code: Code) -> (InstanceKey, AnalysisChange) {
        let at = NOW.plus_millis(seconds * 1000);
        (key(n), AnalysisChange { at, code })
    }

    #[tokio::test]
    async fn what_was_added_is_read_in_order_and_the_last_of_each_outlives_its_age() {
        let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
        assert!(store.load_changes().await.unwrap().is_empty());
        let first = [change(1, 0, Code::NoProblem), change(2, 0, Code::NoProblem)];
        let second = [change(1, 10, Code::DeadMaster), change(1, 20, Code::UnreachableMaster)];
        store.add_changes(&first).await.unwrap();
        store.add_changes(&second).await.unwrap();
        let all = [first.to_vec(), second.to_vec()].concat();
        assert_eq!(store.load_changes().await.unwrap(), all);
        let query =
            "SELECT hostname, analysis_timestamp, analysis FROM database_instance_last_analysis ORDER BY hostname";
        let last = store.database.rows(statement(query)).await.unwrap();
        let last: Vec<(String, String, String)> =
            last.iter().map(|row| (row.text(0), row.text(1), row.text(2))).collect();
        assert_eq!(
            last,
            [
                (
                    "db1".to_owned(),
                    "2027-01-15 08:00:20".to_owned(),
                    "UnreachableMaster".to_owned()
                ),
                (
                    "db2".to_owned(),
                    "2027-01-15 08:00:00".to_owned(),
                    "NoProblem".to_owned()
                ),
            ]
        );
        store.purge_changes(NOW.plus_millis(15_000)).await.unwrap();
        assert_eq!(
            store.load_changes().await.unwrap(),
            [change(2, 0, Code::NoProblem), change(1, 20, Code::UnreachableMaster)]
        );
    }

    #[tokio::test]
    async fn orchestrators_rows_are_read_and_codes_that_nobody_knows_are_not() {
        let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
        let rows = statement(
            "INSERT INTO database_instance_analysis_changelog (hostname, port, analysis_timestamp, analysis) VALUES \
             ('db1', 3306, '2027-01-15 08:00:00', 'NoProblem,'), \
             ('db1', 3306, '2027-01-15 08:00:01', 'DeadMaster,NoLoggingReplicasStructureWarning'), \
             ('db1', 3306, '2027-01-15 08:00:02', 'MasterOnFire,'), ('db1', 3306, 'never', 'NoProblem,')",
        );
        store.database.execute(rows).await.unwrap();
        assert_eq!(
            store.load_changes().await.unwrap(),
            [change(1, 0, Code::NoProblem), change(1, 1, Code::DeadMaster)]
        );
    }
}
