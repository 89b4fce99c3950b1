//! The port [`PositionStore`] in a table of the backend. Only this member reads and writes it.

use async_trait::async_trait;

use crate::app::ports::StoreError;
use crate::app::ports::{Position, PositionStore};

use super::SqliteStore;

/// Rows that were not written for this time belong to removed servers and are deleted. In seconds.
const KEEP_SECONDS: i64 = 90 * 24 * 3600;

#[async_trait]
impl PositionStore for SqliteStore {
    async fn load_positions(&self) -> Result<Vec<Position>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT body FROM ham4db_position ORDER BY instance")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read positions"))?;
        rows.iter()
            .map(|(body,)| serde_json::from_str(body).map_err(|error| self.unreadable("a position", &error)))
            .collect()
    }

    async fn save_positions(&self, positions: &[Position]) -> Result<(), StoreError> {
        let failed = self.failed("write positions");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        for position in positions {
            let body = serde_json::to_string(position).map_err(|error| self.unreadable("a position", &error))?;
            sqlx::query("INSERT OR REPLACE INTO ham4db_position (instance, body, at) VALUES (?, ?, ?)")
                .bind(position.instance.to_string())
                .bind(body)
                .bind(position.at.0 / 1000)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        sqlx::query("DELETE FROM ham4db_position WHERE at < (SELECT MAX(at) FROM ham4db_position) - ?")
            .bind(KEEP_SECONDS)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }
}
