//! The rights of the files that hold the state of a member: only its user reads them.
//!
//! The backend names every server and account, `raft.db` holds the log, and the cache of credentials holds passwords. New files get mode
//! 0600 in folders of mode 0700; those of an earlier version are restricted at startup.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Where the state of a member is.
#[derive(Clone, Debug)]
pub struct DataFiles {
    /// The SQLite file of the backend, or `:memory:`; `None` with a MySQL backend.
    pub database: Option<PathBuf>,
    /// `RaftDataDir`.
    pub folder: Option<PathBuf>,
}

/// Creates what is missing and restricts what exists. What cannot be restricted is reported once: on some volumes the rights are those of
/// the whole volume.
pub fn restrict(files: &DataFiles) {
    let mut failures = Vec::new();
    let mut note = |path: &Path, done: io::Result<()>| {
        if let Err(error) = done {
            failures.push(format!("{}: {error}", path.display()));
        }
    };
    if let Some(folder) = &files.folder {
        note(folder, restrict_folder(folder));
        for file in regular_files(folder) {
            note(&file, set_mode(&file, FILE_MODE));
        }
    }
    if let Some(database) = files.database.as_ref().filter(|path| path.as_os_str() != ":memory:") {
        note(database, restrict_database(database, files));
    }
    if !failures.is_empty() {
        tracing::warn!("failed to restrict the rights of data files: {}", failures.join("; "));
    }
}

fn restrict_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    set_mode(folder, FOLDER_MODE)
}

/// The database and its companions. `SQLite` gives new companions the mode of the database.
fn restrict_database(database: &Path, files: &DataFiles) -> io::Result<()> {
    let parent = database.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists() || has_only_own_files(parent, database, files)) {
        restrict_folder(parent)?;
    }
    // SQLite takes an empty file for a new database.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(database)?;
    set_mode(database, FILE_MODE)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        let companion = with_suffix(database, suffix);
        if companion.exists() {
            set_mode(&companion, FILE_MODE)?;
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a folder holds the state of this member and nothing else. Other folders, such as `/var/lib`, keep their rights.
fn has_only_own_files(folder: &Path, database: &Path, files: &DataFiles) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let own = |path: &Path| {
        let is_database = path
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(database.as_os_str().as_encoded_bytes());
        is_database || files.folder.as_deref() == Some(path)
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.all(|path| path.is_ok_and(|path| own(&path)))
}

fn regular_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    paths.map(|entry| entry.path()).collect()
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let present = fs::metadata(path)?.mode() & 0o7777;
    if present == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn files(database: PathBuf, folder: &Path) -> DataFiles {
        DataFiles {
            database: Some(database),
            folder: Some(folder.to_owned()),
        }
    }

    #[test]
    fn data_files_that_everybody_could_read_are_restricted_at_startup() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("raft");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let database = root.path().join("ham4db.sqlite3");
        let all = [
            database.clone(),
            with_suffix(&database, "-wal"),
            with_suffix(&database, "-shm"),
            folder.join("raft.db"),
            folder.join("raft.db-wal"),
            folder.join("identity.json"),
            folder.join("credentials.json"),
        ];
        for file in &all {
            fs::write(file, "x").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        restrict(&files(database, &folder));
        for file in &all {
            assert_eq!(mode(file), 0o600, "{}", file.display());
            assert_eq!(fs::read_to_string(file).unwrap(), "x");
        }
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(root.path()), 0o700, "it holds nothing else");
    }

    #[test]
    fn new_files_are_private_and_folders_of_others_keep_their_rights() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("of-another-program"), "x").unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let folder = root.path().join("state/raft");
        let database = root.path().join("ham4db.sqlite3");
        restrict(&files(database.clone(), &folder));
        assert_eq!((mode(&folder), mode(&database)), (0o700, 0o600));
        assert_eq!(mode(root.path()), 0o755);
        let nested = root.path().join("new/ham4db.sqlite3");
        restrict(&files(nested.clone(), &folder));
        assert_eq!((mode(nested.parent().unwrap()), mode(&nested)), (0o700, 0o600));
    }

    #[tokio::test]
    async fn companions_of_the_database_get_its_rights() {
        let root = tempfile::tempdir().unwrap();
        let database = root.path().join("ham4db.sqlite3");
        restrict(&files(database.clone(), &root.path().join("raft")));
        let store = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(
                sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(&database)
                    .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal),
            )
            .await
            .unwrap();
        sqlx::query("CREATE TABLE t (a INT)").execute(&store).await.unwrap();
        for suffix in ["-wal", "-shm"] {
            assert_eq!(mode(&with_suffix(&database, suffix)), 0o600, "{suffix}");
        }
        store.close().await;
    }
}
