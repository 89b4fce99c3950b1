//! Reading configuration files: JSON with orchestrator's keys, in any case; later files override earlier ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::accepted::{self, OBSOLETE};
use super::keys::{
    BackendKeys, DiscoveryKeys, GroupKeys, HookKeys, ListenerKeys, PseudoGtidKeys, PublisherKeys, RecoveryKeys,
    TopologyKeys,
};

/// The files that are read when none is given, in this order; later ones override earlier ones.
pub const SEARCHED: [&str; 3] = ["/etc/ham4db.conf.json", "conf/ham4db.conf.json", "ham4db.conf.json"];

/// Orchestrator's files; read when no file of ham4db exists.
pub const SEARCHED_COMPATIBLE: [&str; 3] = [
    "/etc/orchestrator.conf.json",
    "conf/orchestrator.conf.json",
    "orchestrator.conf.json",
];

/// Largest file that is read, in bytes: a configuration has a few kilobytes, and a wrong path may lead to any file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read configuration file {path}: {source}")]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is too large to be a configuration file.
    #[error("configuration file {0} is larger than 1 MiB: is this the right file?")]
    TooLarge(PathBuf),
    /// A value has the wrong type, or the file is not JSON.
    #[error("configuration file {path}, line {line}: {key}{message}")]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key with a colon and a blank, or empty when the JSON itself is invalid.
        key: String,
        /// What was found and what was expected.
        message: String,
    },
}

/// The values of the files, and defaults for the rest.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Listener.
    pub listener: ListenerKeys,
    /// Managed servers.
    pub topology: TopologyKeys,
    /// Backend.
    pub backend: BackendKeys,
    /// Group and documents.
    pub group: GroupKeys,
    /// Discovery.
    pub discovery: DiscoveryKeys,
    /// Recoveries.
    pub recovery: RecoveryKeys,
    /// Pseudo-GTID.
    pub pseudo_gtid: PseudoGtidKeys,
    /// Hooks.
    pub hooks: HookKeys,
    /// Key-value stores and ProxySQL.
    pub publishers: PublisherKeys,
    /// Accepted keys that are not used yet and have a value other than the default; for secrets only `true`.
    pub accepted: BTreeMap<&'static str, Value>,
    /// Unknown keys, as `FILE: KEY`.
    pub unknown: BTreeSet<String>,
    /// Keys that orchestrator removed.
    pub obsolete: BTreeSet<String>,
    /// Whether one of the files was written for orchestrator: by its name, or by the key `AuthenticationMethod`, which its sample files
    /// have and ham4db's do not.
    pub is_orchestrators: bool,
}

impl File {
    /// Reads files in this order, later ones over earlier ones.
    ///
    /// # Errors
    /// The first file that cannot be read or has a value of the wrong type; the error names file, line and key.
    pub fn read(paths: &[PathBuf]) -> Result<Self, FileError> {
        let mut file = Self::default();
        for path in paths {
            let unreadable = |source| FileError::Unreadable {
                path: path.clone(),
                source,
            };
            if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
                return Err(FileError::TooLarge(path.clone()));
            }
            let text = std::fs::read_to_string(path).map_err(unreadable)?;
            file.merge(path, &text)?;
        }
        Ok(file)
    }

    /// Reads one text; its values override the present ones. `path` is used in messages.
    ///
    /// # Errors
    /// When a value has the wrong type or the text is not a JSON object.
    pub fn merge(&mut self, path: &Path, text: &str) -> Result<(), FileError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let mut track = serde_path_to_error::Track::new();
        let mut unknown = BTreeSet::new();
        let mut note = |ignored: serde_ignored::Path<'_>| {
            unknown.insert(ignored.to_string().replace(".?", ""));
        };
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let outcome = Reading(self).deserialize(serde_ignored::Deserializer::new(tracked, &mut note));
        let malformed = |error: &serde_json::Error, key: String| {
            let message = error.to_string();
            let message = message
                .rsplit_once(" at line ")
                .map_or(message.as_str(), |(what, _)| what)
                .to_owned();
            FileError::Malformed {
                path: path.to_owned(),
                line: error.line(),
                key,
                message,
            }
        };
        if let Err(error) = outcome {
            let key = track.path().to_string();
            let key = if key == "." || error.is_syntax() || error.is_eof() {
                String::new()
            } else {
                format!("{key}: ")
            };
            return Err(malformed(&error, key));
        }
        json.end().map_err(|error| malformed(&error, String::new()))?;
        self.is_orchestrators |= has_name_of_orchestrator(path);
        for key in unknown {
            let known_once = OBSOLETE.iter().find(|name| name.eq_ignore_ascii_case(&key));
            match known_once {
                Some(name) => self.obsolete.insert((*name).to_owned()),
                None => self.unknown.insert(format!("{}: {key}", path.display())),
            };
        }
        Ok(())
    }

    /// Whether an accepted key has a value other than the default.
    pub fn is_set(&self, name: &str) -> bool {
        self.accepted.contains_key(name)
    }
}

