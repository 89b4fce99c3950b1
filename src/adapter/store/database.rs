//! The database of a backend, SQLite or MySQL: transactions in which statements run one after the other, each within a deadline.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::{MySql, MySqlArguments, MySqlRow};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Column as _, MySqlPool, Row as _, SqlitePool, TypeInfo as _};

use super::statement::{Dialect, Row, Statement, Value};

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// The database refused it, or the connection failed.
    #[error("{}", explain(.0))]
    Sql(#[from] sqlx::Error),
    /// There was no answer in time; whether it was executed is unknown.
    #[error("no answer within {} s", .0.as_secs_f32())]
    NoAnswer(Duration),
    /// What answered broke the protocol of MySQL.
    #[error("what answers is no MySQL server, or breaks its protocol")]
    Protocol,
    /// A row has another form than the tables of ham4db give it.
    #[error("{0}")]
    Unexpected(String),
}

impl DatabaseError {
    /// Whether another session won, and nothing was changed: a deadlock (1213; with Galera also a conflict that is found at the commit),
    /// or a lock that was not obtained (1205).
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Sql(error) => matches!(mysql_number(error), Some(1205 | 1213)),
            Self::NoAnswer(_) | Self::Protocol | Self::Unexpected(_) => false,
        }
    }
}

fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
    Some(error.number())
}

/// The error with the statement's grant, where one is missing.
fn explain(error: &sqlx::Error) -> String {
    // The pool tries until its deadline, and keeps the reason to itself.
    let text = if matches!(error, sqlx::Error::PoolTimedOut) {
        "no connection within the deadline: the server does not answer, or refuses connections".to_owned()
    } else {
        error.to_string()
    };
    match mysql_number(error) {
        // 1044 no access to the database, 1142 and 1143 a command on a table is denied, 1227 a privilege is needed.
        Some(1044 | 1142 | 1143 | 1227) => format!(
            "{text}; the account of the backend needs all privileges on its database: GRANT ALL PRIVILEGES ON `database`.* TO 'account'@'host'"
        ),
        _ => text,
    }
}

/// A pool of connections to the database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pool: Pool,
    /// How long one statement may take.
    deadline: Duration,
}

#[derive(Clone, Debug)]
enum Pool {
    Sqlite(SqlitePool),
    MySql(MySqlPool),
}

impl Database {
    /// A SQLite database.
    pub(super) fn sqlite(pool: SqlitePool, deadline: Duration) -> Self {
        Self {
            pool: Pool::Sqlite(pool),
            deadline,
        }
    }

    /// A MySQL or MariaDB database.
    pub(super) fn mysql(pool: MySqlPool, deadline: Duration) -> Self {
        Self {
            pool: Pool::MySql(pool),
            deadline,
        }
    }

