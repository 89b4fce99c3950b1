//! The text of a command with values in place of its placeholders.
//!
//! Orchestrator pastes values into text that a shell interprets: a quote, a `;` or a `$(` in an alias or a description
//! runs as a command. ham4db pastes a value only when it consists of plain characters, which mean the same everywhere
//! in a command. Any other value is replaced by a reference to the variable that holds it, quoted as its place
//! requires, so that a shell never interprets it:
//!
//! | place | `{failureClusterAlias}` with the value `my shop` becomes |
//! |---|---|
//! | unquoted | `"${ORC_FAILURE_CLUSTER_ALIAS}"` |
//! | within `"..."` | `${ORC_FAILURE_CLUSTER_ALIAS}` |
//! | within `'...'` | `'"${ORC_FAILURE_CLUSTER_ALIAS}"'` |
//!
//! Where the place is not recognised (a here-document, a `case` pattern), the value may have additional quotes or be
//! split at blanks. It is still never executed.

use std::collections::BTreeMap;

use super::invocation::variable_of;

/// A command for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// For `sh -c`.
    pub text: String,
    /// Whether the command ended in `&`, which is removed: the command is started in the background.
    pub detached: bool,
}

/// The syntactic place of a character in a shell command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Unquoted: the outermost place, and within `(...)` or `$(...)`.
    Plain,
    /// Within double quotes.
    Double,
    /// Within single quotes.
    Single,
    /// Within `$'...'`, where a backslash escapes.
    Ansi,
    /// Within backticks.
    Backtick,
}

/// Replaces the placeholders of a command by values. `variables` are the variables in the environment of the command.
///
/// `{name}` of an unknown name is unchanged, and so is `${name}`, which belongs to the shell. A placeholder without a
/// value becomes an empty word, so that later arguments keep their position.
pub fn render(command: &str, variables: &BTreeMap<&'static str, String>) -> Rendered {
    let trimmed = command.trim();
    let detached = trimmed.ends_with('&') && !trimmed.ends_with("&&") && !trimmed.ends_with("\\&");
    let body = if detached {
        trimmed.strip_suffix('&').unwrap_or(trimmed).trim_end()
    } else {
        trimmed
    };
    let mut text = String::with_capacity(body.len());
    let mut places = vec![Place::Plain];
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let place = places.last().copied().unwrap_or(Place::Plain);
        if c == '{'
            && !text.ends_with('$')
            && let Some((name, after)) = rest.get(1..).and_then(|inner| inner.split_once('}'))
            && let Some(variable) = variable_of(name)
        {
            let value = variables.get(variable).map_or("", String::as_str);
            text.push_str(&inserted(place, variable, value));
            rest = after;
            continue;
        }
        let taken = step(place, &mut places, &text, rest);
        let (now, after) = rest.split_at(taken);
        text.push_str(now);
        rest = after;
    }
    Rendered { text, detached }
}

/// Updates the place from the characters at the beginning of `rest`; returns how many bytes were read.
fn step(place: Place, places: &mut Vec<Place>, before: &str, rest: &str) -> usize {
    let mut chars = rest.chars();
    let (first, second) = (chars.next().unwrap_or_default(), chars.next());
    let pair = || first.len_utf8() + second.map_or(0, char::len_utf8);
    match (place, first) {
        // An escaped character has no meaning of its own.
        (Place::Plain | Place::Double | Place::Ansi | Place::Backtick, '\\') => return pair(),
        (Place::Plain | Place::Backtick, '\'') => places.push(Place::Single),
        (Place::Plain | Place::Backtick, '$') if second == Some('\'') => {
            places.push(Place::Ansi);
            return pair();
        }
        (Place::Plain | Place::Double | Place::Backtick, '$') if second == Some('(') => {
            places.push(Place::Plain);
            return pair();
        }
        (Place::Plain | Place::Backtick, '"') => places.push(Place::Double),
        (Place::Plain | Place::Double, '`') => {
            // Backticks inside quotes cannot nest, so the next one ends them.
            places.push(Place::Backtick);
        }
        (Place::Plain | Place::Backtick, '(') => places.push(Place::Plain),
        (Place::Plain, ')') if places.len() > 1 => {
            places.pop();
        }
        (Place::Plain | Place::Backtick, '#') if before.is_empty() || before.ends_with([' ', '\t', '\n', ';', '(']) => {
            // A comment: an apostrophe in it quotes nothing.
            return rest.find('\n').unwrap_or(rest.len());
        }
        (Place::Double, '"') | (Place::Single | Place::Ansi, '\'') | (Place::Backtick, '`') => {
            places.pop();
        }
        _ => {}
    }
    first.len_utf8()
}

fn inserted(place: Place, variable: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:,/@%+-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    match place {
        Place::Plain | Place::Backtick => format!("\"${{{variable}}}\""),
        Place::Double => format!("${{{variable}}}"),
        Place::Single => format!("'\"${{{variable}}}\"'"),
        Place::Ansi => format!("'\"${{{variable}}}\"$'"),
    }
}
