//! The statements ham4db sends to managed servers, as text: data in, SQL out.
//!
//! Flavour and version decide, never trial and error: each method gives the words that a server
//! of this version understands, over MySQL 5.7 to 9.7 and MariaDB 10.5 to 11.8. Nothing is sent
//! here; the MySQL adapter does that, in sessions that begin with
//! [`PLAIN_SQL_MODE`](super::quote::PLAIN_SQL_MODE). The old words (master, slave) occur in this
//! module only.
//!
//! # Channels
//! A channel is a name; the empty name is the default channel. MySQL takes a statement *without*
//! a channel clause as meant for **all** channels (START, STOP and RESET), and other channels than
//! the managed one are never touched, so MySQL statements always name theirs, `FOR CHANNEL ''`
//! for the default one. MariaDB takes no name as the default connection.

mod errant;
#[cfg(test)]
mod golden_tests;
mod ownership;
mod privileges;
mod replication;
mod semi_sync;
mod source;

pub use self::ownership::OWNER_LOCK;
pub use self::privileges::Need;
pub use self::semi_sync::{SemiSyncReplicaNames, SemiSyncSourceNames};
pub use self::source::{ChangeSource, SourcePosition, SourceTls, Statement};

use super::commit_stall::quoted_states;
use super::quote::quote_string;
use super::version::ServerVersion;

/// The SQL of one server version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    version: ServerVersion,
}

impl Dialect {
    /// The SQL that a server of this version understands.
    pub fn new(version: &ServerVersion) -> Self {
        Self {
            version: version.clone(),
        }
    }

    /// The version the statements are made for.
    pub fn version(&self) -> &ServerVersion {
        &self.version
    }

    fn is_mariadb(&self) -> bool {
        self.version.flavour.is_mariadb()
    }

