//! What lies in the folder: names, sizes, times, contents, digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::status::STATUS_FOLDER;

/// Files beyond this are not read: a folder of documents is no data directory.
const MAX_FILES: usize = 4096;
/// A larger file is refused; an etcd object may not be larger than 1.5 MB either.
const MAX_BYTES: u64 = 1 << 20;

/// Name of each file to its size and time of change; `status/NAME` for statuses.
pub(super) type Stamps = BTreeMap<String, (u64, Option<SystemTime>)>;

/// What was read.
pub(super) struct Contents {
    /// Documents: file name to contents, or why there are none.
    pub(super) files: BTreeMap<String, Result<String, String>>,
    /// Statuses: file name to contents; one that cannot be read is absent.
    pub(super) statuses: BTreeMap<String, String>,
    /// SHA-256 over names and contents of the documents.
    pub(super) digest: String,
}

/// Reads the folder, unless it is as `known` says: then `None`.
pub(super) fn scan(dir: &Path, known: Option<&Stamps>) -> Result<Option<(Stamps, Contents)>, String> {
    let mut stamps = list(dir, "").map_err(|why| format!("directory {}: cannot be read: {why}", dir.display()))?;
    // No status was written yet: no folder.
    stamps.extend(list(&dir.join(STATUS_FOLDER), "status/").unwrap_or_default());
    if known == Some(&stamps) {
        return Ok(None);
    }
    let mut contents = Contents {
        files: BTreeMap::new(),
        statuses: BTreeMap::new(),
        digest: String::new(),
    };
    let mut digest = Sha256::new();
    for (name, (size, _)) in &stamps {
        if let Some(status) = name.strip_prefix("status/") {
            if let Ok(text) = fs::read_to_string(dir.join(STATUS_FOLDER).join(status)) {
                contents.statuses.insert(status.to_owned(), text);
            }
            continue;
        }
        let text = if *size > MAX_BYTES {
            Err(format!("is larger than {MAX_BYTES} bytes"))
        } else {
            fs::read_to_string(dir.join(name)).map_err(|why| format!("cannot be read: {why}"))
        };
        let bytes = text.as_deref().unwrap_or_default();
        // Lengths first, so that no two folders give the same bytes.
        digest.update((name.len() as u64).to_be_bytes());
        digest.update(name);
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
        contents.files.insert(name.clone(), text);
    }
    contents.digest = digest
        .finalize()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    Ok(Some((stamps, contents)))
}

/// The YAML files of a folder. Names with a leading dot are skipped: editors and mounted `ConfigMap`s leave such things.
fn list(dir: &Path, prefix: &str) -> std::io::Result<Stamps> {
    let mut stamps = Stamps::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_yaml = Path::new(&name)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml"));
        if !is_yaml || name.starts_with('.') {
            continue;
        }
        // Follows symbolic links; a file that went meanwhile is not there.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.is_file() {
            stamps.insert(format!("{prefix}{name}"), (metadata.len(), metadata.modified().ok()));
        }
        if stamps.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    Ok(stamps)
}
