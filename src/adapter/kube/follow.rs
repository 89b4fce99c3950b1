//! A list and watch that goes on for ever: what there is, what changes, and when that is no longer known.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::{Api, Resource};
use kube_runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::Refusal;

/// The first wait after an error; doubled up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait: an API server that is back is noticed within it.
const MAX_RETRY: Duration = Duration::from_secs(10);
/// A list must be over within this: a connection that swallows everything otherwise looks like a long list.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// A watch is begun anew after so many seconds; one on a connection that died silently ends a little later.
const WATCH_SECONDS: u32 = 60;
/// The same trouble is logged again after this long.
const REMIND: Duration = Duration::from_mins(5);

/// What happened.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// These are all objects.
    Listed(Vec<K>),
    /// One is there, or changed.
    Applied(K),
    /// One is gone.
    Deleted(K),
    /// What is known may be old from here to the next list.
    Broken(Refusal),
}

/// Follows the objects of `api` and tells `tell` until it answers `false`. Every error leads to a new complete list, so that after
/// one nothing is believed that was not seen since.
pub(super) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    mut tell: impl FnMut(Change<K>) -> bool,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS);
    let mut wait = RETRY;
    let mut trouble = LastWarning::default();
    loop {
        let mut events = pin!(watcher::watcher(api.clone(), config.clone()));
        let mut listing = Some(Vec::new());
        let refusal = loop {
            let next = if listing.is_some() {
                match tokio::time::timeout(LIST_DEADLINE, events.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        break Refusal::without_answer(format!("no list within {} s", LIST_DEADLINE.as_secs()));
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
                    wait = RETRY;
                    trouble.is_over(&what);
                    Change::Listed(listing.take().unwrap_or_default())
                }
                Some(Ok(Event::Apply(object))) => Change::Applied(object),
                Some(Ok(Event::Delete(object))) => Change::Deleted(object),
                Some(Err(error)) => break refusal(&error),
                None => {
                    break Refusal::without_answer("the watch ended".to_owned());
                }
            };
            if !tell(change) {
                return;
            }
        };
        trouble.meet(&what, &refusal);
        if !tell(Change::Broken(refusal)) {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RETRY);
    }
}

fn refusal(error: &watcher::Error) -> Refusal {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Refusal::from(error),
        watcher::Error::WatchError(status) => Refusal::from(status.as_ref()),
        watcher::Error::NoResourceVersion => Refusal::without_answer(super::with_causes(error)),
    }
}

/// What was complained of last, so that a lasting trouble is one line and not one each second.
#[derive(Default)]
struct LastWarning {
    last: Option<(String, tokio::time::Instant)>,
}

impl LastWarning {
    fn meet(&mut self, what: &str, refusal: &Refusal) {
        let is_news = self
            .last
            .as_ref()
            .is_none_or(|(why, at)| *why != refusal.why || at.elapsed() >= REMIND);
        if is_news {
            warn!(
                "Kubernetes: {what} cannot be read, what was read last stays: {}",
                refusal.why
            );
            self.last = Some((refusal.why.clone(), tokio::time::Instant::now()));
        }
    }

    fn is_over(&mut self, what: &str) {
        if self.last.take().is_some() {
            tracing::info!("Kubernetes: {what} can be read again");
        }
    }
}
