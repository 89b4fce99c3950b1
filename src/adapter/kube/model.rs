//! What was read of an API server so far. No waiting here: events go in, documents and accounts come out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::app::ports::Credentials;
use crate::app::ports::cluster_source::{DeclaredCluster, Reading, Seen};
use crate::domain::declared::{Definition, SecretStanding};
use crate::domain::intent::Origin;
use crate::resource;

use super::follow::Change;
use super::pods::{Follows, PodsAndNodes};
use super::{Refusal, grant};

/// Namespace and name of a Secret.
pub(super) type SecretKey = (String, String);

/// What happened at the API server.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// To the documents of a scope, by its number.
    Documents(usize, Change<DynamicObject>),
    /// To a Secret.
    Secret(SecretKey, Change<Secret>),
    /// To the pods of a scope, by its number.
    Pods(usize, Box<Change<Pod>>),
    /// To the nodes.
    Nodes(Box<Change<Node>>),
    /// The definition was looked at, after so many changes of documents ([`Model::changes`]).
    Looked(u64, Definition),
}

/// A document as it was read.
type Read = Result<DeclaredCluster, String>;

/// The documents of one namespace, or of all.
#[derive(Default)]
struct Scope {
    documents: BTreeMap<Origin, Read>,
    is_current: bool,
}

/// A Secret that a document names.
#[derive(Default)]
struct Account {
    /// What it held last; `None` when it is not there, or was never read.
    data: Option<BTreeMap<String, Vec<u8>>>,
    standing: Standing,
}

#[derive(Default)]
enum Standing {
    #[default]
    Unread,
    Current,
    Broken(Refusal),
}

/// Everything that was read.
#[derive(Default)]
pub(super) struct Model {
    scopes: Vec<Scope>,
    secrets: BTreeMap<SecretKey, Account>,
    pods_and_nodes: PodsAndNodes,
    definition: Definition,
    /// How often what documents ask for changed.
    changes: u64,
    /// How many of these changes were seen before the definition was looked at.
    checked: Option<u64>,
}

impl Model {
    /// Nothing read yet of so many scopes.
    pub(super) fn new(scopes: usize) -> Self {
        Self {
            scopes: (0..scopes).map(|_| Scope::default()).collect(),
            definition: Definition::NotReadYet,
            ..Self::default()
        }
    }

    /// The same, which also takes in pods and nodes, of scopes that are these namespaces or all.
    pub(super) fn following(self, follows: Follows, scopes: Vec<Option<String>>) -> Self {
        Self {
            pods_and_nodes: PodsAndNodes::new(follows, scopes),
            ..self
        }
    }

    /// How often what documents ask for changed: whoever looks at the definition then knows what it was when they changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The definition as it was seen last.
    pub(super) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Takes in what happened. Says what a person should know, if anything.
    pub(super) fn absorb(&mut self, happened: WatchEvent) -> Vec<String> {
        match happened {
            WatchEvent::Documents(scope, change) => {
                let Some(scope) = self.scopes.get_mut(scope) else {
                    return Vec::new();
                };
                let (warnings, is_news) = scope.absorb(change);
                self.changes += u64::from(is_news);
                warnings
            }
            WatchEvent::Looked(changes, definition) => {
                self.definition = definition;
                self.checked = self.checked.max(Some(changes));
                Vec::new()
            }
            WatchEvent::Secret(key, change) => {
                // One that no document names any more may still send its last event.
                if let Some(account) = self.secrets.get_mut(&key) {
                    account.absorb(change);
                }
                Vec::new()
            }
            WatchEvent::Pods(scope, change) => self.pods_and_nodes.absorb_pods(scope, *change).into_iter().collect(),
            WatchEvent::Nodes(change) => self.pods_and_nodes.absorb_nodes(*change).into_iter().collect(),
        }
    }

    /// The Secrets that documents name now; others are forgotten.
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

    /// The documents, and how far they can be relied on.
    pub(super) fn seen(&self) -> Seen {
        let mut seen = Seen {
            reading: if self.scopes.iter().all(|scope| scope.is_current) {
                Reading::Complete
            } else {
                Reading::Stale
            },
            pods: self.pods_and_nodes.known(),
            definition: self.definition.clone(),
            unchecked: self.checked.is_none_or(|checked| checked < self.changes),
            ..Seen::default()
        };
        for (origin, read) in self.scopes.iter().flat_map(|scope| &scope.documents) {
            match read {
                Ok(declared) => {
                    let mut declared = declared.clone();
                    declared.secret = self.credentials_of(&declared).1;
                    seen.documents.push(declared);
                }
                Err(why) => {
                    seen.unreadable.insert(origin.clone(), why.clone());
                }
            }
        }
        seen
    }

