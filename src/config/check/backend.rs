//! The keys of the backend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::app::ports::{Account, TlsMode};
use crate::config::file::File;
use crate::config::my_cnf;
use crate::config::settings::{BackendDatabase, BackendSettings, MySqlSettings};

use super::Check;

/// Whether the backend is MySQL; [`None`]: it is neither that nor SQLite.
fn is_mysql(file: &File) -> Option<bool> {
    match file.backend.BackendDB.as_str() {
        "" => Some(!file.backend.MySQLHam4dbHost.is_empty()),
        "sqlite" | "sqlite3" => Some(false),
        "mysql" => Some(true),
        _ => None,
    }
}

/// The pause between two writes of observations without `BufferInstanceWrites`.
const UNBUFFERED_PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause with it: the backend also takes the steps of recoveries.
const SHORTEST_PAUSE_MILLIS: u64 = 100;

/// Whether other members may use the same backend.
pub(super) fn is_shared(file: &File) -> bool {
    is_mysql(file) == Some(true) && !file.group.RaftEnabled
}

impl Check<'_> {
    pub(super) fn backend(&mut self, file: &File) -> BackendSettings {
        let keys = &file.backend;
        let is_mysql = is_mysql(file).unwrap_or_else(|| {
            let other = &keys.BackendDB;
            self.wrong("BackendDB", format!("`{other}` is no backend; use sqlite or mysql"));
            false
        });
        if keys.SkipHam4dbDatabaseUpdate && keys.PanicIfDifferentDatabaseDeploy {
            self.wrong(
                "PanicIfDifferentDatabaseDeploy",
                "has no meaning with SkipHam4dbDatabaseUpdate; set one of them",
            );
        }
        let days = self.positive("AuditPurgeDays", file.group.AuditPurgeDays);
        let hours = self.positive("UnseenInstanceForgetHours", file.group.UnseenInstanceForgetHours);
        let pause = self.positive(
            "InstanceFlushIntervalMilliseconds",
            keys.InstanceFlushIntervalMilliseconds,
        );
        let batch = self.positive("InstanceWriteBufferSize", keys.InstanceWriteBufferSize);
        BackendSettings {
            database: if is_mysql {
                self.mysql_backend(file)
            } else {
                self.sqlite_backend(file)
            },
            exit_after: (keys.BackendExitSeconds > 0).then(|| Duration::from_secs(keys.BackendExitSeconds.into())),
            skip_update: keys.SkipHam4dbDatabaseUpdate,
            refuse_different: keys.PanicIfDifferentDatabaseDeploy,
            audit_for: Duration::from_hours(days * 24),
            changes_for: Duration::from_hours(hours),
            instances_every: if keys.BufferInstanceWrites {
                Duration::from_millis(pause.max(SHORTEST_PAUSE_MILLIS))
            } else {
                UNBUFFERED_PAUSE
            },
            instances_per_write: usize::try_from(batch).unwrap_or(usize::MAX),
        }
    }

    fn sqlite_backend(&mut self, file: &File) -> BackendDatabase {
        BackendDatabase::Sqlite(match (file.backend.SQLite3DataFile.as_str(), file.group.RaftEnabled) {
            ("", true) => Path::new(&file.group.RaftDataDir).join("ham4db.db"),
            ("", false) => {
                self.wrong("SQLite3DataFile", "required with BackendDB sqlite");
                PathBuf::new()
            }
            (given, _) => PathBuf::from(given),
        })
    }

    fn mysql_backend(&mut self, file: &File) -> BackendDatabase {
        let keys = &file.backend;
        for (key, value) in [
            ("MySQLHam4dbHost", &keys.MySQLHam4dbHost),
            ("MySQLHam4dbDatabase", &keys.MySQLHam4dbDatabase),
        ] {
            if value.is_empty() {
                self.wrong(key, "required with BackendDB mysql");
            }
        }
        let (mut user, mut password) = (keys.MySQLHam4dbUser.clone(), keys.MySQLHam4dbPassword.clone());
        if !keys.MySQLHam4dbCredentialsConfigFile.is_empty() {
            match my_cnf::read(Path::new(&keys.MySQLHam4dbCredentialsConfigFile)) {
                Ok(client) => {
                    user = client.user.unwrap_or(user);
                    password = client.password.unwrap_or(password);
                }
                Err(why) => self.wrong("MySQLHam4dbCredentialsConfigFile", why),
            }
        }
        let account = self.account("MySQLHam4dbUser", &user, "MySQLHam4dbPassword", &password);
        if account.is_none() {
            self.wrong("MySQLHam4dbUser", "required with BackendDB mysql");
        }
        let (tls, identity) = self.backend_tls(file);
        let ca_pem = (tls == TlsMode::Verify && !keys.MySQLHam4dbSSLCAFile.is_empty())
            .then(|| self.pem("MySQLHam4dbSSLCAFile", &keys.MySQLHam4dbSSLCAFile))
            .flatten();
        BackendDatabase::MySql(Box::new(MySqlSettings {
            host: keys.MySQLHam4dbHost.clone(),
            port: keys.MySQLHam4dbPort,
            database: keys.MySQLHam4dbDatabase.clone(),
            account: account.unwrap_or_else(|| Account {
                user: String::new(),
                password: SecretString::from(String::new()),
            }),
            max_connections: u32::try_from(
                self.positive("MySQLHam4dbMaxPoolConnections", keys.MySQLHam4dbMaxPoolConnections),
            )
            .unwrap_or(u32::MAX),
            deadline: Duration::from_secs(
                self.positive("MySQLHam4dbReadTimeoutSeconds", keys.MySQLHam4dbReadTimeoutSeconds),
            ),
            tls,
            ca_pem,
            identity,
        }))
    }

    /// TLS to a MySQL backend: verified as soon as an authority, a client certificate or mutual TLS is configured.
    fn backend_tls(&mut self, file: &File) -> (TlsMode, Option<(String, String)>) {
        let keys = &file.backend;
        let (certificate, key) = (&keys.MySQLHam4dbSSLCertFile, &keys.MySQLHam4dbSSLPrivateKeyFile);
        let identity = match (certificate.is_empty(), key.is_empty()) {
            (true, true) => None,
            (false, false) => self
                .pem("MySQLHam4dbSSLCertFile", certificate)
                .zip(self.pem("MySQLHam4dbSSLPrivateKeyFile", key)),
            (false, true) => {
                self.wrong("MySQLHam4dbSSLPrivateKeyFile", "required with MySQLHam4dbSSLCertFile");
                None
            }
            (true, false) => {
                self.wrong("MySQLHam4dbSSLCertFile", "required with MySQLHam4dbSSLPrivateKeyFile");
                None
            }
        };
        let is_wanted = keys.MySQLHam4dbUseMutualTLS || identity.is_some() || !keys.MySQLHam4dbSSLCAFile.is_empty();
        let tls = match (keys.MySQLHam4dbSSLSkipVerify, is_wanted) {
            (true, _) => TlsMode::Required,
            (false, true) => TlsMode::Verify,
            (false, false) => TlsMode::Preferred,
        };
        (tls, identity)
    }

    fn pem(&mut self, key: &'static str, path: &str) -> Option<String> {
        std::fs::read_to_string(path)
            .inspect_err(|error| self.wrong(key, format!("cannot read {path}: {error}")))
            .ok()
    }
}
