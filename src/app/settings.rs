//! What the loops are told at their start. `main` makes it from the configuration.

use std::time::Duration;

use crate::domain::epoch_row::EpochTable;
use crate::domain::policy::RecoveryQuorum;
use crate::domain::recovery::pseudo_gtid::Marks;

use super::filter::HostnameFilters;

/// Settings of seeing.
#[derive(Clone, Debug)]
pub struct PollSettings {
    /// Time between full probes of one instance.
    pub poll: Duration,
    /// Time between pulses of an instance that has replicas, is suspected or in quarantine.
    pub pulse: Duration,
    /// How long a pulse may take before a fresh connection is tried.
    pub pulse_deadline: Duration,
    /// How long a full probe may take, connection included.
    pub probe_deadline: Duration,
    /// Pulses per second at most; above, the pulse is stretched.
    pub pulses_per_second: u32,
    /// Addresses (`host:port`) that are never discovered by crawling.
    pub ignore: HostnameFilters,
    /// Replica addresses that are never discovered by crawling.
    pub ignore_replicas: HostnameFilters,
    /// Source addresses that are never discovered by crawling.
    pub ignore_sources: HostnameFilters,
    /// A forgotten address is not discovered again for so long.
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
            forget_for: Duration::from_secs(15),
        }
    }
}

/// Settings of repairing.
#[derive(Clone, Debug)]
pub struct RecoverySettings {
    /// How many must agree.
    pub quorum: RecoveryQuorum,
    /// How long members may take to give their opinion.
    pub opinion_deadline: Duration,
    /// How long one statement of a step may take.
    pub step_deadline: Duration,
    /// How long the old primary may take to become read-only.
    pub fence_deadline: Duration,
    /// How many clusters are repaired at once, at least 1.
    pub concurrency: usize,
    /// How long replicas may take to reach their source anew before it counts as gone. Within one network that takes milliseconds;
    /// between regions it is the connection, the handshake and the login, six round trips.
    pub reconnect_window: Duration,
    /// What Pseudo-GTID entries look like; `None`: there are none.
    pub pseudo_gtid: Option<Marks>,
    /// Where the epoch is written on each new primary.
    pub epoch_table: Option<EpochTable>,
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
        }
    }
}
