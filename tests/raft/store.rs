//! A backend in memory. Its content survives restarts of its member, and its writes can be made to fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use ham4db::app::ports::{AppliedMark, StateStore, StoreError};
use ham4db::domain::state::{Change, State};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Clones share the content.
#[derive(Clone, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<(State, AppliedMark)>>,
    failing: Arc<AtomicBool>,
    replaced: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
    hanging: Arc<Mutex<()>>,
}

impl MemoryStore {
    /// A backend that belongs to a group.
    pub fn of_group(uuid: &str) -> Self {
        let mark = AppliedMark {
            group_uuid: uuid.to_owned(),
            member: 1,
            ..AppliedMark::default()
        };
        Self {
            content: Arc::new(Mutex::new((State::default(), mark))),
            ..Self::default()
        }
    }

    /// Lets writes fail or succeed from now on.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Writes get no answer while this is held.
    pub async fn hang(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.hanging).lock_owned().await
    }

    /// How often the whole content was replaced.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::SeqCst)
    }

    /// How often something was written.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// What is stored.
    pub async fn content(&self) -> (State, AppliedMark) {
        self.content.lock().await.clone()
    }

    fn check(&self, what: &str) -> Result<(), StoreError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError {
                backend: "memory".to_owned(),
                what: what.to_owned(),
                why: "told to fail".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn load(&self) -> Result<(State, AppliedMark), StoreError> {
        Ok(self.content().await)
    }

    async fn write(&self, state: &State, _changes: &BTreeSet<Change>, mark: &AppliedMark) -> Result<(), StoreError> {
        drop(self.hanging.lock().await);
        self.check("write")?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        *self.content.lock().await = (state.clone(), mark.clone());
        Ok(())
    }

    async fn replace(&self, state: &State, mark: &AppliedMark) -> Result<(), StoreError> {
        drop(self.hanging.lock().await);
        self.check("replace")?;
        self.replaced.fetch_add(1, Ordering::SeqCst);
        *self.content.lock().await = (state.clone(), mark.clone());
        Ok(())
    }
}
