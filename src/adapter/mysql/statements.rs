//! Sends statements over the text protocol and collects their results.

use std::sync::Arc;

use futures::TryStreamExt as _;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Either};

use crate::domain::instance::ProbeFailure;

use super::connection::SqlFailure;
use super::text_row::TextRow;

/// Limit for the rows of one result. A process list is the longest that is read. A longer result is an error and is not
/// truncated.
const MAX_ROWS: usize = 100_000;

/// The rows of one statement, or the number and text of the server's error.
pub(super) type StatementResult = Result<Vec<TextRow>, (u16, String)>;

/// Sends one statement and returns its rows.
pub(super) async fn run_one(connection: &mut MySqlConnection, statement: &str) -> Result<Vec<TextRow>, SqlFailure> {
    let mut results = run_batch(connection, AssertSqlSafe(statement.to_owned()))
        .await
        .map_err(SqlFailure::Broken)?;
    match results.pop() {
        Some(Ok(rows)) => Ok(rows),
        Some(Err((number, message))) => Err(SqlFailure::ServerError { number, message }),
        None => Err(SqlFailure::Broken(ProbeFailure::Unreadable(
            "no result for a statement".to_owned(),
        ))),
    }
}

/// Sends the statements together (`batch` is their text) and returns one result for each. The server stops at the first statement
/// that fails; the statements after it are then sent again.
pub(super) async fn run_all(
    connection: &mut MySqlConnection,
    statements: &[String],
    batch: Arc<str>,
) -> Result<Vec<StatementResult>, SqlFailure> {
    let mut results = run_batch(connection, AssertSqlSafe(batch))
        .await
        .map_err(SqlFailure::Broken)?;
    while let Some(left) = statements.get(results.len()..).filter(|left| !left.is_empty()) {
        let more = run_batch(connection, AssertSqlSafe(left.join("; ")))
            .await
            .map_err(SqlFailure::Broken)?;
        if more.is_empty() {
            return Err(SqlFailure::Broken(ProbeFailure::Unreadable(
                "fewer results than statements".to_owned(),
            )));
        }
        results.extend(more);
    }
    Ok(results)
}

/// Sends a text of one or more statements and returns their results, up to and including the first error.
pub(super) async fn run_batch(
    connection: &mut MySqlConnection,
    statements: impl sqlx::SqlSafeStr,
) -> Result<Vec<StatementResult>, ProbeFailure> {
    let mut stream = sqlx::raw_sql(statements).fetch_many(connection);
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    loop {
        match stream.try_next().await {
            Ok(Some(Either::Right(row))) => {
                if rows.len() == MAX_ROWS {
                    return Err(ProbeFailure::Unreadable(format!(
                        "the result has more than {MAX_ROWS} rows"
                    )));
                }
                rows.push(TextRow::from(row));
            }
            Ok(Some(Either::Left(_))) => results.push(Ok(std::mem::take(&mut rows))),
            Ok(None) => return Ok(results),
            Err(error) => match SqlFailure::from(error) {
                SqlFailure::ServerError { number, message } => {
                    results.push(Err((number, message)));
                    return Ok(results);
                }
                SqlFailure::Broken(failure) => return Err(failure),
            },
        }
    }
}
