//! The answers of one probe, put together.
//!
//! Variables and the replication status are what a server *is*: without one of them the whole probe fails, because a server whose
//! channels are unknown would look like a primary. What else is missing is noted in `problems` and the rest is kept.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, InstanceFacts, ProbeFailure, SeenReplica, SemiSync};
use crate::domain::key::InstanceKey;

use super::channel;
use super::connection::SqlFailure;
use super::group;
use super::queries::Part;
use super::server_connection::{ServerInfo, StatementResult};
use super::text_row::{ColumnError, TextRow, as_flag};

/// Facts, and what has to be asked to complete them.
pub(super) struct Assembled {
    /// The facts.
    pub(super) facts: InstanceFacts,
    /// There are replicas that report no address, or the list of replicas may not be read.
    pub(super) has_unreported_replicas: bool,
}

impl From<ColumnError> for SqlFailure {
    fn from(error: ColumnError) -> Self {
        Self::Broken(ProbeFailure::Unreadable(error.to_string()))
    }
}

/// Puts together what a probe of `instance` answered.
pub(super) fn assemble(
    instance: &InstanceKey,
    server_info: &ServerInfo,
    answers: impl Iterator<Item = (Part, StatementResult)>,
) -> Result<Assembled, SqlFailure> {
    let mut problems = server_info.problems.clone();
    let (mut variables, mut channels, mut binlog) = (None, None, None);
    let (mut replicas, mut has_unreported_replicas) = (Vec::new(), false);
    let (mut semi_sync_status, mut lag) = (Vec::new(), None);
    let mut group_members = None;
    for (part, answer) in answers {
        match (part, answer) {
            (Part::Variables, Ok(rows)) => variables = rows.into_iter().next(),
            (Part::ReplicationStatus, Ok(rows)) => {
                channels = Some(channel::channels(server_info.version.flavour, &rows)?)
            }
            (Part::Variables | Part::ReplicationStatus, Err((number, message))) => {
                let message = format!("{}: {message}", part.name());
                return Err(SqlFailure::Answered { number, message });
            }
            (Part::BinaryLog, Ok(rows)) => binlog = rows.first().map(binlog_end).transpose()?.flatten(),
            (Part::Replicas, Ok(rows)) => (replicas, has_unreported_replicas) = registered_replicas(instance, &rows)?,
            (Part::SemiSyncStatus, Ok(rows)) => semi_sync_status = rows,
            (Part::Lag, Ok(rows)) => lag = rows.first().and_then(TextRow::first).map(Cow::into_owned),
            (Part::GroupMembers, Ok(rows)) => group_members = Some(rows),
            (
                Part::BinaryLog | Part::Replicas | Part::SemiSyncStatus | Part::GroupMembers | Part::Lag,
                Err((number, message)),
            ) => {
                has_unreported_replicas |= part == Part::Replicas;
                problems.push(format!("{}: error {number}: {message}", part.name()));
            }
        }
    }
    let variables = variables.ok_or_else(|| missing("variables"))?;
    let mut channels = channels.ok_or_else(|| missing("replication status"))?;
    if let (Some(lag), Some(managed)) = (lag.as_deref().and_then(lag_seconds), channels.first_mut()) {
        managed.lag_seconds = Some(lag);
    }
    let server_id = variables.number(&["server_id"])?;
    let read_only = variables.flag(&["read_only"])?;
    let single_primary = || {
        let told = variables.optional(&["group_replication_single_primary_mode"]);
        told.and_then(|text| as_flag(&text)).unwrap_or_default()
    };
    let group = group_members
        .map(|rows| group::member(server_info.variable("server_uuid"), &rows, single_primary(), !read_only))
        .transpose()?;
    let facts = InstanceFacts {
        identity: server_info.identity(server_id),
        hostname: server_info.variable("hostname").to_owned(),
        reported: reported(instance, server_info),
        version: server_info.version.clone(),
        version_comment: server_info.variable("version_comment").to_owned(),
        server_id,
        // 0 is for what is not known.
        uptime_seconds: (server_info.uptime + server_info.at.elapsed().as_secs()).max(1),
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
        by_admin_endpoint: false,
        problems,
    };
    Ok(Assembled {
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

/// MariaDB's status values are a row in any case, of NULLs where there is no binary log.
fn binlog_end(row: &TextRow) -> Result<Option<BinlogCoordinates>, ColumnError> {
    let file = row.text_or_empty(&["File"]);
    if file.is_empty() {
        return Ok(None);
    }
    let position = row.number(&["Position"])?;
    Ok(Some(BinlogCoordinates { file, position }))
}

/// An unreadable set is an unreadable answer: taken as empty it would make the server look like one that has nothing to lose.
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
    server_info.clock?.checked_sub_unsigned(server_info.uptime)
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

/// The replicas that registered with an address, ordered, each once; and whether there are some without.
fn registered_replicas(instance: &InstanceKey, rows: &[TextRow]) -> Result<(Vec<SeenReplica>, bool), ColumnError> {
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
        replicas.insert(SeenReplica {
            key: InstanceKey::new(host, port),
            reported: true,
        });
    }
    Ok((replicas.into_iter().collect(), has_unreported))
}

/// Adds the hosts that read the binary log and are none of those that reported themselves under the same name, with the source's own
/// port for want of another.
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
    facts.replicas.extend(hosts.into_iter().map(|host| SeenReplica {
        key: InstanceKey::new(host, port),
        reported: false,
    }));
    facts.replicas.sort();
}

/// The host of `host:port` as a process list has it; an IPv6 address stands there without brackets.
fn connection_host(text: &str) -> String {
    text.rsplit_once(':')
        .map_or(text, |(host, _)| host)
        .trim_matches(['[', ']'])
        .to_owned()
}

/// Whole seconds; heartbeat queries give fractions, and a negative lag where clocks differ.
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
