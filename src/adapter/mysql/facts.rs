//! Assembles the facts of an instance from the results of one probe.
//!
//! Variables and the replication status are required: without one of them the probe fails, because a server with unknown channels
//! would look like a primary. Another part that is missing is recorded in `problems`, and the rest is kept.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, ConnectedReplica, InstanceFacts, ProbeFailure, SemiSync};
use crate::domain::key::InstanceKey;

use super::channel;
use super::connection::SqlFailure;
use super::group_members;
use super::queries::ProbeQuery;
use super::server_info::ServerInfo;
use super::statements::StatementResult;
use super::text_row::{ColumnError, TextRow, as_flag};

/// The facts, and whether a further query is needed to complete them.
pub(super) struct AssembledFacts {
    /// The facts.
    pub(super) facts: InstanceFacts,
    /// There are replicas that report no address, or the account may not read the list of replicas.
    pub(super) has_unreported_replicas: bool,
}

impl From<ColumnError> for SqlFailure {
    fn from(error: ColumnError) -> Self {
        Self::Broken(ProbeFailure::Unreadable(error.to_string()))
    }
}

/// Assembles the results of a probe of `instance`.
///
/// # Errors
/// When variables or replication status are missing, or a value is unreadable.
pub(super) fn assemble(
    instance: &InstanceKey,
    server_info: &ServerInfo,
    results: impl Iterator<Item = (ProbeQuery, StatementResult)>,
) -> Result<AssembledFacts, SqlFailure> {
    let mut problems = server_info.problems.clone();
    let (mut variables, mut channels, mut binlog) = (None, None, None);
    let (mut replicas, mut has_unreported_replicas) = (Vec::new(), false);
    let (mut semi_sync_status, mut lag) = (Vec::new(), None);
    let mut group_members = None;
    for (query, result) in results {
        match (query, result) {
            (ProbeQuery::Variables, Ok(rows)) => variables = rows.into_iter().next(),
            (ProbeQuery::ReplicationStatus, Ok(rows)) => {
                channels = Some(channel::channels(server_info.version.flavour, &rows)?);
            }
            (ProbeQuery::Variables | ProbeQuery::ReplicationStatus, Err((number, message))) => {
                let message = format!("{}: {message}", query.name());
                return Err(SqlFailure::ServerError { number, message });
            }
            (ProbeQuery::BinaryLog, Ok(rows)) => binlog = rows.first().map(binlog_end).transpose()?.flatten(),
            (ProbeQuery::Replicas, Ok(rows)) => {
                (replicas, has_unreported_replicas) = registered_replicas(instance, &rows)?;
            }
            (ProbeQuery::SemiSyncStatus, Ok(rows)) => semi_sync_status = rows,
            (ProbeQuery::Lag, Ok(rows)) => lag = rows.first().and_then(TextRow::first).map(Cow::into_owned),
            (ProbeQuery::GroupMembers, Ok(rows)) => group_members = Some(rows),
            (
                ProbeQuery::BinaryLog
                | ProbeQuery::Replicas
                | ProbeQuery::SemiSyncStatus
                | ProbeQuery::GroupMembers
                | ProbeQuery::Lag,
                Err((number, message)),
            ) => {
                has_unreported_replicas |= query == ProbeQuery::Replicas;
                problems.push(format!("{}: error {number}: {message}", query.name()));
            }
        }
    }
    let variables = variables.ok_or_else(|| missing("variables"))?;
    let mut channels = channels.ok_or_else(|| missing("replication status"))?;
    let is_only = channels.len() == 1;
    let first = channels.first_mut().filter(|first| is_only || first.name.is_empty());
    if let (Some(lag), Some(managed)) = (lag.as_deref().and_then(lag_seconds), first) {
        managed.lag_seconds = Some(lag);
    }
    let server_id = variables.number(&["server_id"])?;
    let read_only = variables.flag(&["read_only"])?;
    let single_primary = || {
        let mode = variables.optional(&["group_replication_single_primary_mode"]);
        mode.and_then(|text| as_flag(&text)).unwrap_or_default()
    };
    let group = group_members
        .map(|rows| group_members::membership(server_info.variable("server_uuid"), &rows, single_primary(), !read_only))
        .transpose()?;
    let facts = InstanceFacts {
        identity: server_info.identity(server_id),
        hostname: server_info.variable("hostname").to_owned(),
        reported: reported(instance, server_info),
        version: server_info.version.clone(),
        version_comment: server_info.variable("version_comment").to_owned(),
        server_id,
        // 0 means unknown.
        uptime_seconds: (server_info.uptime_seconds + server_info.read_at.elapsed().as_secs()).max(1),
        started: started(server_info),
        read_only,
        super_read_only: variables.optional(&["super_read_only"]).and_then(|text| as_flag(&text)),
        log_bin: as_flag(server_info.variable("log_bin")).unwrap_or_default(),
        log_replica_updates: ["log_replica_updates", "log_slave_updates"]
            .iter()
            .any(|name| as_flag(server_info.variable(name)).unwrap_or_default()),
        binlog_format: variables.text_or_empty(&["binlog_format"]),
        binlog_row_image: variables.text_or_empty(&["binlog_row_image"]),
        binlog,
        gtid_mode: variables.text_or_empty(&["gtid_mode"]),
        executed: executed(server_info, &variables)?,
        purged: gtid_set(server_info, &variables, "gtid_purged")?,
        channels,
        semi_sync: semi_sync(server_info, &variables, &semi_sync_status)?,
        replicas,
        replication_credentials_available: server_info.shows_replication_credentials,
        uses_pseudo_gtid: server_info.uses_pseudo_gtid,
        data_center: server_info.data_center.clone(),
        region: server_info.region.clone(),
        environment: server_info.environment.clone(),
        data_directory: server_info.variable("datadir").to_owned(),
        settings: None,
        group_name: server_info.variable("group_replication_group_name").to_owned(),
        group,
        peer: None,
        is_unverified: false,
        by_admin_endpoint: false,
        other_channels: Vec::new(),
        problems,
    };
    Ok(AssembledFacts {
        facts,
        has_unreported_replicas,
    })
}

