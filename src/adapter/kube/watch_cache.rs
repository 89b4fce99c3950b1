//! The state that was read from the API server. It is updated by events, and provides documents and accounts. It does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::app::ports::Credentials;
use crate::domain::declared::{Completeness, DeclaredCluster, Definition, SecretState, SourceContents};
use crate::domain::intent::Origin;
use crate::resource;

use super::list_watch::ObjectChange;
use super::pods::{PodWatches, PodsAndNodes};
use super::{RequestError, role_manifest};

/// Namespace and name of a Secret.
pub(super) type SecretKey = (String, String);

/// A change at the API server.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// A change of the documents of a scope, by the index of the scope.
    Documents(usize, ObjectChange<DynamicObject>),
    /// A change of a Secret.
    Secret(SecretKey, ObjectChange<Secret>),
    /// A change of the pods of a scope, by the index of the scope.
    Pods(usize, Box<ObjectChange<Pod>>),
    /// A change of the nodes.
    Nodes(Box<ObjectChange<Node>>),
    /// The definition was read. The number is the value of [`WatchCache::changes`] at the begin of the read.
    DefinitionRead(u64, Definition),
}

/// A parsed document, or the reason why it cannot be parsed.
type ParsedDocument = Result<DeclaredCluster, String>;

/// The documents of one namespace, or of all namespaces.
#[derive(Default)]
struct Scope {
    documents: BTreeMap<Origin, ParsedDocument>,
    is_current: bool,
}

/// A Secret that a document names.
#[derive(Default)]
struct SecretEntry {
    /// The last known content; `None` when the Secret does not exist, or was never read.
    data: Option<BTreeMap<String, Vec<u8>>>,
    read_state: ReadState,
}

/// Whether the content of a Secret is current.
#[derive(Default)]
enum ReadState {
    #[default]
    Unread,
    Current,
    Broken(RequestError),
}

/// The state that was read from the API server.
#[derive(Default)]
pub(super) struct WatchCache {
    scopes: Vec<Scope>,
    secrets: BTreeMap<SecretKey, SecretEntry>,
    pods_and_nodes: PodsAndNodes,
    definition: Definition,
    /// The number of changes of document specs.
    changes: u64,
    /// The value of `changes` before the last read of the definition.
    checked: Option<u64>,
}

impl WatchCache {
    /// Creates an empty cache for this number of scopes.
    pub(super) fn new(scopes: usize) -> Self {
        Self {
            scopes: (0..scopes).map(|_| Scope::default()).collect(),
            definition: Definition::NotReadYet,
            ..Self::default()
        }
    }

    /// Also caches pods and nodes. `scopes` are the namespaces of the scopes; `None` means all namespaces.
    pub(super) fn with_pods_and_nodes(self, pod_watches: PodWatches, scopes: Vec<Option<String>>) -> Self {
        Self {
            pods_and_nodes: PodsAndNodes::new(pod_watches, scopes),
            ..self
        }
    }

    /// The number of changes of document specs. It orders changes and reads of the definition.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The definition as it was read last.
    pub(super) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Applies an event. Returns warnings for the log.
    pub(super) fn apply(&mut self, event: WatchEvent) -> Vec<String> {
        match event {
            WatchEvent::Documents(scope, change) => {
                let Some(scope) = self.scopes.get_mut(scope) else {
                    return Vec::new();
                };
                let (warnings, is_change) = scope.apply(change);
                self.changes += u64::from(is_change);
                warnings
            }
            WatchEvent::DefinitionRead(changes, definition) => {
                self.definition = definition;
                self.checked = self.checked.max(Some(changes));
                Vec::new()
            }
            WatchEvent::Secret(key, change) => {
                // A Secret that no document names any more may still send a last event.
                if let Some(entry) = self.secrets.get_mut(&key) {
                    entry.apply(change);
                }
                Vec::new()
            }
            WatchEvent::Pods(scope, change) => self.pods_and_nodes.apply_pods(scope, *change).into_iter().collect(),
            WatchEvent::Nodes(change) => self.pods_and_nodes.apply_nodes(*change).into_iter().collect(),
        }
    }

    /// The Secrets that documents name. Others are removed from the cache.
    pub(super) fn secrets_wanted(&mut self) -> BTreeSet<SecretKey> {
        let wanted: BTreeSet<SecretKey> = self.declared().filter_map(secret_of).collect();
        self.secrets.retain(|key, _| wanted.contains(key));
        for key in &wanted {
            self.secrets.entry(key.clone()).or_default();
        }
        wanted
    }

    fn declared(&self) -> impl Iterator<Item = &DeclaredCluster> {
        self.scopes
            .iter()
            .flat_map(|scope| scope.documents.values())
            .filter_map(|read| read.as_ref().ok())
    }

    /// The documents, with their completeness.
    pub(super) fn contents(&self) -> SourceContents {
        let mut contents = SourceContents {
            completeness: if self.scopes.iter().all(|scope| scope.is_current) {
                Completeness::Complete
            } else {
                Completeness::Stale
            },
            pods: self.pods_and_nodes.known(),
            definition: self.definition.clone(),
            unchecked: self.checked.is_none_or(|checked| checked < self.changes),
            ..SourceContents::default()
        };
        for (origin, read) in self.scopes.iter().flat_map(|scope| &scope.documents) {
            match read {
                Ok(declared) => {
                    let mut declared = declared.clone();
                    declared.secret = self.credentials_of(&declared).1;
                    contents.documents.push(declared);
                }
                Err(why) => {
                    contents.unreadable.insert(origin.clone(), why.clone());
                }
            }
        }
        contents
    }

