//! The status of a document, in a file of its own.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::app::ports::cluster_source::{Observer, StatusError, StatusModel};
use crate::domain::intent::Origin;
use crate::resource::{self, MySQLClusterStatus};

/// Folder of the statuses, below the documents: no document is looked for in it.
pub(super) const STATUS_FOLDER: &str = "status";

/// File of a document's status. Both parts are checked names without slashes before they come here.
pub(super) fn file_name(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}.yaml")
}

/// Writes a status, all of it or nothing: readers see the old file or the new one.
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
    let text = serde_yaml::to_string(&document).map_err(|why| failed(format!("cannot be written as YAML: {why}")))?;
    replace(&folder, &file, &text).map_err(|why| failed(format!("{}: {why}", file.display())))
}

fn read(file: &Path) -> Option<MySQLClusterStatus> {
    let value: Value = serde_yaml::from_str(&fs::read_to_string(file).ok()?).ok()?;
    serde_json::from_value(value.get("status")?.clone()).ok()
}

/// No fsync: a status is a view that is painted again, and a disk that is slow is not to slow it.
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
