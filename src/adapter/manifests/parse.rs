//! Parses the files into documents and accounts. It does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::app::ports::Credentials;
use crate::domain::declared::{SecretState, SourceContents};
use crate::domain::intent::Origin;
use crate::resource;

use super::status::file_name;

/// Namespace of documents that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// The contents of the files.
pub(super) struct Parsed {
    /// The documents. The caller sets their completeness.
    pub(super) seen: SourceContents,
    /// The accounts of the documents.
    pub(super) credentials: BTreeMap<Origin, Credentials>,
    /// Problems of the files, for the log.
    pub(super) problems: BTreeSet<String>,
    /// Whether the name of every document is known. Only then a missing document is known to be absent.
    pub(super) all_named: bool,
}

/// The decoded data of a Secret, or the reason why it cannot be decoded.
type Secret = Result<BTreeMap<String, Vec<u8>>, String>;

/// Parses all files. When several files contain a document, the first one by file name is used. `statuses` are the texts of the
/// status files by file name.
pub(super) fn parse(files: BTreeMap<String, Result<String, String>>, statuses: &BTreeMap<String, String>) -> Parsed {
    let mut parsed = Parsed {
        seen: SourceContents::default(),
        credentials: BTreeMap::new(),
        problems: BTreeSet::new(),
        all_named: true,
    };
    let mut secrets: BTreeMap<(String, String), Secret> = BTreeMap::new();
    let mut locations: BTreeMap<Origin, String> = BTreeMap::new();
    for (file, text) in files {
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                parsed.problems.insert(format!("{file}: {why}"));
                parsed.all_named = false;
                continue;
            }
        };
        for (line, chunk) in documents_of(&text) {
            let location = format!("{file} line {line}");
            match serde_yaml::from_str::<Value>(chunk) {
                Ok(value) => {
                    for item in items(value) {
                        add_document(&mut parsed, &mut secrets, &mut locations, &location, item, statuses);
                    }
                }
                Err(why) => {
                    parsed.problems.insert(format!("{location}: invalid YAML: {why}"));
                    parsed.all_named = false;
                }
            }
        }
    }
    attach_secrets(&mut parsed, &secrets);
    parsed
        .seen
        .documents
        .sort_by(|a, b| a.document.origin.cmp(&b.document.origin));
    parsed
}

/// The documents of a text, each with the number of its first line. The text is divided here, because a YAML parser stops at the
/// first invalid document and would not read those after it. A line that begins with `---` always divides (YAML 1.2, 9.1.2).
fn documents_of(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begin, mut first_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let divides = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if divides {
            documents.push((first_line, text.get(begin..offset).unwrap_or_default()));
            begin = offset;
            first_line = index + 1;
        }
        offset += line.len();
    }
    documents.push((first_line, text.get(begin..).unwrap_or_default()));
    let is_empty = |chunk: &str| {
        chunk.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
        })
    };
    documents.retain(|(_, chunk)| !is_empty(chunk));
    documents
}

/// A document, or the items of a List, as `kubectl get -o yaml` prints them.
fn items(mut value: Value) -> Vec<Value> {
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items,
        _ => vec![value],
    }
}

/// Adds one document to the result.
fn add_document(
    parsed: &mut Parsed,
    secrets: &mut BTreeMap<(String, String), Secret>,
    locations: &mut BTreeMap<Origin, String>,
    location: &str,
    mut value: Value,
    statuses: &BTreeMap<String, String>,
) {
    let text = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = text(&value, "/kind");
    let namespace = Some(text(&value, "/metadata/namespace")).filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let name = text(&value, "/metadata/name");
    if kind == "Secret" && text(&value, "/apiVersion") == "v1" {
        if secrets
            .insert((namespace.clone(), name.clone()), secret(&value))
            .is_some()
        {
            parsed.problems.insert(format!(
                "{location}: Secret {namespace}/{name} is defined more than once; the last definition is used"
            ));
        }
        return;
    }
    if kind != resource::KIND {
        let what = if kind.is_empty() {
            "a document without kind"
        } else {
            &kind
        };
        parsed.problems.insert(format!(
            "{location}: {what} is ignored: only {} and v1 Secret are read",
            resource::KIND
        ));
        parsed.all_named &= !kind.is_empty();
        return;
    }
    // The status has a file of its own. A status in the document was copied from elsewhere and is ignored.
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
        let status = statuses
            .get(&file_name(&namespace, &name))
            .and_then(|text| serde_yaml::from_str::<Value>(text).ok());
        if let Some(status) = status.and_then(|mut status| status.get_mut("status").map(Value::take)) {
            object.insert("status".to_owned(), status);
        }
    }
    match resource::document(&value, DEFAULT_NAMESPACE) {
        Ok(read) => {
            let origin = read.declared.document.origin.clone();
            if let Some(first) = locations.get(&origin) {
                parsed.problems.insert(format!(
                    "{location}: {origin} is ignored: {first} contains the same document"
                ));
                return;
            }
            for field in &read.unknown {
                parsed
                    .problems
                    .insert(format!("{location}: {origin}: unknown field {field} is ignored"));
            }
            parsed.seen.unreadable.remove(&origin);
            locations.insert(origin, location.to_owned());
            parsed.seen.documents.push(read.declared);
        }
        Err(fault) => {
            parsed.problems.insert(format!("{location}: {fault}"));
            match fault.origin {
                Some(origin) if !locations.contains_key(&origin) => {
                    parsed.seen.unreadable.insert(origin, fault.why);
                }
                Some(_) => {}
                None => parsed.all_named = false,
            }
        }
    }
}

/// Decodes a Secret. `data` is base64; `stringData` is text and takes precedence, as in Kubernetes.
fn secret(value: &Value) -> Secret {
    let mut decoded = BTreeMap::new();
    let entries = |field: &str| value.get(field).and_then(Value::as_object).into_iter().flatten();
    for (key, entry) in entries("data") {
        let text: String = entry.as_str().unwrap_or_default().split_whitespace().collect();
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| format!("data.{key} is not valid base64"))?;
        decoded.insert(key.clone(), bytes);
    }
    for (key, entry) in entries("stringData") {
        let text = match entry {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(format!("stringData.{key} is not a string; quote it"));
            }
        };
        decoded.insert(key.clone(), text.into_bytes());
    }
    Ok(decoded)
}

/// Sets the credentials of the documents from the Secrets that they name.
fn attach_secrets(parsed: &mut Parsed, secrets: &BTreeMap<(String, String), Secret>) {
    for declared in &mut parsed.seen.documents {
        let origin = &declared.document.origin;
        let Origin::Document { namespace, .. } = origin else {
            continue;
        };
        let name = &declared.document.credentials_secret;
        let data = secrets
            .get(&(namespace.clone(), name.clone()))
            .ok_or_else(|| format!("the directory has no Secret {namespace}/{name}"))
            .and_then(|secret| {
                secret
                    .as_ref()
                    .map_err(|why| format!("Secret {namespace}/{name}: {why}"))
            });
        let credentials = data.and_then(|data| {
            Credentials::from_secret(data, declared.tls).map_err(|why| format!("Secret {namespace}/{name}: {why}"))
        });
        match credentials {
            Ok(credentials) => {
                parsed.credentials.insert(origin.clone(), credentials);
                declared.secret = SecretState::Read;
            }
            Err(why) => {
                parsed.problems.insert(format!("{origin}: {why}"));
                declared.secret = SecretState::Missing(why);
            }
        }
    }
}
