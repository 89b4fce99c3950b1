//! Snapshots: the whole state as versioned JSON.

use std::io;

use serde::{Deserialize, Serialize};

use super::types::{AppliedPosition, SnapshotMeta};
use crate::domain::state::State;
use crate::domain::state::command::COMMAND_VERSION;

/// A snapshot as it is stored in `raft.db` and sent to members.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SnapshotDocument {
    /// The highest version of the commands that made the state, at least 1. A reader must understand it.
    pub(super) version: u32,
    /// The last entry and the membership that it covers.
    pub(super) meta: SnapshotMeta,
    /// The state at that point.
    pub(super) state: State,
}

/// The version alone. It is parsed first, because a later format may not parse.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl SnapshotDocument {
    /// A snapshot of `state` at this position.
    pub(super) fn new(applied: &AppliedPosition, state: State) -> Self {
        let meta = SnapshotMeta {
            last_log_id: applied.last_applied,
            last_membership: applied.membership.clone(),
        };
        Self {
            version: state.version.max(1),
            meta,
            state,
        }
    }

    /// Encodes the snapshot as JSON.
    ///
    /// # Errors
    /// When the state cannot be encoded as JSON, which would be a defect of its types.
    pub(super) fn encode(&self) -> io::Result<String> {
        serde_json::to_string(self).map_err(|error| io::Error::other(format!("encode a snapshot: {error}")))
    }

    /// Decodes a snapshot from JSON.
    ///
    /// # Errors
    /// When it was written by a newer program, or is damaged.
    pub(super) fn decode(text: &[u8]) -> io::Result<Self> {
        let damaged = |error| io::Error::other(format!("decode a snapshot: {error}"));
        let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version > COMMAND_VERSION {
            return Err(io::Error::other(format!(
                "a snapshot has version {version}, this program understands up to {COMMAND_VERSION}: upgrade ham4db on this member"
            )));
        }
        serde_json::from_slice(text).map_err(damaged)
    }
}

/// The error for a command of a newer program.
pub(super) fn newer_command_message(version: u32) -> String {
    format!(
        "a command has version {version}, this program understands up to {COMMAND_VERSION}: upgrade ham4db on this member"
    )
}

/// For JSON with log entries that does not parse: the error when the reason is a command of a newer program.
///
/// Commands of a later version may have shapes that this program cannot parse, so the version is looked up in the raw JSON.
pub(super) fn newer_command_in(text: &str) -> Option<String> {
    fn newest(value: &serde_json::Value) -> Option<u64> {
        match value {
            serde_json::Value::Object(map) => {
                let own = map
                    .get("command")
                    .and(map.get("version"))
                    .and_then(serde_json::Value::as_u64);
                map.values().filter_map(newest).chain(own).max()
            }
            serde_json::Value::Array(list) => list.iter().filter_map(newest).max(),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => None,
        }
    }
    let value = serde_json::from_str(text).ok()?;
    let version = u32::try_from(newest(&value)?).ok()?;
    (version > COMMAND_VERSION).then(|| newer_command_message(version))
}