    /// Its dialect.
    pub(super) fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Sqlite(_) => Dialect::Sqlite,
            Pool::MySql(_) => Dialect::MySql,
        }
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::MySql(pool) => pool.close().await,
        }
    }

    /// Begins a transaction that writes. It is rolled back when it is dropped before [`Transaction::commit`].
    ///
    /// # Errors
    /// When no connection is to be had, or it does not answer.
    pub(super) async fn begin(&self) -> Result<Transaction, DatabaseError> {
        let connection = match &self.pool {
            Pool::Sqlite(pool) => Connection::Sqlite(within(self.deadline, pool.begin_with("BEGIN IMMEDIATE")).await?),
            Pool::MySql(pool) => {
                let mut session = Session {
                    connection: within(self.deadline, pool.acquire()).await?,
                    committed: false,
                };
                within(self.deadline, sqlx::raw_sql("BEGIN").execute(&mut *session.connection)).await?;
                Connection::MySql(session)
            }
        };
        Ok(Transaction {
            connection,
            deadline: self.deadline,
        })
    }

    /// Executes one statement in a transaction of its own. Returns the number of rows that it changed.
    ///
    /// # Errors
    /// When it fails.
    pub(super) async fn execute(&self, statement: Statement) -> Result<u64, DatabaseError> {
        let mut transaction = self.begin().await?;
        let changed = transaction.execute(statement).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// Reads all rows of one query.
    ///
    /// # Errors
    /// When it fails.
    pub(super) async fn rows(&self, statement: Statement) -> Result<Vec<Row>, DatabaseError> {
        let (sql, values) = statement.into_parts(self.dialect());
        match &self.pool {
            Pool::Sqlite(pool) => {
                let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(values)?);
                let rows = within(self.deadline, query.fetch_all(pool)).await?;
                rows.iter().map(sqlite_row).collect()
            }
            Pool::MySql(pool) => {
                let mut connection = within(self.deadline, pool.acquire()).await?;
                let query = sqlx::query_with(AssertSqlSafe(sql), mysql_arguments(values)?);
                let rows = within(self.deadline, query.fetch_all(&mut *connection)).await;
                if rows.is_err() {
                    connection.close_on_drop();
                }
                rows?.iter().map(mysql_row).collect()
            }
        }
    }

    /// Takes a lock of the server that no other session has, within `wait`; it lasts as long as the value. SQLite has none, and needs none:
    /// a file has one member. [`None`]: another session kept the lock.
    ///
    /// # Errors
    /// When the server fails.
    pub(super) async fn lock(&self, name: &str, wait: Duration) -> Result<Option<ServerLock>, DatabaseError> {
        let Pool::MySql(pool) = &self.pool else {
            return Ok(Some(ServerLock { _session: None }));
        };
        let mut session = Session {
            connection: within(self.deadline, pool.acquire()).await?,
            committed: false,
        };
        let locked = sqlx::query_scalar::<_, Option<i64>>("SELECT CAST(GET_LOCK(?, ?) AS SIGNED)")
            .bind(name)
            .bind(wait.as_secs())
            .fetch_one(&mut *session.connection);
        let locked = within(wait + self.deadline, locked).await?;
        Ok((locked == Some(1)).then_some(ServerLock {
            _session: Some(session),
        }))
    }

    /// Runs the migrations that are missing.
    ///
    /// # Errors
    /// When one of them fails.
    pub(super) async fn migrate(&self, migrator: &Migrator) -> Result<(), MigrateError> {
        match &self.pool {
            Pool::Sqlite(pool) => migrator.run(pool).await,
            Pool::MySql(pool) => migrator.run(pool).await,
        }
    }
}

/// A lock of the server. It ends with its connection, which is closed when it is dropped.
pub(super) struct ServerLock {
    _session: Option<Session>,
}

/// A transaction. It is rolled back when it is dropped before [`Transaction::commit`].
pub(super) struct Transaction {
    connection: Connection,
    deadline: Duration,
}

enum Connection {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    MySql(Session),
}

