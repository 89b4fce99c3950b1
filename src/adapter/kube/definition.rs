//! Watches the definition of `MySQLCluster` that the API server serves. It is read from the `OpenAPI` document, which every
//! account may read, so that ham4db needs no permission for `CustomResourceDefinitions`.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::domain::declared::Definition;
use crate::resource::definition::{OPENAPI_PATH, compare, served};

use super::{REQUEST_DEADLINE, RequestError};

/// Interval between two reads. A read fetches an index of some kilobytes; the document is fetched only when the index shows a
/// change.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Interval after a failed read.
const RETRY: Duration = Duration::from_secs(5);
/// The shortest time between two reads. An API server publishes a new definition up to half a second after it began to use it.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// The definition that the API server serves.
#[derive(Clone, Debug, Default)]
pub(super) struct ServedDefinition {
    /// The result of the comparison with the definition of this version.
    pub(super) definition: Definition,
    /// The schema; `None` until it was read.
    pub(super) schema: Option<Arc<Value>>,
}

/// Reads the definition periodically, when `spec_changes` increases, and when `status_refused` is notified. Passes each result to
/// `publish`, with the value that `spec_changes` had at the begin of the read. Ends when `publish` returns `false`.
pub(super) async fn watch_definition(
    client: Client,
    mut spec_changes: watch::Receiver<u64>,
    status_refused: Arc<tokio::sync::Notify>,
    publish: impl Fn(u64, ServedDefinition) -> bool,
) {
    let mut reader = DefinitionReader {
        client,
        last_read: None,
        problem: None,
    };
    loop {
        let number = *spec_changes.borrow_and_update();
        let seen = reader.refresh().await;
        let pause = if matches!(seen.definition, Definition::Unreadable(_)) {
            RETRY
        } else {
            POLL_INTERVAL
        };
        if !publish(number, seen) {
            return;
        }
        tokio::time::sleep(MIN_INTERVAL).await;
        tokio::select! {
            changed = spec_changes.changed() => if changed.is_err() { return },
            () = status_refused.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Reads the definition, and logs changes of its state.
struct DefinitionReader {
    client: Client,
    /// What was read last, with the URL that the index had for it. The URL contains a hash of the content.
    last_read: Option<(String, ServedDefinition)>,
    /// The problem that was logged last.
    problem: Option<String>,
}

impl DefinitionReader {
    async fn refresh(&mut self) -> ServedDefinition {
        let outcome = tokio::time::timeout(REQUEST_DEADLINE, self.read()).await;
        let why = format!("no answer within {} s", REQUEST_DEADLINE.as_secs());
        let seen = match (
            outcome.unwrap_or_else(|_| Err(RequestError::without_answer(why))),
            &self.last_read,
        ) {
            (Ok(seen), _) => seen,
            // While the API server does not answer, the last definition stays in effect.
            (Err(RequestError { code: None, .. }), Some((_, known))) => known.clone(),
            (Err(request_error), known) => ServedDefinition {
                definition: Definition::Unreadable(request_error.why),
                schema: known.as_ref().and_then(|(_, known)| known.schema.clone()),
            },
        };
        let problem = seen.definition.problem();
        if problem != self.problem {
            if let Some(problem) = &problem {
                warn!("Kubernetes: {problem}");
            } else {
                info!("Kubernetes: the API server serves the definition of this version or a newer one");
            }
            self.problem = problem;
        }
        seen
    }

    async fn read(&mut self) -> Result<ServedDefinition, RequestError> {
        let missing = |why: &str| RequestError {
            why: why.to_owned(),
            code: Some(404),
        };
        let index = self.get("/openapi", "v3").await?;
        let path = index.get("paths").and_then(|paths| paths.get(OPENAPI_PATH));
        let url = path.and_then(|path| path.get("serverRelativeURL")?.as_str());
        let url = url.ok_or_else(|| missing("the definition of MySQLCluster is not installed"))?;
        if let Some((known, seen)) = &self.last_read
            && known == url
        {
            return Ok(seen.clone());
        }
        let (group, version) = OPENAPI_PATH.rsplit_once('/').unwrap_or_default();
        let document = self.get(&format!("/openapi/v3/{group}"), version).await?;
        let schema = served(&document).ok_or_else(|| missing("the OpenAPI document does not contain MySQLCluster"))?;
        let seen = ServedDefinition {
            definition: compare(schema),
            schema: Some(Arc::new(schema.clone())),
        };
        self.last_read = Some((url.to_owned(), seen.clone()));
        Ok(seen)
    }

    async fn get(&self, path: &str, name: &str) -> Result<Value, RequestError> {
        let request = Request::new(path).get(name, &GetParams::default());
        let request = request.map_err(|why| RequestError::without_answer(why.to_string()))?;
        let answer = self.client.request::<Value>(request).await;
        answer.map_err(|error| RequestError::from(&error))
    }
}