/// The files that are read when none is given: those of [`SEARCHED`] that exist, else those of [`SEARCHED_COMPATIBLE`].
pub fn search(exists: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let present = |names: &[&str]| {
        names
            .iter()
            .map(PathBuf::from)
            .filter(|path| exists(path))
            .collect::<Vec<_>>()
    };
    let own = present(&SEARCHED);
    if own.is_empty() {
        present(&SEARCHED_COMPATIBLE)
    } else {
        own
    }
}

/// `orchestrator.conf.json`, or a name made from it, such as `orchestrator-sample.conf.json`.
fn has_name_of_orchestrator(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("orchestrator") && name.ends_with(".conf.json")
}

/// Reads an object into a [`File`] that already has values.
struct Reading<'a>(&'a mut File);

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of configuration keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let file = self.0;
        let mut spellings = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(own) = own_spelling(&key) {
                if let Some(before) = spellings.insert(own.to_ascii_lowercase(), key.clone())
                    && !before.eq_ignore_ascii_case(&key)
                {
                    return Err(A::Error::custom(format!(
                        "{before} and {key} are names of one key: keep one of them"
                    )));
                }
                if file.backend.read(&own, &mut map)? {
                    continue;
                }
            }
            let used = file.listener.read(&key, &mut map)?
                || file.backend.read(&key, &mut map)?
                || file.topology.read(&key, &mut map)?
                || file.group.read(&key, &mut map)?
                || file.discovery.read(&key, &mut map)?
                || file.recovery.read(&key, &mut map)?
                || file.pseudo_gtid.read(&key, &mut map)?
                || file.hooks.read(&key, &mut map)?
                || file.publishers.read(&key, &mut map)?;
            if used {
                continue;
            }
            match accepted::find(&key) {
                Some(known) => {
                    file.is_orchestrators |= known.name == "AuthenticationMethod";
                    let value = map.next_value_seed(OfType(known))?;
                    accept(file, known, value);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// ham4db's name of a key of the backend, for either name of it.
fn own_spelling(key: &str) -> Option<String> {
    let rest = |prefix: &str| {
        key.get(..prefix.len())
            .filter(|start| start.eq_ignore_ascii_case(prefix))
            .and_then(|_| key.get(prefix.len()..))
    };
    for (theirs, own) in [("MySQLOrchestrator", "MySQLHam4db"), ("SkipOrchestrator", "SkipHam4db")] {
        if let Some(rest) = rest(theirs).or_else(|| rest(own)) {
            return Some(format!("{own}{rest}"));
        }
    }
    None
}

/// Reads the value of an accepted key and checks its type. The error omits the value: some of these keys are secrets.
struct OfType(&'static accepted::Accepted);

impl<'de> DeserializeSeed<'de> for OfType {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let usual = self.0.default;
        if value.is_null() || usual.admits(&value) {
            Ok(value)
        } else {
            Err(D::Error::custom(format!(
                "invalid type, expected {}",
                usual.expectation()
            )))
        }
    }
}

fn accept(file: &mut File, known: &'static accepted::Accepted, value: Value) {
    if value.is_null() {
        return;
    }
    if known.default.is(&value) {
        file.accepted.remove(known.name);
    } else {
        let kept = if matches!(known.default, accepted::Usual::Secret) {
            Value::Bool(true)
        } else {
            value
        };
        file.accepted.insert(known.name, kept);
    }
}
