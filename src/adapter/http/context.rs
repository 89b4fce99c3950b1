//! What the handlers share: the application, the settings, and the state of the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::app::api::Api;
use crate::app::filter::HostnameFilters;
use crate::app::ports::{Clock, Consensus};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::leader_proof::LeaderProof;
use super::limits::ConcurrencyLimit;
use super::proxy::Forwarder;
use super::request_metrics::RequestCounters;
use super::write_access::{Refusals, WriteAccess};

/// The application as the API sees it.
#[derive(Clone)]
pub struct AppContext {
    /// The use cases.
    pub api: Arc<dyn Api>,
    /// Leadership and health of the group.
    pub consensus: Arc<dyn Consensus>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Settings of the API.
    pub options: Arc<Options>,
    /// What the backend had of each instance when this process started. An instance that has not answered since then is shown with these
    /// facts and their age.
    pub remembered: Arc<BTreeMap<InstanceKey, Instance>>,
}

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct Options {
    /// Prefix of all paths, as `/x`; empty: none.
    pub url_prefix: String,
    /// Additional path of the status check, served without the prefix.
    pub status_endpoint: Option<String>,
    /// Refuse all changes (`ReadOnly`).
    pub read_only: bool,
    /// Tokens that allow changes; [`None`]: changes need no token.
    pub write_access: Option<Arc<WriteAccess>>,
    /// Instances that `problems` leaves out.
    pub problem_ignore: HostnameFilters,
    /// Interval between probes of an instance. It decides which facts count as fresh.
    pub poll: Duration,
    /// Lag above which the text of a topology shows `lag`.
    pub maintenance_lag: Duration,
    /// Port of an instance when its address has none.
    pub default_port: u16,
    /// How long a promotion rule of `register-candidate` applies; `None`: until it is replaced.
    pub candidate_expiry: Option<Duration>,
    /// Maximum age of the audit entries that are shown (`AuditPurgeDays`).
    pub audit_for: Duration,
    /// `RecoverMasterClusterFilters` as configured.
    pub primary_filters: Vec<String>,
    /// `RecoverIntermediateMasterClusterFilters` as configured.
    pub intermediate_filters: Vec<String>,
    /// `RecoveryIgnoreHostnameFilters` as configured.
    pub recovery_ignore: Vec<String>,
    /// Address of the peer listener, shown by `raft-status`.
    pub raft_bind: String,
    /// Description of the backend, shown by `health`.
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

/// What the handlers and the layers around them share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) app: AppContext,
    /// When the API was set up.
    pub(super) started: WallTime,
    pub(super) leader_proof: Arc<LeaderProof>,
    pub(super) forwarder: Forwarder,
    pub(super) request_limit: ConcurrencyLimit,
    pub(super) probe_limit: ConcurrencyLimit,
    pub(super) refusals: Arc<Refusals>,
    pub(super) request_counters: RequestCounters,
}

impl Shared {
    /// The state of an API that starts now.
    pub(super) fn new(app: AppContext) -> Self {
        Self {
            started: app.clock.wall(),
            leader_proof: Arc::default(),
            forwarder: Forwarder::new(app.consensus.clone()),
            request_limit: ConcurrencyLimit::of_requests(),
            probe_limit: ConcurrencyLimit::of_probes(),
            refusals: Arc::default(),
            request_counters: RequestCounters::default(),
            app,
        }
    }
}
