//! Parses rows of `SHOW REPLICA STATUS`, with the column names of any version, into [`Channel`]s.

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Channel, Positioning, ThreadError, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::version::Flavour;

use super::text_row::{ColumnError, TextRow, as_flag};

/// Internal channels of Group Replication. Their source is not an address.
const GROUP_CHANNELS: [&str; 2] = ["group_replication_applier", "group_replication_recovery"];

/// Columns of replication filters by database, table or domain. With a filter a replica has less data than its source.
const FILTERS: [&str; 9] = [
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Rewrite_DB",
    "Replicate_Do_Domain_Ids",
    "Replicate_Ignore_Domain_Ids",
];

/// All channels that have a source, sorted by name, so that the default channel comes first.
///
/// # Errors
/// When a required column is missing or unreadable.
pub(super) fn channels(flavour: Flavour, rows: &[TextRow]) -> Result<Vec<Channel>, ColumnError> {
    let mut channels = Vec::new();
    for row in rows {
        channels.extend(channel(flavour, row)?);
    }
    channels.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(channels)
}

/// One channel; `None` for a channel without a source and for the channels of Group Replication.
fn channel(flavour: Flavour, row: &TextRow) -> Result<Option<Channel>, ColumnError> {
    let name = row.text_or_empty(&["Channel_Name", "Connection_name"]);
    let host = row.text_or_empty(&["Source_Host", "Master_Host"]);
    if host.is_empty() || GROUP_CHANNELS.contains(&name.as_str()) {
        return Ok(None);
    }
    let positioning = positioning(row);
    Ok(Some(Channel {
        name,
        source: InstanceKey::new(host, row.number(&["Source_Port", "Master_Port"])?),
        source_uuid: Some(row.text_or_empty(&["Source_UUID", "Master_UUID"]).to_ascii_lowercase())
            .filter(|uuid| !uuid.is_empty()),
        source_server_id: row.number(&["Source_Server_Id", "Master_Server_Id"])?,
        user: row.text_or_empty(&["Source_User", "Master_User"]),
        io: thread_state(&row.text(&["Replica_IO_Running", "Slave_IO_Running"])?),
        sql: thread_state(&row.text(&["Replica_SQL_Running", "Slave_SQL_Running"])?),
        io_error: thread_error(row, &["Last_IO_Errno"], &["Last_IO_Error"])?,
        sql_error: thread_error(row, &["Last_SQL_Errno"], &["Last_SQL_Error"])?,
        read: coordinates(
            row,
            &["Source_Log_File", "Master_Log_File"],
            &["Read_Source_Log_Pos", "Read_Master_Log_Pos"],
        )?,
        exec: coordinates(
            row,
            &["Relay_Source_Log_File", "Relay_Master_Log_File"],
            &["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"],
        )?,
        relay: coordinates(row, &["Relay_Log_File"], &["Relay_Log_Pos"])?,
        retrieved: retrieved(flavour, positioning, row)?,
        heartbeats: row.optional_number(&["Slave_received_heartbeats"])?,
        positioning,
        lag_seconds: row.optional_number(&["Seconds_Behind_Source", "Seconds_Behind_Master"])?,
        delay_seconds: row.optional_number(&["SQL_Delay"])?.unwrap_or_default(),
        filtered: FILTERS.iter().any(|filter| !row.text_or_empty(&[filter]).is_empty()),
        tls: as_flag(&row.text_or_empty(&["Source_SSL_Allowed", "Master_SSL_Allowed"])).unwrap_or_default(),
        get_source_public_key: as_flag(&row.text_or_empty(&["Get_Source_public_key", "Get_master_public_key"]))
            .unwrap_or_default(),
    }))
}

fn positioning(row: &TextRow) -> Positioning {
    match row.text_or_empty(&["Using_Gtid"]).to_ascii_lowercase().as_str() {
        "slave_pos" => Positioning::SlavePos,
        "current_pos" => Positioning::CurrentPos,
        _ if row.text_or_empty(&["Auto_Position"]) == "1" => Positioning::AutoPosition,
        _ => Positioning::FilePosition,
    }
}

/// The GTIDs that were received; `None` without GTID on MariaDB, which keeps an old `Gtid_IO_Pos` when GTID is switched off.
fn retrieved(flavour: Flavour, positioning: Positioning, row: &TextRow) -> Result<Option<GtidSet>, ColumnError> {
    let column = if flavour.is_mariadb() {
        "Gtid_IO_Pos"
    } else {
        "Retrieved_Gtid_Set"
    };
    if flavour.is_mariadb() && !positioning.is_gtid() {
        return Ok(None);
    }
    let text = row.text_or_empty(&[column]);
    let unreadable = |error: crate::domain::gtid::GtidParseError| ColumnError::Unexpected {
        column: column.to_owned(),
        value: error.to_string(),
    };
    GtidSet::parse(flavour, &text).map(Some).map_err(unreadable)
}

fn thread_state(text: &str) -> ThreadState {
    match text {
        "Yes" => ThreadState::Running,
        "No" => ThreadState::Stopped,
        // `Connecting`, and `Preparing` on MariaDB.
        _ => ThreadState::Connecting,
    }
}

fn thread_error(row: &TextRow, number: &[&str], message: &[&str]) -> Result<ThreadError, ColumnError> {
    Ok(ThreadError {
        number: row.optional_number(number)?.unwrap_or_default(),
        message: row.text_or_empty(message),
    })
}

fn coordinates(row: &TextRow, file: &[&str], position: &[&str]) -> Result<BinlogCoordinates, ColumnError> {
    Ok(BinlogCoordinates {
        file: row.text_or_empty(file),
        position: row.optional_number(position)?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_neither_yes_nor_no_is_connecting() {
        for (text, state) in [
            ("Yes", ThreadState::Running),
            ("No", ThreadState::Stopped),
            ("Connecting", ThreadState::Connecting),
            ("Preparing", ThreadState::Connecting),
        ] {
            assert_eq!(thread_state(text), state, "{text}");
        }
    }
}
