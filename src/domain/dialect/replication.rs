//! Statements for replication threads: start, stop, reset, wait, rescue.

use super::Dialect;
use crate::domain::gtid::{GtidSet, MariaDbGtidSet};
use crate::domain::quote::{quote_literal, quote_string};

impl Dialect {
    /// Starts both threads of a channel.
    pub fn start_replica(&self, channel: &str) -> String {
        self.on_channel("START", "", channel)
    }

    /// Stops both threads of a channel. On MariaDB with GTID a later start **deletes relay log that was not applied**:
    /// stop the IO thread and wait for the applier instead, or use [`relay_log_rescue`](Self::relay_log_rescue).
    pub fn stop_replica(&self, channel: &str) -> String {
        self.on_channel("STOP", "", channel)
    }

    /// Starts the receiver (IO) thread.
    pub fn start_io_thread(&self, channel: &str) -> String {
        self.on_channel("START", " IO_THREAD", channel)
    }

    /// Stops the receiver (IO) thread. Takes about 2 s while it tries to connect to an address that does not answer.
    pub fn stop_io_thread(&self, channel: &str) -> String {
        self.on_channel("STOP", " IO_THREAD", channel)
    }

    /// Starts the applier.
    pub fn start_sql_thread(&self, channel: &str) -> String {
        self.on_channel("START", " SQL_THREAD", channel)
    }

    /// Stops the applier, after the transaction it is in. See
    /// [`stop_replica`](Self::stop_replica) for MariaDB's relay log.
    pub fn stop_sql_thread(&self, channel: &str) -> String {
        self.on_channel("STOP", " SQL_THREAD", channel)
    }

    /// Removes source, credentials and relay log of a stopped channel.
    pub fn reset_replica_all(&self, channel: &str) -> String {
        self.on_channel("RESET", " ALL", channel)
    }

    /// `VERB REPLICA what FOR CHANNEL 'c'`, or `VERB SLAVE 'c' what` on MariaDB.
    fn on_channel(&self, verb: &str, what: &str, channel: &str) -> String {
        let word = self.replica_word();
        format!(
            "{verb} {word}{}{what}{}",
            self.connection_name(channel),
            self.channel_clause(channel)
        )
    }

    /// The channel name in MariaDB's syntax, after the first words of the statement.
    pub(super) fn connection_name(&self, channel: &str) -> String {
        if self.is_mariadb() && !channel.is_empty() {
            format!(" {}", quote_literal(channel))
        } else {
            String::new()
        }
    }

    /// The channel name in MySQL's syntax, at the end of the statement; also for the default channel, see the module's
    /// comment.
    pub(super) fn channel_clause(&self, channel: &str) -> String {
        if !self.is_mariadb() && self.version.has_named_channels() {
            format!(" FOR CHANNEL {}", quote_literal(channel))
        } else {
            String::new()
        }
    }

    /// Selects the account of a channel: `user`, `password`. `None` on MariaDB, which keeps it in a file. Needs SELECT
    /// on the table, and on MySQL 5.7 `master_info_repository = TABLE`.
    pub fn select_replication_account(&self, channel: &str) -> Option<String> {
        (!self.is_mariadb()).then(|| {
            format!(
                "SELECT User_name AS `user`, User_password AS `password` FROM mysql.slave_master_info WHERE Channel_name = {}",
                quote_string(channel)
            )
        })
    }

    /// Waits until a replica has applied a set, at most `seconds` (at least 1 s, because 0 waits for ever). MySQL
    /// returns 0 when applied and 1 on timeout; MariaDB returns 0 and -1.
    ///
    /// The flavour of the set decides the function. MariaDB waits in each domain for the position of the set in
    /// `gtid_slave_pos`. For a domain that the replica never received from its source it waits until the timeout.
    pub fn wait_for_executed_gtid_set(&self, set: &GtidSet, seconds: u32) -> String {
        let seconds = seconds.max(1);
        match set {
            GtidSet::MySql(set) => {
                format!(
                    "SELECT WAIT_FOR_EXECUTED_GTID_SET({}, {seconds})",
                    quote_string(&set.to_string())
                )
            }
            GtidSet::MariaDb(set) => {
                format!(
                    "SELECT MASTER_GTID_WAIT({}, {seconds})",
                    quote_string(&set.position_text())
                )
            }
        }
    }

