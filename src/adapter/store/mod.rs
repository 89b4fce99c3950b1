//! The backend: the replicated state in tables, written in one transaction with the position that it stands for.
//!
//! Every record is kept as a JSON body (`ham4db_object`, `ham4db_intent`); orchestrator's tables beside them are projections, written
//! in the same transaction and never read back.

mod audit;
#[cfg(test)]
mod audit_tests;
mod changes;
mod migrations;
mod positions;
mod projection;
mod sqlite;

pub use sqlite::SqliteStore;
