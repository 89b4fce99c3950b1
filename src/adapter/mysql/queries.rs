//! The statements that read the state of a server. [`Dialect`] builds the statements that change one.
//!
//! A connection begins with [`SERVER_INFO_STATEMENTS`], which every flavour and version supports, and which shows the existing
//! variables. Then a probe is one round trip of several statements ([`probe_queries`]). They read only what exists: no statement
//! is sent to find out whether the server supports it.

use crate::domain::dialect::{Dialect, SemiSyncReplicaNames, SemiSyncSourceNames};

/// Sets the session variables (without `autocommit` a SELECT would leave a transaction open; `wait_timeout` is the longest pause
/// between two uses of the connection, one day), and reads the values that rarely change and the names of the existing variables.
pub(super) const SERVER_INFO_STATEMENTS: &str = "SET SESSION sql_mode = '', autocommit = 1, wait_timeout = 86400; \
     SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'hostname', 'port', 'report_host', 'report_port', \
     'server_uuid', 'log_bin', 'log_slave_updates', 'log_replica_updates', 'performance_schema', 'group_replication_group_name', \
     'server_id', 'read_only', 'super_read_only', 'binlog_format', 'binlog_row_image', 'gtid_mode', 'gtid_executed', 'gtid_purged', \
     'gtid_binlog_state', 'gtid_slave_pos', 'datadir', 'sync_binlog', 'innodb_flush_log_at_trx_commit', 'relay_log_recovery', \
     'replica_net_timeout', 'slave_net_timeout', 'admin_address', 'admin_port', 'extra_port', \
     'group_replication_single_primary_mode') OR Variable_name LIKE 'rpl_semi_sync_%'; \
     SHOW GLOBAL STATUS LIKE 'Uptime'; SELECT UNIX_TIMESTAMP()";

/// The index of the result with the variables among the results of [`SERVER_INFO_STATEMENTS`].
pub(super) const SERVER_INFO_VARIABLES: usize = 1;
/// The index of the result with the status.
pub(super) const SERVER_INFO_STATUS: usize = 2;
/// The index of the result with the server's clock.
pub(super) const SERVER_INFO_CLOCK: usize = 3;

/// Whether the server shows the replication account with its password. Many topology accounts may not read the table.
pub(super) const REPLICATION_CREDENTIALS: &str =
    "SELECT COUNT(*) FROM mysql.slave_master_info WHERE User_name <> '' AND User_password <> ''";

/// The queries that are sent about once a minute, beyond [`SERVER_INFO_STATEMENTS`]. Many topology accounts may not read all of
/// them: an error makes the value of that query unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingsQuery {
    /// The account of the connection.
    Account,
    /// The grants of the account.
    Grants,
    /// The heartbeat period of the channel.
    Heartbeat,
    /// The persisted value of `read_only`, which applies at the next start.
    Persisted,
    /// The source of the present value of `read_only`.
    Sources,
    /// The accounts that `read_only` does not restrict.
    PastReadOnly,
    /// The enabled events.
    Events,
    /// Number of applier threads that wait for the lock of a backup.
    WaitingForBackup,
    /// The sessions with the lock of a backup.
    BackupLock,
}

/// The settings queries with their statements, in the order in which they are sent. The statement that fails most often is the
/// last one: the statements after a failed one are sent again.
pub(super) fn settings_queries(dialect: &Dialect, has_performance_schema: bool) -> Vec<(SettingsQuery, String)> {
    let mut queries = vec![
        (SettingsQuery::Account, dialect.select_own_account().to_owned()),
        (SettingsQuery::Grants, dialect.show_grants().to_owned()),
    ];
    let of_boot = [
        (SettingsQuery::Persisted, dialect.select_persisted_read_only()),
        (SettingsQuery::Sources, dialect.select_read_only_sources()),
    ];
    queries.extend(
        of_boot
            .into_iter()
            .filter_map(|(query, statement)| Some((query, statement?.to_owned()))),
    );
    queries.push((SettingsQuery::Events, dialect.select_enabled_events()));
    let waiting = processlist_statement(dialect.count_appliers_waiting_for_backup(), has_performance_schema);
    queries.push((SettingsQuery::WaitingForBackup, waiting));
    // With `performance_schema` off the table is empty, whatever is locked.
    let backup_lock = dialect.select_sessions_with_backup_lock();
    queries.extend(
        backup_lock
            .filter(|_| has_performance_schema)
            .map(|statement| (SettingsQuery::BackupLock, statement.to_owned())),
    );
    queries.push((SettingsQuery::Heartbeat, dialect.select_heartbeat_period().to_owned()));
    queries.push((SettingsQuery::PastReadOnly, dialect.select_accounts_past_read_only()));
    queries
}

