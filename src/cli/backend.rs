//! The backend that the configuration describes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adapter::store::{
    BackendAddress, BackendStore, BackendTls, BackendTlsMode, Deployment, MySqlBackend, OpenError,
};
use crate::app::ports::TlsMode;
use crate::config::settings::{BackendDatabase, BackendSettings, MySqlSettings};

/// First pause before a MySQL backend that cannot be used is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Opens the backend. A MySQL backend that does not answer or lacks a privilege is tried again until it can be used: a new one may get its
/// database and privileges later than its member starts. `None` when the process is stopped before.
///
/// # Errors
/// When it cannot be used as it is: a SQLite file that cannot be opened, tables of a newer version, tables that may not be changed.
pub(super) async fn open(settings: &BackendSettings, stop: &CancellationToken) -> anyhow::Result<Option<BackendStore>> {
    let address = address(&settings.database);
    let deployment = match (settings.skip_update, settings.refuse_different) {
        (true, _) => Deployment::Skip,
        (false, true) => Deployment::RefuseDifferent,
        (false, false) => Deployment::Migrate,
    };
    let (mut pause, mut told) = (FIRST_PAUSE, None);
    loop {
        match BackendStore::open(&address, deployment).await {
            Ok(store) => {
                if told.is_some() {
                    info!("opened the backend {address}");
                }
                return Ok(Some(store.with_audit_retention(settings.audit_for)));
            }
            Err(error @ OpenError::Unusable(_)) => return Err(error.into()),
            Err(OpenError::NotYet(error)) => {
                if told.as_ref() != Some(&error) {
                    warn!("failed to open the backend, will retry: {error}");
                    told = Some(error);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

fn address(database: &BackendDatabase) -> BackendAddress {
    match database {
        BackendDatabase::Sqlite(file) => BackendAddress::Sqlite(file.clone()),
        BackendDatabase::MySql(settings) => BackendAddress::MySql(mysql(settings)),
    }
}

fn mysql(settings: &MySqlSettings) -> MySqlBackend {
    let bytes = |text: &String| text.clone().into_bytes();
    MySqlBackend {
        host: settings.host.clone(),
        port: settings.port,
        database: settings.database.clone(),
        user: settings.account.user.clone(),
        password: settings.account.password.clone(),
        max_connections: settings.max_connections,
        deadline: settings.deadline,
        tls: BackendTls {
            mode: match settings.tls {
                TlsMode::Off | TlsMode::Preferred => BackendTlsMode::Preferred,
                TlsMode::Required => BackendTlsMode::Required,
                TlsMode::Verify => BackendTlsMode::Verified,
            },
            ca_pem: settings.ca_pem.as_ref().map(bytes),
            identity: settings
                .identity
                .as_ref()
                .map(|(certificate, key)| (bytes(certificate), bytes(key))),
        },
    }
}
