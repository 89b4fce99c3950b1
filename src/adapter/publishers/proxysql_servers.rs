//! The servers of one cluster in the tables of ProxySQL, and the statements that make them what is wanted. No input or output.

use std::collections::BTreeSet;

use crate::domain::declared::PublishError;
use crate::domain::key::InstanceKey;

use super::proxysql::{Hostgroups, PreFailoverAction};

/// A row of `runtime_mysql_servers` or `mysql_servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerRow {
    pub(super) hostgroup: u32,
    pub(super) server: InstanceKey,
    pub(super) status: String,
    pub(super) weight: i64,
}

impl ServerRow {
    /// Whether it gets new connections, now or once it answers again.
    fn takes_clients(&self) -> bool {
        !self.status.starts_with("OFFLINE") && self.weight != 0
    }
}

/// The condition for the row of a server in a hostgroup.
///
/// # Errors
/// When the host name has a character that no host name has: it is not quoted into a statement.
fn row_condition(hostgroup: u32, server: &InstanceKey) -> Result<String, PublishError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let host = &server.hostname;
    if host.is_empty() || !host.chars().all(is_plain) {
        let host: String = host.chars().filter(|c| !c.is_control()).collect();
        return Err(PublishError::Refused(format!(
            "`{host}` is no host name that ProxySQL can be given"
        )));
    }
    Ok(format!(
        "hostgroup_id={hostgroup} AND hostname='{host}' AND port={}",
        server.port
    ))
}

/// Reads the servers of the hostgroups.
pub(super) fn read_statement(table: &str, hostgroups: Hostgroups) -> String {
    let reader = hostgroups
        .reader
        .map_or_else(String::new, |reader| format!(",{reader}"));
    format!(
        "SELECT hostgroup_id, hostname, port, status, weight FROM {table} WHERE hostgroup_id IN ({}{reader})",
        hostgroups.writer
    )
}

/// Whether the clients of the writer hostgroup are led to the primary, and to no other server of the cluster.
pub(super) fn leads_to(
    rows: &[ServerRow],
    hostgroups: Hostgroups,
    primary: &InstanceKey,
    instances: &BTreeSet<InstanceKey>,
) -> bool {
    let mut writers = rows
        .iter()
        .filter(|row| row.hostgroup == hostgroups.writer && row.takes_clients());
    let is_there = writers.clone().any(|row| row.server == *primary);
    is_there && !writers.any(|row| row.server != *primary && instances.contains(&row.server))
}

/// Servers that take the clients of the writer hostgroup and belong to no instance of the cluster.
pub(super) fn foreign_writers(
    rows: &[ServerRow],
    hostgroups: Hostgroups,
    instances: &BTreeSet<InstanceKey>,
) -> Vec<InstanceKey> {
    let writers = rows
        .iter()
        .filter(|row| row.hostgroup == hostgroups.writer && row.takes_clients());
    writers
        .filter(|row| !instances.contains(&row.server))
        .map(|row| row.server.clone())
        .collect()
}

