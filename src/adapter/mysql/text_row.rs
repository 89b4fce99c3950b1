//! Rows of the text protocol, with access to values by column name.
//!
//! The text protocol sends the value of every column, whatever its type, as text.

use std::borrow::Cow;
use std::str::FromStr;

use super::protocol::Row;

/// A column is missing, is NULL, or has an unexpected value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ColumnError {
    /// None of the names is a column of the row, or its value is NULL.
    #[error("no value in column {0}")]
    Missing(String),
    /// The value cannot be parsed.
    #[error("column {column} holds `{value}`")]
    Unexpected {
        /// The first of the requested names.
        column: String,
        /// The first 80 characters of the value.
        value: String,
    },
}

/// One row of a text result.
pub(super) struct TextRow(Row);

impl From<Row> for TextRow {
    fn from(row: Row) -> Self {
        Self(row)
    }
}

impl TextRow {
    /// The value of the first of `names` that is a column of the row; `None` when there is none or it is NULL. The name of a
    /// column depends on the version (`Source_Host`, `Master_Host`): pass all its names, the newest first.
    ///
    /// Bytes that are not UTF-8 are replaced: such columns are only displayed.
    pub(super) fn optional(&self, names: &[&str]) -> Option<Cow<'_, str>> {
        let value = names.iter().find_map(|name| self.0.by_name(name))?;
        value.map(String::from_utf8_lossy)
    }

    /// A required value.
    ///
    /// # Errors
    /// When the column is missing or NULL.
    pub(super) fn text(&self, names: &[&str]) -> Result<Cow<'_, str>, ColumnError> {
        self.optional(names)
            .ok_or_else(|| ColumnError::Missing(first_of(names)))
    }

    /// A value, empty where it is missing or NULL.
    pub(super) fn text_or_empty(&self, names: &[&str]) -> String {
        self.optional(names).map(Cow::into_owned).unwrap_or_default()
    }

    /// A required number.
    ///
    /// # Errors
    /// When the column is missing, NULL or not a number.
    pub(super) fn number<T: FromStr>(&self, names: &[&str]) -> Result<T, ColumnError> {
        parse(names, &self.text(names)?)
    }

    /// A number, `None` where it is missing or NULL.
    ///
    /// # Errors
    /// When the value is not a number.
    pub(super) fn optional_number<T: FromStr>(&self, names: &[&str]) -> Result<Option<T>, ColumnError> {
        self.optional(names).map(|text| parse(names, &text)).transpose()
    }

    /// A required boolean: `1`, `ON`, `Yes` or `0`, `OFF`, `No`.
    ///
    /// # Errors
    /// When the column is missing, NULL or not a boolean.
    pub(super) fn flag(&self, names: &[&str]) -> Result<bool, ColumnError> {
        let text = self.text(names)?;
        as_flag(&text).ok_or_else(|| unexpected(names, &text))
    }

    /// The value of the first column, for queries of one value.
    pub(super) fn first(&self) -> Option<Cow<'_, str>> {
        self.0.at(0).flatten().map(String::from_utf8_lossy)
    }
}

/// Parses a boolean variable; `None` when it is not a boolean.
pub(super) fn as_flag(text: &str) -> Option<bool> {
    if ["1", "ON", "YES"].iter().any(|yes| text.eq_ignore_ascii_case(yes)) {
        Some(true)
    } else if ["0", "OFF", "NO"].iter().any(|no| text.eq_ignore_ascii_case(no)) {
        Some(false)
    } else {
        None
    }
}

fn parse<T: FromStr>(names: &[&str], text: &str) -> Result<T, ColumnError> {
    text.parse().map_err(|_| unexpected(names, text))
}

fn unexpected(names: &[&str], value: &str) -> ColumnError {
    ColumnError::Unexpected {
        column: first_of(names),
        value: value.chars().take(80).collect(),
    }
}

fn first_of(names: &[&str]) -> String {
    names.first().map(|name| (*name).to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_have_three_spellings_and_the_rest_is_no_boolean() {
        for text in ["1", "ON", "on", "Yes"] {
            assert_eq!(as_flag(text), Some(true), "{text}");
        }
        for text in ["0", "OFF", "No"] {
            assert_eq!(as_flag(text), Some(false), "{text}");
        }
        for text in ["", "2", "ON_PERMISSIVE"] {
            assert_eq!(as_flag(text), None, "{text}");
        }
    }

    #[test]
    fn an_unexpected_value_is_named_with_its_column_and_cut() {
        let error = parse::<u32>(&["Source_Port", "Master_Port"], &"x".repeat(1000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("column Source_Port holds `{}`", "x".repeat(80))
        );
    }
}
