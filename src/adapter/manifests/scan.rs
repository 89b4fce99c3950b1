//! Scans the folder: names, sizes, times, contents, digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::status::STATUS_FOLDER;

/// Limit for the files of a folder. A folder with more is not read.
const MAX_FILES: usize = 4096;
/// Limit for the size of a file in bytes. The limit for an object in etcd is 1.5 MB.
const MAX_BYTES: u64 = 1 << 20;

/// Size and modification time by file name; the names of statuses are `status/NAME`.
pub(super) type Stamps = BTreeMap<String, (u64, Option<SystemTime>)>;

/// The contents of the folder.
pub(super) struct Contents {
    /// The text of each document file by name, or the reason why it cannot be read.
    pub(super) files: BTreeMap<String, Result<String, String>>,
    /// The text of each status file by name, without the unreadable ones.
    pub(super) statuses: BTreeMap<String, String>,
    /// The SHA-256 of the names and contents of the document files.
    pub(super) digest: String,
}

/// Reads the folder; `None` when names, sizes and times are equal to `known`.
///
/// # Errors
/// When the folder cannot be read, or has too many files.
pub(super) fn scan(dir: &Path, known: Option<&Stamps>) -> Result<Option<(Stamps, Contents)>, String> {
    let mut stamps = list(dir, "").map_err(|why| format!("failed to read directory {}: {why}", dir.display()))?;
    // The folder of statuses does not exist until a status is written.
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
        // With the lengths, the bytes of two different folders are different.
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

/// The YAML files of a folder, without those that begin with a dot: editors and mounted `ConfigMap`s create such files.
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
        // Symbolic links are followed. A file that was deleted meanwhile is skipped.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.is_file() {
            stamps.insert(format!("{prefix}{name}"), (metadata.len(), metadata.modified().ok()));
        }
        if stamps.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("it has more than {MAX_FILES} files")));
        }
    }
    Ok(stamps)
}
