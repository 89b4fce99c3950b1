//! Parts of the settings as the subsystems take them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::adapter::http;
use crate::app::settings::PollSettings;
use crate::config::{self, Settings};

/// The configuration files to read: those that were named, or those that are there.
pub(super) fn configuration_files(named: &[PathBuf]) -> Vec<PathBuf> {
    if named.is_empty() {
        config::search(Path::is_file)
    } else {
        named.to_vec()
    }
}

pub(super) fn watch_settings(settings: &Settings) -> PollSettings {
    let discovery = &settings.discovery;
    PollSettings {
        poll: discovery.poll,
        pulse: discovery.pulse,
        ignore: discovery.ignore.clone(),
        ignore_replicas: discovery.ignore_replicas.clone(),
        ignore_sources: discovery.ignore_sources.clone(),
        forget_for: discovery.poll * 3,
        ..PollSettings::default()
    }
}

pub(super) fn http_options(
    settings: &Settings,
    write_access: Option<Arc<http::WriteAccess>>,
    backend: String,
) -> http::Options {
    http::Options {
        url_prefix: settings.http.url_prefix.clone(),
        status_endpoint: settings.http.status_endpoint.clone(),
        read_only: settings.http.read_only,
        write_access,
        problem_ignore: settings.http.problem_ignore.clone(),
        poll: settings.discovery.poll,
        maintenance_lag: settings.discovery.maintenance_lag,
        default_port: settings.topology.default_port,
        candidate_expiry: settings.discovery.candidate_expiry,
        audit_for: settings.backend.audit_for,
        primary_filters: settings.recovery.primaries.texts().to_vec(),
        intermediate_filters: settings.recovery.intermediates.texts().to_vec(),
        recovery_ignore: settings.recovery.ignore_texts.clone(),
        raft_bind: settings.raft.as_ref().map(|raft| raft.bind.clone()).unwrap_or_default(),
        backend,
    }
}
