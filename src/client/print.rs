//! Output for scripts: keys one per line, names, and JSON in the format of `jq .`.

use serde_json::Value;

/// Each text on a line of its own.
pub fn lines(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| text + "\n").collect()
}

/// A value as `jq -r` prints it: texts without quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// The text of a field, empty when there is none.
pub fn field(value: &Value, name: &str) -> String {
    value
        .get(name)
        .filter(|field| !field.is_null())
        .map(plain)
        .unwrap_or_default()
}

/// `host:port` of a key, or of an object with a key; empty otherwise.
pub fn key(value: &Value) -> String {
    let key = value.get("Key").unwrap_or(value);
    match (
        key.get("Hostname").and_then(Value::as_str),
        key.get("Port").and_then(Value::as_u64),
    ) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port)) if !host.is_empty() => format!("{host}:{port}"),
        _ => String::new(),
    }
}

/// The key on a line; nothing when there is none.
pub fn key_line(value: &Value) -> String {
    lines(Some(key(value)).filter(|key| !key.is_empty()))
}

/// Items of a list; none when it is `null`, as Go writes an empty one.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The keys of a list, one per line.
pub fn keys(value: &Value) -> String {
    items(value).iter().map(key_line).collect()
}

/// JSON with an indentation of two spaces and its fields in the received order.
pub fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = json.trim().chars().peekable();
    let newline = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    };
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            (escaped, in_string) = (!escaped && character == '\\', escaped || character != '"');
            continue;
        }
        match character {
            '{' | '[' => {
                text.push(character);
                while characters.next_if(|next| next.is_whitespace()).is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    newline(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                newline(&mut text, depth);
            }
            ':' => text.push_str(": "),
            blank if blank.is_whitespace() => {}
            other => {
                in_string = other == '"';
                text.push(other);
            }
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_indented_in_its_own_order() {
        let text = r#"{"b":[1,{}, [ ]],"a":"x\"{,:\\","n":null}"#;
        assert_eq!(
            indented(text),
            "{\n  \"b\": [\n    1,\n    {},\n    []\n  ],\n  \"a\": \"x\\\"{,:\\\\\",\n  \"n\": null\n}\n"
        );
        assert_eq!(indented("\"OK\""), "\"OK\"\n");
    }

    #[test]
    fn keys_are_taken_from_instances_and_from_keys() {
        let list =
            json!([{"Key": {"Hostname": "a", "Port": 1}}, {"Hostname": "::1", "Port": 2}, {"Hostname": "", "Port": 0}]);
        assert_eq!(keys(&list), "a:1\n[::1]:2\n");
        assert_eq!(keys(&Value::Null), "");
    }
}