/// The variables that every probe reads where they exist, in this order. Each column has the name of its variable.
const PROBED_VARIABLES: [&str; 11] = [
    "server_id",
    "read_only",
    "super_read_only",
    "binlog_format",
    "binlog_row_image",
    "gtid_mode",
    "gtid_executed",
    "gtid_purged",
    "gtid_binlog_state",
    "gtid_slave_pos",
    "group_replication_single_primary_mode",
];

/// All columns are selected, because MySQL 5.7 has no `MEMBER_ROLE`.
const GROUP_MEMBERS: &str = "SELECT * FROM performance_schema.replication_group_members";

/// The queries of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeQuery {
    /// Variables, in one row.
    Variables,
    /// Replication status, one row for each channel.
    ReplicationStatus,
    /// The end of the binary log.
    BinaryLog,
    /// Registered replicas.
    Replicas,
    /// Status of semi-sync.
    SemiSyncStatus,
    /// Members of the replication group.
    GroupMembers,
    /// The configured query for the lag.
    Lag,
}

impl ProbeQuery {
    /// The name of the query in error messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Variables => "variables",
            Self::ReplicationStatus => "replication status",
            Self::BinaryLog => "binary log status",
            Self::Replicas => "replicas",
            Self::SemiSyncStatus => "semi-sync status",
            Self::GroupMembers => "group members",
            Self::Lag => "replication lag query",
        }
    }
}

/// The queries of one probe with their statements, in the order in which they are sent. Variables come before the replication
/// status, so that the received set contains the executed one. `in_group`: the server has the name of a replication group.
/// `is_semi_sync_source`: commits of the server may wait.
pub(super) fn probe_queries(
    dialect: &Dialect,
    semi_sync: &SemiSyncNames,
    has_variable: impl Fn(&str) -> bool,
    in_group: bool,
    is_semi_sync_source: bool,
    lag_query: Option<&str>,
) -> Vec<(ProbeQuery, String)> {
    let binary_log = if is_semi_sync_source {
        dialect.show_binary_log_status_while_commits_wait()
    } else {
        dialect.show_binary_log_status()
    };
    let mut queries = vec![
        (ProbeQuery::Variables, select_variables(semi_sync, has_variable)),
        (ProbeQuery::ReplicationStatus, dialect.show_replica_status().to_owned()),
        (ProbeQuery::BinaryLog, binary_log.to_owned()),
        (ProbeQuery::Replicas, dialect.show_replicas().to_owned()),
    ];
    if semi_sync.source.is_some() || semi_sync.replica.is_some() {
        queries.push((ProbeQuery::SemiSyncStatus, dialect.show_semi_sync_status().to_owned()));
    }
    if in_group {
        queries.push((ProbeQuery::GroupMembers, GROUP_MEMBERS.to_owned()));
    }
    if let Some(query) = lag_query {
        queries.push((ProbeQuery::Lag, one_statement(query)));
    }
    queries
}

/// The names of the semi-sync variables of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SemiSyncNames {
    /// Those of the source plugin, when it is installed.
    pub(super) source: Option<&'static SemiSyncSourceNames>,
    /// Those of the replica plugin, when it is installed.
    pub(super) replica: Option<&'static SemiSyncReplicaNames>,
}

fn select_variables(semi_sync: &SemiSyncNames, has_variable: impl Fn(&str) -> bool) -> String {
    let mut names: Vec<&str> = PROBED_VARIABLES.into_iter().filter(|name| has_variable(name)).collect();
    if let Some(source) = semi_sync.source {
        names.extend([
            source.enabled,
            source.timeout,
            source.wait_no_replica,
            source.wait_point,
        ]);
        names.extend(source.wait_for_replica_count);
    }
    names.extend(semi_sync.replica.map(|replica| replica.enabled));
    let columns: Vec<String> = names.iter().map(|name| format!("@@global.{name} AS {name}")).collect();
    format!("SELECT {}", columns.join(", "))
}

