//! The SQLite backend: the replicated state in tables, written in one transaction with the log position that it corresponds to.
//!
//! Every record is stored as a JSON body (`ham4db_object`, `ham4db_intent`). Orchestrator's tables are projections, which are
//! written in the same transaction and never read.

mod analysis_changes;
mod audit;
#[cfg(test)]
mod audit_tests;
mod migrations;
mod positions;
mod projection;
mod sqlite;

pub use sqlite::SqliteStore;
