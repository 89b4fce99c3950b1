//! Keeps one open connection per server. Connections are opened on demand, used by one task at a time, and kept as long as they
//! work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::app::ports::{CredentialsByOrigin, Target};
use crate::domain::key::InstanceKey;

use super::connection::{SqlFailure, credentials_of, with_deadline};
use super::server_connection::{ProbeSettings, ServerConnection};

/// Holds a connection while no task uses it. A task takes it out, and puts it back only when it still works.
pub(super) type CacheSlot = Arc<Mutex<Option<ServerConnection>>>;

/// The open connections of one port, by server.
pub(super) struct ConnectionCache {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
    /// The statement that is sent on each new connection.
    session_settings: Option<&'static str>,
    slots: PlainMutex<BTreeMap<InstanceKey, CacheSlot>>,
}

impl ConnectionCache {
    /// Creates a cache that takes the accounts from `credentials` whenever it opens a connection, and sends `session_settings` on
    /// it.
    pub(super) fn new(
        credentials: watch::Receiver<CredentialsByOrigin>,
        session_settings: Option<&'static str>,
    ) -> Self {
        Self {
            credentials,
            settings: Arc::new(ProbeSettings::default()),
            session_settings,
            slots: PlainMutex::default(),
        }
    }

    /// The slot for the connection to a server.
    pub(super) fn slot_of(&self, instance: &InstanceKey) -> CacheSlot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(instance.clone()).or_default())
    }

    /// Opens a new connection.
    ///
    /// # Errors
    /// When there are no credentials, or the connection cannot be opened within the deadline.
    pub(super) async fn open(&self, target: &Target, deadline: Duration) -> Result<ServerConnection, String> {
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let opened = with_deadline(&target.instance, deadline, async {
            let mut connection = ServerConnection::open(&target.instance, &credentials, &self.settings).await?;
            if let Some(statement) = self.session_settings {
                connection
                    .rows(statement)
                    .await
                    .map_err(SqlFailure::into_probe_failure)?;
            }
            Ok(connection)
        });
        opened.await.map_err(|failure| failure.to_string())
    }

    /// Closes the connection to a server as soon as no task uses it.
    pub(super) async fn release(&self, instance: &InstanceKey) {
        let released = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(instance);
        let Some(slot) = released else { return };
        let connection = slot.lock().await.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }
}
