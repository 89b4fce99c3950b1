//! The numbered migrations, which are compiled in. A released migration is never changed. Those for MySQL may be executed again: MySQL
//! commits after each statement about a table, so that a migration can be interrupted.

use std::borrow::Cow;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType};

use super::statement::Dialect;

/// A migration: number, name, SQL for SQLite, SQL for MySQL.
type Numbered = (i64, &'static str, &'static str, &'static str);

macro_rules! migration {
    ($number:literal, $name:literal, $file:literal) => {
        (
            $number,
            $name,
            include_str!(concat!("migrations/sqlite/", $file)),
            include_str!(concat!("migrations/mysql/", $file)),
        )
    };
}

/// All migrations, in order, numbered without gaps.
const MIGRATIONS: [Numbered; 8] = [
    migration!(1, "own tables", "0001_own_tables.sql"),
    migration!(2, "orchestrator tables", "0002_orchestrator_tables.sql"),
    migration!(3, "positions", "0003_positions.sql"),
    migration!(4, "audit", "0004_audit.sql"),
    migration!(5, "analysis", "0005_analysis.sql"),
    migration!(6, "pairs", "0006_kv.sql"),
    migration!(7, "shared backend", "0007_shared.sql"),
    migration!(8, "instances", "0008_instances.sql"),
];

/// The number of the newest migration.
pub(super) fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.0)
}

/// The source of migrations for sqlx.
#[derive(Debug)]
pub(super) struct EmbeddedMigrations(pub(super) Dialect);

impl MigrationSource<'static> for EmbeddedMigrations {
    fn resolve(self) -> BoxFuture<'static, Result<Vec<Migration>, BoxDynError>> {
        let migrations = MIGRATIONS
            .iter()
            .map(|(version, name, sqlite, mysql)| {
                let sql = match self.0 {
                    Dialect::Sqlite => *sqlite,
                    Dialect::MySql => *mysql,
                };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.0).collect();
        assert_eq!(numbers, (1..=newest()).collect::<Vec<_>>());
    }

    /// A migration for MySQL that was interrupted is executed again.
    #[test]
    fn every_statement_for_mysql_can_be_executed_again() {
        for (number, _, _, mysql) in MIGRATIONS {
            let lines: Vec<&str> = mysql.lines().filter(|line| !line.starts_with("--")).collect();
            let text = lines.join(" ");
            for sql in text.split(';').map(str::trim).filter(|sql| !sql.is_empty()) {
                assert!(sql.starts_with("CREATE TABLE IF NOT EXISTS "), "{number}: {sql}");
            }
        }
    }
}
