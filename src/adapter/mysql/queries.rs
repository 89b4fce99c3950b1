//! What is asked of a server that is looked at. Statements that change one are the dialect's.
//!
//! A connection begins with [`FIRST_CONTACT`], which works on every flavour and version and says which variables there are. From
//! then on a probe is one round trip of several statements ([`probe_parts`]), each of which reads only what exists: no statement is
//! tried to find out whether the server knows it.

use crate::domain::dialect::{Dialect, SemiSyncReplicaNames, SemiSyncSourceNames};

/// Makes the session ours (`autocommit`: with it off a SELECT would leave a transaction open; `wait_timeout`: the longest pause
/// between two uses of the connection, one day) and reads what rarely changes, and which other variables there are.
pub(super) const FIRST_CONTACT: &str = "SET SESSION sql_mode = '', autocommit = 1, wait_timeout = 86400; \
     SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'hostname', 'port', 'report_host', 'report_port', \
     'server_uuid', 'log_bin', 'log_slave_updates', 'log_replica_updates', 'performance_schema', 'group_replication_group_name', \
     'server_id', 'read_only', 'super_read_only', 'binlog_format', 'binlog_row_image', 'gtid_mode', 'gtid_executed', 'gtid_purged', \
     'gtid_binlog_state', 'gtid_slave_pos', 'datadir', 'sync_binlog', 'innodb_flush_log_at_trx_commit', 'relay_log_recovery', \
     'replica_net_timeout', 'slave_net_timeout', 'admin_address', 'admin_port', 'extra_port', \
     'group_replication_single_primary_mode') OR Variable_name LIKE 'rpl_semi_sync_%'; \
     SHOW GLOBAL STATUS LIKE 'Uptime'; SELECT UNIX_TIMESTAMP()";

/// Where the results of [`FIRST_CONTACT`] stand among its statements: variables, status, the server's clock.
pub(super) const FIRST_CONTACT_VARIABLES: usize = 1;
/// See [`FIRST_CONTACT_VARIABLES`].
pub(super) const FIRST_CONTACT_STATUS: usize = 2;
/// See [`FIRST_CONTACT_VARIABLES`].
pub(super) const FIRST_CONTACT_CLOCK: usize = 3;

/// Whether the server shows the replication account with its password. Many accounts of ours may not read the table.
pub(super) const REPLICATION_CREDENTIALS: &str =
    "SELECT COUNT(*) FROM mysql.slave_master_info WHERE User_name <> '' AND User_password <> ''";

/// What is asked for about once a minute, beyond what [`FIRST_CONTACT`] tells, in the order to be sent. Some of it many accounts of
/// ours may not read: an error makes that one part unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlowPart {
    /// The account that let us in.
    Account,
    /// What it may do.
    Grants,
    /// How often the source says that it is there.
    Heartbeat,
    /// Read-only at the next start.
    Persisted,
    /// Where the present value of read-only comes from.
    Sources,
    /// Accounts that `read_only` does not stop.
    PastReadOnly,
}

/// The statements of the slow part of the facts. The one that fails most often comes last: those behind a failed one are sent again.
pub(super) fn slow_parts(dialect: &Dialect) -> Vec<(SlowPart, String)> {
    let mut parts = vec![
        (SlowPart::Account, dialect.select_own_account().to_owned()),
        (SlowPart::Grants, dialect.show_grants().to_owned()),
    ];
    let of_boot = [
        (SlowPart::Persisted, dialect.select_persisted_read_only()),
        (SlowPart::Sources, dialect.select_read_only_sources()),
    ];
    parts.extend(
        of_boot
            .into_iter()
            .filter_map(|(part, statement)| Some((part, statement?.to_owned()))),
    );
    parts.push((SlowPart::Heartbeat, dialect.select_heartbeat_period().to_owned()));
    parts.push((SlowPart::PastReadOnly, dialect.select_accounts_past_read_only()));
    parts
}

