//! From the texts of the files to documents and accounts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::app::ports::Credentials;
use crate::app::ports::cluster_source::Seen;
use crate::domain::declared::SecretStanding;
use crate::domain::intent::Origin;
use crate::resource;

use super::status::file_name;

/// Namespace of documents that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What the files say.
pub(super) struct Parsed {
    /// The documents; the reading is left to the caller.
    pub(super) seen: Seen,
    /// The accounts of the documents.
    pub(super) credentials: BTreeMap<Origin, Credentials>,
    /// What a person should mend.
    pub(super) complaints: BTreeSet<String>,
    /// Every document told at least its name: one that is absent is really absent.
    pub(super) all_known: bool,
}

/// A Secret: its decoded data, or why it cannot be decoded.
type Secret = Result<BTreeMap<String, Vec<u8>>, String>;

/// Reads all files. Of a document that stands in several, the first one by file name counts.
pub(super) fn parse(files: BTreeMap<String, Result<String, String>>, statuses: &BTreeMap<String, String>) -> Parsed {
    let mut parsed = Parsed {
        seen: Seen::default(),
        credentials: BTreeMap::new(),
        complaints: BTreeSet::new(),
        all_known: true,
    };
    let mut secrets: BTreeMap<(String, String), Secret> = BTreeMap::new();
    let mut places: BTreeMap<Origin, String> = BTreeMap::new();
    for (file, text) in files {
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                parsed.complaints.insert(format!("{file}: {why}"));
                parsed.all_known = false;
                continue;
            }
        };
        for (line, chunk) in documents_of(&text) {
            let place = format!("{file} line {line}");
            match serde_yaml::from_str::<Value>(chunk) {
                Ok(value) => {
                    for item in items(value) {
                        take(&mut parsed, &mut secrets, &mut places, &place, item, statuses);
                    }
                }
                Err(why) => {
                    parsed.complaints.insert(format!("{place}: no YAML: {why}"));
                    parsed.all_known = false;
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

/// The documents of a text with their first line. Divided by hand: a YAML parser stops at the first document that it cannot read, and
/// the ones after it are not to suffer. A line that begins with `---` divides wherever it stands (YAML 1.2, 9.1.2).
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
    let says_nothing = |chunk: &str| {
        chunk.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
        })
    };
    documents.retain(|(_, chunk)| !says_nothing(chunk));
    documents
}

/// A document, or those in a List, as `kubectl get -o yaml` prints several.
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

fn take(
    parsed: &mut Parsed,
    secrets: &mut BTreeMap<(String, String), Secret>,
    places: &mut BTreeMap<Origin, String>,
    place: &str,
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
            parsed.complaints.insert(format!(
                "{place}: Secret {namespace}/{name} stands there more than once; the last one counts"
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
        parsed.complaints.insert(format!(
            "{place}: {what} is ignored: only {} and v1 Secret are read",
            resource::KIND
        ));
        parsed.all_known &= !kind.is_empty();
        return;
    }
    // The status lies in a file of its own; what a copied document carries is of another place and time.
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
            if let Some(first) = places.get(&origin) {
                parsed
                    .complaints
                    .insert(format!("{place}: {origin} stands in {first} too, and that one counts"));
                return;
            }
            for field in &read.unknown {
                parsed
                    .complaints
                    .insert(format!("{place}: {origin}: {field} is no known field and is ignored"));
            }
            parsed.seen.unreadable.remove(&origin);
            places.insert(origin, place.to_owned());
            parsed.seen.documents.push(read.declared);
        }
        Err(fault) => {
            parsed.complaints.insert(format!("{place}: {fault}"));
            match fault.origin {
                Some(origin) if !places.contains_key(&origin) => {
                    parsed.seen.unreadable.insert(origin, fault.why);
                }
                Some(_) => {}
                None => parsed.all_known = false,
            }
        }
    }
}

/// `data` is base64, `stringData` is text and wins, as in Kubernetes.
fn secret(value: &Value) -> Secret {
    let mut decoded = BTreeMap::new();
    let entries = |field: &str| value.get(field).and_then(Value::as_object).into_iter().flatten();
    for (key, entry) in entries("data") {
        let text: String = entry.as_str().unwrap_or_default().split_whitespace().collect();
        let bytes = STANDARD.decode(text).map_err(|_| format!("data.{key} is no base64"))?;
        decoded.insert(key.clone(), bytes);
    }
    for (key, entry) in entries("stringData") {
        let text = match entry {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(format!("stringData.{key} is no text; quote it"));
            }
        };
        decoded.insert(key.clone(), text.into_bytes());
    }
    Ok(decoded)
}

fn attach_secrets(parsed: &mut Parsed, secrets: &BTreeMap<(String, String), Secret>) {
    for declared in &mut parsed.seen.documents {
        let origin = &declared.document.origin;
        let Origin::Document { namespace, .. } = origin else {
            continue;
        };
        let name = &declared.document.credentials_secret;
        let data = secrets
            .get(&(namespace.clone(), name.clone()))
            .ok_or_else(|| format!("there is no Secret {namespace}/{name} in the directory"))
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
                declared.secret = SecretStanding::Read;
            }
            Err(why) => {
                parsed.complaints.insert(format!("{origin}: {why}"));
                declared.secret = SecretStanding::Missing(why);
            }
        }
    }
}
