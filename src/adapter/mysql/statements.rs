//! Sends statements over the text protocol and collects their results.

use crate::domain::instance::ProbeFailure;

use super::connection::SqlFailure;
use super::protocol::{self, Connection};
use super::text_row::TextRow;

/// The rows of one statement, or the number and text of the server's error.
pub(super) type StatementResult = Result<Vec<TextRow>, (u16, String)>;

/// Sends one statement and returns its rows.
pub(super) async fn run_one(connection: &mut Connection, statement: &str) -> Result<Vec<TextRow>, SqlFailure> {
    let mut results = run_batch(connection, statement).await.map_err(SqlFailure::Broken)?;
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
    connection: &mut Connection,
    statements: &[String],
    batch: &str,
) -> Result<Vec<StatementResult>, SqlFailure> {
    let mut results = run_batch(connection, batch).await.map_err(SqlFailure::Broken)?;
    while let Some(left) = statements.get(results.len()..).filter(|left| !left.is_empty()) {
        let more = run_batch(connection, &left.join("; "))
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
    connection: &mut Connection,
    statements: &str,
) -> Result<Vec<StatementResult>, ProbeFailure> {
    let results = connection.query(statements).await;
    let results = results.map_err(|error| SqlFailure::from(error).into_probe_failure())?;
    results.into_iter().map(rows_or_error).collect()
}

/// The rows of a result. An error after which the server closes the connection is a failure of the connection.
fn rows_or_error(result: protocol::StatementResult) -> Result<StatementResult, ProbeFailure> {
    match result {
        Ok(rows) => Ok(Ok(rows.into_iter().map(TextRow::from).collect())),
        Err((number, message)) => match SqlFailure::from_server_error(number, message) {
            SqlFailure::ServerError { number, message } => Ok(Err((number, message))),
            SqlFailure::Broken(failure) => Err(failure),
        },
    }
}