    /// The relay-log rescue of MariaDB, for a replica with both threads stopped and unapplied relay log, which the next
    /// start under GTID would delete. It disables GTID at the given relay-log coordinates (`Relay_Log_File`,
    /// `Relay_Log_Pos` of the status) and starts the applier, which applies everything and advances `gtid_slave_pos`.
    /// The next CHANGE MASTER enables GTID again. `None` on MySQL, which keeps its relay log.
    pub fn relay_log_rescue(&self, channel: &str, file: &str, position: u64) -> Option<Vec<String>> {
        self.is_mariadb().then(|| {
            vec![
                format!(
                    "CHANGE MASTER{} TO MASTER_USE_GTID = no, RELAY_LOG_FILE = {}, RELAY_LOG_POS = {position}",
                    self.connection_name(channel),
                    quote_literal(file)
                ),
                self.start_sql_thread(channel),
            ]
        })
    }

    /// Lets a delayed applier apply its relay log at once; both threads are stopped. Measured on MySQL 9.7 and MariaDB 10.11: a change of
    /// the delay alone deletes the relay log then, since both threads are stopped; with the relay log's own coordinates
    /// (`Relay_Log_File`, `Relay_Log_Pos` of the status) it is kept, and these need GTID to be off. It is switched on again by
    /// [`delay_by`](Self::delay_by).
    pub fn apply_without_delay(&self, channel: &str, file: &str, position: u64) -> Vec<String> {
        let (verb, side) = self.change_words();
        let by_gtid = if self.is_mariadb() {
            "MASTER_USE_GTID = no".to_owned()
        } else {
            format!("{side}_AUTO_POSITION = 0")
        };
        vec![
            format!(
                "{verb}{} TO {by_gtid}, RELAY_LOG_FILE = {}, RELAY_LOG_POS = {position}, {side}_DELAY = 0{}",
                self.connection_name(channel),
                quote_literal(file),
                self.channel_clause(channel)
            ),
            self.start_sql_thread(channel),
        ]
    }

    /// Enables GTID on a channel and sets the delay of its applier, seconds. Both threads must be stopped and
    /// everything received must be applied, since the relay log is deleted.
    pub fn delay_by(&self, channel: &str, seconds: u64) -> String {
        let (verb, side) = self.change_words();
        let by_gtid = if self.is_mariadb() {
            "MASTER_USE_GTID = slave_pos".to_owned()
        } else {
            format!("{side}_AUTO_POSITION = 1")
        };
        format!(
            "{verb}{} TO {by_gtid}, {side}_DELAY = {seconds}{}",
            self.connection_name(channel),
            self.channel_clause(channel)
        )
    }

    /// Changes the delay of a MySQL channel while its receiver thread runs and its applier thread is stopped, which keeps
    /// the relay log. MariaDB requires both threads to be stopped.
    pub fn delay_while_receiving(&self, channel: &str, seconds: u64) -> Option<String> {
        let (verb, side) = self.change_words();
        let clause = self.channel_clause(channel);
        (!self.is_mariadb()).then(|| format!("{verb} TO {side}_DELAY = {seconds}{clause}"))
    }

    /// Sets the position from which a MariaDB replica continues. An old primary needs this before it can replicate with
    /// `slave_pos`, since its own transactions never entered `gtid_slave_pos`. All replication threads must be stopped.
    /// `None` on MySQL, where the executed set is the position.
    pub fn set_gtid_slave_position(&self, set: &MariaDbGtidSet) -> Option<String> {
        self.is_mariadb()
            .then(|| format!("SET GLOBAL gtid_slave_pos = {}", quote_string(&set.position_text())))
    }
}