/// Adapts a statement that reads `performance_schema.processlist`. With `performance_schema` off that table exists and is empty;
/// `information_schema.processlist` has the same columns.
pub(super) fn processlist_statement(statement: String, has_performance_schema: bool) -> String {
    if has_performance_schema {
        statement
    } else {
        statement.replace("performance_schema.processlist", "information_schema.processlist")
    }
}

/// A configured query without its trailing semicolon, so that other statements can follow it.
pub(super) fn one_statement(query: &str) -> String {
    query.trim().trim_end_matches(';').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    fn parts_of(version: &str, known: &[&str]) -> Vec<(ProbeQuery, String)> {
        parts_in_group(version, known, false)
    }

    fn parts_in_group(version: &str, known: &[&str], in_group: bool) -> Vec<(ProbeQuery, String)> {
        let dialect = Dialect::new(&ServerVersion::parse(version, "").unwrap());
        let has = |name: &str| known.contains(&name);
        let semi_sync = SemiSyncNames {
            source: dialect.semi_sync_source(has),
            replica: dialect.semi_sync_replica(has),
        };
        probe_queries(
            &dialect,
            &semi_sync,
            has,
            in_group,
            known.contains(&"waits"),
            Some(" SELECT lag FROM meta.heartbeat; "),
        )
    }

    #[test]
    fn a_probe_asks_for_what_is_there_in_the_words_of_the_version() {
        let mysql = parts_of(
            "9.7.4",
            &[
                "server_id",
                "read_only",
                "super_read_only",
                "gtid_executed",
                "rpl_semi_sync_replica_enabled",
            ],
        );
        let statements: Vec<&str> = mysql.iter().map(|(_, sql)| sql.as_str()).collect();
        assert_eq!(
            statements,
            [
                "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, @@global.super_read_only AS super_read_only, \
                 @@global.gtid_executed AS gtid_executed, @@global.rpl_semi_sync_replica_enabled AS rpl_semi_sync_replica_enabled",
                "SHOW REPLICA STATUS",
                "SHOW BINARY LOG STATUS",
                "SHOW REPLICAS",
                "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_%'",
                "SELECT lag FROM meta.heartbeat",
            ]
        );
        let mariadb = parts_of("10.11.19-MariaDB", &["server_id", "gtid_slave_pos"]);
        let statements: Vec<&str> = mariadb.iter().map(|(_, sql)| sql.as_str()).collect();
        assert_eq!(
            statements,
            [
                "SELECT @@global.server_id AS server_id, @@global.gtid_slave_pos AS gtid_slave_pos",
                "SHOW ALL SLAVES STATUS",
                "SHOW MASTER STATUS",
                "SHOW SLAVE HOSTS",
                "SELECT lag FROM meta.heartbeat",
            ]
        );
    }

    #[test]
    fn the_end_of_a_log_that_may_be_locked_is_read_without_its_lock() {
        let asked = |version: &str| {
            let parts = parts_of(version, &["server_id", "waits"]);
            let found = parts.into_iter().find(|(part, _)| *part == ProbeQuery::BinaryLog);
            found.unwrap().1
        };
        assert_eq!(asked("9.7.4"), "SHOW BINARY LOG STATUS");
        assert!(asked("10.11.19-MariaDB").contains("BINLOG_SNAPSHOT_POSITION"));
    }

    #[test]
    fn a_member_of_a_group_is_asked_for_the_members() {
        let parts = parts_in_group("9.7.4", &["server_id", "group_replication_single_primary_mode"], true);
        let (_, variables) = parts.first().unwrap();
        assert!(
            variables.contains("@@global.group_replication_single_primary_mode"),
            "{variables}"
        );
        let asked = parts.iter().find(|(part, _)| *part == ProbeQuery::GroupMembers);
        assert_eq!(asked.map(|(_, sql)| sql.as_str()), Some(GROUP_MEMBERS));
    }

    #[test]
    fn without_performance_schema_connections_are_listed_elsewhere() {
        let dialect = Dialect::new(&ServerVersion::parse("9.7.4", "").unwrap());
        let statement = dialect.select_client_connections();
        assert_eq!(processlist_statement(statement.clone(), true), statement);
        let elsewhere = processlist_statement(statement, false);
        assert!(
            elsewhere.contains("FROM information_schema.processlist WHERE"),
            "{elsewhere}"
        );
    }
}
