//! The definition that the API server serves, read from its `OpenAPI` document: every account may, so no right on definitions is asked for.

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

use super::{REQUEST_DEADLINE, Refusal};

/// Without a reason it is looked at this often: an index of some kilobytes, and the document itself only when that says that it changed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The same after an attempt that told nothing.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two looks. An API server tells of a new definition up to half a second after it began to use it.
const PAUSE: Duration = Duration::from_millis(500);

/// What was seen of the definition.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    /// Compared with the one of this version.
    pub(super) definition: Definition,
    /// Its schema; `None` while it was never read.
    pub(super) schema: Option<Arc<Value>>,
}

/// Looks at the definition now and then, whenever `asked` rises, and when `refused` says that something does not fit into it. Tells what
/// it saw with the number that was asked at the beginning of the look; ends when `tell` answers `false`.
pub(super) async fn follow(
    client: Client,
    mut asked: watch::Receiver<u64>,
    refused: Arc<tokio::sync::Notify>,
    tell: impl Fn(u64, Served) -> bool,
) {
    let mut reader = Reader {
        client,
        known: None,
        complaint: None,
    };
    loop {
        let number = *asked.borrow_and_update();
        let seen = reader.look().await;
        let pause = if matches!(seen.definition, Definition::Unreadable(_)) {
            RETRY
        } else {
            LOOK_AGAIN
        };
        if !tell(number, seen) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            changed = asked.changed() => if changed.is_err() { return },
            () = refused.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Reader {
    client: Client,
    /// What was read last, with the mark by which the index told it from others.
    known: Option<(String, Served)>,
    /// What the log was told of last.
    complaint: Option<String>,
}

impl Reader {
    async fn look(&mut self) -> Served {
        let looked = tokio::time::timeout(REQUEST_DEADLINE, self.read()).await;
        let why = format!("no answer within {} s", REQUEST_DEADLINE.as_secs());
        let seen = match (
            looked.unwrap_or_else(|_| Err(Refusal::without_answer(why))),
            &self.known,
        ) {
            (Ok(seen), _) => seen,
            // An API server that is away has the definition that it had.
            (Err(Refusal { code: None, .. }), Some((_, known))) => known.clone(),
            (Err(refusal), known) => Served {
                definition: Definition::Unreadable(refusal.why),
                schema: known.as_ref().and_then(|(_, known)| known.schema.clone()),
            },
        };
        let complaint = seen.definition.complaint();
        if complaint != self.complaint {
            if let Some(complaint) = &complaint {
                warn!("Kubernetes: {complaint}");
            } else {
                info!("Kubernetes: the API server serves the definition of this version or a newer one");
            }
            self.complaint = complaint;
        }
        seen
    }

    async fn read(&mut self) -> Result<Served, Refusal> {
        let none = |why: &str| Refusal {
            why: why.to_owned(),
            code: Some(404),
        };
        let index = self.get("/openapi", "v3").await?;
        let of_ours = index.get("paths").and_then(|paths| paths.get(OPENAPI_PATH));
        let mark = of_ours.and_then(|path| path.get("serverRelativeURL")?.as_str());
        let mark = mark.ok_or_else(|| none("no definition of MySQLCluster is there"))?;
        if let Some((known, seen)) = &self.known
            && known == mark
        {
            return Ok(seen.clone());
        }
        let (group, version) = OPENAPI_PATH.rsplit_once('/').unwrap_or_default();
        let document = self.get(&format!("/openapi/v3/{group}"), version).await?;
        let schema = served(&document).ok_or_else(|| none("its document does not have MySQLCluster"))?;
        let seen = Served {
            definition: compare(schema),
            schema: Some(Arc::new(schema.clone())),
        };
        self.known = Some((mark.to_owned(), seen.clone()));
        Ok(seen)
    }

    async fn get(&self, path: &str, name: &str) -> Result<Value, Refusal> {
        let request = Request::new(path).get(name, &GetParams::default());
        let request = request.map_err(|why| Refusal::without_answer(why.to_string()))?;
        let answer = self.client.request::<Value>(request).await;
        answer.map_err(|error| Refusal::from(&error))
    }
}