fn missing(what: &str) -> SqlFailure {
    SqlFailure::Broken(ProbeFailure::Unreadable(format!("{what}: no row")))
}

fn reported(instance: &InstanceKey, server_info: &ServerInfo) -> Option<InstanceKey> {
    let host = server_info.variable("report_host");
    let port = ["report_port", "port"]
        .iter()
        .find_map(|name| server_info.variable(name).parse().ok().filter(|port| *port > 0));
    (!host.is_empty()).then(|| InstanceKey::new(host, port.unwrap_or(instance.port)))
}

/// The end of the binary log; `None` without a binary log, for which MariaDB returns a row of NULLs.
fn binlog_end(row: &TextRow) -> Result<Option<BinlogCoordinates>, ColumnError> {
    let file = row.text_or_empty(&["File"]);
    if file.is_empty() {
        return Ok(None);
    }
    let position = row.number(&["Position"])?;
    Ok(Some(BinlogCoordinates { file, position }))
}

/// Parses a GTID set. An unreadable set makes the probe fail: as an empty set it would mean that the server has no transactions.
fn gtid_set(server_info: &ServerInfo, variables: &TextRow, name: &str) -> Result<GtidSet, SqlFailure> {
    GtidSet::parse(server_info.version.flavour, &variables.text_or_empty(&[name]))
        .map_err(|error| SqlFailure::Broken(ProbeFailure::Unreadable(format!("{name}: {error}"))))
}

fn executed(server_info: &ServerInfo, variables: &TextRow) -> Result<GtidSet, SqlFailure> {
    if server_info.version.flavour.is_mariadb() {
        let written = gtid_set(server_info, variables, "gtid_binlog_state")?;
        Ok(written.union(&gtid_set(server_info, variables, "gtid_slave_pos")?))
    } else {
        gtid_set(server_info, variables, "gtid_executed")
    }
}

fn started(server_info: &ServerInfo) -> Option<i64> {
    server_info.clock?.checked_sub_unsigned(server_info.uptime_seconds)
}

