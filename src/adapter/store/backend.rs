//! The backend of one member: its database, opened and brought to the layout of this version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::app::ports::StoreError;
use crate::domain::published_primary::KeyPrefix;

use super::database::{Database, DatabaseError};
use super::migrations::{self, EmbeddedMigrations};
use super::projection;
use super::statement::{Dialect, statement};

/// How long a statement waits for a lock that another process holds on a SQLite file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement on a SQLite file may take.
const SQLITE_DEADLINE: Duration = Duration::from_secs(30);
/// The default of orchestrator's `AuditPurgeDays`.
const AUDIT_RETENTION: Duration = Duration::from_hours(7 * 24);
/// How long a migration may take.
const MIGRATION_DEADLINE: Duration = Duration::from_mins(10);
/// After so long an idle connection to MySQL is closed: less than the `wait_timeout` of proxies.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// The account and the address of a MySQL backend.
#[derive(Clone)]
pub struct MySqlBackend {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The database (schema). It has to exist.
    pub database: String,
    /// Account.
    pub user: String,
    /// Its password.
    pub password: secrecy::SecretString,
    /// At most so many connections are open.
    pub max_connections: u32,
    /// How long a connection or a statement may take.
    pub deadline: Duration,
    /// TLS of the connections.
    pub tls: BackendTls,
}

impl std::fmt::Debug for MySqlBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MySqlBackend")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// TLS of the connections to a MySQL backend.
#[derive(Clone, Debug, Default)]
pub struct BackendTls {
    /// What is demanded of the server.
    pub mode: BackendTlsMode,
    /// PEM of the authorities. Without it those of the system count.
    pub ca_pem: Option<Vec<u8>>,
    /// PEM of the client's certificate and of its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// What is demanded of the server of a MySQL backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendTlsMode {
    /// TLS where the server offers it, without verification.
    #[default]
    Preferred,
    /// TLS, without verification.
    Required,
    /// TLS, and a certificate of a known authority for the host name.
    Verified,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub enum BackendAddress {
    /// A file, or `:memory:` for a database that ends with the process.
    Sqlite(PathBuf),
    /// A database of a MySQL or MariaDB server.
    MySql(MySqlBackend),
}

impl std::fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite {}", path.display()),
            Self::MySql(backend) => write!(f, "mysql {}:{}/{}", backend.host, backend.port, backend.database),
        }
    }
}

/// What happens to the tables when a backend is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deployment {
    /// They are made, or brought to the layout of this version.
    #[default]
    Migrate,
    /// They are used as they are; missing ones are an error (`SkipHam4dbDatabaseUpdate`).
    Skip,
    /// A layout of another version is an error (`PanicIfDifferentDatabaseDeploy`). An empty database is filled.
    RefuseDifferent,
}

/// Why a backend cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It cannot be used as it is.
    #[error(transparent)]
    Unusable(StoreError),
    /// A MySQL server does not answer, or lacks the database or a privilege: this can change without a restart of the member.
    #[error(transparent)]
    NotYet(StoreError),
}

/// The ids of ham4db's rows in orchestrator's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Numbering {
    /// ham4db's ids begin above this one.
    above: i64,
}

impl Numbering {
    /// The id of a row.
    pub(super) fn row(self, id: u64) -> i64 {
        i64::try_from(id).unwrap_or(i64::MAX).saturating_add(self.above)
    }

    /// ham4db's rows have larger ids.
    pub(super) fn above(self) -> i64 {
        self.above
    }
}

/// The replicated state, and what the member keeps for itself, in a database.
///
/// SQLite: one writer; a power failure may lose the last few transactions, since the file is not synced at every commit. They are applied
/// again from the raft log, which is synced. MySQL: as durable as the server is configured to be.
#[derive(Clone, Debug)]
pub struct BackendStore {
    pub(super) database: Database,
    pub(super) name: String,
    pub(super) numbering: Numbering,
    pub(super) key_prefix: KeyPrefix,
    pub(super) audit_retention: Duration,
}

