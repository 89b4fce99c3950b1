//! The evidence of a finding: the instance itself, and counts over its direct replicas.

use std::collections::BTreeSet;

use crate::domain::finding::Evidence;
use crate::domain::instance::{Channel, Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

use super::node::representative;

/// Computes the evidence of an instance from its facts and those of its direct replicas.
///
/// Only an answering replica counts as receiving, replicating or failing to connect: the last facts of an unreachable
/// one are old.
pub fn evidence(topology: &Topology, policy: &Policy, key: &InstanceKey) -> Evidence {
    let instance = topology.get(key);
    let facts = instance.and_then(|instance| instance.facts.as_ref());
    let replicas: Vec<&Instance> = topology.replicas_of(key).collect();
    let count = |wanted: &dyn Fn(&Instance) -> bool| {
        u32::try_from(replicas.iter().filter(|replica| wanted(replica)).count()).unwrap_or(u32::MAX)
    };
    let text = || replicas.iter().filter_map(|replica| replica.facts.as_ref());
    let logs = |facts: &&InstanceFacts| facts.log_bin && facts.log_replica_updates;
    let with_format = |format: &str| {
        let wanted = text()
            .filter(logs)
            .filter(|facts| facts.binlog_format.eq_ignore_ascii_case(format));
        u32::try_from(wanted.count()).unwrap_or(u32::MAX)
    };
    let versions: BTreeSet<String> = text().filter(logs).map(|facts| facts.version.major_version()).collect();
    let modes: BTreeSet<String> = text().map(|facts| facts.gtid_mode.clone()).collect();
    let is_group_member = facts.is_some_and(InstanceFacts::is_group_member);
    Evidence {
        last_check_valid: instance.is_some_and(Instance::is_valid),
        last_check_partial: instance.is_some_and(|instance| instance.partial),
        failure: instance.and_then(|instance| instance.failure.clone()),
        is_primary: instance.and_then(Instance::source).is_none()
            && (!is_group_member || representative(topology, key) == *topology.resolve(key)),
        is_co_primary: instance.is_some_and(|instance| topology.is_co_primary(instance)),
        is_group_member,
        is_binlog_server: facts.is_some_and(InstanceFacts::is_binlog_server),
        depth: instance.map_or(0, |instance| topology.depth_of(instance)),
        valid_replicas: count(&Instance::is_valid),
        receiving_replicas: count(&is_receiving),
        replicating_replicas: count(&is_replicating),
        replicas_failing_to_connect: count(&is_failing_to_connect),
        lagging_replicas: count(&|replica| is_lagging(replica, policy)),
        delayed_replicas: count(&|replica| replica.channel().is_some_and(|channel| channel.delay_seconds > 0)),
        downtimed_replicas: count(&|replica| is_downtimed(topology, policy, &replica.key)),
        logging_replicas: count(&|replica| replica.facts.as_ref().is_some_and(|facts| logs(&facts))),
        statement_logging_replicas: with_format("STATEMENT"),
        mixed_logging_replicas: with_format("MIXED"),
        row_logging_replicas: with_format("ROW"),
        logging_versions: versions.into_iter().collect(),
        replica_gtid_modes: modes.into_iter().collect(),
        semi_sync_replicas: count(&|replica| {
            replica
                .facts
                .as_ref()
                .is_some_and(|facts| facts.semi_sync.replica_enabled)
        }),
        is_failing_to_connect: instance.is_some_and(is_failing_to_connect),
        commit_stall: instance.and_then(|instance| instance.commit_stall.clone()),
        replicas: replicas.iter().map(|replica| replica.key.clone()).collect(),
    }
}

/// Whether an instance is in downtime, under its address or one of its other addresses.
pub fn is_downtimed(topology: &Topology, policy: &Policy, key: &InstanceKey) -> bool {
    let key = topology.resolve(key);
    policy.downtimes.contains_key(key)
        || policy
            .downtimes
            .keys()
            .any(|downtimed| topology.resolve(downtimed) == key)
}

/// The replica answers and receives from its source.
pub fn is_receiving(replica: &Instance) -> bool {
    valid_channel(replica).is_some_and(Channel::is_receiving)
}

/// The replica answers and both of its replication threads run.
pub fn is_replicating(replica: &Instance) -> bool {
    valid_channel(replica).is_some_and(|channel| channel.is_receiving() && channel.sql == ThreadState::Running)
}

/// The replica answers and fails to connect to its source.
pub fn is_failing_to_connect(replica: &Instance) -> bool {
    valid_channel(replica).is_some_and(Channel::is_failing_to_connect)
}

/// The replica answers and has not connected to its source since its own start: it fails to connect, or its receiver
/// thread was not started. MySQL reports "Error connecting to source", MariaDB "error connecting to master"; after a
/// lost connection both report "reconnecting".
pub fn never_connected_to_source(replica: &Instance) -> bool {
    let Some(channel) = valid_channel(replica) else {
        return false;
    };
    let fails_first_connect = channel.io_error.message.contains("rror connecting to ");
    let was_not_started = channel.io == ThreadState::Stopped && channel.io_error.number == 0;
    (fails_first_connect && channel.is_failing_to_connect()) || was_not_started
}

/// The replica lags more than the reasonable lag, beyond its configured delay. Unreported lag is unknown, not lag.
fn is_lagging(replica: &Instance, policy: &Policy) -> bool {
    replica.channel().is_some_and(|channel| {
        channel
            .lag_seconds
            .is_some_and(|lag| lag.saturating_sub(channel.delay_seconds) > policy.reasonable_lag_seconds)
    })
}

fn valid_channel(replica: &Instance) -> Option<&Channel> {
    replica.valid_facts().and_then(InstanceFacts::managed_channel)
}
