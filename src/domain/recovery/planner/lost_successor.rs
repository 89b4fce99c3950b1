//! The successor of a recovery is gone before the cluster followed it: the next successor is chosen from a fresh view.
//!
//! No server replicates from the lost successor yet, so a view of the cluster shows it separate from all others. The
//! choice is made on [`topology_for`], in which it is where the Open entry put it: at the top, with all other servers
//! below it. Everything that holds for dead primaries then holds for it: what it was seen to have counts as lost when
//! no other server has it, replicas that received more are ahead, and another server that takes writes prevents the
//! recovery.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::{evidence, is_downtimed};
use crate::domain::finding::{Code, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{
    BinlogCoordinates, Channel, Instance, InstanceFacts, Positioning, ThreadError, ThreadState,
};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::{Phase, Recovery};
use crate::domain::topology::Topology;

/// The finding about a successor that was committed and could not be opened. It is not there now, or it is back and
/// still takes no writes.
///
/// `recoveries` are those of the cluster; the latest one that opened a server counts. Nothing is found while any
/// server of the cluster takes writes: then there is a primary.
pub fn lost_successor<'a>(
    topology: &Topology,
    policy: &Policy,
    recoveries: impl IntoIterator<Item = &'a Recovery>,
) -> Option<Finding> {
    let last = recoveries
        .into_iter()
        .filter(|recovery| recovery.successor().is_some())
        .max_by_key(|recovery| recovery.id)?;
    let lost = match &last.phase {
        Phase::Ended {
            successor: Some(successor),
            successful: false,
            ..
        } => topology.resolve(successor),
        Phase::Claimed | Phase::Opened { .. } | Phase::Ended { .. } => return None,
    };
    let is_recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key)) == Some(lost);
    let instance = topology.get(lost)?;
    let state = match &instance.failure {
        Some(failure) if failure.proves_life() => return None,
        Some(failure) => format!("is unreachable ({failure})"),
        // A member of Group Replication becomes writable by its group.
        None if instance.valid_facts()?.group_name.is_empty() => String::from("takes no writes"),
        None => return None,
    };
    let is_writable = |instance: &Instance| instance.valid_facts().is_some_and(InstanceFacts::is_writable);
    if !is_recorded || topology.instances.values().any(is_writable) {
        return None;
    }
    let seen = topology_for(Code::SuccessorLost, topology, lost);
    let evidence = evidence(&seen, policy, lost);
    Some(Finding {
        code: Code::SuccessorLost,
        instance: lost.clone(),
        cluster: topology.cluster.clone(),
        description: format!(
            "{lost} was to become the primary in recovery {} and {state} before the cluster follows it",
            last.uid
        ),
        structure: Vec::new(),
        downtimed: is_downtimed(topology, policy, lost),
        // It is about a primary; and that its replicas are in downtime may come from the very recovery that lost it.
        replicas_downtimed: false,
        evidence,
    })
}

/// The view that a finding or plan of this code about `old_primary` is judged on: as it is, but for
/// [`Code::SuccessorLost`], and for a dead co-primary that is not the primary: then the primary stands at the top, as
/// if it had never replicated from that one.
pub fn topology_for<'a>(code: Code, topology: &'a Topology, old_primary: &InstanceKey) -> Cow<'a, Topology> {
    let old_primary = topology.resolve(old_primary);
    if code == Code::SuccessorLost {
        return Cow::Owned(with_lost_successor_on_top(topology, old_primary));
    }
    if RecoveryKind::for_code(code) == Some(RecoveryKind::CoPrimary)
        && let Some(primary) = current_primary(topology).filter(|primary| primary != old_primary)
        && topology.get(&primary).and_then(|instance| topology.source_of(instance)) == Some(old_primary)
    {
        let mut view = topology.clone();
        if let Some(facts) = view
            .instances
            .get_mut(&primary)
            .and_then(|instance| instance.facts.as_mut())
        {
            facts.channels.clear();
        }
        return Cow::Owned(view);
    }
    Cow::Borrowed(topology)
}

fn with_lost_successor_on_top(topology: &Topology, lost: &InstanceKey) -> Topology {
    let mut view = topology.clone();
    // A channel of this cluster as a model, read before that of the lost server is removed.
    let like = view.instances.values().find_map(|instance| {
        let channel = instance.facts.as_ref()?.managed_channel()?;
        channel.positioning.is_gtid().then(|| channel.clone())
    });
    if let Some(facts) = view
        .instances
        .get_mut(lost)
        .and_then(|instance| instance.facts.as_mut())
    {
        facts.channels.clear();
    }
    let tops: BTreeSet<InstanceKey> = view.tops().into_iter().filter(|top| top != lost).collect();
    for top in tops {
        let readable = view
            .instances
            .get_mut(&top)
            .filter(|instance| instance.failure.is_none())
            .and_then(|instance| instance.facts.as_mut());
        match readable {
            // An earlier primary that is held read-only: a server as good as any other, with everything that it wrote.
            Some(facts) if !facts.is_writable() && facts.channels.is_empty() => {
                facts.channels.push(stopped_channel(facts, lost, like.as_ref()));
            }
            // It is no part of what follows; its replicas are.
            Some(_) | None => move_replicas(&mut view, &top, lost),
        }
    }
    // A co-primary that was the primary before, and is gone: no top, since it replicated from the lost one.
    let former: Vec<InstanceKey> = view
        .replicas_of(lost)
        .filter(|replica| !replica.is_valid() && replica.facts.as_ref().is_some_and(InstanceFacts::is_writable))
        .map(|replica| replica.key.clone())
        .collect();
    for key in former {
        move_replicas(&mut view, &key, lost);
    }
    view
}

/// Puts the replicas of one server below another one.
fn move_replicas(view: &mut Topology, from: &InstanceKey, to: &InstanceKey) {
    let replicas: Vec<InstanceKey> = view.replicas_of(from).map(|replica| replica.key.clone()).collect();
    for key in replicas.iter().filter(|key| *key != to) {
        let channels = view
            .instances
            .get_mut(key)
            .and_then(|instance| instance.facts.as_mut())
            .map(|facts| &mut facts.channels);
        // The managed one: the default channel is the first, and so is an only one.
        if let Some(channel) = channels.and_then(|channels| channels.first_mut()) {
            channel.source = to.clone();
        }
    }
}

/// The channel that an earlier primary would have if it followed the lost one: its receiver stopped, with nothing
/// left to apply.
fn stopped_channel(facts: &InstanceFacts, source: &InstanceKey, like: Option<&Channel>) -> Channel {
    let positioning = if facts.version.flavour.is_mariadb() {
        Positioning::SlavePos
    } else {
        Positioning::AutoPosition
    };
    Channel {
        name: String::new(),
        source: source.clone(),
        source_uuid: None,
        source_server_id: 0,
        user: like.map(|channel| channel.user.clone()).unwrap_or_default(),
        io: ThreadState::Stopped,
        sql: ThreadState::Running,
        io_error: ThreadError::default(),
        sql_error: ThreadError::default(),
        read: BinlogCoordinates::default(),
        exec: BinlogCoordinates::default(),
        relay: BinlogCoordinates::default(),
        retrieved: Some(GtidSet::empty(facts.version.flavour)),
        positioning,
        lag_seconds: None,
        delay_seconds: 0,
        heartbeats: like.and_then(|channel| channel.heartbeats),
        filtered: false,
        tls: like.is_some_and(|channel| channel.tls),
        get_source_public_key: like.is_some_and(|channel| channel.get_source_public_key),
    }
}