impl BackendStore {
    /// Opens the database and brings its tables to the layout of this version. A SQLite file is made when it is missing.
    ///
    /// # Errors
    /// When the database cannot be opened, lacks a privilege, has the layout of a newer version, or `deployment` forbids the change that it
    /// needs.
    pub async fn open(address: &BackendAddress, deployment: Deployment) -> Result<Self, OpenError> {
        let name = address.to_string();
        let failed = |what: &str, why: String| StoreError {
            backend: name.clone(),
            what: what.to_owned(),
            why,
        };
        let database = match address {
            BackendAddress::Sqlite(path) => open_sqlite(path).await,
            BackendAddress::MySql(backend) => Ok(open_mysql(backend)),
        };
        let database = database.map_err(|why| OpenError::Unusable(failed("open", why)))?;
        let mut store = Self {
            database,
            name: name.clone(),
            numbering: Numbering::default(),
            key_prefix: KeyPrefix::default(),
            audit_retention: AUDIT_RETENTION,
        };
        let opened = match deploy(&store.database, deployment).await {
            Err(DeployError::Refused(why)) => Err(OpenError::Unusable(failed("deploy the tables", why))),
            Err(DeployError::Database(error)) => Err(store.open_error(failed("deploy the tables", error.to_string()))),
            Ok(()) => match store.keep_rows_of_orchestrator().await {
                Ok(numbering) => Ok(numbering),
                Err(error) => Err(store.open_error(error)),
            },
        };
        match opened {
            Ok(numbering) => {
                store.numbering = numbering;
                Ok(store)
            }
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    fn open_error(&self, error: StoreError) -> OpenError {
        match self.database.dialect() {
            Dialect::Sqlite => OpenError::Unusable(error),
            Dialect::MySql => OpenError::NotYet(error),
        }
    }

    /// A SQLite file with the default deployment.
    ///
    /// # Errors
    /// As [`BackendStore::open`].
    pub async fn open_file(path: &Path) -> Result<Self, OpenError> {
        Self::open(&BackendAddress::Sqlite(path.to_owned()), Deployment::default()).await
    }

    /// Sets the age at which rows of the table `audit` are deleted (`AuditPurgeDays`). They are deleted when the next row is
    /// written. Default: 7 days.
    #[must_use]
    pub fn with_audit_retention(self, audit_retention: Duration) -> Self {
        Self {
            audit_retention,
            ..self
        }
    }

    /// Sets the prefix of the keys in the table `kv_store` (`KVClusterMasterPrefix`). Default: `mysql/master/`.
    #[must_use]
    pub fn with_key_prefix(self, key_prefix: KeyPrefix) -> Self {
        Self { key_prefix, ..self }
    }

    /// Closes the connections. The database contains everything that was committed.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Makes room for ham4db's rows when a database of orchestrator is opened for the first time, so that its history stays. In SQLite the
    /// ids of its rows become negative. In MySQL its ids are unsigned: there ham4db's ids begin above them.
    async fn keep_rows_of_orchestrator(&self) -> Result<Numbering, StoreError> {
        let failed = self.failed("keep the rows of orchestrator");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let kept = transaction
            .rows(statement("SELECT value FROM ham4db_meta WHERE name = 'numbering'"))
            .await
            .map_err(&failed)?;
        if let Some(row) = kept.first() {
            return serde_json::from_str(&row.text(0)).map_err(|error| self.unreadable("numbering", &error));
        }
        let mut numbering = Numbering::default();
        let used = transaction.rows(statement("SELECT 1 FROM ham4db_meta LIMIT 1")).await;
        if used.map_err(&failed)?.is_empty() {
            match self.database.dialect() {
                Dialect::Sqlite => {
                    for sql in projection::NEGATE_ORCHESTRATOR_IDS {
                        transaction.execute(statement(*sql)).await.map_err(&failed)?;
                    }
                }
                Dialect::MySql => {
                    for sql in projection::LARGEST_IDS {
                        let rows = transaction.rows(statement(*sql)).await.map_err(&failed)?;
                        let largest = rows.first().and_then(|row| row.integer(0)).unwrap_or(0);
                        numbering.above = numbering.above.max(largest);
                    }
                }
            }
        }
        let written = statement("REPLACE INTO ham4db_meta (name, value) VALUES ('numbering', ?)")
            .bind(serde_json::to_string(&numbering).map_err(|error| self.unreadable("numbering", &error))?);
        transaction.execute(written).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(numbering)
    }

    /// A closure that turns an error of the database into the error of an operation.
    pub(super) fn failed<'a>(&'a self, what: &'a str) -> impl Fn(DatabaseError) -> StoreError + 'a {
        move |error| StoreError {
            backend: self.name.clone(),
            what: what.to_owned(),
            why: error.to_string(),
        }
    }

    /// The error for a body that cannot be parsed.
    pub(super) fn unreadable(&self, what: &str, error: &serde_json::Error) -> StoreError {
        StoreError {
            backend: self.name.clone(),
            what: format!("read {what}"),
            why: error.to_string(),
        }
    }
}

async fn open_sqlite(path: &Path) -> Result<Database, String> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        tokio::fs::create_dir_all(folder)
            .await
            .map_err(|error| format!("create the folder: {error}"))?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT);
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Database::sqlite(pool, SQLITE_DEADLINE))
}