/// The statements that make `primary` the writer. The other servers of the cluster leave the writer hostgroup: they become
/// readers, and without a reader hostgroup they stay as `OFFLINE_HARD`, which ends their connections.
pub(super) fn switch_statements(
    rows: &[ServerRow],
    hostgroups: Hostgroups,
    primary: &InstanceKey,
    instances: &BTreeSet<InstanceKey>,
) -> Result<Vec<String>, PublishError> {
    let in_group =
        |group: u32, server: &InstanceKey| rows.iter().find(|row| row.hostgroup == group && row.server == *server);
    let mut statements = Vec::new();
    let former = rows
        .iter()
        .filter(|row| row.hostgroup == hostgroups.writer && row.server != *primary && instances.contains(&row.server));
    for row in former {
        let as_writer = row_condition(hostgroups.writer, &row.server)?;
        match hostgroups.reader {
            None => statements.push(format!("UPDATE mysql_servers SET status='OFFLINE_HARD' WHERE {as_writer}")),
            Some(reader) if in_group(reader, &row.server).is_some() => {
                statements.push(format!("DELETE FROM mysql_servers WHERE {as_writer}"));
            }
            Some(reader) => statements.push(format!(
                "UPDATE mysql_servers SET hostgroup_id={reader}, status='ONLINE', weight=MAX(weight,1) WHERE {as_writer}"
            )),
        }
    }
    let as_writer = row_condition(hostgroups.writer, primary)?;
    let as_reader = hostgroups.reader.filter(|reader| in_group(*reader, primary).is_some());
    let columns =
        "gtid_port, weight, compression, max_connections, max_replication_lag, use_ssl, max_latency_ms, comment";
    match (in_group(hostgroups.writer, primary), as_reader) {
        (Some(row), _) => {
            if !row.takes_clients() {
                statements.push(format!(
                    "UPDATE mysql_servers SET status='ONLINE', weight=MAX(weight,1) WHERE {as_writer}"
                ));
            }
        }
        (None, Some(reader)) => {
            let condition = row_condition(reader, primary)?;
            statements.push(format!(
                "INSERT INTO mysql_servers (hostgroup_id, hostname, port, status, {columns}) \
                 SELECT {}, hostname, port, 'ONLINE', {columns} FROM mysql_servers WHERE {condition}",
                hostgroups.writer
            ));
            // Readers that are left take the reads; without any the primary keeps them.
            let has_others = rows
                .iter()
                .any(|row| row.hostgroup == reader && row.server != *primary && row.takes_clients());
            if has_others {
                statements.push(format!("DELETE FROM mysql_servers WHERE {condition}"));
            }
        }
        (None, None) => statements.push(format!(
            "INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES ({}, '{}', {})",
            hostgroups.writer, primary.hostname, primary.port
        )),
    }
    Ok(statements)
}