/// A connection in a transaction. It is closed instead of given back to the pool unless the transaction was committed: the server rolls
/// back what was done, the answer that may not come is not waited for, and the next connection may lead to another server (this is what
/// orchestrator's `RejectReadOnly` is for).
struct Session {
    connection: PoolConnection<MySql>,
    committed: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl Transaction {
    /// The dialect of its database.
    pub(super) fn dialect(&self) -> Dialect {
        match self.connection {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::MySql(_) => Dialect::MySql,
        }
    }

    /// Executes a statement. Returns the number of rows that it changed.
    ///
    /// # Errors
    /// When it fails. The transaction is of no use then.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, DatabaseError> {
        let (sql, values) = statement.into_parts(self.dialect());
        match &mut self.connection {
            Connection::Sqlite(transaction) => {
                let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(values)?);
                let done = within(self.deadline, query.execute(&mut **transaction)).await?;
                Ok(done.rows_affected())
            }
            Connection::MySql(session) => {
                let query = sqlx::query_with(AssertSqlSafe(sql), mysql_arguments(values)?);
                let done = within(self.deadline, query.execute(&mut *session.connection)).await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Reads all rows of a query.
    ///
    /// # Errors
    /// When it fails. The transaction is of no use then.
    pub(super) async fn rows(&mut self, statement: Statement) -> Result<Vec<Row>, DatabaseError> {
        let (sql, values) = statement.into_parts(self.dialect());
        match &mut self.connection {
            Connection::Sqlite(transaction) => {
                let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(values)?);
                let rows = within(self.deadline, query.fetch_all(&mut **transaction)).await?;
                rows.iter().map(sqlite_row).collect()
            }
            Connection::MySql(session) => {
                let query = sqlx::query_with(AssertSqlSafe(sql), mysql_arguments(values)?);
                let rows = within(self.deadline, query.fetch_all(&mut *session.connection)).await?;
                rows.iter().map(mysql_row).collect()
            }
        }
    }

    /// Commits it.
    ///
    /// # Errors
    /// When the commit is refused or not answered. After [`DatabaseError::NoAnswer`] and a broken connection the outcome is unknown.
    pub(super) async fn commit(self) -> Result<(), DatabaseError> {
        match self.connection {
            Connection::Sqlite(transaction) => within(self.deadline, transaction.commit()).await,
            Connection::MySql(mut session) => {
                within(self.deadline, sqlx::raw_sql("COMMIT").execute(&mut *session.connection)).await?;
                session.committed = true;
                Ok(())
            }
        }
    }
}

/// The outcome of an operation within a deadline. The driver of MySQL does not check every length that a server sends before it reads: a
/// panic in it is an error of this operation only.
async fn within<T>(
    deadline: Duration,
    operation: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(deadline, AssertUnwindSafe(operation).catch_unwind()).await {
        Ok(Ok(outcome)) => Ok(outcome?),
        Ok(Err(_)) => Err(DatabaseError::Protocol),
        Err(_) => Err(DatabaseError::NoAnswer(deadline)),
    }
}

fn sqlite_arguments(values: Vec<Value>) -> Result<SqliteArguments, DatabaseError> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        let added = match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Integer(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn mysql_arguments(values: Vec<Value>) -> Result<MySqlArguments, DatabaseError> {
    let mut arguments = MySqlArguments::default();
    for value in values {
        let added = match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Integer(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn sqlite_row(row: &SqliteRow) -> Result<Row, DatabaseError> {
    use sqlx::ValueRef as _;
    let mut values = Vec::with_capacity(row.len());
    for column in 0..row.len() {
        let raw = row.try_get_raw(column)?;
        let kind = raw.type_info().name().to_owned();
        values.push(if raw.is_null() {
            Value::Null
        } else if kind == "INTEGER" {
            Value::Integer(row.try_get_unchecked(column)?)
        } else {
            Value::Text(row.try_get_unchecked(column)?)
        });
    }
    Ok(Row(values))
}

fn mysql_row(row: &MySqlRow) -> Result<Row, DatabaseError> {
    let mut values = Vec::with_capacity(row.len());
    for column in row.columns() {
        let (at, kind) = (column.ordinal(), column.type_info().name());
        let value = match kind {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" | "TINYINT UNSIGNED"
            | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED" | "BIGINT UNSIGNED" => {
                row.try_get_unchecked::<Option<i64>, _>(at)?.map(Value::Integer)
            }
            // A time is read as seconds (`@SECONDS`), since the binary protocol sends it in parts.
            "TIMESTAMP" | "DATETIME" | "DATE" | "TIME" | "FLOAT" | "DOUBLE" => {
                let name = column.name();
                return Err(DatabaseError::Unexpected(format!("column {name} has the type {kind}")));
            }
            _ => row.try_get_unchecked::<Option<String>, _>(at)?.map(Value::Text),
        };
        values.push(value.unwrap_or(Value::Null));
    }
    Ok(Row(values))
}
