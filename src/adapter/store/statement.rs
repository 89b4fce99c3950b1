//! Statements for either kind of backend: one text, with marks where the dialects differ, and values that are always bound.

use std::borrow::Cow;

/// The kind of database that a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SQLite.
    Sqlite,
    /// MySQL and MariaDB.
    MySql,
}

impl Dialect {
    /// The statement in this dialect.
    ///
    /// - `@STAMP` stands for one bound value: a time in milliseconds since 1970, as a timestamp in UTC. A column of the type `timestamp`
    ///   of MySQL holds 1970-01-01 00:00:01 to 2038-01-19 (manual, "The DATE, DATETIME, and TIMESTAMP Types"); what is outside becomes
    ///   the nearest time within.
    /// - `@NOW` is the time of the database in seconds since 1970.
    /// - `@SECONDS(column)` is a timestamp as seconds since 1970; NULL when the column holds no time.
    /// - `@INSERT_IGNORE` inserts unless a row with the same unique key exists.
    pub(super) fn translate(self, sql: &str) -> String {
        let (stamp, now, insert_ignore) = match self {
            Self::Sqlite => (
                "strftime('%Y-%m-%d %H:%M:%S', ? / 1000, 'unixepoch')",
                "CAST(strftime('%s', 'now') AS INTEGER)",
                "INSERT OR IGNORE",
            ),
            Self::MySql => (
                "FROM_UNIXTIME(LEAST(GREATEST(? DIV 1000, 1), 2147000000))",
                "UNIX_TIMESTAMP()",
                "INSERT IGNORE",
            ),
        };
        let sql = sql
            .replace("@STAMP", stamp)
            .replace("@NOW", now)
            .replace("@INSERT_IGNORE", insert_ignore);
        let mut translated = String::with_capacity(sql.len());
        let mut rest = sql.as_str();
        while let Some((before, after)) = rest.split_once("@SECONDS(") {
            let (column, after) = after.split_once(')').unwrap_or((after, ""));
            translated.push_str(before);
            let (start, end) = match self {
                Self::Sqlite => ("CAST(strftime('%s', ", ") AS INTEGER)"),
                Self::MySql => ("CAST(UNIX_TIMESTAMP(", ") AS SIGNED)"),
            };
            for part in [start, column, end] {
                translated.push_str(part);
            }
            rest = after;
        }
        translated.push_str(rest);
        translated
    }
}

/// A value that is bound to a statement, or read from a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(i64::from(value))
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Integer(i64::from(value))
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

/// A statement without values so far. Marks of [`Dialect::translate`] are replaced when it is executed.
pub(super) fn statement(sql: impl Into<Cow<'static, str>>) -> Statement {
    Statement {
        sql: sql.into(),
        values: Vec::new(),
    }
}

impl Statement {
    /// Adds the value of the next `?`.
    #[must_use]
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Adds the values of the next `?`.
    #[must_use]
    pub(super) fn bind_all(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.values.extend(values);
        self
    }

    /// The text in a dialect, and the values.
    pub(super) fn into_parts(self, dialect: Dialect) -> (String, Vec<Value>) {
        (dialect.translate(&self.sql), self.values)
    }
}

/// A row of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<Value>);

impl Row {
    /// The text of a column; empty when it is NULL or does not exist.
    pub(super) fn text(&self, column: usize) -> String {
        match self.0.get(column) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Null) | None => String::new(),
        }
    }

    /// The number of a column; `None` when it is NULL, no number, or does not exist.
    pub(super) fn integer(&self, column: usize) -> Option<i64> {
        match self.0.get(column) {
            Some(Value::Integer(number)) => Some(*number),
            Some(Value::Text(text)) => text.parse().ok(),
            Some(Value::Null) | None => None,
        }
    }

    /// All values, in the order of the columns.
    #[cfg(test)]
    pub(super) fn values(&self) -> &[Value] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_translated_into_both_dialects() {
        let text = "@INSERT_IGNORE INTO t (a, b) SELECT @SECONDS(c), @STAMP WHERE @SECONDS(d) < @NOW";
        assert_eq!(
            Dialect::Sqlite.translate(text),
            "INSERT OR IGNORE INTO t (a, b) SELECT CAST(strftime('%s', c) AS INTEGER), strftime('%Y-%m-%d %H:%M:%S', ? / 1000, 'unixepoch') \
             WHERE CAST(strftime('%s', d) AS INTEGER) < CAST(strftime('%s', 'now') AS INTEGER)"
        );
        assert_eq!(
            Dialect::MySql.translate(text),
            "INSERT IGNORE INTO t (a, b) SELECT CAST(UNIX_TIMESTAMP(c) AS SIGNED), FROM_UNIXTIME(LEAST(GREATEST(? DIV 1000, 1), 2147000000)) \
             WHERE CAST(UNIX_TIMESTAMP(d) AS SIGNED) < UNIX_TIMESTAMP()"
        );
    }

    #[test]
    fn a_value_that_is_missing_is_no_number_and_an_empty_text() {
        let row = Row(vec![
            Value::Null,
            Value::Integer(7),
            Value::Text("12".to_owned()),
            Value::Text("x".to_owned()),
        ]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|column| row.integer(column)),
            [None, Some(7), Some(12), None, None]
        );
        assert_eq!([0, 1, 3, 4].map(|column| row.text(column)), ["", "7", "x", ""]);
    }
}
