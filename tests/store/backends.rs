//! The backends that the suite runs on.

use std::sync::Arc;
use std::time::Duration;

use ham4db::adapter::store::{BackendAddress, BackendStore, BackendTls, Deployment, MySqlBackend, OpenError};
use secrecy::SecretString;
use tokio::sync::OnceCell;

use crate::server::{ADMIN, PASSWORD, Server, Software};

/// A backend, and an independent way to its rows.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) store: BackendStore,
    pub(crate) address: BackendAddress,
    server: Option<(Arc<Server>, String)>,
    _folder: Option<tempfile::TempDir>,
}

/// The servers, which all tests share; each test has databases of its own.
pub(crate) async fn shared(software: Software) -> Arc<Server> {
    static MYSQL: OnceCell<Arc<Server>> = OnceCell::const_new();
    static MARIADB: OnceCell<Arc<Server>> = OnceCell::const_new();
    let cell = match software {
        Software::MySql => &MYSQL,
        Software::MariaDb => &MARIADB,
    };
    let start = || async { Arc::new(Server::start(software, 1, &[]).await) };
    Arc::clone(cell.get_or_init(start).await)
}

/// Where a database of a server is, for its administrator.
pub(crate) fn address(server: &Server, database: &str) -> MySqlBackend {
    MySqlBackend {
        host: server.key.hostname.clone(),
        port: server.key.port,
        database: database.to_owned(),
        user: ADMIN.to_owned(),
        password: SecretString::from(PASSWORD),
        max_connections: 4,
        deadline: Duration::from_secs(10),
        tls: BackendTls::default(),
    }
}

impl Backend {
    /// An empty one of each kind. The tests of one program run one at a time, and `database` is theirs alone.
    pub(crate) async fn all(database: &str) -> Vec<Self> {
        vec![
            Self::sqlite().await,
            Self::on(Software::MySql, database).await,
            Self::on(Software::MariaDb, database).await,
        ]
    }

    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = BackendAddress::Sqlite(folder.path().join("ham4db.db"));
        let store = BackendStore::open(&address, Deployment::default()).await.unwrap();
        Self {
            name: "SQLite",
            store,
            address,
            server: None,
            _folder: Some(folder),
        }
    }

    /// A new database of a shared server.
    pub(crate) async fn on(software: Software, database: &str) -> Self {
        let server = shared(software).await;
        server
            .run(&format!(
                "DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}"
            ))
            .await;
        let address = BackendAddress::MySql(address(&server, database));
        let store = BackendStore::open(&address, Deployment::default()).await.unwrap();
        Self {
            name: match software {
                Software::MySql => "MySQL",
                Software::MariaDb => "MariaDB",
            },
            store,
            address,
            server: Some((server, database.to_owned())),
            _folder: None,
        }
    }

    /// Opens it once more.
    pub(crate) async fn again(&self, deployment: Deployment) -> Result<BackendStore, OpenError> {
        BackendStore::open(&self.address, deployment).await
    }

    /// All values of a query as text, NULL as `-`, by another client.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Vec<String>> {
        use sqlx::{AssertSqlSafe, Connection as _, Row as _};
        match (&self.address, &self.server) {
            (BackendAddress::Sqlite(path), _) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(&mut connection).await;
                let text = |row: &sqlx::sqlite::SqliteRow| {
                    let value = |at| row.try_get_unchecked::<Option<String>, _>(at).unwrap();
                    (0..row.len())
                        .map(|at| value(at).unwrap_or_else(|| "-".to_owned()))
                        .collect()
                };
                rows.unwrap().iter().map(text).collect()
            }
            (BackendAddress::MySql(_), Some((server, database))) => {
                let mut connection = server.connect(ADMIN).await.unwrap();
                let using = format!("USE {database}");
                sqlx::raw_sql(AssertSqlSafe(using))
                    .execute(&mut connection)
                    .await
                    .unwrap();
                let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(&mut connection).await;
                let text = |row: &sqlx::mysql::MySqlRow| {
                    let value = |at| row.try_get_unchecked::<Option<String>, _>(at).unwrap();
                    (0..row.len())
                        .map(|at| value(at).unwrap_or_else(|| "-".to_owned()))
                        .collect()
                };
                let rows = rows.unwrap_or_else(|error| panic!("{query}: {error}"));
                rows.iter().map(text).collect()
            }
            (BackendAddress::MySql(_), None) => panic!("a MySQL backend has a server"),
        }
    }

    /// Executes statements by another client.
    pub(crate) async fn run(&self, statements: &str) {
        match (&self.address, &self.server) {
            (BackendAddress::Sqlite(path), _) => {
                use sqlx::{AssertSqlSafe, Connection as _};
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(statements))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            (BackendAddress::MySql(_), Some((server, database))) => {
                server.run(&format!("USE {database}; {statements}")).await;
            }
            (BackendAddress::MySql(_), None) => panic!("a MySQL backend has a server"),
        }
    }
}
