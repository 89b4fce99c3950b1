//! Managed MySQL and MariaDB servers: the ports [`Prober`](crate::app::ports::Prober) and
//! [`Executor`](crate::app::ports::Executor) over sqlx.
//!
//! Everything goes over the text protocol (`raw_sql`): the statements of administration cannot be prepared, and sqlx reads every
//! column of a text row by name whatever its type. What is sent to a server that is only looked at stands in `queries`, what changes
//! one is made by [`Dialect`](crate::domain::dialect::Dialect).
//!
//! A connection whose answer did not come in time, or that failed in any way, is dropped and never used again: the next answer on it
//! could belong to the statement before. Failures are sorted by the server's error number and by what a TCP connection attempt
//! proves, never by the text of a message.

mod admin_endpoint;
mod binlog;
mod channel;
mod commits;
mod connection;
mod connection_cache;
mod delay;
mod errant;
mod executor;
mod facts;
mod group;
mod handover;
mod log_events;
mod owner;
mod prober;
mod queries;
mod replication;
mod server_connection;
mod session;
mod settings;
mod text_row;

pub use self::admin_endpoint::AdminEndpoints;
pub use self::binlog::MySqlBinlogReader;
pub use self::commits::MySqlCommitProbe;
pub use self::executor::MySqlExecutor;
pub use self::owner::MySqlOwnerLocks;
pub use self::prober::MySqlProber;
pub use self::server_connection::ProbeSettings;
