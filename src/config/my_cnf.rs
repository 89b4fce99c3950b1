//! Credentials files in the style of `my.cnf`.

use std::path::Path;

use super::secret::Secret;

/// `user` and `password` of the group `[client]`; what the file lacks is `None`.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
}

/// Reads a credentials file. Errors quote no line: it may be a password.
pub(super) fn read(path: &Path) -> Result<Client, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).map_err(|line| format!("{}, line {line}: expected `[group]` or `name = value`", path.display()))
}

fn parse(text: &str) -> Result<Client, usize> {
    let mut client = Client::default();
    let mut in_client = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(group) = line.strip_prefix('[') {
            in_client = group
                .strip_suffix(']')
                .ok_or(index + 1)?
                .trim()
                .eq_ignore_ascii_case("client");
            continue;
        }
        // Options without a value (`skip-ssl`) are legal in such files.
        let (name, value) = line
            .split_once('=')
            .map_or((line, ""), |(name, value)| (name.trim(), unquote(value.trim())));
        if name.is_empty() {
            return Err(index + 1);
        }
        if in_client && name.eq_ignore_ascii_case("user") {
            client.user = Some(value.to_owned());
        } else if in_client && name.eq_ignore_ascii_case("password") {
            client.password = Some(Secret::new(value));
        }
    }
    Ok(client)
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_taken_from_the_client_group_only() {
        let text = "# comment\n[mysqld]\nuser=mysql\n[client]\nuser = ham4db\npassword=\"a # b\"\nskip-ssl\n";
        let client = parse(text).unwrap();
        assert_eq!(client.user.as_deref(), Some("ham4db"));
        assert_eq!(client.password.unwrap().expose(), "a # b");
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        assert_eq!(parse("[client]\n= x\n").unwrap_err(), 2);
        assert_eq!(parse("[client\n").unwrap_err(), 1);
    }
}