    /// The credentials of the documents.
    pub(super) fn credentials(&self) -> BTreeMap<Origin, Credentials> {
        self.declared()
            .filter_map(|declared| Some((declared.document.origin.clone(), self.credentials_of(declared).0?)))
            .collect()
    }

    fn credentials_of(&self, declared: &DeclaredCluster) -> (Option<Credentials>, SecretState) {
        let Some((key, entry)) = secret_of(declared).and_then(|key| self.secrets.get(&key).map(|entry| (key, entry)))
        else {
            return (None, SecretState::Unread);
        };
        let (namespace, name) = key;
        let credentials = entry
            .data
            .as_ref()
            .map(|data| Credentials::from_secret(data, declared.tls));
        match (credentials, &entry.read_state) {
            (Some(Ok(credentials)), ReadState::Current | ReadState::Unread) => (Some(credentials), SecretState::Read),
            (Some(Ok(credentials)), ReadState::Broken(request_error)) => (
                Some(credentials),
                SecretState::LastKnown(format!(
                    "failed to read Secret {namespace}/{name}, the last known account stays in use: {}",
                    request_error.why
                )),
            ),
            (Some(Err(why)), _) => (None, SecretState::Missing(format!("Secret {namespace}/{name}: {why}"))),
            (None, ReadState::Current) => (
                None,
                SecretState::Missing(format!("Secret {name} does not exist in namespace {namespace}")),
            ),
            (None, ReadState::Broken(request_error)) if request_error.is_forbidden() => (
                None,
                SecretState::Forbidden(forbidden(&namespace, &name, &request_error.why)),
            ),
            (None, ReadState::Unread | ReadState::Broken(_)) => (None, SecretState::Unread),
        }
    }
}

impl Scope {
    /// Applies a change. Returns warnings for the log, and whether the spec of a document changed.
    fn apply(&mut self, change: ObjectChange<DynamicObject>) -> (Vec<String>, bool) {
        let before = self.problems();
        let mut is_change = false;
        match change {
            ObjectChange::Listed(objects) => {
                let listed: BTreeMap<Origin, ParsedDocument> = objects
                    .into_iter()
                    .map(|object| (origin_of(&object), read(&object)))
                    .collect();
                is_change = listed.iter().any(|(origin, read)| self.is_change(origin, read));
                self.documents = listed;
                self.is_current = true;
            }
            ObjectChange::Applied(object) => {
                let (origin, read) = (origin_of(&object), read(&object));
                is_change = self.is_change(&origin, &read);
                self.documents.insert(origin, read);
            }
            ObjectChange::Deleted(object) => {
                self.documents.remove(&origin_of(&object));
            }
            ObjectChange::Broken(_) => self.is_current = false,
        }
        (self.problems().difference(&before).cloned().collect(), is_change)
    }

    /// Whether a document changed, apart from its status.
    fn is_change(&self, origin: &Origin, read: &ParsedDocument) -> bool {
        match (self.documents.get(origin), read) {
            (Some(Ok(before)), Ok(now)) => {
                let now = DeclaredCluster {
                    observed_by: before.observed_by.clone(),
                    ..now.clone()
                };
                *before != now
            }
            (Some(before), now) => before != now,
            (None, _) => true,
        }
    }

    fn problems(&self) -> BTreeSet<String> {
        self.documents
            .iter()
            .filter_map(|(origin, read)| {
                read.as_ref()
                    .err()
                    .map(|why| format!("{origin} cannot be parsed, its last valid version stays in effect: {why}"))
            })
            .collect()
    }
}

impl SecretEntry {
    fn apply(&mut self, change: ObjectChange<Secret>) {
        match change {
            ObjectChange::Listed(mut secrets) => {
                self.data = secrets.pop().map(decoded);
                self.read_state = ReadState::Current;
            }
            ObjectChange::Applied(secret) => {
                self.data = Some(decoded(secret));
                self.read_state = ReadState::Current;
            }
            ObjectChange::Deleted(_) => {
                self.data = None;
                self.read_state = ReadState::Current;
            }
            ObjectChange::Broken(request_error) => self.read_state = ReadState::Broken(request_error),
        }
    }
}

/// The message for a forbidden Secret: the remedy in the first line, and below it the Role to apply.
fn forbidden(namespace: &str, name: &str, refused: &str) -> String {
    let rule =
        format!("{{apiGroups: [\"\"], resources: [secrets], resourceNames: [\"{name}\"], verbs: [get, list, watch]}}");
    format!(
        "RBAC refuses to read Secret {namespace}/{name}: add it to the chart's credentialSecrets, or apply the Role below ({refused})\n{}",
        role_manifest::role_manifest(namespace, &format!("ham4db-{name}"), &[rule], refused)
    )
}

fn decoded(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, bytes)| (key, bytes.0))
        .collect()
}

fn secret_of(declared: &DeclaredCluster) -> Option<SecretKey> {
    match &declared.document.origin {
        Origin::Document { namespace, .. } => Some((namespace.clone(), declared.document.credentials_secret.clone())),
        Origin::Api | Origin::Recovery => None,
    }
}

fn origin_of(object: &DynamicObject) -> Origin {
    Origin::Document {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn read(object: &DynamicObject) -> ParsedDocument {
    let mut value = serde_json::to_value(object).map_err(|why| why.to_string())?;
    // The objects of a list have no apiVersion and kind of their own.
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), Value::from(resource::API_VERSION));
        fields.insert("kind".to_owned(), Value::from(resource::KIND));
    }
    resource::document(&value, "")
        .map(|read| read.declared)
        .map_err(|fault| fault.why)
}