/// The variables that every probe reads, in order, where they exist; the column of each has its name.
const MEASURED: [&str; 11] = [
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

/// All columns, because `MEMBER_ROLE` came with MySQL 8.0 only.
const GROUP_MEMBERS: &str = "SELECT * FROM performance_schema.replication_group_members";

/// The parts of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One row of variables.
    Variables,
    /// A row for each channel.
    ReplicationStatus,
    /// The binary log's end.
    BinaryLog,
    /// Registered replicas.
    Replicas,
    /// Semi-sync's status.
    SemiSyncStatus,
    /// Members of the replication group.
    GroupMembers,
    /// The configured query for the lag.
    Lag,
}

impl Part {
    /// As it is called where it failed.
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

/// The statements of one probe, in the order to be sent. Variables come before the replication status: what was executed then cannot
/// be missing from what was received. `in_group`: the server names a replication group. `is_semi_sync_source`: its commits may wait.
pub(super) fn probe_parts(
    dialect: &Dialect,
    semi_sync: &SemiSyncNames,
    has_variable: impl Fn(&str) -> bool,
    in_group: bool,
    is_semi_sync_source: bool,
    lag_query: Option<&str>,
) -> Vec<(Part, String)> {
    let binary_log = if is_semi_sync_source {
        dialect.show_binary_log_status_while_commits_wait()
    } else {
        dialect.show_binary_log_status()
    };
    let mut parts = vec![
        (Part::Variables, select_variables(semi_sync, has_variable)),
        (Part::ReplicationStatus, dialect.show_replica_status().to_owned()),
        (Part::BinaryLog, binary_log.to_owned()),
        (Part::Replicas, dialect.show_replicas().to_owned()),
    ];
    if semi_sync.source.is_some() || semi_sync.replica.is_some() {
        parts.push((Part::SemiSyncStatus, dialect.show_semi_sync_status().to_owned()));
    }
    if in_group {
        parts.push((Part::GroupMembers, GROUP_MEMBERS.to_owned()));
    }
    if let Some(query) = lag_query {
        parts.push((Part::Lag, one_statement(query)));
    }
    parts
}

/// The names of semi-sync's variables on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SemiSyncNames {
    /// Of the source's side, when it is there.
    pub(super) source: Option<&'static SemiSyncSourceNames>,
    /// Of the replica's side, when it is there.
    pub(super) replica: Option<&'static SemiSyncReplicaNames>,
}

fn select_variables(semi_sync: &SemiSyncNames, has_variable: impl Fn(&str) -> bool) -> String {
    let mut names: Vec<&str> = MEASURED.into_iter().filter(|name| has_variable(name)).collect();
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

/// The list of connections that the dialect asks for, where MySQL keeps it: with `performance_schema` off its table is there and
/// empty, and `information_schema` has the same columns.
pub(super) fn processes(statement: String, has_performance_schema: bool) -> String {
    if has_performance_schema {
        statement
    } else {
        statement.replace("performance_schema.processlist", "information_schema.processlist")
    }
}

/// A configured query, so that others can stand behind it.
pub(super) fn one_statement(query: &str) -> String {
    query.trim().trim_end_matches(';').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    fn parts_of(version: &str, known: &[&str]) -> Vec<(Part, String)> {
        parts_in_group(version, known, false)
    }

    fn parts_in_group(version: &str, known: &[&str], in_group: bool) -> Vec<(Part, String)> {
        let dialect = Dialect::new(&ServerVersion::parse(version, "").unwrap());
        let has = |name: &str| known.contains(&name);
        let semi_sync = SemiSyncNames {
            source: dialect.semi_sync_source(has),
            replica: dialect.semi_sync_replica(has),
        };
        probe_parts(
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
            let found = parts.into_iter().find(|(part, _)| *part == Part::BinaryLog);
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
        let asked = parts.iter().find(|(part, _)| *part == Part::GroupMembers);
        assert_eq!(asked.map(|(_, sql)| sql.as_str()), Some(GROUP_MEMBERS));
    }

    #[test]
    fn without_performance_schema_connections_are_listed_elsewhere() {
        let dialect = Dialect::new(&ServerVersion::parse("9.7.4", "").unwrap());
        let statement = dialect.select_client_connections();
        assert_eq!(processes(statement.clone(), true), statement);
        let elsewhere = processes(statement, false);
        assert!(
            elsewhere.contains("FROM information_schema.processlist WHERE"),
            "{elsewhere}"
        );
    }
}
