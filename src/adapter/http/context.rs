//! What the handlers are given.

use std::sync::Arc;
use std::time::Duration;

use crate::app::api::Api;
use crate::app::filter::HostnameFilters;
use crate::app::ports::{Clock, Consensus};

use super::write_access::WriteAccess;

/// The application as the API sees it.
#[derive(Clone)]
pub struct AppContext {
    /// The use cases.
    pub api: Arc<dyn Api>,
    /// Who leads, who is healthy.
    pub consensus: Arc<dyn Consensus>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Settings of the API.
    pub options: Arc<Options>,
}

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct Options {
    /// Empty, or `/x`: everything is served below it.
    pub url_prefix: String,
    /// Another path for the status check, served without the prefix.
    pub status_endpoint: Option<String>,
    /// Refuse what changes something.
    pub read_only: bool,
    /// Who may change something; [`None`]: everybody.
    pub write_access: Option<Arc<WriteAccess>>,
    /// Instances that `problems` leaves out.
    pub problem_ignore: HostnameFilters,
    /// Interval between probes of an instance: what counts as fresh derives from it.
    pub poll: Duration,
    /// Lag above which the topology shows `lag`.
    pub maintenance_lag: Duration,
    /// Port of an instance when an address names none.
    pub default_port: u16,
    /// How long a promotion rule of `register-candidate` counts; `None`: until it is replaced.
    pub candidate_expiry: Option<Duration>,
    /// How long entries of the audit are shown (`AuditPurgeDays`).
    pub audit_for: Duration,
    /// `RecoverMasterClusterFilters` as configured.
    pub primary_filters: Vec<String>,
    /// `RecoverIntermediateMasterClusterFilters` as configured.
    pub intermediate_filters: Vec<String>,
    /// `RecoveryIgnoreHostnameFilters` as configured.
    pub recovery_ignore: Vec<String>,
    /// Address of the peer listener, shown by `raft-status`.
    pub raft_bind: String,
    /// The backend in words, shown by `health`.
    pub backend: String,
}

impl Default for Options {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self {
            url_prefix: String::new(),
            status_endpoint: None,
            read_only: false,
            write_access: None,
            problem_ignore: HostnameFilters::default(),
            poll: Duration::from_secs(5),
            maintenance_lag: Duration::from_secs(20),
            default_port: crate::domain::key::DEFAULT_PORT,
            candidate_expiry: None,
            audit_for: Duration::from_hours(7 * 24),
            primary_filters: Vec::new(),
            intermediate_filters: Vec::new(),
            recovery_ignore: Vec::new(),
            raft_bind: String::new(),
            backend: String::new(),
        }
    }
}
