//! The backend of a member in a SQLite file or a MySQL database: the replicated state in tables, written in one transaction with the log
//! position that it corresponds to.
//!
//! Every record is stored as a JSON body (`ham4db_object`, `ham4db_intent`). Orchestrator's tables are projections, which are
//! written in the same transaction and never read.

mod analysis_changes;
mod audit;
#[cfg(test)]
mod audit_tests;
mod backend;
mod database;
mod instances;
mod kv;
mod migrations;
mod positions;
mod projection;
mod shared;
mod state_store;
mod statement;

pub use backend::{BackendAddress, BackendStore, BackendTls, BackendTlsMode, Deployment, MySqlBackend, OpenError};
