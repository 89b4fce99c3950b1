//! Settings of the loops, which `cli` makes from the configuration.

use std::time::Duration;

use crate::domain::discovery::AllowedHosts;
use crate::domain::epoch_row::EpochTable;
use crate::domain::policy::RecoveryQuorum;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;

use super::filter::HostnameFilters;

/// Settings of polling.
#[derive(Clone, Debug)]
pub struct PollSettings {
    /// Time between full probes of one instance.
    pub poll: Duration,
    /// Time between pulses of an instance that has replicas, is suspected or in quarantine.
    pub pulse: Duration,
    /// How long a pulse may take before a new connection is tried.
    pub pulse_deadline: Duration,
    /// How long a full probe may take, connection included.
    pub probe_deadline: Duration,
    /// The most pulses per second. With more instances, the interval between pulses grows.
    pub pulses_per_second: u32,
    /// Addresses (`host:port`) that are never discovered by crawling.
    pub ignore: HostnameFilters,
    /// Replica addresses that are never discovered by crawling.
    pub ignore_replicas: HostnameFilters,
    /// Source addresses that are never discovered by crawling.
    pub ignore_sources: HostnameFilters,
    /// The addresses that crawling may dial beside those that share domain or network with a named server.
    pub allowed: AllowedHosts,
    /// The most watched addresses: crawling adds none beyond it.
    pub max_instances: usize,
    /// For how long a forgotten address is not discovered again.
    pub forget_for: Duration,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            pulse: Duration::from_millis(100),
            pulse_deadline: Duration::from_millis(500),
            probe_deadline: Duration::from_secs(1),
            pulses_per_second: 2000,
            ignore: HostnameFilters::default(),
            ignore_replicas: HostnameFilters::default(),
            ignore_sources: HostnameFilters::default(),
            allowed: AllowedHosts::default(),
            max_instances: 20_000,
            forget_for: Duration::from_secs(15),
        }
    }
}

/// Settings of recoveries.
#[derive(Clone, Debug)]
pub struct RecoverySettings {
    /// How many members must agree.
    pub quorum: RecoveryQuorum,
    /// How long members may take to give their opinion.
    pub opinion_deadline: Duration,
    /// How long one statement of a step may take.
    pub step_deadline: Duration,
    /// How long the old primary may take to become read-only.
    pub fence_deadline: Duration,
    /// The most clusters that are recovered concurrently, at least 1.
    pub concurrency: usize,
    /// How long replicas may take to reconnect to their source before it counts as gone. Within one network that takes milliseconds. Between
    /// regions, connection, handshake and login take six round trips.
    pub reconnect_window: Duration,
    /// How Pseudo-GTID entries are recognised; `None`: Pseudo-GTID is not configured.
    pub pseudo_gtid: Option<PseudoGtidPatterns>,
    /// Where the epoch is written on each new primary.
    pub epoch_table: Option<EpochTable>,
    /// Whether a recovery that replaced a primary fails when the new one could not be published.
    pub fails_on_failed_publication: bool,
}

impl Default for RecoverySettings {
    fn default() -> Self {
        Self {
            quorum: RecoveryQuorum::Majority,
            opinion_deadline: Duration::from_millis(500),
            step_deadline: Duration::from_secs(5),
            fence_deadline: Duration::from_millis(500),
            concurrency: 20,
            reconnect_window: Duration::from_millis(700),
            pseudo_gtid: None,
            epoch_table: None,
            fails_on_failed_publication: false,
        }
    }
}
