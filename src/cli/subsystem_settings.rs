//! The settings of each subsystem, made from the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::adapter::http;
use crate::adapter::mysql::ProbeSettings;
use crate::app::observation::instance_cache::LocationPatterns;
use crate::app::ports::CredentialsByOrigin;
use crate::app::settings::{PollSettings, RecoverySettings};
use crate::config::{self, Settings};
use crate::domain::clock_skew::DEFAULT_LIMIT_MILLIS;
use crate::domain::intent::Origin;

/// The configuration files to read: those that were named, or those of the search path that exist.
pub(super) fn configuration_files(named: &[PathBuf]) -> Vec<PathBuf> {
    if named.is_empty() {
        config::search(Path::is_file)
    } else {
        named.to_vec()
    }
}

pub(super) fn poll_settings(settings: &Settings) -> PollSettings {
    let discovery = &settings.discovery;
    PollSettings {
        poll: discovery.poll,
        pulse: discovery.pulse,
        ignore: discovery.ignore.clone(),
        ignore_replicas: discovery.ignore_replicas.clone(),
        ignore_sources: discovery.ignore_sources.clone(),
        allowed: discovery.allowed.clone(),
        max_instances: discovery.max_instances,
        forget_for: discovery.poll * 3,
        ..PollSettings::default()
    }
}

pub(super) fn probe_settings(settings: &Settings) -> ProbeSettings {
    let discovery = &settings.discovery;
    ProbeSettings {
        lag_query: discovery.lag_query.clone(),
        data_center_query: discovery.data_center.query.clone(),
        region_query: discovery.region.query.clone(),
        environment_query: discovery.environment.query.clone(),
        semi_sync_query: discovery.semi_sync_query.clone(),
        pseudo_gtid_query: settings.pseudo_gtid.query.clone(),
        writes_pseudo_gtid: settings.pseudo_gtid.injects,
        ..ProbeSettings::default()
    }
}

pub(super) fn location_patterns(settings: &Settings) -> LocationPatterns {
    let discovery = &settings.discovery;
    LocationPatterns {
        data_center: discovery.data_center.pattern.clone(),
        region: discovery.region.pattern.clone(),
        environment: discovery.environment.pattern.clone(),
    }
}

pub(super) fn recovery_settings(settings: &Settings) -> RecoverySettings {
    RecoverySettings {
        quorum: settings.recovery.quorum,
        concurrency: settings.recovery.concurrency,
        pseudo_gtid: settings.pseudo_gtid.marks.clone(),
        epoch_table: settings.recovery.epoch_table.clone(),
        fails_on_failed_publication: settings.publishers.fails_recovery,
        ..RecoverySettings::default()
    }
}

/// By how much the clock of a member may differ; for a single member the key's default.
pub(super) fn clock_skew_limit_millis(settings: &Settings) -> u64 {
    settings.raft.as_ref().map_or(DEFAULT_LIMIT_MILLIS, |raft| {
        u64::try_from(raft.clock_skew_limit.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The account of the configuration, under origin `api`.
pub(super) fn configured_account(settings: &Settings) -> CredentialsByOrigin {
    Arc::new(
        settings
            .topology
            .credentials()
            .map(|configured| (Origin::Api, configured))
            .into_iter()
            .collect(),
    )
}

pub(super) fn http_options(settings: &Settings, write_access: Option<Arc<http::WriteAccess>>) -> http::Options {
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
        backend: settings.backend.database.name(),
    }
}
