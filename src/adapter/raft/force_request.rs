//! The files of a forced quorum: the request of an operator to continue a group with one member, and the answer of the member.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::{self, MemberIdentity};
use crate::domain::time::WallTime;

pub(super) const REQUEST_FILE: &str = "force-quorum.json";
pub(super) const ANSWER_FILE: &str = "force-quorum-answer.json";

/// The request of an operator to continue the group with one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForceRequest {
    /// Id of the request; the answer has the same id.
    pub id: String,
    /// Time of the request.
    pub at: WallTime,
    /// Names of the members that are lost for good.
    pub lost: BTreeSet<String>,
}

/// The answer of the member to a [`ForceRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForceAnswer {
    /// Id of the request.
    pub id: String,
    /// Whether the group continues with this member.
    pub done: bool,
    /// The result or the refusal as text.
    pub what: String,
}

impl ForceRequest {
    /// A request with a new id.
    pub fn new(at: WallTime, lost: BTreeSet<String>) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            at,
            lost,
        }
    }

    /// Writes the request into the data directory of a member.
    ///
    /// # Errors
    /// When the directory has no `identity.json`, or cannot be written.
    pub fn put(&self, directory: &Path) -> io::Result<()> {
        if MemberIdentity::load(directory)?.is_none() {
            return Err(io::Error::other(format!(
                "{} has no {}: it is not the data directory of a member",
                directory.display(),
                identity::FILE_NAME
            )));
        }
        write(directory, REQUEST_FILE, self)
    }

    /// Removes the request, unless the member has taken it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn withdraw(&self, directory: &Path) -> io::Result<()> {
        match read::<Self>(directory, REQUEST_FILE) {
            Ok(Some(present)) if present.id == self.id => remove(directory, REQUEST_FILE),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The answer of the member; `None` while there is none.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn answer(&self, directory: &Path) -> io::Result<Option<ForceAnswer>> {
        Ok(read::<ForceAnswer>(directory, ANSWER_FILE)?.filter(|answer| answer.id == self.id))
    }
}

pub(super) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<Option<T>> {
    let path = directory.join(name);
    let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("read {}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Replaces a file atomically. It has no special mode: an account that can write into the data directory can read all of it.
pub(super) fn write<T: Serialize>(directory: &Path, name: &str, value: &T) -> io::Result<()> {
    let path = directory.join(name);
    let fresh = directory.join(format!("{name}.new"));
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| io::Error::other(format!("write {}: {error}", path.display())))
}

pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
