//! Snapshots: the whole state as versioned JSON.

use std::io;

use serde::{Deserialize, Serialize};

use super::types::SnapshotMeta;
use crate::domain::state::State;
use crate::domain::state::command::COMMAND_VERSION;

/// A snapshot as it is kept in `raft.db` and sent to members.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SnapshotDocument {
    /// The highest version of the commands that made the state, 1 at least: what a reader must understand.
    pub(super) version: u32,
    /// What it covers.
    pub(super) meta: SnapshotMeta,
    /// The state at that point.
    pub(super) state: State,
}

/// The version alone, read before the rest: a later format need not parse.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl SnapshotDocument {
    /// A snapshot of `state` at this position.
    pub(super) fn new(applied: &super::state_machine::Position, state: State) -> Self {
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

    /// As JSON.
    ///
    /// # Errors
    /// When the state cannot be written as JSON, which would be a mistake in its types.
    pub(super) fn encode(&self) -> io::Result<String> {
        serde_json::to_string(self).map_err(|error| io::Error::other(format!("encode a snapshot: {error}")))
    }

    /// From JSON.
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

/// The sentence for a command of a newer program.
pub(super) fn newer_command(version: u32) -> String {
    format!(
        "a command has version {version}, this program understands up to {COMMAND_VERSION}: upgrade ham4db on this member"
    )
}

/// Why JSON with log entries in it does not parse, when the reason is a command of a newer program: the sentence for it.
///
/// Commands of a later version may have shapes that this program cannot parse, so the version is looked up in the raw JSON.
pub(super) fn too_new(text: &str) -> Option<String> {
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
    (version > COMMAND_VERSION).then(|| newer_command(version))
}
