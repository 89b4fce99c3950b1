//! The statements that ham4db sends to managed servers, as text.
//!
//! Flavour and version decide which statement is used, never trial and error: each method returns the statement that a
//! server of this version understands, for MySQL 5.7 to 9.7 and MariaDB 10.5 to 11.8. Nothing is sent here; the MySQL
//! adapter sends the statements in sessions that begin with [`PLAIN_SQL_MODE`](super::quote::PLAIN_SQL_MODE). The old
//! words (master, slave) occur in this module only.
//!
//! # Channels
//! A channel is a name; the empty name is the default channel. MySQL applies a statement *without* a channel clause to
//! **all** channels (START, STOP and RESET). ham4db changes only the managed channel, so its MySQL statements always
//! name the channel, with `FOR CHANNEL ''` for the default one. MariaDB takes no name as the default connection.

mod errant;
mod events;
#[cfg(test)]
mod golden_tests;
mod locks;
mod ownership;
mod privileges;
mod replication;
mod semi_sync;
mod source;

pub use self::events::EventStatus;
pub use self::ownership::OWNER_LOCK;
pub use self::privileges::PrivilegeRequirement;
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
    /// The SQL for a server of this version.
    pub fn new(version: &ServerVersion) -> Self {
        Self {
            version: version.clone(),
        }
    }

    /// The version of the server.
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

    /// Shows the status of all channels, one row each. Column names differ by version (`Source_Host`, `Master_Host`);
    /// the channel name is in `Channel_Name`, on MariaDB in `Connection_name`.
    pub fn show_replica_status(&self) -> &'static str {
        if self.is_mariadb() {
            "SHOW ALL SLAVES STATUS"
        } else if self.version.has_replica_statements() {
            "SHOW REPLICA STATUS"
        } else {
            "SHOW SLAVE STATUS"
        }
    }

    /// Shows the coordinates of the server's own binary log: one row (`File`, `Position`, ...), none when binary
    /// logging is off.
    pub fn show_binary_log_status(&self) -> &'static str {
        if self.version.has_binary_log_status() {
            "SHOW BINARY LOG STATUS"
        } else {
            "SHOW MASTER STATUS"
        }
    }

    /// The same on a MariaDB server with commits that may wait for semi-sync acknowledgements; on other servers
    /// [`show_binary_log_status`](Self::show_binary_log_status).
    ///
    /// Measured on MariaDB 10.11: as soon as a second group of commits waits behind the first, it holds the lock of the
    /// binary log, and `SHOW MASTER STATUS` and `SHOW BINARY LOGS` hang. The two status variables have the end of the
    /// last commit and are read without that lock.
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

    /// Shows the connected replicas that registered with `report_host` (`Host`, `Port`, ...).
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

    /// Selects the connections over which replicas read the binary log: `ID`, `USER`, `HOST` (`host:port` of the
    /// replica's end), `COMMAND`. Empty on MySQL 8.0.22 and later when `performance_schema` is off. Needs the PROCESS
    /// privilege.
    pub fn select_binlog_dump_connections(&self) -> String {
        format!(
            "SELECT ID, USER, HOST, COMMAND FROM {} WHERE COMMAND IN ('Binlog Dump', 'Binlog Dump GTID')",
            self.processlist()
        )
    }

    /// Selects the sessions that a fence kills (`ID`, `USER`, `HOST`, `COMMAND`): all except those of ham4db's account
    /// (probes of other members), the server's own threads, and binlog dumps. Sessions that are still logging in are
    /// included, since they may become writers. Needs the PROCESS privilege.
    pub fn select_client_connections(&self) -> String {
        format!(
            "SELECT ID, USER, HOST, COMMAND FROM {} WHERE ID <> CONNECTION_ID() \
             AND COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon') \
             AND USER NOT IN ('system user', 'event_scheduler') AND USER <> SUBSTRING_INDEX(USER(), '@', 1)",
            self.processlist()
        )
    }

    /// Selects client sessions that wait in the middle of a commit (`ID`, `TIME` of their statement in seconds,
    /// `STATE`), at most a thousand. Takes no lock that a commit holds. Needs the PROCESS privilege.
    pub fn select_waiting_commits(&self) -> String {
        format!(
            "SELECT ID, TIME, STATE FROM {} WHERE COMMAND IN ('Query', 'Execute') AND STATE IN ({}) LIMIT 1000",
            self.processlist(),
            quoted_states()
        )
    }

    /// Selects open transactions of client sessions that changed or locked rows: `session` (connection id) and `id`
    /// (transaction id). Read-only transactions block nothing, and prepared XA transactions belong to no session. Needs
    /// the PROCESS privilege.
    pub fn select_open_transactions(&self) -> &'static str {
        "SELECT trx_mysql_thread_id AS `session`, CAST(trx_id AS CHAR) AS `id` FROM information_schema.innodb_trx \
         WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) AND (trx_rows_modified > 0 OR trx_rows_locked > 0)"
    }

    /// Kills a connection, which rolls back its open transaction. Error 1094 means that the connection is already gone.
    pub fn kill(&self, connection_id: u64) -> String {
        format!("KILL CONNECTION {connection_id}")
    }

    /// Selects the connection ids of the replication threads for which `STOP REPLICA` of the session `holder` waits;
    /// `None` on MariaDB, where it is not known to wait.
    ///
    /// A worker that has applied a part of a transaction waits for the rest, for up to `rpl_stop_replica_timeout`
    /// (MY-010584). Killing the session that runs the statement does not end the wait; killing the coordinator and its
    /// workers does, and rolls the part back. The statement would stop the receiver thread too.
    pub fn select_stopping_threads(&self, holder: u64) -> Option<String> {
        let list = self.processlist();
        (!self.is_mariadb()).then(|| {
            format!(
                "SELECT ID FROM {list} WHERE USER = 'system user' AND EXISTS (SELECT 1 FROM {list} AS `session` \
                 WHERE `session`.ID = {holder} AND `session`.INFO LIKE 'STOP %')"
            )
        })
    }

    /// Selects the applier threads of a server with one channel, while its receiver thread is stopped or connects: `ID`,
    /// `STATE`. Needs the PROCESS privilege.
    pub fn select_applier_threads(&self) -> String {
        format!(
            "SELECT ID, STATE FROM {} WHERE USER = 'system user' AND COMMAND NOT IN ('Daemon', 'Slave_IO') \
             AND STATE NOT LIKE 'Connecting %' AND STATE NOT LIKE 'Reconnecting %'",
            self.processlist()
        )
    }

    /// The same for one channel of several; empty while `performance_schema` is off. `None` on MariaDB, where a thread
    /// does not show its channel.
    pub fn select_applier_threads_of(&self, channel: &str) -> Option<String> {
        (!self.is_mariadb()).then(|| {
            let channel = quote_string(channel);
            format!(
                "SELECT PROCESSLIST_ID AS ID, PROCESSLIST_STATE AS STATE FROM performance_schema.threads \
                 WHERE THREAD_ID IN (SELECT THREAD_ID FROM performance_schema.replication_applier_status_by_coordinator \
                 WHERE CHANNEL_NAME = {channel} UNION SELECT THREAD_ID FROM \
                 performance_schema.replication_applier_status_by_worker WHERE CHANNEL_NAME = {channel})"
            )
        })
    }

    /// The applier threads of a channel that are within a transaction. `None` on `MariaDB`, which does not show that.
    pub fn select_applying_threads_of(&self, channel: &str) -> Option<String> {
        (!self.is_mariadb()).then(|| {
            let channel = quote_string(channel);
            format!(
                "SELECT WORKER_ID FROM performance_schema.replication_applier_status_by_worker \
                 WHERE CHANNEL_NAME = {channel} AND APPLYING_TRANSACTION <> ''"
            )
        })
    }

    /// Those of these connections that have a transaction in the storage engine. `None` without a connection.
    pub fn select_transactions_of(&self, connections: &[u64]) -> Option<String> {
        let ids: Vec<String> = connections.iter().map(u64::to_string).collect();
        (!ids.is_empty()).then(|| {
            format!(
                "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_mysql_thread_id IN ({})",
                ids.join(", ")
            )
        })
    }

    /// Makes the server refuse or accept writes; the statements are sent in this order.
    ///
    /// Where `super_read_only` exists, one statement is enough: enabling it enables `read_only`, and disabling
    /// `read_only` disables it. Enabling waits for running commits, so the statement hangs while semi-sync waits for an
    /// acknowledgement. Only its OK is proof, since the variable already reads 1 while it hangs. On MariaDB accounts
    /// with SUPER or READ ONLY ADMIN bypass `read_only`.
    pub fn set_read_only(&self, read_only: bool) -> Vec<String> {
        let statement = match (read_only, self.version.has_super_read_only()) {
            (true, true) => "SET GLOBAL super_read_only = 1",
            (true, false) => "SET GLOBAL read_only = 1",
            (false, _) => "SET GLOBAL read_only = 0",
        };
        vec![statement.to_owned()]
    }

    /// Makes the *next start* of the server read-only, or reverts that, without a change of the running server. `None`
    /// where variables cannot be persisted (MySQL 5.7, MariaDB).
    pub fn set_boot_read_only(&self, read_only: bool) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(if read_only {
            "SET PERSIST_ONLY super_read_only = ON"
        } else {
            "RESET PERSIST IF EXISTS super_read_only"
        })
    }

    /// Takes a lock that the session holds until it ends: 1 is taken, 0 is not taken within the seconds (0 does not
    /// wait), NULL is an error. Names have at most 64 characters.
    pub fn get_lock(&self, name: &str, seconds: u32) -> String {
        format!("SELECT GET_LOCK({}, {seconds})", quote_string(name))
    }

    /// Releases a lock: 1 is released, 0 is held by another session, NULL is not held.
    pub fn release_lock(&self, name: &str) -> String {
        format!("SELECT RELEASE_LOCK({})", quote_string(name))
    }

    /// Selects the connection id of the session that holds a lock, NULL when the lock is free.
    pub fn is_used_lock(&self, name: &str) -> String {
        format!("SELECT IS_USED_LOCK({})", quote_string(name))
    }
}
