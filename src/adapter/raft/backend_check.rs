//! Asks the backend every second whether it answers. A group in which nothing happens writes nothing, and must notice nevertheless that
//! its leader could not write.

use std::time::Duration;

use super::context::{MemberContext, RaftIncarnation};
use crate::app::ports::StoreError;

/// Interval between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub(super) async fn run(context: &MemberContext, incarnation: &RaftIncarnation) {
    let store = &context.dependencies.store;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let answer = tokio::time::timeout(DEADLINE, store.check()).await.unwrap_or_else(|_| {
            Err(StoreError {
                backend: store.name(),
                what: "connect".to_owned(),
                why: format!("no answer within {} s", DEADLINE.as_secs()),
            })
        });
        let was_silent = incarnation.backend_silence.since().is_some();
        match &answer {
            Err(error) if !was_silent => tracing::warn!("the backend does not answer: {error}"),
            Ok(()) if was_silent => tracing::info!("the backend answers again: {}", store.name()),
            Err(_) | Ok(()) => {}
        }
        incarnation.backend_silence.set(answer.as_ref().err());
    }
}
