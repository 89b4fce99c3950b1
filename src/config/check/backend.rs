//! The keys of the backend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::file::File;
use crate::config::settings::BackendSettings;

use super::Check;

impl Check<'_> {
    pub(super) fn backend(&mut self, file: &File) -> BackendSettings {
        let keys = &file.group;
        match keys.BackendDB.as_str() {
            "sqlite" | "sqlite3" => {}
            "mysql" => self.wrong("BackendDB", "mysql is not supported yet; use sqlite"),
            other => self.wrong("BackendDB", format!("`{other}` is no backend; use sqlite")),
        }
        let sqlite_file = match (keys.SQLite3DataFile.as_str(), keys.RaftEnabled) {
            ("", true) => Path::new(&keys.RaftDataDir).join("ham4db.db"),
            ("", false) => {
                self.wrong("SQLite3DataFile", "required with BackendDB sqlite");
                PathBuf::new()
            }
            (given, _) => PathBuf::from(given),
        };
        let days = self.positive("AuditPurgeDays", keys.AuditPurgeDays);
        let hours = self.positive("UnseenInstanceForgetHours", keys.UnseenInstanceForgetHours);
        BackendSettings {
            sqlite_file,
            audit_for: Duration::from_hours(days * 24),
            changes_for: Duration::from_hours(hours),
        }
    }
}