    /// `REPLICA` or `SLAVE`.
    fn replica_word(&self) -> &'static str {
        if self.version.has_replica_statements() {
            "REPLICA"
        } else {
            "SLAVE"
        }
    }

    /// The status of all channels, a row each. Column names differ by version (`Source_Host`,
    /// `Master_Host`); the channel's is `Channel_Name`, on MariaDB `Connection_name`.
    pub fn show_replica_status(&self) -> &'static str {
        if self.is_mariadb() {
            "SHOW ALL SLAVES STATUS"
        } else if self.version.has_replica_statements() {
            "SHOW REPLICA STATUS"
        } else {
            "SHOW SLAVE STATUS"
        }
    }

    /// The server's own binlog coordinates: one row (`File`, `Position`, ...), none with the
    /// binlog off.
    pub fn show_binary_log_status(&self) -> &'static str {
        if self.version.has_binary_log_status() {
            "SHOW BINARY LOG STATUS"
        } else {
            "SHOW MASTER STATUS"
        }
    }

    /// The same on a MariaDB server whose commits may wait for acknowledgements of semi-sync; elsewhere
    /// [`show_binary_log_status`](Self::show_binary_log_status).
    ///
    /// Measured on MariaDB 10.11: as soon as a second group of commits waits behind the first, it holds the lock of the binary log,
    /// and `SHOW MASTER STATUS` and `SHOW BINARY LOGS` hang with it. The two status values say where the last commit ended, and are
    /// read without that lock.
    pub fn show_binary_log_status_while_commits_wait(&self) -> &'static str {
        if self.is_mariadb() {
            "SELECT MAX(IF(VARIABLE_NAME = 'BINLOG_SNAPSHOT_FILE', VARIABLE_VALUE, NULL)) AS File, \
             MAX(IF(VARIABLE_NAME = 'BINLOG_SNAPSHOT_POSITION', VARIABLE_VALUE, NULL)) AS Position \
             FROM information_schema.GLOBAL_STATUS \
             WHERE VARIABLE_NAME IN ('BINLOG_SNAPSHOT_FILE', 'BINLOG_SNAPSHOT_POSITION')"
        } else {
            self.show_binary_log_status()
        }
    }

    /// The connected replicas that registered with `report_host` (`Host`, `Port`, ...).
    pub fn show_replicas(&self) -> &'static str {
        if self.version.has_replica_statements() {
            "SHOW REPLICAS"
        } else {
            "SHOW SLAVE HOSTS"
        }
    }

    fn processlist(&self) -> &'static str {
        if self.version.has_performance_schema_processlist() {
            "performance_schema.processlist"
        } else {
            "information_schema.processlist"
        }
    }

    /// The connections over which replicas read the binlog: `ID`, `USER`, `HOST` (`host:port` of
    /// the replica's end), `COMMAND`. On MySQL 8.0.22 and later it is empty where
    /// `performance_schema` is off. Needs the PROCESS privilege.
    pub fn select_binlog_dump_connections(&self) -> String {
        format!(
            "SELECT ID, USER, HOST, COMMAND FROM {} WHERE COMMAND IN ('Binlog Dump', 'Binlog Dump GTID')",
            self.processlist()
        )
    }

    /// The sessions to kill when a primary is fenced: all but those of our account (the eyes of the
    /// other members), the server's own threads and
    /// the binlog dumps (`ID`, `USER`, `HOST`, `COMMAND`). Sessions still logging in are among
    /// them, since they may become writers. Needs the PROCESS privilege.
    pub fn select_client_connections(&self) -> String {
        format!(
            "SELECT ID, USER, HOST, COMMAND FROM {} WHERE ID <> CONNECTION_ID() \
             AND COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon') \
             AND USER NOT IN ('system user', 'event_scheduler') AND USER <> SUBSTRING_INDEX(USER(), '@', 1)",
            self.processlist()
        )
    }

    /// The sessions of clients that wait in the middle of a commit (`ID`, `TIME` of their statement in seconds, `STATE`), at most a
    /// thousand. Takes no lock that a commit holds. Needs the PROCESS privilege.
    pub fn select_waiting_commits(&self) -> String {
        format!(
            "SELECT ID, TIME, STATE FROM {} WHERE COMMAND IN ('Query', 'Execute') AND STATE IN ({}) LIMIT 1000",
            self.processlist(),
            quoted_states()
        )
    }

    /// The transactions of client sessions that have changed or locked rows and are not committed: `session` (the connection's id),
    /// `id` (the transaction's). Reading ones hold nothing up, and prepared XA transactions belong to no session. Needs the PROCESS
    /// privilege.
    pub fn select_open_transactions(&self) -> &'static str {
        "SELECT trx_mysql_thread_id AS `session`, CAST(trx_id AS CHAR) AS `id` FROM information_schema.innodb_trx \
         WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) AND (trx_rows_modified > 0 OR trx_rows_locked > 0)"
    }

    /// Ends a connection and rolls back what it has not committed. Error 1094 says that it is
    /// gone already.
    pub fn kill(&self, connection_id: u64) -> String {
        format!("KILL CONNECTION {connection_id}")
    }

    /// Makes the server refuse or accept writes; the statements in the order to be sent.
    ///
    /// Where `super_read_only` exists, one statement does both: switching it on switches
    /// `read_only` on, and switching `read_only` off switches it off. Switching on waits for
    /// running commits, so it hangs while semi-sync waits for an acknowledgement; only its OK is
    /// proof, for the variable already reads 1 while it hangs. On MariaDB, and for accounts
    /// with SUPER or READ ONLY ADMIN there, `read_only` stops nobody who has the privilege.
    pub fn set_read_only(&self, read_only: bool) -> Vec<String> {
        let statement = match (read_only, self.version.has_super_read_only()) {
            (true, true) => "SET GLOBAL super_read_only = 1",
            (true, false) => "SET GLOBAL read_only = 1",
            (false, _) => "SET GLOBAL read_only = 0",
        };
        vec![statement.to_owned()]
    }

    /// Makes the *next start* of the server read-only, or takes that back, without changing the
    /// running server. `None` where the server cannot persist variables (MySQL 5.7, MariaDB).
    pub fn set_boot_read_only(&self, read_only: bool) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(if read_only {
            "SET PERSIST_ONLY super_read_only = ON"
        } else {
            "RESET PERSIST IF EXISTS super_read_only"
        })
    }

    /// Takes a lock that the session holds until it ends: 1 taken, 0 not within the seconds (0
    /// does not wait), NULL on an error. Names are at most 64 characters.
    pub fn get_lock(&self, name: &str, seconds: u32) -> String {
        format!("SELECT GET_LOCK({}, {seconds})", quote_string(name))
    }

    /// Gives a lock back: 1 given back, 0 held by another session, NULL not held at all.
    pub fn release_lock(&self, name: &str) -> String {
        format!("SELECT RELEASE_LOCK({})", quote_string(name))
    }

    /// The connection id of the session that holds a lock, NULL when it is free.
    pub fn is_used_lock(&self, name: &str) -> String {
        format!("SELECT IS_USED_LOCK({})", quote_string(name))
    }
}