    /// The accounts of the documents.
    pub(super) fn credentials(&self) -> BTreeMap<Origin, Credentials> {
        self.declared()
            .filter_map(|declared| Some((declared.document.origin.clone(), self.credentials_of(declared).0?)))
            .collect()
    }

    fn credentials_of(&self, declared: &DeclaredCluster) -> (Option<Credentials>, SecretStanding) {
        let Some((key, account)) =
            secret_of(declared).and_then(|key| self.secrets.get(&key).map(|account| (key, account)))
        else {
            return (None, SecretStanding::Unread);
        };
        let (namespace, name) = key;
        let credentials = account
            .data
            .as_ref()
            .map(|data| Credentials::from_secret(data, declared.tls));
        match (credentials, &account.standing) {
            (Some(Ok(credentials)), Standing::Current | Standing::Unread) => (Some(credentials), SecretStanding::Read),
            (Some(Ok(credentials)), Standing::Broken(refusal)) => (
                Some(credentials),
                SecretStanding::LastKnown(format!("Secret {namespace}/{name} cannot be read now: {}", refusal.why)),
            ),
            (Some(Err(why)), _) => (
                None,
                SecretStanding::Missing(format!("Secret {namespace}/{name}: {why}")),
            ),
            (None, Standing::Current) => (
                None,
                SecretStanding::Missing(format!("Secret {name} does not exist in namespace {namespace}")),
            ),
            (None, Standing::Broken(refusal)) if refusal.is_forbidden() => (
                None,
                SecretStanding::Forbidden(forbidden(&namespace, &name, &refusal.why)),
            ),
            (None, Standing::Unread | Standing::Broken(_)) => (None, SecretStanding::Unread),
        }
    }
}

impl Scope {
    /// Says what a person should know, and whether a document asks for something else than before.
    fn absorb(&mut self, change: Change<DynamicObject>) -> (Vec<String>, bool) {
        let before = self.faults();
        let mut is_news = false;
        match change {
            Change::Listed(objects) => {
                let listed: BTreeMap<Origin, Read> = objects
                    .into_iter()
                    .map(|object| (origin_of(&object), read(&object)))
                    .collect();
                is_news = listed.iter().any(|(origin, read)| self.is_news(origin, read));
                self.documents = listed;
                self.is_current = true;
            }
            Change::Applied(object) => {
                let (origin, read) = (origin_of(&object), read(&object));
                is_news = self.is_news(&origin, &read);
                self.documents.insert(origin, read);
            }
            Change::Deleted(object) => {
                self.documents.remove(&origin_of(&object));
            }
            Change::Broken(_) => self.is_current = false,
        }
        (self.faults().difference(&before).cloned().collect(), is_news)
    }

    /// A status that was written is none.
    fn is_news(&self, origin: &Origin, read: &Read) -> bool {
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

    fn faults(&self) -> BTreeSet<String> {
        self.documents
            .iter()
            .filter_map(|(origin, read)| {
                read.as_ref()
                    .err()
                    .map(|why| format!("{origin} cannot be read, what it last asked for stays: {why}"))
            })
            .collect()
    }
}

impl Account {
    fn absorb(&mut self, change: Change<Secret>) {
        match change {
            Change::Listed(mut secrets) => {
                self.data = secrets.pop().map(decoded);
                self.standing = Standing::Current;
            }
            Change::Applied(secret) => {
                self.data = Some(decoded(secret));
                self.standing = Standing::Current;
            }
            Change::Deleted(_) => {
                self.data = None;
                self.standing = Standing::Current;
            }
            Change::Broken(refusal) => self.standing = Standing::Broken(refusal),
        }
    }
}

/// What to do, and below it the Role to apply.
fn forbidden(namespace: &str, name: &str, refused: &str) -> String {
    let rule =
        format!("{{apiGroups: [\"\"], resources: [secrets], resourceNames: [\"{name}\"], verbs: [get, list, watch]}}");
    format!(
        "Secret {namespace}/{name} may not be read: add it to the chart's credentialSecrets, or apply the Role below ({refused})\n{}",
        grant::manifest(namespace, &format!("ham4db-{name}"), &[rule], refused)
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

fn read(object: &DynamicObject) -> Read {
    let mut value = serde_json::to_value(object).map_err(|why| why.to_string())?;
    // Listed objects carry neither: the list says it once for all.
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), Value::from(resource::API_VERSION));
        fields.insert("kind".to_owned(), Value::from(resource::KIND));
    }
    resource::document(&value, "")
        .map(|read| read.declared)
        .map_err(|fault| fault.why)
}