fn semi_sync(server_info: &ServerInfo, variables: &TextRow, status: &[TextRow]) -> Result<SemiSync, ColumnError> {
    let names = server_info.semi_sync;
    let status_of = |name: &str| {
        let row = status
            .iter()
            .find(|row| row.text_or_empty(&["Variable_name"]).eq_ignore_ascii_case(name));
        row.map(|row| row.text_or_empty(&["Value"])).unwrap_or_default()
    };
    let mut semi_sync = SemiSync {
        available: names.source.is_some() && names.replica.is_some(),
        priority: server_info.semi_sync_priority,
        ..SemiSync::default()
    };
    if let Some(source) = names.source {
        semi_sync.source_enabled = variables.flag(&[source.enabled])?;
        semi_sync.timeout_millis = variables.number(&[source.timeout])?;
        semi_sync.wait_for_count = match source.wait_for_replica_count {
            Some(name) => variables.number(&[name])?,
            None => 1,
        };
        semi_sync.wait_no_replica = variables.flag(&[source.wait_no_replica])?;
        semi_sync.after_sync = variables.text(&[source.wait_point])?.eq_ignore_ascii_case("AFTER_SYNC");
        semi_sync.source_active = as_flag(&status_of(source.status)).unwrap_or_default();
        semi_sync.clients = status_of(source.clients).parse().unwrap_or_default();
        semi_sync.wait_sessions = status_of(source.wait_sessions).parse().unwrap_or_default();
    }
    if let Some(replica) = names.replica {
        semi_sync.replica_enabled = variables.flag(&[replica.enabled])?;
        semi_sync.replica_active = as_flag(&status_of(replica.status)).unwrap_or_default();
    }
    Ok(semi_sync)
}

/// The replicas that registered with an address, sorted and without duplicates, and whether there are others.
fn registered_replicas(instance: &InstanceKey, rows: &[TextRow]) -> Result<(Vec<ConnectedReplica>, bool), ColumnError> {
    let mut replicas = BTreeSet::new();
    let mut has_unreported = false;
    for row in rows {
        let host = row.text_or_empty(&["Host"]);
        if host.is_empty() {
            has_unreported = true;
            continue;
        }
        let port = row
            .optional_number(&["Port"])?
            .filter(|port| *port > 0)
            .unwrap_or(instance.port);
        replicas.insert(ConnectedReplica {
            key: InstanceKey::new(host, port),
            reported: true,
        });
    }
    Ok((replicas.into_iter().collect(), has_unreported))
}

/// Adds the hosts of connections that read the binary log, except those that registered with the same name. Their port is
/// unknown: `port`, that of the source, is assumed.
pub(super) fn add_connected_replicas(facts: &mut InstanceFacts, port: u16, rows: &[TextRow]) {
    let reported: BTreeSet<&str> = facts
        .replicas
        .iter()
        .map(|replica| replica.key.hostname.as_str())
        .collect();
    let hosts: BTreeSet<String> = rows
        .iter()
        .map(|row| connection_host(&row.text_or_empty(&["HOST", "Host"])))
        .filter(|host| !host.is_empty() && !reported.contains(host.as_str()))
        .collect();
    facts.replicas.extend(hosts.into_iter().map(|host| ConnectedReplica {
        key: InstanceKey::new(host, port),
        reported: false,
    }));
    facts.replicas.sort();
}

/// The host of `host:port` in a process list, where an IPv6 address has no brackets.
fn connection_host(text: &str) -> String {
    text.rsplit_once(':')
        .map_or(text, |(host, _)| host)
        .trim_matches(['[', ']'])
        .to_owned()
}

/// The lag in whole seconds. Heartbeat queries return fractions, and a negative lag where clocks differ.
fn lag_seconds(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    seconds
        .is_finite()
        .then_some(std::time::Duration::try_from_secs_f64(seconds.max(0.0)).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_connection_is_what_stands_before_the_last_colon() {
        for (text, host) in [
            ("10.0.0.7:51234", "10.0.0.7"),
            ("db2:3306", "db2"),
            ("::1:4000", "::1"),
            ("", ""),
        ] {
            assert_eq!(connection_host(text), host);
        }
    }

    #[test]
    fn a_lag_is_read_with_fractions_and_never_negative() {
        for (text, lag) in [
            ("3", Some(3)),
            ("0.84", Some(0)),
            ("-2.5", Some(0)),
            ("", None),
            ("NaN", None),
            ("1e300", None),
        ] {
            assert_eq!(lag_seconds(text), lag, "{text}");
        }
    }
}
