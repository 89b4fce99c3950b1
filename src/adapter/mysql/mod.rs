//! Managed MySQL and MariaDB servers: the ports [`Prober`](crate::app::ports::Prober) and
//! [`Executor`](crate::app::ports::Executor) over a client of our own (`protocol`).
//!
//! All statements use the text protocol: administrative statements cannot be prepared. Read-only statements are in `queries`; statements that
//! change a server are built by [`Dialect`](crate::domain::dialect::Dialect).
//!
//! A connection on which an answer came too late, or which failed in another way, is dropped and never used again: the next
//! answer on it could belong to the previous statement. Failures are classified by the server's error number and by the result of
//! a TCP connection attempt, never by the text of a message.

mod admin_endpoint;
mod binlog_reader;
mod channel;
mod commit_probe;
mod connection;
mod connection_cache;
mod controller_lock;
mod delay;
mod errant;
mod executor;
mod facts;
mod group_members;
mod log_events;
mod open_transaction;
mod prober;
mod protocol;
mod queries;
mod replication;
mod scheduled_events;
mod server_connection;
mod server_info;
mod server_locks;
mod server_settings;
mod session;
mod statements;
mod takeover;
mod text_row;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod scripted_server;

pub use self::admin_endpoint::AdminEndpoints;
pub use self::binlog_reader::MySqlBinlogReader;
pub use self::commit_probe::MySqlCommitProbe;
pub use self::controller_lock::MySqlControllerLockClient;
pub use self::executor::MySqlExecutor;
pub use self::prober::MySqlProber;
pub use self::server_connection::ProbeSettings;
