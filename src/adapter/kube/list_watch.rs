//! Lists and watches objects forever: reports the objects, their changes, and when the reported state may be outdated.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::{Api, Resource};
use kube_runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::RequestError;

/// The first pause after an error. It doubles up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause after an error: a returned API server is noticed within this time.
const MAX_RETRY: Duration = Duration::from_secs(10);
/// Deadline for a list. Without it a connection that drops all packets would look like a long list.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// A watch is restarted after this many seconds, so that a watch on a dead connection ends soon.
const WATCH_SECONDS: u32 = 60;
/// The same warning is repeated after this time.
const REPEAT_WARNING_AFTER: Duration = Duration::from_mins(5);

/// A change of the listed objects.
#[derive(Debug)]
pub(super) enum ObjectChange<K> {
    /// All objects, after a list.
    Listed(Vec<K>),
    /// An object was created or changed.
    Applied(K),
    /// An object was deleted.
    Deleted(K),
    /// The watch failed: the known objects may be outdated until the next list.
    Broken(RequestError),
}

/// Lists and watches the objects of `api`, and passes each change to `publish` until that returns `false`. After every error all
/// objects are listed again, so that changes during the error are not missed. `what` names the objects in the log.
pub(super) async fn list_and_watch<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    mut publish: impl FnMut(ObjectChange<K>) -> bool,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS);
    let mut pause = RETRY;
    let mut last_warning = LastWarning::default();
    loop {
        let mut events = pin!(watcher::watcher(api.clone(), config.clone()));
        let mut listing = Some(Vec::new());
        let request_error = loop {
            let next = if listing.is_some() {
                match tokio::time::timeout(LIST_DEADLINE, events.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        break RequestError::without_answer(format!("no list within {} s", LIST_DEADLINE.as_secs()));
                    }
                }
            } else {
                events.next().await
            };
            let change = match next {
                Some(Ok(Event::Init)) => {
                    listing = Some(Vec::new());
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    listing.get_or_insert_default().push(object);
                    continue;
                }
                Some(Ok(Event::InitDone)) => {
                    pause = RETRY;
                    last_warning.resolve(&what);
                    ObjectChange::Listed(listing.take().unwrap_or_default())
                }
                Some(Ok(Event::Apply(object))) => ObjectChange::Applied(object),
                Some(Ok(Event::Delete(object))) => ObjectChange::Deleted(object),
                Some(Err(error)) => break request_error(&error),
                None => {
                    break RequestError::without_answer("the watch ended".to_owned());
                }
            };
            if !publish(change) {
                return;
            }
        };
        last_warning.report(&what, &request_error);
        if !publish(ObjectChange::Broken(request_error)) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY);
    }
}

fn request_error(error: &watcher::Error) -> RequestError {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => RequestError::from(error),
        watcher::Error::WatchError(status) => RequestError::from(status.as_ref()),
        watcher::Error::NoResourceVersion => RequestError::without_answer(super::with_causes(error)),
    }
}

/// The warning that was logged last, so that a persistent failure is not logged at every retry.
#[derive(Default)]
struct LastWarning {
    last: Option<(String, tokio::time::Instant)>,
}

impl LastWarning {
    fn report(&mut self, what: &str, request_error: &RequestError) {
        let is_news = self
            .last
            .as_ref()
            .is_none_or(|(why, at)| *why != request_error.why || at.elapsed() >= REPEAT_WARNING_AFTER);
        if is_news {
            warn!(
                "Kubernetes: failed to read {what}, the last known state stays in effect: {}",
                request_error.why
            );
            self.last = Some((request_error.why.clone(), tokio::time::Instant::now()));
        }
    }

    fn resolve(&mut self, what: &str) {
        if self.last.take().is_some() {
            tracing::info!("Kubernetes: {what} was read again");
        }
    }
}
