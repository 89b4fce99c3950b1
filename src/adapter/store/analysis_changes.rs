//! The port [`ChangeStore`] in orchestrator's tables of analysis changes. They contain what this member observed, and are no part
//! of the replicated state.

use async_trait::async_trait;

use crate::app::ports::StoreError;
use crate::app::ports::{AnalysisChange, ChangeStore};
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::SqliteStore;
use super::projection::with_stamps;

/// Limit for the rows that are kept, regardless of their age.
const MAX_ROWS: i64 = 100_000;

#[async_trait]
impl ChangeStore for SqliteStore {
    async fn load_changes(&self) -> Result<Vec<(InstanceKey, AnalysisChange)>, StoreError> {
        let rows: Vec<(String, i64, Option<i64>, String)> = sqlx::query_as(
            "SELECT hostname, port, CAST(strftime('%s', analysis_timestamp) AS INTEGER), analysis \
             FROM database_instance_analysis_changelog ORDER BY changelog_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read analysis changes"))?;
        let change = |(host, port, at, code): (String, i64, Option<i64>, String)| {
            // Orchestrator writes a comma after each code, and structure warnings after the comma.
            let code = code.split(',').next().unwrap_or_default();
            let code: Code = serde_json::from_value(serde_json::Value::from(code)).ok()?;
            let at = WallTime(at?.saturating_mul(1000));
            let instance = InstanceKey::new(host, u16::try_from(port).ok()?);
            Some((instance, AnalysisChange { at, code }))
        };
        Ok(rows.into_iter().filter_map(change).collect())
    }

    async fn add_changes(&self, changes: &[(InstanceKey, AnalysisChange)]) -> Result<(), StoreError> {
        let failed = self.failed("write analysis changes");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        for (instance, change) in changes {
            for statement in [
                "INSERT INTO database_instance_analysis_changelog (hostname, port, analysis_timestamp, analysis) VALUES (?, ?, @STAMP, ?)",
                "REPLACE INTO database_instance_last_analysis (hostname, port, analysis_timestamp, analysis) VALUES (?, ?, @STAMP, ?)",
            ] {
                sqlx::query(with_stamps(statement))
                    .bind(&instance.hostname)
                    .bind(i64::from(instance.port))
                    .bind(change.at.0)
                    .bind(change.code.as_str())
                    .execute(&mut *transaction)
                    .await
                    .map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)
    }

    async fn purge_changes(&self, before: WallTime) -> Result<(), StoreError> {
        let failed = self.failed("delete analysis changes");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        sqlx::query(with_stamps(
            "DELETE FROM database_instance_analysis_changelog WHERE analysis_timestamp < @STAMP \
             AND changelog_id NOT IN (SELECT MAX(changelog_id) FROM database_instance_analysis_changelog GROUP BY hostname, port)",
        ))
        .bind(before.0)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "DELETE FROM database_instance_analysis_changelog \
             WHERE changelog_id <= (SELECT MAX(changelog_id) FROM database_instance_analysis_changelog) - ?",
        )
        .bind(MAX_ROWS)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
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
        let store = SqliteStore::open(Path::new(":memory:")).await.unwrap();
        assert!(store.load_changes().await.unwrap().is_empty());
        let first = [change(1, 0, Code::NoProblem), change(2, 0, Code::NoProblem)];
        let second = [change(1, 10, Code::DeadMaster), change(1, 20, Code::UnreachableMaster)];
        store.add_changes(&first).await.unwrap();
        store.add_changes(&second).await.unwrap();
        let all = [first.to_vec(), second.to_vec()].concat();
        assert_eq!(store.load_changes().await.unwrap(), all);
        let last: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT hostname, analysis_timestamp, analysis FROM database_instance_last_analysis ORDER BY hostname",
        )
        .fetch_all(&store.pool)
        .await
        .unwrap();
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
        let store = SqliteStore::open(Path::new(":memory:")).await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO database_instance_analysis_changelog (hostname, port, analysis_timestamp, analysis) VALUES \
             ('db1', 3306, '2027-01-15 08:00:00', 'NoProblem,'), \
             ('db1', 3306, '2027-01-15 08:00:01', 'DeadMaster,NoLoggingReplicasStructureWarning'), \
             ('db1', 3306, '2027-01-15 08:00:02', 'MasterOnFire,'), ('db1', 3306, 'never', 'NoProblem,')",
        )
        .execute(&store.pool)
        .await
        .unwrap();
        assert_eq!(
            store.load_changes().await.unwrap(),
            [change(1, 0, Code::NoProblem), change(1, 1, Code::DeadMaster)]
        );
    }
}
