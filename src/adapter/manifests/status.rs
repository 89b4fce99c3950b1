//! Writes the status of each document into a file of its own.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::app::ports::cluster_source::StatusError;
use crate::domain::declared::{Observer, StatusModel};
use crate::domain::intent::Origin;
use crate::resource::{self, MySQLClusterStatus};

/// The name of the folder for statuses, below the folder of documents. Documents are not read from it.
pub(super) const STATUS_FOLDER: &str = "status";

/// The file name of a document's status. Both names were validated and contain no slash.
pub(super) fn file_name(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}.yaml")
}

/// Writes a status atomically: readers see the old file or the new one.
///
/// # Errors
/// When the origin is not a document, a later leader wrote the status, or the file cannot be written.
pub(super) fn write(dir: &Path, origin: &Origin, status: &StatusModel, observer: &Observer) -> Result<(), StatusError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(StatusError::Gone(origin.clone()));
    };
    let folder = dir.join(STATUS_FOLDER);
    let file = folder.join(file_name(namespace, name));
    let previous = read(&file);
    if let Some(by) = resource::superseded_by(previous.as_ref(), observer) {
        return Err(StatusError::Superseded {
            origin: origin.clone(),
            by,
        });
    }
    let document = json!({
        "apiVersion": resource::API_VERSION,
        "kind": resource::KIND,
        "metadata": {"name": name, "namespace": namespace},
        "status": resource::status(status, observer, previous.as_ref()),
    });
    let failed = |why: String| StatusError::Failed {
        origin: origin.clone(),
        why,
    };
    let text = serde_yaml::to_string(&document)
        .map_err(|why| failed(format!("failed to serialize the status as YAML: {why}")))?;
    replace(&folder, &file, &text).map_err(|why| failed(format!("{}: {why}", file.display())))
}

fn read(file: &Path) -> Option<MySQLClusterStatus> {
    let value: Value = serde_yaml::from_str(&fs::read_to_string(file).ok()?).ok()?;
    serde_json::from_value(value.get("status")?.clone()).ok()
}

/// Replaces a file atomically. There is no fsync: the status is written again after a restart, and a slow disk must not delay it.
fn replace(folder: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let mut open = fs::File::create(&draft)?;
    open.write_all(text.as_bytes())?;
    drop(open);
    fs::rename(&draft, file)
}
