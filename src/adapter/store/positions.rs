//! The port [`PositionStore`] in a table of the backend. Only this member reads and writes it.

use async_trait::async_trait;

use crate::app::ports::StoreError;
use crate::app::ports::{Position, PositionStore};

use super::BackendStore;
use super::statement::statement;

/// Rows that were not written for this time belong to removed servers and are deleted. In seconds.
const KEEP_SECONDS: i64 = 90 * 24 * 3600;

#[async_trait]
impl PositionStore for BackendStore {
    async fn load_positions(&self) -> Result<Vec<Position>, StoreError> {
        let rows = self
            .database
            .rows(statement("SELECT body FROM ham4db_position ORDER BY instance"))
            .await
            .map_err(self.failed("read positions"))?;
        rows.iter()
            .map(|row| serde_json::from_str(&row.text(0)).map_err(|error| self.unreadable("a position", &error)))
            .collect()
    }

    async fn save_positions(&self, positions: &[Position]) -> Result<(), StoreError> {
        let failed = self.failed("write positions");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        for position in positions {
            let body = serde_json::to_string(position).map_err(|error| self.unreadable("a position", &error))?;
            let written = statement("REPLACE INTO ham4db_position (instance, body, at) VALUES (?, ?, ?)")
                .bind(position.instance.to_string())
                .bind(body)
                .bind(position.at.0 / 1000);
            transaction.execute(written).await.map_err(&failed)?;
        }
        if let Some(newest) = positions.iter().map(|position| position.at.0 / 1000).max() {
            let old = statement("DELETE FROM ham4db_position WHERE at < ?").bind(newest.saturating_sub(KEEP_SECONDS));
            transaction.execute(old).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }
}