/// The statement that takes new clients from the primary that is being replaced; `None` when it gets none.
pub(super) fn drain_statement(
    rows: &[ServerRow],
    hostgroups: Hostgroups,
    primary: &InstanceKey,
    action: PreFailoverAction,
) -> Result<Option<String>, PublishError> {
    let is_writer =
        |row: &ServerRow| row.hostgroup == hostgroups.writer && row.server == *primary && row.takes_clients();
    let change = match action {
        PreFailoverAction::None => return Ok(None),
        PreFailoverAction::OfflineSoft => "status='OFFLINE_SOFT'",
        PreFailoverAction::WeightZero => "weight=0",
    };
    if !rows.iter().any(is_writer) {
        return Ok(None);
    }
    let condition = row_condition(hostgroups.writer, primary)?;
    Ok(Some(format!("UPDATE mysql_servers SET {change} WHERE {condition}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::sample::key;

    const GROUPS: Hostgroups = Hostgroups {
        writer: 10,
        reader: Some(20),
    };
    const WRITERS_ONLY: Hostgroups = Hostgroups {
        writer: 10,
        reader: None,
    };

    fn row(hostgroup: u32, server: u32, status: &str) -> ServerRow {
        ServerRow {
            hostgroup,
            server: key(server),
            status: status.to_owned(),
            weight: 1,
        }
    }

    fn all() -> BTreeSet<InstanceKey> {
        [1, 2, 3].map(key).into()
    }

    #[test]
    fn a_switch_moves_the_old_primary_to_the_readers() {
        let rows = [row(10, 1, "ONLINE"), row(20, 2, "ONLINE"), row(20, 3, "ONLINE")];
        assert!(leads_to(&rows, GROUPS, &key(1), &all()));
        assert!(!leads_to(&rows, GROUPS, &key(2), &all()));
        let statements = switch_statements(&rows, GROUPS, &key(2), &all()).unwrap();
        assert_eq!(statements.len(), 3, "{statements:#?}");
        assert!(statements[0].starts_with("UPDATE mysql_servers SET hostgroup_id=20"));
        assert!(statements[1].contains("SELECT 10, hostname"));
        assert!(statements[2].starts_with("DELETE FROM mysql_servers WHERE hostgroup_id=20"));
    }

    #[test]
    fn the_last_reader_keeps_the_reads() {
        let rows = [row(10, 1, "ONLINE"), row(20, 2, "ONLINE")];
        let statements = switch_statements(&rows, GROUPS, &key(2), &all()).unwrap();
        assert!(
            !statements.iter().any(|text| text.starts_with("DELETE")),
            "{statements:#?}"
        );
    }

    #[test]
    fn a_server_that_is_writer_and_reader_only_leaves_the_writers() {
        let rows = [row(10, 1, "ONLINE"), row(20, 1, "ONLINE"), row(10, 2, "OFFLINE_SOFT")];
        let statements = switch_statements(&rows, GROUPS, &key(2), &all()).unwrap();
        assert_eq!(
            statements,
            [
                "DELETE FROM mysql_servers WHERE hostgroup_id=10 AND hostname='db1' AND port=3306",
                "UPDATE mysql_servers SET status='ONLINE', weight=MAX(weight,1) WHERE hostgroup_id=10 AND hostname='db2' AND port=3306",
            ]
        );
    }

    #[test]
    fn without_a_reader_hostgroup_the_old_primary_goes_offline() {
        let rows = [row(10, 1, "ONLINE")];
        let statements = switch_statements(&rows, WRITERS_ONLY, &key(2), &all()).unwrap();
        assert!(statements[0].contains("OFFLINE_HARD"));
        assert!(
            statements[1]
                .starts_with("INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES (10, 'db2', 3306)")
        );
    }

    #[test]
    fn servers_of_other_clusters_are_not_touched_and_are_reported() {
        let rows = [row(10, 1, "ONLINE"), row(10, 7, "ONLINE"), row(10, 8, "OFFLINE_HARD")];
        assert!(leads_to(&rows, GROUPS, &key(1), &all()));
        assert_eq!(foreign_writers(&rows, GROUPS, &all()), [key(7)]);
        let statements = switch_statements(&rows, GROUPS, &key(2), &all()).unwrap();
        assert!(
            !statements
                .iter()
                .any(|text| text.contains("db7") || text.contains("db8"))
        );
    }

    #[test]
    fn a_shunned_writer_still_is_one() {
        let rows = [row(10, 1, "SHUNNED"), row(10, 2, "ONLINE")];
        assert!(!leads_to(&rows, GROUPS, &key(2), &all()));
        assert!(leads_to(&[row(10, 1, "SHUNNED")], GROUPS, &key(1), &all()));
    }

    #[test]
    fn a_drain_is_one_statement_and_is_not_repeated() {
        let online = [row(10, 1, "ONLINE")];
        for (action, part) in [
            (PreFailoverAction::OfflineSoft, "status='OFFLINE_SOFT'"),
            (PreFailoverAction::WeightZero, "weight=0"),
        ] {
            let statement = drain_statement(&online, GROUPS, &key(1), action).unwrap().unwrap();
            assert!(statement.contains(part), "{statement}");
        }
        assert_eq!(
            drain_statement(&online, GROUPS, &key(1), PreFailoverAction::None).unwrap(),
            None
        );
        let drained = [row(10, 1, "OFFLINE_SOFT")];
        let again = drain_statement(&drained, GROUPS, &key(1), PreFailoverAction::OfflineSoft);
        assert_eq!(again.unwrap(), None);
        let zero = [ServerRow {
            weight: 0,
            ..row(10, 1, "ONLINE")
        }];
        assert!(
            !leads_to(&zero, GROUPS, &key(1), &all()),
            "an undone takeover gives the weight back"
        );
    }

    #[test]
    fn a_host_name_is_never_quoted_into_a_statement() {
        let hostile = InstanceKey::new("x' OR '1'='1", 3306);
        assert!(matches!(row_condition(10, &hostile), Err(PublishError::Refused(_))));
        let instances = BTreeSet::from([hostile.clone()]);
        assert!(switch_statements(&[], GROUPS, &hostile, &instances).is_err());
    }
}
