//! One connection to each of some servers, opened when it is needed, used by one at a time, and kept as long as it is sound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::app::ports::{CredentialsByOrigin, Target};
use crate::domain::key::InstanceKey;

use super::connection::{SqlFailure, credentials_of, within};
use super::server_connection::{ProbeSettings, ServerConnection};

/// Where a connection is kept while nobody uses it. Who takes it out puts it back only when it is sound.
pub(super) type CacheSlot = Arc<Mutex<Option<ServerConnection>>>;

/// The connections of one port.
pub(super) struct ConnectionCache {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
    /// Sent on each new connection.
    session: Option<&'static str>,
    places: PlainMutex<BTreeMap<InstanceKey, CacheSlot>>,
}

impl ConnectionCache {
    /// Takes the accounts from `credentials` whenever a connection is opened, and sends `session` on it.
    pub(super) fn new(credentials: watch::Receiver<CredentialsByOrigin>, session: Option<&'static str>) -> Self {
        Self {
            credentials,
            settings: Arc::new(ProbeSettings::default()),
            session,
            places: PlainMutex::default(),
        }
    }

    /// The place of a server's connection.
    pub(super) fn place_of(&self, instance: &InstanceKey) -> CacheSlot {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(instance.clone()).or_default())
    }

    /// Opens a new connection.
    ///
    /// # Errors
    /// Why there is none within the deadline.
    pub(super) async fn open(&self, target: &Target, deadline: Duration) -> Result<ServerConnection, String> {
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let opened = within(&target.instance, deadline, async {
            let mut connection = ServerConnection::open(&target.instance, &credentials, &self.settings).await?;
            if let Some(session) = self.session {
                connection.rows(session).await.map_err(SqlFailure::into_probe_failure)?;
            }
            Ok(connection)
        });
        opened.await.map_err(|failure| failure.to_string())
    }

    /// Closes what is kept open to a server, once nobody uses it.
    pub(super) async fn release(&self, instance: &InstanceKey) {
        let released = self
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(instance);
        let Some(place) = released else { return };
        let connection = place.lock().await.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }
}
