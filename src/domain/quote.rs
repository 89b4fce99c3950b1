//! Quotes values and names in SQL text. No other module quotes.
//!
//! All statements to a managed server are text without parameters, so each value passes through one of these functions.
//! The difficulty is the backslash. By default it begins an escape. Under `NO_BACKSLASH_ESCAPES` it is an ordinary
//! character, and the owner of the server sets that mode. Hence:
//!
//! - A quote is always doubled, never written `\'`: a doubled quote does not end a literal in either mode.
//! - Where an expression is allowed, [`quote_string`] writes unusual characters in hexadecimal, which means the same in
//!   every mode and character set.
//! - Statements such as CHANGE REPLICATION SOURCE, and FOR CHANNEL, accept a quoted literal only. [`quote_literal`]
//!   escapes backslashes there. In neither mode can a value end the literal, but the *value* is right only without
//!   `NO_BACKSLASH_ESCAPES`. A session that sends such statements therefore begins with [`PLAIN_SQL_MODE`].
//!
//! All functions assume a connection in UTF-8, which ham4db always uses: in GBK or Shift-JIS a backslash can be the
//! second half of a character.

use std::fmt::Write as _;

/// The first statement of a session that sends administrative statements. It makes the backslash an escape, and
/// switches off `ANSI_QUOTES` and MariaDB's Oracle mode. Such a session changes no data, so other parts of the mode do
/// not matter.
pub const PLAIN_SQL_MODE: &str = "SET SESSION sql_mode = ''";

/// Quotes a string value for an expression (`SELECT GET_LOCK(...)`, `WHERE user = ...`). The result means the same
/// under every `sql_mode`.
pub fn quote_string(value: &str) -> String {
    let is_usual = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    if value.bytes().all(is_usual) {
        return format!("'{}'", value.replace('\'', "''"));
    }
    let mut literal = String::with_capacity(value.len() * 2 + 12);
    // With a named character set the literal is a string of characters, not of bytes.
    literal.push_str("_utf8mb4 X'");
    for byte in value.bytes() {
        write!(literal, "{byte:02X}").expect("because a String takes all that is written to it");
    }
    literal.push('\'');
    literal
}

/// Quotes a string value where the grammar accepts a quoted literal only. For a session in [`PLAIN_SQL_MODE`].
pub fn quote_literal(value: &str) -> String {
    let mut literal = String::with_capacity(value.len() + 2);
    literal.push('\'');
    for character in value.chars() {
        match character {
            '\'' => literal.push_str("''"),
            '\\' => literal.push_str("\\\\"),
            '\0' => literal.push_str("\\0"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\u{1a}' => literal.push_str("\\Z"),
            usual => literal.push(usual),
        }
    }
    literal.push('\'');
    literal
}

/// Quotes the name of a schema, table, column or variable. A NUL has no quoted form, and the server refuses a statement
/// with one in a name.
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_strings_stay_readable_and_unusual_ones_become_hexadecimal() {
        let table = [
            ("ham4db.step", "'ham4db.step'"),
            ("", "''"),
            ("it's", "'it''s'"),
            ("' OR 1=1 -- ", "''' OR 1=1 -- '"),
            ("a\\", "_utf8mb4 X'615C'"),
            ("\\' OR 1=1", "_utf8mb4 X'5C27204F5220313D31'"),
            ("a\nb", "_utf8mb4 X'610A62'"),
            ("\0", "_utf8mb4 X'00'"),
            ("\u{1a}", "_utf8mb4 X'1A'"),
            ("\u{7f}", "_utf8mb4 X'7F'"),
            ("é", "_utf8mb4 X'C3A9'"),
        ];
        for (value, wanted) in table {
            assert_eq!(quote_string(value), wanted);
        }
    }

    #[test]
    fn literals_escape_what_ends_or_bends_them() {
        assert_eq!(quote_literal("p'a\\s\0s\n\r\u{1a}é\""), "'p''a\\\\s\\0s\\n\\r\\Zé\"'");
        assert_eq!(quote_literal(""), "''");
    }

    #[test]
    fn identifiers_double_their_backticks() {
        assert_eq!(quote_identifier("order"), "`order`");
        assert_eq!(quote_identifier("a`; DROP TABLE b; --"), "`a``; DROP TABLE b; --`");
    }

    /// Reads one literal as the server's lexer does; the value, and what stands behind it.
    fn read_literal(sql: &str, backslash_escapes: bool) -> (String, String) {
        let mut characters = sql.strip_prefix('\'').unwrap().chars().peekable();
        let mut value = String::new();
        while let Some(character) = characters.next() {
            match character {
                '\'' if characters.peek() == Some(&'\'') => value.extend(characters.next()),
                '\'' => return (value, characters.collect()),
                '\\' if backslash_escapes => value.push(match characters.next().unwrap() {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    'Z' => '\u{1a}',
                    same => same,
                }),
                usual => value.push(usual),
            }
        }
        panic!("{sql} does not end");
    }

    proptest! {
        #[test]
        fn a_quoted_string_is_read_back_in_every_mode(value in any::<String>()) {
            let sql = quote_string(&value);
            if let Some(hexadecimal) = sql.strip_prefix("_utf8mb4 X'") {
                let digits = hexadecimal.strip_suffix('\'').unwrap();
                let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
                prop_assert_eq!(String::from_utf8(bytes.collect()).unwrap(), value);
            } else {
                for backslash_escapes in [true, false] {
                    prop_assert_eq!(read_literal(&sql, backslash_escapes), (value.clone(), String::new()));
                }
            }
        }

        #[test]
        fn a_quoted_literal_is_read_back_and_never_broken_out_of(value in "[a'\\\\\n\0\u{1a}é]{0,12}") {
            let sql = quote_literal(&value);
            prop_assert_eq!(read_literal(&sql, true), (value, String::new()));
            prop_assert_eq!(read_literal(&sql, false).1, "", "nothing may stand behind it in any mode");
        }
    }
}
