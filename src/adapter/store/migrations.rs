//! The numbered migrations, which are compiled in. A released migration is never changed.

use std::borrow::Cow;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType};

/// All migrations: number, name, SQL.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "own tables", include_str!("migrations/0001_own_tables.sql")),
    (
        2,
        "orchestrator tables",
        include_str!("migrations/0002_orchestrator_tables.sql"),
    ),
    (3, "positions", include_str!("migrations/0003_positions.sql")),
    (4, "audit", include_str!("migrations/0004_audit.sql")),
    (5, "analysis", include_str!("migrations/0005_analysis.sql")),
];

/// The source of migrations for sqlx.
#[derive(Debug)]
pub(super) struct EmbeddedMigrations;

impl MigrationSource<'static> for EmbeddedMigrations {
    fn resolve(self) -> BoxFuture<'static, Result<Vec<Migration>, BoxDynError>> {
        let migrations = MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    *version,
                    Cow::Borrowed(*name),
                    MigrationType::Simple,
                    sqlx::SqlStr::from_static(sql),
                    false,
                )
            })
            .collect();
        async move { Ok(migrations) }.boxed()
    }
}
