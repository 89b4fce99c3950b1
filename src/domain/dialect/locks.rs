//! The statements about locks of the whole server: those that a change to read-only waits for, and those of backups.

use super::Dialect;

impl Dialect {
    /// Limits how long a statement of this session waits for a lock, in seconds, at least 1. MySQL and MariaDB end the
    /// statement with error 1205 afterwards, so that it has no effect later.
    pub fn set_lock_wait(&self, seconds: u64) -> String {
        format!("SET SESSION lock_wait_timeout = {}", seconds.max(1))
    }

    /// Selects the client sessions that hold a lock for which a change to read-only waits: `ID`, `USER`, `HOST`, `TIME`
    /// (seconds that the present statement, or the pause after the last one, has lasted). A writing statement holds one
    /// while it runs, `LOCK TABLES ... WRITE` until it is released; open transactions and reads hold none. Empty where
    /// `performance_schema` or its instrument for metadata locks is off.
    pub fn select_sessions_that_block_read_only(&self) -> String {
        let locks = if self.is_mariadb() {
            "OBJECT_TYPE = 'BACKUP'"
        } else {
            "OBJECT_TYPE IN ('GLOBAL', 'COMMIT') AND LOCK_TYPE = 'INTENTION_EXCLUSIVE'"
        };
        format!(
            "SELECT PROCESSLIST_ID AS ID, PROCESSLIST_USER AS USER, PROCESSLIST_HOST AS HOST, PROCESSLIST_TIME AS TIME \
             FROM performance_schema.threads WHERE THREAD_ID IN (SELECT OWNER_THREAD_ID \
             FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED' AND {locks}) \
             AND PROCESSLIST_ID <> CONNECTION_ID() AND PROCESSLIST_USER IS NOT NULL ORDER BY TIME DESC LIMIT 5"
        )
    }

    /// Selects the client sessions that may hold such a lock, where the server does not show the locks: those that
    /// have been in a statement, or at rest, for so many seconds; first those in a statement, the longest one first. A
    /// session that was blocked as well is not among them. The columns are the same.
    pub fn select_sessions_that_may_block_read_only(&self, seconds: u64) -> String {
        format!(
            "SELECT ID, USER, HOST, TIME FROM {} WHERE ID <> CONNECTION_ID() \
             AND COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon', 'Connect') \
             AND USER NOT IN ('system user', 'event_scheduler') AND USER <> SUBSTRING_INDEX(USER(), '@', 1) \
             AND TIME >= {seconds} AND STATE NOT LIKE 'Waiting for % lock' ORDER BY COMMAND = 'Sleep', TIME DESC LIMIT 5",
            self.processlist()
        )
    }

    /// Selects the number of applier threads that wait for the lock of a backup (`LOCK INSTANCE FOR BACKUP`, `FLUSH
    /// TABLES WITH READ LOCK`, `BACKUP STAGE`). Needs the PROCESS privilege.
    pub fn count_appliers_waiting_for_backup(&self) -> String {
        format!(
            "SELECT COUNT(*) FROM {} WHERE USER = 'system user' \
             AND STATE IN ('Waiting for backup lock', 'Waiting for global read lock', 'Waiting for commit lock')",
            self.processlist()
        )
    }

    /// Selects the client sessions that hold the lock of a backup: `ID`. `None` on MariaDB and before MySQL 8.0. While
    /// `LOCK INSTANCE FOR BACKUP` is held, MySQL refuses to stop an applier (error 3857), so that the server cannot be
    /// opened.
    pub fn select_sessions_with_backup_lock(&self) -> Option<&'static str> {
        (!self.is_mariadb() && self.version.at_least(8, 0, 0)).then_some(
            "SELECT PROCESSLIST_ID AS ID FROM performance_schema.threads WHERE THREAD_ID IN (SELECT OWNER_THREAD_ID \
             FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED' AND LOCK_TYPE = 'SHARED' \
             AND OBJECT_TYPE IN ('BACKUP LOCK', 'GLOBAL')) AND PROCESSLIST_USER IS NOT NULL LIMIT 10",
        )
    }
}