/// The pool connects when it is used.
fn open_mysql(backend: &MySqlBackend) -> Database {
    use secrecy::ExposeSecret as _;
    let mut options = MySqlConnectOptions::new()
        .host(&backend.host)
        .port(backend.port)
        .database(&backend.database)
        .username(&backend.user)
        .password(backend.password.expose_secret())
        .ssl_mode(match (backend.tls.mode, backend.tls.ca_pem.is_some()) {
            (BackendTlsMode::Preferred, _) => MySqlSslMode::Preferred,
            (BackendTlsMode::Required, _) => MySqlSslMode::Required,
            (BackendTlsMode::Verified, _) => MySqlSslMode::VerifyIdentity,
        });
    if let Some(pem) = &backend.tls.ca_pem {
        options = options.ssl_ca_from_pem(pem.clone());
    }
    if let Some((certificate, key)) = &backend.tls.identity {
        options = options
            .ssl_client_cert_from_pem(certificate)
            .ssl_client_key_from_pem(key);
    }
    let pool = MySqlPoolOptions::new()
        // One holds the lock while tables are made.
        .max_connections(backend.max_connections.max(2))
        .acquire_timeout(backend.deadline)
        .idle_timeout(IDLE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                // Columns of orchestrator's tables are short: a longer text is cut off there and not refused, as its own writes were.
                // READ COMMITTED is not possible with binlog_format=STATEMENT.
                let settings = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION', autocommit = 1, innodb_lock_wait_timeout = 5; \
                                SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
                sqlx::raw_sql(settings).execute(connection).await.map(drop)
            })
        })
        .connect_lazy_with(options);
    Database::mysql(pool, backend.deadline)
}

/// The lock under which tables are made.
const DEPLOYMENT_LOCK: &str = "ham4db.deployment";
/// How long it is waited for, until the member says so and tries again.
const DEPLOYMENT_LOCK_WAIT: Duration = Duration::from_secs(30);

/// Why the tables were not brought to the layout of this version.
enum DeployError {
    /// They must not be.
    Refused(String),
    /// The database failed.
    Database(DatabaseError),
}

impl From<DatabaseError> for DeployError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

/// Brings the tables to the layout of this version. Members that share a database do it one after the other.
async fn deploy(database: &Database, deployment: Deployment) -> Result<(), DeployError> {
    // The lock of the migrator has no effect on MariaDB, which knows no endless wait.
    let locked = database.lock(DEPLOYMENT_LOCK, DEPLOYMENT_LOCK_WAIT).await?;
    if locked.is_none() {
        return Err(DeployError::Database(DatabaseError::Unexpected(format!(
            "another session keeps the lock {DEPLOYMENT_LOCK}: another member makes its tables"
        ))));
    }
    let dialect = database.dialect();
    let applied = applied_migrations(database).await?;
    let newest = migrations::newest();
    if let Some(newer) = applied.iter().find(|version| **version > newest) {
        return Err(DeployError::Refused(format!(
            "its layout is that of a newer version (migration {newer}, this version knows {newest}): start that version"
        )));
    }
    let missing = newest - i64::try_from(applied.len()).unwrap_or(i64::MAX);
    match deployment {
        Deployment::Migrate => {}
        Deployment::Skip if missing == 0 => return Ok(()),
        Deployment::Skip => {
            return Err(DeployError::Refused(format!(
                "{missing} migrations are missing and SkipHam4dbDatabaseUpdate forbids them: start once without it"
            )));
        }
        Deployment::RefuseDifferent if missing == 0 || applied.is_empty() => {}
        Deployment::RefuseDifferent => {
            return Err(DeployError::Refused(format!(
                "its layout is that of an older version ({missing} migrations are missing) and PanicIfDifferentDatabaseDeploy is set"
            )));
        }
    }
    if missing == 0 {
        return Ok(());
    }
    if dialect == Dialect::MySql && has_migrations_table(database).await? {
        // MySQL commits each statement about a table. Each migration of ham4db can be executed again, so one that was interrupted is.
        database
            .execute(statement("DELETE FROM _sqlx_migrations WHERE success = 0"))
            .await?;
    }
    let migrator = Migrator::new(EmbeddedMigrations(dialect))
        .await
        .map_err(|error| DeployError::Refused(error.to_string()))?;
    match tokio::time::timeout(MIGRATION_DEADLINE, database.migrate(&migrator)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))) => {
            Err(DeployError::Database(DatabaseError::from(error)))
        }
        Ok(Err(error)) => Err(DeployError::Refused(error.to_string())),
        // Another session may hold a lock on a table, or on the migrations.
        Err(_) => Err(DeployError::Database(DatabaseError::NoAnswer(MIGRATION_DEADLINE))),
    }
}

/// The numbers of the migrations that were applied whole.
async fn applied_migrations(database: &Database) -> Result<Vec<i64>, DatabaseError> {
    if !has_migrations_table(database).await? {
        return Ok(Vec::new());
    }
    let rows = database
        .rows(statement(
            "SELECT version FROM _sqlx_migrations WHERE success = 1 ORDER BY version",
        ))
        .await?;
    Ok(rows.iter().filter_map(|row| row.integer(0)).collect())
}

async fn has_migrations_table(database: &Database) -> Result<bool, DatabaseError> {
    let exists = match database.dialect() {
        Dialect::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'",
        Dialect::MySql => {
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'"
        }
    };
    Ok(!database.rows(statement(exists)).await?.is_empty())
}
